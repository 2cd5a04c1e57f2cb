"""Pictures from and to files: read for drawing, encoded, written whole or not at all."""

from __future__ import annotations

import io
import re
import unicodedata
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from locate.errors import ImageError
from locate.images.reading import read_photo
from locate.types import Array, Photo, PhotoInfo

Picture = Photo | Array | ImageError  # an error is drawn in place of the picture
MAX_WIDTH = 1600  # pixels of a whole drawing


def query_picture(path: Path | None, pixels: Array | None = None) -> Photo | ImageError:
    """The photo that was asked for: the pixels if given (H x W x 3 uint8 RGB), else from its file."""
    if pixels is not None:
        return as_photo(pixels)
    if path is None:
        return ImageError("query", "was pixels in memory", "hand them over to see them here")
    return read_picture(path)


def as_photo(picture: Picture) -> Photo | ImageError:
    """Pixels H x W x 3 as a photo at full size; anything else as it is."""
    if isinstance(picture, np.ndarray):
        return Photo(picture, PhotoInfo(size=(picture.shape[1], picture.shape[0])))
    return picture


def read_picture(path: Path, width: int = MAX_WIDTH) -> Photo | ImageError:
    """A photo large enough to be drawn up to `width` pixels wide, or what is wrong with it."""
    try:
        return read_photo(path, width)
    except ImageError as error:
        return error


def encode_jpeg(pixels: Array, quality: int = 85, comment: bytes = b"") -> bytes:
    """H x W x 3 uint8 RGB -> JPEG, colors at full resolution: thin lines would lose theirs."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(
        file, "JPEG", quality=quality, optimize=True, subsampling=0, comment=comment
    )
    return file.getvalue()


def safe_name(text: str) -> str:
    """`text` as a part of a file name: letters, digits, `.`, `_` and `-`; at most 80 bytes."""
    text = unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode("utf-8")
    text = re.sub(r"[^\w.\-]+", "_", text).lstrip(".")
    text = re.sub(r"-{2,}", "-", text)  # two of them part the name
    return text.encode()[:80].decode("utf-8", "ignore") or "unnamed"


def query_name(photo: Path | None) -> str:
    """What the drawings of a query are named by: its file, as part of a name."""
    if photo is None:
        return "query"
    return safe_name("standard-input" if photo == Path("-") else photo.stem)


def _comment_of(path: Path) -> bytes | None:
    with suppress(OSError), Image.open(path) as image:
        found = image.info.get("comment")
        return found if isinstance(found, bytes) else None
    return None


def free_path(folder: Path, name: str, comment: bytes) -> Path:
    """`name` with ".jpg", or with "-2" and so on if a drawing of something else has that name."""
    path, number = folder / f"{name}.jpg", 1
    while path.exists() and _comment_of(path) != comment:
        number += 1
        path = folder / f"{name}-{number}.jpg"
    return path
