"""Places and scenes that no training sees: folders, scores of queries, errors of relative poses."""

from __future__ import annotations

import csv
import math

import numpy as np
import pycolmap
import pytest

from benchmarks.common.differences import Row, error_table
from benchmarks.common.held_out import places_of
from benchmarks.common.held_out_retrieval import retrieval_scores, write_places
from benchmarks.common.held_out_scenes import relative_pose_error, tag_camera
from locate.datasets.records import PosedPhoto
from locate.datasets.retrieval import read_retrieval
from locate.images.focal_length import exif_focal
from locate.images.reading import read_photo
from locate.localization.query_camera import device_of
from locate.training.data.photos import PhotoPool
from tests.helpers.fake_extractor import FakeExtractor


@pytest.fixture
def data(tmp_path, photo_factory):
    train = tmp_path / "data/train"
    for place in range(20):
        for k in range(6):
            photo_factory(train / f"landmarks/l{place}/{k}.png", (160, 120), place, quality=40 + k)
    for place in range(4):
        for k in range(2):
            photo_factory(train / f"places/set/p{place}/day-{k}.png", (160, 120), 50 + place)
            photo_factory(train / f"places/set/p{place}/night-{k}.png", (160, 120), 50 + place)
    for k in range(30):
        photo_factory(train / f"photos/{k}.png", (160, 120), 100 + k)
    return tmp_path / "data"


def test_places_are_all_and_whole(data):
    for kind, count in (("landmarks", 20), ("places", 4)):
        aside, others = places_of(data, kind), places_of(data, kind, held_out=False)
        assert aside
        assert others
        assert not aside.keys() & others.keys()
        assert len(aside) + len(others) == count
        every = [path for photos in (*aside.values(), *others.values()) for path in photos]
        assert sorted(every) == sorted((data / "train" / kind).rglob("*.png"))
        pool = PhotoPool.scan(data / "train", held_out=None)
        seen = {pool.paths[i] for i in pool.train}
        assert seen.isdisjoint(path for photos in aside.values() for path in photos)


def test_labels_say_what_is_where(data, tmp_path):
    home = write_places(data, tmp_path / "work")
    with (home / "places/labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    by_split = {
        s: [r for r in rows if r["split"] == s] for s in ("query", "database", "distractor")
    }
    asked, stored = ({r["landmark"] for r in by_split[s]} for s in ("query", "database"))
    held_out = {*places_of(data, "landmarks"), *places_of(data, "places")}
    assert asked == held_out
    absent = len(places_of(data, "landmarks")) // 5 + (len(places_of(data, "landmarks")) % 5 > 2)
    assert len(asked - stored) == absent > 0
    assert {r["kind"] for r in by_split["query"]} == {"web", "day-night"}
    for row in rows:
        target = (home / "places" / row["image"]).resolve()
        assert target.is_file()
        assert not (row["split"] == "query" and "day-" in target.name)
    targets = [(home / "places" / row["image"]).resolve() for row in rows]
    foreign = [path.resolve() for path in (home / "foreign").iterdir()]
    assert len({*targets, *foreign}) == len(targets) + len(foreign)
    assert write_places(data, tmp_path / "work") == home


def test_scores_of_queries_average_to_those_of_the_evaluation(data, tmp_path):
    from pipelines.evaluation.retrieval import evaluate_retrieval

    rows = retrieval_scores(FakeExtractor(), data, tmp_path / "work")
    (home,) = (tmp_path / "work").glob("places-*")
    asked = {"foreign": home / "foreign"}
    report = evaluate_retrieval(home / "places", {"x": FakeExtractor()}, **asked).to_json()
    ranking, verdicts = report["tables"]
    everything = read_retrieval(home / "places")
    assert len([r for r in rows if r.groups != ("absent",)]) == sum(
        bool(q.truth[""].ok) for q in everything.queries
    )

    def mean(measure, group=None):
        values = [r.values[measure] for r in rows if group in (None, *r.groups)]
        return np.nanmean(values)

    for row in ranking["rows"]:
        if row["queries"] in ("web", "day-night"):
            before = row["ranking"].startswith("before")
            assert mean("mAP before" if before else "mAP", row["queries"]) == pytest.approx(
                row["mAP"]
            )
            if not before:
                assert mean("R@1", row["queries"]) == pytest.approx(row["R@1"])
    for row in verdicts["rows"]:
        if row["queries"] == "all":
            assert mean("false match") == pytest.approx(row["false match"])
        else:
            for measure in ("right match", "wrong match", "right at 1 %"):
                assert mean(measure, row["queries"]) == pytest.approx(row[measure])


