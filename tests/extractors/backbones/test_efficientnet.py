"""EfficientNet-Lite0 against numbers of an independent implementation of the same checkpoint.

The numbers come from the PyPI package `efficientnet_lite_pytorch` 0.1.0 (`EfficientNet.from_pretrained`
with `image_size` set to the size below), run once on the same input.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from locate.errors import WeightsError
from locate.extractors.backbones.efficientnet import (
    EfficientNetLite0,
    fused,
    imagenet_weights_path,
    load_imagenet,
)
from locate.extractors.blocks.layers import GeM, Pointwise, SameConv2d
from locate.extractors.gem import Gem
from locate.precision import VARIABLE

REFERENCE = {
    (224, 224): ([906, 885, 807, 490, 629], [8.9986, 6.0857, 5.2163, 5.0847, 4.9877], 1.4161),
    (97, 131): ([699, 418, 783, 906, 398], [8.6006, 8.1345, 7.1436, 7.0346, 6.9311], 1.9058),
}


@pytest.fixture(scope="module")
def network():
    return load_imagenet(imagenet_weights_path())


@pytest.mark.parametrize("size", REFERENCE)
def test_scores_agree_with_the_reference(network, size):
    y, x = torch.meshgrid(*(torch.arange(n).float() for n in size), indexing="ij")
    waves = (torch.sin(x / 7 + y / 11), torch.cos(x / 5 - y / 13), torch.sin(x * y / 900))
    with torch.inference_mode():
        scores = network(torch.stack(waves)[None])[0]
    classes, values, spread = REFERENCE[size]
    top = scores.topk(5)
    assert top.indices.tolist() == classes
    assert top.values.tolist() == pytest.approx(values, abs=2e-3)
    assert scores.std().item() == pytest.approx(spread, abs=1e-3)


def test_taps_have_the_strides_and_widths_of_the_paper(network):
    with torch.inference_mode():
        maps = network.taps(torch.zeros(1, 3, 128, 64))
    shapes = {name: tuple(m.shape[1:]) for name, m in maps.items()}
    assert shapes == {
        "stage1": (16, 64, 32), "stage2": (24, 32, 16), "stage3": (40, 16, 8),
        "expand4": (240, 16, 8), "stage4": (80, 8, 4), "stage5": (112, 8, 4),
        "expand6": (672, 8, 4), "stage6": (192, 4, 2), "stage7": (320, 4, 2),
        "head": (1280, 4, 2),
    }  # fmt: skip


@pytest.mark.parametrize("widened", [False, True])
@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(7, 3, 2), (8, 3, 2), (9, 5, 2), (8, 5, 2), (6, 5, 1)]
)
def test_same_padding_is_tensorflows(size, kernel, stride, widened):
    """Against the sum written out: output i covers inputs i*stride - before ... + kernel."""
    layer = SameConv2d(1, 1, kernel, stride, bias=False)
    if widened:
        layer.widen()
    signal = torch.randn(1, 1, size, size)
    out = math.ceil(size / stride)
    before = max((out - 1) * stride + kernel - size, 0) // 2
    with torch.no_grad():
        got = layer(signal)[0, 0].numpy()
    weight = layer.weight.detach().numpy()[0, 0]
    assert got.shape == (out, out)
    for i in range(out):
        for j in range(out):
            total = 0.0
            for u in range(kernel):
                for v in range(kernel):
                    y, x = i * stride - before + u, j * stride - before + v
                    if 0 <= y < size and 0 <= x < size:
                        total += weight[u, v] * signal[0, 0, y, x].item()
            assert got[i, j] == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("size", [(65, 90), (64, 96)])
def test_folding_the_normalisations_changes_nothing(size):
    torch.manual_seed(0)
    network = EfficientNetLite0().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as if trained
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    x = torch.rand(1, 3, *size) * 2 - 1
    with torch.no_grad():
        expected, found = network.taps(x), fused(network).taps(x)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fused(network).modules())
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    for name, maps in expected.items():
        assert maps.std() > 1e-3, name
        torch.testing.assert_close(found[name], maps, atol=1e-4, rtol=1e-3)


def test_a_pointwise_layer_is_the_linear_one():
    linear = torch.nn.Linear(6, 4)
    x = torch.randn(2, 5, 6)
    by_hand = x.numpy() @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    with torch.no_grad():
        found = Pointwise(linear)(x).numpy()
    np.testing.assert_allclose(found, by_hand, atol=1e-6)


def test_gem_is_the_formula_and_lies_between_mean_and_maximum():
    x = torch.rand(2, 5, 4, 6, dtype=torch.float64)
    for p in (1.0, 2.0, 3.7):
        want = np.mean(x.numpy() ** p, axis=(2, 3)) ** (1 / p)
        np.testing.assert_allclose(GeM(p).double()(x).detach().numpy(), want, rtol=1e-6)
    assert torch.allclose(GeM(1.0).double()(x), x.mean(dim=(2, 3)))
    assert torch.allclose(GeM(200.0).double()(x), x.amax(dim=(2, 3)), rtol=0.02)


def test_gem_gradient_by_finite_differences():
    x = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True) + 0.1
    assert torch.autograd.gradcheck(GeM(3.0).double(), x)


def test_descriptor_is_the_pooled_tap(network, monkeypatch):
    """The extractor against the steps by hand, without any shrinking."""
    monkeypatch.setenv(VARIABLE, "float32")
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    x = torch.from_numpy((pixels.astype(np.float32) - 127) / 128).permute(2, 0, 1)[None]
    with torch.inference_mode():
        tap = network.taps(x)["head"][0].numpy().astype(np.float64)
    want = np.sqrt(np.mean(np.maximum(tap, 1e-6) ** 2, axis=(1, 2)))
    got = Gem(network, "x").extract(pixels).global_descriptor
    np.testing.assert_allclose(got, want / np.linalg.norm(want), atol=2e-5)


def test_wrong_weights_are_a_clear_error(tmp_path):
    bad = tmp_path / "bad.pth"
    torch.save({"x": torch.zeros(1)}, bad)
    with pytest.raises(WeightsError, match="does not hold EfficientNet-Lite0 weights"):
        load_imagenet(bad)
    with pytest.raises(WeightsError, match="nowhere"):
        load_imagenet(tmp_path / "nowhere.pth")
