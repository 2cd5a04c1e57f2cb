"""Poses of one camera whose inliers are projected by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from locate.geometry.cameras import Camera
from locate.localization.pose import LOCALIZED, Pose

CAMERA = Camera("SIMPLE_RADIAL", 640, 480, (500.0, 320.0, 240.0, 0.02))


def looking(center, heading, pitch=0.0):
    h, p = np.radians([heading, pitch])
    forward = np.array([np.sin(h) * np.cos(p), np.cos(h) * np.cos(p), np.sin(p)])
    right = np.array([np.cos(h), -np.sin(h), 0])
    rotation = np.array([right, np.cross(forward, right), forward])
    return np.c_[rotation, -rotation @ center]


def pose_of(name="q.jpg", center=(1.0, -8.0, 0.5), heading=10.0, **changed):
    """A pose and inliers that it sees without error."""
    matrix = looking(np.array(center), heading)
    rng = np.random.default_rng(0)
    world = rng.uniform((-2, -1, -2), (2, 1, 2), (12, 3))
    values = {
        "cam_from_world": matrix,
        "camera": CAMERA,
        "matches": 20,
        "inliers": 12,
        "error": 0.75,
        "world_points": world,
        "points": by_hand(matrix, world),
        "covariance": np.diag([0.01, 0.02, 0.03, 1e-3, 1e-3, 1e-3]) ** 2,
        **changed,
    }
    return Pose(Path(name), values.pop("verdict", LOCALIZED), "12 of 20 agree", **values)


def by_hand(matrix, world):
    """SIMPLE_RADIAL in our pixels: COLMAP's principal point less a half."""
    x, y, z = matrix[:, :3] @ world.T + matrix[:, 3:]
    u, v = x / z, y / z
    radial = 1 + 0.02 * (u * u + v * v)
    return np.stack((500 * radial * u + 319.5, 500 * radial * v + 239.5), axis=1)
