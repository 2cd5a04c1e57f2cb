"""How good a ranking of database images was: Oxford/Paris, Google Landmarks, place recognition.

A ranking lists ids of database images, best first; an id may be anything that can be compared and
hashed. A score of one query is NaN where it is not defined (no positives); average the queries by
`mean_defined`.

Sources: Philbin et al. (CVPR 2007) and its compute_ap; Radenovic et al., Revisiting Oxford and Paris
(CVPR 2018) and filipradenovic/revisitop; Weyand et al., Google Landmarks v2 (CVPR 2020) and the metrics
of tensorflow/models; Arandjelovic et al., NetVLAD (CVPR 2016).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from locate.errors import InputError, UnknownNameError
from locate.metrics.common import mean_defined
from locate.types import Array

RECALL_AT = (1, 5, 10, 20)
PRECISION_AT = (1, 5, 10)
Ids = Collection[Any] | Array
Level = Literal["easy", "medium", "hard"]


def revisited_lists(easy: Ids, hard: Ids, junk: Ids, level: Level) -> tuple[list[Any], list[Any]]:
    """(ok, junk) of one query of ROxford/RParis at a level of difficulty."""
    lists = {
        "easy": ([*easy], [*junk, *hard]),
        "medium": ([*easy, *hard], [*junk]),
        "hard": ([*hard], [*junk, *easy]),
    }
    if level not in lists:
        raise UnknownNameError("level", level, lists)
    return lists[level]


def ranks_without_junk(ranking: Ids, ok: Ids, junk: Ids = ()) -> Array:
    """Zero-based ranks, ascending, of the positives that are ranked, once the junk is taken out.

    Args:
        ranking: N distinct ids, best first; the whole database.
        junk: ids that neither help nor harm, such as the query itself.
    """
    ids = np.asarray(ranking)
    if len(np.unique(ids)) != len(ids):
        raise InputError("a ranking names each database image once; this one repeats some")
    if set(ok) & set(junk):
        raise InputError(f"ids are both positive and junk: {sorted(set(ok) & set(junk))[:5]}")
    position = np.flatnonzero(_isin(ids, ok))
    return np.asarray(position - np.cumsum(_isin(ids, junk))[position])


def trapezoid_average_precision(ranks: Array, positives: int) -> float:
    """AP as the area under the precision-recall curve by trapezoids (Oxford's compute_ap; it is not
    `average_precision`).

    AP = sum_j (p0_j + p1_j) / 2 / positives, with p0_j = j / r_j (1 if r_j = 0) and
    p1_j = (j + 1) / (r_j + 1) for the j-th positive (from 0) at zero-based rank r_j
    (`ranks_without_junk`). A positive that is not ranked contributes 0; NaN if there are none.
    """
    if positives == 0:
        return float("nan")
    r = np.asarray(ranks, np.float64)
    j = np.arange(len(r))
    before = np.where(r == 0, 1.0, j / np.maximum(r, 1))
    return float(np.sum(before + (j + 1) / (r + 1)) / 2 / positives)


def revisited_average_precision(ranking: Ids, ok: Ids, junk: Ids = ()) -> float:
    """AP of one query of ROxford/RParis (`revisited_lists`) and of the old Oxford5k/Paris6k (there
    `ok` is their good and ok images); NaN if `ok` is empty: such a query is excluded, not counted
    as 0."""
    return trapezoid_average_precision(ranks_without_junk(ranking, ok, junk), len(set(ok)))


def revisited_precision_at(
    ranking: Ids, ok: Ids, junk: Ids = (), at: Sequence[int] = PRECISION_AT
) -> Array:
    """The precision among the first k of one query, as revisitop's mP@k has it, for each k of `at`.

    P@k = #{positives among the first k'} / k', with k' = min(the rank of the last positive, k): where
    there are fewer than k positives, a perfect ranking still reaches 1. Ranks are after the junk is
    taken out; a positive that is not ranked counts as beyond every k. NaN if `ok` is empty.
    """
    positives = len(set(ok))
    if positives == 0:
        return np.full(len(at), np.nan)
    ranks = ranks_without_junk(ranking, ok, junk) + 1
    last = ranks[-1] if len(ranks) == positives else np.inf
    cut = np.minimum(last, np.asarray(at, np.float64))
    return np.asarray((ranks[None] <= cut[:, None]).sum(axis=1) / cut)


def google_average_precision(
    ranking: Sequence[Hashable], relevant: Collection[Hashable], at: int = 100
) -> float:
    """AP@100 of one query of Google Landmarks retrieval.

    AP = sum_{k <= at} rel_k P(k) / min(m, at), with m the relevant images that exist (not the number
    retrieved). An id that stood before is not relevant again but keeps its rank. NaN if nothing is
    relevant.
    """
    wanted = set(relevant)
    if not wanted:
        return float("nan")
    seen: set[Hashable] = set()
    total = 0.0
    for rank, image in enumerate(ranking[:at], start=1):
        if image in wanted and image not in seen:
            seen.add(image)
            total += len(seen) / rank
    return total / min(len(wanted), at)


def google_mean_average_precision(
    predictions: Mapping[Hashable, Sequence[Hashable]],
    solution: Mapping[Hashable, Collection[Hashable]],
    at: int = 100,
) -> float:
    """mAP@100 of Google Landmarks retrieval: the mean over all queries in `solution` that have a
    relevant image; one without a ranking in `predictions` scores 0. Remove the queries marked
    "ignored" from both beforehand."""
    _check_known(predictions, solution)
    scores = [
        google_average_precision(predictions.get(query, ()), relevant, at)
        for query, relevant in solution.items()
    ]
    return mean_defined(np.array(scores))


def global_average_precision(
    predictions: Mapping[Any, tuple[Any, float]], solution: Mapping[Any, Collection[Any]]
) -> float:
    """GAP or muAP of Google Landmarks recognition: one ranking of all answers.

    GAP = sum_i P(i) rel(i) / Q over the predictions by falling confidence (of equal confidence the
    smaller image id comes first), with Q the test images with a landmark, predicted or not; NaN if
    Q is 0. Predictions are (class, confidence) for each test image that is not abstained from; one for
    an image without a landmark (no class in `solution`) is wrong and lowers the precision after it.
    """
    _check_known(predictions, solution)
    if any(np.isnan(confidence) for _, confidence in predictions.values()):
        raise InputError("a confidence is NaN; leave out the images that have no prediction")
    landmarks = sum(len(classes) > 0 for classes in solution.values())
    if landmarks == 0:
        return float("nan")
    order = sorted(sorted(predictions), key=lambda image: -predictions[image][1])
    right = np.array([predictions[image][0] in solution[image] for image in order], np.bool_)
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(precision[right].sum() / landmarks)


def within_radius(queries: Array, database: Array, radius: float = 25.0) -> Array:
    """Which of N database images count as right for each of Q queries in place recognition, Q x N
    bool: those within `radius` metres, inclusive; 25 for Pittsburgh and Tokyo 24/7. Positions are Q
    x 2 and N x 2 in metres in one plane, such as UTM."""
    q, d = np.asarray(queries, np.float64), np.asarray(database, np.float64)
    return np.asarray(np.hypot(q[:, 0, None] - d[:, 0], q[:, 1, None] - d[:, 1]) <= radius)


def recall_at(
    relevant: Sequence[Array], has_positive: Array, at: Sequence[int] = RECALL_AT
) -> Array:
    """Recall@N of place recognition: the share of queries with at least one right image among the
    first N, for each N of `at`; NaN if no query has a positive. `relevant` has for each of Q queries
    bool in the order of its ranking; Q bool tell whether the database `has_positive` images at all,
    ranked or not: queries without are dropped."""
    has_positive = np.asarray(has_positive, np.bool_)
    if has_positive.shape != (len(relevant),):
        raise InputError(f"{len(relevant)} rankings, but has_positive is {has_positive.shape}")
    first = np.array([min(np.flatnonzero(row), default=np.inf) + 1 for row in relevant])
    if (np.isfinite(first) & ~has_positive).any():
        raise InputError("a query without positives has a right image in its ranking")
    return np.array([mean_defined(first[has_positive] <= n) for n in at])


def _isin(ids: Array, wanted: Ids) -> Array:
    if not len(wanted):  # numpy would compare with an empty float array
        return np.zeros(len(ids), np.bool_)
    return np.isin(ids, np.asarray(list(wanted)))


def _check_known(predictions: Collection[Any], solution: Collection[Any]) -> None:
    unknown = [query for query in predictions if query not in solution]
    if unknown:
        raise InputError(f"predictions for queries that are not in the solution: {unknown[:5]}")
