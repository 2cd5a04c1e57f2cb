"""The canvas of pictures: colors, dots and lines at parts of pixels, text in boxes."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw

from locate.retrieval.verdict import MATCH, NO_MATCH, UNCERTAIN, UNVERIFIED
from locate.types import Array
from pipelines.reports.text import Font

VERDICT_COLOURS = {  # RGB; white text on each has a contrast of at least 4.5
    MATCH: (26, 127, 55),
    UNCERTAIN: (154, 103, 0),
    NO_MATCH: (188, 48, 48),
    UNVERIFIED: (87, 96, 106),
}
BAR_HEIGHT = 64
BACKGROUND, TEXT, FAINT = (22, 24, 29), (240, 242, 245), (160, 167, 177)
OUTLINE = (12, 12, 12)
_ANGLES = np.arange(16) * (2 * np.pi / 16)
_RING = np.stack((np.cos(_ANGLES), np.sin(_ANGLES)), axis=1)  # 16 x 2, the unit circle
_SUBPIXEL = 4  # fractional bits of the coordinates handed to OpenCV


def spread_evenly(points: Array, count: int) -> Array:
    """Indices of at most `count` points, each the farthest from those before it.

    Args:
        points: N x D; the first chosen is the one nearest to their mean.
    """
    if len(points) <= count:
        return np.arange(len(points))
    chosen = [int(np.argmin(np.linalg.norm(points - points.mean(axis=0), axis=1)))]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return np.array(chosen)


def _fixed(values: Array) -> tuple[int, int]:
    """OpenCV's fixed-point coordinates; a pixel's centre is an integer there as well."""
    x, y = np.rint(np.asarray(values, np.float64) * 2**_SUBPIXEL).astype(int).tolist()
    return x, y


def _rgb(colour: tuple[int, ...] | Array) -> tuple[int, ...]:
    return tuple(int(c) for c in colour)


def draw_dot(canvas: Array, point: Array, radius: float, colour: tuple[int, ...] | Array) -> None:
    # OpenCV's own small circles are diamonds.
    ring = np.rint((point + radius * _RING) * 2**_SUBPIXEL).astype(np.int32)
    cv2.fillConvexPoly(canvas, ring, _rgb(colour), cv2.LINE_AA, _SUBPIXEL)


def draw_line(
    canvas: Array, start: Array, end: Array, colour: tuple[int, ...] | Array, width: int
) -> None:
    cv2.line(canvas, _fixed(start), _fixed(end), _rgb(colour), width, cv2.LINE_AA, _SUBPIXEL)


def draw_boxed(
    drawing: Image.Image, place: tuple[int, int], text: str, font: Font, anchor: str
) -> None:
    draw = ImageDraw.Draw(drawing, "RGBA")  # so that the box lets the photo through
    # The height of the box is that of any text, whatever letters this one has.
    _, top, _, bottom = draw.textbbox(place, "Ag", font, anchor=anchor)
    left, _, right, _ = draw.textbbox(place, text, font, anchor=anchor)
    draw.rounded_rectangle((left - 7, top - 5, right + 7, bottom + 5), 6, (0, 0, 0, 165))
    draw.text(place, text, TEXT, font, anchor=anchor)
