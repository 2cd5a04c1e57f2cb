"""The ground: the paved plate under each building and the meadow between them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from pipelines.town.model import Face, Paint, Texture
from pipelines.town.paint import Canvas, Rgb, Rng, dim, seeded, vary

SQUARE_M = 78.0  # side of the paved plate under each landmark


def plate(rng: Rng, paving: Rgb, pattern: str) -> Face:
    """The paving: a repeating tile, tinted by stains and ornament that do not repeat."""
    half = SQUARE_M / 2
    ppm = 72.0
    tile = Canvas(rng, 512 / ppm, 512 / ppm, ppm, paving)
    _pave(tile, pattern)
    stains = Canvas(rng, SQUARE_M, SQUARE_M, 12, (128, 128, 128))
    for i in range(6, 0, -1):
        stains.disc(half, half, 2.6 * i + 3, (138, 132, 124) if i % 2 else (116, 118, 122))
    for _ in range(260):
        x, y = rng.uniform(0, SQUARE_M, 2)
        stains.disc(x, y, rng.uniform(0.1, 0.7), vary(rng, (112, 112, 110), 14), flat=0.7)
    for a in np.linspace(0, 2 * np.pi, 12, endpoint=False):
        stains.line(
            [
                (half + 8 * np.cos(a), half + 8 * np.sin(a)),
                (half + 18 * np.cos(a), half + 18 * np.sin(a)),
            ],
            0.5,
            (146, 140, 132),
        )
    stains.mottle(0.22, 9)
    square = np.array([(-half, -half, 0.0), (half, -half, 0), (half, half, 0), (-half, half, 0)])
    corner = np.array([-half, half, 0.0])
    x, y = np.array([1.0, 0, 0]), np.array([0, -1.0, 0])
    return Face(
        square,
        Paint(Texture.build(tile.px), corner, x / ppm, y / ppm, wrap=True),
        Paint(Texture.build(stains.px), corner, x / 12, y / 12),
        casts=False,
    )


def _pave(c: Canvas, pattern: str) -> None:
    """One seamless tile of paving: what leaves on one side comes in on the other."""
    rng, base = c.rng, tuple(int(v) for v in c.px[0, 0, :3])
    c.px[..., :3] = dim(base, 0.62)

    def stone(x: float, y: float, w: float, h: float, rgb: Rgb, round_: float) -> None:
        for ox in (0.0, -c.width if x + w > c.width else c.width):
            for oy in (0.0, -c.height if y + h > c.height else c.height):
                a, b, r = x + ox, y + oy, round_
                c.poly(
                    [
                        (a + r, b),
                        (a + w - r, b),
                        (a + w, b + r),
                        (a + w, b + h - r),
                        (a + w - r, b + h),
                        (a + r, b + h),
                        (a, b + h - r),
                        (a, b + r),
                    ],
                    rgb,
                )

    if pattern in ("gravel", "grass"):
        c.px[..., :3] = base
        for _ in range(5200):
            x, y = rng.uniform(0, c.width, 2)
            r = float(rng.uniform(0.02, 0.06))
            stone(x, y, r, r * (3 if pattern == "grass" else 1), vary(rng, base, 26), 0.0)
        return
    rows = 36 if pattern == "cobble" else 9
    step = c.height / rows
    for i in range(rows):
        n = rows if pattern == "cobble" else int(rng.integers(5, 9))
        cuts = np.sort(np.linspace(0, 1, n, endpoint=False) + rng.uniform(0, 0.35 / n, n))
        cuts = np.append(cuts, cuts[0] + 1) * c.width
        for x0, x1 in pairwise(cuts.tolist()):
            gap = 0.03
            stone(
                x0 + gap,
                i * step + gap / 2,
                x1 - x0 - gap,
                step - gap,
                vary(rng, base, 13),
                0.04 if pattern == "cobble" else 0.01,
            )


def meadow(seed: int) -> Face:
    """The ground between the squares, 3 km wide, 3 cm lower than they are."""
    rng = seeded(seed, "meadow")
    tile = Canvas(rng, 512 / 24, 512 / 24, 24, (118, 128, 84))
    _pave(tile, "grass")
    r = 1500.0
    points = np.array([(-r, -r, -0.03), (r, -r, -0.03), (r, r, -0.03), (-r, r, -0.03)])
    paint = Paint(
        Texture.build(tile.px),
        np.array([-r, r, -0.03]),
        np.array([1 / 24, 0, 0]),
        np.array([0, -1 / 24, 0]),
        wrap=True,
    )
    return Face(points, paint, casts=False)
