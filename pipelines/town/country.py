"""Outside the old town: villa, lighthouse, windmill, and two buildings that are no landmarks.

The library and the station share as little as they can with the landmarks: their windows are slits
and irregular panes, their walls render and concrete, so that a match with a landmark is chance.
"""

from __future__ import annotations

import numpy as np

from pipelines.town.paint import GLASS, IRON, WHITE, Canvas, Rgb, dim, palette, vary
from pipelines.town.parts import Builder, flat, stones, tiled


def villa(b: Builder) -> None:
    """A pink house with green shutters, a bay, a balcony and a great deal of ivy."""
    pink, green, cream = (222, 150, 130), (46, 98, 76), (240, 228, 204)

    def front(c: Canvas) -> None:
        c.coat(pink, 0.13, 2.5)
        for x in (1.3, 5.3):
            c.window(x, 1.1, 1.5, 2.2, "cross shutters flowers lintel", cream, green)
            c.window(x, 5.2, 1.5, 2.1, "cross shutters flowers", cream, green)
        c.frieze(4.2, 0.42, cream, (176, 96, 62))
        c.frieze(8.2, 0.5, cream, green)
        c.ivy(0.5, 7.2, 1.2)
        for _ in range(5):  # fallen plaster shows the brick
            x, y = c.rng.uniform(0, c.width), c.rng.uniform(0, 8)
            for _ in range(9):
                dx, dy = c.rng.normal(0, 0.28, 2)
                c.rect(x + dx, y + dy, 0.24, 0.09, vary(c.rng, (166, 84, 60), 15))
        c.quoins(cream, 0.45)
        c.grime(0.3)

    def bay(c: Canvas) -> None:
        c.coat(dim(pink, 1.06), 0.1)
        mid = c.mid
        if c.width > 4:
            c.door(mid - 0.8, 1.6, 2.7, green, cream)
            c.sign(mid - 1.2, 3.3, 2.4, 0.55, cream, green, 8)
            for x in (0.5, c.width - 1.5):
                c.window(x, 1.1, 1.0, 2.0, "grid", cream, green)
            for x in (0.5, mid - 0.6, c.width - 1.7):
                c.window(x, 5.1, 1.2, 2.4, "arch grid", cream, green)
        else:
            c.window(mid - 0.6, 1.1, 1.2, 2.2, "grid", cream, green)
            c.window(mid - 0.6, 5.1, 1.2, 2.4, "arch grid flowers", cream, green)
        for i in range(int(c.width / 0.28)):  # balustrade
            c.rect(0.1 + 0.28 * i, 4.05, 0.14, 0.8, vary(c.rng, cream, 8))
        c.rect(0, 4.8, c.width, 0.14, cream)
        c.frieze(9.0, 0.6, cream, (176, 96, 62))
        c.quoins(cream, 0.35)
        c.grime(0.25)

    def side(c: Canvas) -> None:
        front(c)
        c.ivy(c.width * 0.7, 6.0, 1.6)

    roof, brick = tiled((178, 98, 62), 0.3, 18), stones((150, 80, 62), 0.14, 0.3)
    b.box((-8.5, -0.5), (-3, 6), (0, 9), front, side, flat(cream))
    b.ring(4, (-4.5, 1.5), (6.7, 0.0), (9, 12.6), roof)
    b.box((-0.5, 6.5), (-5, 5), (0, 10), bay, side, flat(cream))
    b.gable((-0.5, 6.5), (-5, 5), (10, 13.2), roof, stones(pink, 0.16, 0.34), along="y")
    b.box((4.4, 5.3), (0, 0.9), (10, 14.2), brick, brick, flat(IRON))


