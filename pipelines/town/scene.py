"""The town itself: ten buildings on ten squares, the houses behind them, the ground and the horizon.

World: metres, x east, y north, z up. Everything is drawn with a seeded numpy Generator, so the same
seed is the same town.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from locate.types import Array
from pipelines.town.civic import church, fountain, guildhall, old_gate, town_hall
from pipelines.town.clutter import tree
from pipelines.town.country import library, lighthouse, station, villa, windmill
from pipelines.town.model import Face, Paint, Sky, mipmaps
from pipelines.town.paint import Canvas, Rgb, Rng, cloudy, dim, palette, pick, seeded, vary
from pipelines.town.parts import Builder, flat, placed, tiled

TOWN_M = 180.0  # radius of the ring on which the ten squares stand
SQUARE_M = 78.0  # side of the paved plate under each landmark


@dataclass(frozen=True)
class Building:
    """A building of the town: its drawing, how far a picture of it stands (metres), the height
    looked at (metres), the colors of its paving and how many things stand about in its query."""

    build: Callable[[Builder], None]
    distance: float
    aim_height: float
    paving: Rgb
    pattern: str
    busy: int = 11


LANDMARKS: dict[str, Building] = {
    "church": Building(church, 28, 9.6, (170, 160, 146), "cobble"),
    "town-hall": Building(town_hall, 26, 8.8, (176, 150, 128), "slab"),
    "old-gate": Building(old_gate, 25, 8.0, (138, 134, 130), "cobble"),
    "fountain": Building(fountain, 20, 5.2, (196, 182, 158), "slab"),
    "villa": Building(villa, 23, 6.2, (166, 146, 116), "gravel"),
    "lighthouse": Building(lighthouse, 30, 10.2, (150, 152, 150), "slab"),
    "windmill": Building(windmill, 27, 8.6, (128, 138, 84), "grass"),
    "guildhall": Building(guildhall, 23, 6.8, (156, 142, 134), "cobble"),
}
ELSEWHERE: dict[str, Building] = {
    "elsewhere-1": Building(library, 24, 6.4, (172, 172, 174), "slab", busy=4),
    "elsewhere-2": Building(station, 25, 7.0, (160, 140, 120), "slab", busy=4),
}
PLASTER = palette("e2d0aa cea084 bec6c4 e4ded2 c4b078 a87868")
ROOFS = palette("a0543a 6e4036 585860")


@dataclass(frozen=True)
class Site:
    """A building where it stands. centre, target: (3,) metres; heading: radians, about z."""

    name: str
    building: Building
    centre: Array
    heading: float
    faces: tuple[Face, ...]

    @property
    def target(self) -> Array:
        """(3,) the point pictures look at."""
        return np.add(self.centre, (0.0, 0.0, self.building.aim_height))


def build_site(seed: int, name: str) -> Site:
    """Build one square: the building, its paving and the houses and trees round it."""
    buildings = {**LANDMARKS, **ELSEWHERE}
    building, rng = buildings[name], seeded(seed, "place", name)
    builder = Builder(rng)
    building.build(builder)
    faces = [*builder.faces, *_neighbors(rng), plate(rng, building.paving, building.pattern)]
    # All fronts face the middle of the ring, so every picture looks out of town and no building
    # stands behind another one: a query then has one right answer.
    angle = 2 * np.pi * list(buildings).index(name) / len(buildings) + rng.uniform(-0.03, 0.03)
    away = TOWN_M + rng.uniform(-4, 4)
    centre = np.array([away * np.cos(angle), away * np.sin(angle), 0.0])
    heading = angle - np.pi / 2 + rng.uniform(-0.06, 0.06)
    return Site(name, building, centre, heading, tuple(placed(faces, centre, heading)))


def _neighbors(rng: Rng) -> list[Face]:
    """Plain houses and trees in a horseshoe behind the building."""
    out: list[Face] = []
    for angle in np.linspace(-18, 198, 15):
        a = float(np.radians(angle + rng.uniform(-3, 3)))
        r = rng.uniform(27, 31)
        b, turn = Builder(rng, 22.0), 0.0
        if rng.random() < 0.24:
            tree(b, rng.uniform(6, 9), 0.0)
        else:
            house(b)
            turn = a + np.pi / 2 + np.pi
        out += placed(b.faces, np.array([r * np.cos(a), r * np.sin(a), 0.0]), turn)
    return out


def house(b: Builder) -> None:
    """A house of the background: stained plaster, uneven windows, a tiled roof."""
    rng = b.rng
    w, d, h = rng.uniform(6, 9.5), rng.uniform(6, 8), rng.uniform(5, 10)
    wall = vary(rng, pick(rng, PLASTER), 12)
    trim, frame = vary(rng, (200, 190, 176), 25), vary(rng, (206, 200, 188), 35)
    style = str(rng.choice(["cross", "cross shutters", "grid", "cross lintel", "arch cross"]))
    storey, apart = rng.uniform(2.5, 3.3), rng.uniform(1.9, 3.0)

    def face(c: Canvas) -> None:
        c.coat(wall)
        c.stains(9, 2.2, dim(wall, rng.uniform(0.8, 1.08)), 9)
        c.mottle(0.16, 2)
        n = max(2, int(c.width / apart))
        for floor in range(int(h / storey)):
            for i in range(n):
                if rng.random() < 0.12:  # walled up
                    continue
                (wide, high), shift = rng.uniform((0.7, 1.0), (1.2, 1.7)), rng.uniform(-0.3, 0.3)
                x = (i + 0.5) * c.width / n - wide / 2 + shift
                y = rng.uniform(0.7, 1.0) + storey * floor
                c.window(x, y, wide, high, style, frame, trim)
        at, wide, high = rng.uniform((0.6, 0.85, 1.8), (c.width - 1.8, 1.35, 2.4))
        c.door(at, wide, high, c.color(), trim, arch=rng.random() < 0.3)
        c.grime(0.3)

    roof = tiled(vary(rng, pick(rng, ROOFS), 12), 0.4)
    x, y = (-w / 2, w / 2), (-d / 2, d / 2)
    b.box(x, y, (0, h), face, face, flat(wall))
    ridge, along = h + rng.uniform(2.2, 3.6), str(rng.choice(["x", "y"]))
    b.gable(x, y, (h, ridge), roof, flat(wall, 0.15), along=along, ppm=20)


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
                xs = (left, left + r, left + w - r, left + w)
                ys = (low, low + r, low + h - r, low + h)
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


def horizon(seed: int) -> Sky:
    """Clouds and two ranges of hills."""
    rng = seeded(seed, "horizon")
    wide = 0.5 + 0.5 * cloudy(rng, (512, 2048 + 200), 180, 6)
    clouds, fade = wide[:, :2048].copy(), np.linspace(0, 1, 200, dtype=np.float32)
    clouds[:, :200] = fade * clouds[:, :200] + (1 - fade) * wide[:, 2048:]  # joins at the seam
    t = np.linspace(0, 2 * np.pi, 2048, endpoint=False)
    hills = []
    for base, amp in ((0.085, 0.03), (0.045, 0.02)):
        line = np.full(2048, base)
        for k in (2, 3, 5, 9, 17, 31, 58):
            line += amp * rng.uniform(0.5, 1.2) / k**0.75 * np.sin(k * t + rng.uniform(0, 6.3))
        hills.append(line)
    colors = np.array([(0.16, 0.22, 0.28), (0.14, 0.22, 0.12)])
    return Sky(np.clip(clouds, 0, 1), np.array(hills, np.float32), colors)
