"""Scenes by folder and by COLMAP model; pseudo ground truth from verified matches of rendered pairs."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
from PIL import Image

from locate.errors import InputError
from locate.extractors.base import ExtractorInfo
from locate.extractors.sift import Sift
from locate.matching.descriptors import match_mutual
from locate.training.data import pseudo
from locate.training.data.correspondences import save_pairs
from locate.training.data.pseudo import spread
from locate.training.data.scenes import (
    find_models,
    known_pairs,
    model_pairs,
    pairs_of_models,
    scenes_of,
    singles_of,
)
from locate.types import Extraction

# Folders


def pseudo_pairs(scenes, extractor=None, **options):
    return pseudo.pseudo_pairs(scenes, extractor or Sift(), **options)


def touch(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def test_each_folder_in_scenes_is_a_scene(tmp_path):
    tower, door = tmp_path / "scenes/tower", tmp_path / "scenes/photos"
    touch(
        tower / "b.jpg",
        tower / "deep/er/a.png",
        tower / "notes.txt",
        door / "1.jpg",
        door / "2.jpg",
    )
    touch(
        tmp_path / "scenes/lonely/1.jpg",
        tmp_path / "scenes/.git/1.jpg",
        tmp_path / "scenes/.git/2.jpg",
    )
    touch(tmp_path / "indoor/1.jpg", tmp_path / "indoor/2.jpg", tmp_path / "scenes/loose.jpg")
    assert scenes_of(tmp_path) == {
        "tower": (tower / "b.jpg", tower / "deep/er/a.png"),
        "photos": (door / "1.jpg", door / "2.jpg"),
    }


def test_landmarks_and_places_are_scenes_too(tmp_path):
    """A place lies one folder deeper than a landmark."""
    for place in ("scenes/tower", "landmarks/arch", "places/campus/hall", "places/campus/.git"):
        touch(tmp_path / place / "1.jpg", tmp_path / place / "2.jpg")
    touch(
        tmp_path / "places/loose.jpg", tmp_path / "landmarks/lonely/1.jpg", tmp_path / "other/1.jpg"
    )
    touch(tmp_path / "other/2.jpg", tmp_path / "photos/1.jpg", tmp_path / "photos/2.jpg")
    assert {name: len(photos) for name, photos in scenes_of(tmp_path).items()} == {
        "tower": 2,
        "landmarks/arch": 2,
        "places/campus/hall": 2,
    }
    assert list(scenes_of(tmp_path / "landmarks")) == ["arch"]


def test_without_scenes_each_folder_is_one_but_for_single_photos(tmp_path):
    touch(
        *(
            tmp_path / f"{name}/{k}.jpg"
            for name in ("b", "a", "photos", "distractors")
            for k in (1, 2)
        )
    )
    touch(
        tmp_path / "c/1.jpg", tmp_path / "loose.jpg", tmp_path / "d/x/1.jpg", tmp_path / "d/y/1.jpg"
    )
    found = scenes_of(tmp_path)
    assert list(found) == ["a", "b", "d"]
    assert found["d"] == (tmp_path / "d/x/1.jpg", tmp_path / "d/y/1.jpg")
    assert scenes_of(tmp_path / "c") == {}
    with pytest.raises(InputError, match="is not a folder"):
        scenes_of(tmp_path / "none")


def test_single_photos_lie_loose_or_in_photos_and_distractors(tmp_path):
    touch(
        *(tmp_path / f"{name}/{k}.jpg" for name in ("a", "photos/x", "distractors") for k in (1, 2))
    )
    touch(tmp_path / "loose.jpg", tmp_path / "photos/notes.txt", tmp_path / "a/photos/3.jpg")
    found = [path.relative_to(tmp_path).as_posix() for path in singles_of(tmp_path)]
    assert found == [
        "distractors/1.jpg",
        "distractors/2.jpg",
        "loose.jpg",
        "photos/x/1.jpg",
        "photos/x/2.jpg",
    ]
    assert not {*singles_of(tmp_path)} & {p for s in scenes_of(tmp_path).values() for p in s}
    touch(tmp_path / "scenes/photos/1.jpg", tmp_path / "scenes/photos/2.jpg")
    assert len(singles_of(tmp_path)) == 5
    with pytest.raises(InputError, match="none does not exist; name a folder"):
        singles_of(tmp_path / "none")


# Models


CAMERAS = {1: (320, 240, 300.0, 150.0, 130.0), 2: (200, 260, 400.0, 105.0, 120.0)}  # w h f cx cy
VIEWS = {  # name -> camera, turn about y in degrees, centre
    "b/two.png": (2, 8.0, (0.4, 0.1, -1.0)),
    "one.png": (1, 0.0, (0.0, 0.0, 0.0)),
    "three.png": (1, -5.0, (-0.5, -0.2, 0.5)),
}


def cam_from_world(view):
    _, degrees, centre = VIEWS[view]
    turn = math.radians(degrees)
    rotation = np.array(
        [[math.cos(turn), 0, math.sin(turn)], [0, 1, 0], [-math.sin(turn), 0, math.cos(turn)]]
    )
    return rotation, -rotation @ np.array(centre)


def project(view, point):
    """(x, y, depth) by the pinhole formula, in COLMAP's pixels."""
    rotation, shift = cam_from_world(view)
    x, y, z = rotation @ point + shift
    _, _, f, cx, cy = CAMERAS[VIEWS[view][0]]
    return f * x / z + cx, f * y / z + cy, z


