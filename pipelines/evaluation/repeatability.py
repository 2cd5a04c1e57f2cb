"""`locate evaluate repeatability`: whether a detector finds the same points again, and how exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from locate.datasets.matching import HomographyPair, Size, crop_to, read_matching_data
from locate.errors import InputError
from locate.extractors.base import Extractor
from locate.metrics.matching import (
    best_in_view,
    localization_error,
    mutual_repeatability,
    nearest_distances,
    repeatability,
)
from locate.types import Array
from pipelines.evaluation.common import (
    Progress,
    View,
    curves_over_pixels,
    extractor_settings,
    folder_name,
    homography_between,
    mean_columns,
    pair_tables,
    require_local,
    require_positive,
    score_pairs,
)
from pipelines.reports.report import Report

THRESHOLDS = (1, 2, 3, 4, 5)

_MEASURES = (
    *("rep (image b)", "rep (each view)", "rep (mutual)"),
    *("error (image b)", "error (each view)", "points"),
)
_NOTES = (
    "rep (image b), error (image b): both directions measured in image b, pooled (SuperPoint, KP2D).",
    "rep (each view), error (each view): each direction in the image it goes to (UnsuperPoint).",
    "rep (mutual): nearest to each other, below the threshold, of all points (SEKD).",
    "Errors are in pixels, of the points that were found again.",
)


@dataclass(frozen=True, eq=False)
class RepeatabilityScores:
    """One pair by one extractor: `repeatability` and `localization_error` (pixels) with the
    distances measured in image b, or each direction in the image it goes to; NaN where nothing is
    defined. `curve` is `in_b` at each of `THRESHOLDS`, `points` how many of both images count."""

    pair: HomographyPair
    in_b: float
    each_view: float
    mutual: float
    error_in_b: float
    error_each_view: float
    curve: Array
    points: int


def evaluate_repeatability(
    folder: Path,
    extractors: Mapping[str, Extractor],
    *,
    layout: str | None = None,
    max_keypoints: int | None = 300,
    threshold: float = 3.0,
    size: Size | None = (320, 240),
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Detect points in the pairs of a dataset with homographies (HPatches or Oxford affine; `InputError`
    if it has none, is unknown or damaged) and look for each in the other image.

    The defaults are the protocol of SuperPoint (DeTone et al., CVPRW 2018, section 7): the 300 strongest
    points of the shared view at 240 x 320 pixels, found again within 3 pixels.

    Args:
        extractors, layout: as for `evaluate_matching`.
        max_keypoints: the strongest that count, chosen after those outside the shared view are
            dropped; None for all. SEKD's variant takes the strongest of the whole image.
        threshold: in pixels.
        size: (width, height) that the photos are cut to (`crop_to`); None for full resolution.
        seed: kept in the report; nothing here is random.
    """
    require_local(extractors)
    require_positive("max_keypoints", max_keypoints)
    require_positive("threshold", threshold)
    require_positive("size", None if size is None else min(size))
    data = read_matching_data(folder, layout)
    pairs = data.homographies
    if not pairs:
        raise InputError(f"{folder} ({data.layout}) has no homographies, which repeatability needs")
    scores, notes = score_pairs(
        pairs,
        extractors,
        lambda _, _n, p, a, b: {"": score_repeatability(p, a, b, max_keypoints, threshold)},
        None if size is None else (lambda pixels: crop_to(pixels, size)),
        progress,
    )
    return Report(
        "repeatability",
        settings={
            "data": folder_name(folder),
            "layout": data.layout,
            "pairs": len(pairs),
            "max_keypoints": max_keypoints,
            "threshold": threshold,
            "size": None if size is None else list(size),
            "seed": seed,
            "extractors": extractor_settings(extractors),
        },
        tables=pair_tables(
            f"Repeatability at {threshold:g} px: mean over the pairs",
            f"Repeatability at {threshold:g} px by sequence",
            _MEASURES,
            scores,
            _row,
        ),
        curves=(
            curves_over_pixels(
                "repeatability",
                "Points found again (measured in image b)",
                "repeatability",
                THRESHOLDS,
                {name: mean_columns([s.curve for s in found]) for name, found in scores.items()},
            ),
        ),
        notes=(*notes, *_NOTES),
    )


def score_repeatability(
    pair: HomographyPair, view_a: View, view_b: View, max_keypoints: int | None, threshold: float
) -> RepeatabilityScores:
    """Look for the points of each image of a pair in the other; arguments as of the evaluation."""
    a, b = view_a.features, view_b.features
    b_from_a = homography_between(pair, view_a, view_b)
    a_from_b = np.linalg.inv(b_from_a)
    seen_a = best_in_view(a.keypoints, a.scores, b_from_a, b.image_size, max_keypoints)
    seen_b = best_in_view(b.keypoints, b.scores, a_from_b, a.image_size, max_keypoints)
    points = a.keypoints[seen_a], b.keypoints[seen_b]
    in_b = nearest_distances(*points, b_from_a)
    each = nearest_distances(*points, b_from_a, frames="each")
    best = a.keypoints[:max_keypoints], b.keypoints[:max_keypoints]
    return RepeatabilityScores(
        pair,
        in_b=repeatability(*in_b, threshold),
        each_view=repeatability(*each, threshold),
        mutual=mutual_repeatability(*best, b_from_a, threshold),
        error_in_b=localization_error(*in_b, threshold),
        error_each_view=localization_error(*each, threshold, pooled=False),
        curve=np.array([repeatability(*in_b, t) for t in THRESHOLDS]),
        points=len(seen_a) + len(seen_b),
    )


def _row(scores: Sequence[RepeatabilityScores]) -> tuple[Any, ...]:
    means = mean_columns(
        [(s.in_b, s.each_view, s.mutual, s.error_in_b, s.error_each_view) for s in scores]
    )
    return *means.tolist(), round(float(np.mean([s.points for s in scores])) / 2)
