"""SEKD as an extractor: the contract of all of them, and what is its own."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from locate.errors import WeightsError
from locate.extractors import registry
from locate.extractors.sekd.extractor import SEKD, load_published, parabola_peaks
from locate.extractors.sekd.network import SEKDNetwork, log_odds
from locate.extractors.weights import Record, file_hash, save_weights
from locate.matching.descriptors import match_mutual
from locate.pixels import apply_homography
from tests.extractors.test_contract import (  # noqa: F401  they run here with `extractor`
    test_contract,
    test_empty_and_odd_images_are_no_error,
    test_without_local_features,
)


@pytest.fixture(scope="module")
def network():
    """Keypoints are where the image has a blob: as if trained for that."""
    torch.manual_seed(0)
    made = SEKDNetwork().eval()
    with torch.no_grad():
        made.conv0.weight[0] = -1 / 16
        made.conv0.weight[0, 0, 1:4, 1:4] = 1 / 9
        for part in (made.resblock0, made.deconv1):
            for name, values in part.named_parameters():
                if "2." in name:  # convolutions: what comes after the first one is left alone
                    values.zero_()
        made.conv0.bias.zero_()
        made.detector.weight.zero_()
        made.detector.weight[1, 0, 1, 1] = 8
        made.detector.bias.zero_()
    return made


@pytest.fixture(scope="module")
def extractor(network):
    return SEKD(network, "0", threshold=0.505)


@pytest.fixture
def dots():
    """Blobs at known places, and these."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(30, 370, 40), np.arange(30, 270, 40)), -1).reshape(-1, 2)
    places = grid + rng.uniform(-4, 4, grid.shape)
    rows, columns = np.mgrid[:300, :400]
    image = np.full((300, 400), 40.0)
    for x, y in places:
        image += 180 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 4)
    return np.repeat(np.rint(image).astype(np.uint8)[..., None], 3, axis=2), places


def nearest(points, places):
    return np.linalg.norm(points[:, None] - places[None], axis=2).min(axis=0)


def test_keypoints_are_where_they_are(network, dots):
    image, places = dots
    found = SEKD(network, "0", pyramid=False).extract(image).features
    assert len(found) == len(places)
    assert nearest(found.keypoints, places).max() < 0.3
    whole = SEKD(network, "0", subpixel=False, pyramid=False).extract(image).features.keypoints
    assert np.array_equal(whole, np.rint(whole))
    assert nearest(found.keypoints, places).mean() < 0.5 * nearest(whole, places).mean()
    there = SEKD(network, "0", pyramid=False).extract(image, (800, 600)).features.keypoints
    assert nearest(there, 2 * places + 0.5).max() < 0.6  # in pixels of the original


def test_parabolas_by_hand():
    heat = torch.zeros(5, 6, dtype=torch.float64)
    heat[1:4, 2:5] = torch.tensor([[0, 0.5, 0], [0.6, 1, 0.8], [0, 0.9, 0]])
    (found,) = parabola_peaks(heat, torch.tensor([[3, 2]])).numpy()
    # -(f(1) - f(-1)) / (2 (f(-1) - 2 f(0) + f(1)))
    np.testing.assert_allclose(found, (3 - 0.2 / (2 * -0.6), 2 - 0.4 / (2 * -0.6)))
    level = parabola_peaks(torch.ones(5, 6), torch.tensor([[3, 2]]))
    assert level.tolist() == [[3, 2]]
    tops = np.array([2.7, 2.2])
    rows, columns = np.mgrid[:5, :6]
    bowl = 1 - 0.1 * (columns - tops[0]) ** 2 - 0.2 * (rows - tops[1]) ** 2
    (found,) = parabola_peaks(torch.from_numpy(bowl), torch.tensor([[3, 2]])).numpy()
    np.testing.assert_allclose(found, tops)


def test_maxima_above_the_threshold_off_the_border_and_the_best_first(network):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (70, 90, 3)).astype(np.uint8)
    grey = cv2.cvtColor(np.pad(pixels, ((0, 2), (0, 2), (0, 0)), "reflect"), cv2.COLOR_RGB2GRAY)
    with torch.no_grad():
        logits = network(torch.from_numpy(grey)[None, None].float() / 255)[0]
    heat = torch.sigmoid(log_odds(logits))[0, :70, :90].numpy()
    expected = []
    for y in range(6, 64):
        for x in range(6, 84):
            window = heat[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4]
            if heat[y, x] == window.max() and heat[y, x] > 0.8:
                expected.append((heat[y, x], x, y))
    expected = sorted(expected, reverse=True)[:25]
    settings = {"nms_radius": 3, "border": 6, "threshold": 0.8, "max_keypoints": 25}
    found = SEKD(network, "0", subpixel=False, **settings).extract(pixels).features
    np.testing.assert_allclose(found.keypoints, [(x, y) for _, x, y in expected])
    np.testing.assert_allclose(found.scores, [p for p, _, _ in expected], rtol=1e-5)


