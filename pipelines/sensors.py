"""Focal lengths by EXIF, and widths of the sensors of cameras that tell it in millimetres only.

By family, as makers put one size of sensor into a line of cameras. Phones are not in it: they write the
35 mm equivalent themselves. From the makers' data sheets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from locate.types import PhotoInfo

FILM_WIDTH = 36.0  # mm, of the 35 mm film that EXIF's equivalent focal lengths refer to

# (what the camera's name, maker and model, matches; width in mm). The first that fits counts.
SENSORS: Sequence[tuple[str, float]] = (
    (
        r"canon eos[- ]?1d ?[sx]|canon eos[- ]?1d c|canon eos [56]d|canon eos r(p|[13568](?!\d)| *$)",
        36.0,
    ),
    (r"canon eos[- ]?1d", 28.1),
    (r"canon eos (m|r7|r10|r50|r100|\d{1,4}d|kiss|rebel|digital)", 22.3),
    (r"canon powershot g1 ?x mark iii", 22.3),
    (r"canon powershot g1 ?x", 18.7),
    (r"canon powershot g(3 ?x|[579] ?x)", 13.2),
    (r"canon powershot g", 7.44),
    (r"nikon.* d(3|3s|3x|4|4s|5|6|600|610|700|750|780|800e?|810a?|850|f)\b", 35.9),
    (r"nikon.* z ?([5-9](?!\d)|f\b)", 35.9),
    (r"nikon.* (d\d{2,4}|z ?(30|50|fc))", 23.5),
    (r"nikon.* 1 ", 13.2),
    (r"sony (ilce-(7|9|1)|ilme-fx(?!30)|dslr-a(850|900)|slt-a99|dsc-rx1($|r))", 35.8),
    (r"sony (ilce-|ilme-|nex-|slt-|dslr-)", 23.5),
    (r"sony dsc-rx(100|10)", 13.2),
    (r"fujifilm gfx", 43.8),
    (r"fujifilm x-?(pro|t|e|h|s|m|a|100|70)", 23.5),
    (r"(olympus.*|om digital.*) (e-|pen|om-)", 17.3),
    (r"panasonic dmc-(g|gf|gh|gm|gx)\d|panasonic dc-(g|gh|gx)\d", 17.3),
    (r"panasonic dc-s", 35.6),
    (r"leica m8", 27.0),
    (r"leica (m|q|sl)", 35.9),
    (r"pentax k-?1\b", 35.9),
    (r"pentax (k|\*ist)", 23.5),
    (r"dji fc(6310|6520|7303|8482)|hasselblad l1d", 13.2),
    (r"dji fc(200|220|300|330|350|3170|2103)", 6.17),
    (r"gopro hero", 6.17),
    (r"imx477", 6.287),
    (r"imx219", 3.68),
    (r"imx708", 6.45),
)


def exif_focal(info: PhotoInfo) -> float | None:
    """The focal length in pixels by EXIF; None where it is silent.

    The equivalent for 35 mm film is a matter of the diagonal or of the width, depending on the maker;
    the width is the usual one, and for 3:2 sensors they agree. Else the width of the sensor comes from
    a table of cameras.
    """
    if info.focal_35mm:
        return info.focal_35mm / FILM_WIDTH * max(info.size)
    width = sensor_width(info.camera)
    if info.focal_mm and width:
        return info.focal_mm / width * max(info.size)
    return None


def sensor_width(camera: str | None) -> float | None:
    """The width in millimetres of the sensor of a camera, as EXIF names it; None if it is not known."""
    if camera is None:
        return None
    name = re.sub(r"\s+", " ", camera.lower().replace("nikon corporation", "nikon"))
    return next((width for pattern, width in SENSORS if re.search(pattern, name)), None)
