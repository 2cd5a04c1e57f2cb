"""Which image each row of the local index belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from locate.errors import DatabaseCorruptError
from locate.types import Array


@dataclass(frozen=True, eq=False)
class RowMap:
    """Images (N int64 ids of the catalogue, first rows, ascending, and counts of at least 1) take
    consecutive rows; where one was removed there is a gap."""

    image_ids: Array
    first: Array
    counts: Array

    def __post_init__(self) -> None:
        n = len(self.image_ids)
        arrays = (self.image_ids, self.first, self.counts)
        fits = all(a.shape == (n,) and a.dtype == np.int64 for a in arrays)
        if not fits or np.any(self.counts < 1) or np.any(np.diff(self.first) < self.counts[:-1]):
            why = "the rows of the local search index overlap"
            raise DatabaseCorruptError(f"{why}; run: locate check --repair")

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def end(self) -> int:
        """One more than the last row."""
        return int(self.first[-1] + self.counts[-1]) if len(self) else 0

    def positions(self, rows: Array) -> Array:
        """For rows of any shape the position of their image in `image_ids`; negative rows give -1."""
        found = np.searchsorted(self.first, rows, side="right") - 1
        return np.asarray(np.where(rows < 0, -1, found))

    def rows_of(self, image_ids: Array) -> Array:
        """All rows of some images, int64 ascending; an image that has none is passed over."""
        chosen = np.isin(self.image_ids, image_ids)
        first, counts = self.first[chosen], self.counts[chosen]
        ends = np.cumsum(counts)
        rows: Array = np.arange(counts.sum()) + np.repeat(first - (ends - counts), counts)
        return rows

    def without(self, image_ids: Array) -> RowMap:
        keep = ~np.isin(self.image_ids, image_ids)
        return RowMap(self.image_ids[keep], self.first[keep], self.counts[keep])

    def extended(self, image_ids: Array, counts: Array, start: int) -> RowMap:
        """With further images whose rows begin at `start`."""
        counts = np.asarray(counts, np.int64)
        new = (np.asarray(image_ids, np.int64), start + np.cumsum(counts) - counts, counts)
        own = (self.image_ids, self.first, self.counts)
        return RowMap(*map(np.concatenate, zip(own, new, strict=True)))

    @classmethod
    def empty(cls) -> RowMap:
        none = np.zeros(0, np.int64)
        return cls(none, none, none)

    def save(self, file: Path) -> None:
        with file.open("wb") as stream:
            np.save(stream, np.stack((self.image_ids, self.first, self.counts)))

    @classmethod
    def load(cls, file: Path) -> RowMap:
        """Raises OSError or ValueError where `file` is none of ours."""
        image_ids, first, counts = np.load(file, allow_pickle=False)
        return cls(image_ids, first, counts)
