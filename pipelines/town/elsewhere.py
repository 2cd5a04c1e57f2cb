"""The two buildings that are no landmarks: a library and a station.

They share as little as they can with the landmarks: their windows are slits and irregular panes,
their walls render and concrete, so that a match with a landmark is chance.
"""

from __future__ import annotations

import numpy as np

from pipelines.town.paint import GLASS, Canvas, Rgb, dim, palette, vary
from pipelines.town.parts import Builder, flat


def _pane(c: Canvas, x: float, y: float, w: float, h: float, frame: Rgb) -> None:
    """A skewed pane in a thin frame, with whatever stands behind it."""
    rng = c.rng
    skew = rng.uniform(-0.16, 0.16, 4) * min(w, h)
    lean = [(x + skew[0], y), (x + w, y + skew[1]), (x + w + skew[2], y + h), (x, y + h + skew[3])]
    middle = np.mean(lean, axis=0)
    c.poly(lean, frame)
    inner = middle + (np.array(lean) - middle) * 0.86
    c.poly(inner, vary(rng, GLASS, 16), int(rng.choice([0, 120, 230])))
    c.poly(c.scrap(x + 0.1 * w, y + 0.1 * h, 0.8 * w, 0.8 * h), vary(rng, (72, 90, 106), 14))


def library(b: Builder) -> None:
    """Concrete stained by rain, skewed panes and large shapes painted along its foot."""
    concrete, *_ = colors = palette("b2aea6 3a8ca0 d69640 6e707c 96a66e")

    def wall(c: Canvas) -> None:
        c.coat(concrete)
        c.stains(int(c.width * c.height / 2), 2.4, concrete, 12)
        y = c.rng.uniform(3.0, 3.6)
        while y < c.height - 2.2:
            x = c.rng.uniform(0.4, 1.2)
            while x < c.width - 1.6:
                w, h, up = c.rng.uniform((0.5, 0.9, -0.4), (2.1, 1.9, 0.4))
                _pane(c, x, y + up, min(w, c.width - 0.4 - x), h, vary(c.rng, (92, 96, 104), 20))
                x += w + c.rng.uniform(0.3, 1.4)
            y += c.rng.uniform(2.3, 3.0)
        for k in range(12):
            x, w = c.rng.uniform((0, 1), (c.width, 4))
            c.poly(c.scrap(x - w / 2, 0.2, w, 2.4), vary(c.rng, colors[k % 5], 8))
        c.posters(c.rng.uniform(0.3, 1.0), 0.6, 2.6, 3)
        c.mottle(0.14)
        c.grime(0.4)

    roof = flat((120, 120, 120))
    b.box((-8, 3), (-5, 5), (0, 9), wall, wall, roof)
    b.box((3, 8), (-3, 5), (0, 13), wall, wall, roof)


def station(b: Builder) -> None:
    """Flaking ochre render, a fan of uneven panes over the doors, two short towers."""
    ochre, iron = (206, 176, 110), (48, 74, 66)

    def flaked(c: Canvas) -> None:
        c.coat(ochre)
        c.stains(int(c.width * c.height / 2.5), 1.9, ochre, 11)
        c.stains(int(c.width * c.height / 6), 0.9, (150, 120, 92), 16)

    def hall(c: Canvas) -> None:
        flaked(c)
        mid, foot = c.mid, 3.6
        turns = np.cumsum(np.append(0.0, c.rng.uniform(0.5, 1.5, 9)))
        turns *= np.pi / turns[-1]
        for ring in range(3):
            r0, r1 = 0.5 + 1.15 * ring, 1.5 + 1.15 * ring
            for a0, a1 in zip(turns[:-1], turns[1:] - 0.05, strict=True):
                r = r1 - c.rng.uniform(0, 0.35)
                corners = [(r0, a0), (r, a0), (r, a1), (r0, a1)]
                field = [(mid + q * np.cos(a), foot + q * np.sin(a)) for q, a in corners]
                c.poly(field, vary(c.rng, (96, 118, 132), 34), int(c.rng.choice([0, 160])))
        for x in (0.6, mid - 1.1, c.width - 3.0):
            w, h = c.rng.uniform((1.8, 2.3), (2.5, 3.1))
            c.rect(x, 0, w, h, vary(c.rng, iron, 14))
            c.posters(x + 0.2, 0.5, w - 0.4, 2)
        c.mottle(0.15)
        c.grime(0.4)

    def tower(c: Canvas) -> None:
        flaked(c)
        y = 1.0
        while y < c.height - 2:
            w, h = c.rng.uniform((0.5, 0.9), (1.6, 2.4))
            x = c.rng.uniform(0.4, c.width - 0.4 - w)
            _pane(c, x, y, w, h, dim(iron, c.rng.uniform(0.8, 1.6)))
            y += h + c.rng.uniform(0.5, 1.3)
        c.mottle(0.15)
        c.grime(0.4)

    slate = flat((88, 96, 104), 0.3)
    b.box((-5, 5), (-4, 6), (0, 10), hall, hall, flat(ochre))
    b.gable((-5, 5), (-4, 6), (10, 12.5), slate, flat(ochre), along="y")
    for x in (-9.0, 5.0):
        b.box((x, x + 4), (-5, 0), (0, 13), tower, tower, flat(ochre))
        b.ring(4, (x + 2, -2.5), (3.0, 0.0), (13, 16), slate)
