"""UnsuperPoint's network and losses, each against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locate.errors import InputError
from locate.extractors.unsuperpoint import losses
from locate.extractors.unsuperpoint.network import Points, UnsuperPointNetwork

H = np.array([[0.9, 0.1, 3], [-0.05, 1.1, -2], [0.001, -0.0005, 1]])


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def torched(*arrays):
    return tuple(torch.from_numpy(np.asarray(x)) for x in arrays)


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_one_point_a_cell():
    torch.manual_seed(0)
    points = UnsuperPointNetwork()(torch.rand(2, 3, 32, 48) * 2 - 1)
    assert points.scores.shape == (2, 24)
    assert points.descriptors.shape == (2, 24, 256)
    torch.testing.assert_close(points.descriptors.norm(dim=2), torch.ones(2, 24))
    for i in range(24):  # row by row, within its own cell
        x, y = points.places[0, i].tolist()
        assert 8 * (i % 6) - 0.5 <= x <= 8 * (i % 6) + 7.5
        assert 8 * (i // 6) - 0.5 <= y <= 8 * (i // 6) + 7.5


def test_places_by_hand():
    relative = torch.tensor([[[0.5, 0.5], [0.0, 1.0]]])
    found = UnsuperPointNetwork.places(relative, (1, 2))[0]
    assert found.tolist() == [[3.5, 3.5], [7.5, 7.5]]  # a middle; an edge on an edge
    assert UnsuperPointNetwork.places(torch.zeros(1, 6, 2), (3, 2))[0, 5].tolist() == [7.5, 15.5]


def test_points_may_reach_into_their_neighbours():
    found = torch.tensor([-9.0, 0.0, 9.0])
    assert UnsuperPointNetwork(2.0)._relative(found).tolist() == pytest.approx(
        [-0.5, 0.5, 1.5], abs=1e-6
    )
    assert UnsuperPointNetwork()._relative(found).tolist() == pytest.approx([0, 0.5, 1], abs=2e-4)
    with pytest.raises(InputError, match="not 9"):
        UnsuperPointNetwork(9.0)


def test_descriptors_are_read_at_the_places(monkeypatch):
    """A descriptor head that says where its cells' centres lie."""
    network = UnsuperPointNetwork().eval()
    rows, columns = np.mgrid[:4, :6]
    told = np.stack((columns * 8 + 3.5, rows * 8 + 3.5, np.ones((4, 6))))[None].astype(np.float32)
    monkeypatch.setattr(network.descriptor, "forward", lambda _: torch.from_numpy(told))
    with torch.no_grad():
        points = network(torch.rand(1, 3, 32, 48))
    places = points.places[0].numpy()
    inner = np.all((places > 3.5) & (places < (43.5, 27.5)), axis=1)
    assert inner.sum() > 3
    found = points.descriptors[0].numpy()
    np.testing.assert_allclose((found[:, :2] / found[:, 2:])[inner], places[inner], atol=1e-3)


def test_places_and_descriptors_learn_together():
    torch.manual_seed(0)
    network = UnsuperPointNetwork()
    points = network(torch.rand(1, 3, 64, 64))
    points.descriptors[0, 9, 0].backward()
    assert network.position[1].weight.grad.abs().max() > 0


def test_distances_and_pairs_by_hand(rng):
    a, b = rng.uniform(0, 64, (2, 20, 2))
    b[3] = b[5]  # as near
    allowed_a, allowed_b = rng.random((2, 20)) < 0.8
    g = losses.distances(*torched(a, b, H)).numpy()
    for i, j in np.ndindex(20, 20):
        x, y, w = H @ (*a[i], 1)
        assert g[i, j] == pytest.approx(np.hypot(x / w - b[j, 0], y / w - b[j, 1]), abs=1e-4)
    pairs = losses.nearest_pairs(*torched(g, allowed_a, allowed_b), 9.0)
    expected = []
    for i in range(20):
        near = [(g[i, j], j) for j in range(20) if allowed_b[j]]
        if allowed_a[i] and min(near)[0] < 9:
            expected.append((i, *min(near)[::-1]))
    assert len(expected) > 3
    found = [(int(i), int(j), float(d)) for i, j, d in zip(*pairs, strict=True)]
    assert [(i, d) for i, _, d in found] == [(i, d) for i, _, d in expected]
    behind = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, -1]])
    assert np.isinf(losses.distances(*torched(a, b, behind)).numpy()).all()


def test_no_gradient_of_a_distance_is_infinite():
    places = torch.zeros(1, 2, requires_grad=True)
    losses.distances(places, torch.zeros(1, 2), torch.eye(3)).sum().backward()
    assert torch.isfinite(places.grad).all()


def test_the_losses_of_pairs_by_hand(rng):
    scores_a, scores_b = rng.random((2, 9))
    d = rng.uniform(0, 4, 5)
    i, j = rng.permutation(9)[:5], rng.permutation(9)[:5]
    pairs = losses.Pairs(*torched(i, j, d))
    a, b = torched(scores_a, scores_b)
    assert losses.position_loss(pairs).total.item() == pytest.approx(d.sum())
    expected = sum((scores_a[p] - scores_b[q]) ** 2 for p, q in zip(i, j, strict=True))
    assert losses.score_loss(a, b, pairs).total.item() == pytest.approx(expected)
    expected = sum(
        (scores_a[p] + scores_b[q]) / 2 * (x - d.mean()) for p, q, x in zip(i, j, d, strict=True)
    )
    found = losses.usp_loss(a, b, pairs)
    assert found.total.item() == pytest.approx(expected)
    assert found.mean.item() == pytest.approx(expected / 5)
    none = losses.Pairs(*torched(np.zeros(0, int), np.zeros(0, int), np.zeros(0)))
    for loss in (
        losses.position_loss(none),
        losses.usp_loss(a, b, none),
        losses.score_loss(a, b, none),
    ):
        assert loss.mean.item() == 0


