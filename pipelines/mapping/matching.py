"""Matching: the verified matches between a map's photos, which `index.maps.matches` keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path

import numpy as np
import pycolmap
from threadpoolctl import ThreadpoolController

from index.catalog import Catalog
from index.maps.folder import Progress
from index.maps.matches import KeyedCamera, Pair, translate_errors, update_images, verified_pairs
from index.records import ImageRow
from locate.images.focal_length import exif_focal
from locate.localization.query_camera import device_of
from locate.matching.descriptors import match_mutual, ratio_for
from locate.matching.overlays import on_overlay
from locate.matching.two_view import MAX_EPIPOLAR_ERROR, distinct_matches
from locate.pixels import extraction_scale, to_colmap
from locate.types import Array
from locate.util.parallel import ordered_map
from pipelines.indexing.provenance import working_side
from pipelines.mapping.features import mapped_rows, require_info

# COLMAP's 15 inliers and 4 px suit its larger images; here they let pairs of different scenes pass.
MIN_INLIERS = 20
PRIOR_FOCAL = 1.2  # times the long side: COLMAP's guess where EXIF says nothing


def exif_camera(row: ImageRow) -> KeyedCamera:
    """What a photo's EXIF says about its camera: photos of equal keys share one. Without a camera and a
    focal length in it, and if it was cropped, every photo has a camera of its own."""
    info, (width, height) = row.info, row.info.size
    device, told = device_of(info), exif_focal(info)
    lens = device is not None and (device.focal_35mm or device.focal_mm)
    focal = told.pixels if told else PRIOR_FOCAL * max(width, height)
    camera = pycolmap.Camera.create_from_model_name(row.id, "SIMPLE_RADIAL", focal, width, height)
    camera.has_prior_focal_length = told is not None and not told.doubt
    return (device,) if lens else (row.id,), camera


def match_photos(
    path: Path,
    catalog: Catalog,
    pairs: Sequence[Pair],
    given: Mapping[int, pycolmap.Camera] | None,
    workers: int | None,
    seed: int,
    progress: Progress,
) -> None:
    """Bring the images of the database at `path` up to date with the catalogue, with calibrated
    cameras by image id where they are given, else as EXIF says; match and verify those of `pairs`
    that it does not hold yet, each stored as soon as it is done. See
    `pipelines.mapping.build.build_map`."""

    def keypoints_of(image_id: int) -> Array:
        return to_colmap(catalog.features(image_id).keypoints.astype(np.float64))

    update_images(path, mapped_rows(catalog), given or {}, exif_camera, keypoints_of)
    stored = verified_pairs(path)
    todo = [pair for pair in pairs if pair not in stored]
    if not todo:
        return
    side = working_side(catalog)
    ratio = ratio_for("map", require_info(catalog))  # in the order of ids
    features = lru_cache(maxsize=128)(catalog.features)
    with translate_errors(path), closing(pycolmap.Database.open(path)) as database:
        cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        camera_of = {i.image_id: cameras[i.camera_id] for i in database.read_all_images()}

        def verify(pair: Pair) -> tuple[Array, pycolmap.TwoViewGeometry]:
            a, b = (features(i) for i in pair)
            matches = match_mutual(a.descriptors, b.descriptors, ratio)
            scale = extraction_scale(max(*a.image_size, *b.image_size), side)
            points = [to_colmap(f.keypoints.astype(np.float64)) for f in (a, b)]
            lenses = [camera_of[i] for i in pair]
            found = _geometry(points, matches, lenses, scale, seed)
            # What lies on an overlay is not stored either: on known poses it would become points.
            on = on_overlay(a, b, matches, side)
            if not on.any():
                return matches, found
            matches = matches[~on]
            return matches, _geometry(points, matches, lenses, scale, seed)

        with (
            ThreadpoolController().limit(limits=1, user_api="blas"),
            closing(ordered_map(verify, todo, workers)) as verified,
        ):
            for done, (pair, (matches, geometry)) in enumerate(zip(todo, verified, strict=True), 1):
                # pycolmap's transactions end the process on a full disk. A pair counts as stored
                # with its geometry, which comes last.
                if not database.exists_matches(*pair):
                    database.write_matches(*pair, matches.astype(np.uint32))
                database.write_two_view_geometry(*pair, geometry)
                progress("matching", done, len(todo))


def _geometry(
    points: list[Array], matches: Array, cameras: list[pycolmap.Camera], scale: float, seed: int
) -> pycolmap.TwoViewGeometry:
    """The motion that most matches (M x 2 indices of points) agree with, by points in COLMAP's
    pixels at `extraction_scale`; without inliers if too few agree."""
    options = pycolmap.TwoViewGeometryOptions()
    options.min_num_inliers, options.detect_watermark = MIN_INLIERS, False
    options.ransac.max_error = MAX_EPIPOLAR_ERROR * scale
    options.ransac.random_seed = seed
    if len(matches) >= MIN_INLIERS:
        found = pycolmap.estimate_two_view_geometry(
            cameras[0], points[0], cameras[1], points[1], matches.astype(np.uint32), options
        )
        agree = np.asarray(found.inlier_matches, np.int64).reshape(-1, 2)
        spots = [p[agree[:, k]] / scale for k, p in enumerate(points)]
        if len(distinct_matches(*spots)) >= MIN_INLIERS:
            return found
    none = pycolmap.TwoViewGeometry()
    none.config = pycolmap.TwoViewGeometryConfiguration.DEGENERATE
    return none
