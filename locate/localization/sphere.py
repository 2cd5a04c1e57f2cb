"""The pose of a camera that sees the whole sphere, from 2D-3D matches.

All rays have one centre, so it is P3P on rays in RANSAC (COLMAP's), then refinement of the angles
between rays and points, with the covariance of `locate.localization.refinement`. Residuals are in
pixels of the panorama at its equator.

Stitched photos are not exactly one sphere: lenses that look to different sides have different centres,
and the stitching bends. So their field of correlated errors is that of intrinsics that are estimated,
and at least `BEND`.
"""

from __future__ import annotations

import numpy as np
import pycolmap

from locate.geometry.cameras import sphere_camera
from locate.geometry.panorama import pixels_of, rays_of
from locate.geometry.rigid import cross_matrices, transform
from locate.localization.absolute_pose import MAX_ERROR, SOLVERS
from locate.localization.query_camera import QueryCamera, simple_camera
from locate.localization.refinement import (
    CORRELATED_RATIO,
    INTRINSICS_RATIO,
    IntrinsicsPrior,
    PoseOptimization,
    PoseState,
    Refined,
    in_blocks,
)
from locate.localization.solver import LIMITS, Solution, alternate, fit_of, ratio_at_resolution
from locate.pixels import to_colmap
from locate.types import Array

_ROUNDS = 3  # of refining and choosing the inliers anew
_CORRELATION_LENGTH = 0.4  # radians, a fifth of a view's width at its middle
# Radians: standard deviation of the smooth error of directions in a stitched photo, in each of two axes.
# Of it a pose absorbs what residuals then do not show: over the reach it is a zoom of half a per cent.
BEND = np.radians(0.1)


def solve_sphere(
    points: Array,
    world_points: Array,
    camera: QueryCamera,
    *,
    scale: float = 1.0,
    correlated_ratio: float = CORRELATED_RATIO,
    resolution: float | None = None,
    resolved: float | None = None,
    seed: int = 0,
) -> Solution | None:
    """`solver.solve_pose` by points in our pixels of the whole sphere, of `scale` at its equator.
    `resolution` and `resolved`: pixels per radian that the map's photos and the panorama resolve,
    see `solver.ratio_at_resolution`."""
    size = camera.camera.width, camera.camera.height
    rays = rays_of(np.asarray(points, np.float64), size)
    world = np.asarray(world_points, np.float64)
    focal = camera.camera.width / (2 * np.pi)
    found = [estimate_sphere(rays, world, focal, limit * scale, scale, seed) for limit in LIMITS]
    poses = [pose for pose in found if pose is not None]
    if not poses:
        return None
    if resolved is not None:
        alike = simple_camera(resolved, size)
        correlated_ratio = ratio_at_resolution(correlated_ratio, resolution, alike, 1.0)
    best = max(poses, key=lambda one: fit_of(ray_errors(rays, world, one) * focal / scale))

    def refine(rows: Array, start: PoseState | Refined) -> Refined | None:
        matches, pose = (rays[rows], world[rows], start.camera), start.cam_from_world
        return refine_sphere(*matches, pose, scale=scale, correlated_ratio=correlated_ratio)

    done = alternate(
        PoseState(best, camera.camera),
        lambda now: ray_errors(rays, world, now.cam_from_world) * focal <= MAX_ERROR * scale,
        refine,
        rounds=_ROUNDS,
    )
    return done and Solution(done[0], camera, done[1])


def estimate_sphere(
    rays: Array, world: Array, focal: float, max_error: float, loss_scale: float, seed: int
) -> Array | None:
    """3 x 4 `cam_from_world` by RANSAC over P3P on rays (M x 3; COLMAP's), or None; the tolerances
    are in pixels, of which `focal` are a radian."""
    if len(rays) < 4:
        return None
    height = max(1, round(focal * np.pi))  # a sphere of square pixels, whatever the photo's are
    size = (2 * height, height)
    pixels = to_colmap(pixels_of(rays, size))
    found = SOLVERS["pycolmap"](pixels, world, sphere_camera(size), max_error, loss_scale, seed)
    if found is None or not np.isfinite(found[0]).all():
        return None
    return np.asarray(found[0], np.float64)


