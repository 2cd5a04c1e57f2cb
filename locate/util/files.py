"""Files that are there whole or not at all, their checksums, and locks."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

_UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # a folder of which that cannot be asked
_UNFINISHED = re.compile(r"\..+\.\d+-\d+\.writing", re.DOTALL)  # the names of `atomic_path`


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Atomic write: a name to write to; when the block ends well, what was written takes the place
    of `path`. Then it is on the disk, its name too. At any other end `path` is as it was and nothing
    is left, but for what a killed process wrote, which the next `sole_writer` deletes. Safe for one
    path from several threads and processes; the last one wins."""
    ending = f".{os.getpid()}-{threading.get_ident()}.writing"
    temporary = path.with_name(f".{path.name[:40]}{ending}")  # a name has 255 bytes at most
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """`atomic_path` as a binary stream."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        yield stream


def sync(file: Path) -> None:
    """Wait until what a file holds is on the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can tell."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _UNSYNCED:
            raise


def sha256_of(file: Path) -> str:
    """The sha256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_intact(file: Path, sha256: str) -> bool:
    """Whether the file is there and holds what it held when it was written."""
    try:
        return sha256_of(file) == sha256
    except OSError:
        return False


@contextmanager
def sole_writer(lock: Path, busy: Exception, timeout: float = 0.0) -> Iterator[None]:
    """Exclusive lock: be the only one that writes into the folder of the file `lock`; raises `busy`
    if another process holds it for longer than `timeout` seconds. The operating system drops the
    lock of a process that dies; what it had not finished is deleted."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=timeout)
    except Timeout:
        raise busy from None
    try:
        sweep(lock.parent)
        yield
    finally:
        held.release()


def sweep(folder: Path) -> None:
    """Delete what killed writers left unfinished in a folder that nobody else writes to now."""
    for file in folder.glob(".*.writing"):
        if _UNFINISHED.fullmatch(file.name):
            file.unlink(missing_ok=True)
