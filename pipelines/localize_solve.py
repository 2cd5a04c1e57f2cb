"""From 2D-3D matches to a pose with its covariance, whether the focal length is known or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap

from locate.pixels import to_colmap
from locate.types import Array
from pipelines.localize_camera import QueryCamera, unknown_camera, with_camera
from pipelines.pose_estimate import estimate_pose, estimate_pose_and_focal
from pipelines.pose_refine import SYSTEMATIC, Refined, refine_pose

MAX_ERROR = 8.0  # pixels at the size that the extractor looks at, of RANSAC
_CLEARLY_MORE = 1.25  # times as many inliers: EXIF is wrong
_MOST = 0.8  # of the matches agree: they cannot be clearly more
_CONTRADICTED = 3.0  # standard deviations that a focal length of EXIF is refined away: it is wrong
_ROUNDS = 2  # of refining and choosing the inliers anew
_MIN_INLIERS = 6


@dataclass(frozen=True, eq=False)
class Solution:
    """Attributes:
    refined: the pose.
    camera: that was used, its source, and what was free.
    inliers: M bool of the matches.
    """

    refined: Refined
    camera: QueryCamera
    inliers: Array


def solve_pose(
    points: Array,
    world_points: Array,
    camera: QueryCamera,
    *,
    scale: float = 1.0,
    solver: str = "poselib",
    systematic: float = SYSTEMATIC,
    seed: int = 0,
) -> Solution | None:
    """The pose that most matches agree with.

    A focal length that EXIF gives competes with one that is estimated from the matches, as a photo may
    have been cropped since: the latter wins if clearly more matches agree with it, or nearly as many
    where they pull the former far away (its prior would stop it half-way, and be sure of that).

    Args:
        points: M x 2 in our pixels of the photo.
        world_points: M x 3.
        camera: of the query.
        scale: how many pixels of the photo one is that the extractor looks at.
        solver: a name of `pose_estimate.SOLVERS`, for known focal lengths.
        systematic: see `pose_refine.refine_pose`.
        seed: of RANSAC.

    Returns:
        None if too few matches agree with any pose.
    """
    found = _solve(points, world_points, camera, scale, solver, systematic, seed)
    if camera.source != "exif":
        return found
    contradicted = found is not None and _pull(camera, found) > _CONTRADICTED
    if found and not contradicted and found.inliers.mean() > _MOST:
        return found
    free = unknown_camera((camera.camera.width, camera.camera.height))
    other = _solve(points, world_points, free, scale, solver, systematic, seed)
    if other is None:
        return found
    if found is None:
        return other
    most = found.inliers.sum() * (1 / _CLEARLY_MORE if contradicted else _CLEARLY_MORE)
    return other if other.inliers.sum() > most else found


def _pull(camera: QueryCamera, found: Solution) -> float:
    """How far the focal length was refined away from the camera's, in its standard deviations."""
    ratio = found.camera.camera.mean_focal_length() / camera.camera.mean_focal_length()
    return float(abs(np.log(ratio))) / camera.freedom.focal


def _solve(
    points: Array,
    world: Array,
    camera: QueryCamera,
    scale: float,
    solver: str,
    systematic: float,
    seed: int,
) -> Solution | None:
    limit = MAX_ERROR * scale
    if camera.focal_known:
        first = estimate_pose(
            points,
            world,
            camera.camera,
            solver=solver,
            max_error=limit,
            loss_scale=scale,
            seed=seed,
        )
        lens = camera.camera
    else:
        both = estimate_pose_and_focal(points, world, camera.camera, max_error=limit, seed=seed)
        first, lens = both if both is not None else (None, camera.camera)
    if first is None:
        return None
    pixels, inliers, pose = to_colmap(np.asarray(points, np.float64)), first.inliers, first
    refined: Refined | None = None
    cam_from_world = pose.cam_from_world
    for _ in range(_ROUNDS):
        if inliers.sum() < _MIN_INLIERS:
            return None
        refined = refine_pose(
            pixels[inliers],
            world[inliers],
            lens,
            cam_from_world,
            freedom=camera.freedom,
            loss_scale=scale,
            systematic=systematic,
        )
        if refined is None:
            return None
        # The priors hold the camera that was given or first estimated, not the last guess.
        cam_from_world = refined.cam_from_world
        now = reprojection_errors(pixels, world, refined.camera, cam_from_world) <= limit
        if (now == inliers).all():
            break
        inliers = now
    if refined is None or len(refined.residuals) != inliers.sum():
        refined = refine_pose(
            pixels[inliers],
            world[inliers],
            lens,
            cam_from_world,
            freedom=camera.freedom,
            loss_scale=scale,
            systematic=systematic,
        )
    if refined is None:
        return None
    return Solution(refined, with_camera(camera, refined.camera), inliers)


def reprojection_errors(
    pixels: Array, world_points: Array, camera: pycolmap.Camera, cam_from_world: Array
) -> Array:
    """M distances in pixels between points (COLMAP's pixels, M x 2) and the projections of world points
    (M x 3); infinite behind the camera."""
    seen = world_points @ cam_from_world[:, :3].T + cam_from_world[:, 3]
    errors = np.linalg.norm(np.asarray(camera.img_from_cam(seen)) - pixels, axis=1)
    return np.asarray(np.where(np.isfinite(errors) & (seen[:, 2] > 0), errors, np.inf))
