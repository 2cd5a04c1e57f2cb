"""Whether the pose of a rig can be believed: by the rule for a photo over all photos, and by what each
photo says alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from locate.geometry.cameras import field_of_view
from locate.geometry.rigid import compose, invert
from locate.localization.pose import NOT_LOCALIZED, UNCERTAIN
from locate.localization.refinement import refine_pose
from locate.localization.rig_solver import RigSolution, RigView, estimate_rig_pose, inliers_of
from locate.localization.verdict import (
    FIELD_OF_VIEW,
    MAX_SECOND_BEST,
    PoseQuality,
    coverage_of,
    judge,
    worst_deviations,
)
from locate.metrics.pose import pose_error
from locate.pixels import to_colmap
from locate.types import Array
from pipelines.localization.rig_matching import RigPhoto

_AGREE = 0.5  # of the inliers that a photo alone is sure of must agree with the rig
# Of `chi2_per_dof`, whose expectation is 1 in a rig that is true. Up to here it widens the
# covariance, beyond the pose is not relied upon.
_MAX_CHI2 = 100.0
_ENOUGH = 12  # inliers of a photo for a pose of its own and its covariance


def judge_rig(
    seen: Sequence[RigPhoto],
    views: Sequence[RigView],
    solution: RigSolution,
    chi2: float,
    seed: int,
    map_doubt: str | None = None,
) -> tuple[str, str]:
    """By the rule for a photo; and then, whether each photo agrees, and all with each other
    (`chi2_per_dof`)."""
    refined, inliers = solution.refined, solution.inliers
    counts = [one.count(rows) for one, rows in zip(seen, inliers, strict=True)]
    depths, fields, coverages = [], [], []
    for one, view, camera, rows in zip(seen, views, refined.cameras, inliers, strict=True):
        if rows.any():
            centre = invert(compose(view.cam_from_rig, refined.rig_from_world))[:, 3]
            depths.append(np.linalg.norm(view.world_points[rows] - centre, axis=1))
            fields.append(field_of_view(camera))
            coverages.append(coverage_of(view.points[rows], one.size))
    low, high = FIELD_OF_VIEW
    position, rotation = worst_deviations(refined.covariance)
    quality = PoseQuality(
        matches=sum(one.count() for one in seen),
        inliers=sum(counts),
        coverage=min(1.0, sum(coverages)),
        position=position / float(np.median(np.concatenate(depths))),
        rotation=rotation,
        field_of_view=max(fields, key=lambda degrees: max(low - degrees, degrees - high)),
        second_best=_second_best(seen, views, inliers, sum(counts), seed),
    )
    verdict, reason = judge(quality, map_doubt)
    against = ", ".join(
        f"{one.path.name} ({one.alone} matches, of which {n} agree with the rig)"
        for one, n in zip(seen, counts, strict=True)
        if one.sure and n < _AGREE * one.alone
    )
    if verdict == NOT_LOCALIZED or not (against or chi2 > _MAX_CHI2):
        return verdict, reason
    why = f"the photos' own poses differ by {chi2**0.5:.0f} times their errors"
    if against:
        why = f"alone another pose is sure for {against}"
    return UNCERTAIN, f"{quality.count}; but {why}: check cam_from_rig_... and the cameras"


def _second_best(
    seen: Sequence[RigPhoto],
    views: Sequence[RigView],
    inliers: Sequence[Array],
    best: int,
    seed: int,
) -> int:
    """Inliers of the best pose among the matches that do not agree with the pose that was found."""
    rest = [view.part(~rows) for view, rows in zip(views, inliers, strict=True)]
    left = [one.count(~rows) for one, rows in zip(seen, inliers, strict=True)]
    if sum(left) <= MAX_SECOND_BEST * best:
        return 0  # too few to matter
    pose = estimate_rig_pose(rest, seed=seed)
    if pose is None:
        return 0
    agreeing = inliers_of(rest, [view.camera for view in rest], pose)
    each = zip(seen, inliers, agreeing, strict=True)
    return sum(one.count(np.flatnonzero(~rows)[also]) for one, rows, also in each)


def chi2_per_dof(views: Sequence[RigView], solution: RigSolution, correlated_ratio: float) -> float:
    """How many times the poses that the photos would have each by itself, refined from the rig's,
    scatter about it as much as their covariances say, at least 1: chi-squared over its degrees of
    freedom, the square of the Birge ratio (Birge 1932). So much the rig's covariance has to be widened,
    as no rig is perfectly rigid or measured."""
    squares = []
    for view, rows in zip(views, solution.inliers, strict=True):
        if rows.sum() < _ENOUGH:
            continue
        by_rig = compose(view.cam_from_rig, solution.refined.rig_from_world)
        alone = refine_pose(
            to_colmap(view.points[rows]),
            view.world_points[rows],
            view.camera,
            by_rig,
            prior=view.prior,
            loss_scale=view.scale,
            correlated_ratio=correlated_ratio,
        )
        if alone is not None:
            error = pose_error(alone.cam_from_world, by_rig)
            squares.append(float(error @ np.linalg.solve(alone.covariance, error)))
    return max(1.0, sum(squares) / (6 * (len(squares) - 1))) if len(squares) > 1 else 1.0
