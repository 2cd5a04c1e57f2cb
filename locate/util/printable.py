"""Names as people may see them: what would move a cursor, turn the text round or break a line is
spelled out.

A file name, a label or a camera's name in EXIF may hold anything: line breaks that forge lines, escape
sequences that a terminal obeys, marks that turn the direction of writing (Unicode Technical Report 36,
"Unicode security considerations"), halves of characters. JSON has escapes and gets names as they are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Controls, format characters (direction marks, joiners, ...), lone surrogates, line and paragraph ends.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: object) -> str:
    r"""`str(text)` on one line, with Python's escapes (\n, \x1b, \u202e) for what cannot be seen."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _HIDDEN else c
        for c in shown
    )


def first_few(items: Sequence[str], between: str = ", ", *, most: int = 3) -> str:
    """The first of many, in a message."""
    more = f"{between}and {len(items) - most} more" if len(items) > most else ""
    return between.join(items[:most]) + more


def in_markup(text: object) -> str:
    """`visible`, and safe within rich's markup."""
    from rich.markup import escape

    return escape(visible(text))
