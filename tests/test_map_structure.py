"""What proves the structure of a map. Views are made here by hand: x = f (k r^2 + 1) X / Z + c."""

from __future__ import annotations

import cv2
import numpy as np
import pycolmap
import pytest
from PIL import Image

from locate.errors import InputError
from pipelines.map_build import build_map
from pipelines.map_structure import examine, nothing_moved
from pipelines.pose_models import add_views
from pipelines.two_views import View, fit_plane, turned_only

SIZE = (800, 600)


def turn(x=0.0, y=0.0, z=0.0):
    """Degrees about the camera's axes."""
    return cv2.Rodrigues(np.radians([x, y, z]))[0]


def projected(points, rotation, centre, focal=700.0, bend=0.0):
    """Pixels by COLMAP's SIMPLE_RADIAL."""
    x, y, z = rotation @ (points - centre).T
    u, v = x / z, y / z
    radial = 1 + bend * (u * u + v * v)
    return np.c_[focal * radial * u + 400, focal * radial * v + 300]


def cloud(count=200, depths=(5.0, 12.0), seed=0):
    rng = np.random.default_rng(seed)
    z = rng.uniform(*depths, count)
    return np.c_[rng.uniform(-0.3, 0.3, (count, 2)) * z[:, None], z]


def plane(count=200, relief=0.0, seed=0):
    points = cloud(count, seed=seed)
    points[:, 2] = 8 + 0.3 * points[:, 0] + relief * np.random.default_rng(9).normal(size=count)
    return points


TURNS = [turn(), turn(y=8), turn(y=-9), turn(x=6), turn(-5, 4, 3)]
STEPS = [(0, 0, 0), (1, 0, 0), (-1, 0.2, 0), (0.1, 0.8, 0), (0.7, -0.6, 0.3)]


def model_of(points, rotations, centres, noise=0.3, own_cameras=True, believed=None, **lens):
    """A model in which all is as it is, and each photo sees the points within it.

    Args:
        believed: the focal length that the model has.
    """
    rng, views, seen = np.random.default_rng(3), [], []
    for i, (rotation, centre) in enumerate(zip(rotations, np.array(centres, float), strict=True)):
        pixels = projected(points, rotation, centre, **lens)
        pixels = pixels + rng.normal(0, noise, pixels.shape)
        seen.append(((pixels >= 0) & (pixels < SIZE)).all(axis=1))
        focal = (believed or lens.get("focal", 700.0)) + 1e-3 * i * own_cameras
        camera = pycolmap.Camera(
            model="SIMPLE_RADIAL",
            width=800,
            height=600,
            params=[focal, 400, 300, lens.get("bend", 0.0)],
        )
        views.append((f"{i}.jpg", camera, np.c_[rotation, -rotation @ centre], pixels))
    model = pycolmap.Reconstruction()
    add_views(model, views)
    for k, point in enumerate(points):
        track = pycolmap.Track()
        for i in np.flatnonzero([mask[k] for mask in seen]):
            track.add_element(int(i) + 1, k)
        if track.length() > 1:
            model.add_point3D(point, track)
    return model


def judged(model, calibrated=False, **options):
    ids = sorted(model.images)
    pairs = [(i, j) for i in ids for j in ids if i < j]
    known = set(model.cameras) if calibrated else ()
    return examine(model, pairs, scale=1.0, calibrated=known, **options)


def counts(structure):
    return len(structure.proven), len(structure.weak), len(structure.flat)


# --- two views


def test_a_homography_is_found_with_its_lens():
    """Noise-free points of a turned camera: each residual is nothing, the matrix that of theory."""
    points = cloud()
    rotation = turn(4, -7, 3)
    for bend in (0.0, -0.25, 0.1):
        a = projected(points, np.eye(3), np.zeros(3), bend=bend)
        b = projected(points, rotation, np.zeros(3), bend=bend)
        views = [View(xy, SIZE, 700.0) for xy in (a, b)]
        found = fit_plane(*views, tolerance=4.0, one_lens=True)
        # The division model is not COLMAP's polynomial: what remains at the corners.
        assert np.quantile(found.residuals, 0.95) < (1e-3 if bend == 0 else 1.0)
        if bend == 0:
            k = np.diag([700 / 500, 700 / 500, 1])  # the half diagonal is 500
            truth = k @ rotation @ np.linalg.inv(k)
            np.testing.assert_allclose(found.matrix, truth / truth[2, 2], atol=1e-5)
        assert np.median(turned_only(*views, found, freedom=2.0, one_lens=True)) < 0.5


@pytest.mark.parametrize("focal", [420.0, 700.0, 1300.0])
def test_a_turn_is_known_whatever_focal_length_is_believed(focal):
    a, b = (projected(cloud(), r, np.zeros(3)) for r in (np.eye(3), turn(3, -8, 4)))
    views = [View(xy, SIZE, focal) for xy in (a, b)]
    found = fit_plane(*views, tolerance=4.0, one_lens=False)
    assert turned_only(*views, found, freedom=2.0, one_lens=False).max() < 0.05


