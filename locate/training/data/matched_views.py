"""Crops of pairs of photos whose shared points are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from locate.errors import ImageError
from locate.images.reading import read_photo
from locate.training.data.correspondences import MatchedCrop, MatchedPair, crop_matched_pair
from locate.training.data.photos import PhotoPool


class MatchedViews:
    """Of the pairs whose photos are both in a pool and not held out there, `pairs`; photos are kept in
    memory with a long side of `read_side` pixels."""

    def __init__(self, pairs: Sequence[MatchedPair], pool: PhotoPool, read_side: int) -> None:
        self.pairs = [pair for pair in pairs if pool.in_training(pair.image_a, pair.image_b)]
        self._pool, self._read_side = pool, read_side
        images = {path for pair in self.pairs for path in (pair.image_a, pair.image_b)}
        self._sizes = {path: read_photo(path, min_long_side=1).info.size for path in images}

    def __len__(self) -> int:
        return len(self.pairs)

    def draw(self, rng: np.random.Generator, size: int) -> MatchedCrop | None:
        """`crop` of a random pair."""
        return self.crop(self.pick(rng), rng, size)

    def pick(self, rng: np.random.Generator) -> MatchedPair:
        return self.pairs[int(rng.integers(len(self.pairs)))]

    def crop(self, pair: MatchedPair, rng: np.random.Generator, size: int) -> MatchedCrop | None:
        """Windows of `size` pixels, see `crop_matched_pair`; None if a photo cannot be decoded any more,
        which the pool has said."""
        paths = (pair.image_a, pair.image_b)
        try:
            a, b = (self._pool.read(self._pool.index[p], self._read_side) for p in paths)
        except ImageError:
            return None
        sizes = (self._sizes[pair.image_a], self._sizes[pair.image_b])
        return crop_matched_pair(pair, (a, b), rng, size, sizes=sizes)