def posed(rotation_vector, centre, focal=400.0):
    angle = np.linalg.norm(rotation_vector)
    x, y, z = rotation_vector / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    camera = pycolmap.Camera(
        model="SIMPLE_PINHOLE", width=500, height=400, params=[focal, 250, 200]
    )
    return PosedPhoto("x", None, camera, np.c_[rotation, -rotation @ centre])


def test_a_relative_pose_is_found_from_exact_points_and_judged_by_its_angles():
    rng = np.random.default_rng(0)
    a = posed(np.array((0.1, 0.2, -0.1)), np.array((0.1, 0.0, -5.0)))
    b = posed(np.array((-0.1, -0.2, 0.2)), np.array((1.5, 0.3, -5.2)), 500.0)
    world = rng.uniform(-1.5, 1.5, (200, 3))

    def seen(photo):
        camera = world @ photo.cam_from_world[:, :3].T + photo.cam_from_world[:, 3]
        f, cx, cy = photo.camera.params
        return f * camera[:, :2] / camera[:, 2:] + (cx, cy)

    points = seen(a), seen(b)
    assert relative_pose_error(a, b, *points) < 0.05
    assert relative_pose_error(a, b, points[0][:4], points[1][:4]) == 180
    # Another truth for the same points: the rotation, or the direction, is off by 7 degrees.
    rotation = b.cam_from_world[:, :3] @ a.cam_from_world[:, :3].T
    t = b.cam_from_world[:, 3] - rotation @ a.cam_from_world[:, 3]
    aside = np.cross(t, (0, 0, 1))
    about = posed(math.radians(7) * aside / np.linalg.norm(aside), np.zeros(3)).cam_from_world[
        :, :3
    ]
    for off, direction in ((about, t), (np.eye(3), about @ t), (np.eye(3), -t)):
        turned = off @ rotation @ a.cam_from_world[:, :3]
        moved = direction + off @ rotation @ a.cam_from_world[:, 3]
        wrong = PosedPhoto("x", None, b.camera, np.c_[turned, moved])
        expected = 180 if direction is not t and direction @ t < 0 else 7
        assert relative_pose_error(a, wrong, *points) == pytest.approx(expected, abs=0.1)


def test_ratios_of_errors_are_of_the_same_queries():
    rng = np.random.default_rng(1)
    errors = rng.lognormal(size=60)

    def rows(values):
        return [
            Row(("web" if k % 2 else "scene",), str(k), str(k), {"degrees": float(v)})
            for k, v in enumerate(values)
        ]

    table = error_table("poses", {"sift": rows(errors), "new": rows(errors / 2)[::-1]}, "sift")
    found = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [f["group"] for f in found[::2]] == ["all", "scene", "web"]
    for row in found[1::2]:
        assert (row["of sift's"], row["ratio from"], row["ratio to"]) == pytest.approx((0.5,) * 3)
    assert found[0]["median"] == pytest.approx(np.median(errors))


def test_photos_of_one_camera_say_so_and_stay_as_they_are(tmp_path, photo_factory):
    photos = [photo_factory(tmp_path / f"{k}.jpg", (300, 200), k) for k in range(2)]
    folder = tag_camera(photos, tmp_path / "tagged", 1.25)
    for path in photos:
        plain, tagged = read_photo(path), read_photo(folder / path.name)
        assert np.array_equal(plain.pixels, tagged.pixels)
        assert exif_focal(plain.info) is None
        assert exif_focal(tagged.info).pixels == pytest.approx(375, rel=0.05)
    devices = {device_of(read_photo(path).info) for path in folder.iterdir()}
    assert len(devices) == 1
    assert next(iter(devices)).focal_35mm == 45
