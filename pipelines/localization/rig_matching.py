"""2D-3D matches of the photos of a rig with a map, and whether the pose by them can be believed: by the
rule for a photo over all photos, and by what each photo says alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from locate.errors import ImageError
from locate.geometry.cameras import field_of_view
from locate.geometry.rigid import compose, invert
from locate.localization import verdict as verdicts
from locate.localization.pose import NOT_LOCALIZED, UNCERTAIN
from locate.localization.query_camera import QueryCamera
from locate.localization.refinement import refine_pose
from locate.localization.rig import RigCamera
from locate.localization.rig_solver import RigSolution, Views, estimate_rig_pose, inliers_of
from locate.metrics.pose import pose_error
from locate.types import Array
from pipelines.localization.localizer import Localizer, MatchedPhoto
from pipelines.localization.matcher import Request

_AGREE = 0.5  # of the inliers that a photo alone is sure of must agree with the rig
# Of `chi2_per_dof`, whose expectation is 1 in a rig that is true. Up to here it widens the
# covariance, beyond the pose is not relied upon.
_MAX_CHI2 = 100.0
_ENOUGH = 12  # inliers of a photo for a pose of its own and its covariance
_NO_FOCAL = (
    "its focal length is not known, and it is not localized alone; give camera_model_name and "
    "camera_params in the rig's file"
)


@dataclass(frozen=True, eq=False)
class RigPhoto:
    """A photo of a rig and its 2D-3D matches with the map: M keypoints in our pixels, which feature each
    is and which row of the map's points it sees."""

    path: Path
    place: RigCamera
    why: str | None = None  # it tells nothing
    size: tuple[int, int] = (1, 1)
    camera: QueryCamera | None = None  # None without a focal length, then there are no matches
    scale: float = 1.0  # its `extraction_scale`
    keypoints: Array = field(default_factory=lambda: np.zeros((0, 2)))
    features: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    rows: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    alone: int = 0  # how many different features agree with the photo's own pose
    start: Array | None = None  # 3 x 4 `rig_from_world` by the photo alone
    sure: bool = False  # that pose is beyond doubt

    def count(self, chosen: Array | slice = slice(None)) -> int:
        """Different features among the matches, or among some of them."""
        return len(np.unique(self.features[chosen]))


def match_rig(
    localizer: Localizer, photos: Sequence[tuple[Path, RigCamera]], request: Request
) -> list[RigPhoto]:
    """2D-3D matches of the photos of a frame, one a core; `ImageError` if none of them can be used."""
    paths, cameras = [path for path, _ in photos], [place.camera for _, place in photos]
    found = [_no_sphere(one) for one in localizer.match_many(paths, cameras, request)]
    errors = [one for one in found if isinstance(one, ImageError)]
    if len(errors) == len(found):
        raise errors[0]
    return [
        RigPhoto(*photo, f"{one.reason}; {one.cure}")
        if isinstance(one, ImageError)
        else _of_rig(*photo, one)
        for photo, one in zip(photos, found, strict=True)
    ]


def _no_sphere(one: MatchedPhoto | ImageError) -> MatchedPhoto | ImageError:
    if isinstance(one, ImageError) or not one.camera.spherical:
        return one
    reason = "is a 360 degree photo, which a rig cannot hold"
    return ImageError(one.path or "the photo", reason, "localize it alone, without --rig")


def _of_rig(path: Path, place: RigCamera, one: MatchedPhoto) -> RigPhoto:
    """The matches with all places of the map, as another photo may tell which is right."""
    empty = RigPhoto(path, place, one.pose.reason, one.size, scale=one.scale)
    features, hypotheses = one.best.features, one.best.hypotheses
    if features is None:
        return empty
    pairs = np.unique(np.concatenate([np.c_[h.features, h.points] for h in hypotheses]), axis=0)
    first, count = hypotheses[0].solution, hypotheses[0].num_inliers
    enough = count >= verdicts.SURE_FACTOR * verdicts.min_inliers(len(np.unique(pairs[:, 0])))
    sure = enough and one.best.second_best <= verdicts.MAX_SECOND_BEST * count
    camera = one.camera if one.camera.focal_known else None
    if first is not None and sure and (camera is None or first.camera.source != one.camera.source):
        camera = first.camera  # there was none, or EXIF is wrong
    if camera is None:
        return replace(empty, why=_NO_FOCAL, alone=count)
    start = None
    if first is not None:
        start = compose(invert(place.cam_from_rig), first.refined.cam_from_world)
    return replace(
        empty,
        why=None,
        camera=camera,
        keypoints=features.keypoints[pairs[:, 0]].astype(np.float64),
        features=pairs[:, 0],
        rows=pairs[:, 1],
        alone=count,
        start=start,
        sure=sure,
    )


