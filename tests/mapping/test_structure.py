"""What proves the structure of a map. Views are made here by hand: x = f (k r^2 + 1) X / Z + c."""

from __future__ import annotations

import cv2
import numpy as np
import pycolmap
import pytest
from PIL import Image

from locate.errors import InputError
from locate.formats.colmap import add_views, write_model
from locate.mapping.focal_lengths import focal_doubt, focal_sigmas
from locate.mapping.structure import examine, nothing_moved
from locate.mapping.two_views import View, fit_plane, turned_only
from pipelines.mapping.build import build_map
from pipelines.mapping.import_model import import_map

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


# --- focal lengths


def by_hand(model, noise):
    """Relative standard errors of the focal lengths: the covariance of all parameters at once, poses,
    lenses and points, from numeric derivatives of `projected`; the world's frame by pseudo-inverse."""
    images = [model.images[i] for i in sorted(model.images)]
    points = np.array([model.points3D[i].xyz for i in sorted(model.points3D)])
    seen = {
        (k, e.image_id - 1)
        for k, i in enumerate(sorted(model.points3D))
        for e in model.points3D[i].track.elements
    }
    rotations = [image.cam_from_world().matrix()[:, :3] for image in images]
    centres = [image.projection_center() for image in images]
    focals, bends = np.array([image.camera.params[[0, 3]] for image in images]).T
    n = len(images)

    def residuals(values):
        views, moved = values[: 8 * n].reshape(n, 8), points + values[8 * n :].reshape(-1, 3)
        out = []
        for i, (turned, shift, lens) in enumerate(
            zip(views[:, :3], views[:, 3:6], views[:, 6:], strict=True)
        ):
            rotation = cv2.Rodrigues(turned)[0] @ rotations[i]
            focal, bend = focals[i] * np.exp(lens[0]), bends[i] + lens[1]
            pixels = projected(moved, rotation, centres[i] + shift, focal, bend)
            out += [pixels[k] for k in range(len(points)) if (k, i) in seen]
        return np.concatenate(out)

    steps = 1e-5 * np.eye(8 * n + points.size)
    jacobian = np.stack([(residuals(s) - residuals(-s)) / 2e-5 for s in steps], axis=1)
    information = jacobian.T @ jacobian / noise**2
    for i in range(n):  # what is believed of lenses before any photo
        information[8 * i + 6, 8 * i + 6] += 1
        information[8 * i + 7, 8 * i + 7] += 0.1**-2
    covariance = np.linalg.pinv(information, rcond=1e-13, hermitian=True)
    return np.sqrt(np.diag(covariance)[6 : 8 * n : 8])


def around(count=5):
    """Poses on an arc around the cloud, looking at its middle."""
    angles = np.linspace(-50, 50, count)
    middle = np.array([0, 0, 8.0])
    rotations = [turn(y=a) for a in angles]
    return rotations, [middle - r.T @ (0, 0, 9.0) for r in rotations]


@pytest.mark.parametrize("kind", ["around", "sideways"])
def test_the_errors_of_focal_lengths_against_all_parameters_at_once(kind):
    sideways = [turn()] * 4, [(x, 0, 0) for x in (0, 0.7, -0.8, 1.5)]
    rotations, centres = around(4) if kind == "around" else sideways
    model = model_of(cloud(40), rotations, centres, noise=0.3)
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    pycolmap.bundle_adjustment(model, options)  # residuals are those of what was fitted
    ours = [focal_sigmas(model)[model.images[i].camera_id] for i in sorted(model.images)]
    np.testing.assert_allclose(ours, by_hand(model, 0.3), rtol=0.3)


def test_cameras_that_only_moved_sideways_leave_the_focal_length_open():
    """As from the window of a train: twice as deep a scene fits as well."""
    sideways = model_of(cloud(), [turn()] * 5, [(x, 0.01 * x, 0) for x in np.arange(5.0)])
    assert judged(sideways).doubt is None  # that they moved is proven
    assert "the focal lengths are" in focal_doubt(sideways)
    assert focal_doubt(sideways, set(sideways.cameras)) is None  # they are known
    assert focal_doubt(model_of(cloud(), *around())) is None


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
    """Views of a picture far away, from one spot, by a camera wider than the one that is guessed."""
    far = np.linalg.inv(camera_matrix(605, (960, 720)))
    turns = [turn(), turn(y=12), turn(y=-12), turn(x=8), turn(-8, 6, 4)]
    moved = [camera_matrix(224) @ rotation @ far for rotation in turns]
    pictures(tmp_path / "p", moved, texture((960, 720), seed=4))
    with pytest.raises(InputError, match=r"photos seem to be taken from one spot.*move sideways"):
        build_map(tmp_path / "map", images=tmp_path / "p", extractor="sift", workers=1)
    assert not (tmp_path / "map" / "model").exists()


def test_poses_that_part_photos_from_one_spot_by_nothing_make_no_map(texture, tmp_path):
    """Given right but for some jitter: rays meet nowhere, and the reason is told."""
    far, turns = np.linalg.inv(camera_matrix(600, (640, 480))), [turn(), turn(y=6), turn(x=5)]
    pictures(tmp_path / "p", [camera_matrix(300) @ r @ far for r in turns], texture((640, 480)))
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=320, height=240, params=[300, 160, 120])
    poses = {f"{i}.jpg": np.c_[r, (1e-3 * i, 0, 0)] for i, r in enumerate(turns)}
    write_model(tmp_path / "m", poses, dict.fromkeys(poses, camera))
    with pytest.raises(
        InputError, match=r"points can be triangulated: all 3 photos seem to be taken"
    ):
        import_map(tmp_path / "m", tmp_path / "p", tmp_path / "map", extractor="sift", workers=1)
