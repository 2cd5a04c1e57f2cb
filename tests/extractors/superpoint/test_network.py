"""SuperPoint's network, losses and detection, each against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from locate.extractors.superpoint.detection import find_points, soft_peak, suppress_windows
from locate.extractors.superpoint.extractor import describe
from locate.extractors.superpoint.losses import (
    DUSTBIN,
    cell_labels,
    correspondence,
    detector_loss,
    drawn_pairs,
    hinge_loss,
    valid_cells,
)
from locate.extractors.superpoint.network import SuperPointNetwork, heat_map


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_the_published_number_of_parameters_and_their_names():
    network = SuperPointNetwork()
    assert sum(p.numel() for p in network.parameters()) == 1_300_865
    layers = ["conv1a", "conv1b", "conv2a", "conv2b", "conv3a", "conv3b", "conv4a", "conv4b"]
    layers += ["convPa", "convPb", "convDa", "convDb"]
    assert [name for name, _ in network.named_children()] == layers
    logits, coarse = network(torch.rand(2, 1, 32, 48))
    assert logits.shape == (2, 65, 4, 6)
    assert coarse.shape == (2, 256, 4, 6)
    torch.testing.assert_close(coarse.norm(dim=1), torch.ones(2, 4, 6))


def test_fused_is_the_same_function_by_the_published_network():
    torch.manual_seed(0)
    network = SuperPointNetwork(normalised=True)
    for layer in network.modules():  # statistics and weights as after some training
        if isinstance(layer, torch.nn.BatchNorm2d):
            for values in (layer.running_mean, layer.weight.data, layer.bias.data):
                values.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 2)
    images = torch.rand(1, 1, 40, 48)
    plain = network.fused()
    assert set(plain.state_dict()) == set(SuperPointNetwork().state_dict())
    assert network.training  # left as it was
    network.eval()
    with torch.no_grad():
        for ours, theirs in zip(plain(images), network(images), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_unfused_is_the_same_function_with_statistics_of_its_images():
    torch.manual_seed(0)
    plain, network = SuperPointNetwork().eval(), SuperPointNetwork(normalised=True)
    images = torch.rand(4, 1, 40, 48)
    network.unfuse(plain, images)
    assert network.training
    with torch.no_grad():
        wanted = plain(images)
        for train in (True, False):  # by the batch's statistics and by those that were kept
            for ours, theirs in zip(network.train(train)(images), wanted, strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    fed = functional.conv2d(images, plain.conv1a.weight, plain.conv1a.bias, padding=1)
    torch.testing.assert_close(network.norm1a.running_mean, fed.mean(dim=(0, 2, 3)))


def test_the_heat_map_puts_each_channel_at_its_pixel(rng):
    logits = rng.normal(size=(2, 65, 2, 3))
    heat = heat_map(torch.from_numpy(logits)).numpy()
    assert heat.shape == (2, 16, 24)
    for b, i, j in np.ndindex(2, 2, 3):
        chances = np.exp(logits[b, :, i, j]) / np.exp(logits[b, :, i, j]).sum()
        for c in range(64):
            assert heat[b, 8 * i + c // 8, 8 * j + c % 8] == pytest.approx(chances[c])


def test_labels_of_cells(rng):
    points = np.zeros((1, 16, 24), np.bool_)
    points[0, 3, 10] = points[0, 9, 1] = points[0, 15, 7] = True  # two in the cell (1, 0)
    seen = set()
    for _ in range(40):
        labels = cell_labels(torch.from_numpy(points)).numpy()[0]
        assert labels[0].tolist() == [DUSTBIN, 3 * 8 + 2, DUSTBIN]
        assert labels[1, 1:].tolist() == [DUSTBIN, DUSTBIN]
        seen.add(int(labels[1, 0]))
    assert seen == {1 * 8 + 1, 7 * 8 + 7}
    valid = np.ones((1, 16, 24), np.bool_)
    valid[0, 15, 23] = False
    expected = [[True, True, True], [True, True, False]]
    assert valid_cells(torch.from_numpy(valid)).tolist() == [expected]


def test_the_loss_of_the_detector_by_hand(rng):
    logits, labels = rng.normal(size=(2, 65, 2, 3)), rng.integers(0, 65, (2, 2, 3))
    valid = rng.random((2, 2, 3)) < 0.7
    losses = [
        -(logits[b, labels[b, i, j], i, j] - np.log(np.exp(logits[b, :, i, j]).sum()))
        for b, i, j in np.ndindex(2, 2, 3)
        if valid[b, i, j]
    ]
    found = detector_loss(*(torch.from_numpy(x) for x in (logits, labels, valid)))
    assert found.item() == pytest.approx(np.mean(losses))


def test_correspondence_by_hand():
    shift = np.array([[1.0, 0, 8], [0, 1, 16], [0, 0, 1]])  # one cell right, two down
    tilt = np.array([[0.9, 0.1, 3], [-0.05, 1.1, -2], [0.004, -0.002, 1]])
    behind = -np.eye(3)
    behind[2] = (0, 0, -1.0)  # the identity, written with another sign: still ahead only if w > 0
    matrices = np.stack((np.eye(3), shift, tilt, behind))
    for near in (7.5, 8.0):
        found = correspondence(torch.from_numpy(matrices), (3, 4), near).numpy()
        assert found.shape == (4, 12, 12)
        for m, a, b in np.ndindex(4, 12, 12):
            p, q = ((np.array((k % 4, k // 4)) + 0.5) * 8 - 0.5 for k in (a, b))
            x, y, w = matrices[m] @ (*p, 1)
            same = w > 0 and np.hypot(x / w - q[0], y / w - q[1]) <= near
            assert found[m, a, b] == same
    assert correspondence(torch.eye(3)[None], (3, 4)).sum() == 12  # no neighbour counts
    assert correspondence(torch.eye(3)[None], (3, 4), 8.0).sum() > 12  # the paper's


def test_the_hinge_loss_by_hand(rng):
    a, b = (rng.normal(size=(2, 5, 2, 3)) for _ in "ab")
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    same, valid = rng.random((2, 6, 6)) < 0.2, rng.random((2, 2, 3)) < 0.7
    losses = []
    for n, i, j in np.ndindex(2, 6, 6):
        if valid[n].reshape(-1)[j]:
            dot = a[n].reshape(5, 6)[:, i] @ b[n].reshape(5, 6)[:, j]
            losses.append(250 * max(0, 1 - dot) if same[n, i, j] else max(0, dot - 0.2))
    found = hinge_loss(*(torch.from_numpy(x) for x in (a, b, same, valid)))
    assert found.item() == pytest.approx(np.mean(losses))


def greedy(heat, radius):
    left, kept = heat.copy(), np.zeros(heat.shape, np.bool_)
    while left.max() > 0:
        y, x = np.unravel_index(left.argmax(), left.shape)
        kept[y, x] = True
        left[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = 0
    return kept


@pytest.mark.parametrize("radius", [1, 3, 4])
def test_suppression_is_the_greedy_one(rng, radius):
    heat = rng.random((3, 30, 40))
    heat[heat < 0.6] = 0
    found = suppress_windows(torch.from_numpy(heat), radius).numpy()
    for ours, one in zip(found, heat, strict=True):
        np.testing.assert_array_equal(ours, greedy(one, radius))
    assert not suppress_windows(torch.zeros(1, 9, 9), radius).any()


def test_points_are_above_the_threshold_off_the_border_and_the_best_first(rng):
    heat = rng.random((30, 40))
    points, scores = find_points(torch.from_numpy(heat), 0.8, 2, 4, 7)
    kept = greedy(np.where(heat >= 0.8, heat, 0), 2)
    kept[:4] = kept[-4:] = kept[:, :4] = kept[:, -4:] = False
    rows, columns = np.nonzero(kept)
    order = np.argsort(-heat[rows, columns])[:7]
    np.testing.assert_array_equal(points.numpy(), np.stack((columns, rows), axis=1)[order])
    np.testing.assert_array_equal(scores.numpy(), heat[rows, columns][order])


def test_the_soft_peak_is_the_centre_of_mass():
    rows, columns = np.mgrid[:20, :30]
    heat = np.exp(-((columns - 14.3) ** 2 + (rows - 8.6) ** 2) / 2)
    (found,) = soft_peak(torch.from_numpy(heat), torch.tensor([[14, 9]])).numpy()
    there = (slice(7, 12), slice(12, 17))
    weights = heat[there] / heat[there].sum()
    expected = (weights * columns[there]).sum(), (weights * rows[there]).sum()
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(found, (14.3, 8.6), atol=0.08)
    (corner,) = soft_peak(torch.from_numpy(heat * 0 + 1), torch.tensor([[0, 0]])).numpy()
    np.testing.assert_allclose(corner, (1, 1))  # what lies outside weighs nothing


def test_descriptors_are_read_where_points_lie():
    """A map that says where its cells' centres lie in the image gives the point back."""
    rows, columns = np.mgrid[:5, :6]
    coarse = np.stack((columns * 8 + 3.5, rows * 8 + 3.5, np.full((5, 6), 1.0)))
    points = torch.tensor([[10.25, 20.5], [3.5, 3.5], [30, 12]], dtype=torch.float64)
    found = describe(torch.from_numpy(coarse)[None], points).numpy()
    np.testing.assert_allclose(found[:, :2] / found[:, 2:], points.numpy())
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)


