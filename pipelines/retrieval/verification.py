"""Verification of a shortlist by local features: a look at all, a closer one at the promising.

Matching all features of two photos takes sixteen times as long as matching a quarter of them, and tells
little more about which candidates are worth it. So the strongest features order the shortlist by how
many of them match; then candidates are matched in full and verified by RANSAC, a few at a time, as long
as these few show anything. What is left over is "unverified". `docs/experiments.md`, 32, says how the
numbers were chosen; `benchmarks/ablations/shortlist.py` compares with a verification of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from locate.extractors.base import ExtractorInfo
from locate.matching.descriptors import match_mutual, ratio_for, weighted
from locate.matching.evidence import evidence_of
from locate.matching.two_view import verify
from locate.types import Features, Verification

STRONGEST = 512  # features of each photo that the first look takes
AT_A_TIME = 6  # candidates that are verified before it is asked whether any shows something
HINT = 4.0  # evidence that is worth looking further for more

Map = Callable[..., Iterable[Any]]


class Verifier:
    """Verifies database images against one query.

    Args:
        query: its local features.
        info: of the extractor, as the database records it.
        side: long side in pixels that photos were shrunk to before detection.
        map_: as the built-in, maybe on several threads.
    """

    def __init__(self, query: Features, info: ExtractorInfo, side: int, map_: Map) -> None:
        self._query, self._info, self._side, self._map = reweighted(query, info), info, side, map_
        self._ratio = ratio_for("query", info)

    def verify(
        self,
        strongest: Sequence[Features | None],
        read: Callable[[int], Features | None],
        *,
        exhaustive: bool = False,
    ) -> list[Verification | None]:
        """One for each candidate, None for those without features and those that were not worth it.

        Args:
            strongest: `STRONGEST` features of each, or None.
            read: by number, all features of a candidate.
            exhaustive: all are worth it.
        """

        def verified(i: int) -> Verification | None:
            other = read(i)
            return None if other is None else self._verified(other)

        found: list[Verification | None] = [None] * len(strongest)
        order = [i for i, features in enumerate(strongest) if features is not None]
        some = max(1, len(order)) if exhaustive else AT_A_TIME
        if len(order) > some:
            counts = list(self._map(self._look, (strongest[i] for i in order)))
            order = [order[k] for k in np.argsort(np.negative(counts), kind="stable")]
        for start in range(0, len(order), some):
            part = order[start : start + some]
            for i, verification in zip(part, self._map(verified, part), strict=True):
                found[i] = verification
            shown = (evidence_of(v) for i in part if (v := found[i]) is not None)
            if max(shown, default=-math.inf) < HINT:
                break
        return found

    def _look(self, strongest: Features) -> int:
        """How many of the strongest features match."""
        ours = self._query.descriptors[:STRONGEST]
        theirs = reweighted(strongest, self._info).descriptors[:STRONGEST]
        return len(match_mutual(ours, theirs, self._ratio))

    def _verified(self, other: Features) -> Verification:
        proof = reweighted(other, self._info)
        matches = match_mutual(self._query.descriptors, proof.descriptors, self._ratio)
        how = (self._side, self._info.verification, self._info.max_error)
        return verify(self._query, proof, matches, *how)


def reweighted(features: Features, info: ExtractorInfo) -> Features:
    """Reweighted descriptors: with the weights that their parts have where matches are verified."""
    if not info.query_shares:
        return features
    found = weighted(features.descriptors, info.parts, info.query_shares)
    return replace(features, descriptors=found)
