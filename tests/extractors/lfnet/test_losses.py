"""LF-Net's losses, each against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locate.extractors.lfnet import losses
from locate.extractors.lfnet.correspondence import Field, by_homography
from locate.extractors.lfnet.network import Maps
from locate.pixels import apply_homography
from tests.extractors.lfnet.test_correspondence import similarity
from tests.extractors.lfnet.test_detection import bilinear, torched, unit


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_a_clean_score_map_by_hand(rng):
    score = rng.random((2, 30, 36))
    found = losses.redrawn(torch.from_numpy(score), 9).numpy()
    y, x = np.mgrid[:30, :36]
    for b in range(2):
        peaks = []
        for i, j in np.ndindex(30, 36):
            window = score[b, max(i - 2, 0) : i + 3, max(j - 2, 0) : j + 3]
            if 0 < i < 29 and 0 < j < 35 and score[b, i, j] == window.max():
                peaks.append((score[b, i, j], i, j))
        assert len(peaks) > 12
        expected = sum(
            np.exp(-((x - j) ** 2 + (y - i) ** 2) / (2 * 0.5**2))
            for _, i, j in sorted(peaks, reverse=True)[:9]
        )
        np.testing.assert_allclose(found[b], np.minimum(expected, 1), atol=1e-9)
    assert found.max() == 1
    assert not losses.redrawn(torch.zeros(1, 20, 20), 9).any()  # nothing is no maximum


def test_the_warped_map_is_read_where_it_is_seen(rng):
    score = rng.random((1, 24, 28))
    h = similarity(0.6, 1.1, (5, -7))
    field = by_homography(torch.from_numpy(h), (24, 28))
    seen = torch.from_numpy(rng.random((1, 24, 28)) < 0.5)
    found = losses.warped(torch.from_numpy(score), field._replace(seen=seen)).numpy()
    for y, x in np.ndindex(24, 28):
        u, v = apply_homography(h, np.array([[x, y]]))[0]
        expected = bilinear(score[0], u, v) if seen[0, y, x] else 0
        assert found[0, y, x] == pytest.approx(expected)


def test_the_image_loss_is_a_mean_over_what_is_seen(rng):
    score, target = rng.random((2, 2, 5, 6))
    seen = rng.random((2, 5, 6)) < 0.4
    given = torch.from_numpy(score).requires_grad_()
    loss = losses.image_loss(given, *torched(target, seen))
    means = [((score[b] - target[b]) ** 2)[seen[b]].mean() for b in range(2)]
    assert loss.item() == pytest.approx(np.mean(means))
    loss.backward()
    counts = seen.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(given.grad, 2 * (score - target) * seen / counts / 2)
    seen[1] = False
    assert losses.image_loss(*torched(score, target, seen)).item() == pytest.approx(means[0] / 2)


def maps_of(rng, shape):
    angles, scale = rng.uniform(-3, 3, shape), np.exp(rng.uniform(-0.3, 0.3, shape))
    orientation = np.moveaxis(unit(angles), -1, 1)
    return angles, scale, Maps(*torched(np.zeros(shape), np.zeros(shape), scale, orientation))


def test_geometry_by_hand(rng):
    shape = (2, 20, 24)
    angles, scale, here = maps_of(rng, shape)
    angles_there, scale_there, there = maps_of(rng, shape)
    turns, grown = (0.7, -2.5), (1.3, 0.8)
    hs = [similarity(t, g, (14, 10)) for t, g in zip(turns, grown, strict=True)]
    fields = [by_homography(torch.from_numpy(h), shape[1:]) for h in hs]
    field = Field(*(torch.cat(part) for part in zip(*fields, strict=True)))
    inside = torch.zeros(shape, dtype=torch.bool)
    orientations, scales = [], []
    for b in range(2):
        of_turn, of_scale = [], []
        for y, x in np.ndindex(20, 24):
            u, v = np.rint(apply_homography(hs[b], np.array([[x, y]]))[0]).astype(int)
            if not (0 <= u < 24 and 0 <= v < 20):
                continue
            inside[b, y, x] = True
            # A thing that points at t here points at t + turn there, and is `grown` times as large.
            wanted = angles_there[b, v, u] - turns[b]
            of_turn.append(2 - 2 * np.cos(angles[b, y, x] - wanted))
            limit = np.log(2) / 2
            wanted = np.clip(np.log(scale_there[b, v, u] / grown[b]), -limit, limit)
            of_scale.append((np.log(scale[b, y, x]) - wanted) ** 2)
        orientations.append(np.mean(of_turn))
        scales.append(np.mean(of_scale))
    found = losses.geometry_losses(here, there, field, inside)
    assert found[0].item() == pytest.approx(np.mean(orientations))
    assert found[1].item() == pytest.approx(np.mean(scales))


def test_pairs_by_hand(rng):
    a, b = rng.normal(size=(2, 2, 5, 4))
    seen = rng.random((2, 5)) < 0.6
    expected = np.mean([((a - b)[i] ** 2).sum() * seen[i] for i in np.ndindex(2, 5)])
    assert losses.pair_loss(*torched(a, b, seen)).item() == pytest.approx(expected)


def lengthened(rng, *shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("hardest", [1, 3, 99])
def test_triplets_by_hand(rng, hardest):
    a, b = lengthened(rng, 2, 12, 6), lengthened(rng, 2, 12, 6)
    points = rng.uniform(0, 90, (2, 12, 2))
    points[1, 0] = (900, 900)
    seen = rng.random((2, 12)) < 0.7
    seen[0, 0], seen[1, 0] = False, True
    choices = []  # of each keypoint the losses that it may have
    for i, k in np.ndindex(2, 12):
        able = [
            ((a[i, k] - b[i, n]) ** 2).sum()
            for n in range(12)
            if seen[i, n] and np.hypot(*(points[i, k] - points[i, n])) >= 32
        ]
        positive = ((a[i, k] - b[i, k]) ** 2).sum() * seen[i, k]
        choices.append([max(0, positive - negative + 1) for negative in sorted(able)[:hardest]])
    assert min(map(len, choices)) > 0
    found = []
    for seed in range(60):
        torch.manual_seed(seed)
        found.append(losses.triplet_loss(*torched(a, b, points, seen), hardest).item())
    least, most = (np.mean([pick(c) for c in choices]) for pick in (min, max))
    assert least - 1e-9 <= min(found)
    assert max(found) <= most + 1e-9
    expected = np.mean([np.mean(c) for c in choices])
    assert np.mean(found) == pytest.approx(expected, abs=0.02)
    torch.manual_seed(0)
    again = losses.triplet_loss(*torched(a, b, points, seen), hardest).item()
    assert again == found[0]


def test_the_gradient_of_triplets(rng):
    a, b = lengthened(rng, 1, 3, 4), lengthened(rng, 1, 3, 4)
    points = np.array([[[0, 0], [100, 0], [10, 0]]], np.float64)  # 0 and 2 are near to each other
    seen = np.array([[True, True, False]])
    given = torch.from_numpy(a).requires_grad_()
    losses.triplet_loss(given, *torched(b, points, seen), 1, margin=9.0).backward()
    # -2 a . b each; point 2 is not seen: only its negative counts, and it is nobody's.
    expected = 2 * np.stack((b[0, 1] - b[0, 0], -b[0, 1], b[0, 1]))
    expected[1] = 2 * (b[0, 0] - b[0, 1])
    np.testing.assert_allclose(given.grad[0], expected / 3)


def test_without_negatives_nothing_is_learned(rng):
    a, b = (torch.from_numpy(lengthened(rng, 1, 3, 4)).requires_grad_() for _ in range(2))
    points = torch.zeros(1, 3, 2, dtype=torch.float64)
    loss = losses.triplet_loss(a, b, points, torch.ones(1, 3, dtype=torch.bool), 2)
    assert loss.item() == 0
    loss.backward()
    assert not a.grad.any()


def test_negatives_become_harder():
    """By the paper's 50,000 steps."""
    found = [losses.hardest_of(step / 50_000, 64, 5) for step in (0, 1000, 5000, 20_000, 50_000)]
    assert found == [64, 57, 37, 7, 5]
