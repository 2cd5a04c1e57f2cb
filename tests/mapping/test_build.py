"""Maps from photos alone. The rendered town has exact cameras; geometry is computed here by hand."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from itertools import combinations
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from index.catalog import Catalog
from index.maps.folder import MapFolder
from index.maps.matches import fingerprint, verified_pairs
from index.records import FileState, ImageRow
from locate.errors import DatabaseMismatchError, DatabaseMissingError, InputError
from locate.formats.colmap import read_model
from locate.localization.pose import LOCALIZED
from locate.types import PhotoInfo
from pipelines.indexing.build import build_index, remove_images
from pipelines.localization.localizer import Localizer
from pipelines.mapping import features as map_features
from pipelines.mapping.add import add_to_map
from pipelines.mapping.build import build_map
from pipelines.mapping.features import choose_pairs
from pipelines.mapping.matching import exif_camera
from pipelines.mapping.summary import MapReport
from pipelines.town.town import make_town

WORKER = Path(__file__).parents[1] / "crash/map_worker.py"
TURNS = 3  # of four kills each


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town") / "t", landmarks=2, views=6, size=(640, 480))


@pytest.fixture(scope="module")
def church(town):
    return town.root / "landmarks" / town.landmarks[0]


@pytest.fixture(scope="module")
def built(church, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "map"
    return out, build_map(out, images=church, extractor="sift", workers=1)


def similarity(source, target):
    """(s, R, t) with target = s R source + t in the least squares (Umeyama 1991)."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    u, d, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ sign @ vt
    scale = (d * np.diag(sign)).sum() / (a**2).sum()
    return scale, rotation, target.mean(axis=0) - scale * rotation @ source.mean(axis=0)


def errors(model, truth):
    """Distance of centres, and degrees between rotations, to true 3 x 4 poses by name, after the best
    similarity of the centres."""
    poses = {image.name: image.cam_from_world().matrix() for image in model.images.values()}
    names = sorted(poses)
    centres = [np.array([-p[n][:, :3].T @ p[n][:, 3] for n in names]) for p in (poses, truth)]
    scale, rotation, shift = similarity(*centres)
    apart = np.linalg.norm(scale * centres[0] @ rotation.T + shift - centres[1], axis=1)
    angles = []
    for n in names:
        relative = poses[n][:, :3] @ rotation.T @ truth[n][:, :3].T
        angles.append(np.degrees(np.arccos(np.clip((np.trace(relative) - 1) / 2, -1, 1))))
    return apart, np.array(angles)


def residuals(model):
    """Pixels between keypoints and projected points, by the formula of SIMPLE_RADIAL."""
    out = []
    for image in model.images.values():
        pose = image.cam_from_world().matrix()
        f, cx, cy, k = model.cameras[image.camera_id].params
        for point in image.points2D:
            if point.has_point3D():
                x, y, z = pose[:, :3] @ model.points3D[point.point3D_id].xyz + pose[:, 3]
                radial = 1 + k * (x * x + y * y) / z**2
                out.append(point.xy - [f * radial * x / z + cx, f * radial * y / z + cy])
    return np.array(out)


def true_poses(town, landmark):
    return {
        name.split("/")[-1]: pose
        for name, pose in read_model(town.root / "colmap").poses.items()
        if name.startswith(landmark)
    }


# --- the map


def test_the_cameras_stand_where_the_town_was_photographed_from(town, built):
    out, report = built
    assert (report.registered, report.images, report.unregistered) == (6, 6, ())
    assert (report.warnings, MapFolder(out).read_record().doubt) == ((), None)
    distances, angles = errors(pycolmap.Reconstruction(out / "model"), true_poses(town, "church"))
    assert distances.max() < 0.5  # metres, at some 30 m; the focal lengths are estimated
    assert angles.max() < 1