@pytest.fixture
def model(tmp_path, texture):
    """A model written by hand as text: 60 points; `one` sees all that fall into it, `two` those of even
    number, `three` the first 40. Also sees: view -> {point: (x, y)} in our pixels."""
    rng = np.random.default_rng(0)
    world = {k + 10: rng.uniform((-0.9, -0.7, 4), (0.9, 0.7, 7)) for k in range(60)}
    sees = {}
    for view, (camera, _, _) in VIEWS.items():
        width, height = CAMERAS[camera][:2]
        sees[view] = {}
        for k, point in world.items():
            x, y = project(view, point)[:2]
            chosen = {"one.png": True, "b/two.png": k % 2 == 0, "three.png": k < 50}[view]
            if chosen and 0 <= x < width and 0 <= y < height:
                sees[view][k] = (x - 0.5, y - 0.5)
        path = tmp_path / "images" / view
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(texture((width, height))).save(path)
    folder = tmp_path / "models/0"
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text(
        "".join(
            f"{i} SIMPLE_PINHOLE {w} {h} {f} {x} {y}\n" for i, (w, h, f, x, y) in CAMERAS.items()
        )
    )
    lines, tracks = [], {k: [] for k in world}
    for number, view in enumerate(VIEWS, 1):
        rotation, shift = cam_from_world(view)
        half = math.atan2(rotation[0, 2], rotation[0, 0]) / 2
        lines.append(
            f"{number} {math.cos(half)} 0 {math.sin(half)} 0 {' '.join(map(str, shift))} "
            f"{VIEWS[view][0]} {view}\n"
        )
        row = ["7.5 8.5 -1"]  # a keypoint without a 3D point
        for k, (x, y) in sees[view].items():
            tracks[k].append(f"{number} {len(row)}")
            row.append(f"{x + 0.5:.9f} {y + 0.5:.9f} {k}")
        lines.append(" ".join(row) + "\n")
    (folder / "images.txt").write_text("".join(lines))
    (folder / "points3D.txt").write_text(
        "".join(
            f"{k} {' '.join(map(str, world[k]))} 9 9 9 0.5 {' '.join(track)}\n"
            for k, track in tracks.items()
            if track
        )
    )
    return folder, tmp_path / "images", world, sees


@pytest.mark.parametrize("binary", [False, True])
def test_pairs_of_a_model_are_its_shared_points(model, binary, tmp_path):
    folder, images, _, sees = model
    if binary:
        written = tmp_path / "models/binary"
        written.mkdir()
        pycolmap.Reconstruction(folder).write_binary(written)
        folder = written
    pairs = model_pairs(folder, images, min_shared=10)
    names = [
        (p.image_a.relative_to(images).as_posix(), p.image_b.relative_to(images).as_posix())
        for p in pairs
    ]
    assert names == [("b/two.png", "one.png"), ("b/two.png", "three.png"), ("one.png", "three.png")]
    for (a, b), pair in zip(names, pairs, strict=True):
        shared = sorted(set(sees[a]) & set(sees[b]))
        assert len(pair) == len(shared) >= 10
        expected_a, expected_b = ([sees[v][k] for k in shared] for v in (a, b))
        assert pair.points_a.dtype == np.float32
        assert np.allclose(pair.points_a, expected_a, atol=1e-3)
        assert np.allclose(pair.points_b, expected_b, atol=1e-3)
    most = max(map(len, pairs))
    assert [len(p) for p in model_pairs(folder, images, min_shared=most)] == [most]
    assert model_pairs(folder, images, min_shared=most + 1) == []


