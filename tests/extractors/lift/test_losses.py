"""LIFT's losses against numpy by hand, their gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locate.errors import UnknownNameError
from locate.extractors.lift import losses
from locate.extractors.lift.network import LiftNetwork
from locate.extractors.lift.objective import Objective, _from_keypoint, _within


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def torched(*arrays):
    return tuple(torch.from_numpy(np.asarray(x)) for x in arrays)


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def same_gradient(loss, *arrays):
    given = [x.requires_grad_(True) for x in torched(*arrays)]
    assert torch.autograd.gradcheck(loss, given, eps=1e-6, atol=1e-6)


def test_pairs_by_hand(rng):
    a, b, c = rng.normal(size=(3, 9, 4)) * 1.4
    positive, negative = losses.pair_losses(*torched(a, b, c))
    for i in range(9):
        assert positive[i].item() == pytest.approx(np.sqrt(((a[i] - b[i]) ** 2).sum()))
        far = np.sqrt(((a[i] - c[i]) ** 2).sum())
        assert negative[i].item() == pytest.approx(max(0, 4 - far))
    assert int((negative > 0).sum()) > 0
    same_gradient(lambda *x: torch.cat(losses.pair_losses(*x)), a, b, c)
    x = torch.zeros(2, 3, requires_grad=True)
    losses.distance(x, torch.zeros(2, 3)).sum().backward()
    assert torch.isfinite(x.grad).all()
    found = losses.hardest(torch.tensor([0.1, 5.0, 3.0, 4.0]), 2)
    assert sorted(found.tolist()) == [1, 3]
    assert len(losses.hardest(torch.zeros(3), 9)) == 3


def test_triplets_by_hand(rng):
    a, b = unit(rng, 7, 5), unit(rng, 7, 5)
    expected = []
    for i in range(7):
        others = [np.linalg.norm(a[i] - b[j]) for j in range(7) if j != i]
        others += [np.linalg.norm(a[j] - b[i]) for j in range(7) if j != i]
        expected.append(max(0, 0.8 + np.linalg.norm(a[i] - b[i]) - min(others)))
    assert losses.triplet_loss(*torched(a, b), 0.8).item() == pytest.approx(np.mean(expected))
    same_gradient(lambda x, y: losses.triplet_loss(x, y, 0.8), a, b)
    plain = torched(a.astype(np.float32), b.astype(np.float32))
    with torch.autocast("cpu", torch.bfloat16):
        assert losses.triplet_loss(*plain, 0.8).item() == pytest.approx(np.mean(expected), rel=1e-5)
    x = torch.from_numpy(a).requires_grad_(True)
    losses.triplet_loss(x, torch.from_numpy(a)).backward()
    assert torch.isfinite(x.grad).all()


def test_the_loss_of_a_known_turn(rng):
    angles, turn, error = rng.uniform(-3, 3, 8), rng.uniform(-3, 3, 8), rng.uniform(-3, 3, 8)
    a, b = (np.stack((np.cos(x), np.sin(x)), axis=1) for x in (angles, angles + turn + error))
    found = losses.turn_loss(*torched(a, b, turn))
    assert found.item() == pytest.approx(np.mean(1 - np.cos(error)))
    same_gradient(lambda x, y: losses.turn_loss(x, y, torch.from_numpy(turn)), a, b)
    near = _within(*torched(a, b, turn), 60.0)
    assert near.item() == pytest.approx(np.mean(np.abs(error) < np.pi / 3))


def test_soft_maxima_by_hand(rng):
    scores = rng.normal(size=(3, 5, 6))
    found = losses.soft_max(torch.from_numpy(scores)).numpy()
    places = losses.soft_argmax(torch.from_numpy(scores)).numpy()
    for b in range(3):
        assert found[b] == pytest.approx(np.log(np.mean(np.exp(10 * scores[b]))) / 10)
        total, x, y = 0.0, 0.0, 0.0
        for i, j in np.ndindex(5, 6):
            weight = np.exp(10 * scores[b, i, j])
            total, x, y = total + weight, x + weight * (j - 2.5), y + weight * (i - 2)
        assert places[b] == pytest.approx((x / total, y / total))
    same_gradient(losses.soft_max, scores[:1])
    same_gradient(losses.soft_argmax, scores[:1])
    peak = torch.full((1, 14, 14), -3.0)
    peak[0, 2, 11] = 3
    assert losses.soft_argmax(peak)[0].tolist() == pytest.approx([4.5, -4.5], abs=1e-4)


def test_the_class_loss_by_hand(rng):
    scores = rng.normal(0, 0.7, size=(5, 4, 3, 3))
    expected = []
    for quad in scores:
        one = 0.0
        for i, (alpha, y) in enumerate(zip((1, 1, 1, 3), (1, 1, 1, -1), strict=True)):
            told = np.log(np.mean(np.exp(10 * quad[i]))) / 10
            one += alpha / 6 * max(0, 1 - told * y) ** 2
        expected.append(one)
    assert losses.class_loss(torch.from_numpy(scores)).item() == pytest.approx(np.mean(expected))
    same_gradient(losses.class_loss, scores)


def test_overlap_by_hand(rng):
    a, b = rng.uniform(-4, 4, (2, 40, 2))
    expected = []
    for p, q in zip(a, b, strict=True):
        sides, gaps = [], []
        for axis in (0, 1):
            low, high = max(p[axis], q[axis]) - 2, min(p[axis], q[axis]) + 2
            sides.append(max(0, high - low))
            gaps.append(max(0, low - high))
        union = 2 * 16 - sides[0] * sides[1]
        expected.append(1 - sides[0] * sides[1] / union + sum(gaps) / np.sqrt(union))
    found = losses.overlap_loss(*torched(a, b), 2.0)
    assert found.item() == pytest.approx(np.mean(expected))
    same_gradient(lambda x, y: losses.overlap_loss(x, y, 2.0), a, b)
    assert losses.overlap_loss(*torched(a, a), 2.0).item() == 0


def test_places_of_one_spot_agree_whatever_the_patches_turn(rng):
    """A spot 2 scales ahead and 1 to the side of a keypoint, in patches that are turned and shifted."""
    ahead = np.array((2.0, 1.0))
    places, turns, middles = [], [], []
    for _ in range(6):
        turn, place = rng.uniform(-3, 3), rng.uniform(-2, 2, 2)
        c, s = np.cos(turn), np.sin(turn)
        spot = place + np.array(((c, -s), (s, c))) @ ahead
        places.append(spot * 2)  # 48 pixels are 24 scales
        turns.append(turn)
        middles.append(place)
    batch = {
        "place": torch.tensor(np.array(middles)).view(3, 2, 2),
        "turn": torch.tensor(np.array(turns)).view(3, 2),
    }
    found = _from_keypoint(torch.tensor(np.array(places)), batch)
    np.testing.assert_allclose(found.numpy(), np.broadcast_to(ahead, (3, 2, 2)))


def test_objectives_are_put_together_by_their_weights():
    torch.manual_seed(0)
    network = LiftNetwork().eval()
    batch = {
        "small": 255 * torch.rand(8, 1, 48, 48),
        "place": torch.zeros(2, 2, 2),
        "turn": torch.zeros(2, 2),
        "patches": 255 * torch.rand(4, 1, 128, 128),
    }
    found = Objective(classes=0.3).detector(network, batch)
    assert found["loss"].item() == pytest.approx((0.3 * found["class"] + found["pair"]).item())
    overlap = Objective().detector(network, {k: v for k, v in batch.items() if k != "patches"})
    assert overlap["pair"].item() != pytest.approx(found["pair"].item())
    few = Objective(described=1).detector(network, batch)["pair"]
    first = {"patches": batch["patches"][:2], "small": batch["small"][:4]}
    first |= {name: batch[name][:1] for name in ("place", "turn")}
    torch.testing.assert_close(few, Objective().detector(network, first)["pair"])
    turned = Objective(turn=0.7).orientation(
        network, {"patches": batch["patches"], "turn": torch.zeros(2)}
    )
    total = turned["pair"] + 0.7 * turned["turn"]
    assert turned["loss"].item() == pytest.approx(total.item())
    with pytest.raises(UnknownNameError, match="pairs, triplet"):
        Objective(form="quads")


def test_the_hardest_pairs_alone_are_learned_from():
    torch.manual_seed(0)
    network = LiftNetwork(published=True).eval()
    objective = Objective(form="pairs", margin=4.0)
    windows = 255 * torch.rand(12, 1, 64, 64)
    windows[4] = windows[0]  # of the pairs 0 to 3 the first is the easiest: the same window
    a, b, c = network.descriptor(windows).chunk(3)
    positive = (a - b).norm(dim=1)
    negative = (4 - (a - c).norm(dim=1)).clamp(min=0)
    expected = positive.sort().values[2:].mean() + negative.sort().values[2:].mean()
    found = objective.descriptor(network, {"windows": windows}, 2)
    torch.testing.assert_close(found["loss"], expected, atol=1e-4, rtol=1e-4)
    every = objective.descriptor(network, {"windows": windows}, 4)
    torch.testing.assert_close(
        every["loss"], positive.mean() + negative.mean(), atol=1e-4, rtol=1e-4
    )
