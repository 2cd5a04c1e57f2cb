"""From the nearest database descriptors of a query to a ranking of images: each neighbour is a vote.

What counts how much was chosen by `benchmarks/ablations/local_search.py votes`, which compares the
rules on photos with labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from index.vectors.base import Neighbors
from index.vectors.row_map import RowMap
from locate.errors import InputError
from locate.types import Array, Shortlist

COUNT, SIMILARITY, MARGIN = "count", "similarity", "margin"


@dataclass(frozen=True)
class VotingRule:
    """How neighbors vote.

    Attributes:
        weight: of one vote. "count": 1. "similarity": the cosine. "margin": how much nearer it is
            than the last of the neighbors, which stands for what a descriptor of an unknown place
            finds by chance (McCann and Lowe, "Local Naive Bayes Nearest Neighbor", CVPR 2012).
        once: a query descriptor votes once for an image, and a database descriptor is voted for once,
            by its nearest: repeated structure must not outvote everything else (Jegou, Douze,
            Schmid, "On the burstiness of visual elements", CVPR 2009: removal of multiple matches).
        length: an image's votes are divided by the number of its descriptors to this power, since one
            that has many collects many by chance. (1 would favour images that have hardly any.)
    """

    weight: str = MARGIN
    once: bool = True
    length: float = 0.75

    def __post_init__(self) -> None:
        if self.weight not in (COUNT, SIMILARITY, MARGIN):
            known = f"{COUNT}, {SIMILARITY} or {MARGIN}"
            raise InputError(f"the weight of votes must be {known}, got {self.weight!r}")


DEFAULT_RULE = VotingRule()


def vote(neighbors: Neighbors, images: RowMap, rule: VotingRule = DEFAULT_RULE) -> Shortlist:
    """Gather the votes of all neighbors; images that get none are not in the ranking."""
    found = neighbors.rows >= 0
    weights = _weights(neighbors, found, rule.weight)[found]
    rows = neighbors.rows[found]
    image = images.positions(rows)
    if rule.once:
        asking = np.nonzero(found)[0]
        best = np.argsort(-weights, kind="stable")
        best = best[_first(asking[best] * len(images) + image[best])]
        best = best[_first(rows[best])]
        weights, image = weights[best], image[best]
    total = np.bincount(image, weights, minlength=len(images)) / images.counts**rule.length
    order = np.argsort(-total, kind="stable")
    order = order[total[order] > 0]
    return Shortlist(tuple(images.image_ids[order].tolist()), tuple(total[order].tolist()))


def _weights(neighbors: Neighbors, found: Array, kind: str) -> Array:
    similarities = np.asarray(neighbors.similarities, np.float64)
    if kind == COUNT:
        return np.ones(similarities.shape)
    if kind == SIMILARITY:
        return similarities.clip(0)
    # A neighbour that is alone has nothing to be compared with.
    several = found.sum(axis=1, keepdims=True) > 1
    last = np.where(found, similarities, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    return np.asarray((similarities - np.where(several, last, 0.0)).clip(0))


def _first(values: Array) -> Array:
    """Indices of the first occurrence of each value, ascending."""
    return np.sort(np.unique(values, return_index=True)[1])
