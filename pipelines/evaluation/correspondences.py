"""Matches held against annotated correspondences, clicked by hand (WxBS: Mishkin et al., BMVC 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import poselib

from locate.datasets.matching import CorrespondencePair
from locate.extractors.base import Extractor
from locate.matching.descriptors import match_mutual
from locate.matching.two_view import epipolar_distances, verify
from locate.metrics.matching import MMA_THRESHOLDS, mean_matching_accuracy
from locate.types import Array, Features
from pipelines.evaluation.common import (
    Progress,
    View,
    curves_over_pixels,
    matched_points,
    mean_columns,
    pair_tables,
    score_pairs,
    strongest,
)
from pipelines.reports.report import Report

MATCHERS: Mapping[str, float | None] = {"mutual": None, "mutual, ratio .8": 0.8}
MIN_CORRESPONDENCES = 8  # seven determine F
MAX_ERROR = 5.0  # pixels
NEAR = 20.0  # pixels
_CHANCE_PAIRINGS, _CHANCE_ESTIMATES = 20, 3

_NOTES = (
    "right@t: the share of the matches within t px (Sampson) of the epipolar geometry of the clicks.",
    f"right there: the share of the matches near a click (within {NEAR:.0f} px) that end near it.",
    "clicks@t: the share of the clicks within t px of the epipolar geometry of the matches.",
    "chance: the same where the other end of every match is drawn at random from all features.",
)

_CURVES = (  # name, title, y axis, attribute of the scores
    (
        "right-matches",
        "Matches that agree with the clicked correspondences",
        "share of the matches",
        "right",
    ),
    (
        "clicks",
        "Clicked correspondences that agree with the matches",
        "share of the clicks",
        "annotated",
    ),
)


@dataclass(frozen=True, eq=False)
class CorrespondenceScores:
    """One pair by one extractor and one of `MATCHERS`; see `score_correspondences`.

    Attributes:
        right: share of the matches that agree with the annotated epipolar geometry, at each of
            `MMA_THRESHOLDS`; NaN if too little is annotated.
        near, near_right: matches near an annotated point, and how many of them are right.
        annotated: share of the annotated correspondences that agree with the epipolar geometry of
            the matches, at each of `MMA_THRESHOLDS`.
        chance, near_chance, chance_annotated: the same for matches whose ends in image b are drawn
            from all its features.
    """

    pair: CorrespondencePair
    right: Array
    chance: Array
    near: int
    near_right: int
    near_chance: float
    annotated: Array
    chance_annotated: Array
    matches: int


def evaluate_correspondences(
    pairs: Sequence[CorrespondencePair],
    extractors: Mapping[str, Extractor],
    settings: dict[str, Any],
    progress: Progress | None,
) -> Report:
    """`evaluate_matching` where correspondences are annotated; the seed and the number of keypoints are
    read from `settings`, which the report repeats."""

    def score(
        extractor: Extractor, number: int, pair: CorrespondencePair, a: View, b: View
    ) -> dict[str, CorrespondenceScores]:
        features_a, features_b = (strongest(v.features, settings["max_keypoints"]) for v in (a, b))
        side, seed = extractor.max_side, (settings["seed"], number)
        return {
            f" ({matcher})": score_correspondences(
                pair, features_a, features_b, matcher, working_side=side, seed=seed
            )
            for matcher in MATCHERS
        }

    scores, notes = score_pairs(pairs, extractors, score, progress=progress)
    few = sum(len(pair.points_a) < MIN_CORRESPONDENCES for pair in pairs)
    if few:
        few_note = (
            f"{few} pairs have fewer than {MIN_CORRESPONDENCES} clicks: right@t leaves them out."
        )
        notes[few_note] = None
    measures = (
        *("right@3", "right@5", "chance@3", "chance@5"),
        *("near clicks", "right there", "chance there"),
        *("clicks@5", "chance clicks@5", "matches"),
    )
    return Report(
        "matching",
        {**settings, "pairs": len(pairs), "matchers": dict(MATCHERS)},
        tables=pair_tables(
            "Wide baselines: mean over the pairs; thresholds in pixels",
            "Wide baselines by pair",
            measures,
            scores,
            _row,
        ),
        curves=tuple(
            curves_over_pixels(
                name,
                title,
                y_label,
                MMA_THRESHOLDS,
                {
                    label: mean_columns([s[of] for s in map(vars, own)])
                    for label, own in scores.items()
                },
            )
            for name, title, y_label, of in _CURVES
        ),
        notes=(*notes, *_NOTES),
    )


def score_correspondences(
    pair: CorrespondencePair,
    a: Features,
    b: Features,
    matcher: str,
    *,
    working_side: int = 1024,
    seed: tuple[int, ...] = (0,),
) -> CorrespondenceScores:
    """Hold the matches of one pair against its annotated correspondences.

    These are few and lie elsewhere than the keypoints, so a match is judged in two ways.

    - By epipolar geometry, all matches: the annotated fundamental matrix (`annotated_geometry`) leaves a
      match one coordinate to be wrong in. At a threshold of 3 px about 2 % of wrong matches agree by
      chance; `chance` measures it. It is blind to wrong matches along an epipolar line.
    - Near annotated points, few matches, but in both coordinates: of those that begin within `NEAR` of
      one in image a, right are those that end within twice that distance, times the scale between
      the images (ratio of the spreads of the points), of its partner in image b. A point far before or
      behind it may be judged wrong.

    The other way round, `verify` estimates the fundamental matrix from the matches, as a query does, and
    the annotated correspondences are judged by it: their share that agrees is high only if the
    matches fix the whole geometry, and many matches on one wall do not raise it. That is the idea of the
    WxBS benchmark; its published numbers do not compare (its distance and thresholds are its own).

    Args:
        matcher: one of `MATCHERS`.
        working_side: long side in pixels to which the extractor shrank the images.
        seed: of the random partners.
    """
    matches = match_mutual(a.descriptors, b.descriptors, MATCHERS[matcher])
    rng = np.random.default_rng(seed)
    at_random = [
        np.c_[matches[:, 0], rng.integers(len(b), size=len(matches))] if len(matches) else matches
        for _ in range(_CHANCE_PAIRINGS)
    ]
    truth = annotated_geometry(pair)
    near, near_right = _near_annotated(pair, *matched_points(a, b, matches))
    by_chance = [_near_annotated(pair, *matched_points(a, b, m))[1] for m in at_random]
    annotated, *chance_annotated = (
        _agreement(verify(a, b, m, working_side).matrix, pair.points_a, pair.points_b)
        for m in (matches, *at_random[:_CHANCE_ESTIMATES])
    )
    right, *chance = (
        np.full(len(MMA_THRESHOLDS), np.nan)
        if truth is None
        else _agreement(truth, *matched_points(a, b, m))
        for m in (matches, *at_random)
    )
    return CorrespondenceScores(
        pair,
        right=right,
        chance=np.mean(chance, axis=0),
        near=near,
        near_right=near_right,
        near_chance=float(np.mean(by_chance)),
        annotated=annotated,
        chance_annotated=np.mean(chance_annotated, axis=0),
        matches=len(matches),
    )


def annotated_geometry(pair: CorrespondencePair) -> Array | None:
    """The fundamental matrix of the annotated correspondences, 3 x 3 with x_b^T F x_a = 0; None if there
    are fewer than `MIN_CORRESPONDENCES` or none fits.

    PoseLib's estimate ends in a least-squares fit of the Sampson distance to all within `MAX_ERROR`.
    Leaving out each click of WxBS in turn, the fit to the others passes it within 3 px in 98 % (mean
    over 17 pairs); the normalised eight-point algorithm reaches 97 %, least median of squares 87 %.
    """
    if len(pair.points_a) < MIN_CORRESPONDENCES:
        return None
    options = {"max_epipolar_error": MAX_ERROR, "seed": 0}
    matrix, report = poselib.estimate_fundamental(pair.points_a, pair.points_b, options)
    usable = np.isfinite(matrix).all() and np.any(report["inliers"])
    return np.asarray(matrix, np.float64) if usable else None


def _near_annotated(pair: CorrespondencePair, ends_a: Array, ends_b: Array) -> tuple[int, int]:
    """(matches near an annotated point of image a, those of them that end near its partner)."""
    offsets = ends_a[:, None].astype(np.float64) - pair.points_a  # M x points x 2
    distances = np.hypot(offsets[..., 0], offsets[..., 1])
    nearest = distances.argmin(axis=1)
    near = distances.min(axis=1) <= NEAR
    spread_a, spread_b = (points.std(axis=0) for points in (pair.points_a, pair.points_b))
    scale = np.hypot(*spread_b) / max(np.hypot(*spread_a), 1e-9)
    off = ends_b - pair.points_b[nearest]
    right = np.hypot(off[:, 0], off[:, 1]) <= 2 * NEAR * scale
    return int(near.sum()), int((near & right).sum())


def _agreement(matrix: Array | None, points_a: Array, points_b: Array) -> Array:
    """The share of M pairs of points within each of `MMA_THRESHOLDS` of an epipolar geometry."""
    if matrix is None:
        return np.zeros(len(MMA_THRESHOLDS))
    return mean_matching_accuracy(epipolar_distances(matrix, points_a, points_b))


def _row(scores: Sequence[CorrespondenceScores]) -> tuple[Any, ...]:
    near = sum(s.near for s in scores)
    right, chance = sum(s.near_right for s in scores), sum(s.near_chance for s in scores)
    shares = mean_columns([s.right for s in scores]), mean_columns([s.chance for s in scores])
    three, five = MMA_THRESHOLDS.index(3), MMA_THRESHOLDS.index(5)
    return (
        *(float(share[t]) for share in shares for t in (three, five)),
        near,
        right / near if near else None,
        chance / near if near else None,
        float(mean_columns([s.annotated for s in scores])[five]),
        float(mean_columns([s.chance_annotated for s in scores])[five]),
        round(float(np.mean([s.matches for s in scores]))),
    )