def judge_rig(
    seen: Sequence[RigPhoto],
    views: Views,
    solution: RigSolution,
    chi2: float,
    seed: int,
    map_doubt: str | None = None,
) -> tuple[str, str]:
    """By the rule for a photo; then, whether each agrees, and all with each other (`chi2_per_dof`)."""
    refined, inliers = solution.refined, solution.inliers
    counts = [one.count(rows) for one, rows in zip(seen, inliers, strict=True)]
    depths, fields, coverages = [], [], []
    for one, view, camera, rows in zip(seen, views, refined.cameras, inliers, strict=True):
        if rows.any():
            centre = invert(compose(view.cam_from_rig, refined.rig_from_world))[:, 3]
            depths.append(np.linalg.norm(view.world_points[rows] - centre, axis=1))
            fields.append(field_of_view(camera))
            coverages.append(verdicts.coverage_of(view.points[rows], one.size))
    low, high = verdicts.FIELD_OF_VIEW
    position, rotation = verdicts.worst_deviations(refined.covariance)
    quality = verdicts.PoseQuality(
        matches=sum(one.count() for one in seen),
        inliers=sum(counts),
        coverage=min(1.0, sum(coverages)),
        position=position / float(np.median(np.concatenate(depths))),
        rotation=rotation,
        field_of_view=max(fields, key=lambda degrees: max(low - degrees, degrees - high)),
        second_best=_second_best(seen, views, inliers, sum(counts), seed),
    )
    verdict, reason = verdicts.judge(quality, map_doubt)
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
    seen: Sequence[RigPhoto], views: Views, inliers: Sequence[Array], best: int, seed: int
) -> int:
    """Inliers of the best pose among the matches that do not agree with the pose that was found."""
    rest = [view.part(~rows) for view, rows in zip(views, inliers, strict=True)]
    left = [one.count(~rows) for one, rows in zip(seen, inliers, strict=True)]
    if sum(left) <= verdicts.MAX_SECOND_BEST * best:
        return 0  # too few to matter
    pose = estimate_rig_pose(rest, seed=seed)
    if pose is None:
        return 0
    agreeing = inliers_of(rest, [view.camera for view in rest], pose)
    each = zip(seen, inliers, agreeing, strict=True)
    return sum(one.count(np.flatnonzero(~rows)[also]) for one, rows, also in each)


def chi2_per_dof(views: Views, solution: RigSolution, correlated_ratio: float) -> float:
    """How many times the poses that the photos would have each by itself, refined from the rig's,
    scatter about it as much as their covariances say, at least 1: chi-squared over its degrees of
    freedom, the square of the Birge ratio (Birge 1932). So much the rig's covariance has to be widened,
    as no rig is perfectly rigid or measured."""
    squares = []
    for view, rows in zip(views, solution.inliers, strict=True):
        if rows.sum() < _ENOUGH:
            continue
        by_rig = compose(view.cam_from_rig, solution.refined.rig_from_world)
        part = view.part(rows)
        given = part.pixels, part.world_points, view.camera, by_rig, view.prior, view.scale
        alone = refine_pose(*given, correlated_ratio=correlated_ratio)
        if alone is not None:
            error = pose_error(alone.cam_from_world, by_rig)
            squares.append(float(error @ np.linalg.solve(alone.covariance, error)))
    return max(1.0, sum(squares) / (6 * (len(squares) - 1))) if len(squares) > 1 else 1.0
