"""The pose of a rig from the 2D-3D matches of all its cameras: RANSAC over the generalized
three-point problem (PoseLib's; COLMAP's is as precise and takes longer), then refinement on the
inliers.

The refinement and its covariance are those of `locate.localization.refinement`, all cameras in one
system. The fields of correlated errors of two photos are independent of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import poselib
import pycolmap

from locate.geometry.rigid import adjoint, compose
from locate.localization.absolute_pose import MAX_ERROR, pinhole, poselib_options
from locate.localization.refinement import (
    CORRELATED_RATIO,
    INTRINSICS,
    IntrinsicsPrior,
    PoseOptimization,
    PoseState,
    adjust_intrinsics,
    moved_pose,
)
from locate.localization.solver import LIMITS, alternate, fit_of, reprojection_errors
from locate.pixels import to_colmap
from locate.types import Array

_ROUNDS = 3  # of refining and choosing the inliers anew


@dataclass(frozen=True, eq=False)
class RigView:
    """What one camera of a rig sees. Residuals of photos of different sizes are compared in pixels that
    the extractor looks at."""

    points: Array  # M x 2 in our pixels of its photo
    world_points: Array  # M x 3, what they show
    camera: pycolmap.Camera
    cam_from_rig: Array  # 3 x 4
    prior: IntrinsicsPrior = field(default_factory=IntrinsicsPrior)  # refined with the pose
    scale: float = 1.0  # `locate.pixels.extraction_scale` of the photo

    @property
    def pixels(self) -> Array:
        """The points in COLMAP's pixels."""
        return to_colmap(self.points.astype(np.float64))

    @property
    def world(self) -> Array:
        return np.asarray(self.world_points, np.float64)

    def part(self, rows: Array) -> RigView:
        """Some of its matches."""
        return replace(self, points=self.points[rows], world_points=self.world_points[rows])


Views = Sequence[RigView]


@dataclass(frozen=True, eq=False)
class RefinedRig:
    """A pose of a rig; its covariance is of the rig's origin and rotation, as `Pose` has them."""

    rig_from_world: Array  # 3 x 4 float64
    cameras: tuple[pycolmap.Camera, ...]  # of the views, with what was found of their intrinsics
    covariance: Array = field(default_factory=lambda: np.zeros((6, 6)))
    residuals: tuple[Array, ...] = ()  # M x 2 each, seen - projected, in pixels of its photo


@dataclass(frozen=True, eq=False)
class RigSolution:
    """A pose, and which of the M matches of each view are inliers."""

    refined: RefinedRig
    inliers: tuple[Array, ...]


def solve_rig(
    views: Views,
    *,
    starts: Sequence[Array] = (),
    correlated_ratio: float = CORRELATED_RATIO,
    seed: int = 0,
) -> RigSolution | None:
    """The pose of the rig that most matches agree with; None if too few agree with any. `starts` (3
    x 4 `rig_from_world`), such as single photos tell, compete with what RANSAC finds. The same input
    and seed give the same pose up to rounding."""
    found = [estimate_rig_pose(views, max_error=limit, seed=seed) for limit in LIMITS]
    poses = [pose for pose in (*found, *starts) if pose is not None]
    if not poses:
        return None
    given = tuple(view.camera for view in views)
    best = max(poses, key=lambda pose: fit_of(_errors(views, given, pose)))

    def refine(inliers: Array, start: RefinedRig) -> RefinedRig | None:
        each = zip(views, _by_view(views, inliers), strict=True)
        chosen = [view.part(rows) for view, rows in each]
        return refine_rig(chosen, start.rig_from_world, correlated_ratio=correlated_ratio)

    done = alternate(
        RefinedRig(best, given),
        lambda now: _errors(views, now.cameras, now.rig_from_world) <= MAX_ERROR,
        refine,
        rounds=_ROUNDS,
    )
    return done and RigSolution(done[0], _by_view(views, done[1]))


def estimate_rig_pose(views: Views, *, max_error: float = MAX_ERROR, seed: int = 0) -> Array | None:
    """3 x 4 `rig_from_world` by RANSAC, or None; `max_error` is in pixels that the extractor looks
    at."""
    flat, world, poses, cameras = [], [], [], []
    for view in views:
        if not len(view.points):
            continue
        plane = np.asarray(view.camera.cam_from_img(view.pixels))
        usable = np.isfinite(plane).all(axis=1)
        if not usable.any():
            continue
        # In pixels of the size that the extractor looks at, so that one tolerance fits all photos.
        focal = view.camera.mean_focal_length() / view.scale
        flat.append(plane[usable] * focal)
        world.append(view.world[usable])
        pose = poselib.CameraPose()
        pose.R, pose.t = view.cam_from_rig[:, :3], view.cam_from_rig[:, 3]
        poses.append(pose)
        cameras.append(pinhole(focal))
    if sum(map(len, flat)) < 4:
        return None
    found, report = poselib.estimate_generalized_absolute_pose(
        flat, world, poses, cameras, *poselib_options(max_error, 1.0, seed)
    )
    matrix = np.asarray(found.Rt, np.float64)
    return matrix if report["num_inliers"] and np.isfinite(matrix).all() else None


