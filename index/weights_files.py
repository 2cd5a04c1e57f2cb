"""Copies of the weights files that a database was filled with, so that it needs nothing else.

They lie in `weights/` under their sha256. What must be there is recorded in the catalogue (`meta`
"weights"), so that a missing one is noticed before anything is computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from index.catalog import Catalog
from index.kept_files import file_in, keep
from locate.errors import DatabaseMismatchError
from locate.util.files import is_intact

FOLDER = "weights"
_KEY = "weights"
_CURE = "bring it back with: locate build-index PHOTOS --weights FILE"


def file_of(folder: Path, sha256: str) -> Path:
    """Where the database at `folder` keeps the weights of this hash."""
    return file_in(folder / FOLDER, sha256)


def store(folder: Path, source: Path) -> str:
    """Copy a weights file into the database unless it is there already; its sha256. Hold the lock."""
    return keep(folder / FOLDER, source)


def verify(folder: Path, sha256: str) -> Path:
    """The copy of this hash; `DatabaseMismatchError` if it is missing or was altered."""
    file = file_of(folder, sha256)
    if not is_intact(file, sha256):
        what = "was altered since the database" if file.exists() else "is missing; the database"
        raise DatabaseMismatchError(f"{file} {what} was filled with it; {_CURE}")
    return file


def record(catalog: Catalog, hashes: Mapping[str, str]) -> None:
    """Note in the catalogue which weights, by extractor, lie in the folder. In a transaction."""
    if hashes:
        catalog.set_meta(_KEY, json.dumps(dict(hashes), sort_keys=True))


def recorded(catalog: Catalog) -> dict[str, str]:
    """The sha256 of the weights that must lie in the folder, by the extractor they are for."""
    return dict(json.loads(catalog.meta(_KEY) or "{}"))


def problems(catalog: Catalog) -> Iterator[str]:
    """One sentence for every copy that is missing or was altered."""
    for name, sha256 in recorded(catalog).items():
        file = file_of(catalog.folder, sha256)
        if not file.exists():
            yield f"the weights of {name} are missing: {file}; {_CURE}"
        elif not is_intact(file, sha256):
            yield f"the weights of {name} were altered: {file}; {_CURE}"
