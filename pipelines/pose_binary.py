"""COLMAP's binary cameras and images, read with every length checked: pycolmap never returns from a file
that was cut off. Little-endian; format: https://colmap.github.io/format.html
"""

from __future__ import annotations

import struct
from pathlib import Path

import pycolmap

from locate.errors import InputError

_POINT_BYTES = 24  # x, y as float64 and the id of a 3-D point as int64


class _Reader:
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
        return self._data[start:end].decode("utf-8", "replace")

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
    reader = _Reader(path)
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
        cameras[camera_id] = pycolmap.Camera(
            model=model, width=width, height=height, params=list(params)
        )
    return cameras


def read_images_binary(path: Path) -> list[tuple[str, int, list[float], list[float]]]:
    """COLMAP's images.bin: (name, camera id, rotation w x y z, translation) of each image.

    Raises:
        InputError: names the file.
    """
    reader = _Reader(path)
    images = []
    for _ in range(int(reader.numbers("Q")[0])):
        _, *pose, camera_id = reader.numbers("I7dI")
        name = reader.text()
        reader.skip(_POINT_BYTES * int(reader.numbers("Q")[0]))
        images.append((name, int(camera_id), pose[:4], pose[4:]))
    return images
