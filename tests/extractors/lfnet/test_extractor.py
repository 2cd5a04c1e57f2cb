"""LF-Net as an extractor."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError
from locate.extractors import registry
from locate.extractors.base import Extractor
from locate.extractors.lfnet.detection import cut, detect, inner
from locate.extractors.lfnet.extractor import LFNet
from locate.extractors.lfnet.network import LFNetwork
from locate.extractors.weights import Record, save_weights


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = LFNetwork(3.0)
    torch.nn.init.normal_(made.detector.orientation.weight, std=0.05)
    return made


def test_contract(network, texture):
    lfnet = LFNet(network, "")
    assert isinstance(lfnet, Extractor)
    pixels = texture((300, 200), seed=3)
    features = lfnet.extract(pixels, (600, 400)).features
    assert features.image_size == (600, 400)
    assert len(features) > 50
    assert features.descriptors.shape == (len(features), 256)
    assert np.all(np.diff(features.scores) <= 0)
    assert features.keypoints.max(axis=0)[0] > 450
    again = lfnet.extract(pixels, (600, 400)).features
    for name in ("keypoints", "scores", "descriptors"):
        assert getattr(features, name).tobytes() == getattr(again, name).tobytes()
    few = LFNet(network, "", max_keypoints=17).extract(pixels, (600, 400)).features
    np.testing.assert_array_equal(few.keypoints, features.keypoints[:17])


def test_tiny_flat_and_odd_images(network):
    lfnet = LFNet(network, "")
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (1, 3), (32, 300), (33, 33), (47, 101)):
        found = lfnet.extract(rng.integers(0, 256, (*shape, 3), np.uint8)).features
        assert len(found) == 0 or min(shape) > 32
    for shape in ((33, 33), (120, 160), (33, 700)):
        for grey in (0, 90, 255):
            assert len(lfnet.extract(np.full((*shape, 3), grey, np.uint8)).features) == 0


def test_features_are_those_of_the_network(network, texture):
    """In the grey values of one image, normalised as in training."""
    pixels = texture((120, 100), seed=1)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    network = network.eval()
    with torch.no_grad():
        maps = network(torch.from_numpy(grey)[None, None])
        found = detect(maps, inner((100, 120))[None], 30, 3.0)
        crops = cut(maps.image, found.points, found.scales, found.orientations)
        descriptors = network.descriptor(crops).numpy()
    features = LFNet(network, "", max_keypoints=30).extract(pixels).features
    np.testing.assert_allclose(features.keypoints, found.points[0], atol=1e-3)
    np.testing.assert_allclose(features.descriptors, descriptors, atol=1e-3)


def test_points_lie_off_the_borders_and_above_the_threshold(network, texture):
    pixels = texture((160, 120), seed=2)
    features = LFNet(network, "", threshold=0.05).extract(pixels).features
    every = LFNet(network, "", threshold=0.0).extract(pixels).features
    assert 0 < len(features) < len(every)
    assert features.scores.min() > 0.05
    reach = 4 * 2**0.5  # of the refinement
    assert np.all(every.keypoints > 16 - reach)
    assert np.all(every.keypoints < np.array((160, 120)) - 17 + reach)


def test_an_image_is_shrunk_and_its_points_are_not(network, texture):
    pixels = texture((400, 300), seed=5)
    features = LFNet(network, "", max_side=200).extract(pixels).features
    assert features.image_size == (400, 300)
    assert 300 < features.keypoints[:, 0].max() < 400


def test_weights_and_settings(network, tmp_path):
    file = tmp_path / "w.safetensors"
    save_weights(file, network.state_dict(), Record("lfnet", {"strength": 3.0}))
    made = registry.create("lfnet", {"threshold": 0.01}, {"lfnet": file})
    assert made.info.settings["threshold"] == 0.01
    assert made.info.settings["strength"] == 3.0
    assert made.info.ratio == 0.9
    with pytest.raises(InputError, match="max_keypoints"):
        LFNet(network, "", max_keypoints=0)
