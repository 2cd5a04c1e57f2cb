"""Files of poses: what stands in them, in which direction, and how results are judged."""

from __future__ import annotations

import errno
import os

import numpy as np
import pycolmap
import pytest

from locate.errors import InputError, UnknownNameError
from locate.formats.colmap import is_model, read_model
from locate.formats.trajectories import FORMATS, pair_names, read_poses, write_poses
from locate.geometry.rigid import invert
from pipelines.evaluation.pose_tables import evaluate_pose_file, read_names

# A camera at (1, 2, 3), turned by 90 degrees about z: what lies along the world's x axis lies along the
# camera's y axis. By hand: R = [[0, -1, 0], [1, 0, 0], [0, 0, 1]], t = -R (1, 2, 3) = (2, -1, -3);
# the quaternion of R is (w, z) = (cos 45, sin 45), that of its inverse (cos 45, -sin 45).
S = "0.7071067811865476"
BY_HAND = np.array([[0, -1, 0, 2], [1, 0, 0, -1], [0, 0, 1, -3]], float)
TEXTS = {
    "hloc": f"# name qw qx qy qz tx ty tz\nquery/a.jpg {S} 0 0 {S} 2 -1 -3\n",
    "colmap": f"# images\n\n7 {S} 0 0 {S} 2 -1 -3 1 query/a.jpg\n\n",
    "tum": f"# t tx ty tz qx qy qz qw\n1.5 1 2 3 0 0 -{S} {S}\n",
    "kitti": "0 1 0 1 -1 0 0 2 0 0 1 3\n",
}
NAMES = {"hloc": "query/a.jpg", "colmap": "query/a.jpg", "tum": "1.5", "kitti": "000000"}


def random_poses(names, seed=0):
    rng = np.random.default_rng(seed)
    poses = {}
    for name in names:
        q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        poses[name] = np.c_[q * np.sign(np.linalg.det(q)), rng.normal(size=3) * 5]
    return poses


def camera(width=640):
    return pycolmap.Camera(
        model="OPENCV", width=width, height=480, params=[500, 510, 320, 240, 0.1, -0.1, 1e-3, 0]
    )


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_each_format_by_hand(tmp_path, form):
    path = tmp_path / ("images.txt" if form == "colmap" else "poses.txt")
    path.write_text(TEXTS[form])
    poses = read_poses(path, form)
    assert list(poses) == [NAMES[form]]
    np.testing.assert_allclose(poses[NAMES[form]], BY_HAND, atol=1e-12)
    # The camera's centre is the origin of the camera, one step along world x is one along camera y.
    np.testing.assert_allclose(BY_HAND @ (1, 2, 3, 1), 0, atol=1e-12)
    np.testing.assert_allclose(poses[NAMES[form]] @ (2, 2, 3, 1), (0, 1, 0), atol=1e-12)


@pytest.mark.parametrize("form", ["hloc", "tum", "kitti"])
def test_writing_by_hand(tmp_path, form):
    path = tmp_path / "poses.txt"
    write_poses(path, {NAMES[form]: BY_HAND}, form)
    written = path.read_text().split()
    expected = TEXTS[form].splitlines()[-1].split()
    if form != "kitti":
        assert written.pop(0) == expected.pop(0)
    values, wanted = np.array(written, float), np.array(expected, float)
    if form != "kitti":  # q and -q are the same rotation
        turn = slice(0, 4) if form == "hloc" else slice(3, 7)
        values[turn] *= np.sign(values[turn] @ wanted[turn])
    np.testing.assert_allclose(values, wanted, atol=1e-12)
    assert [p.name for p in tmp_path.iterdir()] == ["poses.txt"]


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_round_trip(tmp_path, form):
    names = [f"{i:06d}" for i in range(7)]
    poses = random_poses(names)
    write_poses(tmp_path / "p", poses, form, cameras=dict.fromkeys(names, camera()))
    back = read_poses(tmp_path / "p", form)
    assert list(back) == names
    for name in names:
        np.testing.assert_allclose(back[name], poses[name], atol=1e-9)


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_the_wrong_direction_shows(tmp_path, form):
    """A file of world_from_cam read as cam_from_world: every query is far off. Fails if `read_poses` or
    `write_poses` mixed the directions up on one side only."""
    names = [f"{i:06d}" for i in range(5)]
    poses = random_poses(names)
    write_poses(tmp_path / "true", poses, "hloc")
    write_poses(tmp_path / "right", poses, form, cameras=dict.fromkeys(names, camera()))
    own = FORMATS[form].direction
    other = "cam_from_world" if own == "world_from_cam" else "world_from_cam"
    wrong = read_poses(tmp_path / "right", form, direction=other)
    for name in names:
        np.testing.assert_allclose(wrong[name][:, :3], poses[name][:, :3].T, atol=1e-9)
        assert np.linalg.norm(wrong[name][:, 3] - poses[name][:, 3]) > 1
    write_poses(tmp_path / "wrong", wrong, "hloc")
    good = evaluate_pose_file(tmp_path / "right", tmp_path / "true", result_format=form)
    bad = evaluate_pose_file(tmp_path / "wrong", tmp_path / "true")
    median = good.tables[0].columns.index("median m")
    assert good.tables[0].rows[0][median] < 1e-6
    assert bad.tables[0].rows[0][median] > 1


