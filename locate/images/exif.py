"""What a photo says about itself: EXIF -> `PhotoInfo`."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

from locate.images.xmp import read_projection
from locate.types import PhotoInfo


def read_exif(image: Image.Image, turned: bool) -> PhotoInfo:
    """EXIF is written by a thousand programs, many of them wrong: what cannot be parsed is None.

    Args:
        turned: `image.size` is that of the upright image already.
    """
    main = _tags(lambda: dict(image.getexif()))
    detail = _tags(lambda: image.getexif().get_ifd(ExifTags.IFD.Exif))
    gps = _tags(lambda: image.getexif().get_ifd(ExifTags.IFD.GPSInfo))
    tag, sub, place = ExifTags.Base, ExifTags.Base, ExifTags.GPS
    orientation = main.get(tag.Orientation, 1)
    if not isinstance(orientation, int) or not 1 <= orientation <= 8:
        orientation = 1
    size = image.size[::-1] if orientation >= 5 and not turned else image.size
    return PhotoInfo(
        size=size,
        orientation=orientation,
        taken_at=_exif_time(detail.get(sub.DateTimeOriginal) or main.get(tag.DateTime)),
        camera=_camera(main.get(tag.Make), main.get(tag.Model)),
        focal_mm=_positive(detail.get(sub.FocalLength)),
        focal_35mm=_positive(detail.get(sub.FocalLengthIn35mmFilm)),
        digital_zoom=_zoom(detail.get(sub.DigitalZoomRatio)),
        exif_size=_size(
            detail.get(sub.ExifImageWidth), detail.get(sub.ExifImageHeight), orientation >= 5
        ),
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


def _number(value: Any) -> float | None:
    try:
        number: float = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _positive(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and number > 0 else None


def _zoom(value: Any) -> float | None:
    """EXIF 3.0: 0 says that there was none, as 1 does."""
    number = _number(value)
    return number if number is not None and number > 1 else None


def _size(width: Any, height: Any, turned: bool) -> tuple[int, int] | None:
    sides = [_positive(side) for side in (width, height)]
    if any(side is None or not 1 <= side < 2**31 for side in sides):
        return None
    size = round(sides[0] or 0), round(sides[1] or 0)
    return size[::-1] if turned else size


def _text(value: Any) -> str:
    return value.replace("\0", "").strip() if isinstance(value, str) else ""


def _camera(make: Any, model: Any) -> str | None:
    maker, name = _text(make), _text(model)
    return (name if name.startswith(maker) else f"{maker} {name}").strip() or None


def _exif_time(value: Any) -> str | None:
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
    if metres is None:
        return None
    # EXIF 3.0: 0 and 2 above, 1 and 3 below the ellipsoid or sea level
    below = reference in (1, 3, b"\x01", b"\x03")
    return -metres if below else metres
