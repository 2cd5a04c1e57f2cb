"""The loop over the four rotations: what is looked at, when, and where its features lie."""

from __future__ import annotations

import numpy as np
import pytest

from locate.extractors.rotated import ROTATIONS, extract_rotations
from locate.types import Extraction, Features

SIZE = (60, 40)


class Corner:
    """Sees one feature at the brightest pixel; remembers the shape of each image, and what was asked."""

    max_side = 100

    def __init__(self, invariant):
        self.info = type("Info", (), {"rotation_invariant": invariant})()
        self.asked = []

    def extract(self, pixels, size=None, *, local=True):
        self.asked.append((pixels.shape[:2], local))
        y, x = np.unravel_index(pixels[..., 0].argmax(), pixels.shape[:2])
        point = np.array([[x, y]], np.float32)
        features = Features(point, np.ones(1, np.float32), np.ones((1, 2), np.float32), size)
        return Extraction(features if local else None, np.array([x, y], np.float32))


@pytest.fixture
def pixels():
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[7, 12] = 255
    return pixels


def test_each_rotation_is_looked_at_when_it_is_asked_for(pixels):
    extractor = Corner(invariant=False)
    seen = extract_rotations(extractor, pixels, SIZE)
    for number, degrees in enumerate(ROTATIONS, 1):
        turned, found = next(seen)
        assert turned == degrees
        assert len(extractor.asked) == number
        assert found.features.image_size == SIZE
        np.testing.assert_array_equal(found.features.keypoints, [[12, 7]])  # in the upright photo
    assert next(seen, None) is None
    assert extractor.asked == [((40, 60), True), ((60, 40), True)] * 2


def test_local_features_of_turned_photos_can_be_left_out(pixels):
    extractor = Corner(invariant=False)
    found = dict(extract_rotations(extractor, pixels, SIZE, local=False))
    assert [found[r].features is None for r in ROTATIONS] == [False, True, True, True]
    assert [local for _, local in extractor.asked] == [True, False, False, False]


@pytest.mark.parametrize("local", [True, False])
def test_rotation_invariant_features_are_extracted_once(pixels, local):
    extractor = Corner(invariant=True)
    found = dict(extract_rotations(extractor, pixels, SIZE, local=local))
    assert all(found[r].features is found[0].features for r in ROTATIONS)
    assert len({tuple(found[r].global_descriptor) for r in ROTATIONS}) == 4
    assert [asked for _, asked in extractor.asked] == [True, False, False, False]
    once = extract_rotations(extractor, pixels, SIZE, local=local, vectors=False)
    assert [degrees for degrees, _ in once] == [0]


def test_without_global_descriptors_others_are_looked_at_all_the_same(pixels):
    seen = extract_rotations(Corner(invariant=False), pixels, SIZE, vectors=False)
    assert [degrees for degrees, _ in seen] == list(ROTATIONS)
