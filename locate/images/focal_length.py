"""Focal lengths by EXIF, and widths of the sensors of cameras that tell it in millimetres only.

By family, as makers put one size of sensor into a line of cameras. Phones are not in it: they write the
35 mm equivalent themselves. From the makers' data sheets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from locate.types import PhotoInfo

FILM_WIDTH = 36.0  # mm, of the 35 mm film that EXIF's equivalent focal lengths refer to
SIGMA = 0.05  # phones and compact cameras round to whole mm or know the lens at infinity only
AGREE = 0.15  # of logarithms of focal lengths: rounding, width or diagonal, table of sensors
POSSIBLE = (0.1, 200.0)  # focal lengths over the width; a number beyond is no focal length
MAX_ZOOM = 100.0
SAME_SHAPE = 0.01  # logarithm of ratios of sides
SQUARE, WIDEST = 1.2, 1.5  # sides of a photo that no sensor has; of the widest usual sensor

# (what the camera's name, maker and model, matches; width in mm). The first that fits counts.
SENSORS: Sequence[tuple[str, float]] = (
    (r"canon eos([- ]?1d ?[sx]|[- ]?1d c| [56]d)|canon eos r(p|[13568](?!\d)| *$)", 36.0),
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


@dataclass(frozen=True)
class ExifFocal:
    """What EXIF says of a focal length, and of the principal point: `off_centre` is the standard
    deviation of each coordinate, share of the longer side; 0 where nothing is said of a crop."""

    pixels: float
    sigma: float = SIGMA  # standard deviation of the logarithm of the focal length
    off_centre: float = 0.0
    doubt: str = ""  # in which ways EXIF contradicts itself or the photo


def exif_focal(info: PhotoInfo) -> ExifFocal | None:
    """The focal length by EXIF; None where it is silent.

    The equivalent for 35 mm film goes first. It is a matter of the diagonal or of the width, depending
    on the maker; the width is the usual one, and for 3:2 sensors they agree. Else the width of the
    sensor comes from a table of cameras. Digital zoom enlarges the middle of what the sensor sees:
    millimetres do not know of it, and the equivalent of most makers does (EXIF 3.0 leaves it open).

    Nothing is chosen where sources contradict each other: the answer lies in the middle of all that they
    may mean, and is so wide that it holds them.
    """
    told, doubts = _shares(info)
    if not told:
        return None
    long, short = max(info.size), min(info.size)
    frames = [(float(long), float(short))]  # that the camera took, in pixels of the photo
    cropped = cropped_from(info)
    if cropped is not None:
        # Its pixels are as they were, or were enlarged until one side was what it had been.
        factor = max(long / max(cropped), short / min(cropped))
        frames = [(max(cropped) * f, min(cropped) * f) for f in {factor, max(factor, 1.0)}]
        doubts.append(f"it was cropped from {cropped[0]} x {cropped[1]} px")
    elif long < SQUARE * short:
        frames.append((WIDEST * short, float(short)))
        doubts.append("no sensor is as square as the photo")
    lost = max(max(width - long, height - short) for width, height in frames)
    off_centre = lost / long / math.sqrt(12)  # the crop may lie anywhere
    each = [share * width for share in told for width, _ in frames]
    low, high = min(each), max(each)
    sigma = math.hypot(SIGMA, math.log(high / low) / 2)
    return ExifFocal(math.sqrt(low * high), sigma, off_centre, "; ".join(doubts))


def _shares(info: PhotoInfo) -> tuple[list[float], list[str]]:
    """Possible focal lengths in widths of the frame that the camera took; and why they are several."""
    zoom = digital_zoom(info)
    film = info.focal_35mm / FILM_WIDTH if info.focal_35mm else None
    width = sensor_width(info.camera)
    lens = info.focal_mm / width * zoom if info.focal_mm and width else None
    low, high = POSSIBLE
    film, lens = (share if share and low <= share <= high else None for share in (film, lens))
    if film is None or lens is None:
        if film is not None and zoom > 1:
            doubt = f"the 35 mm equivalent may be with or without the digital zoom of {zoom:g}"
            return [film, film * zoom], [doubt]
        return [share for share in (film, lens) if share is not None], []
    for share in (film, film * zoom):
        if abs(math.log(share / lens)) <= AGREE:
            return [share], []
    both = f"{film * FILM_WIDTH:.4g} and {lens * FILM_WIDTH:.4g} mm of 35 mm film"
    return [film, lens], [f"its focal lengths contradict each other: {both}"]


def digital_zoom(info: PhotoInfo) -> float:
    """How many times the middle of the picture was enlarged, by EXIF; 1 where it does not say so."""
    zoom = info.digital_zoom or 1.0
    return zoom if 1 < zoom <= MAX_ZOOM else 1.0


def cropped_from(info: PhotoInfo) -> tuple[int, int] | None:
    """The size that the camera wrote, if the photo has another shape; None if EXIF does not say so.

    A photo of the same shape was only made smaller or larger, of which all focal lengths above are
    independent. Programs that turn pixels upright often leave the numbers as they were."""
    if info.exif_size is None:
        return None
    long, short = max(info.size) / max(info.exif_size), min(info.size) / min(info.exif_size)
    rounding = 1.0 / min(*info.size, *info.exif_size)
    return info.exif_size if abs(math.log(long / short)) > SAME_SHAPE + 2 * rounding else None


def sensor_width(camera: str | None) -> float | None:
    """The width in millimetres of the sensor of a camera, as EXIF names it; None if it is not known."""
    if camera is None:
        return None
    name = re.sub(r"\s+", " ", camera.lower().replace("nikon corporation", "nikon"))
    return next((width for pattern, width in SENSORS if re.search(pattern, name)), None)
