"""Photos to train on, files of correspondences and crops of them, tuples for whole images."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from locate.errors import ImageError, InputError
from locate.training.data import correspondences, photos
from locate.training.data.correspondences import (
    MatchedPair,
    crop_matched_pair,
    load_pairs,
    save_pairs,
)
from locate.training.data.photos import PhotoPool
from locate.training.data.tuples import TrainingTuple, TupleMiner

# Photos


@pytest.fixture
def folder(tmp_path, photo_factory):
    """Three photos in two folders, and what is none."""
    photo_factory(tmp_path / "b.jpg", (200, 120), 1)
    photo_factory(tmp_path / "a/c.png", (64, 96), 2)
    photo_factory(tmp_path / "a/A.JPG", (80, 80), 3)
    photo_factory(tmp_path / ".hidden/d.jpg", (80, 80), 4)
    photo_factory(tmp_path / "a/._c.png", (80, 80), 5)
    (tmp_path / "a/notes.txt").write_text("no photo")
    return tmp_path


def test_a_scan_finds_photos_in_order(folder):
    pool = PhotoPool.scan(folder, held_out=0)
    assert pool.names == ("a/A.JPG", "a/c.png", "b.jpg")
    assert pool.paths == (folder / "a/A.JPG", folder / "a/c.png", folder / "b.jpg")
    assert len(pool) == 3
    assert pool.train.tolist() == [0, 1, 2]
    assert pool.held_out.tolist() == []


def test_held_out_photos_stay_held_out_when_others_come():
    names = [f"{k // 100}/photo{k}.jpg" for k in range(2000)]
    few = PhotoPool([f"/data/{n}" for n in names[::2]], "/data", held_out=0.1)
    many = PhotoPool([f"/data/{n}" for n in names], "/data", held_out=0.1)
    moved = PhotoPool([f"/elsewhere/{n}" for n in names], "/elsewhere", held_out=0.1)
    aside = {many.names[i] for i in many.held_out}
    assert {few.names[i] for i in few.held_out} == aside & set(few.names)
    assert {moved.names[i] for i in moved.held_out} == aside
    assert 0.07 < len(aside) / 2000 < 0.13
    assert sorted([*many.train, *many.held_out]) == list(range(2000))
    more = PhotoPool([f"/data/{n}" for n in names], "/data", held_out=0.3)
    assert aside < {more.names[i] for i in more.held_out}


def test_a_photo_is_held_out_whichever_folder_was_named():
    """Of the photos of a place all or none are, and of single photos the same by any root."""
    singles = [f"photos/{k}.jpg" for k in range(300)]
    scenes = [f"scenes/s{k // 8}/{k % 8}.jpg" for k in range(800)]
    places = [f"places/set/p{k // 8}/{k % 8}.jpg" for k in range(800)]
    names = [*singles, *scenes, *places]
    aside = held_out_below("/data/train", names)
    assert aside == {
        n[len("train/") :] for n in held_out_below("/data", [f"train/{n}" for n in names])
    }
    for kind in ("photos", "scenes", "places"):
        inner = [n.removeprefix(f"{kind}/") for n in names if n.startswith(kind)]
        found = {f"{kind}/{n}" for n in held_out_below(f"/data/train/{kind}", inner)}
        assert found == {n for n in aside if n.startswith(kind)}
    counts = np.array([sum(f"scenes/s{k}/{j}.jpg" in aside for j in range(8)) for k in range(100)])
    assert 10 < (counts == 8).sum() < 30
    assert counts[counts < 8].sum() < 0.1 * 640  # the usual share of the others
    few = held_out_below("/data/train", [*scenes[:8], *scenes[80:88]])
    assert few & set(scenes[:8]) == aside & set(scenes[:8])
    (place,) = [k for k in range(100) if counts[k] == 8][:1]
    alone = held_out_below("/data/train", scenes[8 * place : 8 * place + 8])
    assert len(alone) < 8  # or nothing were left to train on


def held_out_below(root, names):
    pool = PhotoPool([f"{root}/{name}" for name in names], root)
    assert sorted([*pool.train, *pool.held_out]) == list(range(len(names)))
    return {pool.names[i] for i in pool.held_out}


def test_reading_shrinks_by_area_and_never_enlarges(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (81, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    pool = PhotoPool([tmp_path / "x.png"], held_out=0)
    assert np.array_equal(pool.read(0, 500), pixels)
    thirds = pixels.reshape(27, 3, 40, 3, 3).mean(axis=(1, 3))
    small = pool.read(0, 40)
    assert small.shape == (27, 40, 3)
    assert small.dtype == np.uint8
    assert np.abs(small - thirds).max() <= 0.51
    with pytest.raises(ValueError, match="read-only"):
        small[0, 0] = 0
    with pytest.raises(InputError, match="at least 1"):
        pool.read(0, 0)


def counted(monkeypatch):
    """The names of all files that the pool decodes from now on."""
    decoded = []
    real = photos.read_photo

    def read(path, min_long_side=None):
        decoded.append(Path(path).name)
        return real(path, min_long_side)

    monkeypatch.setattr(photos, "read_photo", read)
    return decoded


def test_the_cache_keeps_the_latest_within_its_bytes(tmp_path, photo_factory, monkeypatch):
    paths = [photo_factory(tmp_path / f"{k}.png", (50, 40), k) for k in range(4)]
    decoded = counted(monkeypatch)
    pool = PhotoPool(paths, held_out=0, cache_bytes=2 * 50 * 40 * 3)
    for index in (0, 1, 0, 1, 2, 1, 0):  # 2 drives out 0, then 0 drives out 2
        pool.read(index, 100)
    assert decoded == ["0.png", "1.png", "2.png", "0.png"]
    pool.read(1, 100)
    assert len(decoded) == 4
    pool.read(1, 25)  # another size is another picture
    assert len(decoded) == 5
    tiny = PhotoPool(paths, held_out=0, cache_bytes=10)
    assert np.array_equal(tiny.read(3, 100), tiny.read(3, 100))
    assert len(decoded) == 7


def test_several_threads_see_the_same_pixels(tmp_path, photo_factory):
    paths = [photo_factory(tmp_path / f"{k}.png", (60, 40), k) for k in range(6)]
    pool = PhotoPool(paths, held_out=0, cache_bytes=3 * 60 * 40 * 3)
    expected = [np.array(Image.open(path)) for path in paths]
    order = np.random.default_rng(0).integers(0, 6, 300)
    with ThreadPoolExecutor(8) as threads:
        seen = list(threads.map(lambda index: pool.read(index, 100), order))
    assert all(np.array_equal(s, expected[i]) for i, s in zip(order, seen, strict=True))
    assert pool._cached == sum(p.nbytes for p in pool._cache.values()) <= 3 * 60 * 40 * 3


def test_a_broken_file_is_named_once_and_left_out(tmp_path, photo_factory, caplog):
    for k in range(6):
        photo_factory(tmp_path / f"{k}.jpg", (80, 60), k)
    whole = (tmp_path / "2.jpg").read_bytes()
    (tmp_path / "2.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "4.jpg").write_text("no photo")
    pool = PhotoPool.scan(tmp_path, held_out=0)
    rng = np.random.default_rng(0)
    with caplog.at_level(logging.WARNING, "locate"):
        drawn = [pool.pick(rng) for _ in range(100)]
        for _ in range(2):
            with pytest.raises(ImageError):
                pool.read(4, 50)
    assert set(drawn) == {0, 1, 3, 5}
    assert not pool.usable(2)
    assert pool.usable(3)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert sum("2.jpg" in t and "truncated" in t and "copy it again" in t for t in told) == 1
    assert sum("4.jpg" in t for t in told) == 1

    # What is drawn does not depend on what the pool has found out before.
    fresh = PhotoPool.scan(tmp_path, held_out=0)
    one, other = np.random.default_rng(7), np.random.default_rng(7)
    assert [pool.pick(one) for _ in range(50)] == [fresh.pick(other) for _ in range(50)]


def test_picking_keeps_to_its_side(tmp_path, photo_factory):
    for k in range(12):
        photo_factory(tmp_path / f"{k}.jpg", (40, 40), k)
    pool = PhotoPool.scan(tmp_path, held_out=0.5)
    rng = np.random.default_rng(0)
    for which, side in (("train", pool.train), ("held_out", pool.held_out)):
        assert len(side) > 0
        assert {pool.pick(rng, which) for _ in range(150)} == set(side.tolist())
    with pytest.raises(InputError, match="'test'"):
        pool.pick(rng, "test")
    with pytest.raises(InputError, match="held-out share"):
        PhotoPool.scan(tmp_path, held_out=0).pick(rng, "held_out")


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(InputError, match="holds no photo"):
        PhotoPool.scan(tmp_path)
    with pytest.raises(InputError, match="none does not exist; name a folder"):
        PhotoPool.scan(tmp_path / "none")
    with pytest.raises(InputError, match="no photo"):
        PhotoPool([])
    with pytest.raises(InputError, match="is not below"):
        PhotoPool(["/a/b.jpg"], "/c")
    with pytest.raises(InputError, match=r"\[0, 1\)"):
        PhotoPool(["a.jpg"], held_out=1)
    (tmp_path / "bad.jpg").write_text("no photo")
    with pytest.raises(InputError, match="none of the 1 photos"):
        PhotoPool.scan(tmp_path, held_out=0).pick(np.random.default_rng(0))


@pytest.mark.data
def test_the_training_photos(data):
    pool = PhotoPool.scan(data / "train" / "photos")
    assert 0.03 < len(pool.held_out) / len(pool) < 0.07
    rng = np.random.default_rng(0)
    for which in ("train", "held_out"):
        pixels = pool.read(pool.pick(rng, which), 256)
        assert max(pixels.shape) == 256


# Correspondences


def make_pair(a, b, count, seed=0, source="test"):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 40, (2, count, 2)).astype(np.float32)
    return MatchedPair(Path(a), Path(b), points[0], points[1], source)


@pytest.fixture
def three(tmp_path, photo_factory):
    """A folder with three photos, and three pairs of them, one without points."""
    images = [photo_factory(tmp_path / f"data/scene/{k}.png", (50, 40), k) for k in range(3)]
    pairs = [
        make_pair(images[0], images[1], 5, 1, "sift"),
        make_pair(images[2], images[0], 0, 2, "by hand"),
        make_pair(images[1], images[2], 7, 3, "größer"),
    ]
    return tmp_path / "data", pairs


def same(pairs, others):
    assert len(pairs) == len(others)
    for p, q in zip(pairs, others, strict=True):
        assert p.image_a.resolve() == q.image_a.resolve()
        assert p.image_b.resolve() == q.image_b.resolve()
        assert p.source == q.source
        for x, y in ((p.points_a, q.points_a), (p.points_b, q.points_b)):
            assert x.dtype == y.dtype == np.float32
            assert np.array_equal(x, y)


def test_pairs_come_back_as_they_were(three, tmp_path):
    root, pairs = three
    save_pairs(root / "pairs.npz", pairs)
    same(load_pairs(root / "pairs.npz"), pairs)
    save_pairs(tmp_path / "work/pairs.npz", pairs, root)
    same(load_pairs(tmp_path / "work/pairs.npz", root), pairs)
    save_pairs(tmp_path / "work/beside.npz", pairs)  # ../data/scene/0.png
    same(load_pairs(tmp_path / "work/beside.npz"), pairs)
    save_pairs(root / "none.npz", [])
    assert load_pairs(root / "none.npz") == []


def test_a_file_of_pairs_moves_with_its_photos(three, tmp_path):
    root, pairs = three
    save_pairs(root / "pairs.npz", pairs)
    shutil.move(root, tmp_path / "moved")
    found = load_pairs(tmp_path / "moved/pairs.npz")
    assert found[0].image_a == tmp_path / "moved/scene/0.png"
    shutil.move(tmp_path / "moved/pairs.npz", tmp_path / "pairs.npz")
    with pytest.raises(InputError, match=r"3 of 3 images.*scene/0\.png.*name the data folder"):
        load_pairs(tmp_path / "pairs.npz")
    assert len(load_pairs(tmp_path / "pairs.npz", tmp_path / "moved")) == 3


def test_another_program_can_write_pairs_by_the_documented_layout(three):
    root, _ = three
    layout = {
        "images": np.array(["scene/2.png", "scene/0.png"]),
        "pairs": np.array([[1, 0]], np.int64),
        "offsets": np.array([0, 2]),
        "points_a": np.array([[1, 2], [3, 4]], np.float32),
        "points_b": np.array([[5, 6], [7, 8.5]], np.float32),
        "sources": np.array(["my matcher"]),
    }
    np.savez(root / "own.npz", **layout)
    (pair,) = load_pairs(root / "own.npz")
    assert (pair.image_a.name, pair.image_b.name, pair.source) == ("0.png", "2.png", "my matcher")
    assert pair.points_a.tolist() == [[1, 2], [3, 4]]
    assert pair.points_b.tolist() == [[5, 6], [7, 8.5]]
    for key in layout:
        assert f"`{key}`" in correspondences.__doc__
        np.savez(root / "bad.npz", **{k: v for k, v in layout.items() if k != key})
        with pytest.raises(InputError, match=f"lacks {key}"):
            load_pairs(root / "bad.npz")
    twice = {"pairs": np.array([[1, 0], [1, 0]]), "sources": np.array(["x", "y"])}
    np.savez(root / "bad.npz", **layout | twice | {"offsets": np.array([0, 3, 2])})
    with pytest.raises(InputError, match="offsets"):
        load_pairs(root / "bad.npz")
    for key, value, said in (
        ("pairs", np.array([[1, 2]]), "places in `images`"),
        ("pairs", np.array([[-1, 0]]), "places in `images`"),
        ("pairs", np.array([1, 0]), "`pairs` must be 1 x 2"),
        ("offsets", np.array([0, 3]), "offsets"),
        ("offsets", np.array([1, 2]), "offsets"),
        ("offsets", np.array([0, 1, 2]), "`offsets` must be 2"),
        ("points_a", np.zeros((2, 2)), "float32"),
        ("points_a", np.zeros((3, 2), np.float32), "offsets"),
        ("points_b", np.full((2, 2), np.nan, np.float32), "NaN"),
        ("images", np.array([1, 2]), "strings"),
        ("sources", np.array("my matcher"), "strings"),
        ("points_a", np.array(1, np.float32), "float32"),
        ("images", np.array(["a", None]), "is no file of pairs"),  # an object needs a pickle
    ):
        np.savez(root / "bad.npz", **layout | {key: value})
        with pytest.raises(InputError, match=said):
            load_pairs(root / "bad.npz")


def test_files_that_are_none(tmp_path, three):
    root, pairs = three
    with pytest.raises(InputError, match="does not exist"):
        load_pairs(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "array.npy", np.zeros(3))
    save_pairs(root / "pairs.npz", pairs)
    whole = (root / "pairs.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-40])
    (tmp_path / "flipped.npz").write_bytes(whole[:90] + bytes([whole[90] ^ 255]) + whole[91:])
    for name in ("text.npz", "array.npy", "cut.npz", "flipped.npz"):
        with pytest.raises(InputError, match=name):
            load_pairs(tmp_path / name, root)


def test_a_failed_save_leaves_the_old_file(three, monkeypatch):
    root, pairs = three
    save_pairs(root / "pairs.npz", pairs)
    before = sorted(p.name for p in root.iterdir())

    def fail(stream, **arrays):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(correspondences.np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        save_pairs(root / "pairs.npz", pairs[:1])
    same(load_pairs(root / "pairs.npz"), pairs)
    assert sorted(p.name for p in root.iterdir()) == before


def test_a_pair_is_checked_at_birth():
    good = np.zeros((3, 2), np.float32)
    for a, b, said in (
        (good, good[:2], "points_b must be 3 x 2"),
        (good.astype(np.float64), good, "points_a must be 3 x 2 float32"),
        (good, good + np.float32("inf"), "NaN or infinity"),
    ):
        with pytest.raises(InputError, match=said):
            MatchedPair(Path("a"), Path("b"), a, b, "")


# Crops


def dotted(points, size, sigma):
    width, height = size
    image = np.zeros((height, width))
    for x, y in points:
        left, top = max(0, int(x - 6 * sigma)), max(0, int(y - 6 * sigma))
        part = image[top : int(y + 6 * sigma), left : int(x + 6 * sigma)]
        ys, xs = np.indices(part.shape)
        part += np.exp(-((xs + left - x) ** 2 + (ys + top - y) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(255 * image.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2)


def centroid_near(image, x, y, reach):
    """Brightness-weighted centre of what lies within `reach` pixels of (x, y)."""
    left, top = max(0, int(x - reach)), max(0, int(y - reach))
    part = image[top : int(y + reach) + 2, left : int(x + reach) + 2, 0]
    ys, xs = np.indices(part.shape)
    xs, ys = xs + left, ys + top
    weight = part * ((xs - x) ** 2 + (ys - y) ** 2 < reach**2).astype(np.float64)
    return (xs * weight).sum() / weight.sum(), (ys * weight).sum() / weight.sum()


@pytest.fixture(scope="module")
def marked():
    """Two photos of the same dots, b at 1.8 times the size of a, turned by 20 degrees."""
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.arange(20, 500, 36), np.arange(20, 380, 36)), -1).reshape(-1, 2)
    a = (grid + rng.uniform(-6, 6, grid.shape)).astype(np.float32)
    turn = 1.8 * np.array([[0.94, -0.342], [0.342, 0.94]])
    b = (a @ turn.T + (130, 10)).astype(np.float32)
    size_a, size_b = (510, 390), (900, 820)
    keep = np.all((b > 10) & (b < np.array(size_b) - 10), axis=1)
    a, b = a[keep], b[keep]
    pair = MatchedPair(Path("a.png"), Path("b.png"), a, b, "drawn")
    return pair, (dotted(a, size_a, 2.5), dotted(b, size_b, 4.5))


@pytest.mark.parametrize("size", [128, 300, 600])  # less than the photos, about as much, more
def test_points_of_a_crop_lie_on_what_they_marked(marked, size):
    pair, images = marked
    rng = np.random.default_rng(2)
    errors, zooms, ratios = [], [], []
    for _ in range(12):
        crop = crop_matched_pair(pair, images, rng, size)
        assert crop.image_a.shape == crop.image_b.shape == (size, size, 3)
        assert crop.points_a.dtype == crop.points_b.dtype == np.float32
        assert len(crop.points_a) == len(crop.points_b) >= 1
        for image, points in ((crop.image_a, crop.points_a), (crop.image_b, crop.points_b)):
            assert points.min() >= 0
            assert points.max() <= size - 1
            zoom = image_zoom(image)
            for x, y in points:
                if min(x, y) > 6 * zoom and max(x, y) < size - 1 - 6 * zoom:
                    p, q = centroid_near(image, x, y, 6 * zoom)
                    errors.append(np.hypot(x - p, y - q))
        if len(crop.points_a) > 3:
            spans = [np.linalg.norm(p - p[0], axis=1)[1:] for p in (crop.points_a, crop.points_b)]
            ratios.append(np.median(spans[1] / spans[0]))
            zooms.append(spans[0][0])
    assert len(errors) > 30
    assert np.max(errors) < 0.1
    # b shows things 1.8 times as large; in the crops it is 1 / 1.5 to 1.5 times
    assert min(ratios) > 1 / 1.6
    assert max(ratios) < 1.6
    assert max(ratios) / min(ratios) > 1.2


def image_zoom(image):
    """How large the dots are, relative to a standard deviation of 2.5 pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (image[..., 0] > 128).astype(np.uint8)
    )
    areas = stats[1:, cv2.CC_STAT_AREA]
    assert count > 1
    assert labels.shape == image.shape[:2]
    return np.sqrt(np.percentile(areas, 75) / (2 * np.pi * np.log(2) * 2.5**2))


