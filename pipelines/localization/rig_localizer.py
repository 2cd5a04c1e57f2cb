"""Where a rig stood: photos of one instant by cameras that are fixed to each other, localized
together.

Each photo is matched as `pipelines.localization.localizer` does; then one pose of the rig is
sought that the 2D-3D matches of all photos agree with, refined and judged by the same rule as a
photo. So photos that tell too little each may tell enough together, and one that tells nothing
(dark, turned to the sky) gets its pose from the others. A photo that is sure of another pose than
the rig's makes the answer uncertain: then the cameras are not where the rig says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from locate.errors import ImageError, InputError
from locate.geometry.rigid import adjoint, compose
from locate.georef.georef import Georef
from locate.localization.gravity import CONTRADICTED, GravityPrior, fuse_gravity
from locate.localization.pose import (
    NOT_LOCALIZED,
    UNCERTAIN,
    Pose,
    PosePrior,
    check_verdict,
    motion_to_json,
)
from locate.localization.query_camera import plain_camera, unknown_camera
from locate.localization.rig import Frame, Rig, find_frames, read_rigs
from locate.localization.rig_solver import RigSolution, RigView, solve_rig
from locate.localization.solver import ratio_at_resolution
from locate.localization.verdict import coverage_of, min_inliers, too_few
from locate.types import Array
from locate.util.timing import Clock
from pipelines.localization.localizer import Localizer
from pipelines.localization.matcher import CANDIDATES, Request
from pipelines.localization.rig_matching import RigPhoto, chi2_per_dof, judge_rig, match_rig


@dataclass(frozen=True, eq=False)
class RigPose:
    """Where a rig stood, or why nobody can tell; what is not said here is as in `Pose`.

    Attributes:
        rig_from_world: 3 x 4 float64 [R | t], or None.
        covariance: 6 x 6 float64, or None, of the rig's origin and rotation.
        matches, inliers: of all photos together.
        spread: sum of those of the photos, at most 1.
        poses: of the photos, by the rig; each has its own matches and inliers.
    """

    verdict: str
    reason: str
    rig_from_world: Array | None = None
    covariance: Array | None = None
    matches: int = 0
    inliers: int = 0
    spread: float = 0.0
    error: float = float("nan")
    poses: tuple[Pose, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_verdict(self.verdict, self.rig_from_world)

    def to_json(self) -> dict[str, Any]:
        """JSON-able values, those of the photos as `Pose.to_json` has them."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "rig_from_world": motion_to_json(self.rig_from_world),
            "covariance": None if self.covariance is None else self.covariance.tolist(),
            "matches": self.matches,
            "inliers": self.inliers,
            "spread": self.spread,
            "error_px": None if np.isnan(self.error) else self.error,
            "photos": [pose.to_json() for pose in self.poses],
            "seconds": dict(self.seconds),
        }


def localize_rig(
    localizer: Localizer,
    photos: Sequence[Path | str | None],
    rig: Rig,
    *,
    prior: PosePrior | None = None,
    gravity: GravityPrior | None = None,
    candidates: int = CANDIDATES,
    exclude: Callable[[str], bool] | None = None,
    seed: int = 0,
) -> RigPose:
    """Where was the rig, and with it the camera of each photo?

    A camera whose focal length is neither given nor in EXIF nor in the map counts only if its photo is
    localized alone.

    Args:
        photos: of one instant, in the order of the rig's cameras, None where one took none. As with
            single photos, EXIF may turn them; the rig's poses are those of the turned photos.
        rig: its distances are in units of the map.
        gravity: which way is up in the rig's axes, of an inertial sensor.
        prior, candidates, exclude, seed: see `Localizer.localize`; a prior is of each camera.

    Raises:
        ImageError: no photo can be used, or none fits its camera. Where some can, the others' poses say
            what is wrong with them.
        InputError: the photos are not as many as the cameras, or a camera is none.
    """
    if len(photos) != len(rig.cameras):
        raise InputError(
            f"{len(photos)} photos of a rig of {len(rig.cameras)} cameras; give one for each, None "
            "where one took none"
        )
    taken = [(Path(p), c) for p, c in zip(photos, rig.cameras, strict=True) if p is not None]
    if not taken:
        raise InputError("a rig needs at least one photo; all of them are None")
    clock = Clock()
    seen = match_rig(localizer, taken, Request(prior, candidates, exclude, seed))
    clock.lap("match")
    answer = _answer(localizer, seen, gravity, seed)
    clock.lap("pose")
    return replace(answer, seconds=clock.seconds | {"total": sum(clock.seconds.values())})