def test_models_are_found_below_a_folder(model):
    folder, images, *_ = model
    half = folder.parent / "half"
    touch(half / "cameras.bin", half / "images.bin", half / "points3D.txt")
    binary = folder.parent / "x/sparse"
    touch(binary / "cameras.bin", binary / "images.bin", binary / "points3D.bin")
    assert find_models(folder.parents[1]) == (folder, binary)
    assert find_models(folder) == (folder,)
    assert find_models(images) == ()
    with pytest.raises(InputError, match="is not a folder"):
        find_models(folder / "none")


def test_pairs_of_training_data_come_from_its_models_first(model, tmp_path, monkeypatch, caplog):
    folder, images, *_ = model
    expected = model_pairs(folder, images)
    assert len(expected) == 2
    for a, b in zip(pairs_of_models(tmp_path), expected, strict=True):
        assert (a.image_a, a.image_b) == (b.image_a, b.image_b)
        np.testing.assert_array_equal(a.points_a, b.points_a)
    matched = {}

    def fake(scenes, *_, **__):
        matched.update(scenes)
        return expected[:1]

    monkeypatch.setattr("locate.training.data.scenes.pseudo_pairs", fake)
    Image.new("RGB", (64, 64)).save(images.parent / "other.png")
    for name in ("1.png", "2.png"):
        (tmp_path / "tower").mkdir(exist_ok=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "tower" / name)
    assert len(known_pairs(tmp_path, tmp_path / "cache", Sift())) == 3
    assert list(matched) == ["tower"]  # photos of a model need no guesses
    save_pairs(tmp_path / "mine.npz", expected[1:], tmp_path)
    assert len(known_pairs(tmp_path, tmp_path / "cache", Sift(), tmp_path / "mine.npz")) == 1
    points = folder / "points3D.txt"
    whole = points.read_text()
    points.write_text("1 2 nonsense\n")
    with pytest.raises(InputError, match="damaged COLMAP model"):
        pairs_of_models(tmp_path)
    points.write_text(whole)
    images.rename(tmp_path.parent / f"{tmp_path.name}-gone")
    assert pairs_of_models(tmp_path) == []
    assert "its images are not below" in caplog.text


def test_models_that_cannot_be_used(model, tmp_path, texture):
    folder, images, *_ = model
    with pytest.raises(InputError, match="is no COLMAP model"):
        model_pairs(images, images)
    with pytest.raises(InputError, match="at least 1"):
        model_pairs(folder, images, min_shared=0)
    with pytest.raises(InputError, match=r"lacks 3 of the 3 images.*the first is b/two\.png"):
        model_pairs(folder, tmp_path / "elsewhere")
    Image.fromarray(texture((160, 120))).save(images / "one.png")
    with pytest.raises(
        InputError, match=r"one\.png is 160 x 120 px, but 320 x 240 px in the model"
    ):
        model_pairs(folder, images)
    (images / "one.png").write_text("no photo")
    with pytest.raises(InputError, match=r"one\.png"):
        model_pairs(folder, images)
    points = (folder / "points3D.txt").read_text()
    (folder / "points3D.txt").write_text("")
    with pytest.raises(InputError, match=r"damaged|no 3D points"):
        model_pairs(folder, images)
    lines = (folder / "images.txt").read_text().splitlines()
    (folder / "images.txt").write_text(
        "\n".join(x if k % 2 == 0 else "" for k, x in enumerate(lines)) + "\n"
    )
    with pytest.raises(InputError, match="no 3D points; triangulate"):
        model_pairs(folder, images)
    (folder / "points3D.txt").write_text(points[:200] + " nonsense")
    with pytest.raises(InputError, match="damaged COLMAP model"):
        model_pairs(folder, images)


