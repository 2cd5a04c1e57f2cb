"""Files derived from the catalogue: at any instant there is a complete set of them or none.

A set is a record `STEM.json` and the files that it names with their sha256. Everything is written beside
and renamed, the record last; a file that a record names is never changed in place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar

from index.vectors.base import LocalInfo, VectorsInfo
from locate.errors import DatabaseError
from locate.util.files import atomic_path, sha256_of

Writer = Callable[[Path], object]
Record = TypeVar("Record", VectorsInfo, LocalInfo)


def publish(
    folder: Path, stem: str, writers: Mapping[str, tuple[str, Writer]], record: Record
) -> Record:
    """Write a set of files and put it in the place of the old one; its whole record. `DatabaseError` if
    it cannot be written; the old set is still there.

    Args:
        stem: what the names of all files of the set begin with.
        writers: what writes a file, with the ending of its name, by the prefix of the fields of the
            record ("file", "sha256") that get its name and sha256, and which it lacks.
    """
    named: dict[str, Any] = {}
    try:
        for prefix, (ending, write) in writers.items():
            name = _unused(folder, f"{stem}-{record.generation:08d}", ending)
            with atomic_path(folder / name) as temporary:
                write(temporary)
                named |= {f"{prefix}file": name, f"{prefix}sha256": sha256_of(temporary)}
        whole = replace(record, **named)
        with atomic_path(folder / f"{stem}.json") as temporary:
            temporary.write_text(json.dumps(asdict(whole), indent=1))
    except (OSError, RuntimeError) as error:  # FAISS raises RuntimeError on a full disk
        raise DatabaseError(
            f"cannot write the search index in {folder} ({error}); free some space and run: "
            "locate check --repair. The catalogue is complete and queries work meanwhile"
        ) from error
    # Readers that opened the old record a moment ago hold its files open (POSIX keeps them until
    # then) or start again from the new record.
    forget(folder, stem, keep={name for key, name in named.items() if key.endswith("file")})
    return whole


def forget(folder: Path, stem: str, keep: set[str] | None = None) -> None:
    """Delete the files of a set, those that a killed process left too; the record with them unless
    some are to be kept."""
    if not keep:
        (folder / f"{stem}.json").unlink(missing_ok=True)
    for file in folder.glob(f"{stem}-*"):
        if file.name not in (keep or ()):
            file.unlink(missing_ok=True)


def read_record(folder: Path, stem: str, kind: type[Record]) -> Record | None:
    """The record; None if there is none or it cannot be read."""
    try:
        return kind(**json.loads((folder / f"{stem}.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _unused(folder: Path, start: str, ending: str) -> str:
    """A file name that the present record cannot hold: built anew at the same generation, its files
    must stay until the new record is in place."""
    suffixes = chain([""], (f"-{i}" for i in count(2)))
    names = (f"{start}{suffix}{ending}" for suffix in suffixes)
    return next(name for name in names if not (folder / name).exists())
