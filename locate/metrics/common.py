"""How good answers were: what all tasks share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from locate.errors import InputError
from locate.types import Array


def average_precision(relevant: Array, positives: int | None = None) -> float:
    """The mean of the precision at the rank of each relevant image (finite-sum AP), 0 to 1; NaN if
    there are no positives (such a query is to be left out, not counted as 0).

    Args:
        relevant: N bool, in the order of the ranking.
        positives: relevant images that exist, ranked or not; by default those in `relevant`.
    """
    relevant = np.asarray(relevant, np.bool_)
    total = int(relevant.sum()) if positives is None else positives
    if total == 0:
        return float("nan")
    ranks = np.flatnonzero(relevant) + 1
    return float(np.sum(np.arange(1, len(ranks) + 1) / ranks) / total)


def mean_defined(values: Array) -> float:
    """The mean of those of Q values that are not NaN, which stands for "not defined"; NaN if none is.
    Infinite values count."""
    values = np.asarray(values, np.float64)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


@dataclass(frozen=True)
class OpenSet:
    """How a verdict by evidence fares when some queries, the negatives, show places that are not in the
    index: the least evidence that is accepted (`threshold`), the shares of the queries of known places
    that are accepted with a right, a wrong answer, and of the negatives that are accepted."""

    threshold: float
    right: float
    wrong: float
    false_accepts: float


def open_set_threshold(negatives: Array, rate: float = 0.01) -> float:
    """The least threshold, accepting `evidence >= threshold`, that at most `rate` of negatives reach.

    It is the float64 next above the strongest evidence that has to be rejected, so of equal evidence all
    is rejected or all accepted; -inf if all may be accepted; NaN without negatives.

    Args:
        negatives: the strongest evidence that each reached; -inf for one without a candidate.
        rate: 0 to 1, of the bare share; `locate.retrieval.verdict` bounds its confidence interval.
    """
    if not 0 <= rate <= 1:
        raise InputError(f"the rate of false accepts must be from 0 to 1, got {rate}")
    reached = np.sort(_evidence("negatives", negatives))[::-1]
    if len(reached) == 0:
        return float("nan")
    allowed = math.floor(rate * len(reached) + 1e-9)  # 0.29 * 100 is 28.999999999999996
    return float(np.nextafter(reached[allowed], np.inf)) if allowed < len(reached) else -math.inf


def open_set(known: Array, right: Array, negatives: Array, rate: float = 0.01) -> OpenSet:
    """The shares of answers when at most `rate` (0 to 1) of the negatives are accepted.

    All K queries are the denominator of `right` and `wrong`: a rejected one is not right. Shares of no
    queries are NaN; without negatives there is no threshold and all is NaN.

    Args:
        known: K numbers, the evidence of the best answer to each query of a known place, or -inf.
        right: K bool, whether that answer is right.
        negatives: see `open_set_threshold`.
    """
    known, negatives = _evidence("known", known), _evidence("negatives", negatives)
    right = np.asarray(right, np.bool_)
    if right.shape != known.shape:
        raise InputError(f"{len(known)} answers, but {right.shape} say whether they are right")
    threshold = open_set_threshold(negatives, rate)
    if math.isnan(threshold):
        return OpenSet(threshold, math.nan, math.nan, math.nan)
    accepted = known >= threshold
    return OpenSet(
        threshold,
        right=mean_defined(accepted & right),
        wrong=mean_defined(accepted & ~right),
        false_accepts=mean_defined(negatives >= threshold),
    )


def _evidence(name: str, values: Array) -> Array:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise InputError(f"evidence `{name}` must be a list of numbers without NaN")
    return values
