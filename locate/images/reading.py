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

from locate.errors import ImageError, InputError
from locate.images import file_kinds, large_photos
from locate.images.exif import read_exif, read_projection
from locate.types import Array, Photo, PhotoInfo, Projection

_HEIF = file_kinds.endings("heic heif hif")
EXTENSIONS = _HEIF | file_kinds.endings(
    "jpg jpeg jpe jfif mpo png webp tif tiff bmp avif gif ppm pgm jp2 j2k jpx pnm"
)
MIN_SIDE = 32  # pixels; below this no extractor sees anything
MAX_BYTES = 2**31  # of a file: more than the largest photo that is read as a 16-bit TIFF
_ANIMATED_FORMATS = frozenset({"GIF", "PNG", "WEBP", "AVIF"})
UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_OTHER_HEADS = {b"PK\3\4": "a zip archive", b"%PDF": "a PDF document"}
_DNG_VERSION, _SUBFILE, _SUB_IFDS = 50706, 254, 330  # tags of TIFF
_PIPED = "copy the photo to a plain file, or pipe it into: locate query -"
_TOO_LONG = "shrink it, or save it as JPEG"
_held: dict[Path, bytes] = {}


def is_photo_name(path: Path | str) -> bool:
    """Whether the file name's ending is one of the formats that `read_photo` knows."""
    return PurePath(path).suffix.lower() in EXTENSIONS


def hold(path: Path, content: bytes) -> None:
    """Let `path` stand for a photo that is in no file, as what came from standard input."""
    _held[path] = content


def read_bytes(path: Path) -> bytes:
    """The file's content; `ImageError` if it is missing, not a regular file, unreadable or empty."""
    if path in _held:
        data = _held[path]
        if not data:
            reason = "standard input is empty (0 bytes)"
            raise ImageError(path, reason, "check what is piped into it")
        if len(data) > MAX_BYTES:
            reason = f"standard input is too large (over {MAX_BYTES} bytes)"
            raise ImageError(path, reason, _TOO_LONG)
        return data
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(path, "is a directory", "name a photo, or index the directory itself")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, "is not a regular file", _PIPED)
        if status.st_size > MAX_BYTES:
            raise ImageError(path, f"is too large ({status.st_size} bytes)", _TOO_LONG)
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(path, "does not exist", "check the name") from None
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError(path, f"is no file name ({error})", "check the name") from None
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise ImageError(path, reason, "check its permissions and the disk") from error
    if not data:
        raise ImageError(path, "is empty (0 bytes)", "copy it again from its source")
    return data


def read_photo(path: Path | str, min_long_side: int | None = None) -> Photo:
    """Decode a photo file; see `decode_photo`."""
    path = Path(path)
    return decode_photo(read_bytes(path), path, min_long_side)


def projection_in(path: Path) -> Projection | None:
    """Of a photo that is no perspective one, by its head alone; None of others and of broken files."""
    if path.suffix.lower() in _HEIF:
        _register_heif()
    try:
        with _quiet, Image.open(path) as image:
            return read_projection(image)
    except Exception:  # whatever Pillow makes of broken files; decoding them says what is wrong
        return None


def decode_photo(data: bytes, path: Path, min_long_side: int | None = None) -> Photo:
    """Decode a photo held in memory, the content of `path`; `ImageError` if it is truncated,
    animated, too small or large, no image, raw, holds NaN, ... It may come at a fraction of its size
    whose long side keeps `min_long_side` pixels, see `locate.images.large_photos`."""
    if data[4:8] == b"ftyp" and data[8:12] in file_kinds.HEIF_BRANDS:
        _register_heif()
    _check_png(data, path)
    try:
        with _quiet, Image.open(io.BytesIO(data)) as image:
            return _decode(image, path, min_long_side)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(path, *_sniff(data)) from None
    except MemoryError:
        cure = "shrink it, or use fewer threads (--workers 1)"
        raise ImageError(path, "does not fit into memory", cure) from None
    except Exception as error:  # Pillow's decoders raise nearly every type on broken files
        text = " ".join(str(error).split())  # libheif's has line breaks
        cut = any(sign in text.lower() for sign in ("truncated", "end of file"))
        reason = "is truncated" if cut else "is damaged"
        raise ImageError(path, f"{reason} ({text})", "copy it again from its source") from error


def _check_png(data: bytes, path: Path) -> None:
    """Pillow skips the checksums of pixels, so that a flipped bit would pass as noise in the image."""
    view, at = memoryview(data), 8
    while data.startswith(file_kinds.PNG) and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(view[at : at + 4])
        stored = view[end : end + 4]
        pixels = data[at + 4 : at + 8] == b"IDAT" and len(stored) == 4  # else Pillow says truncated
        if pixels and zlib.crc32(view[at + 4 : end]) != int.from_bytes(stored):
            raise ImageError(path, "is damaged (wrong checksum)", "copy it again from its source")
        at = end + 4


