"""What stands about in single pictures: trees, people, cars, kiosks and lamp posts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipelines.town_model import F64, Face
from pipelines.town_paint import IRON, WHITE, Canvas, Rng, dim, hue, vary
from pipelines.town_parts import Builder, flat, placed


def tree(b: Builder, height: float, turn: float) -> None:
    """Three crossed planes of leaves round a trunk."""
    green = vary(
        b.rng,
        [(84, 116, 52), (104, 122, 50), (64, 100, 58), (150, 122, 50)][int(b.rng.integers(4))],
        8,
    )
    wide = height * float(b.rng.uniform(0.6, 0.8))

    def leaves(c: Canvas) -> None:
        rng, mid = c.rng, c.width / 2
        c.px[...] = (*dim(green, 0.7), 0)
        c.poly(
            [
                (mid - 0.03 * height, 0),
                (mid + 0.03 * height, 0),
                (mid + 0.015 * height, height * 0.6),
                (mid - 0.015 * height, height * 0.6),
            ],
            (86, 66, 50),
            255,
        )
        n = 600
        r = wide * 0.385 * np.sqrt(rng.random(n))
        a = rng.uniform(0, 2 * np.pi, n)
        lump = 1 + 0.16 * np.sin(3 * a + rng.uniform(0, 6)) + 0.1 * np.sin(7 * a)
        x = mid + r * lump * np.cos(a)
        y = height * 0.64 + r * lump * np.sin(a) * (height * 0.27 / (wide * 0.385))
        for px, py in sorted(zip(x, y, strict=True), key=lambda p: float(p[1])):
            light = 0.62 + 0.5 * (py / height - 0.3) + 0.18 * (mid - px) / wide
            c.disc(
                px,
                py,
                float(rng.uniform(0.025, 0.055)) * wide,
                dim(vary(rng, green, 13), light),
                255,
            )

    for k in range(3):
        a = turn + k * np.pi / 3
        dx, dy = wide / 2 * np.cos(a), wide / 2 * np.sin(a)
        b.face(
            [(-dx, -dy, 0), (dx, dy, 0), (dx, dy, height), (-dx, -dy, height)],
            leaves,
            ppm=36.0 * 7 / height,
            cutout=True,
            soft=True,
        )


def street_tree(b: Builder) -> None:
    """A young tree, turned anyhow."""
    tree(b, float(b.rng.uniform(4.5, 7)), float(b.rng.uniform(0, 3)))


def person(b: Builder) -> None:
    """A flat walker, front towards -y."""

    def figure(c: Canvas) -> None:
        rng = c.rng
        skin = vary(rng, [(224, 178, 146), (170, 118, 84), (112, 76, 56)][int(rng.integers(3))], 8)
        coat, legs = hue(rng, 0.5), vary(rng, (66, 68, 84), 22)
        c.px[...] = (*coat, 0)
        s = float(rng.uniform(0.06, 0.2))
        c.line([(0.45, 0.85), (0.45 - s, 0.05)], 0.17, legs, 255)
        c.line([(0.45, 0.85), (0.45 + s, 0.05)], 0.17, dim(legs, 0.8), 255)
        c.line([(0.3, 1.35), (0.22 - s / 2, 0.85)], 0.11, dim(coat, 0.85), 255)
        c.line([(0.6, 1.35), (0.68 + s / 2, 0.85)], 0.11, dim(coat, 0.75), 255)
        c.poly(
            [(0.26, 0.78), (0.64, 0.78), (0.67, 1.42), (0.56, 1.5), (0.34, 1.5), (0.23, 1.42)],
            coat,
            255,
        )
        c.disc(0.45, 1.64, 0.125, skin, 255, 1.15)
        c.poly(
            [(0.32, 1.66), (0.58, 1.66), (0.55, 1.8), (0.45, 1.83), (0.35, 1.8)],
            vary(rng, (70, 50, 36), 20),
            255,
        )

    b.face(
        [(-0.45, 0, 0), (0.45, 0, 0), (0.45, 0, 1.86), (-0.45, 0, 1.86)],
        figure,
        cutout=True,
        soft=True,
    )


def car(b: Builder) -> None:
    """A small car along x."""
    body = b.rng.choice([0, 1])
    rgb = hue(b.rng, 0.4) if body else vary(b.rng, (176, 180, 184), 40)

    def low(c: Canvas) -> None:
        c.px[..., :3] = rgb
        c.rect(0, 0, c.width, 0.22, dim(rgb, 0.4))
        c.rect(0, 0.5, c.width, 0.05, dim(rgb, 0.75))
        if c.width > 3:
            for x in (0.8, c.width - 0.85):
                c.disc(x, 0.14, 0.36, (26, 26, 28))
                c.disc(x, 0.14, 0.2, (150, 152, 156))
            c.rect(c.width / 2, 0.05, 0.03, c.height, dim(rgb, 0.6))
        else:
            c.sign(c.width / 2 - 0.28, 0.3, 0.56, 0.16, WHITE, (30, 30, 40), 6)
            for x in (0.08, c.width - 0.4):
                c.rect(x, 0.52, 0.32, 0.15, (240, 220, 190), 160)

    def cabin(c: Canvas) -> None:
        c.px[..., :3] = dim(rgb, 0.95)
        c.rect(0.12, 0.08, c.width - 0.24, c.height - 0.16, vary(c.rng, (58, 74, 88), 8))
        c.poly(
            [(0.3, 0.08), (0.7, 0.08), (1.0, c.height - 0.1), (0.6, c.height - 0.1)],
            (120, 144, 160),
        )
        if c.width > 2:
            c.rect(c.width / 2 - 0.05, 0, 0.1, c.height, rgb)

    b.box((-2.0, 2.0), (-0.82, 0.82), (0.12, 0.85), low, low, flat(rgb, 0.06))
    foot = [(-1.4, -0.75, 0.85), (1.5, -0.75, 0.85), (1.5, 0.75, 0.85), (-1.4, 0.75, 0.85)]
    head = [(-0.8, -0.6, 1.45), (0.9, -0.6, 1.45), (0.9, 0.6, 1.45), (-0.8, 0.6, 1.45)]
    for i in range(4):
        j = (i + 1) % 4
        b.face([foot[i], foot[j], head[j], head[i]], cabin)
    b.face(head, flat(rgb, 0.05))


def kiosk(b: Builder) -> None:
    """A stall with an awning, papers and writing."""
    tone = hue(b.rng, 0.35)

    def front(c: Canvas) -> None:
        c.px[..., :3] = dim(tone, 0.7)
        c.rect(0.15, 1.0, c.width - 0.3, 1.0, (58, 50, 46), 255)
        c.posters(0.15, 0.05, c.width - 0.3, 3)
        c.sign(0.1, 2.1, c.width - 0.2, 0.4, WHITE, dim(tone, 0.6), 7)

    b.box((-1.1, 1.1), (-0.9, 0.9), (0, 2.55), front, front, flat(tone))

    def stripes(c: Canvas) -> None:
        for i in range(12):
            c.rect(0.25 * i, 0, 0.25, c.height, tone if i % 2 else WHITE)

    b.face([(-1.3, -1.8, 2.1), (1.3, -1.8, 2.1), (1.3, -0.9, 2.6), (-1.3, -0.9, 2.6)], stripes)


def lamp(b: Builder) -> None:
    """A lamp post of 4.2 m."""
    iron = flat(IRON, 0.2)

    def glass(c: Canvas) -> None:
        c.px[...] = (240, 226, 180, 255)

    b.box((-0.12, 0.12), (-0.12, 0.12), (0, 0.8), iron, iron, iron)
    b.box((-0.05, 0.05), (-0.05, 0.05), (0.8, 3.6), iron, iron, iron)
    b.ring(4, (0, 0), (0.16, 0.3), (3.6, 4.1), glass, lid=iron)
    b.ring(4, (0, 0), (0.36, 0.0), (4.1, 4.4), iron)


def clutter(rng: Rng, centre: F64, eye: F64, amount: int) -> list[Face]:
    """What happens to stand about in one picture, most of it beside the line of sight.

    centre: (3,) where the building stands, eye: (3,) camera centre, metres. Nothing comes nearer
    to the eye than 7 m.
    """
    out: list[Face] = []
    sight = (centre - eye)[:2]
    far = float(np.linalg.norm(sight))
    bearing = float(np.arctan2(sight[1], sight[0]))
    things: list[tuple[Callable[[Builder], None], tuple[float, float], bool]] = [
        (person, (0.0, 0.42), True),
        (car, (0.12, 0.42), False),
        (lamp, (0.06, 0.42), False),
        (person, (0.0, 0.40), True),
        (kiosk, (0.24, 0.46), True),
        (street_tree, (0.3, 0.5), False),
    ]
    spots: list[F64] = []
    for i in range(amount):
        make, (near, wide), facing = things[i % len(things)]
        for _ in range(30):
            side = float(rng.choice([-1, 1])) * float(rng.uniform(near, wide))
            away = float(rng.uniform(max(7.0, 0.35 * far), max(8.0, far - 8.0)))
            a = bearing + side
            spot = eye * (1.0, 1.0, 0.0) + away * np.array([np.cos(a), np.sin(a), 0.0])
            clear = float(np.linalg.norm(spot - centre)) > 11.5
            if clear and all(float(np.linalg.norm(spot - s)) > 2.8 for s in spots):
                break
        else:
            continue  # no room left
        spots.append(spot)
        b = Builder(rng, 44.0)
        make(b)
        turn = a - np.pi / 2 if facing else float(rng.uniform(-np.pi, np.pi))
        out += placed(b.faces, spot, turn)
    return out
