"""From 2D-3D matches to a pose with its covariance, whether the focal length is known or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap

from locate.localization.absolute_pose import estimate_pose, estimate_pose_and_focal
from locate.localization.query_camera import (
    ESTIMATED,
    GIVEN,
    QueryCamera,
    any_lens,
    unknown_camera,
    with_camera,
)
from locate.localization.refinement import SYSTEMATIC, Refined, refine_pose
from locate.pixels import to_colmap
from locate.types import Array

MAX_ERROR = 8.0  # pixels at the size that the extractor looks at, of an inlier
# Of RANSAC. A few points in a small part of a photo fit a mirrored pose far away as well, some pixels
# off: there more of them lie within the wide tolerance than of the true pose.
LIMITS = (MAX_ERROR, MAX_ERROR / 4)
_MOST = 0.8  # of the matches agree: what another RANSAC would find lies nearby
_CONTRADICTED = 2.0  # standard deviations that a focal length is refined away: it may be wrong
# Twice the logarithm of the likelihood ratio, for six parameters more at most: the camera is another.
# And where it is contradicted already, so much worse may be what is estimated.
_OVERRULED, _AS_WELL = 20.0, 8.0
_ROUNDS = 6  # of refining and choosing the inliers anew
_MIN_INLIERS = 6
COARSE = 0.3  # share of systematic errors for each halving or doubling of what a photo resolves


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
    resolution: float | None = None,
    seed: int = 0,
) -> Solution | None:
    """The pose that most matches agree with.

    A camera that EXIF or the map gives competes with one that is estimated from the matches, as a photo
    may have been cropped or enlarged since: the latter wins if the matches agree clearly better with it,
    or as well where they pull the focal length of the former far away (its prior would stop it half-way,
    and be sure of that).

    Args:
        points: M x 2 in our pixels of the photo.
        world_points: M x 3.
        camera: of the query.
        scale: how many pixels of the photo one is that the extractor looks at.
        solver: a name of `pose_estimate.SOLVERS`, for known focal lengths.
        systematic: see `pose_refine.refine_pose`.
        resolution: what the map's photos resolve, see `share_of`.
        seed: of RANSAC.

    Returns:
        None if too few matches agree with any pose.
    """
    task = _Task(
        np.asarray(points, np.float64),
        np.asarray(world_points, np.float64),
        scale,
        solver,
        systematic,
        resolution,
        seed,
    )
    found = _solve(task, camera)
    if camera.source in (GIVEN, ESTIMATED):
        return found
    size = (camera.camera.width, camera.camera.height)
    free = unknown_camera(size)
    contradicted = found is not None and abs(_pull(camera, found)) > _CONTRADICTED
    if found is not None and not contradicted and found.inliers.mean() > _MOST:
        # Without RANSAC, which takes longer than all else: is there a better lens nearby?
        lens = any_lens(found.camera.camera.mean_focal_length(), size)
        near = _refined(task, with_camera(free, lens), found.refined.cam_from_world, lens)
        if near is None or _gain(task, found, near) <= _OVERRULED:
            return found
    other = _solve(task, free)
    if found is None or other is None:
        return found or other
    enough = -_AS_WELL if contradicted else _OVERRULED
    return other if _gain(task, found, other) > enough else found


def share_of(
    systematic: float, resolution: float | None, camera: pycolmap.Camera, scale: float
) -> float:
    """The share of systematic errors for a photo that resolves less than the map's, or more. A corner
    lies beside its place, by an amount that grows with the blur at which it is found; what all photos
    of a map have in common does no harm, but a photo of half the size sees its corners elsewhere.

    Args:
        systematic: of a photo like the map's.
        resolution: of the map: pixels that the extractor looks at to a unit of the normalized plane,
            which is a focal length; None if it is not known.
        camera, scale: of the photo.
    """
    if resolution is None:
        return systematic
    halvings = np.log2(resolution * scale / camera.mean_focal_length())
    return float(np.hypot(systematic, COARSE * halvings))


@dataclass(frozen=True, eq=False)
class _Task:
    """What `solve_pose` is asked, but for the camera."""

    points: Array
    world: Array
    scale: float
    solver: str
    systematic: float
    resolution: float | None
    seed: int


def _pull(camera: QueryCamera, found: Solution) -> float:
    """How far the focal length was refined away from the camera's, in its standard deviations."""
    ratio = found.camera.camera.mean_focal_length() / camera.camera.mean_focal_length()
    return float(np.log(ratio)) / camera.freedom.focal


