"""From 2D-3D matches to a pose with its covariance, whether the focal length is known or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pycolmap

from locate.geometry.rigid import transform
from locate.localization.absolute_pose import MAX_ERROR, estimate_pose, estimate_pose_and_focal
from locate.localization.query_camera import ESTIMATED, GIVEN, QueryCamera, any_lens, unknown_camera
from locate.localization.refinement import CORRELATED_RATIO, PoseState, Refined, refine_pose
from locate.pixels import to_colmap
from locate.types import Array

# Of RANSAC. A few points in a small part of a photo fit a mirrored pose far away as well, some pixels
# off: there more of them lie within the wide tolerance than of the true pose.
LIMITS = (MAX_ERROR, MAX_ERROR / 4)
_MOST = 0.8  # of the matches agree: what another RANSAC would find lies nearby
_CONTRADICTED = 2.0  # standard deviations that a focal length is refined away: it may be wrong
# Twice the logarithm of the likelihood ratio, for six parameters more at most: the camera is another.
# And where it is contradicted already, so much worse may be what is estimated.
_OVERRULED, _AS_WELL = 20.0, 8.0
_ROUNDS = 6  # of refining and choosing the inliers anew
_LEAST = 6  # inliers
COARSE = 0.3  # share of correlated errors for each halving or doubling of what a photo resolves

StartT = TypeVar("StartT")
RefinedT = TypeVar("RefinedT")


@dataclass(frozen=True, eq=False)
class Solution:
    """A pose, the camera that was used (its source, and what was free), and which matches are
    inliers, M bool."""

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
    correlated_ratio: float = CORRELATED_RATIO,
    resolution: float | None = None,
    seed: int = 0,
) -> Solution | None:
    """The pose that most of the matches (M x 2 in our pixels, M x 3) agree with; None if too few do.

    A camera that EXIF or the map gives competes with one that is estimated from the matches, as a photo
    may have been cropped or enlarged since: the latter wins if the matches agree clearly better with it,
    or as well where they pull the focal length of the former far away (its prior would stop it half-way,
    and be sure of that).

    Args:
        scale: `locate.pixels.extraction_scale` of the photo.
        solver: a name of `absolute_pose.SOLVERS`, for known focal lengths.
        correlated_ratio: see `refinement.refine_pose`.
        resolution: what the map's photos resolve, see `ratio_at_resolution`.
        seed: of RANSAC.
    """
    matches = np.asarray(points, np.float64), np.asarray(world_points, np.float64)
    task = _Task(*matches, scale, solver, correlated_ratio, resolution, seed)
    found = task.solve(camera)
    if camera.source in (GIVEN, ESTIMATED):
        return found
    size = (camera.camera.width, camera.camera.height)
    free, contradicted = unknown_camera(size), False
    if found is not None:  # in standard deviations of the focal length
        ratio = found.camera.camera.mean_focal_length() / camera.camera.mean_focal_length()
        contradicted = abs(float(np.log(ratio)) / camera.prior.focal) > _CONTRADICTED
    if found is not None and not contradicted and found.inliers.mean() > _MOST:
        # Without RANSAC, which takes longer than all else: is there a better lens nearby?
        lens = any_lens(found.camera.camera.mean_focal_length(), size)
        near = task.refined(replace(free, camera=lens), found.refined.cam_from_world, lens)
        if near is None or task.gain(found, near) <= _OVERRULED:
            return found
    other = task.solve(free)
    if found is None or other is None:
        return found or other
    return other if task.gain(found, other) > (-_AS_WELL if contradicted else _OVERRULED) else found


def ratio_at_resolution(
    correlated_ratio: float, resolution: float | None, camera: pycolmap.Camera, scale: float
) -> float:
    """The ratio of correlated errors for a photo that resolves less than the map's photos, which
    have `correlated_ratio` and `resolution` (pixels that the extractor looks at to a unit of the
    normalized plane, if known), or more. A corner lies beside its place by an amount that grows with
    the blur: what all photos of a map have in common does no harm, but a photo of half the size sees
    its corners elsewhere."""
    if resolution is None:
        return correlated_ratio
    halvings = np.log2(resolution * scale / camera.mean_focal_length())
    return float(np.hypot(correlated_ratio, COARSE * halvings))


@dataclass(frozen=True, eq=False)
class _Task:
    """What `solve_pose` is asked, but for the camera."""

    points: Array
    world: Array
    scale: float
    solver: str
    correlated_ratio: float
    resolution: float | None
    seed: int

    def errors(self, camera: pycolmap.Camera, cam_from_world: Array) -> Array:
        """M pixels of the photo."""
        return reprojection_errors(to_colmap(self.points), self.world, camera, cam_from_world)

    def gain(self, found: Solution, other: Solution) -> float:
        """How much better all matches agree with another solution: twice the logarithm of the likelihood
        ratio (Wilks 1938), the loss in units of what it is worth among the other's residuals."""
        errors = [self.errors(s.refined.camera, s.refined.cam_from_world) for s in (found, other)]
        losses = [np.log1p(np.minimum(e / self.scale, MAX_ERROR) ** 2).sum() for e in errors]
        squares = (other.refined.residuals**2).sum(axis=1) / self.scale**2
        weights = (1 + squares) ** -2.0
        worth = (weights * squares).sum() / (2 * weights.sum())
        return float((losses[0] - losses[1]) / max(worth, 1e-12))

    def solve(self, camera: QueryCamera) -> Solution | None:
        estimates = [self._ransac(camera, limit * self.scale) for limit in LIMITS]
        found = [one for one in estimates if one is not None]
        if not found:
            return None
        pose, lens = max(found, key=lambda one: fit_of(self.errors(one[1], one[0]) / self.scale))
        # The priors hold the camera that was given or first estimated, not the last guess.
        return self.refined(replace(camera, camera=lens), pose, lens)

    def _ransac(self, camera: QueryCamera, limit: float) -> tuple[Array, pycolmap.Camera] | None:
        """The pose that RANSAC finds, and the camera with the focal length that belongs to it."""
        matches, seed = (self.points, self.world, camera.camera), self.seed
        if not camera.focal_known:
            both = estimate_pose_and_focal(*matches, max_error=limit, seed=seed)
            return None if both is None else (both[0].cam_from_world, both[1])
        pose = estimate_pose(
            *matches, solver=self.solver, max_error=limit, loss_scale=self.scale, seed=seed
        )
        return None if pose is None else (pose.cam_from_world, camera.camera)

    def refined(self, camera: QueryCamera, pose: Array, first: pycolmap.Camera) -> Solution | None:
        """A pose refined, whose priors hold `camera`; it begins with the camera `first`."""
        pixels, scale = to_colmap(self.points), self.scale

        def refine(inliers: Array, start: PoseState | Refined) -> Refined | None:
            return refine_pose(
                pixels[inliers],
                self.world[inliers],
                camera.camera,
                start.cam_from_world,
                prior=camera.prior,
                loss_scale=scale,
                correlated_ratio=ratio_at_resolution(
                    self.correlated_ratio, self.resolution, start.camera, scale
                ),
            )

        done = alternate(
            PoseState(pose, first),
            lambda now: self.errors(now.camera, now.cam_from_world) <= MAX_ERROR * scale,
            refine,
            rounds=_ROUNDS,
        )
        return done and Solution(done[0], replace(camera, camera=done[0].camera), done[1])


