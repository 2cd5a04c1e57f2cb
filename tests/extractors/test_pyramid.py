"""An image halved again and again: levels, and what comes of them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from locate.extractors import registry
from locate.extractors.blocks.pyramid import best_of_levels, halvings


def test_levels_while_both_sides_are_longer_than_128_pixels():
    shapes = [level.shape for level in halvings(np.zeros((1031, 700, 3), np.uint8))]
    assert shapes == [(1031, 700, 3), (515, 350, 3), (257, 175, 3)]
    assert len(list(halvings(np.zeros((257, 2000), np.uint8)))) == 1  # 128 is not longer
    assert len(list(halvings(np.zeros((258, 2000), np.uint8)))) == 2


def test_the_best_of_all_levels_in_pixels_of_the_photo():
    """By hand: the middle of pixel 10 of a half lies at 2 (10 + .5) - .5 of the whole."""
    seen = []

    def find(level):
        seen.append(level.shape)
        scores = np.float32((0.9, 0.3)) if len(seen) == 1 else np.float32((0.5, 0.4))
        return np.float32(((10, 20), (0, 0))), scores, np.full((2, 4), len(seen), np.float32)

    image = np.zeros((300, 400), np.uint8)
    features = best_of_levels(find, image, (800, 600), 3).features
    assert seen == [(300, 400), (150, 200)]
    np.testing.assert_allclose(features.scores, (0.9, 0.5, 0.4))
    np.testing.assert_allclose(features.keypoints, ((20.5, 40.5), (41.5, 81.5), (1.5, 1.5)))
    np.testing.assert_allclose(features.descriptors[:, 0], (1, 2, 2))
    assert features.image_size == (800, 600)
    seen.clear()
    alone = best_of_levels(find, image, (800, 600), 3, pyramid=False).features
    assert len(alone) == 2
    assert seen == [(300, 400)]


@pytest.mark.parametrize("name", ["superpoint", "unsuperpoint", "sekd", "lfnet"])
def test_extractors_look_at_all_levels(name):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (30, 40)).astype(np.uint8)
    grey = cv2.resize(coarse, (400, 300), interpolation=cv2.INTER_CUBIC)
    image = np.repeat(grey[..., None], 3, axis=2)
    single = registry.create(name, {"pyramid": False, "max_keypoints": 5000})
    half = cv2.resize(image, (200, 150), interpolation=cv2.INTER_AREA)
    one = single.extract(image).features
    two = single.extract(half, (400, 300)).features
    both = registry.create(name, {"max_keypoints": 5000}).extract(image).features
    assert len(one)
    assert len(two)
    assert len(both) == len(one) + len(two)
    order = np.argsort(-np.r_[one.scores, two.scores], kind="stable")
    np.testing.assert_allclose(
        both.keypoints, np.r_[one.keypoints, two.keypoints][order], atol=1e-3
    )
    np.testing.assert_allclose(both.scores, np.r_[one.scores, two.scores][order], atol=1e-6)
