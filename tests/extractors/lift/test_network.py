"""LIFT's networks, each against loops in numpy."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from locate.extractors.lift import network as module
from locate.extractors.lift.network import (
    Descriptor,
    Detector,
    LiftNetwork,
    Orientation,
    build,
    crop,
    ghh,
    l2_pool,
    subtract_mean,
)
from locate.training.data.patches import crop_patches


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_the_published_numbers_of_parameters():
    assert count(Detector()) == 16 * 25 * 25 + 16
    assert count(Descriptor(published=True)) == 280_320
    assert count(Descriptor()) == 280_320 + 2 * (32 + 64 + 128)  # batch normalisation
    assert count(Orientation()) == 2_019_162
    assert count(Orientation(pooled=False)) == 9_699_162
    settings = {"pooled": False, "published": True, "by_patch": False}
    assert count(build(settings)) == 10_016 + 280_320 + 9_699_162


@pytest.mark.parametrize("published", [False, True])
def test_sizes(published, monkeypatch):
    network = LiftNetwork(published=published, pooled=not published).eval()
    seen = []
    for layer in (network.descriptor.conv1, network.descriptor.conv2, network.descriptor.conv3):
        layer.register_forward_hook(lambda _, x, y: seen.append((x[0].shape[-1], y.shape[-1])))
    windows = 255 * torch.rand(3, 1, 64, 64)
    assert network.descriptor(windows).shape == (3, 128)
    assert seen == [(64, 58), (29, 24), (8, 4)]
    unit = network.descriptor.unit(windows)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))
    angles = network.orientation(windows)
    torch.testing.assert_close(angles.norm(dim=1), torch.ones(3))
    assert network.detector(255 * torch.rand(2, 1, 48, 48)).shape == (2, 24, 24)
    assert network.direction(255 * torch.rand(2, 1, 128, 128)).shape == (2, 2)


def test_ghh_by_hand(rng):
    x = rng.normal(size=(2, 3 * 16, 5))
    found = ghh(torch.from_numpy(x)).numpy()
    for b, k, i in np.ndindex(2, 3, 5):
        expected = 0.0
        for m, sign in enumerate((1, -1, 1, -1)):
            expected += sign * max(x[b, 16 * k + 4 * m + n, i] for n in range(4))
        assert found[b, k, i] == pytest.approx(expected)


def test_the_detector_by_hand(rng, monkeypatch):
    detector = Detector().double()
    monkeypatch.setattr(module, "_TILE", 30)
    image = rng.uniform(0, 255, (31, 40))
    weights = detector.filters.weight.detach().numpy()[:, 0]
    bias = detector.filters.bias.detach().numpy()
    x = (image - 116.4368) / 88.0831
    expected = np.zeros((7, 16))
    for i, j in np.ndindex(7, 16):
        told = (weights * x[i : i + 25, j : j + 25]).sum(axis=(1, 2)) + bias
        expected[i, j] = told.reshape(4, 4).max(axis=1) @ (1, -1, 1, -1)
    given = torch.from_numpy(image)
    with torch.no_grad():
        found = detector(given[None, None])[0].numpy()
        fast = detector.scores(given).numpy()
        small = detector.scores(given[:26, :29]).numpy()
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(fast, expected)
    np.testing.assert_allclose(small, expected[:2, :5])


def test_the_detector_may_start_with_blobs():
    torch.manual_seed(0)
    detector = Detector().requires_grad_(False)
    detector.start_with_blobs()
    y, x = np.mgrid[:49, :49] - 24
    bell = np.exp(-(x**2 + y**2) / (2 * 2.2**2))
    images = np.stack((120 + 0 * bell, 100 + 90 * bell, 150 - 90 * bell))[:, None]
    flat, bright, dark = detector(torch.from_numpy(images).float()).numpy()
    np.testing.assert_allclose(flat, 0, atol=1e-4)
    r = (x**2 + y**2)[12:37, 12:37] / (2 * 2.2**2)
    blob = (1 - r) * np.exp(-r)
    expected = 3 * (blob / np.abs(blob).sum() * bell[12:37, 12:37]).sum() * 90 / 88.0831
    for scores in (bright, dark):
        assert scores[12, 12] == pytest.approx(expected, rel=0.15)  # besides what is random
        assert np.unravel_index(scores.argmax(), scores.shape) == (12, 12)


def test_the_sine_comes_first(rng):
    network = Orientation().eval()
    torch.nn.init.zeros_(network.out.weight)
    told = torch.full((32,), -9.0)
    told[[0, 4, 16, 20]] = torch.tensor([0.5, 0.0, 0.9, 0.0])  # hinges 0.5 - 0 - 9 + 9, 0.9
    network.out.bias.data = told
    (found,) = network(torch.rand(1, 1, 64, 64)).tolist()
    angle = np.arctan2(0.5, 0.9)
    assert found == pytest.approx([np.cos(angle), np.sin(angle)], abs=1e-6)


def test_light_does_not_matter_by_patch():
    torch.manual_seed(0)
    network = LiftNetwork().eval()
    windows = 255 * torch.rand(2, 1, 64, 64)
    for part in (network.descriptor.unit, network.orientation):
        torch.testing.assert_close(part(windows), part(0.5 * windows + 30), atol=1e-3, rtol=0)
    flat = network.descriptor.unit(torch.full((1, 1, 64, 64), 77.0))
    assert torch.isfinite(flat).all()


def test_l2_pooling_and_the_subtracted_mean_by_hand(rng):
    x = rng.normal(size=(2, 3, 7, 8))
    pooled = l2_pool(torch.from_numpy(x), 3).numpy()
    assert pooled.shape == (2, 3, 2, 2)
    for b, c, i, j in np.ndindex(pooled.shape):
        block = x[b, c, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3]
        assert pooled[b, c, i, j] == pytest.approx(np.sqrt((block**2).sum()))
    found = subtract_mean(torch.from_numpy(x)).numpy()
    for b, c, i, j in np.ndindex(x.shape):
        total, weight = 0.0, 0.0
        for u, v in np.ndindex(5, 5):
            y, z = i + u - 2, j + v - 2
            if 0 <= y < 7 and 0 <= z < 8:
                g = np.exp(-((u - 2) ** 2 + (v - 2) ** 2) / (2 * 1.25**2))
                total, weight = total + g * x[b, :, y, z].mean(), weight + g
        assert found[b, c, i, j] == pytest.approx(x[b, c, i, j] - total / weight)
    still = torch.zeros(1, 1, 4, 4, requires_grad=True)
    l2_pool(still, 2).sum().backward()
    assert torch.isfinite(still.grad).all()


def test_windows_lie_where_shift_and_angle_say():
    """Linear patches, of which bilinear interpolation is exact."""
    columns, rows = np.meshgrid(np.arange(128.0), np.arange(128.0))
    patches = torch.from_numpy(np.stack((columns, rows)))[:, None]
    angle, shift = 0.6, (5.0, -8.5)
    turn = torch.tensor([[np.cos(angle), np.sin(angle)]] * 2, dtype=torch.float64)
    found = crop(patches, turn, torch.tensor([shift] * 2, dtype=torch.float64)).numpy()
    assert found.shape == (2, 1, 64, 64)
    for j, i in np.ndindex(64, 64):
        u, v = i - 31.5, j - 31.5
        x = 63.5 + shift[0] + np.cos(angle) * u - np.sin(angle) * v
        y = 63.5 + shift[1] + np.sin(angle) * u + np.cos(angle) * v
        assert found[:, 0, j, i] == pytest.approx((x, y), abs=1e-9)
    with torch.autocast("cpu", torch.bfloat16):  # places keep their digits
        exact = crop(patches.float(), turn.float(), torch.tensor([shift] * 2)).numpy()
    np.testing.assert_allclose(exact, found, atol=1e-3)
    plain = crop(patches, torch.tensor([[1.0, 0.0]] * 2)).numpy()
    np.testing.assert_allclose(plain[:, 0], patches[:, 0, 32:96, 32:96])


def test_windows_cut_out_of_a_patch_and_of_the_photo_are_the_same(rng):
    """What training sees through the transformer, use sees through `crop_patches`."""
    soft = cv2.GaussianBlur(rng.normal(size=(400, 400)), (0, 0), 3)
    photo = np.clip(128 + 50 * soft / soft.std(), 0, 255).astype(np.uint8)
    x, y, scale, angle, turn, shift = 201.3, 197.6, 3.0, 0.4, -1.1, np.array((6.0, -9.0))
    patches = crop_patches([photo], np.array([(x, y, scale, angle)]), 128, module.REACH)
    direction = torch.tensor([[np.cos(turn), np.sin(turn)]])
    by_patch = crop(
        torch.from_numpy(patches)[:, None].double(), direction, torch.from_numpy(shift)[None]
    )
    step = 24 * scale / 128
    c, s = np.cos(angle), np.sin(angle)
    ahead = np.array(((c, -s), (s, c))) @ shift
    frame = np.array([(x + step * ahead[0], y + step * ahead[1], scale, angle + turn)])

    def difference(frame):
        direct = crop_patches([photo], frame, 64, module.WINDOW_REACH)[0].astype(float)
        return np.abs(by_patch[0, 0].numpy() - direct).mean()

    least = difference(frame)
    assert least < 1.5
    for wrong in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0.1, 0), (0, 0, 0, 0.05)):
        assert difference(frame + wrong) > 2 * least


def test_the_transformer_has_the_gradient_of_finite_differences(rng):
    patches = torch.nn.functional.interpolate(
        torch.from_numpy(rng.normal(size=(2, 1, 9, 9))), size=(100, 100), mode="bicubic"
    )
    turn = torch.from_numpy(rng.normal(size=(2, 2))).requires_grad_(True)
    shift = torch.from_numpy(rng.uniform(-4, 4, (2, 2))).requires_grad_(True)
    weight = torch.from_numpy(rng.normal(size=(2, 1, 64, 64)))

    def total(turn, shift):
        return (weight * crop(patches, torch.nn.functional.normalize(turn, dim=1), shift)).sum()

    total(turn, shift).backward()
    for x, index in ((turn, (0, 1)), (turn, (1, 0)), (shift, (0, 0)), (shift, (1, 1))):
        ends = []
        for eps in (1e-5, -1e-5):
            moved = {id(p): p.detach().clone() for p in (turn, shift)}
            moved[id(x)][index] += eps
            ends.append(total(moved[id(turn)], moved[id(shift)]).item())
        assert x.grad[index].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-2)
