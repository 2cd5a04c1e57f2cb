"""`locate evaluate matching`: how many matches of local features are right, and what they are good for.

A homography (HPatches, Oxford affine) says for every point where it lies in the other image; the
scores are those of `locate.metrics.matching`. Annotated correspondences (WxBS) say it for some dozen
points of a scene in relief: `pipelines.evaluation.correspondences`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from locate.datasets.matching import HomographyPair, Size, crop_to, d2net_pairs, read_matching_data
from locate.errors import InputError, UnknownNameError
from locate.extractors.base import Extractor
from locate.matching.descriptors import match_mutual
from locate.metrics.matching import (
    HOMOGRAPHY_THRESHOLDS,
    MMA_THRESHOLDS,
    best_in_view,
    corner_error,
    homography_accuracy,
    match_errors,
    matching_score,
    mean_matching_accuracy,
    nearest_neighbor_map,
)
from locate.types import Array, Features
from pipelines.evaluation.common import (
    Progress,
    View,
    curves_over_pixels,
    extractor_settings,
    folder_name,
    homography_between,
    matched_points,
    pair_tables,
    require_local,
    require_positive,
    score_pairs,
)
from pipelines.evaluation.correspondences import evaluate_correspondences
from pipelines.reports.report import Report

PROTOCOLS = ("full", "d2net", "superpoint")
ESTIMATORS = {"ransac": cv2.RANSAC, "magsac": cv2.USAC_MAGSAC}
RANSAC = (3.0, 5000, 0.9995)  # reprojection error in pixels, iterations, confidence
RANSAC_RUNS = 5


@dataclass(frozen=True, eq=False)
class HomographyScores:
    """One pair by one extractor: `mma` at each of `MMA_THRESHOLDS`, the corner error of each RANSAC
    run in pixels, the number of keypoints by image."""

    pair: HomographyPair
    mma: Array
    corner_errors: Array
    matching_score: float
    nn_map: float
    keypoints: Mapping[Path, int]
    matches: int


def evaluate_matching(
    folder: Path,
    extractors: Mapping[str, Extractor],
    *,
    layout: str | None = None,
    protocol: str = "full",
    max_keypoints: int | None = None,
    size: Size = (640, 480),
    estimator: str = "ransac",
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Match the pairs of a dataset (HPatches, Oxford affine or WxBS) and hold the matches against
    its truth.

    Args:
        extractors: by the name shown in the table; each must give local features.
        layout: see `read_matching_data`.
        protocol: "full" for all pairs at full resolution with all features; "d2net" for the same less
            HPatches' eight sequences of very large images; "superpoint" for images cut to `size`
            (`crop_to`), where the homography is estimated from the strongest features of the
            shared view alone.
        max_keypoints: the strongest that take part; None for all, but for the protocol "superpoint"
            1000, or 300 if `size` (width, height) is (320, 240).
        estimator: of the homographies, by OpenCV: "ransac", as the literature has it, or "magsac"
            (MAGSAC++), whose result depends less on the order of the matches.
        seed: of the RANSACs and of the chance levels. Same seed, same report.

    Raises:
        InputError: the dataset is unknown or damaged, or does not go with the protocol.
    """
    require_local(extractors)
    require_positive("max_keypoints", max_keypoints)
    require_positive("size", min(size))
    if seed < 0:
        raise InputError(f"the seed must not be negative, got {seed}")
    if protocol not in PROTOCOLS:
        raise UnknownNameError("protocol", protocol, PROTOCOLS)
    if estimator not in ESTIMATORS:
        raise UnknownNameError("estimator", estimator, ESTIMATORS)
    data = read_matching_data(folder, layout)
    settings: dict[str, Any] = {
        "data": folder_name(folder),
        "layout": data.layout,
        "protocol": protocol,
        "max_keypoints": max_keypoints,
        "seed": seed,
        "extractors": extractor_settings(extractors),
    }
    if protocol == "d2net" and data.layout != "hpatches":
        raise InputError(f"the protocol d2net is one of HPatches, this is {data.layout}: use full")
    if data.correspondences:
        if protocol != "full":
            raise InputError(f"the protocol {protocol} needs homographies, WxBS has none: use full")
        return evaluate_correspondences(data.correspondences, extractors, settings, progress)
    pairs = data.homographies
    if protocol == "d2net":
        pairs = d2net_pairs(pairs)
        if not pairs:
            raise InputError(f"{folder} holds only sequences that d2net leaves out: use full")
    if protocol == "superpoint":
        settings["max_keypoints"] = max_keypoints or (300 if size == (320, 240) else 1000)
        settings["size"] = list(size)
    settings["estimator"] = estimator
    return _evaluate_homographies(pairs, extractors, settings, progress)


