"""Which camera took a query, what EXIF and the table of sensors say, and when a pose is believed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pycolmap
import pytest

from locate.errors import ImageError, InputError
from locate.geometry.cameras import Camera
from locate.geometry.rigid import rotation_of
from locate.images.focal_length import exif_focal, sensor_width
from locate.localization.pose import LOCALIZED, NOT_LOCALIZED, UNCERTAIN
from locate.localization.query_camera import (
    Device,
    choose_camera,
    device_of,
    plain_camera,
    unknown_camera,
)
from locate.localization.solver import fit_of, reprojection_errors, solve_pose
from locate.localization.verdict import (
    FIELD_OF_VIEW,
    INLIER_SHARE,
    MAX_POSITION,
    MAX_ROTATION,
    MAX_SECOND_BEST,
    MIN_COVERAGE,
    MIN_INLIERS,
    SURE_FACTOR,
    PoseQuality,
    coverage_of,
    judge,
    min_inliers,
)
from locate.types import PhotoInfo

SIZE = (1520, 1006)
PINHOLE = [1380.0, 1382.0, 760.0, 503.0]
BARE = PhotoInfo(size=SIZE)


def colmap(model="PINHOLE", params=PINHOLE, size=SIZE):
    return pycolmap.Camera(model=model, width=size[0], height=size[1], params=params)


# --- given


@pytest.mark.parametrize(
    "given",
    [
        colmap(),
        Camera("PINHOLE", *SIZE, tuple(PINHOLE)),
        "PINHOLE,1380,1382,760,503",
        " PINHOLE, 1380, 1382, 760, 503",
    ],
)
def test_a_given_camera_goes_before_all_others(given):
    info = replace(BARE, camera="A", focal_mm=5.0, focal_35mm=28.0)
    found = choose_camera(info, given, known={device_of(info): colmap(params=[1, 2, 3, 4])})
    assert found.source == "given"
    assert found.focal_known
    assert found.camera.model == pycolmap.CameraModelId.PINHOLE
    assert found.camera.params.tolist() == PINHOLE
    assert (found.camera.width, found.camera.height) == SIZE
    assert (found.prior.focal, found.prior.distortion, found.prior.principal) == (0, 0, 0)


def test_a_focal_length_alone():
    found = choose_camera(BARE, "f=1234.5")
    assert (found.source, found.camera.model_name) == ("given", "SIMPLE_RADIAL")
    # The middle of 1520 x 1006 pixels in COLMAP's, whose zero is the corner.
    assert found.camera.params.tolist() == [1234.5, 760.0, 503.0, 0.0]


def test_a_file_of_cameras(tmp_path):
    file = tmp_path / "cameras.txt"
    line = "7 OPENCV 1520 1006 1380 1382 760 503 -0.1 0.02 0 0\n"
    file.write_text(f"# of COLMAP\n{line}")
    found = choose_camera(BARE, file)
    assert found.camera.model_name == "OPENCV"
    assert found.camera.params.tolist() == [1380, 1382, 760, 503, -0.1, 0.02, 0, 0]
    assert choose_camera(BARE, str(file)).camera.params.tolist() == found.camera.params.tolist()
    file.write_text(line + line.replace("7", "8"))
    with pytest.raises(InputError, match=r"cameras\.txt holds 2 cameras; give a file with one"):
        choose_camera(BARE, file)
    file.write_text("7 OPENCV 1520\n")
    with pytest.raises(InputError, match=r"cameras\.txt, line 1"):
        choose_camera(BARE, file)


@pytest.mark.parametrize(
    "given", [colmap(size=(760, 503)), Camera("PINHOLE", 760, 503, tuple(PINHOLE))]
)
def test_a_camera_of_another_size(given):
    with pytest.raises(ImageError, match=r"q\.jpg: is 1520 x 1006 px, but its camera is 760 x 503"):
        choose_camera(BARE, given, name="q.jpg")


@pytest.mark.parametrize(
    "given",
    [
        "nonsense",
        "PINHOLE",
        "PINHOLE,1,2",
        "PINHOLE,1380,1382,760,x",
        "PINHOLE,nan,1382,760,503",
        "PINHOLE,-1380,-1382,760,503",
        "MAGIC,1380,1382,760,503",
        "nowhere/cameras.txt",
        "",
    ],
)
def test_text_that_is_no_camera(given):
    with pytest.raises(InputError, match="is no camera; give f=PIXELS, MODEL,PARAMS"):
        choose_camera(BARE, given)


@pytest.mark.parametrize("given", ["f=", "f=x", "f=-3", "f=0", "f=nan", "f=inf"])
def test_text_that_is_no_focal_length(given):
    with pytest.raises(InputError, match=f"positive number, got {given!r}"):
        choose_camera(BARE, given)


@pytest.mark.parametrize(
    "given",
    [
        Camera("MAGIC", *SIZE, (1.0, 2.0, 3.0)),
        Camera("PINHOLE", *SIZE, (1380.0, 1382.0)),
        Camera("PINHOLE", *SIZE, (float("nan"), 1382.0, 760.0, 503.0)),
        colmap(params=[1380.0, 1382.0]),
        colmap(params=[0.0, 0.0, 760.0, 503.0]),
    ],
)
def test_objects_that_are_no_camera(given):
    with pytest.raises(InputError, match="the camera, line 1: expected"):
        choose_camera(BARE, given)


# --- of the map, of EXIF, none


def test_the_maps_camera_of_the_same_device_at_the_same_zoom():
    info = replace(BARE, camera="Nikon D90", focal_mm=18.0, focal_35mm=27.0)
    own = colmap("SIMPLE_RADIAL", [1100.0, 755.0, 500.0, -0.1])
    known = {device_of(info): own}
    found = choose_camera(info, known=known)
    assert found.source == "map"
    assert found.camera.params.tolist() == own.params.tolist()
    assert 0 < found.prior.focal < 0.01
    for other in (
        replace(info, camera="Nikon D80"),
        replace(info, focal_mm=35.0, focal_35mm=52.0),
        replace(info, size=SIZE[::-1]),
        replace(info, orientation=3),
        replace(info, exif_size=(3040, 2012)[::-1], orientation=6),
    ):
        assert choose_camera(other, known=known).source == "exif"
    assert choose_camera(replace(info, exif_size=(3040, 2280)), known=known).source != "map"
    assert choose_camera(BARE, known=known).source == "estimated"
    assert device_of(BARE) is None
    assert device_of(replace(info, focal_mm=None, digital_zoom=2.0, orientation=6)) == Device(
        "Nikon D90", None, 27.0, 2.0, SIZE, 6
    )


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000)])
def test_the_focal_length_of_exif(size):
    """The long side of the photo is that of the film, or of the sensor."""
    film = PhotoInfo(size=size, camera="A", focal_mm=4.2, focal_35mm=27.0)
    assert exif_focal(film).pixels == pytest.approx(27 / 36 * 4000)
    table = PhotoInfo(size=size, camera="NIKON CORPORATION NIKON D90", focal_mm=18.0)
    assert exif_focal(table).pixels == pytest.approx(
        18 / 23.5 * 4000, rel=0.01
    )  # of 23.6 x 15.8 mm
    for silent in (
        PhotoInfo(size=size),
        PhotoInfo(size=size, camera="A", focal_mm=4.2),
        PhotoInfo(size=size, camera="NIKON D90"),
    ):
        assert exif_focal(silent) is None
    found = choose_camera(film)
    assert (found.source, found.camera.params.tolist()) == (
        "exif", [3000.0, 3000.0, size[0] / 2, size[1] / 2, 0.0, 0.0, 0.0, 0.0]
    )  # fmt: skip
    assert found.prior.focal > 0.01
    none = choose_camera(PhotoInfo(size=size))
    assert (none.source, none.focal_known) == ("estimated", False)
    assert none.prior.focal >= 1
    plain = plain_camera(none.camera, none.source)
    assert (plain.model, plain.width, plain.height) == ("OPENCV", *size)


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("Canon EOS 5D Mark III", 36.0),
        ("Canon EOS 50D", 22.3),
        ("Canon EOS-1D X", 36.0),
        ("Canon EOS-1D Mark IV", 27.9),
        ("Canon EOS R", 36.0),
        ("Canon EOS R5", 36.0),
        ("Canon EOS R6m2", 36.0),
        ("Canon EOS R50", 22.3),
        ("Canon EOS R10", 22.3),
        ("Canon EOS REBEL T3i", 22.3),
        ("Canon PowerShot G1 X", 18.7),
        ("Canon PowerShot G1 X Mark III", 22.3),
        ("Canon PowerShot G7 X Mark II", 13.2),
        ("Canon PowerShot G10", 7.44),
        ("NIKON CORPORATION NIKON D850", 35.9),
        ("NIKON CORPORATION NIKON D7000", 23.6),
        ("NIKON CORPORATION NIKON D300", 23.6),
        ("NIKON CORPORATION NIKON Z 6_2", 35.9),
        ("NIKON CORPORATION NIKON Z 50", 23.5),
        ("NIKON CORPORATION NIKON Z fc", 23.5),
        ("SONY ILCE-7M3", 35.8),
        ("SONY ILCE-6000", 23.5),
        ("SONY ILME-FX3", 35.8),
        ("SONY ILME-FX30", 23.3),
        ("SONY DSC-RX100M3", 13.2),
        ("SONY DSC-RX1R", 35.8),
        ("FUJIFILM X-T3", 23.5),
        ("OLYMPUS IMAGING CORP. E-M5", 17.3),
        ("Panasonic DMC-GH4", 17.3),
        ("PENTAX K-1", 35.9),
        ("PENTAX K10D", 23.5),
        ("DJI FC6310", 13.2),
        ("GoPro HERO4 Black", 6.17),
        ("RaspberryPi imx477", 6.287),
        ("Apple iPhone 12", None),
        ("NIKON COOLPIX P900", None),
        (None, None),
    ],
)
def test_widths_of_sensors(name, width):
    """By the data sheets of their makers; a per cent hardly matters."""
    assert sensor_width(name) == (None if width is None else pytest.approx(width, rel=0.015))


# --- the pose by a camera


def scene(camera, count=120, noise=0.5, wrong=30, seed=0):
    """Points in our pixels, what they show, and the true pose; the first `wrong` are outliers."""
    rng = np.random.default_rng(seed)
    rotation = rotation_of(np.array([0.2, -0.5, 0.1]))
    pose = np.c_[rotation, [0.3, -0.4, 1.0]]
    pixels = rng.uniform((0, 0), SIZE, (count, 2))
    seen = np.c_[np.asarray(camera.cam_from_img(pixels)), np.ones(count)]
    world = (seen * rng.uniform(4, 12, (count, 1)) - pose[:, 3]) @ rotation
    pixels[:wrong] = rng.uniform((0, 0), SIZE, (wrong, 2))
    return pixels - 0.5 + rng.normal(0, noise, pixels.shape), world, pose


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.0, 1.02, 1.3, 2.0])
def test_a_focal_length_of_exif_is_held_or_overruled(factor):
    true = colmap("SIMPLE_RADIAL", [1400.0, 760.0, 503.0, 0.0])
    points, world, pose = scene(true)
    film = 1400.0 * factor * 36 / 1520
    told = choose_camera(replace(BARE, focal_35mm=film))
    found = solve_pose(points, world, told)
    close = abs(factor - 1) < 0.05
    assert found.camera.source == ("exif" if close else "estimated")
    assert found.camera.camera.params[0] == pytest.approx(1400, rel=0.02)
    assert not found.inliers[:30].sum() > 3
    assert found.inliers[30:].all()
    np.testing.assert_allclose(found.refined.cam_from_world, pose, atol=0.1)
    given = solve_pose(points, world, choose_camera(BARE, f"f={1400 * factor}"))
    assert given is None or given.camera.source == "given"  # what is given is never overruled


def test_reprojection_errors_by_hand():
    camera = colmap()
    pose = np.c_[np.eye(3), [0.0, 0.0, 0.0]]
    world = np.array([[1.0, 2.0, 10.0], [1.0, 2.0, -10.0]])
    here = np.array([1380 * 0.1 + 760, 1382 * 0.2 + 503])  # COLMAP's pixels
    found = reprojection_errors(np.array([here + np.array([3, 4])] * 2), world, camera, pose)
    assert found.tolist() == [pytest.approx(5), np.inf]


def test_too_few_matches_have_no_pose():
    points, world, _ = scene(colmap(), 5, wrong=0)
    assert solve_pose(points, world, choose_camera(BARE, "f=1400")) is None
    assert solve_pose(points[:3], world[:3], unknown_camera(SIZE)) is None


# --- the verdict

SURE_POSE = PoseQuality(400, 300, 0.5, 0.001, 0.05, 60.0)


def test_a_sure_pose_is_localized():
    assert judge(SURE_POSE) == (LOCALIZED, "300 of 400 2D-3D matches agree with one pose")


@pytest.mark.parametrize(
    ("change", "verdict", "says"),
    [
        ({"inliers": 15}, NOT_LOCALIZED, "15 of 400 2D-3D matches agree with one pose; 16 are"),
        ({"inliers": 16}, UNCERTAIN, "22 would be sure"),
        ({"coverage": 2 / 64}, UNCERTAIN, "they lie in 2 of 64 parts"),
        ({"second_best": 290}, UNCERTAIN, "290 agree with a pose at another place"),
        ({"position": 0.25}, UNCERTAIN, "unknown by 25 % of the distance"),
        ({"rotation": 3.14}, UNCERTAIN, "unknown by 3.1 degrees"),
        ({"field_of_view": 5.0}, UNCERTAIN, "would see 5 degrees; give it by --camera"),
        ({"field_of_view": 170.0}, UNCERTAIN, "would see 170 degrees"),
    ],
)
def test_each_doubt_has_its_reason(change, verdict, says):
    found, reason = judge(replace(SURE_POSE, **change))
    assert found == verdict
    assert says in reason


def test_where_the_thresholds_are():
    order = (NOT_LOCALIZED, UNCERTAIN, LOCALIZED)
    ranks = [order.index(judge(replace(SURE_POSE, inliers=n))[0]) for n in range(401)]
    assert ranks == sorted(ranks)  # more inliers never hurt
    assert set(ranks) == {0, 1, 2}
    assert ranks.index(1) == np.ceil(MIN_INLIERS + INLIER_SHARE * 400)
    assert ranks.index(2) == np.ceil(SURE_FACTOR * min_inliers(400))
    for name, limit, wrong in (
        ("coverage", MIN_COVERAGE, -1e-9),
        ("position", MAX_POSITION, 1e-9),
        ("rotation", MAX_ROTATION, 1e-9),
        ("field_of_view", FIELD_OF_VIEW[0], -1e-9),
        ("field_of_view", FIELD_OF_VIEW[1], 1e-9),
    ):
        assert judge(replace(SURE_POSE, **{name: limit}))[0] == LOCALIZED
        assert judge(replace(SURE_POSE, **{name: limit + wrong}))[0] == UNCERTAIN
    rivals = [judge(replace(SURE_POSE, second_best=n))[0] == LOCALIZED for n in range(301)]
    assert rivals == [n <= MAX_SECOND_BEST * 300 for n in range(301)]
    assert min_inliers(0) < min_inliers(100) < min_inliers(10_000)


def test_the_spread_by_hand():
    size = (800, 400)  # cells of 100 x 50 pixels
    assert coverage_of(np.zeros((0, 2)), size) == 0
    corners = np.array([[-0.5, -0.5], [799.5, -0.5], [-0.5, 399.5], [799.5, 399.5]])
    assert coverage_of(corners, size) == 4 / 64
    # The border of the first two cells lies between the pixels 99 and 100, at 99.5; y has its own.
    assert coverage_of(np.array([[0.0, 10.0], [99.4, 10.0]]), size) == 1 / 64
    assert coverage_of(np.array([[99.4, 10.0], [99.6, 10.0]]), size) == 2 / 64
    assert coverage_of(np.array([[10.0, 49.4], [10.0, 49.6]]), size) == 2 / 64
    everywhere = np.stack(np.meshgrid(np.arange(800), np.arange(400)), axis=-1).reshape(-1, 2)
    assert coverage_of(everywhere, size) == 1


def test_few_exact_matches_count_more_than_many_that_are_off():
    """1 for an exact match, 0 at 8 pixels; by the loss log(1 + e^2)."""
    assert fit_of(np.zeros(5)) == pytest.approx(5)
    assert fit_of(np.array([8.0, 100.0, np.inf])) == pytest.approx(0)
    assert fit_of(np.array([1.0])) == pytest.approx(1 - np.log(2) / np.log(65))
    assert fit_of(np.full(20, 0.3)) > fit_of(np.full(40, 4.0))
