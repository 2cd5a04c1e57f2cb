"""Which photos lie below a folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from locate.errors import InputError
from locate.images import is_photo_name


@dataclass(frozen=True)
class Found:
    """A file that looks like a photo by its name.

    Attributes:
        path: relative to the root, forward slashes.
        absolute: where it lies.
        bytes, mtime_ns: as the file system says.
        error: why it cannot even be looked at, or None.
    """

    path: str
    absolute: Path
    bytes: int
    mtime_ns: int
    error: str | None = None


def scan(root: Path) -> Iterator[Found]:
    """Photos below `root`, recursively, sorted within each folder.

    Hidden files and folders (a leading dot: caches, macOS's "._" files, `.locate` itself) are left
    out; links are followed, each folder once. A folder that cannot be listed is found with its error.

    Raises:
        InputError: `root` is not a folder.
    """
    if not root.exists():
        raise InputError(f"{root} does not exist; name a folder of photos")
    if not root.is_dir():
        raise InputError(f"{root} is a file; name a folder, or use: locate add {root}")
    seen: set[tuple[int, int]] = set()
    unlisted: list[OSError] = []
    for folder, folders, files in os.walk(root, onerror=unlisted.append, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_photo_name(name) and not name.startswith("."):
                yield look(Path(folder) / name, root)
    for error in unlisted:
        reason = f"cannot be listed ({error.strerror}); check its permissions"
        yield dataclasses.replace(look(Path(error.filename), root), error=reason)


def look(file: Path, root: Path) -> Found:
    """One file below `root`."""
    path = file.relative_to(root).as_posix()
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        safe = path.encode("utf-8", "backslashreplace").decode()
        return Found(safe, file, 0, 0, "its name is not valid UTF-8; rename it")
    try:
        status = file.stat()
    except OSError as error:
        return Found(path, file, 0, 0, f"cannot be read ({error.strerror}); check the link or disk")
    return Found(path, file, status.st_size, status.st_mtime_ns)
