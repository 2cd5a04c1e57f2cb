"""The canvas of pictures: a caption above a photo, dots and lines at parts of pixels, text in boxes.

Points are (x, y) in our pixels: a pixel's center is an integer for OpenCV as well.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.ImageFont import FreeTypeFont as Font

from locate.errors import ImageError
from locate.localization.pose import LOCALIZED, NOT_LOCALIZED
from locate.retrieval.verdict import MATCH, NO_MATCH, UNCERTAIN, UNVERIFIED
from locate.types import Array

Color = tuple[int, ...] | Array  # R, G and B from 0 to 255

VERDICT_COLORS = {  # RGB; white text on each has a contrast of at least 4.5
    MATCH: (26, 127, 55),
    LOCALIZED: (26, 127, 55),
    UNCERTAIN: (154, 103, 0),  # of places and of poses
    NO_MATCH: (188, 48, 48),
    NOT_LOCALIZED: (188, 48, 48),
    UNVERIFIED: (87, 96, 106),
}
BAR_HEIGHT = 64  # pixels of the caption above the photos
BACKGROUND, OUTLINE = (22, 24, 29), (12, 12, 12)
_TEXT, _FAINT, _NO_PHOTO = (240, 242, 245), (160, 167, 177), (72, 76, 84)
_ROWS = ((21, 19, _TEXT), (47, 14, _FAINT))  # of the caption: middle, pixels of a letter, color
_MARGIN = 12  # pixels left and right of the caption's text
_ANGLES = np.arange(16) * (2 * np.pi / 16)
_RING = np.stack((np.cos(_ANGLES), np.sin(_ANGLES)), axis=1)  # 16 x 2, the unit circle
_SUBPIXEL = 4  # fractional bits of the coordinates handed to OpenCV


def spread_evenly(points: Array, count: int) -> Array:
    """Farthest point sampling of N x D points: indices of at most `count`, each the farthest from those
    before; the first is the one nearest to their mean."""
    if len(points) <= count:
        return np.arange(len(points))
    chosen = [int(np.argmin(np.linalg.norm(points - points.mean(axis=0), axis=1)))]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return np.array(chosen)


def blank(width: int, height: int) -> Array:
    """(`BAR_HEIGHT` + height) x width x 3 uint8 RGB: the caption's bar and room for photos."""
    return np.full((BAR_HEIGHT + height, width, 3), BACKGROUND, np.uint8)


def draw_dot(canvas: Array, point: Array, radius: float, color: Color) -> None:
    # OpenCV's own small circles are diamonds.
    ring = _fixed(point + radius * _RING).astype(np.int32)
    cv2.fillConvexPoly(canvas, ring, _rgb(color), cv2.LINE_AA, _SUBPIXEL)


def draw_circle(canvas: Array, point: Array, radius: int, color: Color, width: int) -> None:
    x, y = _fixed(point).tolist()
    cv2.circle(canvas, (x, y), radius << _SUBPIXEL, _rgb(color), width, cv2.LINE_AA, _SUBPIXEL)


def draw_line(canvas: Array, start: Array, end: Array, color: Color, width: int) -> None:
    a, b = _fixed(start).tolist(), _fixed(end).tolist()
    cv2.line(canvas, a, b, _rgb(color), width, cv2.LINE_AA, _SUBPIXEL)


def _fixed(points: Array) -> Array:
    """OpenCV's fixed-point coordinates."""
    return np.asarray(np.rint(np.asarray(points, np.float64) * 2**_SUBPIXEL), np.int64)


def _rgb(color: Color) -> tuple[int, ...]:
    return tuple(map(int, color))


