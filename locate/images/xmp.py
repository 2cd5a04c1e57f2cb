"""What a photo's XMP says about its projection: Google's Photo Sphere XMP (GPano) -> `Projection`.

https://developers.google.com/streetview/spherical-metadata. Cameras for 360 degree photos, stitching
programs and phones write it.
"""

from __future__ import annotations

import math
import re

from PIL import Image

from locate.types import Projection

_GPANO = "http://ns.google.com/photos/1.0/panorama/"
_MOST = 4 * 2**20  # bytes that are looked at


def read_projection(image: Image.Image) -> Projection | None:
    """None of a photo without such tags, or whose XMP is broken."""
    data = image.info.get("xmp")  # where Pillow puts it, whatever the format
    if not isinstance(data, bytes) or len(data) > _MOST:
        return None
    tags = _gpano(data.decode("utf-8", "replace"))
    kind = tags.get("ProjectionType", "").strip().lower()
    if not kind:
        return None
    width, height = (_pixels(tags, f"FullPano{side}Pixels") for side in ("Width", "Height"))
    crop = [
        _pixels(tags, f"CroppedArea{name}Pixels")
        for name in ("Left", "Top", "ImageWidth", "ImageHeight")
    ]
    left, top, crop_width, crop_height = crop
    whole = (round(width), round(height)) if width and height else None
    part = None
    if crop_width is not None and crop_height is not None:
        part = (left or 0.0, top or 0.0, crop_width, crop_height)
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


def _pixels(tags: dict[str, str], name: str) -> float | None:
    try:
        number = float(tags[name])
    except (KeyError, ValueError):
        return None
    return number if math.isfinite(number) else None
