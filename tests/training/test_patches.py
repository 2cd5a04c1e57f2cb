"""Patches around keypoints: where their pixels lie, frames in another view, and quadruplets."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from locate.extractors.sift import describe_frames, find_frames
from locate.pixels import apply_homography
from locate.training.data.homographies import HomographySettings
from locate.training.data.patches import (
    carried,
    crop_patches,
    empty_places,
    found_again,
    frames_at,
    matched_quadruplets,
    pyramid,
    spaced,
    to_grey,
    warped_quadruplets,
    wrapped,
)
from locate.training.data.photometric import PhotometricSettings

H = np.array([[0.8, 0.3, 12], [-0.35, 0.9, 40], [0.0006, -0.0004, 1]])
QUIET = PhotometricSettings(
    brightness=0, contrast=0, gamma=0, color_cast=0, saturation=0, grey_chance=0, noise_chance=0,
    blur_chance=0, motion_chance=0, shadow_chance=0, jpeg_chance=0,
)  # fmt: skip


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def waves(x, y):
    return 128 + 50 * np.sin(x / 17 + 0.3) + 45 * np.cos(y / 23 + x / 60)


def likeness(a, b):
    """Correlations of N patches each."""
    a, b = (p.reshape(len(p), -1).astype(float) for p in (a, b))
    a, b = (p - p.mean(axis=1, keepdims=True) for p in (a, b))
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize(("side", "reach"), [(64, 6.0), (48, 12.0), (31, 5.0)])
def test_pixels_of_patches_lie_where_the_frame_says(side, reach):
    columns, rows = np.meshgrid(np.arange(301.0), np.arange(240.0))
    levels = pyramid(np.rint(waves(columns, rows)).astype(np.uint8))
    assert [level.shape for level in levels[:2]] == [(240, 301), (120, 150)]
    frames = np.array([(120.3, 99.8, 2.0, 0.7), (150, 120, 1.1, -2.9), (149.5, 118.2, 7.3, 1.8)])
    found = crop_patches(levels, frames, side, reach)
    assert found.shape == (3, side, side)
    assert found.dtype == np.uint8
    for patch, (x, y, scale, angle) in zip(found, frames, strict=True):
        step = 2 * reach * scale / side
        for j, i in np.ndindex(side, side):
            u, v = step * (i - (side - 1) / 2), step * (j - (side - 1) / 2)
            px = x + np.cos(angle) * u - np.sin(angle) * v
            py = y + np.sin(angle) * u + np.cos(angle) * v
            if 3 < px < 297 and 3 < py < 236:
                assert patch[j, i] == pytest.approx(waves(px, py), abs=2.5)


def test_a_patch_beyond_the_border_continues_it():
    levels = pyramid(np.tile(np.arange(100, 164, dtype=np.uint8), (64, 1)))
    (found,) = crop_patches(levels, np.array([(0.0, 30, 2.0, 0)]), 24, 6.0)
    assert (found[:, :12] == 100).all()


def test_frames_are_carried_over_by_the_derivative(rng):
    frames = np.c_[rng.uniform(20, 180, (30, 2)), rng.uniform(1, 6, 30), rng.uniform(-3, 3, 30)]
    found = carried(frames, H)
    eps = 1e-5
    for (x, y, scale, angle), (px, py, grown, turned) in zip(frames, found, strict=True):
        here, right, below = apply_homography(H, np.array([(x, y), (x + eps, y), (x, y + eps)]))
        assert (px, py) == pytest.approx(tuple(here))
        slope = np.stack(((right - here) / eps, (below - here) / eps), axis=1)
        assert grown == pytest.approx(scale * np.sqrt(np.linalg.det(slope)), rel=1e-4)
        u, v = slope @ (np.cos(angle), np.sin(angle))
        assert turned == pytest.approx(np.arctan2(v, u), abs=1e-4)
    behind = np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 50]])
    assert np.isnan(carried(np.array([(100.0, 5, 1, 0)]), behind)).all()


def test_what_is_found_again_by_hand(rng):
    found = np.c_[
        rng.uniform(0, 40, (60, 2)), rng.uniform(1, 3, 60), rng.uniform(-np.pi, np.pi, 60)
    ]
    expected = found[rng.permutation(60)[:40]] + rng.normal(0, (0.8, 0.8, 0.3, 0.4), (40, 4))
    expected[5] = np.nan
    pairs = []
    for i, (x, y, scale, angle) in enumerate(expected):
        near = []
        for j, (px, py, size, turned) in enumerate(found):
            error = abs((turned - angle + np.pi) % (2 * np.pi) - np.pi)
            far = np.hypot(px - x, py - y)
            if far < 1 + 0.5 * size and 1 / 1.4 < size / scale < 1.4 and error < np.pi / 6:
                near.append((far, j))
        if near:
            pairs.append((i, min(near)[1]))
    assert 10 < len(pairs) < 39
    assert found_again(expected, found).tolist() == [list(pair) for pair in pairs]
    assert found_again(expected[:0], found).shape == (0, 2)


def test_at_matched_points_the_turn_of_most_decides(rng):
    points = rng.uniform(0, 300, (12, 2))
    frames_a = np.c_[points, np.full(12, 2.0), rng.uniform(-np.pi, np.pi, 12)]
    frames_b = frames_a + np.array((7, -3, 0.5, 0.4))
    second = frames_b[3] + (0, 0, 0, 2.0)  # as SIFT often says: another angle at the same place
    frames_b[5, 3] += 1.5  # wrong
    every = np.vstack((second, frames_b))
    a, b = frames_at(points[:10], points[:10] + np.array((7, -3)), frames_a, every)
    expected = [0, 1, 2, 3, 4, 6, 7, 8, 9]
    np.testing.assert_allclose(a, frames_a[expected])
    np.testing.assert_allclose(b, frames_b[expected])
    assert len(frames_at(points, points, frames_a[:0], every)[0]) == 0


def test_empty_places_have_no_keypoint_as_large(rng):
    frames = np.c_[rng.uniform(0, 300, (25, 2)), rng.choice([1.0, 3.0], 25), np.zeros(25)]
    scales = rng.uniform(2.5, 5, 40)
    found = empty_places(rng, scales, frames, (300, 200))
    np.testing.assert_array_equal(found[:, 2], scales)
    assert np.all((found[:, :2] >= 0) & (found[:, :2] <= (299, 199)))
    empty = 0
    for x, y, scale, _ in found:
        large = frames[frames[:, 2] >= scale / 2]
        far = np.maximum(abs(large[:, 0] - x), abs(large[:, 1] - y)).min()
        empty += far >= 6 * scale
    assert empty > 35
    crowd = np.c_[rng.uniform(0, 300, (3000, 2)), np.full(3000, 3.0), np.zeros(3000)]
    assert np.isfinite(empty_places(rng, scales, crowd, (300, 200))).all()  # the emptiest


def test_no_two_are_drawn_of_one_spot(rng):
    frames = np.c_[rng.uniform(0, 60, (200, 2)), rng.uniform(1, 3, 200), np.zeros(200)]
    kept = frames[spaced(frames, rng, 12)]
    assert len(kept) == 12
    for i, j in np.ndindex(12, 12):
        if i != j:
            far = np.hypot(*(kept[i] - kept[j])[:2])
            assert far > 4 * max(kept[i, 2], kept[j, 2])
    assert len(spaced(frames[:0], rng, 5)) == 0


def test_frames_of_sift_see_the_same_in_a_turned_photo(texture):
    """A photo and its copy turned by 90 degrees (exactly): frames turn, too, and patches are alike."""
    grey = to_grey(cv2.GaussianBlur(texture((200, 160), seed=4), (0, 0), 1.5))
    turned = np.ascontiguousarray(np.rot90(grey))  # (x, y) -> (y, 199 - x)
    frames, said = describe_frames(grey)
    np.testing.assert_array_equal(frames, find_frames(grey))
    np.testing.assert_allclose(np.linalg.norm(said, axis=1), 1, atol=1e-3)
    expected = np.c_[frames[:, 1], 199 - frames[:, 0], frames[:, 2], frames[:, 3] - np.pi / 2]
    pairs = found_again(expected, find_frames(turned))
    assert len(pairs) > 0.6 * len(frames)
    first = crop_patches(pyramid(grey), frames, 32, 6.0)
    second = crop_patches(pyramid(turned), expected, 32, 6.0)
    assert np.median(likeness(first, second)) > 0.99
    assert find_frames(np.full((60, 60), 9, np.uint8)).shape == (0, 4)
    assert describe_frames(np.full((60, 60), 9, np.uint8))[1].shape == (0, 128)


def test_quadruplets_of_a_warped_view(texture, rng):
    photo = texture((320, 240), seed=3)
    frames = find_frames(to_grey(photo))
    views = HomographySettings(rotation=180, scale=(0.7, 1.4), perspective=0.1)
    drawn = [warped_quadruplets(photo, frames, find_frames, rng, 8, views, QUIET) for _ in range(6)]
    drawn = [one for one in drawn if one is not None]
    alike, others = [], []
    for quads in drawn:
        assert 2 <= len(quads) <= 8
        first, other = (
            crop_patches(quads.levels_a, f, 32, 6.0) for f in (quads.first, quads.other)
        )
        second = crop_patches(quads.levels_b, quads.second, 32, 6.0)
        alike += likeness(first, second).tolist()
        others += likeness(first, other).tolist()
        assert np.hypot(*(quads.first - quads.other)[:, :2].T).min() > 4
    assert len(alike) > 20
    assert np.median(alike) > 0.9
    assert abs(np.median(others)) < 0.5
    few = drawn[0].take(2)
    assert (len(few), len(few.empty)) == (2, 2)
    flat = np.full((100, 100, 3), 50, np.uint8)
    nothing = find_frames(to_grey(flat))
    assert warped_quadruplets(flat, nothing, find_frames, rng, 8, views, QUIET) is None


def test_quadruplets_of_two_photos(texture, rng):
    photo = texture((320, 240), seed=5)
    moved = cv2.warpAffine(photo, np.array([[1.0, 0, 9], [0, 1, -4]]), (320, 240))
    frames = tuple(find_frames(to_grey(one)) for one in (photo, moved))
    again = found_again(frames[0] + (9, -4, 0, 0), frames[1])
    points = frames[0][again[:, 0], :2], frames[1][again[:, 1], :2]
    quads = matched_quadruplets((photo, moved), points, frames, rng, 16, QUIET)
    assert len(quads) > 5
    np.testing.assert_allclose(
        quads.second[:, :2] - quads.first[:, :2], [(9, -4)] * len(quads), atol=1
    )
    assert np.abs(wrapped(quads.second[:, 3] - quads.first[:, 3])).max() < np.pi / 6
    first = crop_patches(quads.levels_a, quads.first, 32, 6.0)
    second = crop_patches(quads.levels_b, quads.second, 32, 6.0)
    assert np.median(likeness(first, second)) > 0.9