def test_invert_against_numpy():
    (pose,) = random_poses(["a"], 3).values()
    full = np.vstack((pose, (0, 0, 0, 1)))
    np.testing.assert_allclose(invert(pose), np.linalg.inv(full)[:3], atol=1e-12)
    np.testing.assert_allclose(invert(full), np.linalg.inv(full)[:3], atol=1e-12)


def test_names_may_hold_spaces_and_photos_be_named_by_time(tmp_path):
    poses = random_poses(["my photos/a b.jpg", "c.jpg"])
    write_poses(tmp_path / "p.txt", poses)
    assert list(read_poses(tmp_path / "p.txt")) == list(poses)
    write_poses(tmp_path / "t.txt", {"rgb/1311868169.1634.png": BY_HAND}, "tum")
    assert list(read_poses(tmp_path / "t.txt", "tum")) == ["1311868169.1634"]
    with pytest.raises(InputError, match=r"timestamps in seconds, not 'c\.jpg'"):
        write_poses(tmp_path / "t.txt", {"1.5": BY_HAND, "c.jpg": BY_HAND}, "tum")


@pytest.mark.parametrize(
    ("form", "text", "message"),
    [
        ("hloc", "a.jpg 1 0 0 0 1 2 3\na.jpg 1 0 0 0 1 2\n", "line 2.*name qw qx qy qz tx ty tz"),
        ("hloc", "\na.jpg 1 0 0 0 1 nan 3\n", "line 2.*finite"),
        ("hloc", "a.jpg 1 0 0 zero 1 2 3\n", "line 1.*finite"),
        ("hloc", "a.jpg 1 1 0 0 1 2 3\n", r"line 1.*length 1\.414"),
        ("hloc", "a.jpg 1 0 0 0 1 2 3\na.jpg 1 0 0 0 1 2 3\n", "line 2.*once"),
        ("hloc", "15.2 7 2 3 0 0 0 1\n", "line 1.*tum"),
        ("tum", "15.2 7 2 3 0 0 0\n", "line 1.*timestamp"),
        ("tum", "a.jpg 7 2 3 0 0 0 1\n", "line 1.*finite"),
        ("tum", "1 1 0 0 0 5 5 5\n", "line 1.*length"),
        ("kitti", "1 0 0 0 0 1 0 0 0 0 1\n", "line 1.*12 numbers"),
        ("kitti", "1 0 0 0 0 1 0 0 0 0 -1 0\n", "line 1.*rotation"),
        ("kitti", "2 0 0 0 0 2 0 0 0 0 2 0\n", "line 1.*rotation"),
        ("colmap", "1 1 0 0 0 1 2 3 a.jpg\n\n", "line 1.*CAMERA_ID NAME"),
        ("colmap", "1 1 0 0 0 1 2 3 1 a.jpg\n2 1 0 0 0 1 2 3 1 b.jpg\n", "line 2.*triples"),
        ("colmap", "1 1 0 0 0 1 2 3 1 a.jpg\n\n1 1 0 0 0 1 2 3 1 a.jpg\n\n", "line 3.*second"),
        ("colmap", "1 1 0 0 0 1 2 3 one a.jpg\n\n", "line 1.*whole number"),
    ],
)
def test_a_damaged_file_is_told_with_its_line(tmp_path, form, text, message):
    path = tmp_path / "images.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=f"images.txt, {message}"):
        read_poses(path, form)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_poses(tmp_path / "none.txt")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="is not text"):
        read_poses(tmp_path / "b.txt")
    with pytest.raises(UnknownNameError, match="colmap, hloc, kitti, tum"):
        read_poses(tmp_path / "b.txt", "g2o")
    with pytest.raises(InputError, match="needs the camera"):
        write_poses(tmp_path / "m", {"a": BY_HAND}, "colmap")


