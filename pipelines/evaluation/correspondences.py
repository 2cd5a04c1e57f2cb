"""Matches held against correspondences that somebody clicked (WxBS: Mishkin et al., BMVC 2015).

Two judgements are made from the clicks, see `score_clicked`: a match is right if it agrees with the
epipolar geometry of the clicks, and the clicks should agree with the epipolar geometry that is estimated
from the matches (the idea of the WxBS benchmark).
"""

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
    Steps,
    by_kind,
    by_sequence,
    curves_over_pixels,
    grouped_rows,
    matched_points,
    mean_columns,
    require_some,
    strongest,
    walk_pairs,
)
from pipelines.reports.report import Report, Table

MATCHERS: Mapping[str, float | None] = {"mutual": None, "mutual, ratio .8": 0.8}
MIN_CLICKS = 8  # seven determine F
CLICK_ERROR = 5.0  # pixels
NEAR_CLICK = 20.0  # pixels
_CHANCE_PAIRINGS, _CHANCE_ESTIMATES = 20, 3

_NOTES = (
    "right@t: the share of the matches within t px (Sampson) of the epipolar geometry of the clicks.",
    f"right there: the share of the matches near a click (within {NEAR_CLICK:.0f} px) that end near it.",
    "clicks@t: the share of the clicks within t px of the epipolar geometry of the matches.",
    "chance: the same where the other end of every match is drawn at random from all features.",
)


@dataclass(frozen=True, eq=False)
class ClickScores:
    """One pair by one extractor and one of `MATCHERS`; see `score_clicked`.

    Attributes:
        right: share of the matches that agree with the clicks' epipolar geometry, at each of
            `MMA_THRESHOLDS`; NaN if there are too few clicks.
        near, near_right: matches near a click, and how many of them are right.
        clicks: share of the clicks that agree with the matches' epipolar geometry, at each of
            `MMA_THRESHOLDS`.
        chance, near_chance, chance_clicks: the same for matches whose ends in image b are drawn from
            all its features.
        matches: how many.
    """

    pair: CorrespondencePair
    matcher: str
    right: Array
    chance: Array
    near: int
    near_right: int
    near_chance: float
    clicks: Array
    chance_clicks: Array
    matches: int


def evaluate_clicks(
    pairs: Sequence[CorrespondencePair],
    extractors: Mapping[str, Extractor],
    settings: dict[str, Any],
    progress: Progress | None,
) -> Report:
    """`evaluate_matching` where the ground truth is clicked.

    Args:
        settings: those of the report; the seed and the number of keypoints are read from it.
    """
    steps, notes = Steps(progress, len(pairs) * len(extractors)), dict[str, None]()
    scores: dict[str, list[ClickScores]] = {}
    for name, extractor in extractors.items():
        for number, pair, a, b in walk_pairs(pairs, extractor, notes=notes, progress=steps):
            for matcher in MATCHERS:
                scored = score_clicked(
                    pair,
                    strongest(a.features, settings["max_keypoints"]),
                    strongest(b.features, settings["max_keypoints"]),
                    matcher,
                    working_side=extractor.max_side,
                    seed=(settings["seed"], number),
                )
                scores.setdefault(f"{name} ({matcher})", []).append(scored)
    require_some(list(scores), notes)
    few = sum(len(pair.points_a) < MIN_CLICKS for pair in pairs)
    if few:
        notes[f"{few} pairs have fewer than {MIN_CLICKS} clicks: right@t leaves them out."] = None
    measures = (
        *("right@3", "right@5", "chance@3", "chance@5"),
        *("near clicks", "right there", "chance there"),
        *("clicks@5", "chance clicks@5", "matches"),
    )
    return Report(
        "matching",
        {**settings, "pairs": len(pairs), "matchers": dict(MATCHERS)},
        tables=(
            Table(
                "Wide baselines: mean over the pairs; thresholds in pixels",
                ("images", "extractor", "pairs", *measures),
                grouped_rows(scores, by_kind, _click_row),
            ),
            Table(
                "Wide baselines by pair",
                ("sequence", "extractor", "pairs", *measures),
                grouped_rows(scores, by_sequence, _click_row),
            ),
        ),
        curves=(
            curves_over_pixels(
                "right-matches",
                "Matches that agree with the clicked correspondences",
                "share of the matches",
                MMA_THRESHOLDS,
                {name: mean_columns([s.right for s in found]) for name, found in scores.items()},
            ),
            curves_over_pixels(
                "clicks",
                "Clicked correspondences that agree with the matches",
                "share of the clicks",
                MMA_THRESHOLDS,
                {name: mean_columns([s.clicks for s in found]) for name, found in scores.items()},
            ),
        ),
        notes=(*notes, *_NOTES),
    )


