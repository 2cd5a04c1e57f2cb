"""SEKD's losses, each against loops, and their gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locate.extractors.blocks.contrastive import info_nce
from locate.extractors.sekd import losses


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def torched(*arrays):
    return tuple(torch.from_numpy(np.asarray(x)) for x in arrays)


def unit(rng, *shape, axis=-1):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


def check_slope(function, values, at, rel=1e-4):
    """The gradient of a scalar function at one entry, by differences."""
    x = torch.from_numpy(values.copy()).requires_grad_()
    function(x).backward()
    both = []
    for sign in (1, -1):
        moved = values.copy()
        moved[at] += sign * 1e-6
        both.append(function(torch.from_numpy(moved)).item())
    assert x.grad[at].item() == pytest.approx((both[0] - both[1]) / 2e-6, rel=rel, abs=1e-8)


def described(rng):
    """Two pairs of seven descriptors; b is a, moved a little, so that some are told apart and some not.
    One of a and one of b are of the same thing, though their points are not."""
    a = unit(rng, 2, 7, 5)
    b = a + rng.normal(size=a.shape) * 0.5
    b[0, 4] = a[0, 1] + 1e-4
    b /= np.linalg.norm(b, axis=2, keepdims=True)
    counted = np.ones((2, 7), np.bool_)
    counted[1, 5:] = False
    return a, b, counted


def rivals(a, b, counted):
    """d+ and d- of one pair, by loops; 10 where there is no other."""
    positive, negative = np.zeros(len(a)), np.full(len(a), 10.0)
    for i in range(len(a)):
        positive[i] = np.linalg.norm(a[i] - b[i])
        for j in range(len(a)):
            if i != j and counted[i] and counted[j]:
                both = np.linalg.norm(a[i] - b[j]), np.linalg.norm(a[j] - b[i])
                negative[i] = min([negative[i], *(d for d in both if d >= 0.008)])
    return positive, negative


def test_the_hardest_rivals_by_hand(rng):
    a, b, counted = described(rng)
    found = losses.rivals(losses.distances(*torched(a, b)), torch.from_numpy(counted))
    by_hand = [rivals(*one) for one in zip(a, b, counted, strict=True)]
    assert np.linalg.norm(a[0, 1] - b[0, 4]) < 0.008  # is passed over
    for ours, theirs in zip(found, zip(*by_hand, strict=True), strict=True):
        np.testing.assert_allclose(ours.numpy()[counted], np.stack(theirs)[counted], rtol=1e-6)


def test_the_triplet_losses_by_hand(rng):
    a, b, counted = described(rng)
    ratios, margins = [], []
    for one in zip(a, b, counted, strict=True):
        rows = [(p, n) for p, n, c in zip(*rivals(*one), one[2], strict=True) if c]
        hard = [p - n for p, n in rows if p / n > 0.85]
        wide = [0.8 + p - n for p, n in rows if 0.8 + p - n > 0]
        assert 0 < len(hard) < len(rows)
        ratios.append(sum(hard) / len(hard))
        margins.append(sum(wide) / len(wide))
    ends = losses.rivals(losses.distances(*torched(a, b)), torch.from_numpy(counted))
    found = losses.ratio_loss(*ends, torch.from_numpy(counted))
    assert found.item() == pytest.approx(np.mean(ratios), rel=1e-6)
    found = losses.margin_loss(*ends, torch.from_numpy(counted))
    assert found.item() == pytest.approx(np.mean(margins), rel=1e-6)


@pytest.mark.parametrize("loss", [losses.ratio_loss, losses.margin_loss])
def test_slopes_of_the_triplet_losses(rng, loss):
    a, b, counted = described(rng)
    b, counted = (torch.from_numpy(x) for x in (b, counted))

    def value(x):
        return loss(*losses.rivals(losses.distances(x, b), counted), counted)

    for at in ((0, 2, 1), (1, 0, 3), (1, 6, 2)):
        check_slope(value, a, at)


def test_the_softmax_loss_by_hand(rng):
    a, b, counted = described(rng)
    terms = []
    for one, other, there in zip(a, b, counted, strict=True):
        known = np.flatnonzero(there)
        raised = np.exp(one[known] @ other[known].T / 0.2)
        for i in range(len(known)):
            terms += [raised[i, i] / raised[i].sum(), raised[i, i] / raised[:, i].sum()]
    found = info_nce(*torched(a, b, counted), 0.2)
    assert found.item() == pytest.approx(-np.log(terms).mean())
    b, counted = torched(b, counted)
    for at in ((0, 2, 1), (1, 0, 3), (1, 6, 2)):
        check_slope(lambda x: info_nce(x, b, counted, 0.2), a, at)


def test_nothing_to_learn_is_no_error():
    a = torch.ones(1, 2, 3, requires_grad=True)
    counted = torch.zeros(1, 2, dtype=torch.bool)
    for loss in (losses.ratio_loss, losses.margin_loss):
        found = loss(*losses.rivals(losses.distances(a, a), counted), counted)
        assert found.item() == 0
        found.backward()
    found = info_nce(a, a, counted)
    found.backward()
    assert found.item() == 0
    assert torch.isfinite(a.grad).all()  # nor is the root's slope at distance 0


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_the_focal_loss_by_hand(rng, gamma):
    logits = rng.normal(size=(2, 2, 4, 5)) * 2
    points, valid = rng.random((2, 4, 5)) < 0.2, rng.random((2, 4, 5)) < 0.8
    total = 0.0
    for b, i, j in np.ndindex(2, 4, 5):
        raised = np.exp(logits[b, :, i, j])
        right = int(points[b, i, j])
        p = raised[right] / raised.sum()
        if valid[b, i, j]:
            total += -((1 - p) ** gamma) * np.log(p) * (1.0 if right else 0.3)
    z = logits[:, 1] - logits[:, 0]
    found = losses.focal_loss(*torched(z, points, valid), 0.3, gamma)
    assert found.item() == pytest.approx(total / (2 * valid.sum()))
    for at in ((0, 1, 2), (1, 3, 4), (1, 0, 0)):
        check_slope(lambda x: losses.focal_loss(x, *torched(points, valid), 0.3, gamma), z, at)


def test_confident_logits_give_finite_losses():
    z = torch.tensor([[[200.0, -200.0]]], requires_grad=True)
    points = torch.tensor([[[False, True]]])
    losses.focal_loss(z, points, torch.ones_like(points), 1.0).backward()
    assert torch.isfinite(z.grad).all()
    assert z.grad[0, 0, 0] > 0 > z.grad[0, 0, 1]


H = np.array([[0.9, 0.2, 1.3], [-0.1, 1.1, -0.8], [0.002, 0.001, 1]])


def test_corresponding_pixels_by_hand(rng):
    valid_a, valid_b = rng.random((2, 3, 6, 9)) < 0.8
    matrices = np.stack((H, np.eye(3), -np.eye(3) * (1, 1, 1)))  # the last is behind the horizon
    index, seen = losses.corresponding(*torched(matrices, valid_a, valid_b))
    shared = 0
    for p, y, x in np.ndindex(3, 6, 9):
        u, v, w = matrices[p] @ (x, y, 1)
        column, row = round(u / w), round(v / w)
        there = w > 0 and 0 <= column < 9 and 0 <= row < 6
        expected = there and valid_a[p, y, x] and valid_b[p, row, column]
        assert seen[p, 9 * y + x] == expected
        if expected:
            shared += 1
            assert index[p, 9 * y + x] == 9 * row + column
    assert shared > 30
    assert not seen[2].any()


def test_the_repeatability_loss_by_hand(rng):
    logits_a, logits_b = rng.normal(size=(2, 1, 2, 3, 4))
    index = rng.permutation(12)[None]
    seen = rng.random((1, 12)) < 0.7
    total = 0.0
    for k in range(12):
        if seen[0, k]:
            a = np.exp(logits_a[0].reshape(2, 12)[:, k])
            b = np.exp(logits_b[0].reshape(2, 12)[:, index[0, k]])
            a, b = a / a.sum(), b / b.sum()
            both = sum(b[c] * np.log(b[c] / a[c]) + a[c] * np.log(a[c] / b[c]) for c in (0, 1))
            total += 0.5 * 0.5 * (a[1] + b[1]) * both
    z_a, z_b = logits_a[:, 1] - logits_a[:, 0], logits_b[:, 1] - logits_b[:, 0]
    found = losses.repeatability_loss(*torched(z_a, z_b, index, seen))
    assert found.item() == pytest.approx(total / (2 * seen.sum()))

    def frozen(x, y):  # the weight has no slope
        p, q = torch.sigmoid(x).flatten(), torch.sigmoid(y).flatten()[torch.from_numpy(index[0])]
        weight = (sigmoid(z_a.ravel()) + sigmoid(z_b.ravel()[index[0]])) / 2
        plain = (p - q) * (torch.logit(p) - torch.logit(q)) / 2
        return (torch.from_numpy(weight * seen[0]) * plain).sum() / (2 * seen.sum())

    for side in (0, 1):
        ends = [x.requires_grad_() for x in torched(z_a.copy(), z_b.copy())]
        losses.repeatability_loss(*ends, *torched(index, seen)).backward()
        at = (0, 1, 2)
        moved = []
        for sign in (1, -1):
            pair = [z_a.copy(), z_b.copy()]
            pair[side][at] += sign * 1e-6
            moved.append(frozen(*torched(*pair)).item())
        slope = (moved[0] - moved[1]) / 2e-6
        assert ends[side].grad[at].item() == pytest.approx(slope, rel=1e-4, abs=1e-9)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_what_is_kept_by_hand(rng):
    now, then = rng.normal(size=(2, 2, 2, 3, 4))
    found = losses.detector_keep_loss(*torched(now, then))
    assert found.item() == pytest.approx(((now - then) ** 2).mean())
    unit_now, unit_then = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (now, then))
    found = losses.descriptor_keep_loss(*torched(now, 3 * then))
    assert found.item() == pytest.approx(((unit_now - unit_then) ** 2).mean(), rel=1e-5)
