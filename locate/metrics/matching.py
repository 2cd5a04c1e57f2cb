"""How good local features and their matches were, where a homography tells the truth (HPatches).

Points are N x 2, (x, y) in pixels (`locate.pixels`), sizes (width, height) in pixels. `b_from_a` maps
points of image a, the reference, to image b. Everything is computed in float64.

A score of one pair is averaged over the pairs by the caller: `np.mean` where a pair always counts,
`mean_defined` where it may be NaN. HPatches' "overall" is the mean over all pairs, not that of the
illumination and the viewpoint score.

Sources: DeTone et al., SuperPoint (CVPRW 2018), section 7 and appendix; Christiansen et al.,
UnsuperPoint (2019); Dusmanu et al., D2-Net (CVPR 2019), section 5.1; and the evaluation code
of rpautrat/SuperPoint and TRI-ML/KP2D, whose choices hold where the papers are silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from locate.errors import InputError, UnknownNameError
from locate.metrics.common import mean_defined
from locate.pixels import apply_homography
from locate.types import Array

Size = tuple[int, int]
Frames = Literal["b", "each"]

MMA_THRESHOLDS = tuple(range(1, 11))
HOMOGRAPHY_THRESHOLDS = (1, 3, 5)


def in_view(points_a: Array, b_from_a: Array, size_b: Size) -> Array:
    """Which of N points of image a are seen in image b, N bool: the mapped point has 0 <= x < width and
    0 <= y < height, the half-open bounds of rpautrat and KP2D (not the half pixel more on the left that
    a pixel's area covers). Points mapped to infinity are not seen."""
    mapped = _map(b_from_a, _points("points_a", points_a))
    return np.asarray(((mapped >= 0) & (mapped < np.asarray(size_b))).all(axis=1))


def best_in_view(
    points_a: Array, scores_a: Array, b_from_a: Array, size_b: Size, keep: int | None = 300
) -> Array:
    """Indices of the strongest points of image a (`keep` at most, None for all) that are seen in
    image b, from best to worst; of equal scores the first. The others are dropped BEFORE the
    strongest are chosen; the other way round is a common mistake."""
    scores = np.asarray(scores_a, np.float64)
    if scores.shape != (len(points_a),):
        raise InputError(f"{len(points_a)} points, but scores of shape {scores.shape}")
    seen = np.flatnonzero(in_view(points_a, b_from_a, size_b))
    return seen[np.argsort(-scores[seen], kind="stable")][:keep]


def nearest_distances(
    points_a: Array, points_b: Array, b_from_a: Array, *, frames: Frames = "b"
) -> tuple[Array, Array]:
    """How far each of N and M points (choose them by `best_in_view`) lies from the nearest of the other
    image: N distances of the points of a and M of those of b, in pixels; infinite where the other has
    no points. Frames "b" measure both directions in image b (rpautrat, KP2D); "each" a -> b in image b
    and b -> a in image a (the average over both cameras of UnsuperPoint)."""
    if frames not in ("b", "each"):
        raise UnknownNameError("choice of frames", frames, ("b", "each"))
    a, b = _points("points_a", points_a), _points("points_b", points_b)
    table = _distances(_map(b_from_a, a), b)
    from_a = table.min(axis=1, initial=np.inf)
    if frames == "each":
        table = _distances(a, _map(_inverse(b_from_a), b))
    return from_a, table.min(axis=0, initial=np.inf)


def repeatability(from_a: Array, from_b: Array, threshold: float = 3.0) -> float:
    """The share of points that were found again in the other image: (#{a -> b nearest <= threshold} +
    #{b -> a nearest <= threshold}) / (N + M), of the N and M distances of `nearest_distances`, in
    pixels. 0 if only one image has points; NaN if neither has: leave such a pair out (KP2D averages
    a -1)."""
    return mean_defined(np.r_[from_a, from_b] <= threshold)


def mutual_repeatability(
    points_a: Array, points_b: Array, b_from_a: Array, threshold: float = 3.0
) -> float:
    """The share of points that were found again, as SEKD's evaluation code counts them.

    rep = (#{a -> b nearest < threshold} + #{b -> a nearest < threshold}) / (N + M), where only the
    points count that are each other's nearest. It differs from `repeatability` in three more ways: a
    point of a is compared with b's points in image a, a point of b with a's in image b; the threshold
    (pixels) is exclusive; and the points are the strongest of each image (500 by SEKD), in view or not.
    """
    a, b = _points("points_a", points_a), _points("points_b", points_b)
    if not len(a) or not len(b):
        return 0.0 if len(a) or len(b) else float("nan")
    in_a, in_b = _distances(a, _map(_inverse(b_from_a), b)), _distances(_map(b_from_a, a), b)
    nearest_a, nearest_b = in_a.argmin(axis=1), in_b.argmin(axis=0)
    own = np.flatnonzero(nearest_b[nearest_a] == np.arange(len(a)))
    partner = nearest_a[own]
    found = (in_a[own, partner] < threshold).sum() + (in_b[own, partner] < threshold).sum()
    return float(found / (len(a) + len(b)))


def localization_error(
    from_a: Array, from_b: Array, threshold: float = 3.0, *, pooled: bool = True
) -> float:
    """The mean distance in pixels of the points that were found again, as of `repeatability`; NaN
    if there are none: leave such a pair out. `pooled` over both directions (KP2D), else the mean of
    the mean of each direction that has a correct pair (UnsuperPoint)."""
    correct = [np.asarray(d, np.float64)[np.asarray(d) <= threshold] for d in (from_a, from_b)]
    if pooled:
        return mean_defined(np.concatenate(correct))
    return mean_defined(np.array([d.mean() for d in correct if len(d)]))


def corner_error(estimated: Array | None, b_from_a: Array, size_a: Size) -> float:
    """The mean distance in image b between the four corners (0, 0) to (W - 1, H - 1) of image a as
    mapped by the estimated and by the true homography, in pixels (SuperPoint, section 7.3).

    Infinite without an estimate (None), with one that is not finite, and if it sends a corner to
    infinity: the pair counts as wrong.
    """
    if estimated is None or not np.isfinite(_matrix("estimated", estimated)).all():
        return float("inf")
    right, bottom = size_a[0] - 1, size_a[1] - 1
    corners = np.array([(0, 0), (right, 0), (0, bottom), (right, bottom)], np.float64)
    with np.errstate(invalid="ignore"):
        error = float(_norm(_map(estimated, corners) - _map(b_from_a, corners)).mean())
    return error if np.isfinite(error) else float("inf")


def homography_accuracy(
    corner_errors: Sequence[float] | Array, thresholds: Sequence[float] = HOMOGRAPHY_THRESHOLDS
) -> Array:
    """The share of P pairs whose `corner_error` is at most each of T thresholds in pixels; NaN for no
    pairs."""
    errors = np.asarray(corner_errors, np.float64)
    return np.array([mean_defined(errors <= t) for t in thresholds])


def match_errors(matched_a: Array, matched_b: Array, b_from_a: Array) -> Array:
    """How far M matches are off: |H a - b| in pixels of image b (`matched_a`, `matched_b`: M x 2)."""
    a, b = _points("matched_a", matched_a), _points("matched_b", matched_b)
    if len(a) != len(b):
        raise InputError(f"a match has two ends, got {len(a)} points in a and {len(b)} in b")
    return _norm(_map(b_from_a, a) - b)


def mean_matching_accuracy(errors: Array, thresholds: Sequence[float] = MMA_THRESHOLDS) -> Array:
    """MMA of one pair: the share of its M mutual nearest neighbours whose `match_errors` are at most
    each of T thresholds in pixels (D2-Net, 5.1); 0 if there are no matches, so that the mean over pairs
    counts the pair."""
    errors = np.asarray(errors, np.float64)
    return np.array([(errors <= t).mean() if len(errors) else 0.0 for t in thresholds])


def matching_score(
    points_a: Array,
    descriptors_a: Array,
    points_b: Array,
    descriptors_b: Array,
    b_from_a: Array,
    *,
    size_a: Size,
    size_b: Size,
    threshold: float = 3.0,
) -> float:
    """M-score: the share of the features in the shared view whose nearest descriptor is the right one.

    score = (correct_a / visible_a + correct_b / visible_b) / 2, where a direction in which no feature
    is visible contributes 0.

    Each feature is matched one way (no cross-check) to the nearest descriptor among ALL features of the
    other image. It is correct if it is visible and its own projection into the other image lies less
    than `threshold` from its partner. Visible are the features in the shared view, as SuperPoint has
    it; KP2D divides by the visible PARTNERS and measures in the frame of the feature.

    Args:
        points_a, points_b: N x 2, M x 2; choose the strongest beforehand.
        descriptors_a, descriptors_b: N x D, M x D, compared by Euclidean distance.
        threshold: in pixels, exclusive.
    """
    a, b, forward, backward = _matched_one_way(points_a, descriptors_a, points_b, descriptors_b)
    a_from_b = _inverse(b_from_a)
    total = 0.0
    for own, other, other_from_own, size, (nearest, _) in (
        (a, b, b_from_a, size_b, forward),
        (b, a, a_from_b, size_a, backward),
    ):
        visible = in_view(own, other_from_own, size)
        if len(other) and visible.any():
            correct = match_errors(own, other[nearest], other_from_own) < threshold
            total += float(correct[visible].mean())
    return total / 2


def nearest_neighbor_map(
    points_a: Array,
    descriptors_a: Array,
    points_b: Array,
    descriptors_b: Array,
    b_from_a: Array,
    *,
    threshold: float = 3.0,
) -> float:
    """NN-mAP: whether a small descriptor distance means a right match (SuperPoint, appendix).

    The matches of one direction, as of `matching_score`, are ranked by distance, and the AP of that
    ranking is averaged over both directions; one without a right match contributes 0. Recall is relative
    to the right matches of the ranking. Matches of equal distance enter together.
    """
    a, b, forward, backward = _matched_one_way(points_a, descriptors_a, points_b, descriptors_b)
    if not len(a) or not len(b):
        return 0.0
    right_a = match_errors(a, b[forward[0]], b_from_a) < threshold
    right_b = match_errors(b, a[backward[0]], _inverse(b_from_a)) < threshold
    each = ((right_a, forward[1]), (right_b, backward[1]))
    return sum(_tied_average_precision(*ranking) for ranking in each) / 2


_Nearest = tuple[Array, Array]  # which is the nearest, its distance


def nearest_descriptors(descriptors_a: Array, descriptors_b: Array) -> tuple[_Nearest, _Nearest]:
    """The nearest of M descriptors (M x D) to each of N (N x D), and the other way round, by Euclidean
    distance; of equally near ones the first. Empty if either image has no descriptors."""
    a, b = np.asarray(descriptors_a, np.float64), np.asarray(descriptors_b, np.float64)
    if not len(a) or not len(b):
        empty = np.zeros(0, np.int64), np.zeros(0)
        return empty, empty
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise InputError(f"descriptors must be N x D and M x D, got {a.shape} and {b.shape}")
    # |a - b|^2 = |a|^2 + |b|^2 - 2 a.b
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * (a @ b.T)
    table = np.sqrt(squared.clip(min=0))
    return (table.argmin(axis=1), table.min(axis=1)), (table.argmin(axis=0), table.min(axis=0))


def _tied_average_precision(right: Array, distances: Array) -> float:
    """AP of N matches ranked by distance; equal distances share the precision at the end of the tie."""
    if not right.any():
        return 0.0
    order = np.argsort(distances, kind="stable")
    right, distances = right[order], distances[order]
    taken = np.searchsorted(distances, distances, side="right")
    return float((np.cumsum(right)[taken - 1] / taken)[right].mean())


def _points(name: str, points: Array) -> Array:
    points = np.asarray(points, np.float64)
    if points.size == 0:
        return points.reshape(0, 2)
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise InputError(f"{name} must be N x 2 finite (x, y), got shape {points.shape}")
    return points


def _matrix(name: str, matrix: Array) -> Array:
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (3, 3):
        raise InputError(f"{name} must be a 3 x 3 homography, got shape {matrix.shape}")
    return matrix


def _matched_one_way(
    points_a: Array, descriptors_a: Array, points_b: Array, descriptors_b: Array
) -> tuple[Array, Array, _Nearest, _Nearest]:
    """The points, checked, and `nearest_descriptors`."""
    a, b = _points("points_a", points_a), _points("points_b", points_b)
    for points, descriptors in ((a, descriptors_a), (b, descriptors_b)):
        if len(points) != len(descriptors):
            raise InputError(f"{len(points)} points, but {len(descriptors)} descriptors")
    return a, b, *nearest_descriptors(descriptors_a, descriptors_b)


def _inverse(b_from_a: Array) -> Array:
    try:
        return np.linalg.inv(_matrix("b_from_a", b_from_a))
    except np.linalg.LinAlgError:
        raise InputError("b_from_a is singular: it maps the image to a line") from None


def _map(b_from_a: Array, points: Array) -> Array:
    """N x 2 points mapped to image b; infinite where the homography sends them to infinity."""
    matrix = _matrix("b_from_a", b_from_a)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        mapped = apply_homography(matrix, points)
    return np.where(np.isfinite(mapped).all(axis=1, keepdims=True), mapped, np.inf)


def _norm(vectors: Array) -> Array:
    """Lengths of N x 2 vectors."""
    return np.asarray(np.hypot(vectors[:, 0], vectors[:, 1]))


def _distances(a: Array, b: Array) -> Array:
    """N x M distances between N x 2 and M x 2 points."""
    return np.asarray(np.hypot(a[:, 0, None] - b[:, 0], a[:, 1, None] - b[:, 1]))
