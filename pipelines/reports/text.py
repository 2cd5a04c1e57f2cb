"""Text in pictures: a font that is there, and words that fit and that it can draw."""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from functools import lru_cache

from PIL import ImageFont

# Wide coverage of scripts first; Pillow's own font, the last resort, knows little beyond ASCII.
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "LiberationSans-Regular.ttf")
_SPELLED = str.maketrans(
    {"ß": "ss", "ø": "o", "ł": "l", "æ": "ae", "œ": "oe", "\u2013": "-", "\u2014": "-"}
)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@lru_cache(maxsize=16)
def load_font(size: int) -> Font:
    """The first font of the list that this machine has, at `size` pixels."""
    for name in _FONTS:
        with suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size=size)


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
        spelled = character.translate(_SPELLED)
        found = [o for o in (*options, spelled) if all(_has_glyph(font, c) for c in o)]
        out.append(found[0] if found else "?")
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
