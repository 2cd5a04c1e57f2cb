"""One writer at a time. The operating system drops the lock of a process that dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from locate.errors import DatabaseLockedError


@contextmanager
def writer(folder: Path, timeout: float = 0.0) -> Iterator[None]:
    """Be the only writer of the database at `folder`; readers are not kept out.

    Raises:
        DatabaseLockedError: another process is, for longer than `timeout` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise DatabaseLockedError(
            f"another process is writing to {folder}; wait for it to finish and try again"
        ) from None
    try:
        yield
    finally:
        lock.release()