def test_keypoint_k_is_feature_k_under_the_same_id_and_half_a_pixel_further(built):
    out, _ = built
    model = pycolmap.Reconstruction(out / "model")
    database = pycolmap.Database.open(out / "matches.db")
    with Catalog.open(out / "features") as catalog:
        rows = {row.id: row.path for row in catalog.images("ok")}
        assert {i: image.name for i, image in model.images.items()} == rows
        for i, image in model.images.items():
            ours = catalog.features(i).keypoints
            theirs = np.array([point.xy for point in image.points2D])
            np.testing.assert_allclose(theirs, ours + 0.5, atol=1e-3)
            np.testing.assert_allclose(database.read_keypoints(i), ours + 0.5, atol=1e-3)
            assert database.read_image(i).name == rows[i]
            assert database.read_image(i).camera_id == image.camera_id
    database.close()


def test_the_report_is_what_a_count_by_hand_gives(built):
    out, report = built
    model = pycolmap.Reconstruction(out / "model")
    lengths = [point.track.length() for point in model.points3D.values()]
    assert report.points == len(lengths) > 300
    assert report.track_length == pytest.approx(np.mean(lengths))
    assert report.observations == pytest.approx(sum(lengths) / 6)
    apart = np.linalg.norm(residuals(model), axis=1)
    assert len(apart) == sum(lengths)
    assert apart.max() < 4.01
    # COLMAP averages over points, each over its track
    per_point = [
        np.mean([
            np.linalg.norm(model.images[e.image_id].points2D[e.point2D_idx].xy - seen)
            for e, seen in zip(p.track.elements, projections(model, p), strict=True)
        ])
        for p in model.points3D.values()
    ]  # fmt: skip
    assert report.error == pytest.approx(np.mean(per_point), rel=1e-6)
    assert MapReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert MapFolder(out).read_record().summary["report"] == json.loads(
        json.dumps(report.to_json())
    )


def projections(model, point):
    for element in point.track.elements:
        image = model.images[element.image_id]
        yield model.cameras[image.camera_id].img_from_cam(image.cam_from_world() * point.xyz)


def test_the_global_mapper_finds_the_same_cameras(town, church, built, tmp_path):
    out = tmp_path / "map"
    shutil.copytree(built[0], out)
    report = build_map(out, images=church, mapper="global", workers=1)
    assert report.registered == 6
    distances, _ = errors(pycolmap.Reconstruction(out / "model"), true_poses(town, "church"))
    assert distances.max() < 0.5


@pytest.mark.data
def test_fountain_from_photos_alone(data, tmp_path):
    scene = data / "eval" / "localization" / "fountain-P11"
    report = build_map(tmp_path / "map", images=scene / "images", extractor="sift")
    assert report.registered == 11
    assert report.error < 1
    distances, angles = errors(
        pycolmap.Reconstruction(tmp_path / "map" / "model"), read_model(scene / "colmap_gt").poses
    )
    assert distances.max() < 0.1  # metres; without calibration
    assert angles.max() < 0.5


# --- stages


def test_what_is_finished_is_not_done_again(church, built, tmp_path):
    out = tmp_path / "map"
    shutil.copytree(built[0], out)
    files = sorted((out / "model").iterdir())
    before = [(f.read_bytes(), f.stat().st_mtime_ns) for f in files]
    events = []
    report = build_map(out, images=church, workers=1, progress=lambda *event: events.append(event))
    assert events == []
    assert [(f.read_bytes(), f.stat().st_mtime_ns) for f in files] == before
    assert (report.registered, report.points) == (6, built[1].points)


