"""Which local features of two images belong together: mutual nearest neighbours and Lowe's ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from locate.types import Array

_TINY = 1e-6  # a length that is less is none
# Lowe's ratio of an extractor that has none of its own: benchmarks/ablations/verifiers.py; with a map a
# RANSAC on 3-D points follows, which takes more wrong matches.
_RATIOS = {"query": 0.8, "map": 0.85}


class Ratios(Protocol):
    """An extractor's own ratios of Lowe's test, as `locate.extractors.base.ExtractorInfo` has them."""

    @property
    def ratio(self) -> float | None: ...
    @property
    def query_ratio(self) -> float | None: ...


def ratio_for(purpose: Literal["query", "map"], own: Ratios) -> float:
    """Lowe's ratio for a query with a database image, or for making and localizing in a map."""
    return (own.query_ratio if purpose == "query" else None) or own.ratio or _RATIOS[purpose]


def match_mutual(a: Array, b: Array, ratio: float | None = None) -> Array:
    """Mutual nearest neighbours among L2-normalised descriptors, N x D and M x D, float16 or
    float32: K x 2 int32, indices (into a, into b), in the order of a.

    Args:
        ratio: Lowe's test (IJCV 2004, section 7.1) in the direction a -> b: keep a match only if
            its distance is below `ratio` times the distance to the second nearest; None for no test.
    """
    if len(a) == 0 or len(b) == 0:
        return np.zeros((0, 2), np.int32)
    similarity = np.asarray(a, np.float32) @ np.asarray(b, np.float32).T
    rows = np.arange(len(a))
    nearest = similarity.argmax(axis=1)
    best = similarity[rows, nearest]
    # Mutual: the best of its row is the best of its column too. Comparing values is twenty times
    # faster than an argmax down the columns.
    keep = best == similarity.max(axis=0)[nearest]
    if ratio is not None and len(b) > 1:
        similarity[rows, nearest] = -2.0
        second = similarity.max(axis=1)
        # |x - y|^2 = 2 - 2 x.y for unit vectors
        keep &= (2 - 2 * best).clip(min=0) < ratio**2 * (2 - 2 * second)
    index = np.flatnonzero(keep)
    return np.stack((index, nearest[index]), axis=1).astype(np.int32)


def weighted(descriptors: Array, parts: Sequence[int], shares: Sequence[float]) -> Array:
    """Descriptors (N x D float16 or float32) whose parts, of these lengths, weigh their share of a
    cosine (1 in all): N x (length of all parts with a share) float32; unit rows where no part is
    zero."""
    ends = np.cumsum(parts)
    found = []
    for end, width, share in zip(ends, parts, shares, strict=True):
        if share:
            part = np.asarray(descriptors[:, end - width : end], np.float32)
            length = np.linalg.norm(part, axis=1, keepdims=True)
            found.append(part * (share**0.5 / np.maximum(length, _TINY)))
    return np.concatenate(found, axis=1)
