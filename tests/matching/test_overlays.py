"""Overlays: what stands at the same pixels of photos whose rest has moved proves nothing."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

import locate
from benchmarks.common.overlay_kinds import KINDS, overlaid
from locate.errors import InputError
from locate.extractors.sift import Sift
from locate.matching.descriptors import match_mutual
from locate.matching.evidence import evidence_of
from locate.matching.overlays import _largest_rectangle, _Near, alignments, on_overlay
from locate.matching.two_view import verify
from locate.retrieval.verdict import MATCH, NO_MATCH
from locate.types import Features
from pipelines.cli.main import main
from pipelines.mapping.build import build_map
from pipelines.mapping.import_model import import_map
from pipelines.town.town import make_town

SIZE = (640, 480)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(tmp_path_factory.mktemp("town") / "t", landmarks=4, views=4, size=SIZE)


@pytest.fixture(scope="module")
def places(town):
    """One photo of each of four places."""
    return [
        np.asarray(Image.open(town.root / "landmarks" / name / "02.jpg")) for name in town.landmarks
    ]


def seen(pixels):
    return Sift().extract(np.ascontiguousarray(pixels)).features


def verified(a, b):
    a, b = seen(a), seen(b)
    return verify(a, b, match_mutual(a.descriptors, b.descriptors, 0.8))


def changed(pixels, rng):
    """The same view a moment later: brighter, noisy, compressed."""
    noisy = np.clip(1.2 * pixels + rng.normal(0, 5, pixels.shape), 0, 255).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], 1)


# --- the arithmetic


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_one_alignment_turns_as_rot90_does(turns):
    """Every pixel of a turned picture is where `numpy.rot90` puts it."""
    numbers = np.arange(7 * 5).reshape(5, 7)  # 7 wide
    turned = np.rot90(numbers, turns)
    size = (turned.shape[1], turned.shape[0])
    (one,) = [a for a in alignments((7, 5), size) if a.rotation == 90 * turns and a.scale == 1]
    y, x = np.mgrid[0:5, 0:7]
    there = one.to_database(np.stack([x.ravel(), y.ravel()], axis=1).astype(float))
    there = np.rint(there).astype(int)
    np.testing.assert_array_equal(turned[there[:, 1], there[:, 0]], numbers.ravel())


@pytest.mark.parametrize(
    ("query", "database", "scale"),
    [((800, 600), (640, 700), 1.0), ((800, 600), (400, 300), 0.5), ((800, 600), (1600, 900), 2.0)],
)
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("bottom", [False, True])
def test_what_keeps_its_distance_to_a_corner_is_aligned(query, database, scale, right, bottom):
    """By distances to the edges of the photo, which lie half a pixel outside its outermost pixels."""
    inset = np.array([30.0, 20.0])  # of a logo, from the edges of the query's corner

    def at(size, distance):
        x = size[0] - 0.5 - distance[0] if right else distance[0] - 0.5
        y = size[1] - 0.5 - distance[1] if bottom else distance[1] - 0.5
        return np.array([[x, y]])

    wanted = at(database, scale * inset)
    found = [a.to_database(at(query, inset)) for a in alignments(query, database) if not a.rotation]
    assert min(np.abs(place - wanted).max() for place in found) < 1e-9


def test_near_against_all_distances():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-20, 90, (300, 2)), rng.uniform(-10, 100, (200, 2))
    a[:20] = b[:20] + 2.999 * np.array([1.0, 0.0])
    distance = np.linalg.norm(a[:, None] - b[None], axis=2)
    wanted = set(zip(*np.nonzero(distance <= 3.0), strict=True))
    i, j = _Near(b, 3.0)(a)
    assert set(zip(i, j, strict=True)) == wanted
    assert len(i) == len(wanted) > 40
    assert len(_Near(b[:0], 3.0)(a)[0]) == len(_Near(b, 3.0)(a[:0])[0]) == 0


def test_largest_rectangle_against_all_rectangles():
    rng = np.random.default_rng(1)
    for _ in range(30):
        values = np.where(rng.random((5, 6)) < 0.3, -np.inf, rng.random((5, 6)))
        best = 0.0
        for top in range(5):
            for bottom in range(top, 5):
                for left in range(6):
                    for right in range(left, 6):
                        part = values[top : bottom + 1, left : right + 1]
                        best = max(best, part.sum() if np.isfinite(part).all() else 0.0)
        assert _largest_rectangle(values) == pytest.approx(best)


def random_features(rng, count=600, size=SIZE):
    descriptors = rng.normal(size=(count, 64))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    points = rng.uniform((0, 0), size, (count, 2))
    return Features(
        points.astype(np.float32),
        np.ones(count, np.float32),
        descriptors.astype(np.float32),
        size,
    )


def moved(features, points):
    return Features(
        points.astype(np.float32), features.scores, features.descriptors, features.image_size
    )


def test_matches_at_the_same_pixels_below_a_photo_that_moved():
    rng = np.random.default_rng(2)
    a = random_features(rng)
    low = a.keypoints[:, 1] > 0.85 * SIZE[1]  # a caption
    b = moved(a, np.where(low[:, None], a.keypoints, a.keypoints + rng.normal(0, 60, (600, 2))))
    matches = np.stack([np.arange(600)] * 2, axis=1).astype(np.int32)
    on = on_overlay(a, b, matches)
    assert on[low].all()
    assert on[~low].mean() < 0.1  # those beside the caption


@pytest.mark.parametrize("share", [1.0, 0.6, 0.15])
def test_a_scene_that_stands_still_is_none(share):
    """Whatever share of its features is found again, evenly over the photo."""
    rng = np.random.default_rng(3)
    a = random_features(rng, 1500)
    again = rng.random(1500) < share
    elsewhere = rng.uniform((0, 0), SIZE, (1500, 2))
    b = moved(a, np.where(again[:, None], a.keypoints + rng.normal(0, 0.5, (1500, 2)), elsewhere))
    matches = np.flatnonzero(again)[:, None].repeat(2, axis=1).astype(np.int32)
    assert not on_overlay(a, b, matches).any()


@pytest.mark.parametrize("zoom", [1.01, 1.03, 1.06])
def test_the_middle_of_a_small_motion_is_none(zoom):
    """Around the middle of a zoom matches stand still, but those around them have hardly moved."""
    rng = np.random.default_rng(6)
    a = random_features(rng, 1500)
    middle = np.array(SIZE) / 2
    b = moved(a, middle + zoom * (a.keypoints - middle) + rng.normal(0, 0.5, (1500, 2)))
    matches = np.stack([np.arange(1500)] * 2, axis=1).astype(np.int32)
    still = np.linalg.norm(a.keypoints - b.keypoints, axis=1) < 3
    assert still.sum() > 20
    assert not on_overlay(a, b, matches).any()


def test_no_matches_and_no_features():
    rng = np.random.default_rng(4)
    a, none = random_features(rng), random_features(rng, 0)
    assert on_overlay(a, a, np.zeros((0, 2), np.int32)).shape == (0,)
    assert on_overlay(a, none, np.zeros((0, 2), np.int32)).shape == (0,)


# --- pictures


@pytest.mark.parametrize("kind", KINDS)
def test_different_places_under_one_overlay(places, kind):
    for k in (0, 2):
        found = verified(overlaid(places[k], kind, k), overlaid(places[k + 1], kind, k))
        assert evidence_of(found) < 3, (kind, k, found.inlier_count, found.on_overlay)


@pytest.mark.parametrize("kind", ["caption", "screenshot", "frame", "bonnet"])
def test_overlays_do_prove_places_where_they_are_not_left_out(places, kind):
    """That the tests above test anything: without `on_overlay` all these are strong evidence."""
    a, b = (seen(overlaid(p, kind, 0)) for p in places[:2])
    matches = match_mutual(a.descriptors, b.descriptors, 0.8)
    assert verify(a, b, matches).on_overlay > 15


def test_overlays_of_other_sizes_and_turned(places):
    a, b = overlaid(places[0], "caption", 5), overlaid(places[1], "caption", 5)
    small = cv2.resize(b, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    for other in (small, np.rot90(b), np.rot90(b, 2), np.rot90(b, 3)):
        found = verified(a, other)
        assert found.on_overlay > 10
        assert evidence_of(found) < 3


def test_an_emblem_that_keeps_its_distance_to_a_corner(places):
    """In photos of different shapes."""
    emblem = overlaid(np.zeros((480, 640, 3), np.uint8), "logo", 2)
    rows, columns = np.nonzero(emblem.any(axis=2))
    emblem = emblem[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = emblem.shape[:2]
    photos = [places[0].copy(), np.ascontiguousarray(places[1][:400, :500])]
    for photo in photos:
        photo[-height - 12 : -12, -width - 9 : -9] = emblem
    found = verified(*photos)
    assert found.on_overlay > 8
    assert evidence_of(found) < 3


def test_a_page_whose_foot_stands_lower(places):
    """Photos of different heights push what follows them down the page of a screenshot."""
    pages = []
    for photo, lower in ((places[0], 0), (places[1], 60)):
        page = overlaid(photo, "screenshot", 1)
        cut = page.shape[0] // 2 + 120
        pages.append(
            np.concatenate([page[:cut], np.full_like(page[:lower], page[0, 0]), page[cut:]])
        )
    assert evidence_of(verified(*pages)) < 3


def test_copies_and_photos_from_a_tripod_stay_matches(places):
    rng = np.random.default_rng(5)
    photo = places[0]
    passing = photo.copy()
    cv2.ellipse(passing, (200, 300), (60, 110), 0, 0, 360, (90, 60, 30), -1)  # somebody walks by
    half = cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    cases = {
        "copy": (photo, photo),
        "later": (photo, changed(photo, rng)),
        "passing": (photo, changed(passing, rng)),
        "half": (photo, half),
        "cropped": (photo, photo[30:430, 50:600]),
        "turned": (photo, np.rot90(photo)),
        "captioned": (overlaid(photo, "caption", 1), changed(overlaid(photo, "caption", 1), rng)),
        "stamped": (overlaid(photo, "timestamp", 1), changed(overlaid(photo, "timestamp", 2), rng)),
    }
    for name, (a, b) in cases.items():
        found = verified(a, b)
        # Two time stamps share some digits, which stand still in any case.
        assert evidence_of(found) > 60, name
        assert found.on_overlay <= 0.05 * found.inlier_count, name


def test_the_same_place_under_one_overlay_is_proven_by_the_place(town):
    name = town.landmarks[0]
    views = [np.asarray(Image.open(town.root / f"landmarks/{name}/0{i}.jpg")) for i in (2, 3)]
    before = verified(*views)
    after = verified(*(overlaid(view, "caption", 3) for view in views))
    assert after.on_overlay > 15
    assert evidence_of(after) > 0.4 * evidence_of(before) > 10
    still = np.linalg.norm(after.query_points - after.database_points, axis=1) < 1
    assert not (still & (after.query_points[:, 1] > 0.9 * SIZE[1])).any()


# --- commands


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=92)


def test_query_says_what_was_left_out(places, tmp_path, capsys):
    for k, photo in enumerate(places[1:]):
        save(overlaid(photo, "caption", 7), tmp_path / f"db/{k}.jpg")
    save(overlaid(places[0], "caption", 7), tmp_path / "q.jpg")
    shutil.copy(tmp_path / "db/1.jpg", tmp_path / "copy.jpg")
    index = str(tmp_path / "i.locate")
    made = ["build-index", str(tmp_path / "db"), "--index", index, "--extractor", "gem+sift"]
    assert main(made) == 0
    capsys.readouterr()
    assert main(["query", str(tmp_path / "q.jpg"), "--index", index]) == 1
    assert "on an overlay were left out" in capsys.readouterr().out
    main(["query", str(tmp_path / "q.jpg"), "--index", index, "--json"])
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert answer["verdict"] == NO_MATCH
    assert max(c["on_overlay"] for c in answer["candidates"]) > 15
    with locate.open(index) as db:
        copied = db.query(tmp_path / "copy.jpg")
    assert (copied.verdict, copied.best.image) == (MATCH, "1.jpg")


def test_no_map_of_an_overlay(places, tmp_path):
    for kind in ("caption", "robot"):
        for k, photo in enumerate(places):
            save(overlaid(photo, kind, 7), tmp_path / kind / f"{k}.jpg")
        with pytest.raises(InputError, match="no map"):
            build_map(tmp_path / f"{kind}.map", images=tmp_path / kind, extractor="sift", workers=1)


def test_a_model_of_photos_under_a_caption_is_imported_without_it(town, tmp_path):
    """Every photo of a right model bears the same caption; no point of the map lies on it."""
    name = town.landmarks[0]
    for photo in sorted((town.root / "landmarks" / name).iterdir()):
        captioned = overlaid(np.asarray(Image.open(photo)), "caption", 8)
        save(captioned, tmp_path / "p" / name / photo.name)
    model = tmp_path / "m"
    model.mkdir()
    lines = (town.root / "colmap/images.txt").read_text().splitlines()
    own = [line for line in lines if f" {name}/" in line]
    (model / "images.txt").write_text("".join(f"{line}\n\n" for line in own))
    shutil.copy(town.root / "colmap/cameras.txt", model)
    (model / "points3D.txt").write_text("")
    out = tmp_path / "map"
    report = import_map(model, tmp_path / "p", out, extractor="sift", workers=1)
    assert report.registered == len(own)
    with locate.Localizer(out) as localizer:
        for image in localizer.map.model.images.values():
            seen_at = [p.xy for p in image.points2D if p.has_point3D()]
            caption = overlaid(np.zeros((*SIZE[::-1], 3), np.uint8), "caption", 8).any(axis=2)
            top, bottom = np.flatnonzero(caption.any(axis=1))[[0, -1]]
            assert not any(top + 4 < y < bottom - 4 for _, y in seen_at)
