"""Poses of photos whose lens nobody knows: of many kinds, cropped, enlarged without saying so. Their
errors must lie within their covariances."""

from __future__ import annotations

import numpy as np
import pycolmap
import pytest

from locate.geometry.rigid import rotation_of
from locate.localization.query_camera import choose_camera, device_of, magnified, unknown_camera
from locate.localization.solver import COARSE, ratio_at_resolution, solve_pose
from locate.metrics.pose import pose_error
from locate.types import PhotoInfo

SIZE = (800, 600)
# Of eight lenses of 60 to 75 degrees; every other one is not centred, or its pixels are not square.
LENSES = {
    "pinhole": ("PINHOLE", [750, 750, 400, 300]),
    "barrel": ("SIMPLE_RADIAL", [680, 404, 297, -0.12]),
    "pincushion": ("RADIAL", [620, 402, 299, 0.12, -0.02]),
    "fisheye": ("OPENCV_FISHEYE", [600, 605, 398, 303, 0.03, -0.01, 0.002, 0.0005]),
    "strong": ("FULL_OPENCV", [600, 605, 398, 303, -0.28, 0.05, 0, 0, 0, 0, 0, 0]),
    "rational": (
        "FULL_OPENCV",
        [600, 605, 398, 303, 0.25, 0.05, 5e-4, -3e-4, 0.01, 0.45, 0.08, 0.01],
    ),
    "fov": ("FOV", [600, 605, 398, 303, 0.9]),
    "tangential": ("OPENCV", [700, 690, 405, 296, -0.12, 0.04, 1e-3, -1e-3]),
}
CROPS = {"top left": (0, 0), "bottom right": (320, 240), "right": (320, 120)}  # of 480 x 360


def camera_of(name, size=SIZE):
    model, params = LENSES[name]
    return pycolmap.Camera(model=model, width=size[0], height=size[1], params=params)


def scene(camera, seed, noise=0.5, count=250, wrong=50):
    """Points in our pixels, what they show (a street: two walls and the ground), the true pose."""
    rng = np.random.default_rng(seed)
    pose = np.c_[rotation_of(rng.normal(0, 0.3, 3)), rng.normal(0, 3, 3)]
    pixels = rng.uniform((0, 0), (camera.width, camera.height), (count, 2))
    rays = np.c_[np.asarray(camera.cam_from_img(pixels)), np.ones(count)]
    assert np.isfinite(rays).all()
    depth = np.where(rng.random(count) < 0.5, rng.uniform(8, 14, count), rng.uniform(20, 30, count))
    world = (rays * depth[:, None] - pose[:, 3]) @ pose[:, :3]
    pixels[:wrong] = rng.uniform((0, 0), (camera.width, camera.height), (wrong, 2))
    return pixels - 0.5 + rng.normal(0, noise, pixels.shape), world, pose


def errors(found, truth):
    """(distance of the centres over its standard deviation, e^T C^-1 e, metres)"""
    error, covariance = pose_error(found.refined.cam_from_world, truth), found.refined.covariance
    metres = float(np.linalg.norm(error[:3]))
    sigma = np.sqrt(np.trace(covariance[:3, :3]))
    return metres / sigma, float(error @ np.linalg.solve(covariance, error)), metres


@pytest.mark.parametrize("name", list(LENSES))
def test_errors_lie_within_their_covariance_whatever_the_lens(name):
    found = []
    for seed in range(4):
        points, world, truth = scene(camera_of(name), seed)
        solution = solve_pose(points, world, unknown_camera(SIZE))
        assert solution.inliers[50:].mean() > 0.95
        found.append(errors(solution, truth))
    sigmas, nees, metres = np.array(found).T
    assert sigmas.max() < 3
    assert nees.max() < 22.5  # of six degrees of freedom, 99.9 % lie below
    assert np.median(metres) < 0.3  # of 8 to 30


@pytest.mark.parametrize("name", list(CROPS))
@pytest.mark.parametrize("exif", [True, False])
def test_a_crop_has_its_middle_elsewhere(name, exif):
    """A photo of which a part was cut out, whose EXIF stayed or went: the focal length that is told
    is that of the whole, for its width."""
    left, top = CROPS[name]
    whole = camera_of("pinhole").params
    params = [*whole[:2], whole[2] - left, whole[3] - top]
    camera = pycolmap.Camera(model="PINHOLE", width=480, height=360, params=params)
    info = PhotoInfo(size=(480, 360), focal_35mm=round(750 * 36 / 800) if exif else None)
    sigmas = []
    for seed in range(3):
        points, world, truth = scene(camera, seed)
        solution = solve_pose(points, world, choose_camera(info))
        middle = solution.refined.camera.params[2:4]
        np.testing.assert_allclose(middle, params[2:4], atol=40)  # of 240, 180 they are far
        sigmas.append(errors(solution, truth)[0])
    assert max(sigmas) < 3


@pytest.mark.parametrize("zoom", [1.1, 1.5, 2.0])
def test_a_camera_of_the_map_that_is_not_that_of_the_photo_gives_way(zoom):
    """Enlarged, and EXIF does not say so: a device at its usual focal length, as it seems."""
    info = PhotoInfo(size=SIZE, camera="A", focal_mm=5.0, focal_35mm=34.0)
    own = camera_of("pinhole")
    points, world, truth = scene(magnified(own, zoom), 1)
    query = choose_camera(info, known={device_of(info): own})
    assert query.source == "map"
    solution = solve_pose(points, world, query)
    assert solution.camera.source == "estimated"
    assert solution.refined.camera.mean_focal_length() == pytest.approx(750 * zoom, rel=0.05)
    assert errors(solution, truth)[0] < 3
    points, world, truth = scene(own, 1)
    kept = solve_pose(points, world, query)
    assert kept.camera.source == "map"
    assert errors(kept, truth)[0] < 3


def test_photos_at_another_scale_share_less_with_the_map():
    """The share by hand: COARSE for each halving or doubling of the pixels in a radian."""
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=400, height=300, params=[375, 200, 150])
    assert ratio_at_resolution(0.3, 750.0, camera, 1.0) == pytest.approx(np.hypot(0.3, COARSE))
    assert ratio_at_resolution(0.3, 187.5, camera, 1.0) == pytest.approx(np.hypot(0.3, COARSE))
    assert ratio_at_resolution(0.0, 750.0, camera, 2.0) == pytest.approx(
        2 * COARSE
    )  # and shrunk by half again
    assert ratio_at_resolution(0.3, 375.0, camera, 1.0) == pytest.approx(0.3)
    assert ratio_at_resolution(0.3, None, camera, 1.0) == 0.3
    points, world, _ = scene(camera_of("pinhole"), 0)
    given = choose_camera(PhotoInfo(SIZE), "PINHOLE,750,750,400,300")
    alike, coarse = (
        solve_pose(points, world, given, correlated_ratio=0.02, resolution=r).refined
        for r in (750, 1500)
    )
    wider = alike.covariance_with(np.hypot(0.02, COARSE))
    np.testing.assert_allclose(coarse.covariance, wider, rtol=1e-9)