def localize_rigs(
    localizer: Localizer,
    rig_config: Path,
    photos: Path,
    *,
    prior: PosePrior | None = None,
    gravity: GravityPrior | None = None,
    candidates: int = CANDIDATES,
    seed: int = 0,
) -> Iterator[RigPose | ImageError]:
    """One rig pose a frame (photos of one instant), in the order of their names; the error of a frame
    of which no photo can be used.

    Args:
        localizer: a map. If it is georeferenced, the rig's distances are metres and are brought to the
            units of the map; otherwise they are those units.
        rig_config: COLMAP's rig_config.json.
        photos: the folder that its image prefixes are relative to.
        prior, gravity, candidates, seed: see `localize_rig`.

    Raises:
        InputError: what is wrong with the rigs, or that no photo belongs to one.
    """
    rigs, stored = read_rigs(rig_config), localizer.map.record.georef
    if stored is not None:
        metres = Georef.from_json(stored).scale
        rigs = [rig.scaled(1 / metres) for rig in rigs]
    asked = {"prior": prior, "gravity": gravity, "candidates": candidates, "seed": seed}
    return localize_frames(localizer, find_frames(photos, rigs), **asked)


def localize_frames(
    localizer: Localizer, frames: Iterable[Frame], **asked: Any
) -> Iterator[RigPose | ImageError]:
    """`localize_rig`, whose keywords `asked` are, for many frames, in their order; one of which no photo
    can be used gives the error."""
    for frame in frames:
        try:
            yield localize_rig(localizer, frame.photos, frame.rig, **asked)
        except ImageError as error:
            yield error


def _answer(
    localizer: Localizer, seen: Sequence[RigPhoto], gravity: GravityPrior | None, seed: int
) -> RigPose:
    views = [_view(localizer, one) for one in seen]
    matches = sum(one.count() for one in seen)
    starts = [one.start for one in seen if one.start is not None]
    ratio, resolution = localizer.map.correlated_ratio, localizer.map.resolution
    lenses = ((one.camera.camera, one.scale) for one in seen if one.camera is not None)
    # That of the coarsest photo counts for all.
    ratio = max([ratio, *(ratio_at_resolution(ratio, resolution, *one) for one in lenses)])
    solution = None
    if matches >= min_inliers(0):
        solution = solve_rig(views, starts=starts, correlated_ratio=ratio, seed=seed)
    if solution is None:
        reason = too_few(matches)
        poses = [Pose(one.path, NOT_LOCALIZED, one.why or reason, None) for one in seen]
        return RigPose(NOT_LOCALIZED, reason, matches=matches, poses=tuple(poses))
    chi2 = chi2_per_dof(views, solution, ratio)
    pose, covariance = solution.refined.rig_from_world, chi2 * solution.refined.covariance
    fused = gravity and fuse_gravity(pose, covariance, gravity)
    pose, covariance = fused or (pose, covariance)
    refined = replace(solution.refined, rig_from_world=pose, covariance=covariance)
    solution = replace(solution, refined=refined)
    verdict, reason = judge_rig(seen, views, solution, chi2, seed, localizer.map.record.doubt)
    known = verdict != NOT_LOCALIZED
    if gravity is not None and fused is None and known:
        verdict, reason = UNCERTAIN, f"{reason}; {CONTRADICTED}"
    squares = np.concatenate([(r**2).sum(axis=1) for r in refined.residuals])
    poses = [_pose(localizer, one, k, solution, verdict, reason) for k, one in enumerate(seen)]
    motion: tuple[Array | None, Array | None] = (pose, covariance) if known else (None, None)
    inliers, spread = sum(one.inliers for one in poses), min(1.0, sum(one.spread for one in poses))
    error = float(np.sqrt(squares.mean()))
    return RigPose(verdict, reason, *motion, matches, inliers, spread, error, tuple(poses))


def _view(localizer: Localizer, one: RigPhoto) -> RigView:
    query = one.camera or unknown_camera(one.size)  # that has no matches then
    seen = one.keypoints, localizer.map.points[one.rows], query.camera
    return RigView(*seen, one.place.cam_from_rig, query.prior, one.scale)


def _pose(
    localizer: Localizer, one: RigPhoto, k: int, solution: RigSolution, verdict: str, reason: str
) -> Pose:
    """That of photo k, by the rig."""
    refined, rows = solution.refined, solution.inliers[k]
    points, residuals = one.keypoints[rows], refined.residuals[k]
    common = Pose(
        one.path,
        NOT_LOCALIZED,
        one.why or reason,
        matches=one.count(),
        inliers=one.count(rows),
        spread=coverage_of(points, one.size),
        error=float(np.sqrt((residuals**2).sum(axis=1).mean())) if len(points) else float("nan"),
    )
    if verdict == NOT_LOCALIZED:
        return common
    transport = adjoint(one.place.cam_from_rig, refined.rig_from_world)
    covariance = transport @ refined.covariance @ transport.T
    camera = plain_camera(refined.cameras[k], one.camera.source) if one.camera else None
    return replace(
        common,
        verdict=verdict,
        reason=f"by the rig: {reason}" + (f"; of the photo itself: {one.why}" if one.why else ""),
        cam_from_world=compose(one.place.cam_from_rig, refined.rig_from_world),
        covariance=(covariance + covariance.T) / 2,
        camera=camera,
        images=localizer.agreeing_images(one.rows[rows]),
        points=points,
        world_points=localizer.map.points[one.rows[rows]],
    )
