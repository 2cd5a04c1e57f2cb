"""From the path of a photo to the label of its landmark."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from locate.errors import InputError, UnknownNameError

LabelRule = Callable[[str], str | None]

RULES = ("folder", "parent", "name", "none", "csv:FILE", "regex:PATTERN")


def label_rule(text: str) -> LabelRule:
    """A function from a path relative to the root ("paris/louvre/1.jpg") to a label.

    "folder": the first folder ("paris"); "parent": the last ("louvre"); "name": the file's name less
    a number at its end; "none"; "csv:FILE": a table with columns image (path or name) and label (or
    landmark); "regex:PATTERN": the first group that PATTERN finds in the path.
    """
    kind, _, value = text.partition(":")
    match kind:
        case "folder" if not value:
            return lambda path: _nth_folder(path, 0)
        case "parent" if not value:
            return lambda path: _nth_folder(path, -1)
        case "name" if not value:
            return lambda path: re.sub(r"[-_ .]*\d+$", "", PurePosixPath(path).stem) or None
        case "none" if not value:
            return lambda _: None
        case "csv" if value:
            return _from_csv(Path(value))
        case "regex" if value:
            return _from_regex(value)
    raise UnknownNameError("label rule", text, RULES)


def _nth_folder(path: str, n: int) -> str | None:
    folders = PurePosixPath(path).parts[:-1]
    return folders[n] if folders else None


def _from_csv(file: Path) -> LabelRule:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the label table {file}: {error}") from error
    columns = set(rows[0]) if rows else set()
    column = next((name for name in ("label", "landmark") if name in columns), None)
    if "image" not in columns or column is None:
        raise InputError(
            f"{file} needs a header with columns image and label, found: "
            f"{', '.join(sorted(map(str, columns))) or 'nothing'}"
        )
    table = {row["image"]: row[column] for row in rows}
    return lambda path: table.get(path) or table.get(PurePosixPath(path).name) or None


def _from_regex(pattern: str) -> LabelRule:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        why = f"is not a regular expression: {error}"
        raise InputError(f"label rule regex:{pattern} {why}") from None
    if compiled.groups < 1:
        raise InputError(f"label rule regex:{pattern} needs a group in brackets")
    return lambda path: (found[1] or None) if (found := compiled.search(path)) else None