def test_what_is_level_is_no_keypoint(network):
    """However probable it is."""
    for value in (0, 90, 255):
        flat = np.full((80, 120, 3), value, np.uint8)
        assert len(SEKD(network, "0", threshold=0.1).extract(flat).features) == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (5, 90), (9, 9)])
def test_tiny_images(extractor, shape):
    features = extractor.extract(np.full((*shape, 3), 200, np.uint8)).features
    assert len(features) == 0
    assert features.descriptors.shape == (0, 128)
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    extractor.extract(noise)


def test_settings_are_in_the_info(network):
    prints = {SEKD(network, "0").info.fingerprint}
    for setting in (
        {"threshold": 0.5},
        {"nms_radius": 3},
        {"border": 1},
        {"subpixel": False},
        {"pyramid": False},
        {"max_side": 640},
        {"max_keypoints": 500},
    ):
        prints.add(SEKD(network, "0", **setting).info.fingerprint)
    assert len(prints) == 8


def test_weights_of_ours_and_of_the_authors(network, tmp_path, dots):
    expected = SEKD(network, "0").extract(dots[0]).features
    ours = tmp_path / "w.safetensors"
    save_weights(ours, network.state_dict(), Record("sekd"))
    theirs = tmp_path / "sekd.pth"
    torch.save({"state_dict": network.state_dict()}, theirs)
    for path in (ours, theirs):
        read = SEKD.from_pretrained(path)
        assert read.info.weights == file_hash(path)
        found = read.extract(dots[0]).features
        np.testing.assert_array_equal(found.keypoints, expected.keypoints)
    with pytest.raises(WeightsError, match="does not exist"):
        load_published(tmp_path / "none.pth")
    theirs.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="does not hold the authors' weights"):
        load_published(theirs)
    torch.save([1, 2], theirs)
    with pytest.raises(WeightsError, match="does not hold the authors' weights"):
        load_published(theirs)
    torch.save({"state_dict": {"conv0.bias": torch.zeros(32)}}, theirs)
    with pytest.raises(WeightsError, match="does not fit its network"):
        load_published(theirs)


@pytest.mark.data
def test_the_authors_weights_match_warped_images(data):
    """Known homographies, which tell x from y: of an independent extraction .92, .94 and .83 of the
    matches lay within 3 pixels."""
    folder = data.parent / "checkpoints"
    if not folder.is_dir():
        pytest.skip(f"no reference at {folder}")
    weights = {"sekd": folder / "sekd" / "sekd.pth"}
    sekd = registry.create("sekd", {"max_keypoints": 500}, weights)  # as commands do
    with np.load(folder / "superpoint_reference" / "pred_0.npz") as stored:
        image = np.rint(stored["image"] * 255).astype(np.uint8)
    told = json.loads((folder / "superpoint_reference" / "synthetic_warp_metrics.json").read_text())
    for name, least in (("mild", 0.92), ("mid", 0.92), ("hard", 0.78)):
        b_from_a = np.array(told["H"][name])
        a, b = (
            sekd.extract(np.repeat(view[..., None], 3, axis=2)).features
            for view in (image, cv2.warpPerspective(image, b_from_a, (320, 240)))
        )
        pairs = match_mutual(a.descriptors, b.descriptors)
        there = apply_homography(b_from_a, a.keypoints[pairs[:, 0]])
        errors = np.linalg.norm(there - b.keypoints[pairs[:, 1]], axis=1)
        assert np.mean(errors <= 3) > least


def test_the_authors_file_is_of_the_system_that_is_named_alone(network, tmp_path):
    theirs = tmp_path / "sekd.pth"
    torch.save({"state_dict": network.state_dict()}, theirs)
    found = registry.named(["sekd"], [theirs])
    assert list(found) == ["sekd", "sekd (sekd)"]
    assert found["sekd (sekd)"].info.weights == file_hash(theirs)
    with pytest.raises(WeightsError, match="no safetensors file"):
        registry.named(["sekd", "sift"], [theirs])