def score_clicked(
    pair: CorrespondencePair,
    a: Features,
    b: Features,
    matcher: str,
    *,
    working_side: int = 1024,
    seed: tuple[int, ...] = (0,),
) -> ClickScores:
    """Hold the matches of one pair against its clicked correspondences.

    The clicks are few and lie elsewhere than the keypoints, so a match is judged in two ways.

    - By epipolar geometry, all matches: the fundamental matrix of the clicks (`clicked_geometry`) leaves
      a match one coordinate to be wrong in. At a threshold of 3 px about 2 % of wrong matches agree by
      chance; `chance` measures it. It needs at least `MIN_CLICKS` clicks, and is blind to wrong
      matches along an epipolar line.
    - Near clicks, few matches, but in both coordinates: of the matches that begin within `NEAR_CLICK`
      of a click in image a, right are those that end within twice that distance, times the scale
      between the images (ratio of the spreads of the clicks), of its partner in image b. A point far
      before or behind the click may be judged wrong.

    The other way round, `locate.matching.two_view.verify` estimates the fundamental matrix from
    the matches, as a query does, and the clicks are judged by it: their share that agrees is high
    only if the matches fix the whole geometry, and many matches on one wall do not raise it. That
    is the idea of the WxBS benchmark; its published numbers do not compare (its distance and
    thresholds are its own).

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
    truth = clicked_geometry(pair)
    near, near_right = _near_clicks(pair, *matched_points(a, b, matches))
    by_chance = [_near_clicks(pair, *matched_points(a, b, m))[1] for m in at_random]
    clicks, *chance_clicks = (
        _agreement(verify(a, b, m, working_side).matrix, pair.points_a, pair.points_b)
        for m in (matches, *at_random[:_CHANCE_ESTIMATES])
    )
    right, *chance = (
        np.full(len(MMA_THRESHOLDS), np.nan)
        if truth is None
        else _agreement(truth, *matched_points(a, b, m))
        for m in (matches, *at_random)
    )
    return ClickScores(
        pair,
        matcher,
        right=right,
        chance=np.mean(chance, axis=0),
        near=near,
        near_right=near_right,
        near_chance=float(np.mean(by_chance)),
        clicks=clicks,
        chance_clicks=np.mean(chance_clicks, axis=0),
        matches=len(matches),
    )


def clicked_geometry(pair: CorrespondencePair) -> Array | None:
    """The fundamental matrix of the clicks, 3 x 3 with x_b^T F x_a = 0; None if there are fewer than
    `MIN_CLICKS` or none fits.

    PoseLib's estimate, which ends in a least-squares fit of the Sampson distance to all clicks within
    `CLICK_ERROR`. Leaving out each click of WxBS in turn, the fit to the others passes it within 3 px
    in 98 % (mean over 17 pairs); the normalised eight-point algorithm reaches 97 %, least median
    of squares 87 %.
    """
    if len(pair.points_a) < MIN_CLICKS:
        return None
    options = {"max_epipolar_error": CLICK_ERROR, "seed": 0}
    matrix, report = poselib.estimate_fundamental(pair.points_a, pair.points_b, options)
    usable = np.isfinite(matrix).all() and np.any(report["inliers"])
    return np.asarray(matrix, np.float64) if usable else None


def _near_clicks(pair: CorrespondencePair, ends_a: Array, ends_b: Array) -> tuple[int, int]:
    """(matches near a click in image a, those of them that end near its partner)."""
    offsets = ends_a[:, None].astype(np.float64) - pair.points_a  # M x clicks x 2
    distances = np.hypot(offsets[..., 0], offsets[..., 1])
    click = distances.argmin(axis=1)
    near = distances.min(axis=1) <= NEAR_CLICK
    spread_a, spread_b = (points.std(axis=0) for points in (pair.points_a, pair.points_b))
    scale = np.hypot(*spread_b) / max(np.hypot(*spread_a), 1e-9)
    off = ends_b - pair.points_b[click]
    right = np.hypot(off[:, 0], off[:, 1]) <= 2 * NEAR_CLICK * scale
    return int(near.sum()), int((near & right).sum())


def _agreement(matrix: Array | None, points_a: Array, points_b: Array) -> Array:
    """The share of M pairs of points within each of `MMA_THRESHOLDS` of an epipolar geometry; 0 without
    points or without a geometry."""
    if matrix is None:
        return np.zeros(len(MMA_THRESHOLDS))
    return mean_matching_accuracy(epipolar_distances(matrix, points_a, points_b))


def _click_row(scores: Sequence[ClickScores]) -> tuple[Any, ...]:
    near = sum(s.near for s in scores)
    right, chance = sum(s.near_right for s in scores), sum(s.near_chance for s in scores)
    shares = mean_columns([s.right for s in scores]), mean_columns([s.chance for s in scores])
    three, five = MMA_THRESHOLDS.index(3), MMA_THRESHOLDS.index(5)
    return (
        *(float(share[t]) for share in shares for t in (three, five)),
        near,
        right / near if near else None,
        chance / near if near else None,
        float(mean_columns([s.clicks for s in scores])[five]),
        float(mean_columns([s.chance_clicks for s in scores])[five]),
        round(float(np.mean([s.matches for s in scores]))),
    )
