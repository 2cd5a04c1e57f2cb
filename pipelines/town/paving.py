"""The ground: the paved plate under each building and the meadow between them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from locate.types import Array
from pipelines.town.model import Face, Paint, mipmaps
from pipelines.town.paint import Canvas, Rgb, Rng, dim, seeded, vary

SQUARE_M = 78.0  # side of the paved plate under each landmark


def plate(rng: Rng, paving: Rgb, pattern: str) -> Face:
    """The paving: a repeating tile, tinted by stains and ornament that do not repeat."""
    half = SQUARE_M / 2
    tile = Canvas(rng, 512 / 72, 512 / 72, 72, paving)
    _pave(tile, pattern)
    stains = Canvas(rng, SQUARE_M, SQUARE_M, 12, (128, 128, 128))
    for i in range(6, 0, -1):
        stains.disc(half, half, 2.6 * i + 3, (138, 132, 124) if i % 2 else (116, 118, 122))
    for _ in range(260):
        x, y = rng.uniform(0, SQUARE_M, 2)
        stains.disc(x, y, rng.uniform(0.1, 0.7), vary(rng, (112, 112, 110), 14), flat=0.7)
    for a in np.linspace(0, 2 * np.pi, 12, endpoint=False):
        ray = [(half + r * np.cos(a), half + r * np.sin(a)) for r in (8, 18)]
        stains.line(ray, 0.5, (146, 140, 132))
    stains.mottle(0.22, 9)
    square = _square(half, 0.0)
    tint = _laid(stains, square, wrap=False)
    return Face(square, _laid(tile, square), tint, casts=False)


def _square(half: float, z: float) -> Array:
    """(4, 3) corners at height z, metres."""
    return np.array([(-half, -half, z), (half, -half, z), (half, half, z), (-half, half, z)])


def _laid(c: Canvas, square: Array, *, wrap: bool = True) -> Paint:
    """What is on the canvas on a square of the ground, from its north-west corner."""
    step = 1 / c.ppm
    axes = np.array([step, 0.0, 0.0]), np.array([0.0, -step, 0.0])
    return Paint(mipmaps(c.px), square[3], *axes, wrap=wrap)


def _pave(c: Canvas, pattern: str) -> None:
    """One seamless tile of paving: what leaves on one side comes in on the other."""
    rng, base = c.rng, tuple(int(v) for v in c.px[0, 0, :3])
    c.px[..., :3] = dim(base, 0.62)

    def stone(x: float, y: float, w: float, h: float, rgb: Rgb, r: float) -> None:
        """A rectangle without its corners, r metres of each side."""
        for left in (x, x + (-c.width if x + w > c.width else c.width)):
            for low in (y, y + (-c.height if y + h > c.height else c.height)):
                xs, ys = (
                    (left, left + r, left + w - r, left + w),
                    (low, low + r, low + h - r, low + h),
                )
                corners = ((1, 0), (2, 0), (3, 1), (3, 2), (2, 3), (1, 3), (0, 2), (0, 1))
                c.poly([(xs[i], ys[j]) for i, j in corners], rgb)

    if pattern in ("gravel", "grass"):
        c.px[..., :3] = base
        for _ in range(5200):
            x, y = rng.uniform(0, c.width, 2)
            r = rng.uniform(0.02, 0.06)
            stone(x, y, r, r * (3 if pattern == "grass" else 1), vary(rng, base, 26), 0.0)
        return
    rows, cut = (36, 0.04) if pattern == "cobble" else (9, 0.01)
    step, gap = c.height / rows, 0.03
    for i in range(rows):
        n = rows if pattern == "cobble" else int(rng.integers(5, 9))
        cuts = np.sort(np.linspace(0, 1, n, endpoint=False) + rng.uniform(0, 0.35 / n, n))
        cuts = np.append(cuts, cuts[0] + 1) * c.width
        for x0, x1 in pairwise(cuts.tolist()):
            tone, low = vary(rng, base, 13), i * step + gap / 2
            stone(x0 + gap, low, x1 - x0 - gap, step - gap, tone, cut)


def meadow(seed: int) -> Face:
    """The ground between the squares, 3 km wide, 3 cm lower than they are."""
    tile = Canvas(seeded(seed, "meadow"), 512 / 24, 512 / 24, 24, (118, 128, 84))
    _pave(tile, "grass")
    square = _square(1500.0, -0.03)
    return Face(square, _laid(tile, square), casts=False)
