"""Two-view verification: which tentative matches agree with one motion of a rigid camera.

Which model of that motion, and how exactly, depends on how exact the points are (`ExtractorInfo`):

- "fundamental": any scene, any motion; a match is left one coordinate to be wrong in, so that points
  have to be exact. The estimator is PoseLib's LO-RANSAC. `benchmarks/ablations/verifiers.py`
  compares it with OpenCV's USAC_MAGSAC on real true and false pairs. At the ratio test in use
  PoseLib separates them a little better (28.8 % of the true web pairs have more inliers than 99 %
  of the false ones, 27.4 % by MAGSAC); MAGSAC takes half the time, but both take less than the
  matching itself.
- "affine": one plane seen from afar, within many pixels; for points on a coarse grid. The estimator is
  OpenCV's RANSAC, which draws the same numbers every time.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import poselib

from locate.errors import UnknownNameError
from locate.matching.evidence import evidence_of
from locate.matching.overlays import on_overlay
from locate.types import FUNDAMENTAL, MODELS, Array, Features, Verification

MAX_EPIPOLAR_ERROR = 2.0  # pixels at the working size
MAX_ITERATIONS = 2000
_NO_EVIDENCE = 1.0  # inliers beyond chance, which prove nothing by any extractor
# Seven determine F and three an affine motion, the next is the first evidence.
MIN_MATCHES, MIN_AFFINE_MATCHES = 8, 4


def verify(
    query: Features,
    database: Features,
    matches: Array,
    working_side: int = 1024,
    model: str = FUNDAMENTAL,
    max_error: float = MAX_EPIPOLAR_ERROR,
    *,
    overlays: bool = True,
) -> Verification:
    """Estimate the motion between two images and keep the matches (M x 2 int32) that agree with it:
    all but repeated ones (`distinct_matches`) and those on an overlay (`locate.matching.overlays`),
    with their inliers.

    Args:
        working_side: long side in pixels that both images were shrunk to before detection, at which the
            error tolerance holds, as the precision of keypoints does.
        model: one of `MODELS`.
        max_error: in pixels of that size, to the epipolar lines (Sampson), or in the database image to
            where the affine motion puts a point of the query.
        overlays: False counts matches on an overlay as any others, to measure what they would prove.
    """
    if model not in MODELS:
        raise UnknownNameError("model of verification", model, MODELS)
    scale_q = min(1.0, working_side / max(query.image_size))
    scale_d = min(1.0, working_side / max(database.image_size))

    def verified(matches: Array) -> Verification:
        points_q, points_d = query.keypoints[matches[:, 0]], database.keypoints[matches[:, 1]]
        keep = distinct_matches(points_q * scale_q, points_d * scale_d)
        matches, points_q, points_d = matches[keep], points_q[keep], points_d[keep]
        work = points_q.astype(np.float64) * scale_q, points_d.astype(np.float64) * scale_d
        found = (_fundamental if model == FUNDAMENTAL else _affine)(*work, max_error)
        if found is None:
            none = np.zeros(len(matches), np.bool_)
            return Verification(matches, points_q, points_d, none, None, "none", model)
        matrix, inliers = found
        # Back to original pixels: x_work = diag(s, s, 1) x.
        to_q, to_d = np.diag((scale_q, scale_q, 1.0)), np.diag((scale_d, scale_d, 1.0))
        back = to_d if model == FUNDAMENTAL else np.linalg.inv(to_d)
        return Verification(
            matches, points_q, points_d, inliers, back @ matrix @ to_q, model, model
        )

    found = verified(matches)
    # Only where more agrees than by chance is it worth asking whether that is an overlay.
    if not overlays or evidence_of(found) <= _NO_EVIDENCE:
        return found
    on = on_overlay(query, database, found.matches, working_side)
    if not on.any():
        return found
    return replace(verified(found.matches[~on]), on_overlay=int(on.sum()))


def _fundamental(points_q: Array, points_d: Array, max_error: float) -> tuple[Array, Array] | None:
    """F with x_d^T F x_q = 0 and M bool, which of M x 2 points agree; None where nothing fits."""
    if len(points_q) < MIN_MATCHES:
        return None
    ransac = {"max_epipolar_error": max_error, "min_iterations": 100, "seed": 0}
    ransac["max_iterations"] = MAX_ITERATIONS
    matrix, report = poselib.estimate_fundamental(points_q, points_d, ransac)
    inliers = np.asarray(report["inliers"], np.bool_)
    if not inliers.any() or not np.isfinite(matrix).all():
        return None
    return np.asarray(matrix), inliers


def _affine(points_q: Array, points_d: Array, max_error: float) -> tuple[Array, Array] | None:
    """A, 3 x 3 with the last row 0 0 1 and x_d = A x_q, and M bool, which of M x 2 points agree."""
    if len(points_q) < MIN_AFFINE_MATCHES:
        return None
    rows, _ = cv2.estimateAffine2D(
        points_q,
        points_d,
        method=cv2.RANSAC,
        ransacReprojThreshold=max_error,
        maxIters=MAX_ITERATIONS,
        confidence=0.999,
    )
    if rows is None or not np.isfinite(rows).all():
        return None
    matrix = np.r_[rows, [[0.0, 0.0, 1.0]]]
    inliers = transfer_errors(matrix, points_q, points_d) <= max_error  # after OpenCV's last fit
    return (matrix, inliers) if inliers.any() else None


def transfer_errors(matrix: Array, points_a: Array, points_b: Array) -> Array:
    """How far in pixels from M points of b the affine motion `matrix` (3 x 3) puts those of a."""
    there = points_a @ matrix[:2, :2].T + matrix[:2, 2]
    return np.asarray(np.linalg.norm(there - points_b, axis=1))


def distinct_matches(points_a: Array, points_b: Array) -> Array:
    """Indices of matches that are evidence of their own: of those that share a pixel in either image
    (M x 2 each), the first. A detector may report one spot several times (SIFT: once for every
    orientation), and then one coincidence would count several times."""
    index = np.arange(len(points_a))
    for points in (points_a, points_b):
        _, first = np.unique(np.rint(points[index]).astype(np.int64), axis=0, return_index=True)
        index = index[np.sort(first)]
    return index


def epipolar_distances(matrix: Array, points_a: Array, points_b: Array) -> Array:
    """Sampson distance in pixels (Hartley and Zisserman, eq. 11.9) of M pairs to F, x_b^T F x_a =
    0."""
    a = np.c_[points_a, np.ones(len(points_a))].astype(np.float64)
    b = np.c_[points_b, np.ones(len(points_b))].astype(np.float64)
    lines_b, lines_a = a @ matrix.T, b @ matrix
    algebraic = np.sum(b * lines_b, axis=1)
    gradient = np.sum(lines_b[:, :2] ** 2, axis=1) + np.sum(lines_a[:, :2] ** 2, axis=1)
    return np.asarray(np.abs(algebraic) / np.sqrt(np.maximum(gradient, 1e-300)))
