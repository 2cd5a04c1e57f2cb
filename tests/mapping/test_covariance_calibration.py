"""How honest a map's covariances are: against errors that are drawn, and points without a photo against
a triangulation by hand."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pycolmap
import pytest

from index.maps.folder import MapFolder
from locate.geometry.rigid import rotation_of
from locate.localization.refinement import Refined
from locate.metrics.pose import pose_error
from pipelines.localization.reference_map import ReferenceMap
from pipelines.mapping.covariance_calibration import (
    RATIO_LIMITS,
    _observations,
    _points_without,
    fit_correlated_ratio,
    measure_correlated_ratio,
)
from tests.helpers.small_town import small_town


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_town(tmp_path_factory)[1]


@pytest.fixture(scope="module")
def map_(folder):
    return ReferenceMap(folder)


# --- the share


def drawn(count, share, seed=0, outliers=0):
    """Poses with covariances of many sizes, and errors drawn from them with that share."""
    rng = np.random.default_rng(seed)
    found = []
    for k in range(count):
        size = np.diag(10.0 ** rng.uniform(-4, 0, 6))
        parts = []
        for _ in range(2):
            root = size @ rng.normal(size=(6, 6))
            parts.append(root @ root.T)
        refined = Refined(np.eye(3, 4), pycolmap.Camera(), *parts, 0.0, np.zeros((0, 2)))
        error = np.linalg.cholesky(parts[0] + share**2 * parts[1]) @ rng.normal(size=6)
        found.append((refined, error * (1e3 if k < outliers else 1)))
    return found


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0, 3.0])
def test_the_share_that_errors_were_drawn_with_is_found(share):
    assert fit_correlated_ratio(drawn(400, share)) == pytest.approx(share, rel=0.25)


def test_a_few_wrong_poses_hardly_change_it():
    clean, dirty = (fit_correlated_ratio(drawn(400, 0.5, outliers=n)) for n in (0, 20))
    assert clean < dirty < 1.3 * clean


def test_within_bounds():
    found = drawn(40, 1.0)
    assert fit_correlated_ratio([(r, 0 * e) for r, e in found]) == RATIO_LIMITS[0]
    assert fit_correlated_ratio([(r, 1e6 * e) for r, e in found]) == RATIO_LIMITS[1]


def test_fewer_than_six_tell_nothing():
    assert fit_correlated_ratio([]) is None
    assert fit_correlated_ratio(drawn(5, 1.0)) is None
    assert fit_correlated_ratio(drawn(6, 1.0)) is not None


def test_the_error_of_a_pose_by_hand():
    """The true pose is (exp(w) R_wc, c + d)."""
    w, d = np.array([0.002, -0.001, 0.003]), np.array([0.1, -0.2, 0.3])
    world_from_cam, centre = rotation_of(np.array([0.4, -1.0, 0.7])), np.array([3.0, -4.0, 5.0])
    true_rotation, true_centre = rotation_of(w) @ world_from_cam, centre + d
    estimated = np.c_[world_from_cam.T, -world_from_cam.T @ centre]
    truth = np.c_[true_rotation.T, -true_rotation.T @ true_centre]
    np.testing.assert_allclose(pose_error(estimated, truth), [*d, *w], atol=1e-7)


# --- points without a photo


def triangulated(rays):
    """The point with the least sum of squared errors in pixels, by Gauss-Newton with derivatives by
    finite differences, from the point nearest to all rays.

    Args:
        rays: of each observation (3 x 4 pose, (f, cx, cy), (x, y) in COLMAP's pixels).
    """
    normal, right = np.zeros((3, 3)), np.zeros(3)
    for pose, (f, cx, cy), (x, y) in rays:
        along = pose[:, :3].T @ [(x - cx) / f, (y - cy) / f, 1]
        along /= np.linalg.norm(along)
        across = np.eye(3) - np.outer(along, along)
        normal += across
        right += across @ (-pose[:, :3].T @ pose[:, 3])
    point = np.linalg.solve(normal, right)

    def residuals(at):
        out = []
        for pose, (f, cx, cy), (x, y) in rays:
            seen = pose[:, :3] @ at + pose[:, 3]
            out += [f * seen[0] / seen[2] + cx - x, f * seen[1] / seen[2] + cy - y]
        return np.array(out)

    for _ in range(20):
        jacobian = np.stack(
            [(residuals(point + h) - residuals(point - h)) / 2e-5 for h in 1e-5 * np.eye(3)], axis=1
        )
        point = point - np.linalg.lstsq(jacobian, residuals(point), rcond=None)[0]
    return point


def test_points_without_a_photo_are_where_the_others_put_them(map_):
    row = 1
    name = map_.images[row].name
    moved = _points_without(map_, _observations(map_), row)
    own = map_.seen(row)
    not_own = np.setdiff1d(np.arange(len(map_.points)), own)
    assert np.array_equal(moved[not_own], map_.points[not_own])
    ids = sorted(map_.model.points3D)
    short = left = 0
    misses, moves = [], []
    for k in own:
        track = map_.model.points3D[ids[k]].track.elements
        others = [e for e in track if map_.model.images[e.image_id].name != name]
        if len(track) < 3:
            assert np.isnan(moved[k]).all()
            short += 1
            continue
        if np.isnan(moved[k]).any() or len({e.image_id for e in others}) < 2:
            left += 1
            continue
        rays = []
        for e in others:
            image = map_.model.images[e.image_id]
            pose, params = image.cam_from_world().matrix(), image.camera.params
            rays.append((pose, params, image.points2D[e.point2D_idx].xy))
        point = triangulated(rays)
        misses.append(np.linalg.norm(moved[k] - point))
        moves.append(np.linalg.norm(map_.points[k] - point))
    misses, moves = np.array(misses), np.array(moves)
    assert short > 20
    assert left < 0.05 * len(misses)
    assert len(misses) > 100
    assert np.median(moves) > 0.001  # metres: that photo had a say
    assert np.median(misses / moves) < 0.002
    assert np.percentile(misses / moves, 95) < 0.01


# --- of a map


def test_the_share_of_a_map_is_in_its_record(folder):
    record = MapFolder(folder).read_record()
    assert RATIO_LIMITS[0] <= record.systematic <= RATIO_LIMITS[1]
    assert (
        measure_correlated_ratio(MapFolder(folder), record, MapFolder(folder).read_model())
        == record.systematic
    )
    assert ReferenceMap(folder).correlated_ratio == record.systematic


def test_a_lens_that_fits_badly_shows(folder, tmp_path):
    """Principal points 3 pixels off, which the poses of the photos do not know of."""
    out = MapFolder(tmp_path / "map")
    shutil.copytree(folder, out.folder)
    good = out.read_record().systematic
    model = out.read_model()
    for camera in model.cameras.values():
        f, cx, cy = camera.params
        camera.params = [f, cx + 3, cy]
    out.write(model, out.read_record())
    assert measure_correlated_ratio(out, out.read_record(), out.read_model()) > 10 * good


def test_a_map_of_few_photos_knows_none(folder, tmp_path):
    out = MapFolder(tmp_path / "map")
    shutil.copytree(folder, out.folder)
    model = out.read_model()
    for image in [i for i in model.images.values() if not i.name.startswith("church/")]:
        model.deregister_frame(image.frame_id)
    record = out.read_record()
    out.write(model, replace(record, systematic=None))
    assert measure_correlated_ratio(out, record, out.read_model()) is None
    assert ReferenceMap(out.folder).correlated_ratio == pytest.approx(0.25)
