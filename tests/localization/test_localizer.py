"""Localization in a map of the rendered town, whose cameras are exact."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import locate
from locate.errors import DatabaseMismatchError, ImageError, InputError
from locate.extractors.sift import Sift
from locate.geometry.cameras import Camera
from locate.localization.gravity import GravityPrior
from locate.localization.pose import LOCALIZED, NOT_LOCALIZED, UNCERTAIN, Pose, PosePrior
from locate.types import Extraction
from pipelines.localization.localizer import Localizer
from pipelines.mapping.import_model import import_map
from tests.helpers.small_town import errors, nees, queries_of, same, small_town

EXIF_IFD, FOCAL_MM, FOCAL_35MM, MODEL = 0x8769, 0x920A, 0xA405, 0x0110
UPRIGHT = ("church", "town-hall")
SEEN = (*UPRIGHT, "town-hall-turned")
CHI_SQUARED = 20.0  # of six degrees of freedom, 99.7 % lie below


@pytest.fixture(scope="module")
def town_and_map(tmp_path_factory):
    return small_town(tmp_path_factory)


@pytest.fixture(scope="module")
def queries(town_and_map):
    return queries_of(town_and_map[0])


@pytest.fixture(scope="module")
def elsewhere(town_and_map):
    """Photos of two buildings that no photo of the map was taken of."""
    return sorted((town_and_map[0].root / "queries").glob("elsewhere-*.jpg"))


@pytest.fixture(scope="module")
def localizer(town_and_map):
    with Localizer(town_and_map[1], workers=1) as made:
        yield made


@pytest.fixture(scope="module")
def given(localizer, queries):
    """The poses of the queries by their true cameras."""
    return {name: localizer.localize(q.path, q.camera) for name, q in queries.items()}


def pixels_of(path):
    return np.array(Image.open(path))


def write_lying(path, out, factor):
    """A copy whose EXIF names another device and a focal length `factor` times the true one."""
    with Image.open(path) as image:
        exif = image.getexif()
        detail = exif.get_ifd(EXIF_IFD)
        exif[MODEL] = "another camera"
        detail[FOCAL_35MM] = round(detail[FOCAL_35MM] * factor)
        image.save(out, exif=exif)
    return out


# --- poses


@pytest.mark.parametrize("name", SEEN)
def test_the_true_camera_gives_the_true_pose(name, queries, given):
    pose = given[name]
    assert pose.verdict == LOCALIZED
    share, degrees = errors(pose, queries[name].truth)
    assert share < 0.005
    assert degrees < 0.1
    assert pose.camera.source == "given"
    assert list(pose.camera.params) == queries[name].camera.params.tolist()
    assert pose.photo == queries[name].path


@pytest.mark.parametrize(
    ("name", "source"), [("church", "map"), ("town-hall", "map"), ("town-hall-turned", "exif")]
)
def test_exif_gives_the_camera(name, source, localizer, queries):
    """The map has photos of the same device; the turned one is of another size."""
    pose = localizer.localize(queries[name].path)
    share, degrees = errors(pose, queries[name].truth)
    assert (pose.verdict, pose.camera.source) == (LOCALIZED, source)
    assert pose.camera.params[0] == pytest.approx(queries[name].camera.params[0], rel=0.01)
    assert share < 0.01
    assert degrees < 0.2
    assert nees(pose, queries[name].truth) < CHI_SQUARED


@pytest.mark.parametrize("name", SEEN)
def test_without_exif_the_focal_length_is_found(name, localizer, queries, tmp_path):
    Image.fromarray(pixels_of(queries[name].path)).save(tmp_path / "bare.png")
    pose = localizer.localize(tmp_path / "bare.png")
    assert (pose.verdict, pose.camera.source) == (LOCALIZED, "estimated")
    assert pose.camera.model == "OPENCV"
    assert pose.camera.params[0] == pytest.approx(queries[name].camera.params[0], rel=0.03)
    share, degrees = errors(pose, queries[name].truth)
    assert share < 0.03
    assert degrees < 0.5
    assert nees(pose, queries[name].truth) < CHI_SQUARED


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("name", UPRIGHT)
def test_exif_that_lies_is_overruled(name, factor, localizer, queries, tmp_path):
    photo = write_lying(queries[name].path, tmp_path / "lie.png", factor)
    pose = localizer.localize(photo)
    assert (pose.verdict, pose.camera.source) == (LOCALIZED, "estimated")
    assert pose.camera.params[0] == pytest.approx(queries[name].camera.params[0], rel=0.03)
    assert nees(pose, queries[name].truth) < CHI_SQUARED
    told = localizer.localize(write_lying(queries[name].path, tmp_path / "true.png", 1.0))
    assert told.camera.source == "exif"


def test_pixels_are_as_good_as_a_file(localizer, queries, given):
    query = queries["church"]
    pose = localizer.localize(pixels_of(query.path), query.camera)
    assert pose.photo is None
    assert same(pose, given["church"])


def test_the_same_photo_and_seed_give_the_same_pose(town_and_map, localizer, queries, given):
    query = queries["church"]
    assert same(localizer.localize(query.path, query.camera), given["church"])
    with Localizer(town_and_map[1], workers=3) as other:
        assert same(other.localize(str(query.path), query.camera), given["church"])
        first, again = (other.localize(pixels_of(query.path), seed=1) for _ in range(2))
        assert same(first, again)


def test_the_covariance_is_one_and_the_errors_are_like_it(queries, given):
    values = []
    for name, pose in given.items():
        np.testing.assert_allclose(pose.covariance, pose.covariance.T, rtol=0, atol=1e-18)
        assert np.linalg.eigvalsh(pose.covariance)[0] > 0
        values.append(nees(pose, queries[name].truth))
    assert len(values) == 3
    assert np.mean(values) < CHI_SQUARED
    assert min(values) > 0.2  # covariances that say nothing would be as wrong


def test_points_are_where_the_pose_sees_them(given, localizer, queries):
    for name, pose in given.items():
        f, cx, cy = pose.camera.params
        seen = pose.world_points @ pose.cam_from_world[:, :3].T + pose.cam_from_world[:, 3]
        here = f * seen[:, :2] / seen[:, 2:] + (cx - 0.5, cy - 0.5)  # centres of pixels at integers
        apart = pose.points - here
        assert np.linalg.norm(apart, axis=1).max() <= 8
        assert np.abs(np.median(apart, axis=0)).max() < 0.1  # half a pixel would show
        assert np.sqrt((apart**2).sum(axis=1).mean()) == pytest.approx(pose.error, rel=1e-6)
        # SIFT may see two features in one spot, and one feature may see two points.
        assert len(np.unique(pose.points, axis=0)) <= pose.inliers <= len(pose.points)
        assert pose.inliers <= pose.matches
        known = {tuple(point) for point in localizer.map.points}
        assert all(tuple(point) in known for point in pose.world_points)
        landmark = name.removesuffix("-turned")
        assert pose.images
        assert all(image.startswith(f"{landmark}/") for image in pose.images[:3])
        assert len(set(pose.images)) == len(pose.images) <= 10


class _Sideways:
    """SIFT that recognises nothing in photos that are taller than wide, as if it were no good at turned
    ones."""

    max_side = 1024

    def __init__(self) -> None:
        self._sift = Sift()
        self.info = replace(self._sift.info, rotation_invariant=False)

    def extract(self, pixels, size=None, *, local=True):
        seen = self._sift.extract(pixels, size)
        if pixels.shape[0] < pixels.shape[1]:
            return seen
        noise = np.random.default_rng(0).normal(size=seen.features.descriptors.shape)
        noise = (noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(np.float32)
        return Extraction(replace(seen.features, descriptors=noise), None)


def test_a_turned_photo_is_tried_the_other_ways(town_and_map, queries, monkeypatch):
    query = queries["town-hall-turned"]
    with Localizer(town_and_map[1], workers=1) as localizer:
        monkeypatch.setattr(localizer._matcher, "_extractor", _Sideways())
        pose = localizer.localize(query.path, query.camera)
    share, degrees = errors(pose, query.truth)
    assert pose.verdict == LOCALIZED
    assert share < 0.005
    assert degrees < 0.1
    assert pose.points[:, 0].max() < 480  # in the photo as it is
    assert pose.points[:, 1].max() > 480


# --- what is not there


def test_another_place_and_noise_are_not_localized(localizer, elsewhere):
    assert len(elsewhere) == 2
    noise = [
        np.random.default_rng(seed).integers(0, 256, (240, 320, 3), dtype=np.uint8)
        for seed in range(2)
    ]
    for photo in [*elsewhere, *noise]:
        pose = localizer.localize(photo)
        assert (pose.verdict, pose.cam_from_world, pose.covariance) == (NOT_LOCALIZED, None, None)
        assert "11" in pose.reason  # inliers that are needed
        assert (pose.camera, pose.images, len(pose.points)) == (None, (), 0)
    plain = localizer.localize(np.full((240, 320, 3), 90, np.uint8))
    assert plain.verdict == NOT_LOCALIZED
    assert "no features" in plain.reason


def test_excluded_images_are_not_used(localizer, queries, given):
    query = queries["church"]
    best = given["church"].images[0]
    pose = localizer.localize(query.path, query.camera, exclude=lambda name: name == best)
    assert pose.verdict == LOCALIZED
    assert not same(pose, given["church"])
    gone = localizer.localize(query.path, exclude=lambda name: name.startswith("church"))
    assert gone.verdict == NOT_LOCALIZED
    nothing = localizer.localize(query.path, exclude=lambda name: True)
    assert (nothing.verdict, "excluded" in nothing.reason) == (NOT_LOCALIZED, True)


def test_a_prior_narrows_the_candidates(localizer, queries, given):
    query = queries["church"]
    centre = -query.truth[:, :3].T @ query.truth[:, 3]
    axis = query.truth[2, :3]  # the last row of R
    right = localizer.localize(query.path, query.camera, prior=PosePrior(centre, axis, 40.0))
    assert right.verdict == LOCALIZED
    assert errors(right, query.truth)[0] < 0.005
    assert all(name.startswith("church/") for name in right.images)
    hall = queries["town-hall"].truth
    other = -hall[:, :3].T @ hall[:, 3]
    wrong = localizer.localize(query.path, query.camera, prior=PosePrior(other, radius=40.0))
    assert wrong.verdict == NOT_LOCALIZED  # matched with the town hall alone
    far = localizer.localize(query.path, prior=PosePrior(centre + 1e4, radius=100.0))
    assert (far.verdict, far.reason) == (
        NOT_LOCALIZED,
        "no image of the map is near the prior pose",
    )
    behind = localizer.localize(query.path, prior=PosePrior(centre, -axis, 40.0, 30.0))
    assert "near the prior pose" in behind.reason


def test_near_and_clusters_by_hand(localizer):
    map_ = localizer.map
    names = [image.name for image in map_.images]
    centres = np.array([
        -m[:, :3].T @ m[:, 3]
        for m in (map_.model.find_image_with_name(n).cam_from_world().matrix() for n in names)
    ])  # fmt: skip
    np.testing.assert_allclose(map_.centers, centres)
    distance = np.linalg.norm(centres - centres[2], axis=1)
    radius = np.sort(distance)[3] + 1e-6
    assert sorted(map_.near(centres[2], None, radius, 60)) == sorted(np.argsort(distance)[:4])
    cosines = map_.directions @ map_.directions[2]
    wide = np.flatnonzero(cosines >= np.cos(np.radians(20)))
    assert map_.near(centres[2], map_.directions[2], np.inf, 20).tolist() == wide.tolist()
    assert 0 < len(wide) < len(names)
    groups = map_.clusters(range(len(names)))
    assert {tuple(sorted({names[i].split("/")[0] for i in group})) for group in groups} == {
        ("church",), ("town-hall",)
    }  # fmt: skip
    assert sorted(i for group in groups for i in group) == list(range(len(names)))
    lone = map_.clusters([7, 0, 3])  # in each group the order that was asked for
    assert sorted(lone, key=len) == [[7], [0, 3]]
    assert map_.clusters([3, 0])[0] == [3, 0]
    seen = [set(map_.seen(i)) for i in (0, 3)]
    assert seen[0] & seen[1]  # by which they are linked


@pytest.mark.parametrize("way", ["vectors", "votes"])
def test_fewer_candidates_than_images(way, localizer, queries, monkeypatch):
    query = queries["town-hall"]
    if way == "votes":
        monkeypatch.setattr(localizer.map, "vectors", None)
    matched = []
    clusters = type(localizer.map).clusters

    def spy(self, rows):
        matched.append([self.images[row].name for row in rows])
        return clusters(self, rows)

    monkeypatch.setattr(type(localizer.map), "clusters", spy)
    pose = localizer.localize(query.path, query.camera, candidates=3)
    assert pose.verdict == LOCALIZED
    assert len(matched[0]) == 3
    assert all(name.startswith("town-hall/") for name in matched[0])


# --- many


def test_many_are_as_one_by_one_in_their_order(town_and_map, queries, given, elsewhere, tmp_path):
    """Broken ones give their error in place of a pose."""
    photo = queries["church"].path
    cut, text, dot = tmp_path / "cut.jpg", tmp_path / "text.jpg", tmp_path / "dot.png"
    cut.write_bytes(photo.read_bytes()[:20_000])
    text.write_text("no photo")
    Image.new("RGB", (1, 1)).save(dot)
    broken = {cut: "truncated", text: "is text", tmp_path: "directory", dot: "too small"}
    photos = [q.path for q in queries.values()]
    cameras = [q.camera for q in queries.values()]
    with Localizer(town_and_map[1], workers=2) as localizer:
        found = list(
            localizer.localize_many(
                [*photos, *broken, elsewhere[0]], [*cameras, *[None] * len(broken), None]
            )
        )
    assert len(found) == 8
    for pose, name in zip(found, queries, strict=False):
        assert pose.photo == queries[name].path
        assert same(pose, given[name])
    for error, (path, reason) in zip(found[3:], broken.items(), strict=False):
        assert isinstance(error, ImageError)
        assert error.path == path
        assert reason in str(error)
    assert isinstance(found[-1], Pose)
    assert found[-1].verdict == NOT_LOCALIZED
    with pytest.raises(ImageError, match="truncated"):
        Localizer(town_and_map[1], workers=1).localize(cut)


def test_the_keywords_of_many_are_those_of_one():
    """Spelled out, so that `help` and editors show them."""
    one, many = (
        inspect.signature(f).parameters for f in (Localizer.localize, Localizer.localize_many)
    )
    assert [p for p in one.values() if p.kind is p.KEYWORD_ONLY] == list(many.values())[3:]


def test_one_camera_for_many(localizer, queries, given):
    query = queries["church"]
    found = list(localizer.localize_many(iter([query.path] * 2), query.camera))
    assert [same(pose, given["church"]) for pose in found] == [True, True]
    wrong = Camera("PINHOLE", query.camera.width + 2, query.camera.height, (500, 500, 320, 240))
    (error, pose) = localizer.localize_many([query.path] * 2, [wrong, query.camera])
    assert isinstance(error, ImageError)  # the rest goes on
    assert "its camera is" in str(error)
    assert same(pose, given["church"])
    with pytest.raises(InputError, match="1 cameras for more photos"):
        list(localizer.localize_many([query.path] * 2, [query.camera]))


def test_more_photos_than_wait(town_and_map):
    """The queue is drained while it is filled; tiny photos, of which nothing is recognised."""
    shades = [np.full((40, 40 + i, 3), i, np.uint8) for i in range(12)]
    with Localizer(town_and_map[1], workers=2) as localizer:
        found = list(localizer.localize_many(iter(shades)))
    assert [pose.verdict for pose in found] == [NOT_LOCALIZED] * 12


# --- wrong calls


def test_a_map_of_another_extractor(town_and_map):
    with pytest.raises(DatabaseMismatchError, match="was made with another"):
        Localizer(town_and_map[1], extractor=Sift(max_keypoints=7))


def test_wrong_calls(town_and_map, localizer, queries):
    photo = queries["church"].path
    with pytest.raises(InputError, match="candidates must be at least 1, got 0"):
        localizer.localize(photo, candidates=0)
    with pytest.raises(InputError, match=r"seed .* got -1"):
        localizer.localize(photo, seed=-1)
    with pytest.raises(InputError, match="640 x 480 px, but its camera is 480 x 640"):
        localizer.localize(photo, queries["town-hall-turned"].camera)
    with pytest.raises(InputError, match="at least 1 worker"):
        Localizer(town_and_map[1], workers=-1)
    for wrong in (np.zeros((64, 64)), np.zeros((64, 64, 4), np.uint8), np.zeros((8, 64, 3))):
        with pytest.raises(InputError, match="H x W x 3"):
            localizer.localize(wrong)
    for wrong in (
        {"center": [0, 0]},
        {"center": [0, 0, np.nan]},
        {"center": [0, 0, 0], "radius": 0.0},
        {"center": [0, 0, 0], "angle": -1.0},
        {"center": [0, 0, 0], "angle": 270.0},  # whose cosine is that of 90
        {"center": [0, 0, 0], "direction": [0, 0, 2.0]},
    ):
        with pytest.raises(InputError, match="a prior"):
            PosePrior(**wrong)


def test_weak_evidence_is_uncertain(localizer, queries, monkeypatch):
    """The same pose, were twice as many inliers needed to be sure."""
    query = queries["church"]
    sure = localizer.localize(query.path, query.camera)
    monkeypatch.setattr("locate.localization.verdict.SURE_FACTOR", 1e3)
    pose = localizer.localize(query.path, query.camera)
    assert pose.verdict == UNCERTAIN
    assert np.array_equal(pose.cam_from_world, sure.cam_from_world)
    assert f"{sure.inliers} of {sure.matches}" in pose.reason
    camera = Camera("SIMPLE_PINHOLE", 640, 480, tuple(query.camera.params))
    assert localizer.localize(query.path, camera).camera.params == camera.params


def test_a_photo_of_two_places_is_uncertain(localizer, queries):
    """The left half of one query beside the right half of another: either pose would do."""
    left, right = (pixels_of(queries[name].path) for name in UPRIGHT)
    both = np.concatenate([left[:, :350], right[:, 350:]], axis=1)
    pose = localizer.localize(both, queries["church"].camera)
    assert pose.verdict == UNCERTAIN
    assert "agree with a pose at another place of the map" in pose.reason


# --- real photos


@pytest.mark.data
def test_fountain_by_its_true_and_by_no_camera(data, tmp_path):
    """Strecha's fountain, every other photo asked."""
    from locate.formats.colmap import read_model, write_model

    scene = data / "eval" / "localization" / "fountain-P11"
    truth = read_model(scene / "colmap_gt")
    names = sorted(truth.poses)
    mapped, asked = names[::2], names[1::2]
    write_model(tmp_path / "model", {n: truth.poses[n] for n in mapped}, truth.cameras)
    import_map(
        tmp_path / "model", scene / "images", tmp_path / "map", extractor="sift", metric=True
    )
    with Localizer(tmp_path / "map") as localizer:
        photos, cameras = [scene / "images" / n for n in asked], [truth.cameras[n] for n in asked]
        for name, pose in zip(asked, localizer.localize_many(photos, cameras), strict=True):
            share, degrees = errors(pose, truth.poses[name])
            assert (pose.verdict, share < 0.002, degrees < 0.1) == (LOCALIZED, True, True), name
        for name, pose in zip(asked[:2], localizer.localize_many(photos[:2]), strict=True):
            assert pose.verdict == LOCALIZED, name
            assert pose.camera.params[0] == pytest.approx(
                truth.cameras[name].mean_focal_length(), rel=0.03
            )


# --- gravity


def test_gravity_tightens_a_pose_and_contradicts_a_wrong_one(localizer, queries, given):
    query, pose = queries["church"], given["church"]
    up = np.array([0.0, 0.0, 1.0])
    in_camera = query.truth[:, :3] @ up
    held = localizer.localize(
        query.path, query.camera, gravity=GravityPrior(in_camera, up, degrees=0.001)
    )
    assert held.verdict == "localized"
    assert np.trace(held.covariance) < np.trace(pose.covariance)
    tilt = held.cam_from_world[:, :3] @ up
    assert np.degrees(np.arccos(np.clip(tilt @ in_camera, -1, 1))) < 0.005
    (many,) = localizer.localize_many(
        [query.path], query.camera, gravity=GravityPrior(-in_camera, up)
    )
    assert many.verdict == "uncertain"
    assert "direction of up" in many.reason


def test_the_old_name_of_the_prior_still_works():
    with pytest.warns(DeprecationWarning, match="PosePrior"):
        assert locate.PriorPose is PosePrior
