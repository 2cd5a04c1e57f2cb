"""SEKD's network against a forward pass by hand, and with the authors' weights against theirs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locate.extractors.sekd.extractor import load_published
from locate.extractors.sekd.network import GRID, SEKDNetwork, heat_map, log_odds, read


@pytest.fixture(scope="module")
def network():
    """Random weights and statistics, as after some training."""
    torch.manual_seed(0)
    made = SEKDNetwork().eval().requires_grad_(False)
    for layer in made.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            for values in (layer.running_mean, layer.weight, layer.bias):
                values.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 2)
    return made


def test_the_published_number_of_parameters_and_their_names(network):
    assert sum(p.numel() for p in network.parameters()) == 661_762
    parts = ["conv0", "resblock0", "resblock1", "resblock2", "deconv0", "deconv1"]
    assert [name for name, _ in network.named_children()] == [*parts, "detector", "descriptor"]
    assert "resblock1.0.convb.2.bias" in network.state_dict()
    assert "resblock1.0.conv_residual.bias" not in network.state_dict()


class ByHand:
    """The network's layers in float64, from the paper's table and the authors' names."""

    def __init__(self, network):
        self.values = {k: v.double().numpy() for k, v in network.state_dict().items()}

    def convolve(self, x, name, stride=1):
        weight = self.values[f"{name}.weight"]
        side = weight.shape[-1]
        padded = np.pad(x, ((0, 0), *[(side // 2, side // 2)] * 2))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (1, 2))
        found = np.einsum("chwij,ocij->ohw", windows[:, ::stride, ::stride], weight)
        bias = self.values.get(f"{name}.bias")
        return found if bias is None else found + bias[:, None, None]

    def normalise(self, x, name):
        mean, variance, weight, bias = (
            self.values[f"{name}.{key}"][:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * weight + bias, 0)

    def block(self, x, name, stride=1):
        beside = x
        if f"{name}.conv_residual.weight" in self.values:
            beside = self.convolve(x, f"{name}.conv_residual", stride)
        return beside + self.convolve(
            self.normalise(x, f"{name}.convb.0"), f"{name}.convb.2", stride
        )

    def upwards(self, x, name):
        """Every input cell (i, j) is added around the output cell (2 i, 2 j), in eight groups."""
        x, weight = self.normalise(x, f"{name}.0"), self.values[f"{name}.2.weight"]
        inputs, outputs = x.shape[0] // 8, weight.shape[1]
        found = np.zeros((8 * outputs, 2 * x.shape[1] + 2, 2 * x.shape[2] + 2))
        for channel in range(x.shape[0]):
            group = channel // inputs
            for i, j in np.ndindex(x.shape[1:]):
                there = found[group * outputs : (group + 1) * outputs]
                there[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += x[channel, i, j] * weight[channel]
        return found[:, 1:-1, 1:-1] + self.values[f"{name}.2.bias"][:, None, None]

    def __call__(self, image):
        taps, x = [], self.convolve(image[None], "conv0")
        for level, stride in enumerate((1, 2, 2)):
            for k in range(3):
                x = self.block(x, f"resblock{level}.{k}", stride if k == 0 else 1)
            taps.append(x)
        full = taps[0] + self.upwards(taps[1] + self.upwards(x, "deconv0"), "deconv1")
        return self.convolve(full, "detector"), self.block(x, "descriptor"), full


def test_the_forward_pass_by_hand(network):
    image = np.random.default_rng(0).random((12, 16))
    given = torch.from_numpy(image)[None, None].float()
    logits, coarse = network(given)
    by_hand = ByHand(network)(image)
    full = network.detect(network.look(given))[1]
    for ours, theirs in zip((logits, coarse, full), by_hand, strict=True):
        assert ours.shape[1:] == theirs.shape
        np.testing.assert_allclose(ours[0].numpy(), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels_last", [False, True])
def test_nothing_is_overwritten_that_is_needed_again(network, channels_last):
    """Sums are made in place: the short cuts and the gradients must not notice."""
    torch.manual_seed(1)
    trained = SEKDNetwork().double().train()
    if channels_last:
        trained = trained.to(memory_format=torch.channels_last)
    image = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    weight = trained.resblock0[0].convb[2].weight

    def value():
        logits, coarse = trained(image)
        return logits.pow(2).mean() + coarse.pow(2).mean()

    value().backward()
    slope = weight.grad[3, 5, 1, 2].item()
    with torch.no_grad():
        weight[3, 5, 1, 2] += 1e-6
        up = value().item()
        weight[3, 5, 1, 2] -= 2e-6
        down = value().item()
    assert slope == pytest.approx((up - down) / 2e-6, rel=1e-4)


def test_probabilities_are_those_of_the_second_class():
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 2, 3, 4)) * 3)
    raised = np.exp(logits.numpy())
    p = raised[:, 1] / raised.sum(axis=1)
    np.testing.assert_allclose(heat_map(logits).numpy(), p, rtol=1e-5)
    np.testing.assert_allclose(log_odds(logits).numpy(), np.log(p / (1 - p)), rtol=1e-5)


@pytest.mark.parametrize("what", ["logits", "descriptors"])
def test_cells_lie_where_the_network_looks(what):
    """The centroid of the gradient's energy of some cell."""
    torch.manual_seed(0)
    x = torch.rand(4, 1, 96, 128, requires_grad=True)
    logits, coarse = SEKDNetwork().eval()(x)
    maps, cell = (logits, (64.0, 44.0)) if what == "logits" else (coarse, (16.0, 11.0))
    maps[:, :, int(cell[1]), int(cell[0])].pow(2).sum().backward()
    energy = x.grad.pow(2).sum((0, 1))
    rows, columns = (torch.arange(n, dtype=torch.float32) for n in energy.shape)
    measured = (
        torch.stack(((energy.sum(0) * columns).sum(), (energy.sum(1) * rows).sum())) / energy.sum()
    )
    place = torch.tensor(cell) if what == "logits" else GRID.to_image(torch.tensor(cell))
    assert (measured - place).abs().max() < 0.5


def test_descriptors_are_read_where_points_lie():
    """A map that says where its cells lie in the image gives the point back."""
    rows, columns = np.mgrid[:5, :6]
    told = np.stack((columns * 4.0, rows * 4.0, np.full((5, 6), 7.0)))
    points = torch.tensor([[[10.25, 13.5], [0, 0], [19, 12]], [[1, 2], [3, 4], [20, 16]]])
    found = read(torch.from_numpy(np.stack((told, told))), points).numpy()
    np.testing.assert_allclose(7 * found[..., :2] / found[..., 2:], points.numpy(), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=2), 1, rtol=1e-6)


@pytest.mark.data
def test_the_authors_weights_give_the_reference_forward_pass(data):
    """An independent forward pass of their weights; 337 maxima of 9 x 9 pixels above .55."""
    folder = data.parent / "checkpoints"
    if not folder.is_dir():
        pytest.skip(f"no reference at {folder}")
    with np.load(folder / "superpoint_reference" / "pred_0.npz") as stored:
        image = stored["image"]
    published = load_published(folder / "sekd" / "sekd.pth").eval()
    with torch.no_grad():
        logits, coarse = published(torch.from_numpy(image)[None, None])
    heat = heat_map(logits)[0].numpy()
    with np.load(folder / "sekd" / "reference_forward_pred0.npz") as stored:
        np.testing.assert_allclose(heat, stored["prob"], atol=1e-5)
        np.testing.assert_allclose(coarse[0].numpy(), stored["desc"], atol=1e-4)
    padded = np.pad(heat, 4)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (9, 9))
    rows, columns = np.nonzero((heat == windows.max(axis=(2, 3))) & (heat > 0.55))
    assert len(rows) == 337
    first = heat[rows, columns].argmax()
    assert (columns[first], rows[first]) == (32, 77)
    assert heat.max() == pytest.approx(0.7816, abs=1e-4)