def refine_rig(
    views: Views, rig_from_world: Array, *, correlated_ratio: float = CORRELATED_RATIO
) -> RefinedRig | None:
    """Refine the pose of a rig on the inliers of its views, some of which may have none, as
    `refinement.refine_pose` does; the loss scale is one pixel that the extractor looks at."""
    seeing = [k for k, view in enumerate(views) if len(view.points)]
    if not seeing:
        return None
    problem = RigOptimization([views[k] for k in seeing])
    intrinsics = np.zeros(len(INTRINSICS) * len(seeing))
    solution = problem.solve(PoseState(rig_from_world, views[0].camera, intrinsics))
    if solution is None:
        return None
    state, independent, correlated = solution
    covariance = independent + problem.ratio(correlated_ratio) ** 2 * correlated
    cameras = [view.camera for view in views]
    residuals = [np.zeros((0, 2)) for _ in views]
    for k, (camera, part) in zip(seeing, problem.cameras_and_residuals(state), strict=True):
        cameras[k], residuals[k] = camera, part
    return RefinedRig(state.cam_from_world, tuple(cameras), covariance, tuple(residuals))


class RigOptimization(PoseOptimization):
    """The systems of single photos as one. Its state has the pose of the rig in the place of the
    camera's and the intrinsics of all cameras in a row; residuals are in pixels that the extractor
    looks at."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._parts = [
            PoseOptimization(view.pixels, view.world, view.camera, view.prior, view.scale)
            for view in views
        ]
        self._scale = 1.0
        each = enumerate(self._parts)
        self._free = np.concatenate([len(INTRINSICS) * k + part._free for k, part in each])
        self._set_information(np.concatenate([part._information[6:] for part in self._parts]))

    def moved(self, state: PoseState, step: Array) -> PoseState:
        intrinsics = state.intrinsics.copy()
        intrinsics[self._free] += step[6:]
        return PoseState(moved_pose(state.cam_from_world, step), state.camera, intrinsics)

    def residuals(self, state: PoseState) -> Array:
        each = zip(self._views, self.cameras_and_residuals(state), strict=True)
        return np.concatenate([residuals / view.scale for view, (_, residuals) in each])

    def cameras_and_residuals(self, state: PoseState) -> list[tuple[pycolmap.Camera, Array]]:
        """Of each view, in pixels of its photo."""
        each = zip(self._parts, self._states(state), strict=True)
        return [(own.camera, part.residuals(own)) for part, own in each]

    def _states(self, state: PoseState) -> list[PoseState]:
        each = state.intrinsics.reshape(len(self._views), len(INTRINSICS))
        return [
            PoseState(
                compose(view.cam_from_rig, state.cam_from_world),
                adjust_intrinsics(view.camera, own) if own.any() else view.camera,
                own,
            )
            for view, own in zip(self._views, each, strict=True)
        ]

    def _jacobian(self, state: PoseState) -> Array:
        blocks, column = [], 6
        for view, part, own in zip(self._views, self._parts, self._states(state), strict=True):
            single = part._jacobian(own) / view.scale
            block = np.zeros((len(single), 2, len(self._information)))
            block[:, :, :6] = single[:, :, :6] @ adjoint(view.cam_from_rig, state.cam_from_world)
            block[:, :, column : column + len(part._free)] = single[:, :, 6:]
            column += len(part._free)
            blocks.append(block)
        return np.concatenate(blocks)

    def _smoothed(self, values: Array) -> Array:
        each = zip(self._parts, _by_view(self._views, values), strict=True)
        return np.concatenate([part._smoothed(own) for part, own in each])


def inliers_of(
    views: Views, cameras: Sequence[pycolmap.Camera], rig_from_world: Array
) -> tuple[Array, ...]:
    """M bool for each view: which of its matches agree with a pose of the rig, 3 x 4."""
    return _by_view(views, _errors(views, cameras, rig_from_world) <= MAX_ERROR)


def _by_view(views: Views, values: Array) -> tuple[Array, ...]:
    """The values of the matches of each view, of those of all in a row."""
    return tuple(np.split(values, np.cumsum([len(view.points) for view in views])[:-1]))


def _errors(views: Views, cameras: Sequence[pycolmap.Camera], rig_from_world: Array) -> Array:
    """Distances in pixels that the extractor looks at, of the matches of all views in a row."""
    errors = [np.zeros(0)]
    for view, camera in zip(views, cameras, strict=True):
        if len(view.points):
            pose = compose(view.cam_from_rig, rig_from_world)
            own = reprojection_errors(view.pixels, view.world_points, camera, pose)
            errors.append(own / view.scale)
    return np.concatenate(errors)
