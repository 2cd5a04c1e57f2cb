"""The pairs that settings are chosen by: their homographies, where they come from, that they stay."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.common import warps
from benchmarks.common.held_out import held_out_photos
from benchmarks.common.warps import STEPS, make_warp, tilted, write_warps
from locate.datasets.matching import read_matching_data
from locate.training.data.photos import PhotoPool

GEOMETRIC = ("zoom", "rotation", "zoom-rotation", "viewpoint")
CASES = [(kind, step) for kind, steps in STEPS.items() for step in steps]


@pytest.fixture
def ruler():
    """A photo that says of every pixel where it is: red is twice x, green twice y."""
    y, x = np.mgrid[:90, :120]
    return np.stack((2 * x + 10, 2 * y + 10, np.full_like(x, 50)), axis=-1).astype(np.uint8)


def places(image, points):
    """Where in the ruler M points of a view of it lie, by its colours between the pixels, by hand."""
    low = np.floor(points).astype(int)
    part = points - low
    total = np.zeros((len(points), 2))
    for dx in (0, 1):
        for dy in (0, 1):
            weight = abs(1 - dx - part[:, 0]) * abs(1 - dy - part[:, 1])
            total += weight[:, None] * image[low[:, 1] + dy, low[:, 0] + dx, :2]
    return (total - 10) / 2


def shared_points(warp, margin=3):
    """Points of a and b that are the same by the homography."""
    height, width = warp.image_b.shape[:2]
    x, y = np.meshgrid(
        np.arange(margin, width - margin, 7.3), np.arange(margin, height - margin, 5.9)
    )
    in_b = np.stack((x.ravel(), y.ravel(), np.ones(x.size)))
    in_a = np.linalg.solve(warp.b_from_a, in_b)
    in_a, in_b = (in_a[:2] / in_a[2]).T, in_b[:2].T
    limit = np.array(warp.image_a.shape[1::-1]) - 1 - margin
    seen = ((in_a > margin) & (in_a < limit)).all(axis=1)
    return in_a[seen], in_b[seen]


@pytest.mark.parametrize(
    ("kind", "step"), [case for case in CASES if case[0] in (*GEOMETRIC, "blur")]
)
def test_both_views_show_the_same_place_of_the_photo(ruler, kind, step):
    warp = make_warp(ruler, kind, step, np.random.default_rng(5))
    a, b = shared_points(warp)
    assert len(a) > 50
    off = places(warp.image_a, a) - places(warp.image_b, b)
    assert np.abs(off.mean(axis=0)).max() < 0.06  # pixels of the photo, of which a view has 2 to 8
    assert np.abs(off).max() < 0.8  # colours are whole numbers
    shifted = places(warp.image_a, a + 2) - places(warp.image_b, b)
    assert np.abs(shifted.mean(axis=0)).max() > 0.2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("kind", "step"), CASES)
def test_views_hold_nothing_but_the_photo(kind, step, seed):
    flat = np.full((90, 120, 3), 120, np.uint8)
    warp = make_warp(flat, kind, step, np.random.default_rng(seed))
    for image in (warp.image_a, warp.image_b):
        assert min(image.shape[:2]) > 100
        grey = image.astype(float).mean(axis=2)
        assert grey.min() > 0.3 * np.median(grey)  # a shadow may lie over it


def local_change(warp):
    """The 2 x 2 derivative of the homography in the middle of b, by differences."""
    middle = np.array(warp.image_b.shape[1::-1]) / 2
    back = np.linalg.inv(warp.b_from_a)
    ends = middle + np.array([(-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5)])
    mapped = [(back @ (*end, 1))[:2] / (back @ (*end, 1))[2] for end in ends]
    return np.linalg.inv(np.stack((mapped[1] - mapped[0], mapped[3] - mapped[2]), axis=1))


@pytest.mark.parametrize(("kind", "step"), [case for case in CASES if case[0] in GEOMETRIC])
def test_the_amount_is_what_it_is_called(kind, step):
    photo = np.full((300, 400, 3), 120, np.uint8)
    angles = []
    for seed in range(12):
        # The tilt is that in the middle of the view, where only the middle of the photo is asked.
        change = local_change(make_warp(photo, kind, step, np.random.default_rng(seed)))
        large, small = np.linalg.svd(change)[1]
        angles.append(math.atan2(change[1, 0] - change[0, 1], change[0, 0] + change[1, 1]))
        if kind == "viewpoint":
            assert small / large == pytest.approx(math.cos(math.radians(step)), rel=0.02)
            assert math.sqrt(large * small) == pytest.approx(
                math.sqrt(math.cos(math.radians(step))) / math.cos(math.radians(step)), rel=0.02
            )
        else:
            wanted = step if "zoom" in kind else 1.0
            assert (large, small) == pytest.approx((wanted, wanted), rel=0.06)
    if "rotation" in kind:
        assert max(angles) > 1.5
        assert min(angles) < -1.5
    if kind == "zoom":
        assert np.abs(angles).max() < 1e-6


def test_a_tilted_plane_is_seen_as_by_a_camera():
    """Points of a plane two metres away, in metres, projected by two cameras written out by hand."""
    focal, angle, axis = 480.0, 0.7, 1.1
    k = np.diag((focal, focal, 1))
    plane = np.random.default_rng(1).uniform(-0.8, 0.8, (20, 2))
    points = np.c_[plane, np.full(20, 2.0)]
    x, y = math.cos(axis), math.sin(axis)
    cross = np.array([[0, 0, y], [0, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    center = np.array((0, 0, 2.0)) - rotation.T @ (0, 0, 2.0)
    one, other = points @ k.T, (points - center) @ rotation.T @ k.T
    straight, seen = one[:, :2] / one[:, 2:], other[:, :2] / other[:, 2:]
    mapped = np.c_[straight, np.ones(20)] @ tilted(angle, axis, focal).T
    assert mapped[:, :2] / mapped[:, 2:] == pytest.approx(seen)


@pytest.mark.parametrize("kind", ["light", "blur", "jpeg"])
def test_stronger_steps_change_more(photo_factory, tmp_path, kind):
    photo = np.asarray(Image.open(photo_factory(tmp_path / "a.png", (240, 180), 3)))
    sides = ([-2, -3.5, -5], [1, 2]) if kind == "light" else (STEPS[kind],)
    for steps in sides:
        errors = []
        for step in steps:
            warp = make_warp(photo, kind, step, np.random.default_rng(1))
            size = warp.image_b.shape[1::-1]
            plain = cv2.warpPerspective(warp.image_a, warp.b_from_a, size)
            errors.append(np.abs(plain.astype(float) - warp.image_b)[5:-5, 5:-5].mean())
        assert errors == sorted(errors)
        assert errors[-1] > 1.5 * errors[0]


@pytest.fixture
def folder(tmp_path, photo_factory):
    for k in range(60):
        photo_factory(tmp_path / f"data/train/photos/p{k}.png", (120, 90), k)
        photo_factory(tmp_path / f"data/train/landmarks/l{k % 9}/p{k}.png", (60, 45), k)
    return tmp_path / "data"


def test_pairs_are_written_once_and_always_alike(folder, tmp_path, monkeypatch):
    few = {kind: steps[:1] for kind, steps in STEPS.items()}
    monkeypatch.setattr(warps, "STEPS", few)
    one, two = (write_warps(folder, tmp_path / name) for name in ("one", "two"))
    assert list(one) == list(STEPS)
    for kind in STEPS:
        files = sorted(p.relative_to(one[kind]) for p in one[kind].rglob("*") if p.is_file())
        assert files
        assert all((one[kind] / f).read_bytes() == (two[kind] / f).read_bytes() for f in files)
        pairs = read_matching_data(one[kind]).homographies
        assert len(pairs) == len(held_out_photos(folder))
    monkeypatch.setattr(warps, "make_warp", None)
    assert write_warps(folder, tmp_path / "one") == one


def test_no_training_sees_these_photos(folder):
    chosen = {path.resolve() for path in held_out_photos(folder)}
    assert chosen
    for root in (folder, folder / "train", folder / "train/photos"):
        pool = PhotoPool.scan(root, held_out=None)
        assert not chosen & {pool.paths[i].resolve() for i in pool.train}


@pytest.mark.data
def test_there_are_enough_of_them(data):
    chosen = set(held_out_photos(data))
    assert len(chosen) >= 80
    pool = PhotoPool.scan(data / "train", held_out=None)
    assert chosen <= {pool.paths[i] for i in pool.held_out}
