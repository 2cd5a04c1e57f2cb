"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def write_beside(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when it is complete; a kill leaves `path` as it was."""
    temporary = path.with_name(f".{os.getpid()}-{threading.get_ident()}.writing")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def beside(file: Path) -> Iterator[Path]:
    """A name to write to; what was written takes the place of `file` when the block ends well."""
    temporary = file.with_name(f"{file.name}.writing")
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_intact(file: Path, sha256: str) -> bool:
    """Whether the file is there and holds what it held when it was written."""
    try:
        return sha256_of(file) == sha256
    except OSError:
        return False
