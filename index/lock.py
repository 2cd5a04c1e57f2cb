"""One writer at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from locate.errors import DatabaseLockedError
from locate.util.files import sole_writer


def writer(folder: Path, timeout: float = 0.0) -> AbstractContextManager[None]:
    """Be the only writer of the database at `folder`; readers are not kept out. `DatabaseLockedError` if
    another process is, for longer than `timeout` seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"another process is writing to {folder}; wait for it to finish and try again"
    return sole_writer(folder / "lock", DatabaseLockedError(busy), timeout)