def test_models_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    folder, cameras = tmp_path / "model", {"a.jpg": camera()}
    write_poses(folder, {"a.jpg": BY_HAND}, "colmap", cameras=cameras, header=["first"])
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert sorted(before) == ["cameras.txt", "frames.txt", "images.txt", "points3D.txt", "rigs.txt"]
    assert before["images.txt"].startswith(b"# first\n# Image list")
    poses, wide = {"a.jpg": BY_HAND + np.eye(3, 4, 3)}, {"a.jpg": camera(800)}

    def full_disk(fd):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_poses(folder, poses, "colmap", cameras=wide)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    monkeypatch.undo()
    write_poses(folder, poses, "colmap", cameras=wide)
    assert read_model(folder).cameras["a.jpg"].width == 800
    assert sorted(file.name for file in folder.iterdir()) == sorted(before)


def test_models_are_read_as_colmap_reads_them(tmp_path):
    """Text and binary, against pycolmap's reading of what it wrote."""
    poses = random_poses(["a.jpg", "b.jpg", "d/e.jpg"])
    cameras = {"a.jpg": camera(), "b.jpg": camera(800), "d/e.jpg": camera()}
    write_poses(tmp_path / "text", poses, "colmap", cameras=cameras)
    model = pycolmap.Reconstruction(tmp_path / "text")
    assert len(model.cameras) == 2
    seen = pycolmap.Point2DList([pycolmap.Point2D(np.array([1.5, 2.5]))] * 3)
    for image in model.images.values():  # of lines with points, too
        image.points2D = seen
    model.write_text(tmp_path / "text")
    (tmp_path / "binary").mkdir()
    model.write_binary(tmp_path / "binary")
    for place in ("text", "binary"):
        assert is_model(tmp_path / place)
        read = read_model(tmp_path / place)
        assert sorted(read.poses) == sorted(poses)
        for image in model.images.values():
            truth = image.cam_from_world().matrix()
            np.testing.assert_allclose(read.poses[image.name], truth, atol=1e-12)
            np.testing.assert_allclose(read.poses[image.name], poses[image.name], atol=1e-9)
            assert read.cameras[image.name].width == cameras[image.name].width
            np.testing.assert_allclose(read.cameras[image.name].params, camera().params)
            assert read.cameras[image.name].model == camera().model


def test_lines_of_points_are_skipped(tmp_path):
    (tmp_path / "cameras.txt").write_text("1 SIMPLE_PINHOLE 640 480 500 320 240\n")
    (tmp_path / "images.txt").write_text(
        "1 1 0 0 0 1 2 3 1 a.jpg\n10.5 20.5 -1 30 40 7\n2 1 0 0 0 4 5 6 1 b.jpg"
    )
    model = read_model(tmp_path)
    assert [pose[:, 3].tolist() for pose in model.poses.values()] == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        ("1 PINHOLE 640 480 500 320 240\n", "cameras.txt, line 1.*camera model"),
        ("1 TELESCOPE 640 480 500 320 240\n", "cameras.txt, line 1.*camera model"),
        ("1 SIMPLE_PINHOLE 640 480 0 320 240\n", "cameras.txt, line 1.*camera model"),
        ("1 SIMPLE_PINHOLE 640 480 f 320 240\n", "cameras.txt, line 1.*finite"),
        ("2 SIMPLE_PINHOLE 640 480 500 320 240\n", "a.jpg was taken by camera 1"),
    ],
)
def test_a_damaged_list_of_cameras(tmp_path, cameras, message):
    (tmp_path / "cameras.txt").write_text(cameras)
    (tmp_path / "images.txt").write_text("1 1 0 0 0 1 2 3 1 a.jpg\n\n")
    with pytest.raises(InputError, match=message):
        read_model(tmp_path)


