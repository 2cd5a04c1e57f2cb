"""Rigs: cameras that are fixed to each other, as COLMAP's rig_config.json has them, and their frames.

The file is a list of rigs (https://colmap.github.io/rigs.html):

    [{"cameras": [
        {"image_prefix": "left/", "ref_sensor": true},
        {"image_prefix": "right/",
         "cam_from_rig_rotation": [w, x, y, z], "cam_from_rig_translation": [x, y, z],
         "camera_model_name": "PINHOLE", "camera_params": [1380, 1382, 760, 503]}]}]

The rig's axes are those of the camera with "ref_sensor". Photos whose names are the same after their
image_prefix were taken at the same instant: a frame.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from locate.errors import InputError
from locate.formats.colmap import make_camera
from locate.geometry.cameras import SPHERICAL, about_model
from locate.images.folder import scan
from locate.localization.query_camera import AnyCamera
from locate.types import Array

_UNIT = 1e-2  # how far from 1 the length of a quaternion that was rounded may be
_REFERENCE = np.eye(4)[:3]


@dataclass(frozen=True, eq=False)
class RigCamera:
    """A camera of a rig and its pose in it, x_cam = R x_rig + t."""

    prefix: str  # what the names of its photos begin with
    cam_from_rig: Array  # 3 x 4 float64 [R | t], t in units of the map
    camera: AnyCamera = None  # see `choose_camera`; None is looked for in EXIF and in the map

    def __post_init__(self) -> None:
        pose = np.asarray(self.cam_from_rig, np.float64)
        if pose.shape != (3, 4) or not np.isfinite(pose).all():
            raise InputError(f"{self.prefix!r}: cam_from_rig must be 3 x 4 numbers, got {pose}")
        rotation = pose[:, :3]
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-6 or np.linalg.det(rotation) < 0:
            raise InputError(f"{self.prefix!r}: cam_from_rig has no rotation, but {rotation}")
        object.__setattr__(self, "cam_from_rig", pose)


@dataclass(frozen=True, eq=False)
class Rig:
    """Cameras that are fixed to each other."""

    cameras: tuple[RigCamera, ...]

    def __post_init__(self) -> None:
        if not self.cameras:
            raise InputError("a rig needs at least one camera")
        prefixes = [camera.prefix for camera in self.cameras]
        if len(set(prefixes)) < len(prefixes):
            raise InputError(f"two cameras of a rig have the same image_prefix: {prefixes}")

    def scaled(self, factor: float) -> Rig:
        """The rig in other units, `factor` of them for one of its own: 1 / scale for a rig in metres
        and a map whose georeference has `scale` metres per unit."""
        if not 0 < factor < np.inf:
            raise InputError(f"the scale of a rig must be a positive number, got {factor}")
        units = np.array([1, 1, 1, factor])
        return Rig(tuple(replace(c, cam_from_rig=c.cam_from_rig * units) for c in self.cameras))


@dataclass(frozen=True, eq=False)
class Frame:
    """Photos of one instant: what their names have in common, the rig that took them, and the photos
    in the order of its cameras, None where one took none."""

    name: str
    rig: Rig
    photos: tuple[Path | None, ...]


def read_rigs(path: Path) -> list[Rig]:
    """The rigs of a rig_config.json; `InputError` names the rig, the camera and what is wrong."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the name") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no JSON ({error}); give COLMAP's rig_config.json") from error
    if not isinstance(values, list) or not values:
        raise InputError(f'{path}: expected a list of rigs, [{{"cameras": [...]}}, ...]')
    return [_rig(f"{path}, rig {number}", value) for number, value in enumerate(values, 1)]