def test_a_step_before_a_plane_is_no_turn():
    points = plane(400)
    a = projected(points, np.eye(3), np.zeros(3))
    b = projected(points, turn(y=12), np.array([-2.0, 0.3, 0.5]))
    views = [View(xy, SIZE, 700.0) for xy in (a, b)]
    found = fit_plane(*views, tolerance=4.0, one_lens=True)
    assert found.residuals.max() < 1e-3
    assert (turned_only(*views, found, freedom=2.0, one_lens=True) > 4).mean() > 0.3


# --- models


def test_photos_that_moved_are_proven():
    structure = judged(model_of(cloud(), TURNS, STEPS))
    assert counts(structure) == (5, 0, 0)
    assert (structure.nothing, structure.doubt, structure.left_out) == (False, None, {})


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("lens", [{}, {"bend": -0.2}, {"focal": 450.0}, {"believed": 960.0}])
def test_photos_from_one_spot_prove_nothing(lens, calibrated):
    structure = judged(model_of(cloud(), TURNS, np.zeros((5, 3)), **lens), calibrated)
    assert structure.nothing
    assert structure.turned == 1
    assert "from one spot" in nothing_moved(5, structure.turned)


def test_a_plane_needs_a_focal_length():
    model = model_of(
        plane(400), [turn(), turn(y=12), turn(y=-12)], [(0, 0, 0), (-2, 0, 0), (2, 1, 0)]
    )
    unknown = judged(model)
    assert unknown.nothing
    assert unknown.turned < 0.5
    assert "flat, and their focal lengths are not known" in nothing_moved(3, unknown.turned)
    known = judged(model, calibrated=True)
    assert counts(known) == (3, 0, 0)


def test_hardly_any_depth_is_uncertain():
    steps = [(0, 0, 0), (1, 0, 0), (-1, 0.5, 0)]
    structure = judged(model_of(plane(400, relief=0.06), [np.eye(3)] * 3, steps, noise=0.1))
    assert counts(structure) == (0, 3, 0)
    assert not structure.nothing
    assert "3 of its 3 photos show hardly any depth" in structure.doubt
    assert structure.left_out == {}


def test_a_turned_photo_among_moved_ones_is_fixed_by_what_others_see():
    rotations, centres = [*TURNS, turn(y=3)], [*STEPS, STEPS[1]]
    assert counts(judged(model_of(cloud(), rotations, centres))) == (6, 0, 0)


def test_a_panorama_that_leads_away_from_moved_photos_is_left_out():
    """Photos 1 to 5 moved and see the cloud before them; 6 to 8 turn on the spot of photo 1 until they
    see nothing but what each other sees."""
    around = np.concatenate([cloud(150, seed=s) @ turn(y=40 * s) for s in range(4)])
    rotations = [*TURNS, turn(y=75), turn(y=100), turn(y=120)]
    centres = [*STEPS, *[STEPS[0]] * 3]
    structure = judged(model_of(around, rotations, centres))
    assert counts(structure) == (5, 0, 3)
    assert set(structure.left_out) == {6, 7, 8}
    assert "turning the camera on the spot" in structure.left_out[6]
    # The same photos, put into a map of the first five.
    assert judged(model_of(around, rotations, centres), fixed={1, 2, 3, 4, 5}).flat == {6, 7, 8}


def test_pairs_of_few_points_tell_nothing():
    structure = judged(model_of(cloud(12), TURNS, np.zeros((5, 3))))
    assert counts(structure) == (5, 0, 0)
    assert not structure.nothing


def test_stray_matches_prove_nothing():
    """Three of a hundred points that do not agree are no depth."""
    points = cloud(300)
    model = model_of(points, TURNS, np.zeros((5, 3)))
    rng = np.random.default_rng(5)
    for image in model.images.values():
        for k in rng.choice(300, 4, replace=False):
            image.points2D[int(k)].xy = image.points2D[int(k)].xy + rng.uniform(-60, 60, 2)
    assert judged(model).nothing


# --- maps


def pictures(folder, homographies, source):
    """Photos of one picture, moved by homographies of pixels."""
    folder.mkdir()
    for i, matrix in enumerate(homographies):
        moved = cv2.warpPerspective(source, matrix, (320, 240), flags=cv2.INTER_AREA)
        Image.fromarray(moved).save(folder / f"{i}.jpg", quality=95)


def camera_matrix(focal, size=(320, 240)):
    return np.array([[focal, 0, size[0] / 2 - 0.5], [0, focal, size[1] / 2 - 0.5], [0, 0, 1]])


def test_a_panorama_makes_no_map(texture, tmp_path):
    """Views of a picture far away, from one spot, with a focal length of 300 px: no EXIF."""
    far = np.linalg.inv(camera_matrix(600, (640, 480)))
    turned = [camera_matrix(300) @ r @ far for r in TURNS[:4]]
    pictures(tmp_path / "p", turned, texture((640, 480), seed=4))
    with pytest.raises(InputError, match=r"4 photos seem to be taken from one spot.*move sideways"):
        build_map(tmp_path / "map", images=tmp_path / "p", extractor="sift", workers=1)
    assert not (tmp_path / "map" / "model").exists()
