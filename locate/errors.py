"""Every error that `locate` raises on purpose.

    LocateError
    ├── InputError (ValueError)       a value that the caller gave cannot be used
    │   ├── ImageError                a file that is not a usable photo
    │   ├── NoPhotoError              there is no photo in what was named
    │   ├── NoMapError                these photos do not make a map
    │   └── UnknownNameError          no extractor, label rule, ... of that name
    ├── DatabaseError                 the folder that `locate build-index` makes
    │   ├── DatabaseMissingError      there is none, or it is empty
    │   ├── DatabaseLockedError       another process is writing to it
    │   ├── DatabaseMismatchError     it was filled by another extractor, weights or version
    │   └── DatabaseCorruptError      a checksum or an invariant does not hold
    ├── WeightsError                  a weights file does not fit its network
    ├── TrainingError                 a training cannot go on
    └── MissingExtraError (ImportError)  an optional package is not installed

A message names the value that is wrong and the cure. `assert` is for our own bugs only.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class LocateError(Exception):
    """Base of every error that `locate` raises on purpose."""


class InputError(LocateError, ValueError):
    """A value that the caller gave cannot be used."""


class ImageError(InputError):
    """A file that is not a usable photo; reason and cure are one clause each."""

    def __init__(self, path: Path | str, reason: str, cure: str) -> None:
        super().__init__(f"{path}: {reason}; {cure}")
        self.path, self.reason, self.cure = Path(path), reason, cure


class NoPhotoError(InputError):
    """There is no photo in what was named."""


class NoMapError(InputError):
    """These photos do not make a map: too few of them, or they see nothing in common."""


class UnknownNameError(InputError):
    """A name that nothing is registered under; the message lists the known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")


class DatabaseError(LocateError):
    """Something about the database folder."""


class DatabaseMissingError(DatabaseError):
    """There is no database where one was looked for, or it holds nothing yet."""


class DatabaseLockedError(DatabaseError):
    """Another process is writing to the database."""


class DatabaseMismatchError(DatabaseError):
    """The database was filled by another extractor, other weights or a newer `locate`."""


class DatabaseCorruptError(DatabaseError):
    """A checksum or an invariant of the database does not hold."""


class WeightsError(LocateError):
    """A weights file is missing or does not fit its network."""


class TrainingError(LocateError):
    """A training cannot go on; its last checkpoint is as it was."""


class MissingExtraError(LocateError, ImportError):
    """An optional package is not installed; the message is the install line."""
