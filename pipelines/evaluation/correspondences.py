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

_CURVES = (  # name, title, whose share, attribute of the scores
    ("right-matches", "Matches that agree with the clicked correspondences", "matches", "right"),
    ("clicks", "Clicked correspondences that agree with the matches", "clicks", "annotated"),
)


@dataclass(frozen=True, eq=False)
class CorrespondenceScores:
    """One pair by one extractor and one of `MATCHERS`; see `score_correspondences`.

    Attributes:
        right: share of the matches that agree with the annotated epipolar geometry, at each of
            `MMA_THRESHOLDS`; NaN if too little is annotated.
        near, near_right: matches near an annotated point, and how many of them are right.
        annotated: share of the annotated correspondences that agree with that of the matches.
        chance, near_chance, chance_annotated: the same for matches that end at random features.
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
    """`evaluate_matching` where correspondences are annotated; `settings` are those of its report."""

    def score(
        extractor: Extractor, number: int, pair: CorrespondencePair, a: View, b: View
    ) -> dict[str, CorrespondenceScores]:
        side, seed = extractor.max_side, (settings["seed"], number)
        best_a, best_b = (v.features.take(slice(settings["max_keypoints"])) for v in (a, b))
        return {
            f" ({matcher})": score_correspondences(
                pair, best_a, best_b, matcher, working_side=side, seed=seed
            )
            for matcher in MATCHERS
        }

    scores, notes = score_pairs(pairs, extractors, score, progress=progress)
    few = sum(len(pair.points_a) < MIN_CORRESPONDENCES for pair in pairs)
    if few:
        text = f"{few} pairs have fewer than {MIN_CORRESPONDENCES} clicks: right@t leaves them out."
        notes[text] = None
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
                f"share of the {whose}",
                MMA_THRESHOLDS,
                {n: mean_columns([getattr(s, of) for s in own]) for n, own in scores.items()},
            )
            for name, title, whose, of in _CURVES
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
    """Hold the matches of one pair against its annotated correspondences, which are few and lie
    elsewhere than the keypoints, in three ways.

    - By the annotated epipolar geometry (`annotated_geometry`), all matches: it is blind to errors along
      an epipolar line; about 2 % of wrong matches agree within 3 px, which `chance` measures.
    - Near annotated points, few matches, but in both coordinates: of those that begin within `NEAR` of
      one in image a, right are those that end within twice that distance, times the scale between
      the images (ratio of the spreads of the points), of its partner in image b. A point far before or
      behind it may be judged wrong.
    - By the fundamental matrix that `verify` estimates from the matches, as a query does: the annotated
      correspondences agree only if the matches fix the whole geometry. That is the idea of WxBS, whose
      published numbers do not compare (its distance and thresholds are its own).

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
    right = chance = np.full(len(MMA_THRESHOLDS), np.nan)
    if truth is not None:
        right = _agreement(truth, *matched_points(a, b, matches))
        each = [_agreement(truth, *matched_points(a, b, m)) for m in at_random]
        chance = np.mean(each, axis=0)
    return CorrespondenceScores(
        pair,
        right=right,
        chance=chance,
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
    def mean(of: str, threshold: int) -> float:
        shares = mean_columns([getattr(s, of) for s in scores])
        return float(shares[MMA_THRESHOLDS.index(threshold)])

    near, right, chance = (
        sum(getattr(s, of) for s in scores) for of in ("near", "near_right", "near_chance")
    )
    return (
        *(mean("right", 3), mean("right", 5), mean("chance", 3), mean("chance", 5)),
        *((near, right / near, chance / near) if near else (near, None, None)),
        *(mean("annotated", 5), mean("chance_annotated", 5)),
        round(float(np.mean([s.matches for s in scores]))),
    )