def _evaluate_homographies(
    pairs: Sequence[HomographyPair],
    extractors: Mapping[str, Extractor],
    settings: dict[str, Any],
    progress: Progress | None,
) -> Report:
    size = settings.get("size")
    prepare = None if size is None else (lambda pixels: crop_to(pixels, (size[0], size[1])))

    chosen = {key: settings[key] for key in ("max_keypoints", "estimator")}

    def score(
        _: Extractor, number: int, pair: HomographyPair, a: View, b: View
    ) -> dict[str, HomographyScores]:
        seed = (settings["seed"], number)
        return {"": score_homography(pair, a, b, shared_view=bool(size), seed=seed, **chosen)}

    scores, notes = score_pairs(pairs, extractors, score, prepare, progress)
    ransac = dict(zip(("error", "iterations", "confidence"), RANSAC, strict=True))
    measures = (
        *(f"MMA@{t}" for t in (1, 3, 5, 10)),
        *(f"homography@{t}" for t in HOMOGRAPHY_THRESHOLDS),
        *("M-score", "NN-mAP", "keypoints", "matches"),
    )
    return Report(
        "matching",
        {**settings, "pairs": len(pairs), "ransac": {**ransac, "runs": RANSAC_RUNS}},
        tables=pair_tables(
            "Matching: mean over the pairs; thresholds in pixels",
            "Matching by sequence",
            measures,
            scores,
            _homography_row,
        ),
        curves=(
            curves_over_pixels(
                "mma",
                "Right matches (MMA)",
                "share of the mutual nearest neighbours",
                MMA_THRESHOLDS,
                {name: np.mean([s.mma for s in found], axis=0) for name, found in scores.items()},
            ),
        ),
        notes=(
            *notes,
            f"homography@t is the mean of {RANSAC_RUNS} RANSACs that see the matches in another order.",
            "M-score divides by the features in the shared view.",
        ),
    )


def score_homography(
    pair: HomographyPair,
    view_a: View,
    view_b: View,
    *,
    max_keypoints: int | None = None,
    shared_view: bool = False,
    estimator: str = "ransac",
    seed: tuple[int, ...] = (0,),
) -> HomographyScores:
    """Hold the matches of one pair against its homography, which is estimated from the strongest
    features of the shared view if `shared_view`, else of the whole images. `seed` is of the order
    of the matches."""
    b_from_a = homography_between(pair, view_a, view_b)
    a, b = (view.features.take(slice(max_keypoints)) for view in (view_a, view_b))
    matched_a, matched_b = matched_points(a, b, match_mutual(a.descriptors, b.descriptors))
    ends = matched_a, matched_b
    if shared_view:
        in_a = _in_view(view_a.features, b_from_a, b.image_size, max_keypoints)
        in_b = _in_view(view_b.features, np.linalg.inv(b_from_a), a.image_size, max_keypoints)
        ends = matched_points(in_a, in_b, match_mutual(in_a.descriptors, in_b.descriptors))
    found = a.keypoints, a.descriptors, b.keypoints, b.descriptors, b_from_a
    return HomographyScores(
        pair,
        mma=mean_matching_accuracy(match_errors(matched_a, matched_b, b_from_a)),
        corner_errors=_corner_errors(*ends, b_from_a, a.image_size, ESTIMATORS[estimator], seed),
        matching_score=matching_score(*found, size_a=a.image_size, size_b=b.image_size),
        nn_map=nearest_neighbor_map(*found),
        keypoints={pair.image_a: len(a), pair.image_b: len(b)},
        matches=len(matched_a),
    )


def _corner_errors(
    a: Array, b: Array, b_from_a: Array, size_a: Size, method: int, seed: tuple[int, ...]
) -> Array:
    """The corner error of each of `RANSAC_RUNS` estimates. OpenCV's RANSAC draws the same samples in
    every call, whatever `cv2.setRNGSeed` says, so the runs differ by the order of the matches."""
    error, iterations, confidence = RANSAC
    errors = []
    for run in range(RANSAC_RUNS):
        order = np.random.default_rng((*seed, run)).permutation(len(a))
        estimated = None
        if len(order) >= 4:
            estimated, _ = cv2.findHomography(
                a[order], b[order], method, error, maxIters=iterations, confidence=confidence
            )
        errors.append(corner_error(estimated, b_from_a, size_a))
    return np.array(errors)


def _in_view(features: Features, other_from_own: Array, size: Size, keep: int | None) -> Features:
    best = best_in_view(features.keypoints, features.scores, other_from_own, size, keep)
    return features.take(best)


def _homography_row(scores: Sequence[HomographyScores]) -> tuple[Any, ...]:
    mma = np.mean([s.mma for s in scores], axis=0)
    # Every pair has as many runs, so that pooling them is the mean over the runs.
    accuracy = homography_accuracy(np.concatenate([s.corner_errors for s in scores]))
    keypoints = {path: n for s in scores for path, n in s.keypoints.items()}
    return (
        *(float(mma[MMA_THRESHOLDS.index(t)]) for t in (1, 3, 5, 10)),
        *map(float, accuracy),
        float(np.mean([s.matching_score for s in scores])),
        float(np.mean([s.nn_map for s in scores])),
        round(float(np.mean(list(keypoints.values())))),
        round(float(np.mean([s.matches for s in scores]))),
    )