def test_an_index_gives_the_same_map_without_its_photos(church, built, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(church, photos)
    build_index(photos, tmp_path / "index", extractor="sift", workers=1)
    shutil.rmtree(photos)
    out = tmp_path / "map"
    report = build_map(out, index=tmp_path / "index", workers=1)
    assert report.registered == 6
    assert fingerprint(out / "matches.db") == fingerprint(built[0] / "matches.db")
    assert remove_images(tmp_path / "index", ["*"])  # the map owns what it needs
    shutil.rmtree(tmp_path / "index")
    assert MapFolder(out).read_model().num_reg_images() == 6
    with Catalog.open(out / "features") as catalog:
        assert catalog.counts()["ok"] == 6


def test_the_map_follows_its_source_and_matches_only_what_is_new(church, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "map"
    shutil.copytree(church, photos)
    build_map(out, images=photos, extractor="sift", workers=1)
    pairs = verified_pairs(out / "matches.db")
    with Catalog.open(out / "features") as catalog:
        ids = {row.path: row.id for row in catalog.images()}
    (photos / "06.jpg").unlink()
    Image.open(church / "05.jpg").rotate(180).save(photos / "05.jpg", quality=95)
    events = []
    report = build_map(out, images=photos, workers=1, progress=lambda *event: events.append(event))
    assert (report.registered, report.images) == (5, 5)
    assert max(total for stage, _, total in events if stage == "matching") == 4
    after = verified_pairs(out / "matches.db")
    assert {p: n for p, n in after.items() if p in pairs} == {
        p: n for p, n in pairs.items() if not {ids["05.jpg"], ids["06.jpg"]} & set(p)
    }
    model = pycolmap.Reconstruction(out / "model")
    turned = model.find_image_with_name("05.jpg")
    assert turned.image_id not in ids.values()
    # upside down: its y axis points up in the world, where the others' points down
    up = [model.find_image_with_name(f"0{i}.jpg").cam_from_world().matrix()[1] for i in (1, 5)]
    assert up[0][:3] @ up[1][:3] < -0.9


def test_photos_that_were_added_stay_when_the_source_changes(church, tmp_path):
    photos, new, out = tmp_path / "photos", tmp_path / "new", tmp_path / "map"
    for folder, numbers in ((photos, (1, 2, 3, 4, 5)), (new, (6,))):
        folder.mkdir()
        for i in numbers:
            shutil.copy(church / f"0{i}.jpg", folder)
    build_map(out, images=photos, extractor="sift", workers=1)
    before = poses_of(pycolmap.Reconstruction(out / "model"))
    report = add_to_map(out, [new], workers=1)
    assert (report.registered, dict(report.verified)) == (6, {"06.jpg": 5})
    after = poses_of(pycolmap.Reconstruction(out / "model"))
    for name, pose in before.items():
        np.testing.assert_allclose(after[name], pose, atol=1e-9)
    events = []
    again = build_map(out, images=photos, progress=lambda *event: events.append(event))
    assert (again.registered, events) == (6, [])  # nothing has changed since
    (photos / "05.jpg").unlink()
    report = build_map(out, images=photos, workers=1)
    assert report.registered == 5
    assert {*poses_of(pycolmap.Reconstruction(out / "model"))} == {*after} - {"05.jpg"}


def test_a_damaged_database_of_matches_is_made_again(church, built, tmp_path):
    out = tmp_path / "map"
    shutil.copytree(built[0], out)
    for end in ("-wal", "-shm"):
        (out / f"matches.db{end}").unlink(missing_ok=True)
    (out / "matches.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    build_map(out, images=church, workers=1)
    assert fingerprint(out / "matches.db") == fingerprint(built[0] / "matches.db")


@pytest.mark.parametrize(
    "lost",
    [
        "DELETE FROM keypoints WHERE image_id = 2",
        "DELETE FROM frames WHERE frame_id = 2; DELETE FROM keypoints WHERE image_id = 2",
        "DELETE FROM two_view_geometries WHERE pair_id % 4 = 1",
    ],
)
def test_what_a_kill_left_half_written_is_written_again(lost, church, built, tmp_path):
    out = tmp_path / "map"
    shutil.copytree(built[0], out)
    # Closed before COLMAP opens it: each has an SQLite of its own.
    with closing(sqlite3.connect(out / "matches.db")) as connection:
        connection.executescript(lost)
    assert fingerprint(out / "matches.db") != fingerprint(built[0] / "matches.db") or "key" in lost
    build_map(out, images=church, workers=1)
    assert fingerprint(out / "matches.db") == fingerprint(built[0] / "matches.db")
    assert pairs_of(out / "matches.db") == pairs_of(built[0] / "matches.db")
    database = pycolmap.Database.open(out / "matches.db")
    assert [database.num_images(), database.num_frames(), database.num_keypoints()] == [
        6, 6, sum(i.num_points2D() for i in pycolmap.Reconstruction(out / "model").images.values())
    ]  # fmt: skip
    database.close()


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_ctrl_c_while_colmap_maps(mapper, church, built, tmp_path):
    out, told = tmp_path / "map", []
    shutil.copytree(built[0], out)
    MapFolder(out).record.unlink()

    def interrupt(stage, *event):
        if stage == "mapping":
            told.append(event)
            if len(told) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_map(out, images=church, mapper=mapper, workers=1, progress=interrupt)
    assert not (out / "mapping").exists()
    assert build_map(out, images=church, mapper=mapper, workers=1).registered == 6


def test_kill_at_random_instants(church, built, tmp_path):
    """Where to kill is drawn in events, so that a machine of any speed is hit at work."""
    truth = pycolmap.Reconstruction(built[0] / "model")
    generator = random.Random(0)
    for turn in range(TURNS):
        out = tmp_path / f"map-{turn}"
        folder = MapFolder(out)
        for stage, last in (("features", 5), ("matching", 6), ("mapping", 5), ("write", 3)):
            process = start(church, out)
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            events = generator.randint(1, last)
            while events:
                line = process.stdout.readline()
                assert line, f"nothing of the stage {stage} was left to be killed in"
                events -= stage in line
            time.sleep(generator.uniform(0, 0.01))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if folder.exists():  # a map that can be read is a whole one
                assert folder.read_model().num_reg_images() == truth.num_reg_images()
        process = start(church, out)
        _, problems = process.communicate()
        assert process.returncode == 0, problems
        assert {*folder.folder.iterdir()} >= {folder.model, folder.matches}
        assert not (out / "mapping").exists()
        assert fingerprint(folder.matches) == fingerprint(built[0] / "matches.db")
        assert pairs_of(folder.matches) == pairs_of(built[0] / "matches.db")
        made = pycolmap.Reconstruction(folder.model)
        assert poses_of(made).keys() == poses_of(truth).keys()
        for name, pose in poses_of(made).items():
            np.testing.assert_allclose(pose, poses_of(truth)[name], atol=1e-6)


def test_a_rebuild_that_is_killed_leaves_a_map_that_localizes(church, tmp_path):
    """Photos that the model shows have changed and gone, so every stage has something to do."""
    photos, out = tmp_path / "photos", tmp_path / "map"
    shutil.copytree(church, photos)
    build_map(out, images=photos, extractor="sift", workers=1)
    old = {*poses_of(MapFolder(out).read_model())}
    (photos / "06.jpg").unlink()
    Image.open(church / "05.jpg").rotate(180).save(photos / "05.jpg", quality=95)
    for stage, wanted in (("features", 1), ("matching", 3), ("mapping", 2), ("before write", 1)):
        process = start(photos, out)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        seen = 0
        while seen < wanted:
            line = process.stdout.readline()
            assert line, f"nothing of the stage {stage} was left to be killed in"
            seen += stage in line
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert {*poses_of(MapFolder(out).read_model())} == old
        with Localizer(out, workers=1) as localizer:
            # The new 05 is not taken for the one that the old model was made of.
            assert {image.name for image in localizer.map.images} <= old - {"05.jpg"}
            assert localizer.localize(photos / "01.jpg").verdict == LOCALIZED
    process = start(photos, out)
    assert process.communicate()[1] is not None
    assert process.returncode == 0
    assert {*poses_of(MapFolder(out).read_model())} == old - {"06.jpg"}


def pairs_of(path):
    """All that is stored of pairs, bit by bit."""
    with closing(sqlite3.connect(path)) as connection:
        return [
            list(connection.execute(f"SELECT * FROM {table} ORDER BY pair_id"))
            for table in ("matches", "two_view_geometries")
        ]


def poses_of(model):
    return {image.name: image.cam_from_world().matrix() for image in model.images.values()}


def start(photos, out):
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(photos), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- photos that do not register


def test_every_photo_that_does_not_register_has_its_reason(town, tmp_path):
    photos = tmp_path / "photos"
    hall = town.landmarks[1]
    shutil.copytree(town.root / "landmarks" / town.landmarks[0], photos / "a")
    for i in (1, 2, 3):
        (photos / "b").mkdir(exist_ok=True)
        shutil.copy(town.root / "landmarks" / hall / f"0{i}.jpg", photos / "b")
    Image.new("RGB", (640, 480)).save(photos / "black.jpg")
    Image.effect_noise((640, 480), 80).save(photos / "noise.jpg")
    (photos / "broken.jpg").write_bytes((photos / "a" / "01.jpg").read_bytes()[:5000])
    report = build_map(tmp_path / "map", images=photos, extractor="sift", workers=1)
    assert (report.registered, report.images) == (6, 12)
    reasons = dict(report.unregistered)
    assert "truncated" in reasons["broken.jpg"]
    assert "no local features" in reasons["black.jpg"]
    assert "no verified matches" in reasons["noise.jpg"]
    for i in (1, 2, 3):
        assert reasons[f"b/0{i}.jpg"].startswith("verified with 2 photos, but these are no part")


def test_photos_of_nothing_in_common_make_no_map(photo_factory, tmp_path):
    for i in range(3):
        photo_factory(tmp_path / "photos" / f"{i}.png", size=(320, 240), seed=i)
    with pytest.raises(InputError, match=r"no map: of 3 photos with features, 0 of 3 pairs"):
        build_map(tmp_path / "map", images=tmp_path / "photos", extractor="sift", workers=1)
    assert not MapFolder(tmp_path / "map").exists()
    with pytest.raises(DatabaseMissingError, match="build-map"):
        add_to_map(tmp_path / "map", [tmp_path / "photos"])


# --- pairs and cameras


def test_pairs_beyond_a_few_photos_are_the_most_similar(
    photo_factory, fake_extractor, tmp_path, monkeypatch
):
    for i in range(12):
        photo_factory(tmp_path / "photos" / f"{i:02}.jpg", size=(160, 120), seed=i)
    build_index(tmp_path / "photos", tmp_path / "index", extractor=fake_extractor)
    with Catalog.open(tmp_path / "index") as catalog:
        assert choose_pairs(catalog) == list(combinations(range(1, 13), 2))
        assert choose_pairs(catalog, {4}) == [p for p in combinations(range(1, 13), 2) if 4 in p]
        monkeypatch.setattr(map_features, "ALL_PAIRS", 11)
        monkeypatch.setattr(map_features, "PARTNERS", 3)
        vectors = catalog.vectors_of(range(1, 13))
        expected = set()
        for i in vectors:
            others = sorted((j for j in vectors if j != i), key=lambda j: -vectors[i] @ vectors[j])
            expected |= {tuple(sorted((i, j))) for j in others[:3]}
        assert choose_pairs(catalog) == sorted(expected)


def test_pairs_without_a_global_descriptor_are_found_by_votes(town, tmp_path, monkeypatch):
    monkeypatch.setattr(map_features, "ALL_PAIRS", 3)
    monkeypatch.setattr(map_features, "PARTNERS", 4)
    build_index(town.root / "landmarks", tmp_path / "index", extractor="sift", workers=1)
    with Catalog.open(tmp_path / "index") as catalog:
        places = {row.id: row.path.split("/")[0] for row in catalog.images()}
        pairs = choose_pairs(catalog)
    assert len(pairs) >= 12 * 4 / 2
    assert np.mean([places[i] == places[j] for i, j in pairs]) > 0.9  # by chance 5 / 11


@pytest.mark.parametrize(
    ("info", "focal", "known"),
    [
        ({"camera": "A", "focal_35mm": 27.0, "focal_mm": 4.0}, 27 / 36 * 4000, True),
        ({"camera": "A", "focal_mm": 4.0}, 1.2 * 4000, False),
        ({"camera": "SONY NEX-5", "focal_mm": 16.0}, 16 / 23.5 * 4000, True),
        # With the zoom or without: in the middle, and COLMAP is not told that it is known.
        ({"camera": "A", "focal_35mm": 27.0, "digital_zoom": 2.0}, 2**0.5 * 27 / 36 * 4000, False),
        ({}, 1.2 * 4000, False),
    ],
)
def test_the_focal_length_of_exif(info, focal, known):
    row = row_of(7, **info)
    key, camera = exif_camera(row)
    assert camera.params.tolist() == pytest.approx([focal, 1500, 2000, 0])
    assert camera.model_name == "SIMPLE_RADIAL"
    assert camera.has_prior_focal_length == known
    assert (exif_camera(row_of(8, **info))[0] == key) == bool(info)
    for change in (
        {"size": (4000, 3000)},
        {"digital_zoom": 1.5},
        {"orientation": 6},
        {"exif_size": (3000, 3000)},
        {"focal_mm": 5.0, "focal_35mm": 30.0},
    ):
        assert exif_camera(row_of(7, **(info | change)))[0] != key or not info
    cropped = info | {"exif_size": (3000, 3000)}
    assert exif_camera(row_of(7, **cropped))[0] != exif_camera(row_of(8, **cropped))[0]


def row_of(image_id, size=(3000, 4000), **info):
    state = FileState("", 0, 0)
    return ImageRow(image_id, 1, "x", None, "ok", None, state, PhotoInfo(size=size, **info), "")


# --- what the caller did wrong


def test_wrong_calls(church, built, tmp_path, photo_factory, fake_extractor):
    with pytest.raises(InputError, match="one of the two"):
        build_map(tmp_path / "map")
    with pytest.raises(InputError, match="one of the two"):
        build_map(tmp_path / "map", index=church, images=church)
    with pytest.raises(InputError, match="leave extractor"):
        build_map(tmp_path / "map", index=church, extractor="sift")
    with pytest.raises(InputError, match="incremental"):
        build_map(tmp_path / "map", images=church, mapper="magic")
    with pytest.raises(InputError, match="does not exist"):
        build_map(tmp_path / "map", images=tmp_path / "nowhere")
    with pytest.raises(DatabaseMissingError, match="build-index"):
        build_map(tmp_path / "map", index=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no photos"):
        build_map(tmp_path / "map", images=tmp_path / "empty")
    assert not (tmp_path / "map").exists()
    with pytest.raises(InputError, match="is a file"):
        build_map(church / "01.jpg", images=church)
    with pytest.raises(InputError, match="and no map"):
        build_map(church, images=church)
    with pytest.raises(InputError, match="no local features"):
        build_map(tmp_path / "map", images=church, extractor="gem")
    build_index(church, tmp_path / "index", extractor=fake_extractor)
    with pytest.raises(DatabaseMismatchError, match="another folder"):
        build_map(built[0], index=tmp_path / "index")


def test_two_photos_of_one_name(photo_factory, tmp_path):
    for i, folder in enumerate(("a", "b")):
        photo_factory(tmp_path / folder / "01.png", seed=i)
        build_index(tmp_path / folder, tmp_path / "index", extractor="sift", workers=1)
    with pytest.raises(InputError, match=r"a/01\.png and .*b/01\.png would have the same name"):
        build_map(tmp_path / "map", index=tmp_path / "index", workers=1)
