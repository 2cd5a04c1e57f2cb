"""Copies of safetensors files that a database cannot do without, in folders of it, by their sha256."""

from __future__ import annotations

import shutil
from pathlib import Path

from locate.errors import DatabaseError, InputError
from locate.util.files import atomic_path, is_intact, sha256_of, sweep


def file_in(folder: Path, sha256: str) -> Path:
    """Where the copy of this hash lies."""
    return folder / f"{sha256}.safetensors"


def hash_of(file: Path) -> str:
    """Its sha256; `InputError` if it cannot be read."""
    try:
        return sha256_of(file)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}); check the name") from error


def keep(folder: Path, source: Path) -> str:
    """Copy a file into `folder` unless it is there already; its sha256. Hold the database's lock."""
    sha256 = hash_of(source)
    file = file_in(folder, sha256)
    if is_intact(file, sha256):
        return sha256
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        with atomic_path(file) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as error:
        why = f"cannot copy {source} to {file} ({error.strerror})"
        raise DatabaseError(f"{why}; check the disk and permissions") from error
    return sha256
