"""Two-view verification: which tentative matches agree with one motion of a rigid camera.

The estimator is PoseLib's LO-RANSAC for the fundamental matrix. `benchmarks/verifiers.py` compares it
with OpenCV's USAC_MAGSAC on real true and false pairs. At the ratio test in use PoseLib separates them a
little better (28.8 % of the true web pairs have more inliers than 99 % of the false ones, 27.4 % by
MAGSAC); MAGSAC takes half the time, but both take less than the matching itself.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import poselib

from locate.overlays import on_overlay
from locate.types import Array, Features, Verification
from locate.verdict import evidence_of

MAX_EPIPOLAR_ERROR = 2.0  # pixels at the working size
MAX_ITERATIONS = 2000
_NO_EVIDENCE = 1.0  # inliers beyond chance, which prove nothing by any extractor
MIN_MATCHES = 8  # seven determine F, the eighth is the first evidence


def verify(
    query: Features, database: Features, matches: Array, working_side: int = 1024
) -> Verification:
    """Estimate the fundamental matrix between two images and keep the matches that agree with it.

    Args:
        query, database: the features of both images.
        matches: M x 2 int32, indices (query, database).
        working_side: long side in pixels that both images were shrunk to before detection. The
            error tolerance holds at that size, as the precision of keypoints does.

    Returns:
        `matches` less repeated ones (see `distinct_matches`) and less those on an overlay
        (`locate.overlays`), with their inliers.
    """
    found = _verified(query, database, matches, working_side)
    # Only where more agrees than by chance is it worth asking whether that is an overlay.
    if evidence_of(found) <= _NO_EVIDENCE:
        return found
    on = on_overlay(query, database, found.matches, working_side)
    if not on.any():
        return found
    rest = _verified(query, database, found.matches[~on], working_side)
    return replace(rest, on_overlay=int(on.sum()))


def _verified(
    query: Features, database: Features, matches: Array, working_side: int
) -> Verification:
    scale_q = min(1.0, working_side / max(query.image_size))
    scale_d = min(1.0, working_side / max(database.image_size))
    points_q = query.keypoints[matches[:, 0]]
    points_d = database.keypoints[matches[:, 1]]
    keep = distinct_matches(points_q * scale_q, points_d * scale_d)
    matches, points_q, points_d = matches[keep], points_q[keep], points_d[keep]
    none = Verification(matches, points_q, points_d, np.zeros(len(matches), np.bool_), None, "none")
    if len(matches) < MIN_MATCHES:
        return none
    matrix, report = poselib.estimate_fundamental(
        points_q.astype(np.float64) * scale_q,
        points_d.astype(np.float64) * scale_d,
        {
            "max_epipolar_error": MAX_EPIPOLAR_ERROR,
            "max_iterations": MAX_ITERATIONS,
            "min_iterations": 100,
            "seed": 0,
        },
    )
    inliers = np.asarray(report["inliers"], np.bool_)
    if not inliers.any() or not np.isfinite(matrix).all():
        return none
    # Back to original pixels: x_work = diag(s, s, 1) x.
    to_q, to_d = np.diag((scale_q, scale_q, 1.0)), np.diag((scale_d, scale_d, 1.0))
    return Verification(
        matches, points_q, points_d, inliers, to_d @ np.asarray(matrix) @ to_q, "fundamental"
    )


def distinct_matches(points_a: Array, points_b: Array) -> Array:
    """Indices of matches that are evidence of their own.

    A detector may report one spot several times (SIFT: once for every orientation), and then one
    coincidence would count several times. Of the matches that share a pixel in either image, the
    first is kept.

    Args:
        points_a, points_b: M x 2 pixels.
    """
    index = np.arange(len(points_a))
    for points in (points_a, points_b):
        _, first = np.unique(np.rint(points[index]).astype(np.int64), axis=0, return_index=True)
        index = index[np.sort(first)]
    return index


def epipolar_distances(matrix: Array, points_a: Array, points_b: Array) -> Array:
    """Sampson distance in pixels (Hartley and Zisserman, eq. 11.9) of M pairs to `matrix`, with
    `x_b^T F x_a = 0`."""
    a = np.c_[points_a, np.ones(len(points_a))].astype(np.float64)
    b = np.c_[points_b, np.ones(len(points_b))].astype(np.float64)
    lines_b, lines_a = a @ matrix.T, b @ matrix
    algebraic = np.sum(b * lines_b, axis=1)
    gradient = np.sum(lines_b[:, :2] ** 2, axis=1) + np.sum(lines_a[:, :2] ** 2, axis=1)
    return np.asarray(np.abs(algebraic) / np.sqrt(np.maximum(gradient, 1e-300)))
