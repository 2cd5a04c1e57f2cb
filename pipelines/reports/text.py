"""Text in pictures: the font, and words that fit and that it can draw."""

from __future__ import annotations

import textwrap
import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont
from PIL.ImageFont import FreeTypeFont as Font


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
