"""The answer to "where was the camera".

A pose maps the world to the camera, x_cam = R x_world + t; the camera looks along +z, x is right, y is
down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from locate.errors import InputError
from locate.geometry.cameras import Camera
from locate.geometry.rigid import center_of, quaternion_of
from locate.types import Array

LOCALIZED, UNCERTAIN, NOT_LOCALIZED = "localized", "uncertain", "not localized"
VERDICTS = (LOCALIZED, UNCERTAIN, NOT_LOCALIZED)


@dataclass(frozen=True, eq=False)
class Pose:
    """Where the camera of one photo stood, or why nobody can tell.

    Attributes:
        photo: the file, or None for pixels in memory.
        verdict: one of `VERDICTS`. What is "not localized" has no pose; what is "uncertain" has one
            that should not be relied upon.
        reason: one sentence saying why.
        cam_from_world: 3 x 4 float64 [R | t], or None.
        covariance: 6 x 6 float64, or None, of (x, y, z, rotation about the axes x, y, z of the map): of
            the camera's centre in units of the map and of the orientation in radians, as ROS orders
            them. A true pose is (exp(w) R_wc, c + d) with (d, w) drawn from it.
        camera: that was used or found.
        matches: 2D-3D matches, different features of the photo.
        inliers: of these, how many agree with the pose.
        spread: share of the cells of an 8 x 8 grid over the photo that hold an inlier, 0 to 1.
        error: root mean square reprojection error of the inliers, in pixels of the photo; NaN
            without any.
        images: names of the map's images whose points agree with the pose, most first.
        points, world_points: inliers: M x 2 float64 in our pixels of the photo, and what they show,
            M x 3.
        seconds: time by part.
    """

    photo: Path | None
    verdict: str
    reason: str
    cam_from_world: Array | None = None
    covariance: Array | None = None
    camera: Camera | None = None
    matches: int = 0
    inliers: int = 0
    spread: float = 0.0
    error: float = float("nan")
    images: tuple[str, ...] = ()
    points: Array = field(default_factory=lambda: np.zeros((0, 2)), repr=False)
    world_points: Array = field(default_factory=lambda: np.zeros((0, 3)), repr=False)
    seconds: Mapping[str, float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_verdict(self.verdict, self.cam_from_world)
        for name, shape in (("cam_from_world", (3, 4)), ("covariance", (6, 6))):
            value = getattr(self, name)
            if value is not None and (value.shape != shape or not np.isfinite(value).all()):
                raise InputError(f"{name} must be {shape} finite numbers, got {value}")

    @property
    def center(self) -> Array | None:
        """The camera's centre in the map, 3 float64: -R^T t."""
        return None if self.cam_from_world is None else center_of(self.cam_from_world)

    @property
    def quaternion(self) -> Array | None:
        """The rotation of `cam_from_world`, (w, x, y, z), w >= 0."""
        return None if self.cam_from_world is None else quaternion_of(self.cam_from_world[:, :3])

    def to_json(self) -> dict[str, Any]:
        """JSON-able values; the inliers themselves are left out."""
        camera = self.camera and {**vars(self.camera), "params": list(self.camera.params)}
        return {
            "photo": None if self.photo is None else str(self.photo),
            "verdict": self.verdict,
            "reason": self.reason,
            "cam_from_world": motion_to_json(self.cam_from_world),
            "center": None if self.center is None else self.center.tolist(),
            "covariance": None if self.covariance is None else self.covariance.tolist(),
            "camera": camera,
            "matches": self.matches,
            "inliers": self.inliers,
            "inlier_ratio": self.inliers / self.matches if self.matches else 0.0,
            "spread": self.spread,
            "error_px": None if np.isnan(self.error) else self.error,
            "images": list(self.images),
            "seconds": dict(self.seconds),
        }


@dataclass(frozen=True, eq=False)
class PosePrior:
    """Where the camera is already believed to be: only map images near it are candidates.

    Attributes:
        center: 3, in the map.
        direction: 3, unit vector along the optical axis, or None for any.
        radius: in units of the map.
        angle: degrees between the directions.
    """

    center: Array
    direction: Array | None = None
    radius: float = float("inf")
    angle: float = 60.0

    def __post_init__(self) -> None:
        if np.shape(self.center) != (3,) or not np.isfinite(self.center).all():
            raise InputError(f"a prior position is 3 finite numbers, got {self.center}")
        if not (self.radius > 0 and 0 < self.angle <= 180):
            raise InputError(
                "a prior needs a positive radius and an angle of at most 180 degrees, got "
                f"{self.radius}, {self.angle}"
            )
        if self.direction is not None and not (
            np.shape(self.direction) == (3,) and abs(np.linalg.norm(self.direction) - 1) < 1e-3
        ):
            raise InputError(f"a prior direction is a unit vector, 3 numbers, got {self.direction}")


def check_verdict(verdict: str, pose: Array | None) -> None:
    """`InputError` if it is none, or contradicts that there is a pose or not."""
    if verdict not in VERDICTS:
        raise InputError(f"a verdict is one of {', '.join(VERDICTS)}, not {verdict!r}")
    if (pose is None) != (verdict == NOT_LOCALIZED):
        raise InputError(f"{verdict}, but the pose is {pose}")


def motion_to_json(pose: Array | None) -> dict[str, Any] | None:
    """JSON-able values of a rigid motion, 3 x 4."""
    if pose is None:
        return None
    quaternion = quaternion_of(pose[:, :3]).tolist()
    return {"quaternion_wxyz": quaternion, "translation": pose[:, 3].tolist()}
