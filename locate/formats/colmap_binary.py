"""COLMAP's binary cameras and images, read with every length checked: pycolmap never returns from a
file that was cut off. Little-endian; format: https://colmap.github.io/format.html"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycolmap

from locate.errors import InputError
from locate.formats.text import pose_matrix
from locate.types import Array

_POINT_BYTES = 24  # x, y as float64 and the id of a 3-D point as int64


class ModelImage(NamedTuple):
    """An image of a model's file of images; `pose` is 3 x 4 `cam_from_world`."""

    image_id: int
    camera_id: int
    pose: Array


class Reader:
    """Reads numbers from a file held in memory."""

    def __init__(self, path: Path) -> None:
        self.path, self._at = path, 0
        try:
            self._data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})") from error

    def numbers(self, layout: str) -> tuple[float, ...]:
        """Numbers in the notation of `struct`."""
        start = self._at
        self.skip(struct.calcsize(f"<{layout}"))
        return struct.unpack_from(f"<{layout}", self._data, start)

    def integers(self, layout: str) -> tuple[int, ...]:
        return tuple(map(int, self.numbers(layout)))

    def count(self) -> range:
        """The numbers, from 1, of the records that follow."""
        return range(1, self.integers("Q")[0] + 1)

    def pose(self, number: int) -> Array:
        """That of a record, 3 x 4."""
        return pose_matrix(self.path, number, list(self.numbers("7d")))

    def text(self) -> str:
        """Up to the next zero byte."""
        end = self._data.find(b"\0", self._at)
        start = self._at
        self.skip(end + 1 - start if end >= 0 else len(self._data))
        try:
            return self._data[start:end].decode("utf-8")
        except UnicodeDecodeError:
            name = self._data[start:end].decode("latin-1")
            raise InputError(
                f"{self.path}: a name is not UTF-8 ({name!r} if it is Latin-1); write the model as text "
                "(colmap model_converter), and that as UTF-8"
            ) from None

    def skip(self, count: int) -> None:
        """Pass over bytes, which must be there."""
        self._at += count
        if self._at > len(self._data):
            raise InputError(f"{self.path} is cut off; copy it again from its source")


def read_cameras_binary(path: Path) -> dict[int, pycolmap.Camera]:
    """COLMAP's cameras.bin: cameras by id; `InputError` names the file."""
    reader = Reader(path)
    cameras = {}
    for _ in reader.count():
        camera_id, code, width, height = reader.integers("iiQQ")
        try:
            model = pycolmap.CameraModelId(code)
            count = len(pycolmap.Camera.create_from_model_id(0, model, 1.0, 1, 1).params)
        except (ValueError, RuntimeError):
            raise InputError(f"{path}: unknown camera model {code}; is the file whole?") from None
        params = reader.numbers(f"{count}d")
        camera = pycolmap.Camera(model=model, width=width, height=height, params=list(params))
        if not usable(camera):
            raise InputError(
                f"{path}: camera {camera_id} is none: {camera.model_name} {width} x {height} px, "
                f"{', '.join(f'{value:g}' for value in params)}; focal lengths and sizes are positive"
            )
        cameras[camera_id] = camera
    return cameras


def usable(camera: pycolmap.Camera) -> bool:
    """Whether a camera can take photos: sizes and focal lengths are positive, parameters finite."""
    return bool(
        camera.verify_params()
        and np.isfinite(camera.params).all()
        and min(camera.width, camera.height) > 0
        and all(camera.params[i] > 0 for i in camera.focal_length_idxs())
    )


def read_images_binary(path: Path) -> dict[str, ModelImage]:
    """COLMAP's images.bin, by name; `InputError` names the file."""
    reader = Reader(path)
    records = []
    for number in reader.count():
        image_id, *pose, camera_id = reader.numbers("I7dI")
        records.append((number, reader.text(), int(image_id), int(camera_id), pose))
        reader.skip(_POINT_BYTES * reader.integers("Q")[0])
    images: dict[str, ModelImage] = {}
    for number, name, image_id, camera_id, pose in records:
        if name in images:
            raise InputError(f"{path}, image {number}: {name} stands there a second time")
        if not np.isfinite(pose).all():
            raise InputError(f"{path}, image {number}: the pose of {name} is not finite")
        images[name] = ModelImage(image_id, camera_id, pose_matrix(path, number, pose))
    return images