def _gain(task: _Task, found: Solution, other: Solution) -> float:
    """How much better all matches agree with another solution: twice the logarithm of the likelihood
    ratio (Wilks 1938), the loss in units of what it is worth among the other's residuals."""
    losses = []
    for one in (found, other):
        errors = reprojection_errors(
            to_colmap(task.points), task.world, one.refined.camera, one.refined.cam_from_world
        )
        losses.append(np.log1p(np.minimum(errors / task.scale, MAX_ERROR) ** 2).sum())
    squares = (other.refined.residuals**2).sum(axis=1) / task.scale**2
    weights = (1 + squares) ** -2.0
    worth = (weights * squares).sum() / (2 * weights.sum())
    return float((losses[0] - losses[1]) / max(worth, 1e-12))


def _solve(task: _Task, camera: QueryCamera) -> Solution | None:
    begin = _estimated(task, camera)
    if begin is None:
        return None
    pose, lens = begin
    # The priors hold the camera that was given or first estimated, not the last guess.
    return _refined(task, with_camera(camera, lens), pose, lens)


def _refined(
    task: _Task, camera: QueryCamera, cam_from_world: Array, seen_by: pycolmap.Camera
) -> Solution | None:
    """Refine a pose and choose its inliers, in turns.

    Args:
        camera: what its priors hold.
        cam_from_world, seen_by: to begin with.
    """
    pixels, scale = to_colmap(task.points), task.scale
    inliers, refined = np.zeros(len(pixels), np.bool_), None
    for _ in range(_ROUNDS):
        errors = reprojection_errors(pixels, task.world, seen_by, cam_from_world)
        now = errors <= MAX_ERROR * scale
        if refined is not None and (now == inliers).all():
            break
        inliers = now
        if inliers.sum() < _MIN_INLIERS:
            return None
        refined = refine_pose(
            pixels[inliers],
            task.world[inliers],
            camera.camera,
            cam_from_world,
            freedom=camera.freedom,
            loss_scale=scale,
            systematic=share_of(task.systematic, task.resolution, seen_by, scale),
        )
        if refined is None:
            return None
        cam_from_world, seen_by = refined.cam_from_world, refined.camera
    assert refined is not None
    return Solution(refined, with_camera(camera, refined.camera), inliers)


def _estimated(task: _Task, camera: QueryCamera) -> tuple[Array, pycolmap.Camera] | None:
    """The best pose that RANSAC finds with a wide or a narrow tolerance, and the camera with the focal
    length that belongs to it."""
    found = []
    for limit in LIMITS:
        if camera.focal_known:
            pose = estimate_pose(
                task.points,
                task.world,
                camera.camera,
                solver=task.solver,
                max_error=limit * task.scale,
                loss_scale=task.scale,
                seed=task.seed,
            )
            if pose is not None:
                found.append((pose.cam_from_world, camera.camera))
        else:
            both = estimate_pose_and_focal(
                task.points,
                task.world,
                camera.camera,
                max_error=limit * task.scale,
                seed=task.seed,
            )
            if both is not None:
                found.append((both[0].cam_from_world, both[1]))
    pixels = to_colmap(task.points)
    scored = [
        (fit_of(reprojection_errors(pixels, task.world, lens, pose) / task.scale), -number)
        for number, (pose, lens) in enumerate(found)
    ]
    return found[-max(scored)[1]] if found else None


def fit_of(errors: Array) -> float:
    """How well matches agree with a pose by the loss of the refinement: 1 for each that fits exactly, 0
    at the tolerance.

    Args:
        errors: M, in pixels that the extractor looks at.
    """
    loss = np.log1p(np.minimum(errors, MAX_ERROR) ** 2) / np.log1p(MAX_ERROR**2)
    return float((1 - loss).sum())


def reprojection_errors(
    pixels: Array, world_points: Array, camera: pycolmap.Camera, cam_from_world: Array
) -> Array:
    """M distances in pixels between points (COLMAP's pixels, M x 2) and the projections of world points
    (M x 3); infinite behind the camera."""
    seen = world_points @ cam_from_world[:, :3].T + cam_from_world[:, 3]
    errors = np.linalg.norm(np.asarray(camera.img_from_cam(seen)) - pixels, axis=1)
    return np.asarray(np.where(np.isfinite(errors) & (seen[:, 2] > 0), errors, np.inf))
