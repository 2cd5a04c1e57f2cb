"""Copies of the weights files that a database was filled with, so that it needs nothing else.

They lie in `weights/` under their sha256. What must be there is recorded in the catalogue (`meta`
"weights"), so that a missing one is noticed before anything is computed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from index.catalog import Catalog
from locate.errors import DatabaseError, DatabaseMismatchError, InputError
from locate.util.files import atomic_path, is_intact, sha256_of, sweep

FOLDER = "weights"
_KEY = "weights"
_CURE = "bring it back with: locate build-index PHOTOS --weights FILE"


def file_of(folder: Path, sha256: str) -> Path:
    """Where the database at `folder` keeps the weights of this hash."""
    return folder / FOLDER / f"{sha256}.safetensors"


def hash_of(file: Path) -> str:
    """The sha256 of a weights file; `InputError` if it cannot be read."""
    try:
        return sha256_of(file)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); check the name") from error


def store(folder: Path, source: Path) -> str:
    """Copy a weights file into the database unless it is there already; its sha256. Hold the lock."""
    sha256 = hash_of(source)
    file = file_of(folder, sha256)
    if is_intact(file, sha256):
        return sha256
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        sweep(file.parent)
        with atomic_path(file) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        why = f"cannot copy {source} to {file} ({error.strerror})"
        raise DatabaseError(f"{why}; check the disk and permissions") from error
    return sha256


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