def test_a_photo_that_lies_on_its_side_counts_upright(model):
    folder, images, *_ = model
    upright = np.asarray(Image.open(images / "one.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.fromarray(np.rot90(upright).copy()).save(images / "one.png", exif=exif)
    assert len(model_pairs(folder, images, min_shared=10)) == 3


# Pseudo ground truth


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


B_FROM_A = np.array([[0.8, -0.25, 90.0], [0.2, 0.9, -20.0], [2e-4, -1e-4, 1.0]])


@pytest.fixture(scope="module")
def busy(texture):
    """busy(size, seed): a patchwork of textures, with many corners."""

    def make(size, seed):
        w, h = -(-size[0] // 4), -(-size[1] // 4)
        rows = [[texture((w, h), 100 * seed + 4 * i + j) for j in range(4)] for i in range(4)]
        return np.ascontiguousarray(np.vstack([np.hstack(r) for r in rows])[: size[1], : size[0]])

    return make


@pytest.fixture(scope="module")
def rendered(busy):
    """Two views of one wall with `B_FROM_A` between them."""
    a = busy((480, 360), 11)
    b = cv2.warpPerspective(a, B_FROM_A, (480, 360), flags=cv2.INTER_LINEAR)
    return a, b


def carried(points):
    w = points @ B_FROM_A[2, :2] + 1
    return (points @ B_FROM_A[:2, :2].T + B_FROM_A[:2, 2]) / w[:, None]


def test_pseudo_pairs_of_a_rendered_pair_are_exact(rendered, tmp_path, busy):
    a, b = (write(tmp_path / f"wall/{n}.png", p) for n, p in zip("ab", rendered, strict=True))
    other = write(tmp_path / "wall/other.png", busy((480, 360), 12))
    found = pseudo_pairs({"wall": [a, b, other]}, rng=np.random.default_rng(0))
    assert [(p.image_a, p.image_b, p.source) for p in found] == [(a, b, "sift")]
    pair = found[0]
    assert len(pair) > 100
    errors = np.linalg.norm(carried(pair.points_a.astype(np.float64)) - pair.points_b, axis=1)
    assert np.median(errors) < 0.5
    assert np.mean(errors < 2) > 0.97
    backwards = np.linalg.norm(carried(pair.points_b.astype(np.float64)) - pair.points_a, axis=1)
    assert np.median(backwards) > 10


def test_points_are_in_pixels_of_the_original(rendered, tmp_path):
    """Detected at half the size, and given back at the full one."""
    paths = [
        write(tmp_path / f"{n}.png", cv2.resize(p, None, fx=2, fy=2))
        for n, p in zip("ab", rendered, strict=True)
    ]
    (pair,) = pseudo_pairs({"wall": paths}, Sift(max_side=480), rng=np.random.default_rng(0))
    half = (pair.points_a.astype(np.float64) + 0.5) / 2 - 0.5
    errors = np.linalg.norm(carried(half) - ((pair.points_b + 0.5) / 2 - 0.5), axis=1)
    assert np.median(errors) < 0.5


def test_a_watermark_is_no_scene(tmp_path, busy):
    mark = busy((240, 180), 50)  # large enough to be covered by inliers: 25 % of the photo
    scenes = {}
    for name, places in {
        "same place": ((40, 30), (40, 30)),
        "moved": ((40, 30), (200, 150)),
    }.items():
        photos = []
        for k, (x, y) in enumerate(places):
            photo = busy((480, 360), 60 + k)
            photo[y : y + 180, x : x + 240] = mark
            photos.append(write(tmp_path / name / f"{k}.png", photo))
        scenes[name] = photos
    found = pseudo_pairs(scenes, rng=np.random.default_rng(0))
    assert [p.image_a.parent.name for p in found] == ["moved"]


def test_the_same_shot_in_two_sizes_teaches_nothing(rendered, tmp_path):
    a = rendered[0]
    small = cv2.resize(a, (360, 270), interpolation=cv2.INTER_AREA)
    photos = [write(tmp_path / "1.png", a), write(tmp_path / "2.png", small)]
    assert pseudo_pairs({"wall": photos}, rng=np.random.default_rng(0)) == []


def test_inliers_on_one_spot_are_no_scene(tmp_path, busy, monkeypatch):
    sticker = busy((60, 50), 70)  # 1.7 % of the photo
    photos = []
    for k, (x, y) in enumerate(((40, 30), (300, 200))):
        photo = busy((480, 360), 80 + k)
        photo[y : y + 50, x : x + 60] = sticker
        photos.append(write(tmp_path / f"{k}.png", photo))
    arguments = {"min_inliers": 12, "rng": np.random.default_rng(0)}
    assert pseudo_pairs({"street": photos}, **arguments) == []
    monkeypatch.setattr(pseudo, "_MIN_SPREAD", 0.0)
    assert len(pseudo_pairs({"street": photos}, **arguments)) == 1


def test_spread_is_about_the_share_of_the_image_that_points_cover():
    rng = np.random.default_rng(0)
    even = rng.uniform(0, 1, (20000, 2))
    assert spread(even * (640, 480), (640, 480)) == pytest.approx(1, abs=0.02)
    assert spread(even * (320, 240) + 50, (640, 480)) == pytest.approx(1 / 4, abs=0.01)
    assert spread(even * (160, 240) + 50, (640, 480)) == pytest.approx(1 / 8, rel=0.15)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert spread(even * (300, 200) @ turn + 50, (640, 480)) == pytest.approx(0.195, rel=0.15)
    line = np.stack((np.arange(50.0), 3 * np.arange(50.0)), axis=1)
    assert spread(line, (640, 480)) < 1e-6
    assert spread(even[:3] * 640, (640, 480)) == 0
    spot = np.r_[even[:80] * 40, rng.uniform(0, 480, (20, 2))]  # a fifth of them strays
    assert spread(spot, (640, 480)) < 0.012


def test_min_inliers_is_the_limit(rendered, tmp_path):
    scene = {"wall": [write(tmp_path / f"{n}.png", p) for n, p in zip("ab", rendered, strict=True)]}
    (pair,) = pseudo_pairs(scene, rng=np.random.default_rng(0))
    assert pseudo_pairs(scene, rng=np.random.default_rng(0), min_inliers=len(pair) + 1) == []
    assert len(pseudo_pairs(scene, rng=np.random.default_rng(0), min_inliers=len(pair))) == 1


class Counting:
    """RootSIFT that notes the sizes of the photos it sees."""

    max_side = 1024
    info = ExtractorInfo(name="counting", weights=None, local_dim=128)

    def __init__(self):
        self.seen = []

    def extract(self, pixels, size=None, *, local=True):
        self.seen.append(size)
        return Sift().extract(pixels, size)


def test_another_extractor_may_take_part(rendered, tmp_path):
    scene = {"wall": [write(tmp_path / f"{n}.png", p) for n, p in zip("ab", rendered, strict=True)]}
    extractor = Counting()
    (pair,) = pseudo_pairs(scene, extractor, rng=np.random.default_rng(0), min_inliers=8)
    assert pair.source == "counting"
    assert extractor.seen == [(480, 360)] * 2


def test_an_extractor_without_local_features_is_refused(rendered, tmp_path):
    class Blind(Counting):
        def extract(self, pixels, size=None, *, local=True):
            return Extraction(None, np.ones(4, np.float32) / 2)

    scene = {"wall": [write(tmp_path / f"{n}.png", p) for n, p in zip("ab", rendered, strict=True)]}
    with pytest.raises(InputError, match="'counting' has no local features"):
        pseudo_pairs(scene, Blind(), rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="at least 1"):
        pseudo_pairs(scene, rng=np.random.default_rng(0), max_pairs_per_scene=0)


def test_a_large_scene_is_sampled(monkeypatch, tmp_path, photo_factory):
    photos = [photo_factory(tmp_path / f"{k:02}.png", (64, 48), k) for k in range(30)]
    (tmp_path / "07.png").write_text("no photo")
    extractor, tried = Counting(), []

    def run(seed, budget, monkeypatch_log=tried):
        tried.clear()
        real = pseudo._features_of

        def spy(*arguments):
            for a, b, features in real(*arguments):
                tried.append((a, b))
                yield a, b, features

        with monkeypatch.context() as patch:
            patch.setattr(pseudo, "_features_of", spy)
            pseudo_pairs(
                {"s": photos},
                extractor,
                rng=np.random.default_rng(seed),
                max_pairs_per_scene=budget,
            )
        return list(tried)

    pairs = run(0, 40)
    assert len(pairs) == len(set(pairs)) == 40
    assert all(0 <= a < b < 30 for a, b in pairs)
    assert len(extractor.seen) <= 29  # each photo once
    assert run(0, 40) == pairs
    assert run(1, 40) != pairs


def test_a_photo_that_cannot_be_read_is_named_and_left_out(rendered, tmp_path, caplog):
    photos = [write(tmp_path / f"{n}.png", p) for n, p in zip("ab", rendered, strict=True)]
    bad = tmp_path / "bad.png"
    bad.write_text("no photo")
    with caplog.at_level(logging.WARNING, "locate"):
        found = pseudo_pairs({"wall": [bad, *photos]}, rng=np.random.default_rng(0))
    assert len(found) == 1
    assert [r.getMessage().count("bad.png") for r in caplog.records] == [1]


@pytest.mark.parametrize(("count", "budget"), [(5, 100), (5, 10), (5, 9), (40, 50)])
def test_pairs_are_drawn_evenly_and_once(count, budget):
    every = [(a, b) for a in range(count) for b in range(a + 1, count)]
    tally = dict.fromkeys(every, 0)
    rng = np.random.default_rng(0)
    for _ in range(300):
        drawn = pseudo._draw(count, budget, rng)
        assert drawn == sorted(set(drawn))
        assert len(drawn) == min(budget, len(every))
        for pair in drawn:
            tally[pair] += 1
    mean = 300 * min(budget, len(every)) / len(every)
    assert max(abs(n - mean) for n in tally.values()) < 5 * math.sqrt(mean)


def test_features_are_forgotten_after_their_last_pair(tmp_path, photo_factory, monkeypatch):
    photos = [photo_factory(tmp_path / f"{k}.png", (64, 48), k) for k in range(6)]
    read = []
    monkeypatch.setattr(
        pseudo, "_extract", lambda path, extractor: read.append(path.name) or path.name
    )
    pairs = [(0, 1), (0, 2), (1, 2), (3, 4)]
    steps = pseudo._features_of(photos, pairs, None)
    seen = []
    for a, b, features in steps:
        assert features == (f"{a}.png", f"{b}.png")
        seen.append(sorted(steps.gi_frame.f_locals["kept"]))
    assert read == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert seen == [[0, 1], [0, 1, 2], [1, 2], [3, 4]]


@pytest.mark.data
def test_real_scenes_agree_within_and_not_across(data):
    scenes = scenes_of(data / "train")
    assert len(scenes) > 25
    assert len(scenes["porto_musica"]) > 300
    chosen = {name: scenes[name][:5] for name in ("sceaux-castle", "monstree")}
    found = pseudo_pairs(chosen, rng=np.random.default_rng(0))
    assert {p.image_a.parent.name for p in found} == set(chosen)
    assert len(found) >= 10
    mixed = {
        "mixed": [chosen["sceaux-castle"][0], chosen["monstree"][0], scenes["vggsfm-kitchen"][0]]
    }
    assert pseudo_pairs(mixed, rng=np.random.default_rng(0), min_inliers=15) == []
    assert all(Path(p.image_a).is_file() for p in found)


def test_another_matcher_may_find_the_matches(rendered, tmp_path):
    """Of what it finds that is kept which one motion explains."""
    scene = {"wall": [write(tmp_path / f"{n}.png", p) for n, p in zip("ab", rendered, strict=True)]}

    def match(one, other):
        found = match_mutual(one.descriptors, other.descriptors, 0.9)
        wrong = np.stack((found[::8, 0], np.roll(found[::8, 1], 3)), axis=1)
        return np.concatenate((found, wrong))

    (pair,) = pseudo_pairs(scene, rng=np.random.default_rng(0), match=match)
    errors = np.linalg.norm(carried(pair.points_a.astype(np.float64)) - pair.points_b, axis=1)
    assert len(pair) > 100
    assert np.mean(errors < 2) > 0.95
    none = pseudo_pairs(
        scene, rng=np.random.default_rng(0), match=lambda *_: np.zeros((0, 2), np.int32)
    )
    assert none == []
