"""Whether the photos on disk are still those that a database was made of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from index.catalog import Catalog
from index.check import Problem
from index.records import ImageRow
from locate.util.parallel import ordered_map


@dataclass(frozen=True)
class PhotoCheck:
    """Attributes:
    problems: one of each photo whose content is another.
    compared: how many photos were read.
    absent: how many are not there or cannot be read, which is no damage to the database.
    """

    problems: Sequence[Problem]
    compared: int
    absent: int


def check_photos(
    catalog: Catalog,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PhotoCheck:
    """Hash every photo of an indexed image and compare. Reads them all: size and date, by which a build
    knows what changed, can be those of the photo before.

    Args:
        workers: threads; by default one a core.
        progress: called with (photos done, in all) from this thread.
    """
    roots, rows = catalog.roots(), catalog.images("ok")
    problems, absent = [], 0
    paths = (roots[row.root_id] / row.path for row in rows)
    with closing(ordered_map(_hash, paths, workers, start=None)) as hashes:
        for done, (row, found) in enumerate(zip(rows, hashes, strict=True), 1):
            if found is None:
                absent += 1
            elif found[0] != row.file.sha256:
                problems.append(Problem(_what(row, found[1]), row.id))
            if progress is not None:
                progress(done, len(rows))
    return PhotoCheck(problems, len(rows) - absent, absent)


def _hash(path: Path) -> tuple[str, tuple[int, int]] | None:
    """The sha256 of a plain file, and its (size, mtime_ns); None if it cannot be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None
    return digest, (status.st_size, status.st_mtime_ns)


def _what(row: ImageRow, state: tuple[int, int]) -> str:
    if state == (row.file.bytes, row.file.mtime_ns):
        return (
            f"the photo {row.path} is another than the one that was indexed, of the same size and date; "
            "index it again with: locate build-index PHOTOS --checksum"
        )
    return (
        f"the photo {row.path} was changed since it was indexed; index it again with: locate "
        "build-index PHOTOS"
    )
