"""The maps by which SEKD labels photos, against loops."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from locate.extractors.blocks.grids import Grid
from locate.extractors.sekd import labels
from locate.extractors.sekd.network import SEKDNetwork


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def unit(x):
    return x / np.linalg.norm(x, axis=0, keepdims=True)


def reliability(own, found, seen):
    """R of section 3, by loops: 7 x 7 neighbours two cells apart."""
    height, width = seen.shape
    result = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        least = np.sqrt(2 + 2 + 1e-4)  # of no neighbour
        for dy in range(-6, 7, 2):
            for dx in range(-6, 7, 2):
                v, u = y + dy, x + dx
                if (dy or dx) and 0 <= v < height and 0 <= u < width and seen[v, u]:
                    least = min(least, np.sqrt(((own[:, y, x] - found[:, v, u]) ** 2).sum() + 1e-4))
        same = np.sqrt(((own[:, y, x] - found[:, y, x]) ** 2).sum() + 1e-4)
        result[y, x] = least / (same + 0.03)
    return result


def test_reliability_by_hand(rng):
    own, found = (unit(rng.normal(size=(6, 9, 15))) for _ in "ab")
    seen = rng.random((9, 15)) < 0.7
    ours = labels.reliability(*(torch.from_numpy(x) for x in (own, found, seen))).numpy()
    np.testing.assert_allclose(ours, reliability(own, found, seen), rtol=1e-6)


def test_what_is_repeated_and_distinct_is_reliable(rng):
    own = unit(rng.normal(size=(32, 20, 20)))
    alike = unit(np.ones((32, 20, 20)) + 0.01 * rng.normal(size=(32, 20, 20)))
    other = unit(rng.normal(size=(32, 20, 20)))
    everywhere = torch.ones(20, 20, dtype=torch.bool)

    def mean(a, b):
        return labels.reliability(torch.from_numpy(a), torch.from_numpy(b), everywhere).mean()

    assert mean(own, own) > 20  # repeated and distinct
    assert mean(own, other) < 1  # not repeated
    assert mean(alike, alike) < 3  # not distinct


@pytest.mark.parametrize("stride", [1, 4])
def test_the_mean_over_views_by_hand(rng, stride):
    """With affine views, against bilinear looks at single cells."""
    maps = rng.normal(size=(3, 5, 10, 12))
    grid = Grid(stride, 0.0)
    views = np.stack((np.eye(3), np.eye(3)))
    views[0, :2] = [[0.9, 0.2, -0.6 * stride], [-0.1, 1.1, 0.4 * stride]]
    views[1, :2] = [[1.2, 0, 0.3 * stride], [0.1, 0.8, 1.7 * stride]]
    total, count = np.zeros((10, 12)), np.zeros((10, 12))
    for one, view in zip(maps[1:], views, strict=True):
        found, seen = np.zeros((5, 10, 12)), np.zeros((10, 12), np.bool_)
        for y, x in np.ndindex(10, 12):
            u, v, _ = view @ (x * stride, y * stride, 1) / stride
            seen[y, x] = 0 <= u <= 11 and 0 <= v <= 9
            u, v = np.clip(u, 0, 11), np.clip(v, 0, 9)
            j, i = min(int(u), 10), min(int(v), 8)
            s, t = u - j, v - i
            above = (1 - s) * one[:, i, j] + s * one[:, i, j + 1]
            below = (1 - s) * one[:, i + 1, j] + s * one[:, i + 1, j + 1]
            found[:, y, x] = (1 - t) * above + t * below
        total += np.where(seen, reliability(unit(maps[0]), unit(found), seen), 0)
        count += seen
    assert len(set(count.ravel())) == 3
    ours = labels.mean_reliability(torch.from_numpy(maps), torch.from_numpy(views), grid)
    np.testing.assert_allclose(ours.numpy(), total / (count + 0.01), rtol=1e-5)


def test_the_best_points_by_hand(rng):
    heat = rng.random((30, 40)).astype(np.float32)
    expected = []
    for y, x in np.ndindex(30, 40):
        window = heat[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
        if heat[y, x] == window.max() and heat[y, x] > 0.9 and 5 <= y < 25 and 5 <= x < 35:
            expected.append((heat[y, x], x, y))
    expected = [(x, y) for _, x, y in sorted(expected, reverse=True)][:9]
    assert len(expected) == 9
    assert labels.best_points(heat, 0.9, 2, 5, 9).tolist() == [list(p) for p in expected]


class Bright:
    """A network for which bright pixels are keypoints and features are what lies around a pixel."""

    def __init__(self):
        self.conv0 = torch.nn.Conv2d(1, 1, 1)

    def __call__(self, images):
        return torch.cat((torch.zeros_like(images), 8 * images - 4), dim=1), images

    def look(self, images):
        return images

    def detect(self, images):
        around = torch.nn.functional.unfold(images - 0.3, 5, padding=2)
        return images, around.reshape(1, 25, *images.shape[-2:])

    def describe(self, images):
        return self.detect(images)[1][..., ::4, ::4]


def spots():
    rng = np.random.default_rng(3)
    places = np.array([(30, 40), (80, 28), (100, 64), (50, 70)])
    rows, columns = np.mgrid[:96, :128]
    image = 60 + rng.normal(size=(96, 128))
    for x, y in places:
        image += 170 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    return np.clip(image, 0, 255).astype(np.uint8), places


def test_detected_points_are_where_they_are(monkeypatch, rng):
    image, places = spots()
    monkeypatch.setattr(labels, "_lit", lambda images, _: images)
    heat = labels.detected(Bright(), image, rng, 12)
    assert heat.shape == image.shape
    found = labels.best_points(heat, 0.5, 4, 4, 4)
    apart = np.linalg.norm(found[:, None] - places[None], axis=2)
    assert apart.min(axis=1).max() <= 1
    assert len(set(apart.argmin(axis=1))) == 4


def test_reliable_points_are_corners_and_not_noise(monkeypatch, rng):
    """Views are affine, and R goes back to where it belongs: x and y, and H and its inverse."""
    image, places = spots()
    monkeypatch.setattr(labels, "_lit", lambda images, _: images)
    heat = labels.reliable(Bright(), image, rng, 12)
    assert heat.shape == image.shape
    near = np.zeros(image.shape, np.uint8)
    for x, y in places:
        cv2.circle(near, (int(x), int(y)), 6, 1, -1)
    inner = np.zeros_like(near)
    inner[14:-14, 14:-14] = 1
    assert heat[near > 0].mean() > 1.2 * heat[(inner > 0) & (near == 0)].mean()


def test_maps_of_a_real_network(rng, texture):
    torch.manual_seed(0)
    network = SEKDNetwork().eval().requires_grad_(False)
    grey = cv2.cvtColor(texture((76, 64)), cv2.COLOR_RGB2GRAY)
    for find in (labels.detected, labels.reliable):
        heat = find(network, grey, np.random.default_rng(0), 3)
        assert heat.shape == (64, 76)
        assert np.isfinite(heat).all()
        again = find(network, grey, np.random.default_rng(0), 3)
        np.testing.assert_array_equal(heat, again)