def test_a_damaged_binary_model(tmp_path):
    names = ["a.jpg", "b.jpg"]
    write_poses(
        tmp_path / "t", random_poses(names), "colmap", cameras=dict.fromkeys(names, camera())
    )
    pycolmap.Reconstruction(tmp_path / "t").write_binary(tmp_path)
    whole = read_model(tmp_path)
    for name in ("cameras.bin", "images.bin"):
        data = (tmp_path / name).read_bytes()
        for length in range(0, len(data), 7):
            (tmp_path / name).write_bytes(data[:length])
            with pytest.raises(InputError, match=f"{name} is cut off"):
                read_model(tmp_path)
        (tmp_path / name).write_bytes(data)
    assert list(read_model(tmp_path).poses) == list(whole.poses)
    data = (tmp_path / "cameras.bin").read_bytes()
    (tmp_path / "cameras.bin").write_bytes(data[:12] + b"\x63" + data[13:])
    with pytest.raises(InputError, match=r"cameras\.bin: unknown camera model 99"):
        read_model(tmp_path)
    with pytest.raises(InputError, match="no COLMAP model"):
        read_model(tmp_path / "elsewhere")


def test_names_of_results_may_be_shorter():
    truth = ["db/1.jpg", "query/night/2.jpg", "query/day/3.jpg", "query/night/3.jpg", "rgb/1.5.png"]
    given = ["db/1.jpg", "2.jpg", "3.jpg", "1.5", "other.jpg"]
    assert pair_names(given, truth) == {
        "db/1.jpg": "db/1.jpg",
        "2.jpg": "query/night/2.jpg",
        "1.5": "rgb/1.5.png",
    }
    with pytest.raises(
        InputError, match=r"query/night/2\.jpg and 2\.jpg both name query/night/2\.jpg"
    ):
        pair_names(["query/night/2.jpg", "2.jpg"], truth)


@pytest.fixture
def judged(tmp_path):
    """Four queries whose true poses are a COLMAP model; the result has three and one that is none."""
    names = ["query/1.jpg", "query/2.jpg", "query/3.jpg", "query/4.jpg"]
    poses = random_poses(names)
    write_poses(tmp_path / "truth", poses, "colmap", cameras=dict.fromkeys(names, camera()))
    moved = {}
    for name, metres in zip(names[:3], (0.004, 0.2, 3.0), strict=True):
        # x_cam = R (x - c): the centre moves by `metres` along the world's x axis.
        pose = poses[name].copy()
        pose[:, 3] -= pose[:, :3] @ (metres, 0, 0)
        moved[name.removeprefix("query/")] = pose
    moved["stranger.jpg"] = BY_HAND
    write_poses(tmp_path / "result.txt", moved)
    return tmp_path


def test_a_result_is_judged_by_hand(judged):
    report = evaluate_pose_file(
        judged / "result.txt", judged / "truth", thresholds=((0.005, 1), (0.25, 2), (5, 10))
    )
    errors, recall = report.tables
    row = dict(zip(errors.columns, errors.rows[0], strict=True))
    assert row["queries"] == 4
    assert row["localized"] == 0.75
    assert row["median m"] == pytest.approx((0.2 + 3.0) / 2)  # of 0.004, 0.2, 3, infinite
    assert row["median cm"] == pytest.approx(160)
    assert recall.columns[2:] == ("0.5 cm 1°", "0.25 m 2°", "5 m 10°")
    assert recall.rows[0][2:] == pytest.approx((0.25, 0.5, 0.75))
    assert any("1 of 4 queries have no pose" in note for note in report.notes)
    assert any("1 poses of result.txt are of no query" in note for note in report.notes)
    x, y = report.curves[0].series["result.txt"]
    assert y[np.searchsorted(x, 0.1)] == 0.25
    assert y[-1] == 0.75
    assert report.settings["formats"] == ["hloc", "colmap"]


def test_a_result_is_judged_on_the_queries_named(judged):
    (judged / "list.txt").write_text("# queries\nquery/1.jpg PINHOLE 640 480 500 500 320 240\n")
    assert read_names(judged / "list.txt") == ["query/1.jpg"]
    report = evaluate_pose_file(
        judged / "result.txt", judged / "truth", queries=judged / "list.txt", metric=False
    )
    assert [table.rows[0][2:4] for table in report.tables] == [(1, 1.0)]  # no recall in metres
    assert np.isnan(report.tables[0].rows[0][report.tables[0].columns.index("median m")])
    (judged / "list.txt").write_text("query/9.jpg\n")
    with pytest.raises(InputError, match=r"lacks the true pose of queries: query/9\.jpg"):
        evaluate_pose_file(judged / "result.txt", judged / "truth", queries=judged / "list.txt")
    write_poses(judged / "result.txt", {"x": BY_HAND})
    with pytest.raises(InputError, match="no name is that of a query"):
        evaluate_pose_file(judged / "result.txt", judged / "truth")
