"""Photo files -> upright RGB pixels and what the file says about itself.

Pillow decodes (JPEG, PNG, WebP, TIFF, BMP, AVIF, GIF, PPM, JPEG 2000), pillow-heif adds phones' HEIC.
OpenCV's decoder is a little faster but answers a truncated file with grey rows instead of an error.
Every fault becomes an `ImageError` that names the file, the reason and the cure.
"""

from __future__ import annotations

import io
import re
import stat
import threading
import warnings
import zlib
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, UnidentifiedImageError

from locate.errors import ImageError
from locate.exif import read_exif
from locate.types import Array, Photo

EXTENSIONS = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".avif",
        ".heic",
        ".heif",
        ".hif",
        ".gif",
        ".ppm",
        ".pgm",
        ".jp2",
    ]
)
MIN_SIDE = 32  # pixels; below this no extractor sees anything
MAX_BYTES = 2**31  # of a file: twice the largest image that Pillow accepts, as a 16-bit TIFF
_ANIMATED_FORMATS = frozenset({"GIF", "PNG", "WEBP", "AVIF"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"mif1", b"msf1"})
_UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PNG = b"\x89PNG\r\n\x1a\n"
_HEADS = {  # how files begin
    b"\xff\xd8\xff": "JPEG",
    _PNG: "PNG",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
_OTHER_HEADS = {b"PK\3\4": "a zip archive", b"%PDF": "a PDF document"}


def is_photo_name(path: Path | str) -> bool:
    """Whether the file name's ending is one of the formats that `read_photo` knows."""
    return PurePath(path).suffix.lower() in EXTENSIONS


def read_bytes(path: Path) -> bytes:
    """The file's content; `ImageError` if it is missing, not a regular file, unreadable or empty."""
    try:
        status = path.stat()
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(path, "is a directory", "name a photo, or index the directory itself")
        if not stat.S_ISREG(mode):
            raise ImageError(path, "is not a regular file", "copy the photo to a plain file")
        if status.st_size > MAX_BYTES:
            raise ImageError(path, f"is too large ({status.st_size} bytes)", "shrink it")
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(path, "does not exist", "check the name") from None
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError(path, f"is no file name ({error})", "check the name") from None
    except OSError as error:
        raise ImageError(
            path, f"cannot be read ({error.strerror})", "check its permissions and the disk"
        ) from error
    if not data:
        raise ImageError(path, "is empty (0 bytes)", "copy it again from its source")
    return data


def read_photo(path: Path | str, min_long_side: int | None = None) -> Photo:
    """Decode a photo file; see `decode_photo`."""
    path = Path(path)
    return decode_photo(read_bytes(path), path, min_long_side)


def decode_photo(data: bytes, path: Path, min_long_side: int | None = None) -> Photo:
    """Decode a photo held in memory.

    Args:
        data: the file's content.
        path: used in messages.
        min_long_side: if given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as
            its long side keeps at least this many pixels and the division has no remainder
            (so that scaling back to original pixels is exact). Several times faster.

    Raises:
        ImageError: truncated, animated, too small, not an image, holding NaN, ...
    """
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        _register_heif()
    _check_png(data, path)
    try:
        with _quiet, Image.open(io.BytesIO(data)) as image:
            return _decode(image, path, min_long_side)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(path, *_sniff(data)) from None
    except Image.DecompressionBombError as error:
        raise ImageError(
            path,
            f"is too large ({error})",
            "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it",
        ) from None
    except MemoryError:
        raise ImageError(path, "does not fit into memory", "shrink it") from None
    except Exception as error:  # Pillow's decoders raise nearly every type on broken files
        text = " ".join(str(error).split())  # libheif's has line breaks
        cut = any(sign in text.lower() for sign in ("truncated", "end of file"))
        reason = "is truncated" if cut else "is damaged"
        raise ImageError(path, f"{reason} ({text})", "copy it again from its source") from error


def _check_png(data: bytes, path: Path) -> None:
    """Pillow skips the checksums of pixels, so that a flipped bit would pass as noise in the image."""
    view, at = memoryview(data), 8
    while data.startswith(_PNG) and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(view[at : at + 4])
        stored = view[end : end + 4]
        pixels = data[at + 4 : at + 8] == b"IDAT" and len(stored) == 4  # else Pillow says truncated
        if pixels and zlib.crc32(view[at + 4 : end]) != int.from_bytes(stored):
            raise ImageError(path, "is damaged (wrong checksum)", "copy it again from its source")
        at = end + 4


def _decode(image: Image.Image, path: Path, min_long_side: int | None) -> Photo:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in _ANIMATED_FORMATS:
        raise ImageError(path, f"is an animation of {frames} frames", "save the frame that matters")
    if min(image.size) < MIN_SIDE:
        raise ImageError(
            path,
            f"is too small ({image.width} x {image.height} px)",
            f"use a photo of at least {MIN_SIDE} px on each side",
        )
    size = image.size
    # Pillow turns a TIFF upright by itself while it loads, and says the upright size before.
    turned = image.format == "TIFF"
    info = read_exif(image, turned)
    if min_long_side is not None and image.format in ("JPEG", "MPO"):
        for divisor in (8, 4, 2):
            exact = size[0] % divisor == 0 and size[1] % divisor == 0
            if exact and max(size) // divisor >= min_long_side:
                image.draft("RGB", (size[0] // divisor, size[1] // divisor))
                break
    image.load()
    # Not ImageOps.exif_transpose: it writes the EXIF anew, and fails where that is broken.
    method = None if turned else _UPRIGHT.get(info.orientation)
    upright = image if method is None else image.transpose(method)
    return Photo(pixels=_to_rgb8(upright, path), info=info, path=path)


def _to_rgb8(image: Image.Image, path: Path) -> Array:
    """Any Pillow mode -> H x W x 3 uint8."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = np.asarray(image, np.float64)
        if not np.isfinite(grey).all():
            raise ImageError(path, "holds NaN or infinite pixels", "export it again as integers")
        return np.repeat(_stretch_to_8_bit(grey)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))


def _stretch_to_8_bit(grey: Array) -> Array:
    """H x W of any range -> uint8. Deep files rarely use their whole range (12-bit sensors, depth,
    thermal), so the 0.1 and 99.9 percentiles are put at 0 and 255."""
    low, high = np.percentile(grey, (0.1, 99.9))
    scaled = (grey - low) * (255.0 / max(high - low, 1e-12))
    return np.asarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def _register_heif() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()


class _Quiet:
    """Within, no warnings of the decoders ("corrupt EXIF data", "could be decompression bomb", ...).

    `warnings.catch_warnings` is not made for threads: two that overlap leave one's filters behind.
    So the first thread in sets them for all, and the last out restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                for category in (UserWarning, Image.DecompressionBombWarning):
                    warnings.filterwarnings(
                        "ignore", category=category, module=r"(PIL|pillow_heif|locate\.images)\b"
                    )
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_quiet = _Quiet()


def _sniff(data: bytes) -> tuple[str, str]:
    """What a file is that no decoder wants: (reason, cure)."""
    known = next((name for head, name in _HEADS.items() if data.startswith(head)), None)
    other = next((name for head, name in _OTHER_HEADS.items() if data.startswith(head)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        known = "WebP"
    if data[4:8] == b"ftyp":
        if data[8:12] in _HEIF_BRANDS | {b"avif", b"avis"}:
            known = "HEIC or AVIF"
        else:
            other = "a video"
    if known is not None:
        return f"is damaged or truncated (it begins as {known})", "copy it again from its source"
    head = data[:512].lstrip()
    if other is not None:
        reason = f"is {other}, not a photo"
    elif head[:5].lower() in (b"<html", b"<!doc"):
        reason = "is a web page, not a photo"
    elif b"\0" not in head and re.fullmatch(rb"[\x09\x0a\x0d\x20-\x7e\x80-\xff]*", head):
        reason = "is text, not a photo"
    else:
        reason = "is not an image of a known format"
    return reason, "replace it by a photo or remove it"
