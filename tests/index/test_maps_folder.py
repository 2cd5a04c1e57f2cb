"""A map on disk: whole or not at all, and damaged ones that say so."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from index import lock
from index.catalog import FILE
from index.maps.folder import MapFolder, MapRecord
from locate.errors import (
    DatabaseCorruptError,
    DatabaseError,
    DatabaseMismatchError,
    DatabaseMissingError,
)
from locate.localization.pose import LOCALIZED
from pipelines.indexing.build import remove_images
from pipelines.localization.localizer import Localizer
from pipelines.localization.reference_map import ReferenceMap
from tests.helpers.small_town import errors, queries_of, same, small_town

ROOT = Path(__file__).resolve().parents[2]
OTHER = MapRecord("import-map", "gem")
RECORD = MapRecord("build-map", "sift", "metre", {"scale": 2.0}, 0.3, {"settings": {"seed": 1}})


def tiny_model(points=3):
    """Two photos of a few points."""
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(
        camera_id=1, model="SIMPLE_PINHOLE", width=64, height=48, params=[50, 32, 24]
    )
    model.add_camera_with_trivial_rig(camera)
    world = np.array([[0.1 * k, 0.2 * k, 5.0 + k] for k in range(points)]).reshape(-1, 3)
    for i in (1, 2):
        pose = np.c_[np.eye(3), [0.3 * i, 0, 0]]
        seen = world + pose[:, 3]
        keypoints = 50 * seen[:, :2] / seen[:, 2:] + (32, 24)
        image = pycolmap.Image(name=f"{i}.jpg", keypoints=keypoints, camera_id=1, image_id=i)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose))
    for k, xyz in enumerate(world):
        track = pycolmap.Track()
        for i in (1, 2):
            track.add_element(i, k)
        model.add_point3D(xyz, track)
    return model


@pytest.fixture
def small(tmp_path):
    """A map of three points, as far as its model and record go."""
    folder = MapFolder(tmp_path / "map")
    folder.write(tiny_model(), RECORD)
    return folder


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return small_town(tmp_path_factory)


@pytest.fixture
def copy(town, tmp_path):
    """A copy of the town's map, to damage."""
    shutil.copytree(town[1], tmp_path / "copy")
    return MapFolder(tmp_path / "copy")


def rebuilt(old, more=None):
    """The same model, each photo with a camera of its own, and the one called `more` with a further
    keypoint."""
    model = pycolmap.Reconstruction()
    for i, image in old.images.items():
        camera = pycolmap.Camera(image.camera.todict() | {"camera_id": i})
        model.add_camera_with_trivial_rig(camera)
        keypoints = [point.xy for point in image.points2D] + [[3.0, 4.0]] * (image.name == more)
        own = pycolmap.Image(
            name=image.name, keypoints=np.array(keypoints), camera_id=i, image_id=i
        )
        model.add_image_with_trivial_frame(own, image.cam_from_world())
    for point in old.points3D.values():
        model.add_point3D(point.xyz, point.track)
    return model


def leftovers(folder):
    return sorted(file.name for file in folder.folder.iterdir())


# --- record and model


def test_what_is_written_is_read(small):
    assert small.exists()
    assert small.read_record() == RECORD
    model, written = small.read_model(), tiny_model()
    assert {i: p.xyz.tolist() for i, p in model.points3D.items()} == {
        i: p.xyz.tolist() for i, p in written.points3D.items()
    }
    for i, image in written.images.items():
        np.testing.assert_array_equal(
            model.images[i].cam_from_world().matrix(), image.cam_from_world().matrix()
        )
    small.write(tiny_model(5), RECORD)
    assert small.read_model().num_points3D() == 5
    assert leftovers(small) == ["model"]


def test_no_map_says_how_to_make_one(tmp_path, small):
    assert not MapFolder(tmp_path / "nowhere").exists()
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DatabaseMissingError, match=r"no finished map at .*locate build-map"):
            MapFolder(folder).read_record()
    assert not (tmp_path / "nowhere").exists()
    for name in ("points3D.bin", "images.bin", "cameras.bin", "map.json"):
        shutil.copytree(small.folder, tmp_path / name)
        (tmp_path / name / "model" / name).unlink()
        with pytest.raises(DatabaseMissingError, match="no finished map"):
            MapFolder(tmp_path / name).read_record()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"text"',
        "{}",
        '{"version": 1}',
        '{"version": "x", "made_by": "a", "extractor": "b"}',
        '{"version": 1, "made_by": "a", "extractor": "b", "unknown": 3}',
    ],
)
def test_a_damaged_record(text, small):
    small.record.write_text(text)
    with pytest.raises(DatabaseCorruptError, match=r"map\.json is damaged .*make the map again"):
        small.read_record()


def test_a_record_of_the_first_version(small):
    """It knows nothing of doubts."""
    values = json.loads(small.record.read_text())
    assert values.pop("doubt") is None
    small.record.write_text(json.dumps(values | {"version": 1}))
    assert small.read_record().doubt is None


