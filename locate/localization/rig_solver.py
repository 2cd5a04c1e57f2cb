"""The pose of a rig from the 2D-3D matches of all its cameras: RANSAC over the generalized three-point
problem, then refinement on the inliers.

PoseLib and COLMAP both solve it, as precisely as each other; PoseLib takes less time.

The refinement and its covariance are those of `locate.localization.refinement`, all cameras in one
system. The field of systematic errors is one for each photo: those of two photos are independent
of each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import poselib
import pycolmap

from locate.geometry.rigid import carried, compose
from locate.localization.refinement import (
    LENS,
    SYSTEMATIC,
    SYSTEMATIC_LENS,
    Freedom,
    Problem,
    State,
    changed_lens,
    solve,
)
from locate.localization.solver import LIMITS, MAX_ERROR, fit_of, reprojection_errors
from locate.pixels import to_colmap
from locate.types import Array

_MAX_ITERATIONS, _MIN_ITERATIONS, _CONFIDENCE = 10_000, 100, 0.9999
_ROUNDS = 3  # of refining and choosing the inliers anew
_LEAST = 6  # inliers, of all photos


@dataclass(frozen=True, eq=False)
class RigView:
    """What one camera of a rig sees.

    Attributes:
        points: M x 2 in our pixels of its photo.
        world_points: M x 3, what they show.
        camera: that took it.
        cam_from_rig: 3 x 4.
        freedom: what of the camera is refined with the pose, see `pose_refine.Freedom`.
        scale: how many pixels of the photo one is that the extractor looks at; residuals of photos of
            different sizes are compared in these.
    """

    points: Array
    world_points: Array
    camera: pycolmap.Camera
    cam_from_rig: Array
    freedom: Freedom = field(default_factory=Freedom)
    scale: float = 1.0

    def part(self, rows: Array) -> RigView:
        """Some of its matches."""
        return replace(self, points=self.points[rows], world_points=self.world_points[rows])


@dataclass(frozen=True, eq=False)
class RefinedRig:
    """Attributes:
    rig_from_world: 3 x 4 float64.
    cameras: of the views, with what was found of their lenses.
    covariance: 6 x 6 of the rig's origin and rotation, as `locate.localization.pose.Pose` has them.
    residuals: M x 2 for each view, seen - projected, in pixels of its photo.
    """

    rig_from_world: Array
    cameras: tuple[pycolmap.Camera, ...]
    covariance: Array
    residuals: tuple[Array, ...]


@dataclass(frozen=True, eq=False)
class RigSolution:
    """Attributes:
    refined: the pose.
    inliers: M bool of the matches of each view.
    """

    refined: RefinedRig
    inliers: tuple[Array, ...]


def solve_rig(
    views: Sequence[RigView],
    *,
    starts: Sequence[Array] = (),
    systematic: float = SYSTEMATIC,
    seed: int = 0,
) -> RigSolution | None:
    """The pose of the rig that most matches agree with.

    Args:
        views: of the same instant.
        starts: 3 x 4 `rig_from_world` that compete with those of RANSAC, such as single photos tell;
            the one that fits best wins.
        systematic: see `pose_refine.refine_pose`.
        seed: of RANSAC; the same input gives the same pose up to rounding.

    Returns:
        None if too few matches agree with any pose.
    """
    found = [estimate_rig_pose(views, max_error=limit, seed=seed) for limit in LIMITS]
    poses = [pose for pose in (*found, *starts) if pose is not None]
    if not poses:
        return None
    pose = max(poses, key=lambda pose: _score(views, pose))
    inliers: tuple[Array, ...] = ()
    cameras = tuple(view.camera for view in views)
    refined: RefinedRig | None = None
    for _ in range(_ROUNDS):
        now = inliers_of(views, cameras, pose)
        if inliers and all((a == b).all() for a, b in zip(now, inliers, strict=True)):
            break
        inliers = now
        if sum(int(rows.sum()) for rows in inliers) < _LEAST:
            return None
        chosen = [view.part(rows) for view, rows in zip(views, inliers, strict=True)]
        refined = refine_rig(chosen, pose, systematic=systematic)
        if refined is None:
            return None
        pose, cameras = refined.rig_from_world, refined.cameras
    assert refined is not None
    return RigSolution(refined, inliers)


def estimate_rig_pose(
    views: Sequence[RigView], *, max_error: float = MAX_ERROR, seed: int = 0
) -> Array | None:
    """3 x 4 `rig_from_world` by RANSAC; None of fewer than four matches. The tolerance is in pixels that
    the extractor looks at."""
    flat, world, poses, cameras = [], [], [], []
    for view in views:
        # PoseLib knows fewer lenses than COLMAP: it gets undistorted points of a pinhole camera, in
        # pixels of the size that the extractor looks at, so that one tolerance fits all photos.
        if not len(view.points):
            continue
        plane = np.asarray(view.camera.cam_from_img(to_colmap(view.points.astype(np.float64))))
        usable = np.isfinite(plane).all(axis=1)
        if not usable.any():
            continue
        focal = view.camera.mean_focal_length() / view.scale
        flat.append(plane[usable] * focal)
        world.append(np.asarray(view.world_points, np.float64)[usable])
        pose = poselib.CameraPose()
        pose.R, pose.t = view.cam_from_rig[:, :3], view.cam_from_rig[:, 3]
        poses.append(pose)
        pinhole = {"model": "SIMPLE_PINHOLE", "width": 0, "height": 0, "params": [focal, 0.0, 0.0]}
        cameras.append(pinhole)
    if sum(map(len, flat)) < 4:
        return None
    ransac = {
        "max_reproj_error": max_error,
        "max_iterations": _MAX_ITERATIONS,
        "min_iterations": _MIN_ITERATIONS,
        "success_prob": _CONFIDENCE,
        "seed": seed,
    }
    refinement = {"loss_type": "CAUCHY", "loss_scale": 1.0, "max_iterations": 100}
    found, report = poselib.estimate_generalized_absolute_pose(
        flat, world, poses, cameras, ransac, refinement
    )
    matrix = np.asarray(found.Rt, np.float64)
    return matrix if report["num_inliers"] and np.isfinite(matrix).all() else None


def refine_rig(
    views: Sequence[RigView], rig_from_world: Array, *, systematic: float = SYSTEMATIC
) -> RefinedRig | None:
    """Refine the pose of a rig on its inliers; the loss scale is one pixel that the extractor looks at.

    Args:
        views: their inliers; a view may have none.
        rig_from_world: 3 x 4, near the solution.
        systematic: see `pose_refine.refine_pose`.

    Returns:
        None where the points do not determine a pose.
    """
    seeing = [k for k, view in enumerate(views) if len(view.points)]
    if not seeing:
        return None
    problem = _RigProblem([views[k] for k in seeing])
    begin = State(rig_from_world, views[0].camera, np.zeros(len(LENS) * len(seeing)))
    state = solve(problem, begin)
    parts = None if state is None else problem.covariances(state)
    if state is None or parts is None:
        return None
    share = float(np.hypot(systematic, SYSTEMATIC_LENS)) if problem.has_priors else systematic
    cameras = [view.camera for view in views]
    residuals = [np.zeros((0, 2)) for _ in views]
    for k, camera, part in zip(seeing, *problem.lenses_and_residuals(state), strict=True):
        cameras[k], residuals[k] = camera, part
    independent, smooth = parts
    return RefinedRig(
        state.cam_from_world, tuple(cameras), independent + share**2 * smooth, tuple(residuals)
    )


class _RigProblem(Problem):
    """A system of the systems of single photos. Its state has the pose of the rig in the place of the
    camera's, and the lenses of all cameras in a row; its residuals are in pixels that the extractor
    looks at."""

    def __init__(self, views: Sequence[RigView]) -> None:
        self._views = views
        self._parts = [
            Problem(
                to_colmap(view.points.astype(np.float64)),
                np.asarray(view.world_points, np.float64),
                view.camera,
                view.freedom,
                view.scale,
            )
            for view in views
        ]
        self._scale = 1.0
        rows = np.cumsum([len(view.points) for view in views])[:-1]
        self._rows = [int(row) for row in rows]
        self._free = np.concatenate([len(LENS) * k + p._free for k, p in enumerate(self._parts)])
        lenses = [part._information[6:] for part in self._parts]
        self._information = np.concatenate([np.zeros(6), *lenses])
        self._prior = self._information

    def moved(self, state: State, step: Array) -> State:
        pose_only = self._parts[0].moved(
            State(state.cam_from_world, state.camera, np.zeros(len(LENS))),
            np.concatenate([step[:6], np.zeros(len(self._parts[0]._free))]),
        )
        lens = state.lens.copy()
        lens[self._free] += step[6:]
        return State(pose_only.cam_from_world, state.camera, lens)

    def residuals(self, state: State) -> Array:
        each = zip(self._views, self.lenses_and_residuals(state)[1], strict=True)
        return np.concatenate([residuals / view.scale for view, residuals in each])

    def lenses_and_residuals(self, state: State) -> tuple[list[pycolmap.Camera], list[Array]]:
        """Of each view, in pixels of its photo."""
        states = self._states(state)
        residuals = [p.residuals(s) for p, s in zip(self._parts, states, strict=True)]
        return [s.camera for s in states], residuals

    def _states(self, state: State) -> list[State]:
        lenses = state.lens.reshape(len(self._views), len(LENS))
        return [
            State(
                compose(view.cam_from_rig, state.cam_from_world),
                changed_lens(view.camera, lens) if lens.any() else view.camera,
                lens,
            )
            for view, lens in zip(self._views, lenses, strict=True)
        ]

    def _jacobian(self, state: State) -> Array:
        states = self._states(state)
        blocks, column = [], 6
        for view, part, own in zip(self._views, self._parts, states, strict=True):
            single = part._jacobian(own) / view.scale
            block = np.zeros((len(single), 2, len(self._information)))
            block[:, :, :6] = single[:, :, :6] @ carried(view.cam_from_rig, state.cam_from_world)
            block[:, :, column : column + len(part._free)] = single[:, :, 6:]
            column += len(part._free)
            blocks.append(block)
        return np.concatenate(blocks)

    def _smoothed(self, values: Array) -> Array:
        each = zip(self._parts, np.split(values, self._rows), strict=True)
        return np.concatenate([part._smoothed(own) for part, own in each])


def _score(views: Sequence[RigView], rig_from_world: Array) -> float:
    """How well matches agree by the loss of the refinement: 1 for each that fits exactly, 0 at the
    tolerance."""
    errors = np.concatenate([_errors(view, view.camera, rig_from_world) for view in views])
    return fit_of(errors)


def inliers_of(
    views: Sequence[RigView], cameras: Sequence[pycolmap.Camera], rig_from_world: Array
) -> tuple[Array, ...]:
    """M bool for each view: which of its matches agree with a pose of the rig, 3 x 4."""
    each = zip(views, cameras, strict=True)
    return tuple(_errors(view, camera, rig_from_world) <= MAX_ERROR for view, camera in each)


def _errors(view: RigView, camera: pycolmap.Camera, rig_from_world: Array) -> Array:
    """M distances in pixels that the extractor looks at."""
    if not len(view.points):
        return np.zeros(0)
    pixels = to_colmap(view.points.astype(np.float64))
    pose = compose(view.cam_from_rig, rig_from_world)
    return reprojection_errors(pixels, view.world_points, camera, pose) / view.scale
