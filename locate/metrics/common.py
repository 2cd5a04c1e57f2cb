"""How good answers were: what all tasks share.

Retrieval stands in `locate.metrics.retrieval`, local features in `locate.metrics.matching`, camera
poses in `locate.metrics.pose`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from locate.errors import InputError
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


def mean_defined(values: Array) -> float:
    """The mean of those of Q values that are not NaN; NaN if none is.

    For metrics that are NaN where they are not defined, such as AP without positives or the
    localization error without a correct pair. Infinite values count.
    """
    values = np.asarray(values, np.float64)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


@dataclass(frozen=True)
class OpenSet:
    """How a verdict by evidence fares when some queries show places that are not in the index.

    Attributes:
        threshold: the least evidence that is accepted, in the unit of the evidence.
        right: share of the queries of known places that are accepted with the right answer.
        wrong: share of them that are accepted with a wrong answer; the rest are rejected.
        false_accepts: share of the queries of absent places that are accepted.
    """

    threshold: float
    right: float
    wrong: float
    false_accepts: float


def open_set_threshold(absent: Array, rate: float = 0.01) -> float:
    """The least threshold, accepting `evidence >= threshold`, that at most `rate` of the queries of
    absent places reach.

    Args:
        absent: A numbers, the strongest evidence that each query of an absent place reached; -inf
            for one without a candidate.
        rate: 0 to 1. It bounds the bare share; `locate.retrieval.verdict` bounds its confidence
            interval.

    Returns:
        The float64 next above the strongest evidence that has to be rejected, so of equal evidence
        all is rejected or all accepted; -inf if all may be accepted; NaN if A is 0.
    """
    if not 0 <= rate <= 1:
        raise InputError(f"the rate of false accepts must be from 0 to 1, got {rate}")
    reached = np.sort(_evidence("absent", absent))[::-1]
    if len(reached) == 0:
        return float("nan")
    allowed = math.floor(rate * len(reached) + 1e-9)  # 0.29 * 100 is 28.999999999999996
    return float(np.nextafter(reached[allowed], np.inf)) if allowed < len(reached) else -math.inf


def open_set(known: Array, right: Array, absent: Array, rate: float = 0.01) -> OpenSet:
    """The share of right answers when at most `rate` of the queries of absent places are accepted.

    Args:
        known: K numbers, the evidence of the best answer to each query of a known place; -inf where
            there was none.
        right: K bool, whether that answer is right.
        absent: A numbers, the evidence of the best answer to each query of an absent place.
        rate: the share of `absent` that may be accepted, 0 to 1.

    Returns:
        All K queries are the denominator of `right` and `wrong`: a rejected one is not right. Shares
        of no queries are NaN; without absent queries there is no threshold and all is NaN.
    """
    known, absent = _evidence("known", known), _evidence("absent", absent)
    right = np.asarray(right, np.bool_)
    if right.shape != known.shape:
        raise InputError(f"{len(known)} answers, but {right.shape} say whether they are right")
    threshold = open_set_threshold(absent, rate)
    if math.isnan(threshold):
        return OpenSet(threshold, math.nan, math.nan, math.nan)
    accepted = known >= threshold
    return OpenSet(
        threshold,
        right=mean_defined(accepted & right),
        wrong=mean_defined(accepted & ~right),
        false_accepts=mean_defined(absent >= threshold),
    )


def _evidence(name: str, values: Array) -> Array:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or np.isnan(values).any():
        raise InputError(f"evidence `{name}` must be a list of numbers without NaN")
    return values
