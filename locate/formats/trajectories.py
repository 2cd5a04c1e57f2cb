"""Files of camera poses: what localization systems hand in and what their benchmarks expect.

    format   one line                             direction        used by
    hloc     name qw qx qy qz tx ty tz            cam_from_world   hloc, Aachen, RobotCar, CMU, InLoc
    colmap   a model folder, or its images.txt    cam_from_world   COLMAP
    tum      timestamp tx ty tz qx qy qz qw       world_from_cam   TUM RGB-D
    kitti    r11 r12 r13 tx r21 ... r33 tz        world_from_cam   KITTI odometry

In memory a pose is always a 3 x 4 float64 `cam_from_world`, x_cam = R x_world + t.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pycolmap

from locate.errors import InputError, UnknownNameError
from locate.formats.colmap import Poses, is_model, read_images_text, read_model, write_model
from locate.formats.text import fault, numbers, pose_matrix, rows
from locate.geometry.rigid import invert
from locate.images.reading import is_photo_name
from locate.types import Array
from locate.util.files import atomic_write

Direction = Literal["cam_from_world", "world_from_cam"]

log = logging.getLogger("locate")

_TIMESTAMP = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
_ORTHOGONALITY = 1e-2  # of a rotation matrix that was written with few digits


@dataclass(frozen=True)
class PoseFormat:
    """What the numbers of a file map; the poses of one by name, as they stand there (3 x 4); one
    pose as text (None for a format that is more than lines)."""

    direction: Direction
    read: Callable[[Path], dict[str, Array]]
    line: Callable[[str, Array], str] | None


def read_poses(path: Path, form: str = "auto", *, direction: Direction | None = None) -> Poses:
    """Read a file of poses, or the folder of a COLMAP model: 3 x 4 float64 `cam_from_world` by name,
    in the order of the file; KITTI's are named by their index in six digits, as its images are.
    `InputError` names the file and the line.

    Args:
        form: one of `FORMATS`, or "auto": "colmap" for a folder or a file images.txt, else "hloc". The
            columns of "hloc" and "tum" cannot be told apart by their number, so "tum" is never guessed.
        direction: what the file's numbers map, where that is not the format's own.
    """
    kind = _format(guess_format(path) if form == "auto" else form)
    poses = kind.read(path)
    if (direction or kind.direction) == "world_from_cam":
        return {name: invert(pose) for name, pose in poses.items()}
    return poses


def write_poses(
    path: Path,
    poses: Poses,
    form: str = "hloc",
    *,
    cameras: Mapping[str, pycolmap.Camera] | None = None,
    header: Sequence[str] = (),
) -> None:
    """Write a file of poses, whole or not at all; for "colmap" the folder of the model, whose files
    take their places one after the other when all are written.

    Args:
        poses: 3 x 4 or 4 x 4 `cam_from_world` by name; turned into the direction of the format. For
            "tum" a name is a timestamp, or a photo named by one; "kitti" takes the order and leaves
            the names out.
        cameras: by name; "colmap" needs them.
        header: lines that go first, as comments; those of "colmap" into its images.txt.
    """
    kind = _format(form)
    comments = "".join(f"# {line}\n" for line in header)
    if kind.line is None:
        if cameras is None or any(name not in cameras for name in poses):
            raise InputError("a COLMAP model needs the camera of every image; give `cameras`")
        write_model(path, poses, cameras, comments)
        return
    turn = invert if kind.direction == "world_from_cam" else np.asarray
    text = "".join(kind.line(name, turn(pose)) + "\n" for name, pose in poses.items())
    with atomic_write(path) as stream:
        stream.write((comments + text).encode("utf-8"))


def guess_format(path: Path) -> str:
    """ "colmap" for a folder or a file images.txt, else "hloc"."""
    return "colmap" if path.is_dir() or path.name == "images.txt" else "hloc"


def pair_names(names: list[str], truth: list[str]) -> dict[str, str]:
    """Which name of the truth each name of a result means: the same name; else the only one of the same
    file name, as benchmarks leave folders out; else the only one without the ending of a photo, as
    formats of timestamps do. Those that mean none are left out.
    """
    known = set(truth)
    pairs = {name: name for name in names if name in known}
    for shorten in (lambda name: PurePosixPath(name).name, bare_name):
        short: dict[str, list[str]] = {}
        for name in truth:
            short.setdefault(shorten(name), []).append(name)
        for name in names:
            found = short.get(shorten(name), [])
            if name not in pairs and len(found) == 1:
                pairs[name] = found[0]
    meant: dict[str, str] = {}
    for name, full in pairs.items():
        if full in meant:
            raise InputError(f"{meant[full]} and {name} both name {full}; keep one of them")
        meant[full] = name
    return pairs


def bare_name(name: str) -> str:
    """A name without folders and the ending of a photo, as formats of timestamps have it."""
    path = PurePosixPath(name)
    return path.stem if is_photo_name(path.name) else path.name


def _format(name: str) -> PoseFormat:
    if name not in FORMATS:
        raise UnknownNameError("pose format", name, FORMATS)
    return FORMATS[name]


def _by_line(
    parse: Callable[[Path, int, str], tuple[str, Array]],
) -> Callable[..., dict[str, Array]]:
    """A reader of poses by name, one a line; those without a name are numbered."""

    def read(path: Path) -> dict[str, Array]:
        poses: dict[str, Array] = {}
        for number, line in rows(path):
            name, pose = parse(path, number, line)
            name = name or f"{len(poses):06d}"
            if name in poses:
                raise fault(path, number, "expected each name once", name)
            poses[name] = pose
        return poses

    return read


def _parse_hloc(path: Path, number: int, line: str) -> tuple[str, Array]:
    name, *fields = line.rsplit(maxsplit=7)
    if len(fields) != 7:
        raise fault(path, number, "expected name qw qx qy qz tx ty tz", line)
    values = numbers(path, number, fields)
    if abs(np.linalg.norm(values[:4]) - 1) > 0.1 and abs(np.linalg.norm(values[3:]) - 1) < 0.01:
        raise fault(path, number, "this looks like TUM's columns; name the format 'tum'", line)
    return name, pose_matrix(path, number, values)


def _parse_tum(path: Path, number: int, line: str) -> tuple[str, Array]:
    name, *fields = line.split()
    if len(fields) != 7:
        raise fault(path, number, "expected timestamp tx ty tz qx qy qz qw", line)
    numbers(path, number, [name])
    x, y, z, *quaternion, w = numbers(path, number, fields)
    return name, pose_matrix(path, number, [w, *quaternion, x, y, z])


def _parse_kitti(path: Path, number: int, line: str) -> tuple[str, Array]:
    fields = line.split()
    if len(fields) != 12:
        raise fault(path, number, "expected the 12 numbers of a 3 x 4 matrix", line)
    pose = np.reshape(numbers(path, number, fields), (3, 4))
    left, _, right = np.linalg.svd(pose[:, :3])
    rotation = left @ right
    if np.abs(rotation - pose[:, :3]).max() > _ORTHOGONALITY or np.linalg.det(rotation) < 0:
        raise fault(path, number, "expected a rotation in the left 3 x 3", line)
    return "", np.c_[rotation, pose[:, 3]]


def _read_colmap(path: Path) -> dict[str, Array]:
    if path.is_dir() and is_model(path):
        model = read_model(path)
        for note in model.notes:
            log.warning("%s", note)
        return dict(model.poses)
    images = read_images_text(path / "images.txt" if path.is_dir() else path)
    return {name: image.pose for name, image in images.items()}


def _hloc_line(name: str, pose: Array) -> str:
    x, y, z, w = _quaternion(pose)
    return f"{name} {_texts((w, x, y, z, *pose[:3, 3]))}"


def _tum_line(name: str, pose: Array) -> str:
    timestamp = bare_name(name)
    if not _TIMESTAMP.fullmatch(timestamp):  # float() would take 2024_06_01, nan and inf
        raise InputError(
            f"TUM's poses are named by timestamps in seconds, not {name!r}; number them instead"
        )
    return f"{timestamp} {_texts((*pose[:3, 3], *_quaternion(pose)))}"


def _kitti_line(_: str, pose: Array) -> str:
    return _texts(pose[:3].ravel())


def _quaternion(pose: Array) -> tuple[float, ...]:
    """(x, y, z, w)"""
    return tuple(pycolmap.Rigid3d(np.ascontiguousarray(pose[:3], np.float64)).rotation.quat)


def _texts(values: tuple[float, ...] | Array) -> str:
    return " ".join(repr(float(v)) for v in values)  # the shortest that read back the same


FORMATS: Mapping[str, PoseFormat] = {
    "hloc": PoseFormat("cam_from_world", _by_line(_parse_hloc), _hloc_line),
    "colmap": PoseFormat("cam_from_world", _read_colmap, None),
    "tum": PoseFormat("world_from_cam", _by_line(_parse_tum), _tum_line),
    "kitti": PoseFormat("world_from_cam", _by_line(_parse_kitti), _kitti_line),
}
