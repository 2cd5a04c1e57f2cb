"""Poses by COLMAP's rigs and frames: since version 3.12 what COLMAP goes by, where a model has them.

A frame is one instant of a rig of sensors: cam_from_world = sensor_from_rig * rig_from_world. The poses
in the file of images are then copies, which COLMAP does not read.
Format: https://colmap.github.io/format.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from locate.formats.colmap_binary import Reader
from locate.formats.text import fault, integer, numbers, pose_matrix, read_lines
from locate.types import Array

_CAMERA = "CAMERA"  # the other sensors, IMUs, take no photos
_CAMERA_TYPE = 0  # the same in binary

Sensors = Mapping[int, Array]  # 3 x 4 `sensor_from_rig` of each camera of a rig, by its id


def read_frame_poses(folder: Path, end: str) -> dict[int, Array] | None:
    """3 x 4 `cam_from_world` by image id, of a model whose files end with `end` (bin, txt); None if it
    has no rigs or no frames.

    Raises:
        InputError: names the file and, in text, the line.
    """
    rigs, frames = folder / f"rigs.{end}", folder / f"frames.{end}"
    if not (rigs.is_file() and frames.is_file()):
        return None
    if end == "bin":
        return _frames_binary(frames, _rigs_binary(rigs))
    return _frames_text(frames, _rigs_text(rigs))


def _rigs_text(path: Path) -> dict[int, Sensors]:
    rigs: dict[int, Sensors] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line or line.startswith("#"):
            continue
        fields = line.split()
        if len(fields) < 4:
            raise fault(path, number, "expected RIG_ID NUM_SENSORS REF_SENSOR_TYPE ID", line)
        sensors: dict[int, Array] = {}
        if fields[2] == _CAMERA:
            sensors[integer(path, number, fields[3])] = np.eye(4)[:3]
        rest = fields[4:]
        while rest:
            if len(rest) < 3 or (rest[2] != "0" and len(rest) < 10):
                raise fault(path, number, "expected SENSOR_TYPE SENSOR_ID HAS_POSE [POSE]", line)
            kind, sensor, has_pose, *rest = rest
            if has_pose != "0":
                values = numbers(path, number, rest[:7])
                rest = rest[7:]
                if kind == _CAMERA:
                    pose = pose_matrix(path, number, values[:4], values[4:])
                    sensors[integer(path, number, sensor)] = pose
        rigs[integer(path, number, fields[0])] = sensors
    return rigs


def _frames_text(path: Path, rigs: Mapping[int, Sensors]) -> dict[int, Array]:
    poses: dict[int, Array] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line or line.startswith("#"):
            continue
        fields = line.split()
        if len(fields) < 10 or len(fields) != 10 + 3 * integer(path, number, fields[9]):
            expected = "expected FRAME_ID RIG_ID QW QX QY QZ TX TY TZ NUM_DATA_IDS DATA_IDS[]"
            raise fault(path, number, expected, line)
        values = numbers(path, number, fields[2:9])
        pose = pose_matrix(path, number, values[:4], values[4:])
        sensors = rigs.get(integer(path, number, fields[1]), {})
        for kind, sensor, image in zip(fields[10::3], fields[11::3], fields[12::3], strict=True):
            own = sensors.get(integer(path, number, sensor))
            if kind == _CAMERA and own is not None:
                poses[integer(path, number, image)] = _composed(own, pose)
    return poses


def _rigs_binary(path: Path) -> dict[int, Sensors]:
    reader = Reader(path)
    rigs: dict[int, Sensors] = {}
    for number in range(1, int(reader.numbers("Q")[0]) + 1):
        rig_id, count = (int(n) for n in reader.numbers("II"))
        sensors: dict[int, Array] = {}
        for k in range(count):
            kind, sensor = (int(n) for n in reader.numbers("iI"))
            pose: Array | None = np.eye(4)[:3]
            if k:  # the first is the one of reference
                pose = _pose(reader, number) if reader.numbers("B")[0] else None
            if kind == _CAMERA_TYPE and pose is not None:
                sensors[sensor] = pose
        rigs[rig_id] = sensors
    return rigs


def _frames_binary(path: Path, rigs: Mapping[int, Sensors]) -> dict[int, Array]:
    reader = Reader(path)
    poses: dict[int, Array] = {}
    for number in range(1, int(reader.numbers("Q")[0]) + 1):
        _, rig_id = (int(n) for n in reader.numbers("II"))
        pose = _pose(reader, number)
        sensors = rigs.get(rig_id, {})
        for _ in range(int(reader.numbers("I")[0])):
            kind, sensor, image = (int(n) for n in reader.numbers("iIQ"))
            own = sensors.get(sensor)
            if kind == _CAMERA_TYPE and own is not None:
                poses[image] = _composed(own, pose)
    return poses


def _pose(reader: Reader, number: int) -> Array:
    values = [float(value) for value in reader.numbers("7d")]
    return pose_matrix(reader.path, number, values[:4], values[4:])


def _composed(sensor_from_rig: Array, rig_from_world: Array) -> Array:
    rotation = sensor_from_rig[:, :3]
    moved = rotation @ rig_from_world[:, 3] + sensor_from_rig[:, 3]
    return np.asarray(np.c_[rotation @ rig_from_world[:, :3], moved])