def test_drawn_pairs_lie_in_their_cells_and_correspond():
    b_from_a = np.array([[0.9, 0.2, 5], [-0.2, 1.1, 3], [1e-3, 5e-4, 1]])
    valid_a, valid_b = torch.ones(2, 1, 32, 48, dtype=torch.bool)
    valid_a[:, :8, 8:16] = False
    valid_b[:, 20:, :] = False
    torch.manual_seed(0)
    here, there, counted = drawn_pairs(torch.from_numpy(b_from_a)[None], valid_a, valid_b)
    assert here.shape == there.shape == (1, 24, 2)
    for m, (x, y) in enumerate(here[0].tolist()):
        assert -0.5 <= x - 8 * (m % 6) <= 7.5
        assert -0.5 <= y - 8 * (m // 6) <= 7.5
        u, v, w = b_from_a @ (x, y, 1)
        assert there[0, m].tolist() == pytest.approx((u / w, v / w))
        column, row = round(u / w), round(v / w)
        shown = 0 <= column < 48 and 0 <= row < 20 and m != 1
        assert bool(counted[0, m]) == shown
    assert 5 < counted.sum() < 23
    behind = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [-1, 0, 20]]])
    _, _, counted = drawn_pairs(behind, *torch.ones(2, 1, 32, 48, dtype=torch.bool))
    # Beyond x = 20 points of a lie behind the horizon.
    assert not counted[0, [3, 4, 5, 9, 10, 11]].any()