def _decode(image: Image.Image, path: Path, min_long_side: int | None) -> Photo:
    large_photos.refuse_too_many(image, path, in_file=True)
    if image.format == "TIFF" and _is_raw(image, path):
        raise ImageError(path, "is raw: only its preview can be read", file_kinds.RAW_KIND.cure)
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format in _ANIMATED_FORMATS:
        raise ImageError(path, f"is an animation of {frames} frames", "save the frame that matters")
    if min(image.size) < MIN_SIDE:
        reason = f"is too small ({image.width} x {image.height} px)"
        raise ImageError(path, reason, f"use a photo of at least {MIN_SIDE} px on each side")
    size = image.size
    # Pillow turns a TIFF upright by itself while it loads, and says the upright size before.
    turned = image.format == "TIFF"
    info = read_exif(image, turned)
    if min_long_side is not None and image.format in ("JPEG", "MPO"):
        large_photos.decode_smaller(image, min_long_side)
    large_photos.refuse_too_many(image, path)
    with large_photos.alone_if_large(image, size):
        image.load()
        # Not ImageOps.exif_transpose: it writes the EXIF anew, and fails where that is broken.
        method = None if turned else UPRIGHT.get(info.orientation)
        whole = large_photos.shrunk(image, size, min_long_side)
        upright = whole if method is None else whole.transpose(method)
        pixels = large_photos.shrunk_pixels(_to_rgb8(upright, path), min_long_side)
    return Photo(pixels=pixels, info=info, path=path)


def _is_raw(image: Image.Image, path: Path) -> bool:
    """Whether Pillow sees the small preview of a raw photo: its name says so, it has DNG's version, or
    the first picture is a reduced one of others inside (Adobe DNG 1.6; TIFF 6.0)."""
    tags = getattr(image, "tag_v2", {})
    reduced = tags.get(_SUBFILE) == 1 and _SUB_IFDS in tags
    return path.suffix.lower() in file_kinds.RAW or _DNG_VERSION in tags or reduced


def _to_rgb8(image: Image.Image, path: Path) -> Array:
    """Any Pillow mode -> H x W x 3 uint8."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_to_rgb8(np.asarray(image), path)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))


def _deep_to_rgb8(grey: Array, path: Path) -> Array:
    """H x W of any range -> H x W x 3 uint8. Deep files rarely use their whole range (12-bit sensors,
    depth, thermal), so the 0.1 and 99.9 percentiles are put at 0 and 255."""
    if grey.dtype.kind == "f" and not np.isfinite(grey).all():
        raise ImageError(path, "holds NaN or infinite pixels", "export it again as integers")
    step = 1 if grey.size <= large_photos.LARGE else 4  # of so many a part has the same percentiles
    low, high = np.percentile(grey[::step, ::step].astype(np.float64), (0.1, 99.9))
    scale = 255.0 / max(high - low, 1e-12)
    pixels = np.empty((*grey.shape, 3), np.uint8)
    rows = max(1, 2**22 // grey.shape[1])  # at a time: float64 takes eight times the memory
    for start in range(0, len(grey), rows):
        part = (grey[start : start + rows].astype(np.float64) - low) * scale
        pixels[start : start + rows] = np.clip(np.rint(part), 0, 255)[..., None]
    return pixels


def _register_heif() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()


class _Quiet:
    """Within, no warnings of the decoders ("corrupt EXIF data", ...), and no limit of Pillow's on
    pixels, which it applies before a JPEG can be reduced: `locate.images.large_photos` has ours.

    `warnings.catch_warnings` is not made for threads: two that overlap leave one's filters behind.
    So the first thread in sets them for all, and the last out restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings(
                    "ignore", category=UserWarning, module=r"(PIL|pillow_heif|locate\.images)\b"
                )
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)
                Image.MAX_IMAGE_PIXELS = self._limit


_quiet = _Quiet()


def _sniff(data: bytes) -> tuple[str, str]:
    """What a file is that no decoder wants: (reason, cure)."""
    known = file_kinds.format_of(data)
    if known in file_kinds.READ:
        return f"is damaged or truncated (it begins as {known})", "copy it again from its source"
    if known == file_kinds.RAW_FORMAT:
        return "is a raw photo", file_kinds.RAW_KIND.cure
    if known == file_kinds.JXL:
        return "is JPEG XL, which is not read", file_kinds.JXL_KIND.cure
    if known not in (None, "video"):
        return f"is {known}, which is not read", file_kinds.PICTURE_KIND.cure
    other = next((name for head, name in _OTHER_HEADS.items() if data.startswith(head)), None)
    other = "a video" if known == "video" else other
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


def as_photo(pixels: Path | str | Array) -> Photo:
    """Pixels in memory as a photo; `InputError` if they are none."""
    array = np.asarray(pixels)
    if array.ndim != 3 or min(array.shape[:2]) < MIN_SIDE:
        raise InputError(
            f"a query must be H x W x 3 pixels of at least {MIN_SIDE} on each side, "
            f"got {array.shape}"
        )
    return Photo(array, PhotoInfo(size=(array.shape[1], array.shape[0])))