def test_rows_of_a_crop_stay_together(marked):
    """b is a turned by 20 degrees at another size, and so are the points of the crops, row by row."""
    pair, images = marked
    rng = np.random.default_rng(5)
    for _ in range(5):
        crop = crop_matched_pair(pair, images, rng, 200)
        known = np.c_[crop.points_a, np.ones(len(crop.points_a))].astype(np.float64)
        solved, *_ = np.linalg.lstsq(known, crop.points_b.astype(np.float64))
        assert len(known) > 5
        assert np.abs(known @ solved - crop.points_b).max() < 0.01
        turn = solved[:2].T / np.sqrt(np.linalg.det(solved[:2]))
        assert np.allclose(turn, [[0.94, -0.342], [0.342, 0.94]], atol=1e-3)


def test_a_close_up_limits_what_the_other_crop_shows(marked):
    """b is cut to 260 x 260 of its pixels, so a's crop may show 145 of its own at most."""
    pair, (image_a, image_b) = marked
    keep = np.all((pair.points_b >= 0) & (pair.points_b <= 259), axis=1)
    cut = MatchedPair(pair.image_a, pair.image_b, pair.points_a[keep], pair.points_b[keep], "cut")
    rng = np.random.default_rng(2)
    for _ in range(12):
        crop = crop_matched_pair(cut, (image_a, image_b[:260, :260]), rng, 128, scale_jitter=1.0)
        if len(crop.points_a) > 2:
            spans = [np.linalg.norm(p - p[0], axis=1)[1:] for p in (crop.points_a, crop.points_b)]
            assert np.median(spans[1] / spans[0]) == pytest.approx(1, abs=0.05)


