"""COLMAP models as ground truth: which camera took which photo, from where.

Points are not read. A fault is told with file and line. Format: https://colmap.github.io/format.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from locate.errors import InputError
from locate.types import Array
from pipelines.camera_models import about_model, is_spherical
from pipelines.pose_binary import read_cameras_binary, read_images_binary

_QUATERNION_LENGTH = 1e-2  # how far from 1 the length of one that was rounded may be


@dataclass(frozen=True, eq=False)
class PoseModel:
    """Attributes:
    cameras: `pycolmap.Camera` by image name; images of one camera share the object.
    poses: 3 x 4 float64 `cam_from_world` by image name.
    """

    cameras: Mapping[str, pycolmap.Camera]
    poses: Mapping[str, Array]


def is_model(folder: Path) -> bool:
    """Whether `folder` holds cameras and images as COLMAP writes them, as text or binary."""
    return any(
        (folder / f"cameras.{end}").is_file() and (folder / f"images.{end}").is_file()
        for end in ("bin", "txt")
    )


def read_model(folder: Path) -> PoseModel:
    """Cameras and poses of the model in `folder`. Where both forms are there, the text is read.

    Raises:
        InputError: names the file and the line.
    """
    if (folder / "cameras.txt").is_file() and (folder / "images.txt").is_file():
        cameras = read_cameras_text(folder / "cameras.txt")
        return _join(folder, cameras, *read_images_text(folder / "images.txt"))
    if not is_model(folder):
        raise InputError(
            f"{folder}: no COLMAP model; cameras and images (.txt or .bin) are missing"
        )
    return _read_binary(folder)


def write_model(
    folder: Path, poses: Mapping[str, Array], cameras: Mapping[str, pycolmap.Camera]
) -> None:
    """Write a COLMAP text model without points into `folder`, made if need be.

    Args:
        poses: 3 x 4 `cam_from_world` by image name.
        cameras: the camera of each image, by its name.
    """
    model = pycolmap.Reconstruction()
    add_views(model, [(name, cameras[name], poses[name], None) for name in sorted(poses)])
    folder.mkdir(parents=True, exist_ok=True)
    model.write_text(folder)


def add_views(
    model: pycolmap.Reconstruction,
    views: list[tuple[str, pycolmap.Camera, Array, Array | None]],
) -> None:
    """Add registered images with ids 1, 2, ... in the order given; equal cameras become one.

    Since version 4 an image of COLMAP belongs to a frame and its camera to a rig; here each camera is a
    rig of its own and each image a frame of its own.

    Args:
        views: (name, camera, 3 x 4 `cam_from_world`, N x 2 keypoints in COLMAP's pixels or None).
    """
    known: dict[tuple[object, ...], int] = {}
    for image_id, (name, camera, pose, keypoints) in enumerate(views, 1):
        key = (camera.model, camera.width, camera.height, *camera.params)
        if key not in known:
            known[key] = len(known) + 1
            model.add_camera_with_trivial_rig(
                pycolmap.Camera(
                    camera_id=known[key],
                    model=camera.model,
                    width=camera.width,
                    height=camera.height,
                    params=camera.params,
                )
            )
        points = np.zeros((0, 2)) if keypoints is None else np.asarray(keypoints, np.float64)
        image = pycolmap.Image(name=name, keypoints=points, camera_id=known[key], image_id=image_id)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(np.asarray(pose)[:3]))


def read_images_text(path: Path) -> tuple[dict[str, Array], dict[str, int]]:
    """The poses (3 x 4 `cam_from_world`) and camera ids of COLMAP's images.txt, by image name.

    Raises:
        InputError: names the file and the line.
    """
    poses: dict[str, Array] = {}
    camera_ids: dict[str, int] = {}
    lines = enumerate(read_lines(path), 1)
    for number, line in lines:
        if not line or line.startswith("#"):
            continue
        fields = line.split(maxsplit=9)
        if len(fields) < 10:
            raise fault(path, number, "expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", line)
        name = fields[9]
        if name in poses:
            raise fault(path, number, f"{name} stands here a second time", line)
        values = numbers(path, number, fields[1:8])
        poses[name] = pose_matrix(path, number, values[:4], values[4:])
        camera_ids[name] = _integer(path, number, fields[8])
        _check_points(path, lines)
    return poses, camera_ids


def pose_matrix(path: Path, number: int, wxyz: list[float], translation: list[float]) -> Array:
    """A rotation (w, x, y, z) and a translation -> 3 x 4 [R | t]."""
    length = float(np.linalg.norm(wxyz))
    if abs(length - 1) > _QUATERNION_LENGTH:
        raise InputError(
            f"{path}, {_entry(path)} {number}: the rotation {wxyz} has length {length:.4g}, "
            "not 1; check the order of the columns"
        )
    w, x, y, z = (value / length for value in wxyz)
    rotation = pycolmap.Rotation3d(np.array([x, y, z, w])).matrix()
    return np.asarray(np.c_[rotation, np.array(translation)])


def _entry(path: Path) -> str:
    return "image" if path.suffix == ".bin" else "line"


def read_lines(path: Path) -> list[str]:
    """The stripped lines of a text file; `InputError` if it cannot be read."""
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines()]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the name") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text; check the format") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


def numbers(path: Path, number: int, fields: list[str]) -> list[float]:
    """Finite numbers of a line."""
    try:
        values = [float(field) for field in fields]
    except ValueError:
        values = [np.nan]
    if not np.isfinite(values).all():
        raise fault(path, number, "expected finite numbers", " ".join(fields))
    return values


def fault(path: Path, number: int, expected: str, line: str) -> InputError:
    """The error that a line of a file is wrong."""
    return InputError(f"{path}, line {number}: {expected}, got {line[:80]!r}")


def _join(
    folder: Path,
    cameras: Mapping[int, pycolmap.Camera],
    poses: Mapping[str, Array],
    camera_ids: Mapping[str, int],
) -> PoseModel:
    missing = next((name for name in poses if camera_ids[name] not in cameras), None)
    if missing is not None:
        raise InputError(
            f"{folder}: {missing} was taken by camera {camera_ids[missing]}, which the model's "
            "cameras do not list; add it there"
        )
    return PoseModel({name: cameras[camera_ids[name]] for name in poses}, poses)


def _check_points(path: Path, lines: Iterator[tuple[int, str]]) -> None:
    """Every image is followed by a line of points, maybe empty. Where a writer left it out, every second
    image would be taken for one."""
    number, line = next(lines, (0, ""))
    if not line:
        return
    fields = line.split()
    try:
        float(fields[-1])
        whole = len(fields) % 3 == 0
    except ValueError:
        whole = False
    if not whole:
        raise fault(path, number, "expected X Y POINT3D_ID triples or an empty line", line)


def read_cameras_text(path: Path) -> dict[int, pycolmap.Camera]:
    """The cameras of COLMAP's cameras.txt by their ids.

    Raises:
        InputError: names the file and the line.
    """
    cameras: dict[int, pycolmap.Camera] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line or line.startswith("#"):
            continue
        fields = line.split()
        if len(fields) < 5:
            raise fault(path, number, "expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS", line)
        camera_id = _integer(path, number, fields[0])
        cameras[camera_id] = make_camera(path, number, fields[1:])
    return cameras


def copy_camera(camera: pycolmap.Camera) -> pycolmap.Camera:
    """The same camera, not bound to a model."""
    return pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=camera.params
    )


def make_camera(path: Path, number: int, fields: list[str]) -> pycolmap.Camera:
    """A camera from MODEL WIDTH HEIGHT PARAMS..."""
    width, height = (_integer(path, number, field) for field in fields[1:3])
    params = numbers(path, number, fields[3:])
    try:
        camera = pycolmap.Camera(model=fields[0], width=width, height=height, params=params)
        valid = camera.verify_params()
    except (ValueError, RuntimeError, TypeError, KeyError):
        valid = False
    if valid and is_spherical(camera):
        valid = bool(min(params) > 0)
    elif valid:
        valid = camera.mean_focal_length() > 0
    if not valid or min(width, height) <= 0:
        expected = (
            "expected a camera model of COLMAP, its size and its parameters "
            f"({about_model(fields[0])})"
        )
        raise fault(path, number, expected, " ".join(fields))
    return camera


def _integer(path: Path, number: int, field: str) -> int:
    try:
        return int(field)
    except ValueError:
        raise fault(path, number, "expected a whole number", field) from None


def _read_binary(folder: Path) -> PoseModel:
    path = folder / "images.bin"
    cameras = read_cameras_binary(folder / "cameras.bin")
    poses, camera_ids = {}, {}
    for number, (name, camera_id, wxyz, translation) in enumerate(read_images_binary(path), 1):
        if not np.isfinite(wxyz + translation).all():
            raise InputError(f"{path}, image {number}: the pose of {name} is not finite")
        poses[name] = pose_matrix(path, number, wxyz, translation)
        camera_ids[name] = camera_id
    return _join(folder, cameras, poses, camera_ids)