def test_a_record_of_a_newer_version(small):
    """Which may have fields that this one does not know."""
    values = json.loads(small.record.read_text()) | {"version": 99, "colour": "red"}
    small.record.write_text(json.dumps(values))
    with pytest.raises(DatabaseMismatchError, match="newer version of locate; upgrade"):
        small.read_record()


# --- kills and full disks


@pytest.mark.parametrize("instant", [1, 2])
def test_a_kill_between_the_renames_leaves_a_model(small, monkeypatch, instant):
    rename, calls = Path.rename, []

    def killed(self, target):
        calls.append(target)
        if len(calls) == instant:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        small.write(tiny_model(5), OTHER)
    monkeypatch.undo()
    assert len(calls) == instant
    for _ in range(2):
        assert small.exists()
        assert small.read_model().num_points3D() == 3
        assert small.read_record() == RECORD  # the model's own
        small.recover()
    assert small.model.is_dir()
    assert "model.old" not in leftovers(small)
    small.write(tiny_model(4), RECORD)
    assert small.read_model().num_points3D() == 4
    assert leftovers(small) == ["model"]


def test_recovery_prefers_the_new_model(small):
    """Killed after both renames, before the old one was deleted."""
    shutil.copytree(small.model, small.folder / "model.old")
    small.write(tiny_model(4), RECORD)
    shutil.copytree(small.model, small.folder / "model.old")
    (small.folder / "model.old" / "cameras.bin").unlink()
    small.recover()
    assert leftovers(small) == ["model"]
    assert small.read_model().num_points3D() == 4


@pytest.mark.parametrize("part", ["model", "record", "both", "fsync"])
def test_a_write_that_fails_leaves_the_old(small, monkeypatch, part):
    def full(*_):
        raise OSError(28, "No space left on device")

    class Full:
        def write_binary(self, _):
            raise RuntimeError("cannot write")

    if part == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif part in ("record", "both"):
        monkeypatch.setattr(Path, "write_text", full)
    write, what = {
        "model": (small.write, (Full(), OTHER)),
        "record": (small.write_record, (OTHER,)),
        "both": (small.write, (tiny_model(5), OTHER)),
        "fsync": (small.write, (tiny_model(5), OTHER)),
    }[part]
    with pytest.raises(
        DatabaseError, match=r"cannot write the map in .*the old map is still there"
    ):
        write(*what)
    monkeypatch.undo()
    assert small.read_record() == RECORD
    assert small.read_model().num_points3D() == 3


# --- damaged models