def test_reduced_copies_give_the_same_spots(marked):
    pair, images = marked
    sizes = tuple((image.shape[1], image.shape[0]) for image in images)
    half = tuple(cv2.resize(i, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for i in images)
    crop = crop_matched_pair(pair, half, np.random.default_rng(3), 150, sizes=sizes)
    errors = []
    for image, points in ((crop.image_a, crop.points_a), (crop.image_b, crop.points_b)):
        reach = 6 * image_zoom(image)
        for x, y in points:
            if min(x, y) > reach and max(x, y) < 149 - reach:
                p, q = centroid_near(image, x, y, reach)
                errors.append(np.hypot(x - p, y - q))
    assert len(errors) > 5
    assert max(errors) < 0.1
    one, again = (crop_matched_pair(pair, images, np.random.default_rng(3), 150) for _ in range(2))
    assert np.array_equal(one.image_b, again.image_b)
    assert np.array_equal(one.points_a, again.points_a)


def test_pairs_that_cannot_be_cropped(marked):
    pair, images = marked
    rng = np.random.default_rng(0)
    none = np.zeros((0, 2), np.float32)
    with pytest.raises(InputError, match=r"a\.png and b\.png share no point"):
        crop_matched_pair(MatchedPair(pair.image_a, pair.image_b, none, none, ""), images, rng, 64)
    far = MatchedPair(pair.image_a, pair.image_b, pair.points_a + 1000, pair.points_b, "")
    with pytest.raises(InputError, match="check the sizes"):
        crop_matched_pair(far, images, rng, 64)
    with pytest.raises(InputError, match="at least 2"):
        crop_matched_pair(pair, images, rng, 1)


# Tuples

SCENES = {
    "tower": [Path(f"tower/{k}.jpg") for k in range(9)],
    "bridge": [Path(f"bridge/{k}.jpg") for k in range(3)],
    "door": [Path(f"door/{k}.jpg") for k in range(2)],
}
SINGLES = [Path(f"photos/{k}.jpg") for k in range(20)]


def scene_of(path):
    return str(path) if path in SINGLES else path.parent.name


def test_tuples_keep_to_their_scenes():
    miner = TupleMiner(SCENES, SINGLES, single_share=0.3)
    rng = np.random.default_rng(0)
    drawn = [miner.draw(rng, negatives=4) for _ in range(2000)]
    alone = 0
    for t in drawn:
        assert len(set(t.negatives)) == 4
        assert scene_of(t.anchor) == scene_of(t.positive)
        assert all(scene_of(n) != scene_of(t.anchor) for n in t.negatives)
        assert (t.anchor == t.positive) == (t.anchor in SINGLES)
        alone += t.anchor in SINGLES
    assert abs(alone / 2000 - 0.3) < 0.04
    assert {t.anchor for t in drawn} == {t.positive for t in drawn}
    assert {n for t in drawn for n in t.negatives} == {
        *SINGLES,
        *(p for s in SCENES.values() for p in s),
    }
    # in proportion to the root of the number of photos: 3 : 1.73 : 1.41
    counts = {name: sum(scene_of(t.anchor) == name for t in drawn) for name in SCENES}
    total = 3 + 3**0.5 + 2**0.5
    for name, photos_of in SCENES.items():
        assert abs(counts[name] / (2000 - alone) - len(photos_of) ** 0.5 / total) < 0.04
    again = np.random.default_rng(0)
    assert [miner.draw(again, negatives=4) for _ in range(50)] == drawn[:50]


def test_negatives_are_drawn_evenly_from_all_other_photos():
    miner = TupleMiner(SCENES, single_share=0.5)  # no singles: only scenes
    rng = np.random.default_rng(1)
    seen = {}
    for _ in range(3000):
        t = miner.draw(rng, negatives=1)
        if t.anchor.parent.name == "bridge":
            seen[t.negatives[0]] = seen.get(t.negatives[0], 0) + 1
    assert set(seen) == {*SCENES["tower"], *SCENES["door"]}
    assert max(seen.values()) < 2 * min(seen.values())
    assert len(miner.draw(rng, negatives=0).negatives) == 0
    with pytest.raises(InputError, match="100 negatives"):
        miner.draw(rng, negatives=100)


def test_verified_pairs_restrict_the_positives():
    none = np.zeros((0, 2), np.float32)

    def matched(a, b):
        return MatchedPair(a, b, none, none, "")

    tower, bridge = SCENES["tower"], SCENES["bridge"]
    pairs = [
        matched(tower[0], tower[5]),
        matched(tower[5], tower[7]),
        matched(bridge[0], bridge[2]),
    ]
    pairs.append(matched(Path("else/0.jpg"), tower[1]))  # of data that is not used here
    miner = TupleMiner(SCENES, pairs=pairs)
    rng = np.random.default_rng(0)
    drawn = [miner.draw(rng, 3) for _ in range(300)]
    allowed = {(tower[0], tower[5]), (tower[5], tower[7]), (bridge[0], bridge[2])}
    assert {(t.anchor, t.positive) for t in drawn} == allowed | {(b, a) for a, b in allowed}
    assert SCENES["door"][0] in {n for t in drawn for n in t.negatives}
    with pytest.raises(InputError, match="different scenes"):
        TupleMiner(SCENES, pairs=[matched(tower[0], bridge[0])])
    with pytest.raises(InputError, match="no two photos"):
        TupleMiner(SCENES, pairs=[])


def test_single_photos_alone_are_enough():
    miner = TupleMiner({}, SINGLES)
    rng = np.random.default_rng(0)
    for _ in range(50):
        t = miner.draw(rng, 3)
        assert t.anchor == t.positive
        assert t.anchor not in t.negatives
    assert isinstance(t, TrainingTuple)


def test_miners_that_cannot_be():
    with pytest.raises(InputError, match="no two photos"):
        TupleMiner({})
    with pytest.raises(InputError, match="less than two"):
        TupleMiner({"one": [Path("x.jpg")]})
    with pytest.raises(InputError, match=r"door/0\.jpg occurs twice"):
        TupleMiner(SCENES, [Path("door/0.jpg")])
    with pytest.raises(InputError, match="0 to 1"):
        TupleMiner(SCENES, single_share=2)


def test_the_hardest_negatives_by_brute_force():
    miner = TupleMiner(SCENES, SINGLES)
    rng = np.random.default_rng(3)
    everything = [*SINGLES, *(p for s in SCENES.values() for p in s)]
    for trial in range(20):
        shuffled = [everything[k] for k in rng.permutation(len(everything))]
        vectors = {
            p: v / np.linalg.norm(v)
            for p, v in zip(shuffled, rng.normal(size=(34, 5)), strict=True)
        }
        anchor = shuffled[0] if trial else SINGLES[4]
        best = {}
        for path, vector in vectors.items():
            if scene_of(path) != scene_of(anchor):
                similarity = sum(
                    float(x) * float(y) for x, y in zip(vector, vectors[anchor], strict=True)
                )
                if similarity > best.get(scene_of(path), (-2.0,))[0]:
                    best[scene_of(path)] = (similarity, path)
        expected = [path for _, path in sorted(best.values(), key=lambda pair: -pair[0])]
        assert miner.hardest(vectors, anchor, 5) == tuple(expected[:5])
        assert miner.hardest(vectors, anchor, 99) == tuple(expected)
    assert miner.hardest(vectors, anchor, 0) == ()
    with pytest.raises(InputError, match="has no descriptor"):
        miner.hardest({}, anchor, 5)
    with pytest.raises(InputError, match=r"else\.jpg"):
        miner.hardest(vectors | {Path("else.jpg"): vectors[anchor]}, anchor, 5)


def test_ties_among_the_hardest_do_not_depend_on_the_order_of_the_vectors():
    miner = TupleMiner(SCENES, SINGLES)
    alike = np.ones(4, np.float32) / 2
    paths = [SINGLES[0], *SCENES["tower"], *SINGLES[5:9]]
    one = miner.hardest(dict.fromkeys(paths, alike), SINGLES[0], 3)
    other = miner.hardest(dict.fromkeys(paths[::-1], alike), SINGLES[0], 3)
    assert one == other
    assert one[0] == SCENES["tower"][0]
