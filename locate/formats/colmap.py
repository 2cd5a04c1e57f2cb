"""COLMAP models as ground truth: which camera took which photo, from where.

What is read is what COLMAP reads (`locate.formats.colmap_files`): the binary before the text, and
the poses of frames before those of images. Where what is not read differs, notes say so. Points
are not read. A fault is told with file and line. Format: https://colmap.github.io/format.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pycolmap

from locate.errors import InputError
from locate.formats import colmap_files
from locate.formats.colmap_binary import ModelImage, read_cameras_binary, read_images_binary, usable
from locate.formats.colmap_rigs import read_frame_poses
from locate.formats.text import fault, integer, numbers, pose_matrix, read_lines, rows
from locate.geometry.cameras import SPHERICAL, about_model, colmap_camera
from locate.types import Array
from locate.util.files import atomic_write

Poses = Mapping[str, Array]  # 3 x 4 float64 `cam_from_world` by image name


@dataclass(frozen=True, eq=False)
class PoseModel:
    """Cameras and poses by image name; images of one camera share the object."""

    cameras: Mapping[str, pycolmap.Camera]
    poses: Poses
    notes: tuple[str, ...] = ()  # what lies in the folder as well but says otherwise


def is_model(folder: Path) -> bool:
    """Whether `folder` holds cameras and images as COLMAP writes them, as text or binary."""
    return colmap_files.form_of(folder) is not None


def read_model(folder: Path) -> PoseModel:
    """Cameras and poses of the model in `folder`: of the binary form, if both are there. `InputError`
    names the file and the line, or where a model is if there is none."""
    form = colmap_files.form_of(folder)
    if form is None:
        raise colmap_files.no_model(folder)
    model = _read_form(folder, form)
    other = next(end for end in colmap_files.FORMS if end != form)
    if not colmap_files.has_form(folder, other):
        return model
    try:
        beside = _read_form(folder, other)
        both = ((one.cameras, one.poses) for one in (model, beside))
        differs = colmap_files.difference(*both)
    except InputError as error:
        differs = f"the other cannot be read: {error}"
    if not differs:
        return model
    this, that = colmap_files.FORMS[form], colmap_files.FORMS[other]
    note = (
        f"{folder} holds a {this} and a {that} model that differ ({differs}): the "
        f"{this} one was read, as COLMAP does; delete the files of the one that is out of date"
    )
    return PoseModel(model.cameras, model.poses, (*model.notes, note))


def read_reconstruction(folder: Path) -> pycolmap.Reconstruction:
    """The whole model in `folder`, with its points; `InputError` if a part is missing or damaged."""
    if not any(colmap_files.has_form(folder, end, points=True) for end in colmap_files.FORMS):
        raise InputError(
            f"{folder} is no COLMAP model: it needs cameras, images and points3D, "
            "all three as .bin or as .txt"
        )
    read_model(folder)  # pycolmap never returns from images that were cut off
    try:
        return pycolmap.Reconstruction(folder)
    except Exception as error:  # pycolmap raises whatever its C++ does
        text = " ".join(str(error).split())
        raise InputError(f"{folder} is a damaged COLMAP model ({text}); export it again") from error


def write_model(
    folder: Path, poses: Poses, cameras: Mapping[str, pycolmap.Camera], comments: str = ""
) -> None:
    """Write a COLMAP text model without points into `folder`, made if need be, of poses (3 x 4
    `cam_from_world`) and cameras by image name, with lines of comments before the images. Each file
    takes its place when all are written."""
    model = pycolmap.Reconstruction()
    add_views(model, [(name, cameras[name], poses[name], None) for name in sorted(poses)])
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=folder) as made, ExitStack() as written:
        model.write_text(made)
        for file in sorted(Path(made).iterdir()):
            first = comments if file.name == "images.txt" else ""
            stream = written.enter_context(atomic_write(folder / file.name))
            stream.write(first.encode("utf-8") + file.read_bytes())


def add_views(
    model: pycolmap.Reconstruction, views: list[tuple[str, pycolmap.Camera, Array, Array | None]]
) -> None:
    """Add registered images with ids 1, 2, ... in the order given: (name, camera, 3 x 4
    `cam_from_world`, N x 2 keypoints in COLMAP's pixels or None). Equal cameras become one. Since
    version 4 an image of COLMAP belongs to a frame and its camera to a rig; here each camera is a
    rig of its own and each image a frame of its own."""
    known: dict[tuple[object, ...], int] = {}
    for image_id, (name, camera, pose, keypoints) in enumerate(views, 1):
        key = (camera.model, camera.width, camera.height, *camera.params)
        if key not in known:
            known[key] = len(known) + 1
            own = colmap_camera(camera)
            own.camera_id = known[key]
            model.add_camera_with_trivial_rig(own)
        points = np.zeros((0, 2)) if keypoints is None else np.asarray(keypoints, np.float64)
        image = pycolmap.Image(name=name, keypoints=points, camera_id=known[key], image_id=image_id)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(np.asarray(pose)[:3]))


def read_images_text(path: Path) -> dict[str, ModelImage]:
    """The images of COLMAP's images.txt, by name; `InputError` names the file and the line."""
    images: dict[str, ModelImage] = {}
    lines = enumerate(read_lines(path), 1)
    for number, line in lines:
        if not line or line.startswith("#"):
            continue
        fields = line.split(maxsplit=9)
        if len(fields) < 10:
            raise fault(path, number, "expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME", line)
        name = fields[9]
        if name in images:
            raise fault(path, number, f"{name} stands here a second time", line)
        pose = pose_matrix(path, number, numbers(path, number, fields[1:8]))
        image_id, camera_id = (integer(path, number, fields[k]) for k in (0, 8))
        images[name] = ModelImage(image_id, camera_id, pose)
        _check_points(path, lines)
    return images


def _read_form(folder: Path, end: str) -> PoseModel:
    """The model in one of `FORMS`."""
    of_cameras, of_images = _READERS[end]
    cameras, images = of_cameras(folder / f"cameras.{end}"), of_images(folder / f"images.{end}")
    missing = next((name for name in images if images[name].camera_id not in cameras), None)
    if missing is not None:
        raise InputError(
            f"{folder}: {missing} was taken by camera {images[missing].camera_id}, which the model's "
            "cameras do not list; add it there"
        )
    poses = {name: image.pose for name, image in images.items()}
    by_frame = read_frame_poses(folder, end) or {}
    framed = [name for name, image in images.items() if image.image_id in by_frame]
    notes: tuple[str, ...] = ()
    if framed:
        turned = {name: by_frame[images[name].image_id] for name in framed}
        differs = colmap_files.pose_difference(turned, poses, framed)
        if differs:
            note = (
                f"{folder}: frames.{end} and images.{end} differ ({differs}): frames.{end} was read, "
                f"as COLMAP does; if it is out of date, delete frames.{end} and rigs.{end}"
            )
            notes = (note,)
            poses |= turned
    return PoseModel({name: cameras[images[name].camera_id] for name in images}, poses, notes)


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
        expected = "expected the second line of an image: X Y POINT3D_ID triples or empty"
        raise fault(path, number, expected, line)


def read_cameras_text(path: Path) -> dict[int, pycolmap.Camera]:
    """The cameras of COLMAP's cameras.txt by their ids; `InputError` names the file and the line."""
    cameras: dict[int, pycolmap.Camera] = {}
    for number, line in rows(path):
        fields = line.split()
        if len(fields) < 5:
            raise fault(path, number, "expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS", line)
        camera_id = integer(path, number, fields[0])
        cameras[camera_id] = make_camera(path, number, fields[1:])
    return cameras


def make_camera(path: Path, number: int, fields: list[str]) -> pycolmap.Camera:
    """A camera from MODEL WIDTH HEIGHT PARAMS..."""
    width, height = (integer(path, number, field) for field in fields[1:3])
    params = numbers(path, number, fields[3:])
    try:
        camera = pycolmap.Camera(model=fields[0], width=width, height=height, params=params)
        valid = usable(camera)
    except (ValueError, RuntimeError, TypeError, KeyError):
        valid = False
    if valid and fields[0] == SPHERICAL:
        valid = bool(min(params) > 0)
    if not valid:
        expected = (
            "expected a camera model of COLMAP, its size and its parameters, sizes and focal lengths "
            f"above zero ({about_model(fields[0])})"
        )
        raise fault(path, number, expected, " ".join(fields))
    return camera


_READERS = {
    "bin": (read_cameras_binary, read_images_binary),
    "txt": (read_cameras_text, read_images_text),
}
