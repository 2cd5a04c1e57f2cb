"""Poses by COLMAP's rigs and frames: since version 3.12 what COLMAP goes by, where a model has them.

A frame is one instant of a rig of sensors: cam_from_world = sensor_from_rig * rig_from_world. The poses
in the file of images are then copies, which COLMAP does not read.
Format: https://colmap.github.io/format.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from locate.formats.colmap_binary import Reader
from locate.formats.text import fault, integer, numbers, pose_matrix, rows
from locate.geometry.rigid import compose
from locate.types import Array

_CAMERA = "CAMERA"  # the other sensors, IMUs, take no photos
_CAMERA_TYPE = 0  # the same in binary
_REFERENCE = np.eye(4)[:3]

Sensors = Mapping[int, Array]  # 3 x 4 `sensor_from_rig` of each camera of a rig, by its id
# 3 x 4 `rig_from_world`, the rig's id, (sensor, image) of each camera
Frame = tuple[Array, int, list[tuple[int, int]]]


def read_frame_poses(folder: Path, end: str) -> dict[int, Array] | None:
    """3 x 4 `cam_from_world` by image id, of a model whose files end with `end` (bin, txt); None if
    it has no rigs or no frames. `InputError` names the file and, in text, the line."""
    rigs_file, frames_file = folder / f"rigs.{end}", folder / f"frames.{end}"
    if not (rigs_file.is_file() and frames_file.is_file()):
        return None
    binary = end == "bin"
    rigs = dict((_rigs_binary if binary else _rigs_text)(rigs_file))
    poses: dict[int, Array] = {}
    for pose, rig, images in (_frames_binary if binary else _frames_text)(frames_file):
        sensors = rigs.get(rig, {})
        poses |= {image: compose(sensors[s], pose) for s, image in images if s in sensors}
    return poses


def _rigs_text(path: Path) -> Iterator[tuple[int, Sensors]]:
    for number, line in rows(path):
        fields = line.split()
        if len(fields) < 4:
            raise fault(path, number, "expected RIG_ID NUM_SENSORS REF_SENSOR_TYPE ID", line)
        sensors: dict[int, Array] = {}
        if fields[2] == _CAMERA:
            sensors[integer(path, number, fields[3])] = _REFERENCE
        rest = fields[4:]
        while rest:
            if len(rest) < 3 or (rest[2] != "0" and len(rest) < 10):
                raise fault(path, number, "expected SENSOR_TYPE SENSOR_ID HAS_POSE [POSE]", line)
            kind, sensor, has_pose, *rest = rest
            if has_pose != "0":
                values, rest = numbers(path, number, rest[:7]), rest[7:]
                if kind == _CAMERA:
                    sensors[integer(path, number, sensor)] = pose_matrix(path, number, values)
        yield integer(path, number, fields[0]), sensors


def _frames_text(path: Path) -> Iterator[Frame]:
    for number, line in rows(path):
        fields = line.split()
        if len(fields) < 10 or len(fields) != 10 + 3 * integer(path, number, fields[9]):
            expected = "expected FRAME_ID RIG_ID QW QX QY QZ TX TY TZ NUM_DATA_IDS DATA_IDS[]"
            raise fault(path, number, expected, line)
        pose = pose_matrix(path, number, numbers(path, number, fields[2:9]))
        rig, *ids = (integer(path, number, f) for f in (fields[1], *fields[11::3], *fields[12::3]))
        each = zip(fields[10::3], ids[: len(ids) // 2], ids[len(ids) // 2 :], strict=True)
        yield pose, rig, [(sensor, image) for kind, sensor, image in each if kind == _CAMERA]


def _rigs_binary(path: Path) -> Iterator[tuple[int, Sensors]]:
    reader = Reader(path)
    for number in reader.count():
        rig_id, count = reader.integers("II")
        sensors: dict[int, Array] = {}
        for k in range(count):
            kind, sensor = reader.integers("iI")
            pose: Array | None = _REFERENCE
            if k:  # the first is the one of reference
                pose = reader.pose(number) if reader.numbers("B")[0] else None
            if kind == _CAMERA_TYPE and pose is not None:
                sensors[sensor] = pose
        yield rig_id, sensors


def _frames_binary(path: Path) -> Iterator[Frame]:
    reader = Reader(path)
    for number in reader.count():
        _, rig = reader.integers("II")
        pose = reader.pose(number)
        ids = [reader.integers("iIQ") for _ in range(reader.integers("I")[0])]
        yield pose, rig, [(sensor, image) for kind, sensor, image in ids if kind == _CAMERA_TYPE]
