"""How honest a map's covariances are, measured on its own photos.

Each of some of its photos is localized by the others, and the error of its pose is held against the
covariance. That has a part for independent noise and one for correlated errors of unknown size
(`locate.localization.refinement`): A + ratio^2 B. The ratio is chosen so that the normalized
squared errors e^T (A + ratio^2 B)^-1 e have the median of a chi-squared variable of six degrees of
freedom, as they must have if the covariance is right. The median, because a photo or two with
wrong poses must not blow up all covariances.

A photo must not be localized by what it told itself: points that only it and one other photo saw are
left out, the others are moved to where they lie without its observation (one Gauss-Newton step).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pycolmap

from index.catalog import Catalog
from index.maps.folder import MapFolder, MapRecord
from locate.geometry.cameras import colmap_camera
from locate.geometry.rigid import transform
from locate.localization.query_camera import GIVEN, QueryCamera
from locate.localization.refinement import IntrinsicsPrior, Refined
from locate.localization.solver import solve_pose
from locate.localization.verdict import min_inliers
from locate.matching.descriptors import ratio_for
from locate.metrics.pose import pose_error
from locate.types import Array
from pipelines.localization.matcher import CANDIDATES, match_points
from pipelines.localization.reference_map import ReferenceMap

MEDIAN = 5.348  # of chi-squared with six degrees of freedom
RATIO_LIMITS = (0.02, 5.0)  # the least and the largest that are believed
_PHOTOS = 40
_LEAST = 6  # photos; fewer tell nothing
_PART_OF_COMMON = 3  # photos that must see a point that is used for one of them
_CONDITION = 1e8  # of a point's normal equations; beyond, its rays are parallel


def measure_correlated_ratio(
    folder: MapFolder, record: MapRecord, model: pycolmap.Reconstruction
) -> float | None:
    """The ratio of correlated errors to the noise of a map's own photos (the folder holds their
    features), within `RATIO_LIMITS`; None if fewer than six can be localized by the others."""
    if not model.num_points3D():
        return None
    map_ = ReferenceMap(folder.folder, record, model)
    count = len(map_.images)
    rows = np.unique(np.linspace(0, count - 1, min(_PHOTOS, count)).astype(int))
    seen = _observations(map_)
    with Catalog.open(folder.features) as catalog:
        found = [_localized(map_, seen, catalog, int(row)) for row in rows]
    return fit_correlated_ratio([item for item in found if item is not None])


def fit_correlated_ratio(found: Sequence[tuple[Refined, Array]]) -> float | None:
    """The ratio that makes the median of the normalized squared errors right, by poses and their
    errors (6 each, in the order of the covariance)."""
    if len(found) < _LEAST:
        return None

    def median(ratio: float) -> float:
        values = [e @ np.linalg.solve(r.covariance_with(ratio), e) for r, e in found]
        return float(np.median(values))

    low, high = RATIO_LIMITS
    if median(low) <= MEDIAN:
        return low
    if median(high) >= MEDIAN:
        return high
    for _ in range(30):  # the median falls as the ratio grows
        middle = np.sqrt(low * high)
        low, high = (middle, high) if median(middle) > MEDIAN else (low, middle)
    return float(np.sqrt(low * high))


class _Observations(NamedTuple):
    """All observations of a map, K of them: rows of its images and points, how the squared error of
    each, in pixels, pulls its point (J^T r, K x 3), and J^T J (K x 3 x 3)."""

    images: Array
    points: Array
    gradient: Array
    information: Array


def _observations(map_: ReferenceMap) -> _Observations:
    parts = []
    for row, image in enumerate(map_.images):
        model_image = map_.model.image(image.id)
        features = np.flatnonzero(image.point_rows >= 0)
        points = image.point_rows[features]
        pose, camera = model_image.cam_from_world().matrix(), model_image.camera
        keypoints = np.array([model_image.point2D(int(k)).xy for k in features]).reshape(-1, 2)
        seen = transform(pose, map_.points[points])
        flat = seen[:, :2] / seen[:, 2:]
        focal = camera.mean_focal_length()
        residual = focal * (np.asarray(camera.cam_from_img(keypoints)) - flat)
        by_seen = np.zeros((len(seen), 2, 3))
        by_seen[:, 0, 0] = by_seen[:, 1, 1] = focal / seen[:, 2]
        by_seen[:, :, 2] = -focal * flat / seen[:, 2:]
        by_point = by_seen @ pose[:, :3]
        gradient = np.einsum("kip,ki->kp", by_point, residual)
        information = np.einsum("kip,kiq->kpq", by_point, by_point)
        parts.append((np.full(len(points), row), points, gradient, information))
    return _Observations(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _points_without(map_: ReferenceMap, seen: _Observations, row: int) -> Array:
    """P x 3: the points, those that an image sees as the other images alone put them; NaN where
    fewer than two others see them."""
    moved = map_.points.copy()
    own = map_.seen(row)
    moved[own[map_.track_lengths[own] < _PART_OF_COMMON]] = np.nan
    own = own[map_.track_lengths[own] >= _PART_OF_COMMON]
    place = np.full(len(moved), -1)
    place[own] = np.arange(len(own))
    others = np.flatnonzero((place[seen.points] >= 0) & (seen.images != row))
    gradient, information = np.zeros((len(own), 3)), np.zeros((len(own), 3, 3))
    np.add.at(gradient, place[seen.points[others]], seen.gradient[others])
    np.add.at(information, place[seen.points[others]], seen.information[others])
    sound = np.linalg.cond(information) < _CONDITION
    moved[own[~sound]] = np.nan
    moved[own[sound]] += np.linalg.solve(information[sound], gradient[sound][..., None])[..., 0]
    return moved


def _localized(
    map_: ReferenceMap, seen: _Observations, catalog: Catalog, row: int
) -> tuple[Refined, Array] | None:
    """A photo of the map, localized by the others, and its error."""
    image = map_.images[row]
    features = catalog.features(image.id)
    others = np.delete(np.arange(len(map_.images)), row)
    if map_.vectors is not None:
        similar = map_.vectors[others] @ map_.vectors[row]
        others = others[np.argsort(-similar, kind="stable")[:CANDIDATES]]
    pairs = [
        match_points(features, map_.images[other], ratio_for("map", map_.extractor_info))
        for other in others.tolist()
    ]
    matches = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *pairs]), axis=0)
    points = _points_without(map_, seen, row)
    matches = matches[np.isfinite(points[matches[:, 1], 0])]
    if len(matches) < min_inliers(0):
        return None
    model_image = map_.model.image(image.id)
    solution = solve_pose(
        features.keypoints[matches[:, 0]],
        points[matches[:, 1]],
        QueryCamera(colmap_camera(model_image.camera), GIVEN, IntrinsicsPrior()),
        scale=map_.extraction_scale(features.image_size),
    )
    if solution is None or solution.inliers.sum() < 2 * min_inliers(len(matches)):
        return None
    truth = model_image.cam_from_world().matrix()
    return solution.refined, pose_error(solution.refined.cam_from_world, truth)
