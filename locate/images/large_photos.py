"""Photos of many pixels: how they are made smaller while they are read, and which are refused.

Whatever the way, what comes out covers the whole photo, corners on corners (`locate.pixels`), so that
`resize_points` from its size to that of the file is exact:

- libjpeg decodes at 1/2, 1/4 or 1/8 from a part of the coefficients of each block. A pixel is then 2, 4
  or 8 of the file wide; where these do not divide the size, the last one of a row reaches beyond the
  photo, and resampling cuts it at the fraction of it that is the photo's.
- Other formats have to be decoded whole. Large ones are shrunk at once, one photo at a time, so that
  memory does not grow with the number of threads.
"""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from locate.errors import ImageError
from locate.types import Array

MAX_PIXELS = 250_000_000  # decoded: a gigabyte, and as much again for a moment
MAX_JPEG_PIXELS = 1_000_000_000  # in the file, of one that is decoded at a fraction of that
LARGE = 40_000_000  # pixels; more than that one at a time, and never at full size if less will do
_DIVISORS = (8, 4, 2)  # of libjpeg
_SMALLEST = 32  # pixels that shrinking leaves of the short side
# Of these modes Pillow averages right; of others (palettes, 16 bits) not.
_PLAIN = frozenset({"L", "RGB", "RGBA", "LA", "CMYK", "YCbCr"})
_one_at_a_time = threading.Lock()


@contextmanager
def alone_if_large(image: Image.Image, size: tuple[int, int]) -> Iterator[None]:
    """Within, this thread alone holds a large photo, of `size` in the file. Call after
    `decode_smaller`."""
    # Progressive JPEGs are held whole as coefficients, however small they come out.
    width, height = size if "progressive" in image.info else image.size
    if width * height <= LARGE:
        yield
        return
    with _one_at_a_time:
        yield


def decode_smaller(image: Image.Image, least: int) -> None:
    """Have a JPEG decoded at a fraction of its size that leaves its long side at least `least` pixels:
    one that divides its size if there is any, and for large photos any. Call before `image.load`."""
    width, height = image.size
    possible = [d for d in _DIVISORS if max(width, height) // d >= least]
    exact = [d for d in possible if width % d == 0 and height % d == 0]
    divisor = exact[0] if exact else 1
    if width * height / divisor**2 > LARGE and possible:
        divisor = possible[0]
    if divisor > 1:
        image.draft("RGB", (width // divisor, height // divisor))


def shrunk(image: Image.Image, size: tuple[int, int], least: int | None) -> Image.Image:
    """A photo of `size` (width, height) in the file, perhaps from `decode_smaller`, made to cover
    the whole photo exactly, and a large one small: its long side keeps `least` pixels (None: all)."""
    if least is None:
        return image
    divisor = max(1, round(max(size) / max(image.size)))
    if divisor > 1 and (size[0] % divisor or size[1] % divisor):
        box = (0.0, 0.0, size[0] / divisor, size[1] / divisor)
        target = (max(1, size[0] // divisor), max(1, size[1] // divisor))
        return image.resize(target, Image.Resampling.BICUBIC, box)
    if image.width * image.height <= LARGE:
        return image
    # Twice what is asked for: whoever asks shrinks it further, and shall hardly notice.
    factor = min(max(image.size) // (2 * least), min(image.size) // _SMALLEST)
    if factor < 2 or image.mode not in _PLAIN or "transparency" in image.info:
        return image
    target = (image.width // factor, image.height // factor)
    return image.resize(target, Image.Resampling.BICUBIC, reducing_gap=3.0)


def shrunk_pixels(pixels: Array, least: int | None) -> Array:
    """What `shrunk` had to leave for its mode, as H x W x 3 uint8."""
    size = (pixels.shape[1], pixels.shape[0])
    if least is None or size[0] * size[1] <= LARGE:
        return pixels
    return np.array(shrunk(Image.fromarray(pixels), size, least))


def refuse_too_many(image: Image.Image, path: Path, *, in_file: bool = False) -> None:
    """`ImageError` if a photo, as it is going to be decoded, has too many pixels for memory, or
    (`in_file`) in the file, which of a JPEG may be more. Call between `decode_smaller` and
    `image.load`, as nothing is made room for before."""
    reducible = image.format in ("JPEG", "MPO") and "progressive" not in image.info
    most = MAX_JPEG_PIXELS if in_file and reducible else MAX_PIXELS
    if image.width * image.height > most:
        why = f"is too large ({image.width} x {image.height} px, more than {most // 10**6} million)"
        cure = f"shrink it: magick {shlex.quote(path.name)} -resize 10000x10000 smaller.jpg"
        raise ImageError(path, why, cure)
