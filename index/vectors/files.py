"""Files derived from the catalogue: at any instant there is a complete set of them or none.

A set is a record `STEM.json` and the files that it names with their sha256. Everything is written beside
and renamed, the record last; a file that a record names is never changed in place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from locate.errors import DatabaseError
from locate.util.files import atomic_path, sha256_of

Writer = Callable[[Path], object]


@dataclass(frozen=True)
class Part:
    """A file of a set, by its name in the folder, and its sha256."""

    file: str
    sha256: str


def publish(
    folder: Path,
    stem: str,
    generation: int,
    writers: Mapping[str, Writer],
    record: Callable[[Mapping[str, Part]], Mapping[str, Any]],
) -> dict[str, Any]:
    """Write a set of files and put it in the place of the old one, which stays until then.

    Args:
        stem: what the names of all files of the set begin with.
        generation: of the catalogue; a part of their names.
        writers: by the ending of the file's name (".faiss"), what writes it.
        record: what the record says, given the parts by ending.

    Returns:
        The record.

    Raises:
        DatabaseError: it cannot be written; the old set is still there.
    """
    parts: dict[str, Part] = {}
    try:
        for ending, write in writers.items():
            name = _unused(folder, f"{stem}-{generation:08d}", ending)
            with atomic_path(folder / name) as temporary:
                write(temporary)
                parts[ending] = Part(name, sha256_of(temporary))
        values = dict(record(parts))
        with atomic_path(folder / f"{stem}.json") as temporary:
            temporary.write_text(json.dumps(values, indent=1))
    except (OSError, RuntimeError) as error:  # FAISS raises RuntimeError on a full disk
        raise DatabaseError(
            f"cannot write the search index in {folder} ({error}); free some space and run: "
            "locate check --repair. The catalogue is complete and queries work meanwhile"
        ) from error
    # Readers that opened the old record a moment ago hold its files open (POSIX keeps them until
    # then) or start again from the new record.
    forget(folder, stem, keep={part.file for part in parts.values()})
    return values


def forget(folder: Path, stem: str, keep: set[str] | None = None) -> None:
    """Delete the files of a set, those that a killed process left too; the record with them unless
    some are to be kept."""
    if not keep:
        (folder / f"{stem}.json").unlink(missing_ok=True)
    for file in folder.glob(f"{stem}-*"):
        if file.name not in (keep or ()):
            file.unlink(missing_ok=True)


def read_record(folder: Path, stem: str) -> dict[str, Any] | None:
    """What the record says; None if there is none or it cannot be read."""
    try:
        values = json.loads((folder / f"{stem}.json").read_text())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _unused(folder: Path, start: str, ending: str) -> str:
    """A file name that the present record cannot hold: built anew at the same generation, its files
    must stay until the new record is in place."""
    names = (f"{start}{suffix}{ending}" for suffix in _suffixes())
    return next(name for name in names if not (folder / name).exists())


def _suffixes() -> Iterator[str]:
    yield ""
    yield from (f"-{i}" for i in count(2))