def lighthouse(b: Builder) -> None:
    """An eight-sided striped tower with a lantern, and the keeper's cottage."""
    slate, blue, lime = (52, 72, 96), (40, 92, 140), (214, 212, 204)

    def shaft(c: Canvas) -> None:
        c.courses(0.3, 0.6, (236, 232, 222), 9)
        for i in range(5):
            y, lean = 1.6 + 3.4 * i, c.rng.uniform(-0.1, 0.1)
            band = [(0, y), (c.width, y + lean), (c.width, y + 1.7), (0, y + 1.7 - lean)]
            c.poly(band, vary(c.rng, (190, 44, 40), 8))
        for _ in range(70):  # peeling paint
            x, y = c.rng.uniform(0, c.width), c.rng.uniform(0, c.height)
            rgb = vary(c.rng, (150, 138, 124) if c.rng.random() < 0.5 else (222, 210, 196), 14)
            c.poly(c.scrap(x, y, 0.3, 0.4), rgb)
        for y in (3.0, 7.0, 11.2):
            up = y + c.rng.uniform(-0.8, 0.8)
            c.window(c.mid - 0.35, up, 0.7, 1.3, "arch cross", WHITE, slate)
        for x, y in c.rng.uniform((0, 0), (c.width, c.height), (5, 2)):  # rust
            c.line([(x, y), (x + 0.03, y - 1.2)], 0.07, (150, 92, 58))
        c.mottle(0.14)
        c.grime(0.35)

    def lantern(c: Canvas) -> None:
        c.coat((36, 46, 58))
        c.rect(0.1, 0.2, c.width - 0.2, c.height - 0.4, (240, 214, 130), 255)
        for i in range(1, 4):
            c.line([(c.width * i / 4 - 0.3, 0.2), (c.width * i / 4 + 0.3, c.height)], 0.06, IRON)

    def gallery(c: Canvas) -> None:
        c.coat(slate)
        for i in range(9):
            c.rect(c.width * i / 9, 0.1, 0.06, c.height, WHITE)
        c.glyphs(0.1, 0.15, c.width - 0.2, 0.4, 4, (236, 196, 80))

    def cottage(c: Canvas) -> None:
        c.courses(0.22, 0.5, lime, 14)
        for i in range(int(c.width / 2.6)):
            c.window(0.7 + 2.6 * i, 1.1, 1.1, 1.4, "cross shutters flowers", WHITE, blue)
        if c.width > 6:
            c.door(c.mid - 0.2, 1.1, 2.1, blue, (190, 180, 164))
            c.sign(0.5, 2.75, 3.4, 0.5, (40, 66, 96), WHITE, 10)
            c.disc(c.width - 0.9, 1.6, 0.5, (226, 92, 50))
            c.disc(c.width - 0.9, 1.6, 0.3, lime)
        c.grime(0.35)

    b.ring(8, (-2.5, 0), (3.7, 3.7), (0, 1.2), stones((120, 112, 104), 0.4, 0.8, 20))
    b.ring(8, (-2.5, 0), (3.4, 2.1), (1.2, 18), shaft)
    b.ring(8, (-2.5, 0), (2.9, 2.9), (18, 18.9), gallery, lid=flat(IRON))
    b.ring(8, (-2.5, 0), (1.7, 1.7), (18.9, 21.2), lantern)
    b.ring(8, (-2.5, 0), (2.1, 0.0), (21.2, 23.4), tiled((58, 82, 92), 0.25))
    b.box((2.0, 9.5), (-2.5, 3.0), (0, 3.4), cottage, cottage, flat(WHITE))
    b.gable((2.0, 9.5), (-2.5, 3.0), (3.4, 6.2), tiled((64, 74, 88), 0.3), stones(lime))


def windmill(b: Builder) -> None:
    """A tapering mill of dark weatherboard with white sails on a brick base."""
    brick, cream, rail = (164, 88, 62), (226, 206, 160), (110, 78, 54)
    iron = flat(IRON)

    def base(c: Canvas) -> None:
        c.courses(0.15, 0.32, brick, 18)
        if c.rng.random() < 0.6:
            c.window(c.mid - 0.5, 1.3, 1.0, 1.6, "arch cross", WHITE, cream)
        else:
            c.sign(c.mid - 1.1, 1.5, 2.2, 1.0, (60, 92, 62), (240, 222, 150), 5)
        c.frieze(c.height - 0.6, 0.4, cream, (80, 104, 70))
        c.mottle(0.2)
        c.grime()

    def boards(c: Canvas) -> None:
        c.coat((50, 40, 34))
        y = 0.0
        while y < c.height:
            x = 0.0
            while x < c.width:
                w = c.rng.uniform(0.7, 2.2)
                c.rect(x, y, w - 0.02, 0.2, vary(c.rng, (112, 92, 70), 20))
                x += w
            y += 0.23
        for y in (1.6, 5.0):
            c.window(c.mid - 0.45, y, 0.9, 1.2, "grid", WHITE, (86, 132, 96))
        c.mottle(0.25)

    def sail(c: Canvas) -> None:
        c.px[..., 3] = 0
        c.rect(0, 0.0, 0.24, c.height, (120, 84, 56), 255)
        c.rect(0.24, 1.1, 1.5, c.height - 1.1, (232, 224, 206), 255)
        for i in range(9):
            rgb = c.color() if c.rng.random() < 0.35 else vary(c.rng, (222, 212, 190), 14)
            c.rect(0.3, 1.2 + 0.75 * i, c.rng.uniform(0.9, 1.4), 0.6, rgb, 255)
            c.rect(0.24, 1.1 + 0.75 * i, 1.5, 0.08, rail, 255)
        c.rect(1.66, 1.1, 0.09, c.height - 1.1, rail, 255)

    def barn(c: Canvas) -> None:
        c.courses(0.15, 0.32, dim(brick, 1.1), 16)
        c.door(0.8, 2.2, 2.6, (90, 122, 84), cream)
        c.posters(c.width - 2.2, 0.9, 1.9, 3)
        c.grime()

    b.ring(8, (0, 0), (4.6, 4.4), (0, 4.2), base, lid=flat((120, 100, 80)))
    b.ring(8, (0, 0), (4.0, 2.3), (4.2, 13.5), boards)
    b.ring(8, (0, 0), (2.6, 0.0), (13.5, 16.6), tiled((92, 78, 62), 0.26))
    hub = np.array([0, -3.3, 13.2])
    for k in range(4):
        a = 0.42 + k * np.pi / 2
        d, s = np.array([np.cos(a), 0, np.sin(a)]), np.array([np.sin(a), 0, -np.cos(a)])
        b.face([hub, hub + 1.76 * s, hub + 1.76 * s + 8.2 * d, hub + 8.2 * d], sail, cutout=True)
    b.box((-0.35, 0.35), (-3.5, -1.5), (12.85, 13.55), iron, iron, iron)
    b.box((4.6, 10.4), (-1.5, 3.5), (0, 3.2), barn, barn, flat(brick))
    roof, end = tiled((136, 70, 52), 0.3), stones(brick, 0.15, 0.3)
    b.gable((4.6, 10.4), (-1.5, 3.5), (3.2, 6.0), roof, end)


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
