"""What a pose gains from knowing which way is up, as an inertial sensor tells.

The pose and the direction are combined by their covariances (an update of the extended Kalman filter,
Barfoot, State Estimation for Robotics, 2017, section 4.2.3), so that a sensor that knows less than the
photo changes nothing. It helps where inliers are few or lie in a small part of the photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from locate.errors import InputError
from locate.geometry.rigid import cross_matrices
from locate.localization.refinement import moved_pose
from locate.types import Array

CONTRADICTED = "but it contradicts the direction of up: check its axes (x right, y down)"
_BEYOND = 30.0  # of chi-squared with two degrees of freedom: by chance once in three million


@dataclass(frozen=True, eq=False)
class GravityPrior:
    """Which way is up.

    Attributes:
        in_camera: 3, unit vector in the axes of the camera (x right, y down, z forward), or of the rig.
        in_world: 3, the same in the map: (0, 0, 1) if its z is up; the last row of `Georef.rotation`.
        degrees: standard deviation about each axis across it.
    """

    in_camera: Array
    in_world: Array
    degrees: float = 1.0

    def __post_init__(self) -> None:
        for name in ("in_camera", "in_world"):
            vector = np.asarray(getattr(self, name), np.float64)
            length = float(np.linalg.norm(vector)) if vector.shape == (3,) else np.nan
            if not abs(length - 1) < 1e-3:
                raise InputError(f"up {name} must be 3 numbers of length 1, got {vector}")
            object.__setattr__(self, name, vector / length)
        if not 0 < self.degrees < 90:
            raise InputError(f"up must be known to some degrees, 0 to 90, got {self.degrees}")


def fuse_gravity(pose: Array, covariance: Array, up: GravityPrior) -> tuple[Array, Array] | None:
    """A pose (3 x 4) and its covariance (6 x 6, see `locate.localization.pose.Pose`), knowing
    which way is up; None if the pose contradicts that."""
    rotation = pose[:, :3]
    expected = rotation @ up.in_world
    # R_wc -> exp(w) R_wc turns what the camera sees of a direction u by R_cw exp(-w): R_cw (u x w).
    by_error = np.zeros((3, 6))
    by_error[:, 3:] = rotation @ cross_matrices(up.in_world[None])[0]
    # Across the direction only: along it, two unit vectors differ by no error of either.
    difference = up.in_camera - (up.in_camera @ expected) * expected
    scatter = by_error @ covariance @ by_error.T + np.radians(up.degrees) ** 2 * np.eye(3)
    distance = difference @ np.linalg.solve(scatter, difference)
    if distance > _BEYOND or up.in_camera @ expected <= 0:
        return None
    gain = covariance @ by_error.T @ np.linalg.inv(scatter)
    step, left = gain @ difference, (np.eye(6) - gain @ by_error) @ covariance
    return moved_pose(pose, step), (left + left.T) / 2