@lru_cache(maxsize=16)
def load_font(size: int) -> Font:
    """DejaVu Sans as it comes with matplotlib, at `size` pixels: the same letters on every machine."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


@lru_cache(maxsize=4096)
def _has_glyph(font: Font, character: str) -> bool:
    if not character.isprintable():
        return False
    shown, unknown = font.getmask(character), font.getmask("\uffff")
    return shown.size != unknown.size or bytes(shown) != bytes(unknown)


def drawable(text: str, font: Font) -> str:
    """`text` in what the font can draw: an accent is dropped sooner than its letter, which becomes
    a question mark at last."""
    out = []
    for character in unicodedata.normalize("NFC", text):
        options = (character, unicodedata.normalize("NFKD", character)[0])
        out.append(next((o for o in options if _has_glyph(font, o)), "?"))
    return "".join(out)


def elided(text: str, font: Font, width: float) -> str:
    """`text` with its middle left out if it is wider than `width` pixels."""
    text = drawable(text[:300], font)
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = text[: (kept + 1) // 2] + "..." + text[len(text) - kept // 2 :]
        if font.getlength(short) <= width:
            return short
    return "..."


def wrapped(text: str, font: Font, width: float, lines: int) -> str:
    """`text` in at most so many lines, about `width` pixels wide."""
    letters = max(8, int(width / font.getlength("n")))
    return "\n".join(drawable(x, font) for x in textwrap.wrap(text, letters, max_lines=lines))


def draw_caption(
    drawing: Image.Image, verdict: str, title: str, subtitle: str, facts: Sequence[str]
) -> None:
    """Two rows above the photos: the verdict, a title and the first fact; a subtitle and the second."""
    draw = ImageDraw.Draw(drawing)
    middle, size, _ = _ROWS[0]
    word, font = drawable(verdict, load_font(size)), load_font(size)
    pill = draw.textlength(word, font=font) + 2 * _MARGIN
    box = (_MARGIN, middle - 14, _MARGIN + pill, middle + 14)
    draw.rounded_rectangle(box, 8, VERDICT_COLORS.get(verdict, VERDICT_COLORS[UNVERIFIED]))
    draw.text((2 * _MARGIN, middle), word, (255, 255, 255), font, anchor="lm")
    for row, (left, text) in enumerate(((2 * _MARGIN + pill, title), (_MARGIN, subtitle))):
        y, size, color = _ROWS[row]
        font, right = load_font(size), float(drawing.width - _MARGIN)
        if row < len(facts):
            fact = drawable(facts[row], font)
            draw.text((right, y), fact, color, font, anchor="rm")
            right -= draw.textlength(fact, font=font) + _MARGIN
        draw.text((left, y), elided(text, font, right - left), color, font, anchor="lm")


def draw_tag(drawing: Image.Image, left: int, width: int, text: str) -> None:
    """What a photo `width` pixels wide is, in its upper left corner."""
    _draw_boxed(drawing, (left + 14, BAR_HEIGHT + 19), text, 13, width - 28, "lm")


def draw_note(drawing: Image.Image, text: str) -> None:
    """What there is to say instead of lines, at the bottom."""
    place = (drawing.width // 2, drawing.height - 28)
    _draw_boxed(drawing, place, text, 16, drawing.width - 40, "mm")


def _draw_boxed(
    drawing: Image.Image, place: tuple[int, int], text: str, size: int, room: float, anchor: str
) -> None:
    draw, font = ImageDraw.Draw(drawing, "RGBA"), load_font(size)  # the box lets the photo through
    text = elided(text, font, room)
    # The height of the box is that of any text, whatever letters this one has.
    _, top, _, bottom = draw.textbbox(place, "Ag", font, anchor=anchor)
    left, _, right, _ = draw.textbbox(place, text, font, anchor=anchor)
    draw.rounded_rectangle((left - 7, top - 5, right + 7, bottom + 5), 6, (0, 0, 0, 165))
    draw.text(place, text, _TEXT, font, anchor=anchor)


def draw_reason(drawing: Image.Image, text: str) -> None:
    """Why a photo has no marks, in some lines in the middle of its lower half."""
    draw, font = ImageDraw.Draw(drawing, "RGBA"), load_font(18)
    shown = wrapped(text, font, drawing.width * 0.8, 5)
    place = (drawing.width / 2, BAR_HEIGHT + (drawing.height - BAR_HEIGHT) * 0.75)
    left, top, right, bottom = draw.multiline_textbbox(place, shown, font, anchor="mm")
    draw.rounded_rectangle((left - 12, top - 9, right + 12, bottom + 9), 8, (0, 0, 0, 175))
    draw.multiline_text(place, shown, _TEXT, font, anchor="mm", align="center")


def missing_photo(error: ImageError, size: tuple[int, int]) -> Array:
    """height x width x 3 uint8 RGB: a gray panel that says why there is no photo."""
    panel, font = Image.new("RGB", size, _NO_PHOTO), load_font(16)
    reason = wrapped(f"{error.path.name} {error.reason}", font, size[0] * 0.85, 6)
    place, text = (size[0] / 2, size[1] / 2), f"no picture\n\n{reason}"
    draw = ImageDraw.Draw(panel)
    draw.multiline_text(place, text, _TEXT, font, anchor="mm", align="center", spacing=6)
    return np.array(panel)
