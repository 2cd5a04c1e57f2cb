"""Rigs: their files, and photos of one instant localized together in the rendered town."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pycolmap
import pytest
from PIL import Image

from locate.errors import ImageError, InputError
from locate.formats.colmap import read_model, write_model
from locate.geometry.rigid import quaternion_of, rotation_of
from locate.localization.gravity import GravityPrior
from locate.localization.pose import LOCALIZED, NOT_LOCALIZED, UNCERTAIN, PosePrior
from locate.localization.rig import Frame, Rig, RigCamera, find_frames, read_rigs
from locate.metrics.pose import pose_error
from pipelines.cli.main import main
from pipelines.localization.localizer import Localizer
from pipelines.localization.matcher import Request
from pipelines.localization.rig_localizer import (
    RigPose,
    localize_frames,
    localize_rig,
    localize_rigs,
)
from pipelines.localization.rig_matching import match_rig
from pipelines.mapping.georef import georeference_map
from pipelines.mapping.import_model import import_map
from pipelines.town.town import make_town

HERE = np.eye(4)[:3]


def four(pose):
    return np.r_[pose, [[0, 0, 0, 1]]]


def inverse(pose):
    return np.linalg.inv(four(pose))[:3]


# --- files


def config(**changes):
    """A valid rig_config.json of two cameras; `changes` of the second, None removes."""
    second = {
        "image_prefix": "right/",
        "cam_from_rig_rotation": [0.9, 0.3, -0.1, 0.3],
        "cam_from_rig_translation": [0.5, -0.1, 0.2],
        "camera_model_name": "PINHOLE",
        "camera_params": [1380, 1382.5, 760, 503],
    } | changes
    second = {key: value for key, value in second.items() if value is not None}
    return [{"cameras": [{"image_prefix": "left/", "ref_sensor": True}, second]}]


def written(folder, values):
    path = folder / "rig_config.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def test_a_rig_is_read_as_colmap_reads_it(tmp_path):
    path = written(tmp_path, config() + config(image_prefix="other/", camera_model_name=None))
    with pytest.raises(InputError, match=r"rig 2, camera 'other/': None .* camera model"):
        read_rigs(path)
    values = config() + config(image_prefix="o", camera_model_name=None, camera_params=None)
    path = written(tmp_path, values)
    ours, theirs = read_rigs(path), pycolmap.read_rig_config(path)
    assert len(ours) == len(theirs) == 2
    for our, their in zip(ours, theirs, strict=True):
        assert [c.prefix for c in our.cameras] == [c.image_prefix for c in their.cameras]
        np.testing.assert_array_equal(our.cameras[0].cam_from_rig, HERE)
        np.testing.assert_allclose(
            our.cameras[1].cam_from_rig, their.cameras[1].cam_from_rig.matrix(), atol=1e-12
        )
    assert ours[0].cameras[1].camera == "PINHOLE,1380.0,1382.5,760.0,503.0"
    assert ours[1].cameras[1].camera is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "no JSON"),
        ("{}", "expected a list of rigs"),
        ("[]", "expected a list of rigs"),
        ([{}], r'rig 1: expected \{"cameras"'),
        ([{"cameras": []}], 'has 0 cameras with "ref_sensor": true'),
        (config(ref_sensor=True), 'has 2 cameras with "ref_sensor": true'),
        (config(image_prefix=None), "no image_prefix"),
        (config(image_prefix="left/"), "the same image_prefix"),
        (config(cam_from_rig_rotation=None), "camera 'right/' lacks its pose in the rig"),
        (config(cam_from_rig_translation=None), "lacks its pose in the rig"),
        (config(cam_from_rig_rotation=[1, 0, 0]), "must be 4 numbers"),
        (config(cam_from_rig_rotation=[1, 1, 0, 0]), "length 1.414, not 1"),
        (config(cam_from_rig_translation=[1, "x", 0]), "must be 3 numbers"),
        (config(cam_from_rig_translation=[1, float("nan"), 0]), "must be 3 numbers"),
        (config(camera_params=[1380]), "no camera model of COLMAP"),
        (config(camera_model_name="NONE"), "no camera model of COLMAP"),
        (
            [{"cameras": [config()[0]["cameras"][1] | {"ref_sensor": True}]}],
            "is the ref_sensor, whose pose in the rig is none",
        ),
    ],
)
def test_files_that_are_no_rigs(tmp_path, values, message):
    with pytest.raises(InputError, match=message):
        read_rigs(written(tmp_path, values))


def test_a_missing_file_and_values_that_are_no_rig(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_rigs(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="at least one camera"):
        Rig(())
    with pytest.raises(InputError, match="3 x 4"):
        RigCamera("a", np.eye(4))
    with pytest.raises(InputError, match="no rotation"):
        RigCamera("a", np.diag([1.0, 1, -1, 1])[:3])
    with pytest.raises(InputError, match="positive"):
        Rig((RigCamera("a", HERE),)).scaled(0)


def test_a_rig_in_other_units(tmp_path):
    rig = read_rigs(written(tmp_path, config()))[0].scaled(10)
    before = read_rigs(written(tmp_path, config()))[0]
    np.testing.assert_allclose(rig.cameras[1].cam_from_rig[:, 3], [5, -1, 2])
    np.testing.assert_array_equal(
        rig.cameras[1].cam_from_rig[:, :3], before.cameras[1].cam_from_rig[:, :3]
    )


def test_photos_of_one_name_after_the_prefix_are_a_frame(tmp_path, photo_factory):
    rigs = [
        Rig((RigCamera("cam", HERE), RigCamera("cam2/", np.c_[np.eye(3), [1, 0, 0]]))),
        Rig((RigCamera("other/", HERE),)),
    ]
    names = ["cam/b.jpg", "cam/a.jpg", "cam2/a.jpg", "cam2/x/c.jpg", "other/a.jpg", "none/a.jpg"]
    for name in names:
        photo_factory(tmp_path / name)
    frames = find_frames(tmp_path, rigs)
    assert [(f.name, rigs.index(f.rig)) for f in frames] == [
        ("/a.jpg", 0), ("/b.jpg", 0), ("a.jpg", 0), ("x/c.jpg", 0), ("a.jpg", 1),
    ]  # fmt: skip
    rigs[0] = Rig((RigCamera("cam/", HERE), rigs[0].cameras[1]))
    frames = find_frames(tmp_path, rigs)
    found = [tuple(p and p.relative_to(tmp_path).as_posix() for p in f.photos) for f in frames]
    assert found == [
        ("cam/a.jpg", "cam2/a.jpg"),
        ("cam/b.jpg", None),
        (None, "cam2/x/c.jpg"),
        ("other/a.jpg",),
    ]
    with pytest.raises(InputError, match=r"no photo below .* begins with .*'unknown/'"):
        find_frames(tmp_path, [Rig((RigCamera("unknown/", HERE),))])


# --- the town


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """A map of five photos of the church, and two more as a rig, whose pose is that of the first."""
    folder = tmp_path_factory.mktemp("town")
    root = make_town(folder / "t", landmarks=1, views=7, size=(640, 480)).root
    truth = read_model(root / "colmap")
    names = sorted(truth.poses)
    write_model(folder / "model", {n: truth.poses[n] for n in names[:5]}, truth.cameras)
    import_map(
        folder / "model", root / "landmarks", folder / "map", extractor="sift", metric=True,
        workers=1,
    )  # fmt: skip
    poses = [truth.poses[name] for name in names[5:]]
    cameras = [truth.cameras[name] for name in names[5:]]
    turned = (four(poses[1]) @ np.linalg.inv(four(poses[0])))[:3]
    rig = Rig((RigCamera("a/", HERE, cameras[0]), RigCamera("b/", turned, cameras[1])))
    photos = [root / "landmarks" / name for name in names[5:]]
    with Localizer(folder / "map", workers=1) as localizer:
        yield SimpleNamespace(
            root=root, localizer=localizer, rig=rig, photos=photos, poses=poses, cameras=cameras
        )


@pytest.fixture(scope="module")
def both(town):
    return localize_rig(town.localizer, town.photos, town.rig)


def nees(found, covariance, truth):
    error = pose_error(found, truth)
    return error @ np.linalg.solve(covariance, error)


def close(found, truth, metres=0.05, degrees=0.1):
    error = pose_error(found, truth)
    return np.linalg.norm(error[:3]) < metres and np.linalg.norm(error[3:]) < np.radians(degrees)


def changed(rig, pose):
    return Rig((rig.cameras[0], RigCamera("b/", pose, rig.cameras[1].camera)))


def cut(town, folder, windows):
    """The photos, of which all but a window (x, y, width, height) is grey."""
    paths = []
    for photo, (x, y, w, h) in zip(town.photos, windows, strict=True):
        with Image.open(photo) as image:
            pixels = np.asarray(image)
        grey = np.full_like(pixels, 128)
        grey[y : y + h, x : x + w] = pixels[y : y + h, x : x + w]
        paths.append(folder / f"{photo.stem}.png")
        Image.fromarray(grey).save(paths[-1])
    return paths


def test_two_photos_are_localized_together(town, both):
    assert both.verdict == LOCALIZED
    assert close(both.rig_from_world, town.poses[0])
    assert nees(both.rig_from_world, both.covariance, town.poses[0]) < 22  # 99.9 % of chi-squared
    assert [pose.photo for pose in both.poses] == town.photos
    for pose, truth, camera in zip(both.poses, town.poses, town.cameras, strict=True):
        assert pose.verdict == LOCALIZED
        assert close(pose.cam_from_world, truth)
        assert nees(pose.cam_from_world, pose.covariance, truth) < 22
        assert pose.camera.params == tuple(camera.params)
        # its inliers lie where a pinhole camera sees their points, in our pixels, by hand
        seen = pose.world_points @ truth[:, :3].T + truth[:, 3]
        f, cx, cy = camera.params
        here = f * seen[:, :2] / seen[:, 2:] + [cx - 0.5, cy - 0.5]
        assert np.abs(np.median(pose.points - here, axis=0)).max() < 0.2
        assert pose.images[0].startswith("church/")
    assert both.inliers == sum(pose.inliers for pose in both.poses) > 400
    assert both.matches == sum(pose.matches for pose in both.poses)
    values = json.loads(json.dumps(both.to_json()))
    assert len(values["photos"]) == 2
    w, x, y, z = values["rig_from_world"]["quaternion_wxyz"]
    rotation = pycolmap.Rotation3d(np.array([x, y, z, w])).matrix()
    np.testing.assert_allclose(rotation, both.rig_from_world[:, :3], atol=1e-12)


def test_each_photo_alone_says_where_the_rig_is(town):
    pairs = list(zip(town.photos, town.rig.cameras, strict=True))
    for seen in match_rig(town.localizer, pairs, Request()):
        assert seen.sure
        assert close(seen.start, town.poses[0], metres=0.1, degrees=0.2)


def test_it_knows_more_than_each_photo(town, both):
    for photo, camera, pose in zip(town.photos, town.cameras, both.poses, strict=True):
        alone = town.localizer.localize(photo, camera)
        assert np.trace(pose.covariance[:3, :3]) < np.trace(alone.covariance[:3, :3])


def test_the_rigs_axes_may_be_anywhere(town, both):
    """Cameras that stand elsewhere in the rig by the same turn, and one that comes first."""
    away = np.c_[rotation_of(np.array([0.3, 1.0, -0.5])), [2.0, -1.0, 0.5]]
    cameras = [
        RigCamera(c.prefix, (four(c.cam_from_rig) @ four(away))[:3], c.camera)
        for c in reversed(town.rig.cameras)
    ]
    found = localize_rig(town.localizer, town.photos[::-1], Rig(tuple(cameras)))
    expected = (np.linalg.inv(four(away)) @ four(both.rig_from_world))[:3]
    np.testing.assert_allclose(found.rig_from_world, expected, atol=1e-3)
    ours, theirs = found.poses[1].covariance, both.poses[0].covariance
    np.testing.assert_allclose(np.diag(ours), np.diag(theirs), rtol=0.05)


def test_photos_that_tell_too_little_alone_are_localized_together(town, tmp_path):
    paths = cut(town, tmp_path, [(305, 180, 15, 180), (320, 180, 58, 180)])
    for path, camera in zip(paths, town.cameras, strict=True):
        assert town.localizer.localize(path, camera).verdict == NOT_LOCALIZED
    found = localize_rig(town.localizer, paths, town.rig)
    assert found.verdict == LOCALIZED
    assert close(found.rig_from_world, town.poses[0], metres=1.0, degrees=2.0)
    assert nees(found.rig_from_world, found.covariance, town.poses[0]) < 22


def test_a_mirrored_pose_that_is_some_pixels_off_does_not_win(town, tmp_path):
    """Within the tolerance of RANSAC more matches agree with a pose 19 m away than with the true one."""
    paths = cut(town, tmp_path, [(280, 240, 40, 80), (320, 180, 50, 180)])
    found = localize_rig(town.localizer, paths, town.rig)
    assert found.verdict != NOT_LOCALIZED
    assert close(found.rig_from_world, town.poses[0], metres=1.0, degrees=2.0)


def test_a_dark_and_a_broken_photo_do_no_harm(town, both, tmp_path):
    Image.new("RGB", (640, 480)).save(tmp_path / "dark.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    third = np.c_[rotation_of(np.array([0, 3.0, 0])), [0.1, 0.2, 0.3]]
    cameras = (*town.rig.cameras, RigCamera("c/", third), RigCamera("d/", inverse(third)))
    photos = [*town.photos, tmp_path / "dark.png", tmp_path / "broken.jpg"]
    found = localize_rig(town.localizer, photos, Rig(cameras))
    assert found.verdict == LOCALIZED
    np.testing.assert_allclose(found.rig_from_world, both.rig_from_world, atol=1e-9)
    np.testing.assert_allclose(found.covariance, both.covariance, rtol=1e-6)
    assert (found.matches, found.inliers) == (both.matches, both.inliers)
    for pose, place in zip(found.poses[2:], cameras[2:], strict=True):
        assert (pose.verdict, pose.matches, pose.camera) == (LOCALIZED, 0, None)
        assert close(pose.cam_from_world, (four(place.cam_from_rig) @ four(town.poses[0]))[:3])
    assert "no features were found" in found.poses[2].reason
    assert "of the photo itself: is damaged" in found.poses[3].reason
    few = localize_rig(town.localizer, [town.photos[0], None], town.rig)
    assert (few.verdict, len(few.poses)) == (LOCALIZED, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        inverse,
        lambda pose: np.c_[rotation_of(np.array([0, 0.35, 0])) @ pose[:, :3], pose[:, 3]],
        lambda pose: np.c_[rotation_of(np.radians([0, 1.0, 0])) @ pose[:, :3], pose[:, 3]],
        lambda pose: np.c_[pose[:, :3], pose[:, 3] + [0, 0, 8.0]],
    ],
    ids=["inverse", "20 degrees", "1 degree", "8 metres"],
)
def test_a_wrong_rig_is_not_localized_silently(town, wrong):
    rig = changed(town.rig, wrong(town.rig.cameras[1].cam_from_rig))
    found = localize_rig(town.localizer, town.photos, rig)
    assert found.verdict == UNCERTAIN
    assert "check cam_from_rig" in found.reason
    assert {pose.verdict for pose in found.poses} == {UNCERTAIN}


def test_a_rig_that_is_slightly_wrong_widens_the_covariance(town, both):
    pose = town.rig.cameras[1].cam_from_rig
    bent = np.c_[rotation_of(np.radians([0, 0.1, 0])) @ pose[:, :3], pose[:, 3]]
    found = localize_rig(town.localizer, town.photos, changed(town.rig, bent))
    assert found.verdict == LOCALIZED
    assert not close(found.rig_from_world, town.poses[0])
    assert nees(found.rig_from_world, both.covariance, town.poses[0]) > 100
    assert nees(found.rig_from_world, found.covariance, town.poses[0]) < 22


def test_photos_of_another_place_are_not_localized(town):
    photos = [town.root / "queries" / f"elsewhere-{k}.jpg" for k in (1, 2)]
    found = localize_rig(town.localizer, photos, town.rig)
    assert found.verdict != LOCALIZED
    if found.verdict == NOT_LOCALIZED:
        assert found.rig_from_world is None
        assert [pose.cam_from_world for pose in found.poses] == [None, None]


def test_a_photo_of_unknown_focal_length_counts_if_it_is_sure(town, both, tmp_path):
    paths = cut(town, tmp_path, [(0, 0, 640, 480), (320, 180, 50, 180)])  # PNG: without EXIF
    cameras = tuple(RigCamera(c.prefix, c.cam_from_rig) for c in town.rig.cameras)
    found = localize_rig(town.localizer, paths, Rig(cameras))
    assert found.verdict == LOCALIZED
    assert found.poses[0].camera.source == "estimated"
    assert found.poses[0].camera.params[0] == pytest.approx(town.cameras[0].params[0], rel=0.05)
    assert found.poses[1].matches == 0
    assert "focal length is not known" in found.poses[1].reason
    assert close(found.rig_from_world, town.poses[0], metres=2.0, degrees=1.0)
    given = localize_rig(town.localizer, paths, town.rig)
    assert given.poses[1].matches > 0


def test_up_is_used_and_doubted(town, tmp_path):
    paths = cut(town, tmp_path, [(305, 180, 15, 180), (320, 180, 58, 180)])
    up = np.array([0.0, 0, 1])
    in_rig = town.poses[0][:, :3] @ up
    without = localize_rig(town.localizer, paths, town.rig)
    found = localize_rig(town.localizer, paths, town.rig, gravity=GravityPrior(in_rig, up, 0.1))
    before, after = (pose_error(p.rig_from_world, town.poses[0]) for p in (without, found))
    assert np.linalg.norm(after[3:5]) < 0.5 * np.linalg.norm(before[3:5])
    assert np.trace(found.covariance) < np.trace(without.covariance)
    doubted = localize_rig(town.localizer, town.photos, town.rig, gravity=GravityPrior(-in_rig, up))
    assert doubted.verdict == UNCERTAIN
    assert "contradicts the direction of up" in doubted.reason


def test_frames_in_their_order(town, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    frames = [
        Frame("1", town.rig, tuple(town.photos)),
        Frame("2", town.rig, (None, broken)),
        Frame("3", town.rig, (town.photos[0], None)),
    ]
    first, second, third = localize_frames(town.localizer, frames)
    assert isinstance(first, RigPose)
    assert isinstance(second, ImageError)
    assert (len(first.poses), len(third.poses)) == (2, 1)


def test_what_cannot_be_asked(town):
    for photos, message in (
        (town.photos[:1], "1 photos of a rig of 2 cameras"),
        ([None, None], "at least one photo"),
    ):
        with pytest.raises(InputError, match=message):
            localize_rig(town.localizer, photos, town.rig)
    with pytest.raises(InputError, match="candidates"):
        localize_rig(town.localizer, town.photos, town.rig, candidates=0)
    with pytest.raises(InputError, match="seed"):
        localize_rig(town.localizer, town.photos, town.rig, seed=-1)
    far = localize_rig(
        town.localizer, town.photos, town.rig, prior=PosePrior(np.full(3, 1e4), radius=1.0)
    )
    assert far.verdict == NOT_LOCALIZED
    assert "near the prior pose" in far.poses[0].reason


def test_a_camera_of_photos_of_another_size_makes_its_photo_useless(town):
    square = pycolmap.Camera(model="PINHOLE", width=64, height=64, params=[50.0, 50, 32, 32])
    cameras = (town.rig.cameras[0], RigCamera("b/", town.rig.cameras[1].cam_from_rig, square))
    found = localize_rig(town.localizer, town.photos, Rig(cameras))
    assert found.verdict == LOCALIZED
    assert found.poses[1].matches == 0
    assert "is 640 x 480 px, but its camera is 64 x 64" in found.poses[1].reason
    both_square = Rig(tuple(RigCamera(c.prefix, c.cam_from_rig, square) for c in cameras))
    with pytest.raises(ImageError, match="its camera is 64 x 64"):
        localize_rig(town.localizer, town.photos, both_square)


def shots(town, folder, unit=1.0):
    """The rig's photos in a folder, and its rig_config.json, `unit` of its own for one of the map's."""
    for prefix, photo in zip("ab", town.photos, strict=True):
        (folder / "shots" / prefix).mkdir(parents=True)
        (folder / "shots" / prefix / "1.jpg").write_bytes(photo.read_bytes())
    w, x, y, z = quaternion_of(town.rig.cameras[1].cam_from_rig[:, :3])
    cameras = [{"image_prefix": "a/", "ref_sensor": True}, {"image_prefix": "b/"}]
    cameras[1]["cam_from_rig_rotation"] = [w, x, y, z]
    cameras[1]["cam_from_rig_translation"] = (
        unit * town.rig.cameras[1].cam_from_rig[:, 3]
    ).tolist()
    for values, camera in zip(cameras, town.cameras, strict=True):
        values["camera_model_name"] = camera.model.name
        values["camera_params"] = camera.params.tolist()
    return written(folder, [{"cameras": cameras}]), folder / "shots"


def test_a_rig_on_the_command_line(town, tmp_path, capsys):
    """Poses come out in the order of frames and cameras, from a folder with one for each camera."""
    rig, photos = shots(town, tmp_path)
    words = ["localize", str(photos), "--map", str(town.localizer.map.folder)]
    assert main([*words, "--rig", str(rig), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["poses"]
    assert [Path(pose["photo"]).parent.name for pose in found] == ["a", "b"]
    for pose, truth in zip(found, town.poses, strict=True):
        center = -truth[:, :3].T @ truth[:, 3]
        np.testing.assert_allclose(pose["center"], center, atol=0.05)
    assert main([*words, "--rig", str(rig), "--camera", "f=500"]) == 2
    assert "--camera" in capsys.readouterr().err


def test_a_rig_in_metres_in_a_map_that_knows_its_metre(town, tmp_path):
    folder = shutil.copytree(town.localizer.map.folder, tmp_path / "map")
    images = town.localizer.map.model.images.values()
    metres = {image.name: 4 * image.projection_center() for image in images}
    assert georeference_map(folder, centers=metres).georef.scale == pytest.approx(4)
    rig, photos = shots(town, tmp_path, unit=4)
    with Localizer(folder, workers=1) as localizer:
        (found,) = localize_rigs(localizer, rig, photos)
    assert found.verdict == LOCALIZED
    assert close(found.rig_from_world, town.poses[0])
    (wrong,) = localize_rigs(town.localizer, rig, photos)  # this one takes them for its own units
    assert not close(wrong.rig_from_world, town.poses[0]) or wrong.verdict != LOCALIZED
