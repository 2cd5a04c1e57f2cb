"""3-D points from photos whose poses are known and stay as they are.

COLMAP's triangulator (Schönberger and Frahm, Structure-from-Motion Revisited, CVPR 2016, section 4.2)
runs over matches that agree with the epipolar geometry of the known poses; then the points alone are
refined. All of it in memory, on one thread and seeded: the same input gives the same points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import pycolmap

from locate.datasets.records import PosedPhoto
from locate.errors import InputError
from locate.formats.colmap import add_views
from locate.geometry.rigid import centers_of, cross_matrices
from locate.matching.two_view import epipolar_distances
from locate.pixels import to_colmap
from locate.types import Array, Features

Match = Callable[[int, int], Array]  # (i, j) -> M x 2 indices of features (of photo i, of photo j)
Pairs = Sequence[tuple[int, int]]

ALL_PAIRS = 40  # photos up to which every pair is matched
PARTNERS = 20  # of each photo beyond that
MAX_TURN = 45.0  # degrees between the viewing directions of partners
MIN_MATCHES = 15  # of a pair; fewer agree by chance too easily
_ROUNDS = 10  # of Levenberg-Marquardt; points, independent of each other, converge quickly


def triangulate(
    photos: Sequence[PosedPhoto],
    features: Sequence[Features],
    match: Match,
    *,
    pairs: Pairs | None = None,
    max_error: float = 4.0,
    min_angle: float = 1.5,
    seed: int = 0,
) -> pycolmap.Reconstruction:
    """A model of the points that at least two photos see, with features of each photo, in its order;
    image ids are positions in the photos + 1.

    Args:
        match: tentative matches between two of them, by position.
        pairs: which to match; by default `choose_pairs`.
        max_error: pixels of the photos, of matches to the epipolar line (Sampson) and of projections.
        min_angle: least angle in degrees between two rays to a point.
    """
    if len(photos) != len(features) or len({photo.name for photo in photos}) != len(photos):
        raise InputError(
            f"{len(photos)} photos of different names need {len(photos)} features each"
        )
    if not (max_error > 0 and min_angle > 0):
        raise InputError(f"tolerances must be positive, got {max_error} px, {min_angle} degrees")
    model, graph = pycolmap.Reconstruction(), pycolmap.CorrespondenceGraph()
    seen = [to_colmap(f.keypoints.astype(np.float64)) for f in features]
    posed = list(zip(photos, seen, strict=True))
    add_views(model, [(p.name, p.camera, p.cam_from_world, s) for p, s in posed])
    for i, points in enumerate(seen):
        graph.add_image(i + 1, len(points))
    rays = [p.camera.cam_from_img(s) for p, s in posed]
    for i, j in choose_pairs(photos) if pairs is None else pairs:
        matches = match(i, j)
        matched = rays[i][matches[:, 0]], rays[j][matches[:, 1]]
        matches = matches[epipolar_errors(photos[i], photos[j], *matched) <= max_error]
        if len(matches) >= MIN_MATCHES:
            geometry = pycolmap.TwoViewGeometry()
            geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
            geometry.inlier_matches = matches.astype(np.uint32)
            graph.add_two_view_geometry(i + 1, j + 1, geometry)
    graph.finalize()
    _make_points(model, graph, max_error, min_angle, seed)
    return model


def choose_pairs(
    photos: Sequence[PosedPhoto], anchors: Iterable[int] | None = None, partners: int | None = None
) -> list[tuple[int, int]]:
    """Which photos to match, i < j, in order: all pairs of up to `ALL_PAIRS` photos, else those that
    may see the same by their poses: of `anchors` (by default all photos) with at most `partners`
    each.

    Partners of a photo look less than `MAX_TURN` away from its direction. Of these, ordered by the
    distance of the cameras, those at geometrically growing ranks are taken: the nearest, which match
    well, but also far ones, without which the frames of a video would leave no angle to triangulate by.
    """
    n = len(photos)
    anchors = range(n) if anchors is None else anchors
    if partners is None:
        partners = n if n <= ALL_PAIRS else PARTNERS
    if partners >= n - 1:
        chosen = {(min(i, j), max(i, j)) for i in anchors for j in range(n) if i != j}
        return sorted(chosen)
    poses = np.array([photo.cam_from_world for photo in photos])
    centres = centers_of(poses)
    directions = poses[:, 2, :3]  # the optical axis in the world is the last row of R
    pairs = set()
    for i in anchors:
        facing = directions @ directions[i] >= np.cos(np.radians(MAX_TURN))
        facing[i] = False
        others = np.flatnonzero(facing)
        distances = np.linalg.norm(centres[others] - centres[i], axis=1)
        near = others[np.argsort(distances, kind="stable")]
        for rank in _growing_ranks(len(near), partners):
            j = int(near[rank])
            pairs.add((min(i, j), max(i, j)))
    return sorted(pairs)


def epipolar_errors(a: PosedPhoto, b: PosedPhoto, rays_a: Array, rays_b: Array) -> Array:
    """How far M matches are from the epipolar geometry of two known poses: the Sampson distance to
    E = [t]x R in the normalized planes (M x 2 undistorted points), times the mean focal length: M
    pixels. Infinite between photos from the same place, which tell nothing about depth."""
    r_a, r_b = a.cam_from_world[:, :3], b.cam_from_world[:, :3]
    rotation = r_b @ r_a.T
    t = b.cam_from_world[:, 3] - rotation @ a.cam_from_world[:, 3]
    length = float(np.linalg.norm(t))
    if length <= 1e-12 * (1 + np.abs(a.cam_from_world[:, 3]).max()):
        return np.full(len(rays_a), np.inf)
    essential = cross_matrices((t / length)[None])[0] @ rotation
    errors = epipolar_distances(essential, rays_a, rays_b)
    focal = (a.camera.mean_focal_length() + b.camera.mean_focal_length()) / 2
    return np.asarray(errors * focal)


def scene_depth(model: pycolmap.Reconstruction) -> float:
    """How far the scene lies from the cameras: the median over photos of the median depth of the points
    they see, in the unit of the poses; NaN without points."""
    depths = []
    for image in model.images.values():
        seen = [image.point2D(k).point3D_id for k in image.get_observation_point2D_idxs()]
        if seen:
            pose = image.cam_from_world().matrix()
            points = np.array([model.point3D(i).xyz for i in seen])
            depths.append(np.median(points @ pose[2, :3] + pose[2, 3]))
    return float(np.median(depths)) if depths else float("nan")


def _growing_ranks(count: int, wanted: int) -> list[int]:
    """At most `wanted` ranks below `count`, the first ones densely and the last one included."""
    if count <= wanted:
        return list(range(count))
    ranks = np.unique(np.rint(np.geomspace(1, count, wanted)).astype(int) - 1)
    taken = set(ranks.tolist())
    spare = (rank for rank in range(count) if rank not in taken)
    while len(taken) < wanted:  # the first steps of the series fall on the same rank
        taken.add(next(spare))
    return sorted(taken)


def _make_points(
    model: pycolmap.Reconstruction,
    graph: pycolmap.CorrespondenceGraph,
    max_error: float,
    min_angle: float,
    seed: int,
) -> None:
    options = pycolmap.IncrementalTriangulatorOptions()
    options.random_seed = seed
    options.min_angle = min_angle
    options.complete_max_reproj_error = options.merge_max_reproj_error = max_error
    options.ignore_two_view_tracks = False  # poses are exact, so two photos prove a point as well
    # Cameras are calibrated: COLMAP's guards against a lens gone astray would silently drop true ones.
    options.min_focal_length_ratio, options.max_focal_length_ratio = 0.0, np.inf
    options.max_extra_param = np.inf
    observations = pycolmap.ObservationManager(model, graph)
    triangulator = pycolmap.IncrementalTriangulator(graph, model, observations)
    for image_id in sorted(model.images):
        triangulator.triangulate_image(options, image_id)
    for refine in (True, False):
        triangulator.complete_all_tracks(options)
        triangulator.merge_all_tracks(options)
        observations.filter_all_points3D(max_error, min_angle)
        if refine and model.num_points3D():
            _refine_points(model)


def _refine_points(model: pycolmap.Reconstruction) -> None:
    """Bundle adjustment of the points alone."""
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in sorted(model.images):
        config.add_image(image_id)
    for frame_id in model.frames:
        config.set_constant_rig_from_world_pose(frame_id)
    for camera_id in model.cameras:
        config.set_constant_cam_intrinsics(camera_id)
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_rig_from_world = options.refine_sensor_from_rig = False
    options.refine_focal_length = options.refine_extra_params = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    options.ceres.solver_options.max_num_iterations = _ROUNDS
    options.ceres.solver_options.num_threads = 1  # sums in the same order every time
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()


def observed_points(image: pycolmap.Image, place: Mapping[int, int]) -> Array:
    """N int64: the place of the point that each feature of an image sees, by its id; -1 for none."""
    places = np.full(image.num_points2D(), -1, np.int64)
    for feature in image.get_observation_point2D_idxs():
        places[feature] = place[image.point2D(feature).point3D_id]
    return places