DAMAGES = {
    "points3D.bin cut in half": ("points3D.bin", lambda b: b[: len(b) // 2]),
    "points3D.bin cut in its count": ("points3D.bin", lambda b: b[:4]),
    "points3D.bin empty": ("points3D.bin", lambda b: b""),
    "points3D.bin counts too many": ("points3D.bin", lambda b: b"\xff" * 8 + b[8:]),
    "points3D.bin counts too few": ("points3D.bin", lambda b: b"\x05" + bytes(7) + b[8:]),
    "points3D.bin overwritten": ("points3D.bin", lambda b: b[:99] + b"\xff" * 500 + b[599:]),
    "images.bin cut": ("images.bin", lambda b: b[:-100]),
    "images.bin overwritten": ("images.bin", lambda b: b[:5000] + b"\xff" * 64 + b[5064:]),
    "cameras.bin cut": ("cameras.bin", lambda b: b[:-9]),
    "frames.bin cut": ("frames.bin", lambda b: b[:-9]),
    "sizes.json lost": ("sizes.json", lambda b: b"{"),
    "sizes.json a list": ("sizes.json", lambda b: b"[1]"),
}


def test_damaged_models_are_errors_at_once(town, tmp_path):
    """Some of them make COLMAP read for ever, or take keypoints as they are: each in a process that a
    hang would not take along."""
    for number, (file, damage) in enumerate(DAMAGES.values()):
        model = tmp_path / str(number) / "model"
        shutil.copytree(town[1] / "model", model)
        (model / file).write_bytes(damage((model / file).read_bytes()))
    code = (
        "import sys; from pathlib import Path; from locate.errors import LocateError\n"
        "from index.maps.folder import MapFolder\n"
        "for folder in sys.argv[1:]:\n"
        "    try: MapFolder(Path(folder)).read_model(); print('read')\n"
        "    except LocateError as error: print(type(error).__name__, error)\n"
    )
    folders = [str(tmp_path / str(number)) for number in range(len(DAMAGES))]
    done = subprocess.run(
        [sys.executable, "-c", code, *folders],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(DAMAGES), done.stderr[-500:]
    for name, line in zip(DAMAGES, lines, strict=True):
        assert line.startswith("DatabaseCorruptError"), f"{name}: {line}"
        assert "make the map again" in line


def test_maps_that_know_only_the_sizes_of_their_files_are_read(copy):
    sizes = {f.name: f.stat().st_size for f in copy.model.iterdir() if f.suffix == ".bin"}
    (copy.model / "sizes.json").write_text(json.dumps(sizes))
    assert copy.read_model().num_reg_images() == 10
    points = copy.model / "points3D.bin"
    points.write_bytes(points.read_bytes()[:-1])
    with pytest.raises(DatabaseCorruptError, match=r"points3D\.bin is not as it was written"):
        copy.read_model()


# --- maps for queries


def test_no_map_and_no_model(tmp_path, copy):
    with pytest.raises(DatabaseMissingError, match="locate build-map"):
        Localizer(tmp_path / "nowhere")
    shutil.rmtree(copy.model)
    with pytest.raises(DatabaseMissingError, match="no finished map"):
        Localizer(copy.folder)


def test_features_that_are_gone(copy):
    (copy.features / FILE).unlink()
    with pytest.raises(DatabaseCorruptError, match="is gone; make the map again"):
        Localizer(copy.folder)
    shutil.rmtree(copy.features)
    with pytest.raises(DatabaseCorruptError, match="is gone; make the map again"):
        Localizer(copy.folder)
    assert not copy.features.exists()


def test_features_of_a_photo_that_are_gone_or_changed(copy):
    with closing(sqlite3.connect(copy.features / FILE)) as connection, connection:
        connection.execute("UPDATE features SET descriptors = zeroblob(length(descriptors)) "
                           "WHERE image_id = 2")  # fmt: skip
    with pytest.raises(DatabaseCorruptError):
        ReferenceMap(copy.folder)
    with closing(sqlite3.connect(copy.features / FILE)) as connection, connection:
        connection.execute("DELETE FROM features WHERE image_id = 2")
    with pytest.raises(DatabaseCorruptError, match="image 2"):
        ReferenceMap(copy.folder)


def test_keypoints_that_are_not_the_features(copy):
    copy.write(rebuilt(copy.read_model(), more="church/02.jpg"), copy.read_record())
    with pytest.raises(
        DatabaseCorruptError, match=r"church/02\.jpg has \d+ keypoints in the model, but \d+ feat"
    ):
        ReferenceMap(copy.folder)


def test_a_model_without_points(copy):
    model = copy.read_model()
    for point_id in list(model.point3D_ids()):
        model.delete_point3D(point_id)
    copy.write(model, copy.read_record())
    with pytest.raises(DatabaseMissingError, match="has no points; make it again"):
        ReferenceMap(copy.folder)


def test_without_some_photos_the_others_still_work(copy, town):
    query = queries_of(town[0])["church"]
    assert remove_images(copy.features, ["church/01.jpg", "town-hall/*"])
    with Localizer(copy.folder, workers=1) as localizer:
        assert [image.name for image in localizer.map.images] == [
            f"church/0{k}.jpg" for k in (2, 3, 4, 5)
        ]
        pose = localizer.localize(query.path, query.camera)
    assert pose.verdict == LOCALIZED
    assert errors(pose, query.truth)[0] < 0.01
    assert "church/01.jpg" not in pose.images
    assert len(remove_images(copy.features, ["church/*"])) == 4
    with pytest.raises(DatabaseCorruptError, match="none of the model's images"):
        Localizer(copy.folder)


def test_a_map_that_cannot_be_written_and_whose_photos_are_gone(copy, town, monkeypatch):
    """Localizing reads only, and reads nothing outside the map."""
    query = queries_of(town[0])["church"]
    with Localizer(town[1], workers=1) as localizer:
        before = localizer.localize(query.path, query.camera)
    with closing(sqlite3.connect(copy.features / FILE)) as connection, connection:
        connection.execute("UPDATE roots SET path = '/nowhere/at/all'")
    files = {f: (f.stat().st_mtime_ns, f.stat().st_size) for f in copy.folder.rglob("*")}
    for folder in (copy.folder, copy.features, copy.model):
        folder.chmod(0o555)
    access = os.access  # root may write everywhere
    monkeypatch.setattr(os, "access", lambda p, mode: mode != os.W_OK and access(p, mode))
    monkeypatch.setattr(lock, "writer", None)
    try:
        with Localizer(copy.folder, workers=1) as localizer:
            assert same(localizer.localize(query.path, query.camera), before)
        after = {f: (f.stat().st_mtime_ns, f.stat().st_size) for f in copy.folder.rglob("*")}
        assert after == files
    finally:
        for folder in (copy.folder, copy.features, copy.model):
            folder.chmod(0o755)


def test_a_device_with_several_cameras_has_none(copy):
    """Where each photo has a camera of its own, a query must not get that of any."""
    assert len(ReferenceMap(copy.folder).devices) == 4  # one a focal length
    old = copy.read_model()
    copy.write(rebuilt(old), copy.read_record())
    shared = ReferenceMap(copy.folder).devices
    lengths = [image.camera.mean_focal_length() for image in old.images.values()]
    assert len(shared) == sum(lengths.count(length) == 1 for length in set(lengths)) < 4