def find_frames(folder: Path, rigs: Sequence[Rig]) -> list[Frame]:
    """The photos below `folder`, by what is left of their names (with forward slashes) after the
    longest image_prefix that fits, rigs in their order, frames in the order of their names;
    `InputError` if no photo belongs to a rig."""
    prefixes = [(c.prefix, r, k) for r, rig in enumerate(rigs) for k, c in enumerate(rig.cameras)]
    prefixes.sort(key=lambda item: -len(item[0]))
    taken: dict[tuple[int, str], dict[int, Path]] = {}
    for found in scan(folder):
        fitting = ((p, r, c) for p, r, c in prefixes if found.path.startswith(p))
        prefix, rig, camera = next(fitting, ("", -1, -1))
        if rig >= 0:
            taken.setdefault((rig, found.path[len(prefix) :]), {})[camera] = found.absolute
    if not taken:
        known = ", ".join(sorted(repr(prefix) for prefix, _, _ in prefixes))
        raise InputError(
            f"no photo below {folder} has a name that begins with an image_prefix of the rigs "
            f"({known}); name the folder that these are relative to"
        )
    return [
        Frame(name, rigs[r], tuple(photos.get(c) for c in range(len(rigs[r].cameras))))
        for (r, name), photos in sorted(taken.items())
    ]


def _rig(where: str, value: Any) -> Rig:
    cameras = value.get("cameras") if isinstance(value, Mapping) else None
    if not isinstance(cameras, list) or not all(isinstance(c, Mapping) for c in cameras):
        raise InputError(f'{where}: expected {{"cameras": [{{...}}, ...]}}')
    references = sum(camera.get("ref_sensor") is True for camera in cameras)
    if references != 1:
        raise InputError(
            f'{where} has {references} cameras with "ref_sensor": true; give it to the one whose '
            "axes are the rig's"
        )
    try:
        return Rig(tuple(_camera(where, camera) for camera in cameras))
    except InputError as error:
        raise error if str(error).startswith(where) else InputError(f"{where}: {error}") from None


def _camera(where: str, value: Mapping[str, Any]) -> RigCamera:
    prefix = value.get("image_prefix")
    if not isinstance(prefix, str):
        raise InputError(f"{where}: a camera has no image_prefix; its photos' names begin with it")
    where = f"{where}, camera {prefix!r}"
    rotation = _numbers(where, value, "cam_from_rig_rotation", 4)
    translation = _numbers(where, value, "cam_from_rig_translation", 3)
    pose = _REFERENCE
    if value.get("ref_sensor") is True:
        if rotation is not None or translation is not None:
            raise InputError(
                f"{where} is the ref_sensor, whose pose in the rig is none; remove cam_from_rig_..."
            )
    elif rotation is None or translation is None:
        raise InputError(
            f"{where} lacks its pose in the rig; give cam_from_rig_rotation (w, x, y, z) and "
            "cam_from_rig_translation in units of the map"
        )
    else:
        length = float(np.linalg.norm(rotation))
        if abs(length - 1) > _UNIT:
            raise InputError(
                f"{where}: cam_from_rig_rotation {rotation.tolist()} has length {length:.4g}, not "
                "1; it is a quaternion (w, x, y, z)"
            )
        pose = np.c_[_matrix(rotation / length), translation]
    return RigCamera(prefix, pose, _lens(where, value))


def _lens(where: str, value: Mapping[str, Any]) -> str | None:
    """The camera as `choose_camera` takes it: its size is that of the photo."""
    model, params = value.get("camera_model_name"), value.get("camera_params")
    if model is None and params is None:
        return None
    if model == SPHERICAL:
        raise InputError(
            f"{where}: a rig cannot hold 360 degree photos ({model}); localize them alone, without --rig"
        )
    try:
        fields = [str(model), *(repr(float(number)) for number in params or ())]
        make_camera(Path(where), 1, [fields[0], "1", "1", *fields[1:]])
    except (InputError, TypeError, ValueError):
        raise InputError(
            f"{where}: {model} {params} is no camera model of COLMAP with its parameters; correct "
            f"camera_model_name and camera_params, or leave out both. {about_model(str(model))}"
        ) from None
    return ",".join(fields)


def _numbers(where: str, value: Mapping[str, Any], key: str, count: int) -> Array | None:
    if key not in value:
        return None
    try:
        numbers = np.array(value[key], np.float64)
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise InputError(f"{where}: {key} must be {count} numbers, got {value[key]!r}")
    return numbers


def _matrix(wxyz: Array) -> Array:
    """3 x 3 rotation of a unit quaternion."""
    w, v = wxyz[0], wxyz[1:]
    cross = np.cross(np.eye(3), v)  # rows e_i x v: the matrix [v]x
    return np.asarray((w * w - v @ v) * np.eye(3) + 2 * np.outer(v, v) + 2 * w * cross)