def alternate(
    start: StartT,
    inliers_of: Callable[[StartT | RefinedT], Array],
    refine: Callable[[Array, StartT | RefinedT], RefinedT | None],
    *,
    rounds: int,
) -> tuple[RefinedT, Array] | None:
    """Choose the inliers of a pose (M bool) and refine it on these, in turns, until they stay the same.
    The last pose and its inliers; None if they are too few or determine none."""
    now: StartT | RefinedT = start
    inliers, refined = np.zeros(0, np.bool_), None
    for _ in range(rounds):
        agree = inliers_of(now)
        if refined is not None and (agree == inliers).all():
            break
        refined = refine(agree, now) if agree.sum() >= _LEAST else None
        if refined is None:
            return None
        now, inliers = refined, agree
    assert refined is not None
    return refined, inliers


def fit_of(errors: Array) -> float:
    """How well matches agree with a pose by the loss of the refinement, by M errors in pixels that
    the extractor looks at: 1 for each that fits exactly, 0 at the tolerance."""
    loss = np.log1p(np.minimum(errors, MAX_ERROR) ** 2) / np.log1p(MAX_ERROR**2)
    return float((1 - loss).sum())


def reprojection_errors(
    pixels: Array, world_points: Array, camera: pycolmap.Camera, cam_from_world: Array
) -> Array:
    """M distances in pixels between points (COLMAP's pixels, M x 2) and the projections of world points
    (M x 3); infinite behind the camera."""
    seen = transform(cam_from_world, world_points)
    errors = np.linalg.norm(np.asarray(camera.img_from_cam(seen)) - pixels, axis=1)
    return np.asarray(np.where(np.isfinite(errors) & (seen[:, 2] > 0), errors, np.inf))
