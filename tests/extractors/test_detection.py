"""The steps that detectors share, against loops, parabolas and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locate.extractors.blocks.detection import (
    Derivatives,
    local_maxima,
    refine,
    resize_image,
    suppress,
    to_input,
)


def test_local_maxima_against_loops():
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 6, (2, 9, 11)).astype(np.float32)  # with ties
    found = local_maxima(torch.from_numpy(maps)).numpy()
    for c in range(2):
        for y in range(9):
            for x in range(11):
                inner = 0 < y < 8 and 0 < x < 10
                window = maps[c, y - 1 : y + 2, x - 1 : x + 2] if inner else None
                assert found[c, y, x] == (inner and maps[c, y, x] == window.max())


def parabola(cx, cy, a=-1.0, b=-0.7, c=0.2, size=9):
    y, x = np.mgrid[:size, :size].astype(np.float64)
    dx, dy = x - cx, y - cy
    return torch.from_numpy(a * dx**2 + b * dy**2 + c * dx * dy + 3)[None]


def test_derivatives_of_a_parabola_are_exact():
    maps = parabola(4.3, 3.8)
    at = tuple(torch.tensor([v]) for v in (0, 4, 5))  # channel, y, x
    d = Derivatives.at(maps, at)
    assert torch.allclose(d.dxx, torch.tensor([-2.0], dtype=torch.float64))
    assert torch.allclose(d.dyy, torch.tensor([-1.4], dtype=torch.float64))
    assert torch.allclose(d.dxy, torch.tensor([0.2], dtype=torch.float64))
    dx, dy = 5 - 4.3, 4 - 3.8
    assert d.dx.item() == pytest.approx(-2 * dx + 0.2 * dy)
    assert d.dy.item() == pytest.approx(-1.4 * dy + 0.2 * dx)


def test_refinement_finds_the_top_of_a_parabola():
    """x and y differ, so swapping them, or a sign, shows."""
    kept, points = refine(parabola(4.3, 3.8), tuple(torch.tensor([v]) for v in (0, 4, 4)))
    assert kept.tolist() == [0]
    assert torch.allclose(points, torch.tensor([[4.3, 3.8]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("maps", "why"),
    [
        (parabola(4.6, 4.0), "the top is nearer to the next cell"),
        (parabola(4.0, 4.0, a=-1.0, b=-0.05, c=0.0), "an edge: ratio 20"),
        (parabola(4.0, 4.0, a=-1.0, b=1.0), "a saddle"),
        (torch.ones(1, 9, 9, dtype=torch.float64), "flat"),
    ],
)
def test_refinement_refuses(maps, why):
    kept, points = refine(maps, tuple(torch.tensor([v]) for v in (0, 4, 4)))
    assert len(kept) == len(points) == 0, why


def test_edge_test_at_its_limit():
    """Curvatures 5 : 1 are the limit of D2-Net, (5 + 1)^2 / 5 = 7.2."""
    at = tuple(torch.tensor([v]) for v in (0, 4, 4))
    for ratio, passes in ((4.9, True), (5.1, False)):
        maps = parabola(4.0, 4.0, a=-1.0, b=-1.0 / ratio, c=0.0)
        assert bool(Derivatives.at(maps, at).is_blob()) is passes


def suppressed_by_loops(points, scores, radius):
    expected: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        x, y = points[i]
        if all((points[j, 0] - x) ** 2 + (points[j, 1] - y) ** 2 > radius**2 for j in expected):
            expected.append(i)
    return expected


@pytest.mark.parametrize("radius", [0.2, 3.0, 40.0, 200.0])
@pytest.mark.parametrize("kind", ["spread", "grid", "crowded", "chain"])
def test_suppression_against_brute_force(kind, radius):
    """On a grid many points are exactly `radius` apart, and scores tie; a chain goes link by link."""
    rng = np.random.default_rng(1)
    points, scores = rng.random((400, 2)) * (60, 90) - 20, rng.random(400)
    if kind == "grid":
        points, scores = np.round(points), np.round(scores, 1)
    elif kind == "crowded":
        points = np.round(points / 20, 1)
    elif kind == "chain":
        points, scores = np.c_[np.arange(400) * 2.0, np.zeros(400)], -np.arange(400.0)
    kept = suppress(points, scores, radius)
    assert kept.tolist() == suppressed_by_loops(points, scores, radius)


def test_suppression_at_its_ends():
    rng = np.random.default_rng(1)
    points, scores = rng.random((400, 2)) * 60, rng.random(400)
    assert 1 < len(suppress(points, scores, 3.0)) < 400
    assert suppress(points[:1], scores[:1], 3.0).tolist() == [0]
    assert suppress(points, scores, 0.0).tolist() == np.argsort(-scores).tolist()
    assert len(suppress(points[:0], scores[:0], 3.0)) == 0


def test_input_is_mirrored_to_the_multiple():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    x = to_input(pixels, torch.device("cpu"))
    assert x.shape == (1, 3, 64, 64)
    assert np.array_equal(x[0, :, :40, :50].permute(1, 2, 0).numpy(), pixels)
    assert np.array_equal(x[0, :, 40, :50].T.numpy(), pixels[38])  # row 40 mirrors row 38
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert to_input(pixels[:1, :3], torch.device("cpu")).shape == (1, 3, 32, 32)


def test_shrinking_averages_and_corners_stay():
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[::2] = 200  # rows alternate: any sampling without averages gives 0 or 200
    assert np.unique(resize_image(pixels, (30, 20))).tolist() == [100]
    assert resize_image(pixels, (60, 40)) is pixels
    assert resize_image(pixels, (120, 80)).shape == (80, 120, 3)
