"""LF-Net's network, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locate.errors import InputError
from locate.extractors.lfnet.network import (
    FACTORS,
    LFNetwork,
    NarrowConv2d,
    fuse,
    normalise,
    soft_suppression,
)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def suppressed(z):
    """Of S x H x W, window by window."""
    found = np.zeros_like(z)
    height, width = z.shape[1:]
    windows = {
        (y, x): np.s_[:, max(y - 7, 0) : y + 8, max(x - 7, 0) : x + 8]
        for y, x in np.ndindex(height, width)
    }
    largest = np.array([z[w].max() for w in windows.values()]).reshape(height, width)
    raised = np.exp(3 * (z - largest))
    for (y, x), window in windows.items():
        found[:, y, x] = raised[:, y, x] / (raised[window].sum() + 1e-6)
    return found


def test_the_parts_have_the_layers_of_the_paper():
    network = LFNetwork()
    blocks = 3 * 2 * (16 * 16 * 25 + 2 * 16)
    detector = 16 * 25 + blocks + 2 * 16 + 5 * 16 * 25 + (16 * 2 * 25 + 2)
    assert sum(p.numel() for p in network.detector.parameters()) == detector == 41_826
    convolutions = 9 * (64 + 64 * 128 + 128 * 256) + 2 * (64 + 128 + 256)
    descriptor = convolutions + 4096 * 512 + 2 * 512 + 512 * 256 + 256
    assert sum(p.numel() for p in network.descriptor.parameters()) == descriptor == 2_599_616
    maps = network(torch.rand(2, 1, 40, 53))
    assert maps.image.shape == (2, 1, 40, 53)
    assert maps.score.shape == maps.scale.shape == (2, 40, 53)
    assert maps.orientation.shape == (2, 2, 40, 53)
    described = network.descriptor(torch.randn(3, 1, 32, 32))
    torch.testing.assert_close(described.norm(dim=1), torch.ones(3))
    with pytest.raises(InputError, match="strength"):
        LFNetwork(0.0)


def test_scales_and_the_first_orientation():
    np.testing.assert_allclose(FACTORS, np.exp(np.linspace(1, -1, 5) * np.log(2) / 2))
    maps = LFNetwork()(torch.rand(1, 1, 36, 36))
    assert torch.equal(maps.orientation[0, 0], torch.ones(36, 36))
    assert not maps.orientation[0, 1].any()
    assert maps.scale.min() >= 0.7071
    assert maps.scale.max() <= 1.41422
    assert not any(part.requires_grad for part in maps.detached())


def test_images_are_normalised_one_by_one(rng):
    images = rng.random((3, 1, 7, 9)) * np.array([1, 0.1, 0])[:, None, None, None]
    found = normalise(torch.from_numpy(images)).numpy()
    for image, one in zip(images, found, strict=True):
        np.testing.assert_allclose(one, (image - image.mean()) / np.sqrt(image.var() + 1e-3))
    network = LFNetwork().eval()
    image = torch.from_numpy(images[:1]).float()
    # Light and contrast are gone before anything else is seen.
    torch.testing.assert_close(
        network(image).image[0, 0].double().numpy(), found[0, 0], atol=1e-5, rtol=1e-5
    )


def test_soft_suppression_by_hand(rng):
    z = rng.normal(size=(2, 5, 21, 26))
    found = soft_suppression(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(found, [suppressed(one) for one in z], rtol=1e-9)
    # A map without structure: one in the pixels of the window.
    flat = soft_suppression(torch.zeros(1, 5, 31, 31))
    assert flat[0, 2, 15, 15].item() == pytest.approx(1 / 1125)


def test_score_and_scale_by_hand(rng):
    z = rng.normal(size=(1, 5, 16, 18))
    score, scale = (x[0].numpy() for x in fuse(torch.from_numpy(z)))
    p = suppressed(z[0])
    weights = np.exp(100 * (p - p.max(axis=0)))
    weights /= weights.sum(axis=0)
    np.testing.assert_allclose(score, (weights * p).sum(axis=0), rtol=1e-9)
    factors = np.exp(np.linspace(1, -1, 5) * np.log(2) / 2)[:, None, None]
    np.testing.assert_allclose(scale, (weights * factors).sum(axis=0), rtol=1e-9)
    clear = np.full((1, 5, 16, 16), -9.0)
    clear[0, 3, 8, 8] = 9
    score, scale = fuse(torch.from_numpy(clear))
    assert score[0, 8, 8].item() == pytest.approx(1, abs=1e-5)
    assert scale[0, 8, 8].item() == pytest.approx(2**-0.25, abs=1e-5)


def test_each_level_sees_its_own_size_and_lies_on_the_image():
    """A blob's response to a kernel that looks 2 pixels to the right: there of the resized features,
    so 2 s of the image."""
    detector = LFNetwork().detector
    for convolution in detector.scores:
        torch.nn.init.zeros_(convolution.weight)
        convolution.weight.data[0, 3, 2, 4] = 1.0
    y, x = np.mgrid[:96, :120]
    blob = np.exp(-((x - 61.3) ** 2 + (y - 40.6) ** 2) / (2 * 4.0**2))
    features = torch.zeros(1, 16, 96, 120)
    features[0, 3] = torch.from_numpy(blob)
    with torch.no_grad():
        levels = detector.levels(features)[0].double().numpy()
    for factor, level in zip(FACTORS, levels, strict=True):
        heavy = (level - level.min()) ** 2
        centre = (heavy * x).sum() / heavy.sum(), (heavy * y).sum() / heavy.sum()
        assert centre == pytest.approx((61.3 - 2 * factor, 40.6), abs=0.15)


def test_the_descriptor_tells_crops_apart_and_learns(rng):
    torch.manual_seed(0)
    network = LFNetwork()
    crops = torch.from_numpy(rng.normal(size=(8, 1, 32, 32))).float().requires_grad_()
    network.descriptor(crops)[:, 0].sum().backward()
    assert crops.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    assert all(p.grad is not None for p in network.descriptor.parameters())


@pytest.mark.parametrize("size", [(8, 12), (9, 7), (1, 2)])
def test_a_narrow_convolution_is_a_convolution(size):
    torch.manual_seed(0)
    narrow = NarrowConv2d(2, bias=True).double()
    x = torch.randn(2, 16, *size, dtype=torch.float64, requires_grad=True)
    found = narrow(x)
    weight, bias = narrow.weight, narrow.bias
    expected = torch.nn.functional.conv2d(x, weight, bias, padding=2)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(found)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, weight, bias), direction),
        torch.autograd.grad(expected, (x, weight, bias), direction),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
