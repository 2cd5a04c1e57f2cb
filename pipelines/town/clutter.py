"""What stands about in single pictures: trees, people, cars, kiosks and lamp posts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from locate.types import Array
from pipelines.town.model import Face
from pipelines.town.paint import IRON, WHITE, Canvas, Point, Rng, dim, hue, palette, pick, vary
from pipelines.town.parts import Builder, flat, placed

LEAVES = palette("547434 687a32 40643a 967a32")
SKINS = palette("e0b292 aa7654 704c38")


def tree(b: Builder, height: float, turn: float) -> None:
    """Three crossed planes of leaves round a trunk."""
    green = vary(b.rng, pick(b.rng, LEAVES), 8)
    wide = height * b.rng.uniform(0.6, 0.8)

    def leaves(c: Canvas) -> None:
        rng, mid, n = c.rng, c.mid, 600
        c.px[...] = (*dim(green, 0.7), 0)
        foot, fork = 0.03 * height, 0.015 * height
        trunk = [(mid - foot, 0), (mid + foot, 0), (mid + fork, 0.6 * height)]
        c.poly([*trunk, (mid - fork, 0.6 * height)], (86, 66, 50), 255)
        reach = wide * 0.385
        r = reach * np.sqrt(rng.random(n))
        a = rng.uniform(0, 2 * np.pi, n)
        lump = 1 + 0.16 * np.sin(3 * a + rng.uniform(0, 6)) + 0.1 * np.sin(7 * a)
        x = mid + r * lump * np.cos(a)
        y = np.sort(height * 0.64 + r * lump * np.sin(a) * (height * 0.27 / reach))
        x = x[np.argsort(r * lump * np.sin(a), kind="stable")]
        light = 0.62 + 0.5 * (y / height - 0.3) + 0.18 * (mid - x) / wide
        tones = (np.array(green) + rng.normal(0, 13, (n, 1)) + rng.normal(0, 3, (n, 3))).T * light
        sizes = rng.uniform(0.025, 0.055, n) * wide
        colors = np.clip(np.rint(tones.T), 0, 255).astype(int).tolist()
        for px, py, size, rgb in zip(x, y, sizes, colors, strict=True):
            c.disc(px, py, size, rgb, 255)

    for k in range(3):
        a = turn + k * np.pi / 3
        x, y = wide / 2 * np.cos(a), wide / 2 * np.sin(a)
        plane = [(-x, -y, 0), (x, y, 0), (x, y, height), (-x, -y, height)]
        b.face(plane, leaves, ppm=36.0 * 7 / height, cutout=True, soft=True)


def street_tree(b: Builder) -> None:
    """A young tree, turned anyhow."""
    tree(b, b.rng.uniform(4.5, 7), b.rng.uniform(0, 3))


def person(b: Builder) -> None:
    """A flat walker, front towards -y."""
    rng = b.rng
    tall, broad = rng.uniform(0.88, 1.06), rng.uniform(0.85, 1.15)

    def at(*points: Point) -> list[Point]:
        return [((0.5 + (x - 0.45) * broad) * 0.9, y * tall) for x, y in points]

    def figure(c: Canvas) -> None:
        skin = vary(rng, pick(rng, SKINS), 8)
        coat, legs = hue(rng, 0.5), vary(rng, (66, 68, 84), 22)
        c.px[...] = (*coat, 0)
        s, swing = rng.uniform(0.06, 0.2), rng.uniform(0.0, 0.12, 2)
        hem, shoulder = rng.uniform(0.55, 0.95), rng.uniform(0.2, 0.27)
        c.line(at((0.45, 0.85), (0.45 - s, 0.05)), 0.17, legs, 255)
        c.line(at((0.45, 0.85), (0.45 + s, 0.05)), 0.17, dim(legs, 0.8), 255)
        c.line(at((0.3, 1.35), (0.22 - swing[0], 0.85)), 0.11, dim(coat, 0.85), 255)
        c.line(at((0.6, 1.35), (0.68 + swing[1], 0.85)), 0.11, dim(coat, 0.75), 255)
        left, right = 0.45 - shoulder, 0.45 + shoulder
        neck = [(0.56, 1.5), (0.34, 1.5)]
        c.poly(at((0.27, hem), (0.63, hem), (right, 1.42), *neck, (left, 1.42)), coat, 255)
        for _ in range(int(rng.integers(1, 5))):  # scarf, bag, print
            (x, y), (w, h) = rng.uniform((0.26, hem), (0.5, 1.3)), rng.uniform(0.08, 0.22, 2)
            c.poly(at(*c.scrap(x, y, w, h)), c.color(), 255)
        (x, y), hair = at((0.45, 1.64))[0], vary(rng, (84, 62, 44), 30)
        c.disc(x, y, 0.12, skin, 255, 1.15)
        brim = rng.uniform(1.62, 1.74)
        c.poly(at((0.32, brim), (0.58, brim), (0.55, 1.8), (0.45, 1.83), (0.35, 1.8)), hair, 255)

    plane = [(-0.45, 0, 0), (0.45, 0, 0), (0.45, 0, 2.0), (-0.45, 0, 2.0)]
    b.face(plane, figure, cutout=True, soft=True)


def _wheel(c: Canvas, x: float, radius: float, rim: float, spokes: int) -> None:
    """A wheel with mud on it, its middle at (x, 0.14); rim: share of the radius."""
    tire, hub = vary(c.rng, (52, 50, 48), 12), vary(c.rng, (120, 118, 114), 30)
    c.disc(x, 0.14, radius, tire)
    c.disc(x, 0.14, rim * radius, hub)
    for a in c.rng.uniform(0, 6) + 2 * np.pi * np.arange(spokes) / spokes:
        end = (x + rim * radius * np.cos(a), 0.14 + rim * radius * np.sin(a))
        c.line([(x, 0.14), end], 0.06, tire)
    for _ in range(5):
        dx, dy = c.rng.uniform(-radius, radius, 2)
        c.poly(c.scrap(x + dx, 0.14 + dy, 0.25, 0.2), vary(c.rng, (122, 112, 96), 16))


def car(b: Builder) -> None:
    """A car along x; no two have the same proportions, wheels or paint."""
    rng = b.rng
    rgb = hue(rng, 0.4) if rng.random() < 0.5 else vary(rng, (176, 180, 184), 40)
    second = hue(rng, 0.5) if rng.random() < 0.4 else dim(rgb, rng.uniform(0.6, 0.9))
    long, wide, waist = rng.uniform(1.7, 2.4), rng.uniform(0.74, 0.9), rng.uniform(0.75, 1.05)
    wheels, radius = rng.uniform(0.55, 0.95, 2), rng.uniform(0.28, 0.38)
    stripe, rim, spokes = rng.uniform(0.25, 0.6), rng.uniform(0.4, 0.8), int(rng.integers(3, 8))

    def low(c: Canvas) -> None:
        c.coat(rgb)
        c.rect(0, 0, c.width, rng.uniform(0.08, 0.2), dim(rgb, 0.5))
        c.mural(0, stripe, c.width, 0.3, [rgb, second, dim(rgb, 0.85)])
        c.stains(int(rng.integers(4, 12)), 0.35, dim(rgb, 0.8), 22)
        if c.width > 3:
            for x in c.width * (0.5 + rng.uniform(-0.22, 0.22, 2)):  # doors
                c.rect(x, 0.05, 0.03, c.height, dim(rgb, 0.6))
            for x in (wheels[0], c.width - wheels[1]):
                _wheel(c, x, radius, rim, spokes)
            return
        plate = c.width * rng.uniform(0.3, 0.6)
        c.sign(plate - 0.28, rng.uniform(0.2, 0.4), 0.56, 0.16, WHITE, (30, 30, 40), 6)
        y, w, h = rng.uniform((0.42, 0.15, 0.1), (0.56, 0.4, 0.2))
        for x in (0.08, c.width - 0.08 - w):
            c.rect(x, y, w, h, vary(rng, (240, 220, 190), 14), 160)

    def cabin(c: Canvas) -> None:
        c.coat(dim(rgb, 0.95))
        rim, base = rng.uniform(0.06, 0.16, 2)
        glass = vary(rng, (58, 74, 88), 14)
        c.rect(rim, base, c.width - 2 * rim, c.height - base - 0.08, glass)
        x, w = rng.uniform(0.2, 0.6 * c.width), rng.uniform(0.15, 0.5)
        sheen = [(x, base), (x + w, base), (x + w + 0.3, c.height - 0.1), (x + 0.3, c.height - 0.1)]
        c.poly(sheen, vary(rng, (120, 144, 160), 14))
        if rng.random() < 0.7:
            at, r = rng.uniform(0.25, 0.75) * c.width, rng.uniform(0.1, 0.16)
            c.disc(at, 0.35 * c.height, r, c.color())
        if c.width > 2:
            c.rect(c.width * rng.uniform(0.35, 0.65), 0, 0.1, c.height, rgb)

    b.box((-long, long), (-wide, wide), (0.12, waist), low, low, flat(rgb, 0.06))
    back, bonnet = rng.uniform(0.55, 0.95) * long, rng.uniform(0.35, 0.8) * long
    rear, rake = rng.uniform(0.1, 0.6, 2)
    roof, y = waist + rng.uniform(0.5, 0.85), wide - 0.07
    foot = [(-back, -y, waist), (bonnet, -y, waist), (bonnet, y, waist), (-back, y, waist)]
    x0, x1, y = rear - back, bonnet - rake, wide - 0.2
    head = [(x0, -y, roof), (x1, -y, roof), (x1, y, roof), (x0, y, roof)]
    for i in range(4):
        j = (i + 1) % 4
        b.face([foot[i], foot[j], head[j], head[i]], cabin)
    b.face(head, flat(rgb, 0.05))


def kiosk(b: Builder) -> None:
    """A stall with an awning, wares, papers and writing."""
    rng = b.rng
    tone, cloth = hue(rng, 0.35), [WHITE, hue(rng, 0.35), hue(rng, 0.2)]
    half, top, reach = rng.uniform(0.95, 1.5), rng.uniform(2.35, 2.8), rng.uniform(0.6, 1.1)

    def front(c: Canvas) -> None:
        c.coat(dim(tone, 0.7))
        c.stains(8, 0.5, dim(tone, 0.6), 20)
        sill, w = rng.uniform(0.9, 1.1), c.width - 0.3
        c.rect(0.15, sill, w, 1.0, (58, 50, 46), 255)
        for x in rng.uniform(0.3, c.width - 0.3, 9):  # wares
            c.disc(x, sill + rng.uniform(0.1, 0.8), 0.12, c.color(), 200)
        c.posters(0.15, 0.05, w, int(rng.integers(2, 5)))
        board = dim(tone, 0.6)
        c.sign(0.1, top - 0.45, c.width - 0.2, 0.4, WHITE, board, int(rng.integers(5, 10)))

    def stripes(c: Canvas) -> None:
        x = 0.0
        while x < c.width:
            w = rng.uniform(0.1, 0.45)
            c.rect(x, 0, w, c.height, vary(rng, pick(rng, cloth), 10))
            x += w

    b.box((-half, half), (-0.9, 0.9), (0, top), front, front, flat(tone))
    low, out = top - 0.45, half + 0.2
    edge = [(-out, -0.9 - reach, low), (out, -0.9 - reach, low)]
    b.face([*edge, (out, -0.9, top + 0.05), (-out, -0.9, top + 0.05)], stripes)


def lamp(b: Builder) -> None:
    """A lamp post of 3.6 to 5 m, with patches of old paint."""
    rng = b.rng
    tall, foot = rng.uniform(3.1, 4.4), rng.uniform(0.5, 1.1)
    sides, wide = int(rng.integers(4, 8)), rng.uniform(0.2, 0.34)
    head, cap = rng.uniform(0.35, 0.6), rng.uniform(0.2, 0.45)
    tint = vary(rng, IRON, 16)
    iron = flat(tint, 0.2)

    def glass(c: Canvas) -> None:
        c.px[...] = (*vary(rng, (236, 222, 180), 10), 255)

    def base(c: Canvas) -> None:
        c.coat(tint)
        c.stains(3, 0.25, dim(tint, 1.8), 20)

    b.box((-0.12, 0.12), (-0.12, 0.12), (0, foot), base, base, iron)
    b.box((-0.05, 0.05), (-0.05, 0.05), (foot, tall), base, base, iron)
    radii = wide * rng.uniform(0.4, 1.0), wide
    b.ring(sides, (0, 0), radii, (tall, tall + head), glass, lid=iron)
    b.ring(sides, (0, 0), (wide + 0.06, 0.0), (tall + head, tall + head + cap), iron)


# How it is drawn, how far from the line of sight (radians), whether it faces the camera.
_THINGS: tuple[tuple[Callable[[Builder], None], float, float, bool], ...] = (
    (person, 0.0, 0.42, True),
    (car, 0.12, 0.42, False),
    (lamp, 0.06, 0.42, False),
    (person, 0.0, 0.40, True),
    (kiosk, 0.24, 0.46, True),
    (street_tree, 0.3, 0.5, False),
)


def clutter(rng: Rng, centre: Array, eye: Array, amount: int) -> list[Face]:
    """What happens to stand about in one picture, most of it beside the line of sight.

    centre: (3,) where the building stands, eye: (3,) camera centre, metres. Nothing comes nearer
    to the eye than 7 m.
    """
    out: list[Face] = []
    sight = (centre - eye)[:2]
    far, bearing = float(np.linalg.norm(sight)), float(np.arctan2(sight[1], sight[0]))
    spots: list[Array] = []
    for i in range(amount):
        draw, near, wide, facing = _THINGS[i % len(_THINGS)]
        for _ in range(30):
            a = bearing + rng.choice([-1, 1]) * rng.uniform(near, wide)
            away = rng.uniform(max(7.0, 0.35 * far), max(8.0, far - 8.0))
            spot = eye * (1.0, 1.0, 0.0) + away * np.array([np.cos(a), np.sin(a), 0.0])
            clear = np.linalg.norm(spot - centre) > 11.5
            if clear and all(np.linalg.norm(spot - s) > 2.8 for s in spots):
                break
        else:
            continue  # no room left
        spots.append(spot)
        b = Builder(rng, 44.0)
        draw(b)
        out += placed(b.faces, spot, a - np.pi / 2 if facing else rng.uniform(-np.pi, np.pi))
    return out
