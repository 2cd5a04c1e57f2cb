"""How well cameras were localized: position and rotation errors, recall at thresholds, medians.

A pose is `cam_from_world`, 3 x 4 or 4 x 4 [R | t]: x_cam = R x_world + t. The unit of t, and so of
positions, is the metre. Averages of day and night queries are never pooled: call once for each.

Sources: Sattler et al., Benchmarking 6DOF Outdoor Visual Localization (CVPR 2018);
Shotton et al. (CVPR 2013) for 7-Scenes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from locate.errors import InputError
from locate.metrics.common import mean_defined
from locate.types import Array

Thresholds = Sequence[tuple[float, float]]

# (metres, degrees) as published for each benchmark
OUTDOOR: Thresholds = ((0.25, 2.0), (0.5, 5.0), (5.0, 10.0))  # Aachen and the others since 2018
SEVEN_SCENES: Thresholds = ((0.05, 5.0),)

_ORTHOGONALITY = 1e-3  # of an R that was written with few digits


def camera_center(cam_from_world: Array) -> Array:
    """Where the camera stands in the world: c = -R^T t, 3 numbers in metres."""
    rotation, translation = _rotation_translation(cam_from_world)
    return np.asarray(-rotation.T @ translation)


def position_error(estimated: Array, truth: Array) -> float:
    """e_t = |c_truth - c_estimated| in metres, between two `cam_from_world`."""
    return float(np.linalg.norm(camera_center(truth) - camera_center(estimated)))


def rotation_error(estimated: Array, truth: Array) -> float:
    """e_R = |arccos((trace(R_truth^T R_estimated) - 1) / 2)| in degrees, 0 to 180, between two
    `cam_from_world`; the cosine is clipped to [-1, 1]."""
    r_estimated, _ = _rotation_translation(estimated)
    r_truth, _ = _rotation_translation(truth)
    cosine = (np.trace(r_truth.T @ r_estimated) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def pose_errors(estimated: Sequence[Array | None], truth: Sequence[Array]) -> tuple[Array, Array]:
    """The errors of Q estimated `cam_from_world` (None: not localized) against the true ones in the
    same order: Q metres and Q degrees. Both are infinite for a query that was not localized or
    whose pose is not finite, so that it stays in every denominator."""
    if len(estimated) != len(truth):
        raise InputError(f"{len(estimated)} estimated poses, but {len(truth)} true ones")
    pairs = [
        (position_error(e, t), rotation_error(e, t))
        if e is not None and np.isfinite(e).all()
        else (np.inf, np.inf)
        for e, t in zip(estimated, truth, strict=True)
    ]
    errors = np.array(pairs, np.float64).reshape(-1, 2)
    return errors[:, 0], errors[:, 1]


def pose_recall(
    position_errors: Array,
    rotation_errors: Array,
    thresholds: Thresholds = OUTDOOR,
    *,
    inclusive: bool = True,
) -> Array:
    """The share of Q queries, of whose errors see `pose_errors`, within both thresholds at once, for T
    pairs (metres, degrees); NaN for no queries. `inclusive` is <= as the benchmarks define it; False
    for the < of hloc."""
    position, rotation = _errors(position_errors), _errors(rotation_errors)
    if position.shape != rotation.shape:
        raise InputError(f"{len(position)} position errors, but {len(rotation)} rotation errors")
    within = np.less_equal if inclusive else np.less
    return np.array(
        [mean_defined(within(position, x) & within(rotation, y)) for x, y in thresholds]
    )


def median_errors(position_errors: Array, rotation_errors: Array) -> tuple[float, float]:
    """The median position error in metres and the median rotation error in degrees, each by itself,
    of all Q queries: infinite once half of them are not localized, NaN for no queries."""
    position, rotation = (
        float(np.median(_errors(errors))) if len(errors) else float("nan")
        for errors in (position_errors, rotation_errors)
    )
    return position, rotation


def _errors(errors: Array) -> Array:
    """Q errors; NaN is a query that was not localized, too."""
    errors = np.asarray(errors, np.float64)
    return np.where(np.isnan(errors), np.inf, errors)


def _rotation_translation(cam_from_world: Array) -> tuple[Array, Array]:
    """R 3 x 3 and t 3, checked: a transposed, scaled or mirrored matrix gives plausible errors."""
    matrix = np.asarray(cam_from_world, np.float64)
    if matrix.shape not in ((3, 4), (4, 4)) or not np.isfinite(matrix).all():
        raise InputError(f"a pose must be 3 x 4 or 4 x 4 and finite, got shape {matrix.shape}")
    if matrix.shape == (4, 4) and not np.allclose(matrix[3], (0, 0, 0, 1)):
        raise InputError(f"the last row of a pose must be 0 0 0 1, got {matrix[3]}")
    rotation = matrix[:3, :3]
    off = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if off > _ORTHOGONALITY or np.linalg.det(rotation) < 0:
        raise InputError("the left 3 x 3 of a pose must be a rotation, this one is not")
    return rotation, matrix[:3, 3]


def pose_error(estimated: Array, truth: Array) -> Array:
    """6: the true centre less the estimated one, and the rotation vector w of
    R_wc(true) = exp(w) R_wc(estimated), in the order of `Pose.covariance`. Both poses 3 x 4
    `cam_from_world`; for small rotations."""
    centres = [-pose[:, :3].T @ pose[:, 3] for pose in (estimated, truth)]
    turn = truth[:, :3].T @ estimated[:, :3]
    vector = [turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]
    return np.concatenate([centres[1] - centres[0], np.array(vector) / 2])
