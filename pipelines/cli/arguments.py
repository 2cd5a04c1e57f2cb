"""The parser of all commands: argparse, for which "-1.5,2,3" is a value and no option."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from locate.errors import InputError
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


def add_extractor(parser: argparse.ArgumentParser, default: str) -> None:
    """--extractor, --weights and --set, by which features are chosen."""
    parser.add_argument(
        "--extractor", metavar="NAME", help=f"what looks at the photos (default: {default})"
    )
    parser.add_argument(
        "--weights",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="what `locate train` made, for the part of the extractor that it names (repeatable)",
    )
    add_settings(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """--set, which is the same wherever an extractor is chosen."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the extractor, such as max_keypoints=8192, or sift.max_keypoints=8192 of one "
        "part of a pair (repeatable)",
    )


def settings_of(words: Sequence[str]) -> dict[str, str]:
    """What was given by --set, still as text."""
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise InputError(f"--set is NAME=VALUE, such as max_keypoints=8192, not {word!r}")
        settings[name] = value
    return settings


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False
