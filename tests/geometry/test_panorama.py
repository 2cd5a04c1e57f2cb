"""360 degree photos: pixels and rays, cut views, the tags, and the pose of a camera that sees all."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pycolmap
import pytest

import locate
from locate.errors import ImageError, InputError
from locate.geometry.cameras import Camera
from locate.geometry.panorama import (
    FIELD_OF_VIEW,
    Panorama,
    ViewCutter,
    is_whole,
    nearest_turn,
    owners_of,
    panorama_of,
    pixels_of,
    rays_of,
    view_rotation,
    view_rotations,
)
from locate.geometry.rigid import rotation_of
from locate.images.reading import read_photo
from locate.localization.query_camera import choose_camera
from locate.localization.refinement import INTRINSICS, PoseState
from locate.localization.sphere import (
    SphereOptimization,
    ray_errors,
    refine_sphere,
    solve_sphere,
    tangents,
)
from locate.metrics.pose import pose_error
from locate.types import PhotoInfo, Projection
from pipelines.localization.panorama import PanoramaViews, coverage_of_views
from tests.helpers.panoramas import save_panorama, sphere_rays, xmp_of

SIZE = (4000, 2000)


# --- pixels and rays


def test_where_pixels_look_by_hand():
    """The centre of the first pixel is half a pixel from the corner, which lies behind and above."""
    middle = np.array([[1999.5, 999.5]])
    np.testing.assert_allclose(rays_of(middle, SIZE), [[0, 0, 1]], atol=1e-12)
    quarter = np.array([[2999.5, 999.5], [999.5, 999.5], [-0.5, 999.5], [3999.5, 999.5]])
    np.testing.assert_allclose(
        rays_of(quarter, SIZE), [[1, 0, 0], [-1, 0, 0], [0, 0, -1], [0, 0, -1]], atol=1e-12
    )
    poles = np.array([[123.0, -0.5], [123.0, 1999.5]])
    np.testing.assert_allclose(rays_of(poles, SIZE), [[0, -1, 0], [0, 1, 0]], atol=1e-12)
    below = rays_of(np.array([[1999.5, 1249.5]]), SIZE)  # an eighth of the way from pole to pole
    np.testing.assert_allclose(below, [[0, np.sin(np.pi / 8), np.cos(np.pi / 8)]], atol=1e-12)


def test_pixels_and_rays_are_colmaps():
    rng = np.random.default_rng(0)
    rays = rng.normal(size=(500, 3)) * rng.uniform(0.1, 9, (500, 1))
    camera = pycolmap.Camera(model="EQUIRECTANGULAR", width=4000, height=2000, params=[4000, 2000])
    there = np.asarray(camera.img_from_cam(rays))
    here = pixels_of(rays, SIZE)
    np.testing.assert_allclose(here + 0.5, there, atol=1e-8)
    unit = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    np.testing.assert_allclose(rays_of(here, SIZE), unit, atol=1e-12)
    np.testing.assert_allclose(np.asarray(camera.cam_ray_from_img(there)), unit, atol=1e-12)
    stretched = pycolmap.Camera(model="EQUIRECTANGULAR", width=800, height=600, params=[800, 600])
    np.testing.assert_allclose(
        pixels_of(rays, (800, 600)) + 0.5, np.asarray(stretched.img_from_cam(rays)), atol=1e-8
    )


def test_over_the_seam_the_short_way():
    x = np.array([10.0, 3990.0, 2000.0])
    np.testing.assert_allclose(
        nearest_turn(x, np.array([3990.0, 10.0, 1900.0]), 4000), [4010.0, -10.0, 2000.0]
    )


def test_views_look_where_they_say():
    """x stays level, positive pitch looks up, positive yaw to the right."""
    np.testing.assert_allclose(view_rotation(0, 0), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(view_rotation(90, 0)[2], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(view_rotation(0, 90)[2], [0, -1, 0], atol=1e-12)
    rotations = view_rotations()
    for rotation in rotations:
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
        assert rotation[0, 1] == 0
        assert rotation[1, 1] > 0  # down stays down
    owners = owners_of(rotations[:, 2], rotations)
    assert owners.tolist() == list(range(len(rotations)))


# --- cutting


def world_colours(rays):
    """A smooth picture on the sphere: each channel of a ray, N x 3 uint8."""
    unit = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    waves = 100 * np.stack(
        [
            unit[:, 0],
            unit[:, 1] * unit[:, 2],
            unit[:, 2],
        ],
        axis=1,
    )
    return np.clip(np.rint(128 + waves), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("yaw", [0, 37, 90, 180, 213])
@pytest.mark.parametrize("pitch", [-90, -50, 0, 50, 90])
def test_a_view_shows_what_lies_where_it_looks(yaw, pitch):
    """Over the seam (yaw 180) and the poles as well, to one step of grey."""
    photo = world_colours(sphere_rays(800, 400)).reshape(400, 800, 3)
    cutter = ViewCutter(photo, Panorama.whole((800, 400)), 120)
    rotation = view_rotation(yaw, pitch)
    view, inside = cutter.cut(rotation)
    assert inside.all()
    x, y = np.meshgrid(np.arange(120.0), np.arange(120.0))
    focal = 60 / np.tan(np.radians(FIELD_OF_VIEW) / 2)
    pinhole = np.array([[focal, 0, 59.5], [0, focal, 59.5], [0, 0, 1]])
    pixels = np.stack((x.ravel(), y.ravel(), np.ones(x.size)))
    rays = (rotation.T @ np.linalg.inv(pinhole) @ pixels).T
    truth = world_colours(rays).reshape(view.shape)
    assert np.abs(view.astype(int) - truth).max() <= 2
    points = np.array([[0.0, 0.0], [119.0, 0.0], [59.5, 59.5]])
    np.testing.assert_allclose(
        cutter.rays(points, rotation), [*rays[[0, 119]].tolist(), rotation[2].tolist()], atol=1e-12
    )


def test_a_photo_of_a_part_is_cut_as_the_whole_is():
    whole = world_colours(sphere_rays(800, 400)).reshape(400, 800, 3)
    left, top, width, height = 520, 90, 360, 220  # over the seam
    part = np.roll(whole, -left, axis=1)[top : top + height, :width]
    panorama = Panorama((800, 400), (left, top, width, height))
    assert not panorama.closed
    cut, full = (
        ViewCutter(part, panorama, 100),
        ViewCutter(whole, Panorama.whole((800, 400)), 100),
    )
    for yaw in range(0, 360, 30):
        rotation = view_rotation(yaw, 0)
        view, inside = cut.cut(rotation)
        expected, _ = full.cut(rotation)
        rays = (cut._rays @ rotation)[inside.ravel()]
        at = pixels_of(rays, (800, 400))
        shown = (np.mod(at[:, 0] + 0.5 - left, 800) <= width) & (at[:, 1] + 0.5 >= top)
        assert (shown & (at[:, 1] + 0.5 <= top + height)).all()
        assert (view[~inside] == 0).all()
        core = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
        assert np.abs(view.astype(int) - expected)[core].max(initial=0) <= 1
    assert cut.cut(view_rotation(180, 0))[1].mean() > 0.9  # degrees 234 to 396 of the picture
    assert not cut.cut(view_rotation(0, 0))[1].any()


def test_what_is_denser_than_the_views_is_averaged():
    """A checkerboard of single pixels is grey in views that have a third of its pixels per degree;
    sampling alone would show a pattern."""
    board = np.indices((900, 1800)).sum(axis=0) % 2 * 255
    photo = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    view, _ = ViewCutter(photo, Panorama.whole((1800, 900)), 110).cut(view_rotation(10, 0))
    assert np.abs(view.astype(int) - 127).max() < 40
    assert view.std() < 8


# --- tags


def info_of(size, *tags):
    return PhotoInfo(size=size, projection=Projection("equirectangular", *tags))


def test_tags_are_read_from_the_file(tmp_path, texture):
    pixels = texture((400, 200))
    file = save_panorama(tmp_path / "bare.jpg", pixels)
    assert read_photo(file).info.projection is None
    whole = xmp_of(
        ProjectionType="equirectangular", FullPanoWidthPixels=400, FullPanoHeightPixels=200
    )
    info = read_photo(save_panorama(tmp_path / "whole.jpg", pixels, whole)).info
    assert info.projection == Projection("equirectangular", (400, 200))
    assert panorama_of(info) == Panorama.whole((400, 200))
    part = xmp_of(
        ProjectionType="Equirectangular",
        FullPanoWidthPixels=1600,
        FullPanoHeightPixels=800,
        CroppedAreaLeftPixels=100,
        CroppedAreaTopPixels=200,
        CroppedAreaImageWidthPixels=800,
        CroppedAreaImageHeightPixels=400,
    )
    info = read_photo(save_panorama(tmp_path / "part.jpg", pixels, part)).info
    panorama = panorama_of(info)
    assert panorama == Panorama((1600, 800), (100, 200, 800, 400))
    # Half size: the centre of its first pixel is that of the square of two by two.
    there = panorama.to_photo(np.array([[100.5, 200.5], [899.5, 599.5]]), (400, 200))
    np.testing.assert_allclose(there, [[0, 0], [399.5, 199.5]])
    broken = save_panorama(tmp_path / "broken.jpg", pixels, b"<x:xmpmeta GPano:Projec")
    assert read_photo(broken).info.projection is None


@pytest.mark.parametrize(
    ("info", "says"),
    [
        (PhotoInfo(size=(900, 300), projection=Projection("cylindrical")), "is a cylindrical pano"),
        (info_of((900, 300)), "does not say which part"),
        (info_of((4000, 2000), (4000, 1500)), "width is not twice its height"),
        (
            info_of((800, 600), (4000, 2000)),
            "tells of a photo of 4000 x 2000 px at 0, 0; it was cut",
        ),
        (info_of((800, 600), (4000, 2000), (0.0, 1900.0, 800.0, 600.0)), "800 x 600 px at 0, 1900"),
        (info_of((800, 600), (4000, 2000), (0.0, 0.0, 8000.0, 6000.0)), "8000 x 6000 px at 0, 0"),
    ],
)
def test_tags_that_do_not_fit(info, says):
    with pytest.raises(ImageError, match=f"q.jpg: .*{says}") as caught:
        choose_camera(info, name="q.jpg")
    assert caught.value.cure


def test_what_is_given_goes_before_the_tags():
    """A camera of its own, and for a whole sphere its model alone."""
    cut = info_of((800, 600), (4000, 2000))
    assert choose_camera(cut, "f=700").camera.model_name == "SIMPLE_RADIAL"
    cylinder = PhotoInfo(size=(800, 400), projection=Projection("cylindrical"))
    assert choose_camera(cylinder, "EQUIRECTANGULAR").source == "given"
    part = info_of((800, 600), (4000, 2000), (0.0, 0.0, 1600.0, 1200.0))
    for given in ("EQUIRECTANGULAR", "EQUIRECTANGULAR,4000,2000"):
        found = choose_camera(part, given)
        assert (found.source, found.camera.width, found.camera.height) == ("xmp", 4000, 2000)


@pytest.mark.parametrize(
    "given",
    [
        "EQUIRECTANGULAR",
        "EQUIRECTANGULAR,4000,2000",
        Camera("EQUIRECTANGULAR", 4000, 2000, (4000.0, 2000.0)),
        pycolmap.Camera(model="EQUIRECTANGULAR", width=4000, height=2000, params=[4000, 2000]),
    ],
)
def test_a_given_sphere(given, tmp_path):
    found = choose_camera(PhotoInfo(size=SIZE), given)
    assert found.spherical
    assert found.camera.params.tolist() == [4000, 2000]
    with pytest.raises(ImageError, match=r"q: is 800 x 600 px, but .*EQUIRECTANGULAR,800,600"):
        choose_camera(PhotoInfo(size=(800, 600)), given, name="q")
    file = tmp_path / "cameras.txt"
    file.write_text("1 EQUIRECTANGULAR 4000 2000 4000 2000\n")
    assert choose_camera(PhotoInfo(size=SIZE), file).spherical
    assert choose_camera(PhotoInfo(size=(800, 600)), "EQUIRECTANGULAR,800,600").spherical


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("EQUIRECTANGULAR,4000", "parameters of EQUIRECTANGULAR are w,h"),
        ("EQUIRECTANGULAR,-4000,2000", "parameters of EQUIRECTANGULAR are w,h"),
        ("OPENCV,1,2,3,4", "parameters of OPENCV are fx, fy, cx, cy, k1, k2, p1, p2"),
        ("plumb_bob,1,2,3,4,5", "COLMAP calls plumb_bob OPENCV"),
        ("equidistant,1,2,3,4,5", "COLMAP calls equidistant OPENCV_FISHEYE"),
        ("MAGIC,1", "COLMAP's models are SIMPLE_PINHOLE, .*EQUIRECTANGULAR"),
        ("some/cameras.txt", "There is no file some/cameras.txt"),
    ],
)
def test_what_is_wrong_with_a_camera_is_said(given, says):
    with pytest.raises(InputError, match=f"is no camera; give .*{says}"):
        choose_camera(PhotoInfo(size=SIZE), given)


def test_shapes_of_whole_spheres():
    assert is_whole((4000, 2000))
    assert is_whole((5376, 2688))
    assert is_whole((3999, 2000))
    assert not is_whole((4000, 2250))
    assert not is_whole((800, 600))


# --- what the views see


def test_a_thing_on_the_seam_of_two_views_is_seen_once(texture):
    """Every feature is that of the view that looks closest at it, and lies where it looks."""
    from tests.helpers.fake_extractor import FakeExtractor

    photo = cv2.resize(texture((320, 160)), (800, 400), interpolation=cv2.INTER_CUBIC)
    views = PanoramaViews(photo, Panorama.whole((800, 400)), FakeExtractor())
    features = views.features(len(views), 0, map)
    assert features.image_size == (800, 400)
    rays = rays_of(features.keypoints.astype(float), (800, 400))
    owners = owners_of(rays, view_rotations())
    assert set(owners.tolist()) == set(range(len(views)))
    assert (np.diff(features.scores) <= 0).all()
    level = views.features(12, 0, map)
    assert len(level) < len(features)
    assert set(owners_of(rays_of(level.keypoints, (800, 400)), view_rotations(((0, 12),)))) == set(
        range(12)
    )
    assert views.vectors(12, (0, 90), map).shape == (24, 8)
    # A view's pixel is the panorama's size over 2 pi, over the view's focal length.
    assert views.scale == pytest.approx(800 / (2 * np.pi) / views._cutter.focal)


def test_where_a_photo_ends_nothing_is_seen(texture):
    from tests.helpers.fake_extractor import FakeExtractor

    panorama = Panorama((1600, 800), (400, 250, 800, 300))
    photo = cv2.resize(texture((320, 120)), (800, 300))
    features = PanoramaViews(photo, panorama, FakeExtractor()).features(24, 0, map)
    assert len(features) > 20
    low, high = features.keypoints.min(axis=0), features.keypoints.max(axis=0)
    assert (low > (400, 250)).all()
    assert (high < (1200, 550)).all()


def test_the_spread_counts_cells_of_views():
    """32 x 16 cells over the sphere; 64 of them are all that is wanted."""
    assert coverage_of_views(np.array([[0.0, 0.0], [124.4, 0.0]]), SIZE) == 1 / 64
    assert coverage_of_views(np.array([[0.0, 0.0], [124.6, 0.0]]), SIZE) == 2 / 64
    everywhere = np.random.default_rng(0).uniform((0, 0), SIZE, (5000, 2))
    assert coverage_of_views(everywhere, SIZE) == 1


# --- the pose

TRUE = np.c_[
    rotation_of(np.array([0.4, 1.9, -0.3])),
    rotation_of(np.array([0.4, 1.9, -0.3])) @ [-1.0, -2.0, -3.0],
]


def sphere_scene(count=200, noise=1.0, wrong=0, seed=0, span=np.pi):
    """Our pixels of a sphere of 4000 x 2000, what they show, by rays within `span` of one direction."""
    rng = np.random.default_rng(seed)
    rays = rng.normal(size=(50 * count, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    rays = rays[rays @ [0.0, 0.0, -1.0] >= np.cos(span)][:count]  # about the seam
    world = (rays * rng.uniform(5, 20, (len(rays), 1)) - TRUE[:, 3]) @ TRUE[:, :3]
    sigma = noise * 2 * np.pi / 4000
    axes = tangents(rays)
    moved = rays + np.einsum("mk,mki->mi", rng.normal(0, sigma, (len(rays), 2)), axes)
    points = pixels_of(moved, SIZE)
    points[:wrong] = rng.uniform((0, 0), SIZE, (wrong, 2))
    return points, world


@pytest.mark.parametrize("span", [np.pi, 0.4])
@pytest.mark.parametrize("wrong", [0, 120])
def test_the_pose_of_a_sphere(wrong, span):
    """All around, and in a part of the photo that lies over the seam."""
    points, world = sphere_scene(wrong=wrong, span=span)
    camera = choose_camera(PhotoInfo(size=SIZE), "EQUIRECTANGULAR")
    found = solve_sphere(points, world, camera, correlated_ratio=0.02)
    error = pose_error(found.refined.cam_from_world, TRUE)
    assert found.inliers[wrong:].mean() > 0.98
    assert found.inliers[:wrong].sum() < 6
    assert np.linalg.norm(error[:3]) < 0.15
    assert np.degrees(np.linalg.norm(error[3:])) < 0.5
    assert error @ np.linalg.solve(found.refined.covariance, error) < 17  # 99 % of chi-squared
    residuals = found.refined.residuals
    angles = ray_errors(rays_of(points, SIZE), world, found.refined.cam_from_world)
    np.testing.assert_allclose(  # pixels along the equator; tangents are little longer than arcs
        np.linalg.norm(residuals, axis=1), angles[found.inliers] * 4000 / (2 * np.pi), rtol=1e-3
    )
    again = solve_sphere(points, world, camera, correlated_ratio=0.02)
    np.testing.assert_allclose(
        again.refined.cam_from_world, found.refined.cam_from_world, atol=1e-9
    )


def test_the_covariance_is_that_of_the_noise():
    """Over forty draws of the noise; the part of independent errors alone."""
    camera = choose_camera(PhotoInfo(size=SIZE), "EQUIRECTANGULAR").camera
    values = []
    for seed in range(40):
        points, world = sphere_scene(60, noise=0.5, seed=seed)
        found = refine_sphere(rays_of(points, SIZE), world, camera, TRUE)
        error = pose_error(found.cam_from_world, TRUE)
        values.append(error @ np.linalg.solve(found.independent, error))
    assert 4.2 < np.mean(values) < 8.2  # 6, whose mean of 40 has a standard deviation of .55


def test_the_derivatives_are_those_of_the_residuals():
    points, world = sphere_scene(20)
    camera = choose_camera(PhotoInfo(size=SIZE), "EQUIRECTANGULAR").camera
    problem = SphereOptimization(rays_of(points, SIZE), world, camera, 1.0)
    state = PoseState(TRUE, camera, np.zeros(len(INTRINSICS)))
    for k in range(6):
        step = np.zeros(6)
        step[k] = 1e-6
        more = problem.residuals(problem.moved(state, step))
        less = problem.residuals(problem.moved(state, -step))
        np.testing.assert_allclose(
            problem._jacobian(state)[:, :, k], -(more - less) / 2e-6, rtol=1e-5, atol=1e-4
        )


def test_errors_of_neighbours_count_together_over_the_seam():
    points = np.array([[2.0, 999.5], [3997.0, 999.5], [2000.0, 999.5]])
    camera = choose_camera(PhotoInfo(size=SIZE), "EQUIRECTANGULAR").camera
    problem = SphereOptimization(rays_of(points, SIZE), np.ones((3, 3)), camera, 1.0)
    near = problem._smoothed(np.eye(3))
    assert near[0, 1] == pytest.approx(1, abs=1e-3)
    assert near[0, 2] < 1e-3
    angle = 0.3
    turned = np.array([[0.0, 0, 1], [np.sin(angle), 0, np.cos(angle)]])
    close = SphereOptimization(turned, np.ones((2, 3)), camera, 1.0)._smoothed(np.eye(2))
    chord = 2 * np.sin(angle / 2)
    assert close[0, 1] == pytest.approx(np.exp(-(chord**2) / (2 * 0.4**2)))


def test_the_covariance_allows_for_stitching():
    """However exact the points are: a smooth error of a tenth of a degree, much of which a pose takes
    for its own, lies within it."""
    camera = choose_camera(PhotoInfo(size=SIZE), "EQUIRECTANGULAR").camera
    values = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        points, world = sphere_scene(300, noise=0.05, seed=seed, span=0.6)
        rays = rays_of(points, SIZE)
        near = np.exp(-((rays[:, None] - rays[None]) ** 2).sum(axis=2) / (2 * 0.4**2))
        field = np.linalg.cholesky(near + 1e-6 * np.eye(len(rays))) @ rng.normal(
            size=(len(rays), 2)
        )
        bent = rays + np.radians(0.1) * np.einsum("mk,mki->mi", field, tangents(rays))
        bent /= np.linalg.norm(bent, axis=1, keepdims=True)
        found = refine_sphere(bent, world, camera, TRUE, correlated_ratio=0.02)
        error = pose_error(found.cam_from_world, TRUE)
        values.append(error @ np.linalg.solve(found.covariance, error))
    assert 2.5 < np.median(values) < 11  # 5.3


def test_too_few_points_have_no_pose():
    points, world = sphere_scene(5)
    camera = choose_camera(PhotoInfo(size=SIZE), "EQUIRECTANGULAR")
    assert solve_sphere(points, world, camera) is None
    assert solve_sphere(points[:3], world[:3], camera) is None
    assert replace(camera).spherical


# --- where it is not asked where the camera was


def test_a_query_says_that_it_looked_at_a_panorama_as_a_flat_photo(
    tmp_path, photo_factory, fake_extractor, texture
):
    for seed in range(3):
        photo_factory(tmp_path / f"photos/{seed}.png", seed=seed)
    tags = xmp_of(
        ProjectionType="equirectangular", FullPanoWidthPixels=400, FullPanoHeightPixels=200
    )
    file = save_panorama(tmp_path / "sphere.jpg", texture((400, 200), seed=9), tags)
    bare = save_panorama(tmp_path / "bare.jpg", texture((400, 200), seed=9))
    locate.build_index(tmp_path / "photos", tmp_path / "db", extractor=fake_extractor)
    with locate.open(tmp_path / "db") as db:
        answer = db.query(file)
        assert answer.verdict != "match"
        assert "it is a 360 degree photo, looked at as a flat one" in answer.reason
        assert "360" not in db.query(bare).reason
