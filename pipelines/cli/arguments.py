"""The parser of all commands: argparse, for which "-1.5,2,3" is a value and no option."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from locate.util.printable import visible

# No option of ours begins so. argparse knows single numbers, but not lists of them.
_NUMBERS = re.compile(r"-(\.?\d|inf|nan)", re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """Sub-parsers are of the same class, so that this holds for every option of every command."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._negative_number_matcher = _NUMBERS
        self._given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = args or ()
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Usage, the message, and the way out for files whose names look like options."""
        named = [word for word in self._given if word.startswith("-") and _is_file(word)]
        if named:
            message += f" (for the file of that name write ./{named[0]})"
        super().error(visible(message))


def add_masks(parser: argparse.ArgumentParser, *, remembered: bool = False) -> None:
    """--masks, which is the same in every command that looks at photos.

    Args:
        remembered: the database or map keeps it for later runs.
    """
    later = " (default: as before; none: without any)" if remembered else ""
    parser.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="ignore what is black in the masks of the photos, as in COLMAP: of a/b.jpg "
        f"DIR/a/b.jpg.png; DIR/mask.png is for all photos without their own{later}",
    )


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False