def test_the_uniform_loss_is_of_sorted_values(rng):
    relative = rng.random((30, 2))
    expected = sum(
        (np.sort(relative[:, axis])[i] - i / 29) ** 2 for axis in (0, 1) for i in range(30)
    )
    assert losses.uniform_loss(*torched(relative)).total.item() == pytest.approx(expected)
    even = np.stack((rng.permutation(30), rng.permutation(30)), axis=1) / 29
    assert losses.uniform_loss(*torched(even)).total.item() == pytest.approx(0)
    x = torch.tensor([[0.9, 0.2], [0.1, 0.7]], requires_grad=True)
    losses.uniform_loss(x).total.backward()
    np.testing.assert_allclose(x.grad, [[-0.2, 0.4], [0.2, -0.6]], atol=1e-6)  # 2 (x - target)


def test_the_loss_of_descriptors_by_hand(rng):
    a, b = unit(rng, 6, 4), unit(rng, 7, 4)
    g = rng.uniform(0, 20, (6, 7))
    allowed_a, allowed_b = rng.random(6) < 0.7, rng.random(7) < 0.7
    expected = 0.0
    for i, j in np.ndindex(6, 7):
        if allowed_a[i] and allowed_b[j]:
            dot = a[i] @ b[j]
            expected += 250 * max(0, 1 - dot) if g[i, j] <= 8 else max(0, dot - 0.2)
    found = losses.descriptor_loss(*torched(a, b, g, allowed_a, allowed_b))
    assert found.total.item() == pytest.approx(expected)
    assert found.terms == allowed_a.sum() * allowed_b.sum()


def test_the_triplet_loss_by_hand(rng):
    a, b = unit(rng, 6, 4), unit(rng, 7, 4)
    g = rng.uniform(0, 20, (6, 7))
    i, j = np.array([0, 2, 5]), np.array([3, 3, 1])
    pairs = losses.Pairs(*torched(i, j, g[i, j]))
    expected = 0.0
    for p, q in zip(i, j, strict=True):
        negative = min(np.linalg.norm(a[p] - b[n]) for n in range(7) if g[p, n] > 8)
        expected += max(0, np.linalg.norm(a[p] - b[q]) - negative + 0.2)
    found = losses.triplet_loss(*torched(a, b, g), pairs)
    assert found.total.item() == pytest.approx(expected, rel=1e-5)


def test_decorrelation_by_hand(rng):
    x = rng.normal(size=(40, 5))
    x[:, 1] -= x[:, 0]  # a negative correlation is one, too
    r = np.corrcoef(x.T)
    expected = (r**2).sum() - 5
    found = losses.decorrelation_loss(*torched(x))
    assert found.total.item() == pytest.approx(expected)
    assert found.terms == 20


def test_corner_losses_by_hand(rng):
    relative = rng.uniform(0, 1, (2, 6, 2))
    places = rng.uniform(0, 1, (2, 6, 2))
    places[0, 1] = places[1, 4] = np.nan
    scores, ranks = rng.uniform(0.1, 0.9, (2, 6)), rng.uniform(0, 1, (2, 6))
    r, s = (torch.from_numpy(x).requires_grad_() for x in (relative, scores))
    points = Points(s, r, r, r)
    distance, rank = losses.corner_losses(points, torch.from_numpy(places), torch.from_numpy(ranks))
    away = [
        8 * np.hypot(*(relative[b, m] - places[b, m]))
        for b in range(2)
        for m in range(6)
        if not np.isnan(places[b, m, 0])
    ]
    assert distance.item() == pytest.approx(np.mean(away), rel=1e-6)
    entropy = -(ranks * np.log(scores) + (1 - ranks) * np.log(1 - scores))
    assert rank.item() == pytest.approx(entropy.mean(), rel=1e-6)
    (distance + rank).backward()
    assert r.grad.isfinite().all()
    assert not r.grad[0, 1].any()


def test_the_softmax_loss_by_hand(rng):
    """Points nearer than 8 px are no rivals."""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 6, 4)))
    g = rng.uniform(0, 30, (6, 6))
    i, j = np.array([0, 2, 3, 5]), np.array([1, 0, 4, 4])
    pairs = losses.Pairs(*torched(i, j, g[i, j]))
    found = losses.softmax_loss(*torched(a, b, g), pairs)
    total = 0.0
    for k in range(4):
        for one in (0, 1):
            exponents = []
            for other in range(4):
                m, n = (k, other) if one == 0 else (other, k)
                if other == k or g[i[m], j[n]] > 8:
                    exponents.append(np.exp(a[i[m]] @ b[j[n]] / 0.1))
            total -= np.log(np.exp(a[i[k]] @ b[j[k]] / 0.1) / sum(exponents))
    assert found.terms == 4
    assert found.mean.item() == pytest.approx(total / 8, rel=1e-5)
    none = losses.Pairs(*torched(np.zeros(0, int), np.zeros(0, int), np.zeros(0)))
    assert losses.softmax_loss(*torched(a, b, g), none).mean == 0
