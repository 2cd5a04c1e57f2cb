"""Keypoints and crops of LF-Net: exact geometry, gradients by finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locate.extractors.lfnet.detection import (
    best,
    centres,
    cut,
    detect,
    inner,
    look,
    maxima,
    nearest,
    refine,
)
from locate.extractors.lfnet.network import Maps


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def torched(*arrays):
    return tuple(torch.from_numpy(np.asarray(x)) for x in arrays)


def bilinear(image, x, y):
    """H x W at one place, its border beyond it."""
    x, y = np.clip(x, 0, image.shape[1] - 1), np.clip(y, 0, image.shape[0] - 1)
    left, top = int(min(x, image.shape[1] - 2)), int(min(y, image.shape[0] - 2))
    u, v = x - left, y - top
    above = (1 - u) * image[top, left] + u * image[top, left + 1]
    return (1 - v) * above + v * ((1 - u) * image[top + 1, left] + u * image[top + 1, left + 1])


def unit(angles):
    return np.stack((np.cos(angles), np.sin(angles)), axis=-1)


def test_crops_by_hand(rng):
    images = rng.random((2, 1, 60, 70))
    points = rng.uniform(0, 60, (2, 4, 2))
    scales = rng.uniform(0.7, 1.42, (2, 4))
    angles = rng.uniform(-4, 4, (2, 4))
    found = cut(*torched(images, points, scales, unit(angles))).numpy()
    assert found.shape == (8, 1, 32, 32)
    for b, k in np.ndindex(2, 4):
        s, c, n = scales[b, k], np.cos(angles[b, k]), np.sin(angles[b, k])
        for i, j in [(0, 0), (0, 31), (31, 0), (15, 16), (7, 22)]:
            u, v = j - 15.5, i - 15.5
            x, y = points[b, k] + s * np.array([c * u - n * v, n * u + c * v])
            assert found[4 * b + k, 0, i, j] == pytest.approx(bilinear(images[b, 0], x, y))


def test_a_turned_image_has_the_same_crops(rng):
    """By a quarter, which needs no interpolation: (x, y) of the image is (y, W - 1 - x) of the turned
    one, and what pointed at angle t points at t - 90 degrees."""
    image = rng.random((1, 1, 64, 80))
    turned = np.rot90(image, axes=(2, 3)).copy()
    points = np.array([[[40.25, 30.5]]])
    there = np.stack((points[..., 1], 79 - points[..., 0]), axis=-1)
    scale = np.array([[1.2]])
    a = cut(*torched(image, points, scale, unit(np.array([[0.3]]))))
    b = cut(*torched(turned, there, scale, unit(np.array([[0.3 - np.pi / 2]]))))
    torch.testing.assert_close(a, b)
    unlike = cut(*torched(turned, there, scale, unit(np.array([[0.3 + np.pi / 2]]))))
    assert (a - unlike).abs().mean() > 0.1


def test_a_crop_of_scale_one_is_the_image_itself(rng):
    image = rng.random((1, 1, 50, 50))
    found = cut(*torched(image, [[[20.5, 24.5]]], [[1.0]], [[[1.0, 0.0]]]))
    np.testing.assert_allclose(found[0, 0], image[0, 0, 9:41, 5:37])


def test_crops_have_gradients(rng):
    image = torch.from_numpy(rng.random((1, 1, 90, 90)))
    points = torch.tensor([[[45.31, 44.17]]], dtype=torch.float64, requires_grad=True)
    scales = torch.tensor([[1.1]], dtype=torch.float64, requires_grad=True)
    turned = torch.from_numpy(unit(np.array([[0.4]]))).requires_grad_()
    weights = torch.from_numpy(rng.normal(size=(1, 1, 32, 32)))

    def total(*where):
        return (cut(image, *where) * weights).sum()

    assert torch.autograd.gradcheck(total, (points, scales, turned), eps=1e-7, atol=1e-2, rtol=1e-2)


def test_points_are_refined_by_hand(rng):
    score = rng.random((2, 30, 34))
    points = np.array([[[10, 12], [20, 9]], [[3, 28], [16, 16]]], np.float64)
    scales = rng.uniform(0.7, 1.42, (2, 2))
    found = refine(*torched(score, points, scales), 6.0).numpy()
    for b, k in np.ndindex(2, 2):
        steps = [
            (dx * scales[b, k], dy * scales[b, k]) for dy in range(-4, 5) for dx in range(-4, 5)
        ]
        values = [bilinear(score[b], *(points[b, k] + step)) for step in steps]
        weights = np.exp(6 * np.array(values))
        expected = points[b, k] + (weights / weights.sum()) @ np.array(steps)
        np.testing.assert_allclose(found[b, k], expected)


def test_refined_points_teach_the_scores(rng):
    score = torch.from_numpy(rng.random((1, 20, 22))).requires_grad_()
    scales = torch.tensor([[1.13]], dtype=torch.float64, requires_grad=True)
    points = torch.tensor([[[10.0, 9.0]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s, z: refine(s, points, z, 5.0), (score, scales))


def test_maxima_by_hand(rng):
    score = rng.random((2, 18, 20))
    found = maxima(torch.from_numpy(score)).numpy()
    for b, y, x in np.ndindex(score.shape):
        window = score[b, max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        edge = y in (0, 17) or x in (0, 19)
        highest = score[b, y, x] == window.max() and not edge
        assert found[b, y, x] == (score[b, y, x] if highest else 0)
    values, places = best(torch.from_numpy(score), 5)
    for b in range(2):
        expected = np.argsort(-score[b].ravel())[:5]
        np.testing.assert_array_equal(places[b], expected)
        np.testing.assert_array_equal(values[b], score[b].ravel()[expected])


def test_pixels_and_their_values(rng):
    maps = rng.random((1, 3, 7, 11))
    pixels = torch.tensor([[0, 10, 11, 6 * 11 + 4]])
    np.testing.assert_allclose(look(torch.from_numpy(maps), pixels)[0, 3], maps[0, :, 6, 4])
    assert centres(pixels, 11)[0].tolist() == [[0, 0], [10, 0], [0, 1], [4, 6]]
    points = torch.tensor([[[3.6, 1.4], [-5, 99], [10.4, 0]]])
    assert nearest(points, (7, 11))[0].tolist() == [11 + 4, 66, 10]


def test_keypoints_lie_where_they_may_best_first(rng):
    frame = inner((60, 70))
    assert frame.sum() == (60 - 32) * (70 - 32)
    assert frame[16, 16]
    assert frame[43, 53]
    assert not frame[15, 16]
    assert not frame[16, 54]
    score = torch.from_numpy(rng.random((2, 60, 70)))
    orientation = torch.from_numpy(unit(rng.uniform(0, 6, (2, 60, 70)))).permute(0, 3, 1, 2)
    scale = torch.from_numpy(rng.uniform(0.8, 1.2, (2, 60, 70)))
    maps = Maps(torch.zeros(2, 1, 60, 70), score, scale, orientation)
    found = detect(maps, frame.expand(2, -1, -1), 10, 1.0)
    for b in range(2):
        assert (found.scores[b].diff() <= 0).all()
        for pixel, s, at, value in zip(
            found.pixels[b], found.scales[b], found.orientations[b], found.scores[b], strict=True
        ):
            y, x = divmod(int(pixel), 70)
            assert frame[y, x]
            assert value == score[b, y, x]
            assert s == scale[b, y, x]
            assert torch.equal(at, orientation[b, :, y, x])
    few = torch.zeros(2, 60, 70, dtype=torch.bool)
    few[:, 30:33, 30:33] = True
    assert (detect(maps, few, 10, 1.0).scores > 0).sum(dim=1).max() <= 1  # the rest are none
