"""How good an answer was: retrieval metrics."""

from __future__ import annotations

import numpy as np

from locate.types import Array


def average_precision(relevant: Array, positives: int | None = None) -> float:
    """The mean of the precision at the rank of each relevant image (finite-sum AP).

    Args:
        relevant: N bool, in the order of the ranking.
        positives: relevant images that exist, ranked or not; by default those in `relevant`. One
            that is not ranked contributes 0.

    Returns:
        0 to 1; NaN if there are no positives (such a query is to be left out, not counted as 0).
    """
    relevant = np.asarray(relevant, np.bool_)
    total = int(relevant.sum()) if positives is None else positives
    if total == 0:
        return float("nan")
    ranks = np.flatnonzero(relevant) + 1
    return float(np.sum(np.arange(1, len(ranks) + 1) / ranks) / total)