def ray_errors(rays: Array, world: Array, cam_from_world: Array) -> Array:
    """M angles in radians between unit rays (M x 3) and points of the world (M x 3)."""
    seen = transform(cam_from_world, world)
    across = np.linalg.norm(np.cross(rays, seen), axis=1)
    return np.asarray(np.arctan2(across, (rays * seen).sum(axis=1)))


def refine_sphere(
    rays: Array,
    world: Array,
    camera: pycolmap.Camera,
    cam_from_world: Array,
    *,
    scale: float = 1.0,
    correlated_ratio: float = CORRELATED_RATIO,
) -> Refined | None:
    """`refinement.refine_pose` on inliers that are M x 3 unit rays and the points that they show."""
    problem = SphereOptimization(rays, world, camera, scale)
    solution = problem.solve(PoseState(cam_from_world, camera))
    if solution is None:
        return None
    state, independent, correlated = solution
    pose, residuals = state.cam_from_world, problem.residuals(state)
    ratio = float(max(np.hypot(correlated_ratio, INTRINSICS_RATIO), BEND / problem.noise(state)))
    return Refined(pose, camera, independent, correlated, ratio, residuals)


class SphereOptimization(PoseOptimization):
    """Its observations are rays: each has a camera of its own that looks along it, whose focal
    length is the sphere's pixels per radian."""

    def __init__(self, rays: Array, world: Array, camera: pycolmap.Camera, scale: float) -> None:
        super().__init__(np.zeros((len(rays), 2)), world, camera, IntrinsicsPrior(), scale)
        self._rays, self._focal = rays, camera.width / (2 * np.pi)
        self._axes = tangents(rays)

    def noise(self, state: PoseState) -> float:
        """Radians: the standard deviation of a coordinate of the residuals."""
        variance = self.variance(state)
        assert variance is not None, "there is a covariance"
        return float(max(np.sqrt(variance) / self._focal, 1e-9))

    def residuals(self, state: PoseState) -> Array:
        return np.asarray(-self._flat(transform(state.cam_from_world, self._world)))

    def _flat(self, seen: Array) -> Array:
        """M x 2: where points appear in the camera of each ray, which is at 0; infinite behind."""
        depth = (self._rays * seen).sum(axis=1)
        across = np.einsum("mki,mi->mk", self._axes, seen)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(depth[:, None] > 0, self._focal * across / depth[:, None], np.inf)

    def _jacobian(self, state: PoseState) -> Array:
        rotation = state.cam_from_world[:, :3]
        seen = transform(state.cam_from_world, self._world)
        depth = (self._rays * seen).sum(axis=1)[:, None, None]
        flat = self._flat(seen)[:, :, None] / self._focal
        by_seen = self._focal * (self._axes - flat * self._rays[:, None, :]) / depth
        by_world = by_seen @ rotation
        rays = seen @ rotation  # from the centre to the points, in the world
        # Turning world_from_cam by exp(w) turns the rays by exp(-w): d ray = ray x w.
        return np.concatenate([-by_world, by_world @ cross_matrices(rays)], axis=2)

    def _smoothed(self, values: Array) -> Array:
        """By how near the rays are, over the seam as well."""
        rays = self._rays
        return in_blocks(
            lambda some: np.exp((rays[some] @ rays.T - 1) / _CORRELATION_LENGTH**2) @ values, values
        )


def tangents(rays: Array) -> Array:
    """M x 2 x 3 unit vectors to the right and downwards of unit rays (M x 3), as a view that looks
    along them has them; at the poles any."""
    down = np.array([0.0, 1.0, 0.0])
    right = np.cross(down, rays)
    length = np.linalg.norm(right, axis=1, keepdims=True)
    right = np.where(length > 1e-9, right / np.maximum(length, 1e-9), [1.0, 0.0, 0.0])
    return np.stack([right, np.cross(rays, right)], axis=1)
