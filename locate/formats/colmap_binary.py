"""COLMAP's binary cameras and images, read with every length checked: pycolmap never returns from a file
that was cut off. Little-endian; format: https://colmap.github.io/format.html
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pycolmap

from locate.errors import InputError

_POINT_BYTES = 24  # x, y as float64 and the id of a 3-D point as int64


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
    """COLMAP's cameras.bin: cameras by id.

    Raises:
        InputError: names the file.
    """
    reader = Reader(path)
    cameras = {}
    for _ in range(int(reader.numbers("Q")[0])):
        camera_id, model_id, width, height = (int(n) for n in reader.numbers("iiQQ"))
        try:
            model = pycolmap.CameraModelId(model_id)
            count = len(pycolmap.Camera.create_from_model_id(0, model, 1.0, 1, 1).params)
        except (ValueError, RuntimeError):
            raise InputError(
                f"{path}: unknown camera model {model_id}; is the file whole?"
            ) from None
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


def read_images_binary(path: Path) -> list[tuple[int, str, int, list[float], list[float]]]:
    """COLMAP's images.bin: (id, name, camera id, rotation w x y z, translation) of each image.

    Raises:
        InputError: names the file.
    """
    reader = Reader(path)
    images = []
    for _ in range(int(reader.numbers("Q")[0])):
        image_id, *pose, camera_id = reader.numbers("I7dI")
        name = reader.text()
        reader.skip(_POINT_BYTES * int(reader.numbers("Q")[0]))
        images.append((int(image_id), name, int(camera_id), pose[:4], pose[4:]))
    return images
