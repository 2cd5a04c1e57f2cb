"""What a photo says about itself: EXIF -> `PhotoInfo`, and Google's Photo Sphere XMP (GPano, which 360
degree cameras, stitching programs and phones write) -> `Projection`.

https://developers.google.com/streetview/spherical-metadata
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

from locate.types import PhotoInfo, Projection

_GPANO = "http://ns.google.com/photos/1.0/panorama/"
_MOST = 4 * 2**20  # bytes of XMP that are looked at


def read_exif(image: Image.Image, turned: bool) -> PhotoInfo:
    """EXIF is written by a thousand programs, many of them wrong: what cannot be parsed is None.
    `turned`: `image.size` is that of the upright image already."""
    main = _tags(lambda: dict(image.getexif()))
    detail = _tags(lambda: image.getexif().get_ifd(ExifTags.IFD.Exif))
    gps = _tags(lambda: image.getexif().get_ifd(ExifTags.IFD.GPSInfo))
    tag, place = ExifTags.Base, ExifTags.GPS
    orientation = main.get(tag.Orientation, 1)
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    across = orientation >= 5
    size = detail.get(tag.ExifImageWidth), detail.get(tag.ExifImageHeight)
    return PhotoInfo(
        size=image.size[::-1] if across and not turned else image.size,
        orientation=orientation,
        taken_at=_time(detail.get(tag.DateTimeOriginal) or main.get(tag.DateTime)),
        camera=_camera(main.get(tag.Make), main.get(tag.Model)),
        focal_mm=_number(detail.get(tag.FocalLength), above=0),
        focal_35mm=_number(detail.get(tag.FocalLengthIn35mmFilm), above=0),
        digital_zoom=_number(detail.get(tag.DigitalZoomRatio), above=1),  # EXIF 3.0: 0 is none
        exif_size=_size(*(size[::-1] if across else size)),
        latitude=_degrees(gps.get(place.GPSLatitude), gps.get(place.GPSLatitudeRef), "S", 90),
        longitude=_degrees(gps.get(place.GPSLongitude), gps.get(place.GPSLongitudeRef), "W", 180),
        altitude=_altitude(gps.get(place.GPSAltitude), gps.get(place.GPSAltitudeRef)),
        projection=read_projection(image),
    )


def _tags(read: Callable[[], dict[int, Any]]) -> dict[int, Any]:
    try:
        return read()
    except Exception:  # whatever Pillow's parser makes of broken bytes
        return {}


def _number(value: Any, above: float = -math.inf) -> float | None:
    """A finite number above a limit; None for anything else."""
    try:
        number: float = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number > above else None


def _size(width: Any, height: Any) -> tuple[int, int] | None:
    sides = [_number(side) or 0.0 for side in (width, height)]
    fine = all(1 <= side < 2**31 for side in sides)
    return (round(sides[0]), round(sides[1])) if fine else None


def _text(value: Any) -> str:
    return value.replace("\0", "").strip() if isinstance(value, str) else ""


def _camera(make: Any, model: Any) -> str | None:
    maker, name = _text(make), _text(model)
    return (name if name.startswith(maker) else f"{maker} {name}").strip() or None


def _time(value: Any) -> str | None:
    try:
        return datetime.strptime(_text(value)[:19], "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return None


def _degrees(value: Any, reference: Any, negative: str, limit: float) -> float | None:
    try:
        parts = [_number(part) for part in value]
    except TypeError:
        return None
    if not 1 <= len(parts) <= 3 or any(part is None for part in parts):
        return None
    degrees: float = sum((part or 0.0) / 60**i for i, part in enumerate(parts))
    if abs(degrees) > limit:
        return None
    return -degrees if _text(reference).upper() == negative else degrees


def _altitude(value: Any, reference: Any) -> float | None:
    metres = _number(value)
    # EXIF 3.0: 0 and 2 above, 1 and 3 below the ellipsoid or sea level
    return -metres if metres is not None and reference in (1, 3, b"\x01", b"\x03") else metres


def read_projection(image: Image.Image) -> Projection | None:
    """None of a photo without GPano's tags, or whose XMP is broken."""
    data = image.info.get("xmp")  # where Pillow puts it, whatever the format
    if not isinstance(data, bytes) or len(data) > _MOST:
        return None
    tags = _gpano(data.decode("utf-8", "replace"))
    kind = tags.get("ProjectionType", "").strip().lower()
    if not kind:
        return None
    names = "FullPanoWidth FullPanoHeight CroppedAreaLeft CroppedAreaTop CroppedAreaImageWidth"
    full_width, full_height, left, top, width, height = (
        _number(tags.get(f"{name}Pixels")) for name in (*names.split(), "CroppedAreaImageHeight")
    )
    whole = (round(full_width), round(full_height)) if full_width and full_height else None
    part = None
    if width is not None and height is not None:
        part = (left or 0.0, top or 0.0, width, height)
    return Projection(kind, whole, part)


def _gpano(text: str) -> dict[str, str]:
    """The properties by name, as attributes or as elements, as XMP allows both."""
    found: dict[str, str] = {}
    for prefix in re.findall(rf"xmlns:([\w.-]+)\s*=\s*[\"']{re.escape(_GPANO)}[\"']", text):
        name = rf"{re.escape(prefix)}:(\w+)"
        for pattern in (rf"\s{name}\s*=\s*[\"']([^\"']*)[\"']", rf"<{name}\s*>([^<]*)</"):
            for key, value in re.findall(pattern, text):
                found.setdefault(key, value)
    return found
