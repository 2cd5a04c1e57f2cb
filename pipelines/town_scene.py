"""The town itself: painted walls, ten buildings on ten squares, trees, cars and people.

World: metres, x east, y north, z up. A building is drawn in its own frame, front towards -y,
standing at the origin, and then turned and moved to its square. Everything is drawn with a seeded
numpy Generator, so the same seed is the same town.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from pipelines.town_render import F32, F64, U8, Face, Paint, Sky, Texture

Rgb = tuple[int, int, int]
Rng = np.random.Generator
Painter = Callable[["Canvas"], None]
Point = tuple[float, float]

TOWN_M = 180.0  # radius of the ring on which the ten squares stand
SQUARE_M = 78.0  # side of the paved plate under each landmark
GLASS: Rgb = (52, 66, 82)
IRON: Rgb = (44, 46, 50)
WHITE: Rgb = (238, 234, 224)


def seeded(seed: int, *names: str | int) -> Rng:
    """An independent generator for each thing, so that adding one thing changes no other."""
    return np.random.default_rng([seed, *(zlib.crc32(str(n).encode()) for n in names)])


# --------------------------------------------------------------------------- painting


def vary(rng: Rng, rgb: Sequence[float], by: float) -> Rgb:
    """A neighbour of a colour: brightness varies by `by` of 255, hue by a quarter of it."""
    level, *hues = rng.standard_normal(4).tolist()
    r, g, b = (
        min(255, max(0, round(v + by * (level + h / 4)))) for v, h in zip(rgb, hues, strict=True)
    )
    return r, g, b


def dim(rgb: Sequence[float], k: float) -> Rgb:
    """A colour times k."""
    r, g, b = (int(min(255, max(0, round(v * k)))) for v in rgb)
    return r, g, b


def hue(rng: Rng, grey: float) -> Rgb:
    """A random colour; grey: 0 for the full hue, 1 for none."""
    turn, level = rng.uniform(0, 6), rng.uniform(110, 225)
    pure = [float(np.clip(abs((turn + o) % 6 - 3) - 1, 0, 1)) for o in (0, 4, 2)]
    return dim([level * (grey + (1 - grey) * v) for v in pure], 1.0)


def cloudy(rng: Rng, shape: tuple[int, int], cell: float, octaves: int = 4) -> F32:
    """Fractal value noise (h, w), about -1..1; cell: texels of the coarsest octave."""
    out = np.zeros(shape, np.float32)
    weight = 0.55
    for _ in range(octaves):
        grid = (max(2, int(shape[0] / cell) + 2), max(2, int(shape[1] / cell) + 2))
        coarse = rng.uniform(-1, 1, grid).astype(np.float32)
        out += np.float32(weight) * np.asarray(
            cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC), np.float32
        )
        cell, weight = max(cell / 2.3, 1.0), weight * 0.6
    return out


def _circle(n: int) -> F64:
    """(n, 2) corners of a unit circle."""
    t = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(t), np.sin(t)], axis=1)


_CIRCLES = {n: _circle(n) for n in (10, 28)}


class Canvas:
    """A wall to paint on, in metres from its lower left corner, y up.

    px: (h, w, 4) uint8, RGB and glow (or opacity for cutouts).
    """

    def __init__(self, rng: Rng, width: float, height: float, ppm: float, fill: Rgb) -> None:
        self.rng, self.width, self.height, self.ppm = rng, width, height, ppm
        shape = (max(4, round(height * ppm)), max(4, round(width * ppm)))
        self.px: U8 = np.zeros((*shape, 4), np.uint8)
        self.px[..., :3] = fill

    def _fixed(self, points: Sequence[Point] | F64) -> npt.NDArray[np.int32]:
        """Metres to texels with four fractional bits, as OpenCV's drawing wants them."""
        k, top = 16 * self.ppm, self.height
        if isinstance(points, np.ndarray):
            return np.asarray(np.rint(points * (k, -k) + (-8, k * top - 8)), np.int32)
        return np.array([(round(k * x - 8), round(k * (top - y) - 8)) for x, y in points], np.int32)

    def poly(self, points: Sequence[Point] | F64, rgb: Rgb, a: int = 0) -> None:
        cv2.fillPoly(self.px, [self._fixed(points)], (*rgb, a), cv2.LINE_AA, 4)

    def rect(self, x: float, y: float, w: float, h: float, rgb: Rgb, a: int = 0) -> None:
        self.poly([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], rgb, a)

    def disc(self, x: float, y: float, r: float, rgb: Rgb, a: int = 0, flat: float = 1.0) -> None:
        outline = _CIRCLES[28 if r * self.ppm > 6 else 10] * (r, flat * r) + (x, y)
        self.poly(outline, rgb, a)

    def line(self, points: Sequence[Point], width: float, rgb: Rgb, a: int = 0) -> None:
        thick = max(1, round(width * self.ppm))
        cv2.polylines(self.px, [self._fixed(points)], False, (*rgb, a), thick, cv2.LINE_AA, 4)

    def mottle(self, amount: float, cell: float = 1.5) -> None:
        """Multiply by soft noise, coarsest at `cell` metres: weather."""
        shape = (self.px.shape[0], self.px.shape[1])
        noise = 1 + np.float32(amount) * cloudy(self.rng, shape, max(cell * self.ppm, 2.0))
        rgb = self.px[..., :3] * noise[..., None]
        self.px[..., :3] = np.clip(rgb, 0, 255).astype(np.uint8)

    def grime(self, amount: float = 0.35) -> None:
        """Dark foot, dark eaves and streaks of rain: what ages a wall."""
        h, w = self.px.shape[:2]
        y = (np.arange(h, dtype=np.float32)[::-1] + 0.5) / np.float32(self.ppm)  # height, metres
        edge = 0.9 * np.exp(-y / 0.35) + 0.5 * np.exp(-(self.height - y) / 0.5)
        streak = cloudy(self.rng, (4, w), 0.5 * self.ppm)
        tall = np.asarray(cv2.resize(streak, (w, h), interpolation=cv2.INTER_CUBIC), np.float32)
        dark = 1 - np.float32(amount) * (edge[:, None] + 0.35 * np.clip(tall, 0, 1))
        self.px[..., :3] = np.clip(self.px[..., :3] * dark[..., None], 0, 255).astype(np.uint8)

    def courses(
        self, course: float, length: float, rgb: Rgb, by: float, joint: float = 0.018
    ) -> None:
        """Bricks or stones of random length, each with its own colour, over the whole canvas."""
        mortar = dim(rgb, 0.72)
        self.px[..., :3] = mortar
        y = 0.0
        while y < self.height:
            x = -float(self.rng.uniform(0, length))
            while x < self.width:
                step = length * float(self.rng.uniform(0.55, 1.4))
                self.rect(x, y, step - joint, course - joint, vary(self.rng, rgb, by))
                x += step
            y += course

    def tiles(self, course: float, rgb: Rgb, by: float = 16) -> None:
        """Roof tiles, rounded at their lower end, with patches of moss and mended places."""
        y = self.height
        self.px[..., :3] = dim(rgb, 0.6)
        row = 0
        while y > -course:
            x = -course * (row % 2) / 2
            while x < self.width:
                tone = vary(self.rng, rgb, by)
                if self.rng.random() < 0.03:
                    tone = vary(self.rng, dim(rgb, 1.35), by)
                self.rect(x, y - course, course * 0.92, course * 1.2, dim(tone, 0.75))
                self.rect(x + 0.02, y - course + 0.05, course * 0.88, course * 1.2, tone)
                x += course
            y -= course
            row += 1
        for _ in range(int(self.width * self.height / 9)):
            x, y = self.rng.uniform(0, self.width), self.rng.uniform(0, self.height)
            self.speckle(x, y, 0.5, (98, 112, 62), 12, 0.06)
        self.mottle(0.16, 2.0)

    def speckle(self, x: float, y: float, spread: float, rgb: Rgb, n: int, r: float) -> None:
        """A cluster of small discs: moss, blossom, leaves."""
        for _ in range(n):
            dx, dy = self.rng.normal(0, spread, 2)
            self.disc(x + dx, y + dy, r * self.rng.uniform(0.5, 1.4), vary(self.rng, rgb, 20))

    def ivy(self, x: float, top: float, spread: float) -> None:
        """Climbing leaves from the ground up to `top`."""
        n = int(70 * top * spread)
        for _ in range(n):
            h = top * self.rng.beta(1.2, 1.8)
            wide = spread * (1.1 - 0.6 * h / top)
            px = x + self.rng.normal(0, wide * 0.45) + 0.3 * np.sin(h * 1.7)
            tone = vary(self.rng, (74, 108, 48) if self.rng.random() < 0.85 else (150, 72, 40), 18)
            self.disc(px, h, self.rng.uniform(0.05, 0.13), tone, flat=0.8)

    def glyphs(self, x: float, y: float, w: float, h: float, n: int, rgb: Rgb) -> None:
        """n letter-like signs of random strokes in a box."""
        step = w / n
        for i in range(n):
            left, wide = x + i * step + 0.12 * step, 0.72 * step
            grid = [(left + wide * a / 2, y + h * b / 2) for a in range(3) for b in range(3)]
            for _ in range(int(self.rng.integers(2, 5))):
                p, q = self.rng.choice(9, 2, replace=False)
                self.line([grid[p], grid[q]], 0.14 * h, rgb)
            if self.rng.random() < 0.4:
                self.disc(*grid[int(self.rng.integers(9))], 0.13 * h, rgb)

    def sign(self, x: float, y: float, w: float, h: float, board: Rgb, ink: Rgb, n: int) -> None:
        """A board with a frame and writing."""
        self.rect(x - 0.06, y - 0.1, w + 0.12, h + 0.12, dim(board, 0.45))
        self.rect(x, y, w, h, ink)
        self.rect(x + 0.05, y + 0.05, w - 0.1, h - 0.1, board)
        self.glyphs(x + 0.12, y + 0.22 * h, w - 0.24, 0.56 * h, n, ink)

    def posters(self, x: float, y: float, w: float, n: int) -> None:
        """Bills pasted in a row, torn and overlapping."""
        for i in range(n):
            left = x + w * i / n + float(self.rng.uniform(-0.05, 0.05))
            bottom = y + float(self.rng.uniform(-0.15, 0.15))
            wide, tall = w / n * 0.92, float(self.rng.uniform(0.8, 1.25))
            paper, ink = self.colour(), self.colour()
            self.rect(left, bottom, wide, tall, paper)
            self.disc(left + wide * 0.5, bottom + tall * 0.6, wide * 0.28, ink)
            self.poly(self._scrap(left, bottom + tall * 0.3, wide, tall * 0.5), self.colour())
            self.glyphs(left + 0.05, bottom + 0.08, wide - 0.1, 0.16 * tall, 5, dim(ink, 0.5))

    def colour(self) -> Rgb:
        """A random colour, strong but not neon."""
        return hue(self.rng, 0.3)

    def _scrap(self, x: float, y: float, w: float, h: float) -> list[Point]:
        t = np.sort(self.rng.uniform(0, 2 * np.pi, int(self.rng.integers(3, 7))))
        return [(x + w * (0.5 + 0.45 * np.cos(a)), y + h * (0.5 + 0.45 * np.sin(a))) for a in t]

    def mural(self, x: float, y: float, w: float, h: float, palette: Sequence[Rgb]) -> None:
        """A painted wall: flowing bands, discs, leaves and dots in a palette."""
        self.rect(x, y, w, h, palette[0])
        t = np.linspace(0, 1, 24)
        for _ in range(7):
            rgb = vary(self.rng, palette[int(self.rng.integers(len(palette)))], 10)
            mid, amp = self.rng.uniform(0.1, 0.9), self.rng.uniform(0.05, 0.22)
            top = y + h * np.clip(
                mid + amp * np.sin(2 * np.pi * (t * self.rng.uniform(0.5, 2) + self.rng.random())),
                0,
                1,
            )
            bottom = np.maximum(top - h * self.rng.uniform(0.04, 0.2), y)
            band = list(zip(x + w * t, top, strict=True))
            self.poly(band + list(zip(x + w * t[::-1], bottom[::-1], strict=True)), rgb)
        for _ in range(int(2.2 * w * h)):
            r = float(self.rng.uniform(0.06, 0.42)) * min(1.0, h / 3)
            cx = float(self.rng.uniform(x + r, x + w - r))
            cy = float(self.rng.uniform(y + r, y + h - r))
            rgb = vary(self.rng, palette[int(self.rng.integers(len(palette)))], 14)
            kind = self.rng.random()
            if kind < 0.35:
                self.disc(cx, cy, r, rgb)
                self.disc(cx, cy, r * 0.55, vary(self.rng, palette[-1], 14))
            elif kind < 0.75:
                self.poly(self._scrap(cx - r, cy - r, 2 * r, 2 * r), rgb)
            else:
                self.line([(cx - r, cy - r), (cx, cy + r), (cx + r, cy - r / 2)], 0.06, rgb)

    def clock(self, x: float, y: float, r: float, face: Rgb, ink: Rgb) -> None:
        """A clock at a random hour."""
        self.disc(x, y - 0.06, r * 1.16, dim(ink, 0.5))
        self.disc(x, y, r * 1.12, (196, 160, 70))
        self.disc(x, y, r, face, 200)
        for i in range(12):
            a = i * np.pi / 6
            p, q = (0.78, 0.95) if i % 3 else (0.68, 0.95)
            self.line(
                [
                    (x + r * p * np.sin(a), y + r * p * np.cos(a)),
                    (x + r * q * np.sin(a), y + r * q * np.cos(a)),
                ],
                0.07 * r,
                ink,
            )
        for reach, wide in ((0.55, 0.11), (0.8, 0.07)):
            a = self.rng.uniform(0, 2 * np.pi)
            self.line(
                [(x, y), (x + r * reach * np.sin(a), y + r * reach * np.cos(a))], wide * r, ink
            )

    def window(  # noqa: PLR0912 - one branch for each word
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        style: str,
        frame: Rgb = WHITE,
        trim: Rgb | None = None,
    ) -> None:
        """One window with its lower left corner at (x, y).

        style: words out of arch, cross, grid, lead, shutters, flowers, lintel, plain.
        """
        rng, words = self.rng, style.split()
        lamp = int(rng.choice([0, 0, 90, 190, 255]))
        e = 0.09
        if trim is not None:
            self._opening(x - 2.2 * e, y - e, w + 4.4 * e, h + 3.2 * e, words, trim)
        self._opening(x - e, y - e / 2, w + 2 * e, h + 1.5 * e, words, dim(frame, 0.55))
        self._opening(x - e / 2, y, w + e, h + e / 2, words, frame)
        glass = vary(rng, GLASS, 12)
        self._opening(x + e / 2, y + e / 2, w - e, h - e, words, glass, lamp)
        # a reflection of the sky and what stands behind the pane, none twice alike
        a = float(rng.uniform(0.15, 0.6))
        self.poly(
            [
                (x + e, y + h * a),
                (x + w - e, y + h * (a + 0.2)),
                (x + w - e, y + h * 0.92),
                (x + e, y + h * 0.88),
            ],
            vary(rng, (112, 136, 160), 12),
            lamp,
        )
        if rng.random() < 0.6:
            cloth = vary(rng, (206, 190, 160), 25)
            cw = w * float(rng.uniform(0.14, 0.3))
            self.rect(x + e, y + e, cw, h * 0.8, cloth, lamp // 2)
            self.rect(x + w - e - cw, y + e, cw, h * 0.8, dim(cloth, 0.94), lamp // 2)
        elif rng.random() < 0.5:
            self.disc(x + w * float(rng.uniform(0.3, 0.7)), y + 0.25 * h, 0.16 * w, self.colour())
        if "cross" in words:
            self.rect(x + w / 2 - 0.035, y, 0.07, h, frame)
            self.rect(x, y + 0.62 * h, w, 0.07, frame)
        if "grid" in words:
            for i in range(1, 3):
                self.rect(x + w * i / 3 - 0.025, y, 0.05, h, frame)
            for i in range(1, 4):
                self.rect(x, y + h * i / 4, w, 0.05, frame)
        if "lead" in words:
            for i in range(-4, 9):
                s = x + w * i / 4
                for k in (1, -1):
                    p = np.clip(np.array([s, s + k * h * 0.6]), x, x + w)
                    self.line(
                        [(p[0], y + abs(p[0] - s) / 0.6), (p[1], y + abs(p[1] - s) / 0.6)],
                        0.03,
                        dim(frame, 0.5),
                    )
        if "shutters" in words:
            tone = vary(rng, trim or frame, 8)
            for side in (x - 0.62 * w, x + w + 0.12 * w):
                lean = float(rng.uniform(0.8, 1.0))
                self.rect(side, y - 0.04, 0.5 * w * lean, h + 0.08, dim(tone, 0.6))
                self.rect(side + 0.03, y, 0.5 * w * lean - 0.06, h, tone)
                for i in range(int(h / 0.16)):
                    self.rect(
                        side + 0.07,
                        y + 0.06 + 0.16 * i,
                        0.5 * w * lean - 0.14,
                        0.05,
                        dim(tone, 0.7),
                    )
        if "lintel" in words:
            self.rect(x - 0.25, y + h + 0.12, w + 0.5, 0.2, dim(trim or frame, 0.92))
            self.rect(x - 0.25, y + h + 0.06, w + 0.5, 0.07, dim(trim or frame, 0.5))
        self.rect(x - 0.16, y - 0.16, w + 0.32, 0.14, dim(trim or frame, 0.95))
        self.rect(x - 0.16, y - 0.24, w + 0.32, 0.08, dim(trim or frame, 0.45))
        if "flowers" in words and rng.random() < 0.75:
            self.rect(x, y - 0.12, w, 0.2, (118, 72, 46))
            bloom = self.colour()
            for i in range(4):
                self.speckle(x + w * (i + 0.5) / 4, y + 0.14, 0.09, (66, 104, 48), 7, 0.05)
                self.speckle(x + w * (i + 0.5) / 4, y + 0.18, 0.1, bloom, 6, 0.045)

    def _opening(
        self, x: float, y: float, w: float, h: float, words: Sequence[str], rgb: Rgb, a: int = 0
    ) -> None:
        if "arch" not in words:
            self.rect(x, y, w, h, rgb, a)
            return
        t = np.linspace(0, np.pi, 15)
        r = w / 2
        round_top = [(x + r + r * np.cos(k), y + h - r + r * np.sin(k)) for k in t]
        self.poly([(x, y), (x + w, y), *round_top], rgb, a)

    def door(self, x: float, w: float, h: float, wood: Rgb, stone: Rgb, *, arch: bool) -> None:
        """A panelled door at the foot of the wall, under blocks of stone."""
        words = ["arch"] if arch else []
        n = 9
        for i in range(n + 1):  # voussoirs and jambs, each its own stone
            y = (h - w / 2 if arch else h) * i / n
            for side in (x - 0.34, x + w + 0.04):
                self.rect(side, y, 0.3, h / n * 0.92, vary(self.rng, stone, 10))
        if arch:
            for k in np.linspace(0, np.pi, 13):
                c, s, r = np.cos(k), np.sin(k), w / 2
                cx, cy = x + r + (r + 0.18) * c, h - r + (r + 0.18) * s
                self.disc(cx, cy, 0.19, vary(self.rng, stone, 12))
        else:
            self.rect(x - 0.4, h, w + 0.8, 0.34, vary(self.rng, stone, 8))
        self._opening(x, 0, w, h, words, dim(wood, 0.45))
        self._opening(x + 0.08, 0, w - 0.16, h - 0.08, words, wood)
        for i in range(4):
            self.rect(x + 0.1 + (w - 0.2) * i / 4, 0, 0.03, h * 0.72, dim(wood, 0.55))
        for y in (0.25, 1.1, 1.9):
            if y < h - 0.8:
                self.line([(x + 0.12, y), (x + w * 0.44, y + 0.08)], 0.06, IRON)
                self.line([(x + w - 0.12, y), (x + w * 0.56, y + 0.08)], 0.06, IRON)
        self.disc(x + w * 0.56, 1.05, 0.07, (206, 170, 84))

    def frieze(self, y: float, h: float, base: Rgb, ink: Rgb) -> None:
        """A band of ornament in which no two fields are alike."""
        self.rect(0, y - 0.06, self.width, h + 0.12, dim(base, 0.6))
        self.rect(0, y, self.width, h, base)
        x = 0.0
        while x < self.width:
            wide = float(self.rng.uniform(0.5, 1.1)) * h
            self.poly(self._scrap(x, y, wide, h), vary(self.rng, ink, 22))
            self.disc(
                x + wide / 2,
                y + h * float(self.rng.uniform(0.3, 0.7)),
                0.16 * h,
                vary(self.rng, base, 20),
            )
            x += wide

    def quoins(self, rgb: Rgb, w: float = 0.5) -> None:
        """Corner stones at both ends of the wall."""
        y, i = 0.0, 0
        while y < self.height:
            wide = w * (1.0 if i % 2 else 0.65)
            for x in (0.0, self.width - wide):
                self.rect(x, y, wide, 0.36, dim(rgb, 0.6))
                self.rect(x, y + 0.03, wide - 0.02, 0.33, vary(self.rng, rgb, 9))
            y, i = y + 0.38, i + 1

    def rose(self, x: float, y: float, r: float, stone: Rgb) -> None:
        """A round window of coloured glass."""
        self.disc(x, y, r * 1.2, dim(stone, 0.55))
        self.disc(x, y, r * 1.14, vary(self.rng, stone, 4))
        self.disc(x, y, r, (40, 38, 48))
        for ring, n in ((0.8, 16), (0.48, 10), (0.0, 1)):
            for i in range(n):
                a = 2 * np.pi * i / n
                self.disc(
                    x + ring * r * np.sin(a),
                    y + ring * r * np.cos(a),
                    0.135 * r if n > 1 else 0.2 * r,
                    self.colour(),
                    230,
                )


# --------------------------------------------------------------------------- building


class Builder:
    """Collects faces in a local frame, front towards -y, metres."""

    def __init__(self, rng: Rng, ppm: float = 64.0) -> None:
        self.rng, self.ppm = rng, ppm
        self.faces: list[Face] = []

    def face(
        self,
        points: Sequence[Sequence[float] | F64],
        paint: Painter,
        *,
        rgb: Rgb = (200, 200, 200),
        ppm: float | None = None,
        cutout: bool = False,
        soft: bool = False,
    ) -> None:
        """A convex face, counter-clockwise from outside, first edge its foot."""
        p = np.asarray(points, np.float64)
        across = (p[1] - p[0]) / np.linalg.norm(p[1] - p[0])
        rest = p - p[0]
        normal = np.cross(rest[1:-1], rest[2:]).sum(axis=0)
        up = np.cross(normal / np.linalg.norm(normal), across)
        a, b = rest @ across, rest @ up
        canvas = Canvas(self.rng, float(np.ptp(a)), float(np.ptp(b)), ppm or self.ppm, rgb)
        paint(canvas)
        h, w = canvas.px.shape[:2]
        corner = p[0] + a.min() * across + b.max() * up
        self.faces.append(
            Face(
                p,
                Paint(
                    Texture.build(canvas.px), corner, across * np.ptp(a) / w, -up * np.ptp(b) / h
                ),
                cutout=cutout,
                two_sided=cutout,
                soft=soft,
            )
        )

    def wall(
        self, p: Point, q: Point, z0: float, z1: float, paint: Painter, ppm: float | None = None
    ) -> None:
        """An upright rectangle from p to q, seen with p on the left."""
        self.face([(*p, z0), (*q, z0), (*q, z1), (*p, z1)], paint, ppm=ppm)

    def box(
        self,
        x: Point,
        y: Point,
        z: Point,
        front: Painter,
        side: Painter,
        top: Painter,
        ppm: float | None = None,
    ) -> None:
        """Four walls and a lid; the back wears the side's paint coarsely, hardly anyone sees it."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        coarse = (ppm or self.ppm) / 4
        self.wall((x0, y0), (x1, y0), z0, z1, front, ppm)
        self.wall((x1, y0), (x1, y1), z0, z1, side, ppm)
        self.wall((x1, y1), (x0, y1), z0, z1, side, coarse)
        self.wall((x0, y1), (x0, y0), z0, z1, side, ppm)
        self.face([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], top, ppm=coarse)

    def ring(
        self,
        n: int,
        centre: Point,
        r: tuple[float, float],
        z: Point,
        paint: Painter,
        *,
        lid: Painter | None = None,
        ppm: float | None = None,
    ) -> None:
        """n walls round a centre, of circumradius r[0] at z[0] and r[1] at z[1] (0: a spire)."""
        t = -np.pi / 2 - np.pi / n + 2 * np.pi * np.arange(n) / n  # first wall faces the front
        foot = [(centre[0] + r[0] * np.cos(k), centre[1] + r[0] * np.sin(k), z[0]) for k in t]
        head = [(centre[0] + r[1] * np.cos(k), centre[1] + r[1] * np.sin(k), z[1]) for k in t]
        for i in range(n):
            j = (i + 1) % n
            tip = [head[j], head[i]] if r[1] > 0 else [(*centre, z[1])]
            coarse = (ppm or self.ppm) / (
                4 if head[i][1] + head[j][1] > 2 * centre[1] + 1e-6 else 1
            )
            self.face([foot[i], foot[j], *tip], paint, ppm=coarse)
        if lid is not None and r[1] > 0:
            self.face(head, lid)

    def gable(
        self,
        x: Point,
        y: Point,
        z: Point,
        roof: Painter,
        end: Painter,
        *,
        along: str = "x",
        over: float = 0.4,
        ppm: float | None = None,
    ) -> None:
        """A saddle roof from eaves z[0] to ridge z[1], its ridge along x or y."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        if along == "x":
            m, drop = (y0 + y1) / 2, (z1 - z0) / ((y1 - y0) / 2) * over
            a, b, e = x0 - over, x1 + over, z0 - drop
            self.face([(a, y0 - over, e), (b, y0 - over, e), (b, m, z1), (a, m, z1)], roof, ppm=ppm)
            self.face([(b, y1 + over, e), (a, y1 + over, e), (a, m, z1), (b, m, z1)], roof, ppm=20)
            self.face([(x1, y0, z0), (x1, y1, z0), (x1, m, z1)], end, ppm=ppm)
            self.face([(x0, y1, z0), (x0, y0, z0), (x0, m, z1)], end, ppm=ppm)
        else:
            m, drop = (x0 + x1) / 2, (z1 - z0) / ((x1 - x0) / 2) * over
            a, b, e = y0 - over, y1 + over, z0 - drop
            self.face([(x1 + over, a, e), (x1 + over, b, e), (m, b, z1), (m, a, z1)], roof, ppm=ppm)
            self.face([(x0 - over, b, e), (x0 - over, a, e), (m, a, z1), (m, b, z1)], roof, ppm=ppm)
            self.face([(x0, y0, z0), (x1, y0, z0), (m, y0, z1)], end, ppm=ppm)
            self.face([(x1, y1, z0), (x0, y1, z0), (m, y1, z1)], end, ppm=20)


def placed(faces: Sequence[Face], at: F64, heading: float) -> list[Face]:
    """Faces turned by heading (radians, about z) and moved to at (3,) metres."""
    c, s = np.cos(heading), np.sin(heading)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

    def move(p: Paint) -> Paint:
        return Paint(p.texture, turn @ p.corner + at, turn @ p.across, turn @ p.down, p.wrap)

    return [
        Face(
            f.points @ turn.T + at,
            move(f.paint),
            None if f.tint is None else move(f.tint),
            f.cutout,
            f.two_sided,
            f.soft,
            f.casts,
        )
        for f in faces
    ]


def tiled(rgb: Rgb, course: float = 0.32, by: float = 16) -> Painter:
    """A painter of roof tiles."""
    return lambda c: c.tiles(course, rgb, by)


def flat(rgb: Rgb, mottle: float = 0.2) -> Painter:
    """A painter of weathered plain colour."""

    def paint(c: Canvas) -> None:
        c.px[..., :3] = rgb
        c.mottle(mottle, 0.8)

    return paint


def stones(rgb: Rgb, course: float = 0.35, length: float = 0.7, by: float = 14) -> Painter:
    """A painter of masonry and nothing else."""

    def paint(c: Canvas) -> None:
        c.courses(course, length, rgb, by)
        c.mottle(0.14)
        c.grime()

    return paint


# --------------------------------------------------------------------------- ten buildings


def church(b: Builder) -> None:
    """Sandstone, a tower with clock and spire beside a nave with a rose window."""
    stone: Rgb = (196, 172, 132)
    trim: Rgb = (222, 208, 178)

    def front(c: Canvas) -> None:
        c.courses(0.34, 0.75, stone, 15)
        c.mottle(0.15)
        c.rose(5.0, 8.4, 1.6, trim)
        c.door(3.9, 2.2, 3.9, (108, 62, 38), trim, arch=True)
        for x in (1.3, 7.7):
            c.window(x, 2.2, 1.0, 3.6, "arch lead", dim(trim, 0.8), trim)
        c.frieze(5.95, 0.45, (170, 146, 104), (110, 66, 52))
        c.quoins(trim)
        c.grime(0.3)

    def side(c: Canvas) -> None:
        c.courses(0.34, 0.75, stone, 15)
        c.mottle(0.2)
        for i in range(int(c.width / 3)):
            c.window(1.0 + 3 * i, 2.0, 1.1, 3.8, "arch lead", dim(trim, 0.8), trim)
            c.rect(2.55 + 3 * i, 0, 0.5, 6.2, vary(c.rng, trim, 6))
        c.ivy(c.width * 0.75, 4.5, 1.4)
        c.grime()

    def tower(c: Canvas) -> None:
        c.courses(0.38, 0.8, dim(stone, 0.97), 17)
        c.mottle(0.18)
        mid = c.width / 2
        c.window(mid - 0.6, 2.0, 1.2, 2.6, "arch lead", trim, trim)
        c.window(mid - 0.4, 6.3, 0.8, 1.8, "arch", trim, trim)
        c.clock(mid, 10.6, 1.15, (30, 52, 92), (236, 206, 120))
        for x in (mid - 1.35, mid + 0.25):
            c.window(x, 12.9, 1.1, 2.7, "arch grid", dim(trim, 0.6), trim)
        for y in (5.4, 8.9, 12.2):
            c.frieze(y, 0.3, trim, (150, 96, 66))
        c.quoins(trim, 0.6)
        c.grime()

    b.face([(-3, -5, 0), (7, -5, 0), (7, -5, 7), (2, -5, 12.6), (-3, -5, 7)], front)
    b.wall((7, -5), (7, 11), 0, 7, side)
    b.wall((-3, 11), (-3, -5), 0, 7, side)
    b.gable((-3, 7), (-5, 11), (7, 12.6), tiled((150, 74, 50)), flat(stone), along="y", over=0.35)
    b.box((-8, -3), (-6, -1), (0, 16.3), tower, tower, flat((120, 120, 120)))
    b.ring(4, (-5.5, -3.5), (3.9, 0.0), (16.3, 24.0), tiled((72, 118, 104), 0.3, 14))


def town_hall(b: Builder) -> None:
    """White plaster over red arcades, a stepped storey of banners, a clock turret."""
    plaster: Rgb = (232, 222, 198)
    red: Rgb = (158, 62, 50)

    def front(c: Canvas) -> None:
        c.px[..., :3] = plaster
        c.mottle(0.07)
        for i in range(5):
            c.door(0.9 + 3.5 * i, 2.1, 3.3, (70, 60, 56), red, arch=True)
            c.window(1.05 + 3.5 * i, 5.0, 1.6, 2.2, "grid lintel flowers", WHITE, red)
            c.window(1.2 + 3.5 * i, 8.7, 1.3, 1.5, "cross", WHITE, red)
        c.frieze(3.85, 0.5, (214, 184, 96), (52, 70, 120))
        c.frieze(7.75, 0.35, red, (232, 206, 150))
        for i in range(4):
            x, rgb = 3.25 + 3.5 * i, c.colour()
            c.rect(x, 4.9, 0.75, 2.6, rgb)
            c.poly([(x, 4.9), (x + 0.375, 4.5), (x + 0.75, 4.9)], dim(rgb, 0.8))
            c.disc(x + 0.375, 6.5, 0.27, c.colour())
            c.glyphs(x + 0.06, 5.2, 0.63, 0.5, 2, WHITE)
        c.quoins(red)
        c.grime(0.25)

    def side(c: Canvas) -> None:
        c.px[..., :3] = dim(plaster, 0.96)
        c.mottle(0.09)
        for i in range(3):
            c.window(0.8 + 3.2 * i, 1.2, 1.4, 2.0, "grid shutters", WHITE, red)
            c.window(0.8 + 3.2 * i, 5.0, 1.4, 2.2, "grid lintel", WHITE, red)
            c.window(0.9 + 3.2 * i, 8.7, 1.2, 1.5, "cross", WHITE, red)
        c.frieze(3.85, 0.5, (214, 184, 96), (52, 70, 120))
        c.posters(0.6, 0.4, 2.2, 3)
        c.grime(0.3)

    def turret(c: Canvas) -> None:
        c.courses(0.2, 0.5, red, 13)
        c.quoins(plaster, 0.4)
        c.clock(c.width / 2, 2.6, 1.0, WHITE, (30, 30, 36))
        c.frieze(0.5, 0.5, plaster, (60, 80, 120))
        c.window(c.width / 2 - 0.6, 4.2, 1.2, 1.2, "arch", WHITE, plaster)

    def roof(c: Canvas) -> None:
        c.tiles(0.34, (96, 84, 92), 13)
        for i in range(4):
            x = 2.2 + c.width / 4 * i
            c.poly([(x - 0.3, 1.1), (x + 1.7, 1.1), (x + 0.7, 3.2)], red)
            c.window(x, 1.2, 1.4, 1.0, "cross", WHITE)

    b.box((-9, 9), (-4.5, 5.5), (0, 11), front, side, flat(plaster))
    b.gable((-9, 9), (-4.5, 5.5), (11, 15.5), roof, stones(red, 0.2, 0.5), over=0.5)
    b.box((-2, 2), (-5.0, -1.4), (11, 17.4), turret, turret, flat(plaster))
    b.ring(4, (0, -3.2), (3.1, 0.0), (17.4, 22.0), tiled((70, 126, 110), 0.28))


def old_gate(b: Builder) -> None:
    """Two eight-sided towers of grey rubble with battlements and a painted arch between them."""
    stone: Rgb = (146, 142, 136)

    def tower(c: Canvas) -> None:
        c.courses(0.42, 0.62, stone, 22, 0.03)
        c.mottle(0.22)
        mid = c.width / 2
        for y in (2.4, 6.0, 9.4):
            if c.rng.random() < 0.75:
                c.rect(mid - 0.35, y - 0.2, 0.7, 1.7, dim(stone, 1.25))
                c.rect(mid - 0.13, y, 0.26, 1.3, (28, 26, 26), 60)
        if c.rng.random() < 0.5:
            c.ivy(mid, float(c.rng.uniform(3, 8)), 0.9)
        if c.rng.random() < 0.5:
            c.sign(mid - 0.7, 4.3, 1.4, 1.1, (172, 40, 38), (240, 214, 120), 2)
        c.speckle(mid, 9, 1.0, (196, 168, 90), 40, 0.1)
        c.grime(0.4)

    def crown(c: Canvas) -> None:
        c.courses(0.3, 0.5, dim(stone, 1.1), 16)
        c.frieze(0.1, 0.4, dim(stone, 0.7), dim(stone, 1.3))

    def arch(c: Canvas) -> None:
        c.courses(0.36, 0.8, (176, 160, 134), 16)
        c.mottle(0.15)
        mid = c.width / 2
        c.mural(
            0.5,
            6.6,
            c.width - 1.0,
            3.0,
            [(38, 64, 112), (204, 160, 60), (176, 58, 44), (232, 222, 196), (58, 112, 84)],
        )
        c.door(mid - 2.0, 4.0, 5.2, (58, 42, 34), (206, 190, 160), arch=True)
        for i in range(7):  # portcullis
            c.rect(mid - 1.8 + 0.56 * i, 3.0, 0.12, 2.0, IRON)
        c.sign(mid - 1.6, 5.75, 3.2, 0.7, (226, 214, 180), (54, 36, 30), 9)
        c.grime(0.25)

    def merlon(c: Canvas) -> None:
        c.courses(0.3, 0.45, stone, 20)

    for x in (-6.2, 6.2):
        b.ring(8, (x, 0), (3.5, 3.1), (0, 12.5), tower)
        b.ring(8, (x, 0), (3.6, 3.6), (12.5, 13.4), crown, lid=flat(stone))
        for k in np.arange(8) * np.pi / 4:
            mx, my = x + 3.0 * np.cos(k), 3.0 * np.sin(k)
            b.box((mx - 0.5, mx + 0.5), (my - 0.5, my + 0.5), (13.4, 14.6), merlon, merlon, merlon)
        b.ring(8, (x, 0), (2.7, 0.0), (13.4, 19.0 if x < 0 else 17.6), tiled((124, 58, 50), 0.3))
    b.box((-3.4, 3.4), (-1.6, 1.6), (0, 10.4), arch, arch, flat(stone))
    for i in range(5):
        b.box((-3.2 + 1.4 * i, -2.4 + 1.4 * i), (-1.6, -1.0), (10.4, 11.4), merlon, merlon, merlon)


def fountain(b: Builder) -> None:
    """An obelisk of carved signs on steps, in a basin of mosaic, before a coloured wall."""
    palette: list[Rgb] = [
        (30, 98, 132),
        (232, 196, 92),
        (214, 94, 60),
        (238, 232, 214),
        (44, 150, 140),
    ]

    def mosaic(c: Canvas) -> None:
        n = (max(1, round(c.height / 0.11)), max(1, round(c.width / 0.11)))
        for i in range(n[0]):
            for j in range(n[1]):
                k = int(c.rng.integers(5)) if c.rng.random() < 0.35 else (i + j // 7) % 5
                c.rect(j * 0.11, i * 0.11, 0.1, 0.1, vary(c.rng, palette[k], 12))
        c.mottle(0.15)
        c.grime(0.2)

    def carved(c: Canvas) -> None:
        c.courses(1.3, 3.0, (204, 120, 96), 10)
        c.mottle(0.2, 0.4)
        for i in range(int(c.height / 0.62)):
            k = c.width * (0.34 - 0.14 * i * 0.62 / c.height)
            c.glyphs(c.width / 2 - k, 0.25 + 0.62 * i, 2 * k, 0.4, 3, (92, 44, 36))

    def steps(c: Canvas) -> None:
        c.courses(0.3, 0.9, (206, 200, 188), 14)
        c.mottle(0.2)
        c.grime(0.25)

    def water(c: Canvas) -> None:
        c.px[..., :3] = (64, 118, 126)
        c.mottle(0.3, 1.2)
        for _ in range(160):
            x, y = c.rng.uniform(0, c.width), c.rng.uniform(0, c.height)
            c.line([(x, y), (x + 0.4, y + 0.04)], 0.05, (150, 196, 200))

    def screen(c: Canvas) -> None:
        c.courses(0.3, 0.6, (196, 182, 160), 12)
        c.mural(0.4, 0.7, c.width - 0.8, c.height - 1.5, palette)
        c.frieze(c.height - 0.6, 0.5, (226, 214, 186), (150, 70, 52))
        c.grime(0.3)

    b.ring(8, (0, -2), (5.2, 5.2), (0, 0.95), mosaic, lid=water)
    b.ring(8, (0, -2), (2.9, 2.9), (0.9, 1.6), steps, lid=steps)
    b.ring(4, (0, -2), (2.3, 2.3), (1.6, 3.2), mosaic, lid=steps)
    b.ring(4, (0, -2), (1.5, 0.85), (3.2, 10.2), carved)
    b.ring(4, (0, -2), (0.85, 0.0), (10.2, 11.4), flat((226, 184, 76), 0.1))
    b.box((-9, 9), (6, 7), (0, 6.2), screen, stones((196, 182, 160)), steps)
    for x in (-10.2, 9.0):
        b.box((x, x + 1.2), (5.8, 7.2), (0, 8.0), carved, steps, steps)


def villa(b: Builder) -> None:
    """A pink house with green shutters, a bay, a balcony and a great deal of ivy."""
    pink: Rgb = (222, 150, 130)
    green: Rgb = (46, 98, 76)
    cream: Rgb = (240, 228, 204)

    def front(c: Canvas) -> None:
        c.px[..., :3] = pink
        c.mottle(0.13, 2.5)
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
        c.px[..., :3] = dim(pink, 1.06)
        c.mottle(0.1)
        mid = c.width / 2
        if c.width > 4:
            c.door(mid - 0.8, 1.6, 2.7, green, cream, arch=False)
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

    roof = tiled((178, 98, 62), 0.3, 18)
    b.box((-8.5, -0.5), (-3, 6), (0, 9), front, side, flat(cream))
    b.ring(4, (-4.5, 1.5), (6.7, 0.0), (9, 12.6), roof)
    b.box((-0.5, 6.5), (-5, 5), (0, 10), bay, side, flat(cream))
    b.gable((-0.5, 6.5), (-5, 5), (10, 13.2), roof, stones((222, 150, 130), 0.16, 0.34), along="y")
    b.box(
        (4.4, 5.3),
        (0, 0.9),
        (10, 14.2),
        stones((150, 80, 62), 0.14, 0.3),
        stones((150, 80, 62), 0.14, 0.3),
        flat(IRON),
    )


def lighthouse(b: Builder) -> None:
    """An eight-sided striped tower with a lantern, and the keeper's cottage."""
    bands: list[Rgb] = [(236, 232, 222), (190, 44, 40)]

    def shaft(c: Canvas) -> None:
        c.courses(0.3, 0.6, bands[0], 9)
        for i in range(5):
            y0, lean = 1.6 + 3.4 * i, float(c.rng.uniform(-0.1, 0.1))
            c.poly(
                [(0, y0), (c.width, y0 + lean), (c.width, y0 + 1.7), (0, y0 + 1.7 - lean)],
                vary(c.rng, bands[1], 8),
            )
        for _ in range(70):  # peeling paint
            x, y = c.rng.uniform(0, c.width), c.rng.uniform(0, c.height)
            rgb = vary(c.rng, (150, 138, 124) if c.rng.random() < 0.5 else (222, 210, 196), 14)
            c.poly(c._scrap(x, y, 0.3, 0.4), rgb)
        mid = c.width / 2
        for y in (3.0, 7.0, 11.2):
            c.window(
                mid - 0.35,
                y + float(c.rng.uniform(-0.8, 0.8)),
                0.7,
                1.3,
                "arch cross",
                WHITE,
                (52, 72, 96),
            )
        for x, y in c.rng.uniform((0, 0), (c.width, c.height), (5, 2)):  # rust
            c.line([(x, y), (x + 0.03, y - 1.2)], 0.07, (150, 92, 58))
        c.mottle(0.14)
        c.grime(0.35)

    def lantern(c: Canvas) -> None:
        c.px[..., :3] = (36, 46, 58)
        c.rect(0.1, 0.2, c.width - 0.2, c.height - 0.4, (240, 214, 130), 255)
        for i in range(1, 4):
            c.line([(c.width * i / 4 - 0.3, 0.2), (c.width * i / 4 + 0.3, c.height)], 0.06, IRON)

    def gallery(c: Canvas) -> None:
        c.px[..., :3] = (52, 72, 96)
        for i in range(9):
            c.rect(c.width * i / 9, 0.1, 0.06, c.height, WHITE)
        c.glyphs(0.1, 0.15, c.width - 0.2, 0.4, 4, (236, 196, 80))

    def cottage(c: Canvas) -> None:
        c.courses(0.22, 0.5, (214, 212, 204), 14)
        for i in range(int(c.width / 2.6)):
            c.window(0.7 + 2.6 * i, 1.1, 1.1, 1.4, "cross shutters flowers", WHITE, (40, 92, 140))
        if c.width > 6:
            c.door(c.width / 2 - 0.2, 1.1, 2.1, (40, 92, 140), (190, 180, 164), arch=False)
            c.sign(0.5, 2.75, 3.4, 0.5, (40, 66, 96), WHITE, 10)
            c.disc(c.width - 0.9, 1.6, 0.5, (226, 92, 50))
            c.disc(c.width - 0.9, 1.6, 0.3, (214, 212, 204))
        c.grime(0.35)

    b.ring(8, (-2.5, 0), (3.7, 3.7), (0, 1.2), stones((120, 112, 104), 0.4, 0.8, 20))
    b.ring(8, (-2.5, 0), (3.4, 2.1), (1.2, 18), shaft)
    b.ring(8, (-2.5, 0), (2.9, 2.9), (18, 18.9), gallery, lid=flat(IRON))
    b.ring(8, (-2.5, 0), (1.7, 1.7), (18.9, 21.2), lantern)
    b.ring(8, (-2.5, 0), (2.1, 0.0), (21.2, 23.4), tiled((58, 82, 92), 0.25))
    b.box((2.0, 9.5), (-2.5, 3.0), (0, 3.4), cottage, cottage, flat(WHITE))
    b.gable((2.0, 9.5), (-2.5, 3.0), (3.4, 6.2), tiled((64, 74, 88), 0.3), stones((214, 212, 204)))


def windmill(b: Builder) -> None:
    """A tapering mill of dark weatherboard with white sails on a brick base."""
    brick: Rgb = (164, 88, 62)

    def base(c: Canvas) -> None:
        c.courses(0.15, 0.32, brick, 18)
        mid = c.width / 2
        if c.rng.random() < 0.6:
            c.window(mid - 0.5, 1.3, 1.0, 1.6, "arch cross", WHITE, (226, 206, 160))
        else:
            c.sign(mid - 1.1, 1.5, 2.2, 1.0, (60, 92, 62), (240, 222, 150), 5)
        c.frieze(c.height - 0.6, 0.4, (226, 206, 160), (80, 104, 70))
        c.mottle(0.2)
        c.grime()

    def boards(c: Canvas) -> None:
        c.px[..., :3] = (50, 40, 34)
        y = 0.0
        while y < c.height:
            x = 0.0
            while x < c.width:
                w = float(c.rng.uniform(0.7, 2.2))
                c.rect(x, y, w - 0.02, 0.2, vary(c.rng, (112, 92, 70), 20))
                x += w
            y += 0.23
        mid = c.width / 2
        for y in (1.6, 5.0):
            c.window(mid - 0.45, y, 0.9, 1.2, "grid", WHITE, (86, 132, 96))
        c.mottle(0.25)

    def sail(c: Canvas) -> None:
        c.px[..., 3] = 0
        c.rect(0, 0.0, 0.24, c.height, (120, 84, 56), 255)
        c.rect(0.24, 1.1, 1.5, c.height - 1.1, (232, 224, 206), 255)
        for i in range(9):
            rgb = c.colour() if c.rng.random() < 0.35 else vary(c.rng, (222, 212, 190), 14)
            c.rect(0.3, 1.2 + 0.75 * i, float(c.rng.uniform(0.9, 1.4)), 0.6, rgb, 255)
            c.rect(0.24, 1.1 + 0.75 * i, 1.5, 0.08, (110, 78, 54), 255)
        c.rect(1.66, 1.1, 0.09, c.height - 1.1, (110, 78, 54), 255)

    def barn(c: Canvas) -> None:
        c.courses(0.15, 0.32, dim(brick, 1.1), 16)
        c.door(0.8, 2.2, 2.6, (90, 122, 84), (226, 206, 160), arch=False)
        c.posters(c.width - 2.2, 0.9, 1.9, 3)
        c.grime()

    b.ring(8, (0, 0), (4.6, 4.4), (0, 4.2), base, lid=flat((120, 100, 80)))
    b.ring(8, (0, 0), (4.0, 2.3), (4.2, 13.5), boards)
    b.ring(8, (0, 0), (2.6, 0.0), (13.5, 16.6), tiled((92, 78, 62), 0.26))
    tilt = 0.42
    for k in range(4):
        a = tilt + k * np.pi / 2
        d, s = np.array([np.cos(a), 0, np.sin(a)]), np.array([np.sin(a), 0, -np.cos(a)])
        hub: F64 = np.array([0, -3.3, 13.2])
        b.face([hub, hub + 1.76 * s, hub + 1.76 * s + 8.2 * d, hub + 8.2 * d], sail, cutout=True)
    b.box((-0.35, 0.35), (-3.5, -1.5), (12.85, 13.55), flat(IRON), flat(IRON), flat(IRON))
    b.box((4.6, 10.4), (-1.5, 3.5), (0, 3.2), barn, barn, flat(brick))
    b.gable(
        (4.6, 10.4), (-1.5, 3.5), (3.2, 6.0), tiled((136, 70, 52), 0.3), stones(brick, 0.15, 0.3)
    )


def guildhall(b: Builder) -> None:
    """Three merchants' houses wall to wall: stepped, timbered and gabled."""

    def timbered(c: Canvas) -> None:
        c.px[..., :3] = (232, 214, 174)
        c.mottle(0.12)
        beam: Rgb = (92, 54, 36)
        for y in (0.1, 3.3, 6.2, 8.9):
            c.rect(0, y, c.width, 0.3, vary(c.rng, beam, 8))
        for x in np.arange(0, c.width, 1.28):
            c.rect(float(x), 0, 0.24, c.height, vary(c.rng, beam, 8))
            y = float(c.rng.choice([3.5, 6.4, 9.1]))
            c.line([(x, y), (x + 1.3, y + 2.5)], 0.22, vary(c.rng, beam, 8))
        for i in range(3):
            c.window(0.75 + 1.9 * i, 4.0, 1.2, 1.6, "lead flowers", (210, 190, 150), beam)
            c.window(0.75 + 1.9 * i, 6.95, 1.2, 1.4, "lead", (210, 190, 150), beam)
        c.window(c.width / 2 - 0.6, 9.7, 1.2, 1.3, "lead", (210, 190, 150), beam)
        c.sign(0.5, 2.7, 5.0, 0.6, (52, 88, 66), (240, 214, 130), 11)
        c.rect(0.5, 0.4, 3.2, 2.1, vary(c.rng, GLASS, 8), 255)
        for i in range(7):
            c.rect(0.6 + 0.44 * i, 0.6, 0.3, float(c.rng.uniform(0.4, 1.4)), c.colour(), 200)
        c.door(4.3, 1.2, 2.2, (150, 52, 40), beam, arch=False)

    def stepped(c: Canvas) -> None:
        c.courses(0.13, 0.3, (150, 70, 54), 16)
        for i, (y, n) in enumerate(((4.2, 3), (7.3, 3), (10.3, 1))):
            for k in range(n):
                x = c.width / 2 + (k - (n - 1) / 2) * 1.9 - 0.55
                c.window(x, y, 1.1, 1.9 - 0.2 * i, "cross arch", WHITE, (228, 212, 170))
        for y in (3.6, 6.8, 9.8):
            c.frieze(y, 0.26, (228, 212, 170), (96, 70, 56))
        c.door(c.width / 2 - 0.9, 1.8, 3.1, (42, 62, 96), (228, 212, 170), arch=True)
        c.posters(0.2, 0.8, 1.5, 2)
        c.clock(c.width / 2, 13.2, 0.5, (240, 230, 200), (60, 40, 34))
        c.grime(0.25)

    def gabled(c: Canvas) -> None:
        c.mural(
            0,
            0,
            c.width,
            c.height,
            [(66, 106, 148), (232, 178, 84), (196, 84, 70), (240, 230, 206), (92, 140, 120)],
        )
        c.mottle(0.12)
        for y in (3.9, 6.9):
            for x in (0.7, 2.7, 4.7):
                c.window(x, y, 1.1, 1.8, "cross shutters", WHITE, (238, 226, 196))
        c.rect(0, 3.1, c.width, 0.3, WHITE)
        c.rect(0.5, 0.3, 2.9, 2.5, vary(c.rng, GLASS, 8), 255)
        c.posters(0.7, 0.8, 2.4, 3)
        c.door(4.2, 1.5, 2.6, (96, 48, 60), WHITE, arch=True)
        for i in range(8):  # awning
            c.poly(
                [
                    (0.3 + 0.41 * i, 2.6),
                    (0.71 + 0.41 * i, 2.6),
                    (0.68 + 0.4 * i, 3.1),
                    (0.28 + 0.4 * i, 3.1),
                ],
                (200, 62, 52) if i % 2 else WHITE,
            )

    plain = stones((178, 120, 92), 0.18, 0.4)
    b.face(
        [(-9.3, -4, 0), (-3.1, -4, 0), (-3.1, -4, 8.9), (-6.2, -4, 12.6), (-9.3, -4, 8.9)], timbered
    )
    b.wall((-9.3, 5), (-9.3, -4), 0, 8.9, timbered)
    b.gable((-9.3, -3.1), (-4, 5), (8.9, 12.6), tiled((150, 72, 50)), plain, along="y", over=0.5)
    start = len(b.faces)
    b.face([(-3.1, -4.3, 0), (3.1, -4.3, 0), (3.1, -4.3, 14.6), (-3.1, -4.3, 14.6)], stepped)
    whole = b.faces.pop(start)
    for i in range(6):  # one texture cut into steps, each course a face of its own
        x, z0, z1 = 3.1 - 0.55 * i, 0.0 if i == 0 else 9.4 + 0.9 * i, 10.3 + 0.9 * i
        points = np.array([(-x, -4.3, z0), (x, -4.3, z0), (x, -4.3, z1), (-x, -4.3, z1)])
        b.faces.append(Face(points, whole.paint))
    b.wall((3.1, -4.3), (3.1, 5), 0, 10.3, plain)
    b.wall((-3.1, 5), (-3.1, -4.3), 0, 10.3, plain)
    b.gable((-3.1, 3.1), (-4.2, 5), (9.4, 13.6), tiled((112, 62, 54)), plain, along="y", over=0.0)
    b.face(
        [(3.1, -3.6, 0), (9.3, -3.6, 0), (9.3, -3.6, 9.6), (6.2, -3.6, 12.0), (3.1, -3.6, 9.6)],
        gabled,
    )
    b.wall((9.3, -3.6), (9.3, 5), 0, 9.6, gabled)
    b.gable((3.1, 9.3), (-3.6, 5), (9.6, 12.0), tiled((84, 88, 96)), plain, along="y", over=0.4)


def library(b: Builder) -> None:
    """Not among the landmarks: coloured panels round a glass corner."""
    palette: list[Rgb] = [
        (226, 224, 216),
        (58, 140, 160),
        (244, 170, 54),
        (96, 98, 110),
        (186, 214, 120),
    ]

    def panels(c: Canvas) -> None:
        y = 0.0
        while y < c.height:
            x, h = 0.0, float(c.rng.uniform(0.7, 1.3))
            while x < c.width:
                w = float(c.rng.uniform(0.6, 2.4))
                c.rect(x, y, w - 0.05, h - 0.05, vary(c.rng, palette[int(c.rng.integers(5))], 10))
                if c.rng.random() < 0.4:
                    c.window(x + 0.15, y + 0.2, w - 0.35, h - 0.35, "plain", (70, 72, 78))
                x += w
            y += h
        c.sign(1, c.height - 2.2, 5, 1.2, (40, 42, 50), (250, 240, 220), 7)
        c.door(c.width / 2, 2.0, 2.6, (40, 42, 50), (120, 122, 126), arch=False)
        c.mottle(0.08)

    b.box((-8, 3), (-5, 5), (0, 9), panels, panels, flat((120, 120, 120)))
    b.box((3, 8), (-3, 5), (0, 13), panels, panels, flat((120, 120, 120)))


def station(b: Builder) -> None:
    """Not among the landmarks: yellow brick, a great fan window, two short towers."""
    brick: Rgb = (206, 176, 110)

    def hall(c: Canvas) -> None:
        c.courses(0.14, 0.3, brick, 14)
        mid = c.width / 2
        c.rose(mid, 5.6, 2.6, (150, 92, 66))
        for x in (0.8, mid - 1.2, c.width - 3.2):
            c.door(x, 2.4, 2.4, (48, 74, 66), (150, 92, 66), arch=False)
        c.sign(mid - 3.5, 8.7, 7, 0.9, (52, 66, 92), (240, 234, 214), 12)
        c.grime(0.3)

    def tower(c: Canvas) -> None:
        c.courses(0.14, 0.3, dim(brick, 0.95), 14)
        for y in (1.2, 4.4, 7.6):
            c.window(c.width / 2 - 0.6, y, 1.2, 2.0, "arch cross", (70, 92, 84), (150, 92, 66))
        c.clock(c.width / 2, 11.4, 0.9, WHITE, (36, 36, 40))
        c.frieze(10.0, 0.3, (150, 92, 66), (226, 206, 150))
        c.grime(0.3)

    b.box((-5, 5), (-4, 6), (0, 10), hall, stones(brick, 0.14, 0.3), flat(brick))
    b.gable((-5, 5), (-4, 6), (10, 12.5), tiled((88, 96, 104)), flat(brick), along="y")
    for x in (-9.0, 5.0):
        b.box((x, x + 4), (-5, 0), (0, 13), tower, tower, flat(brick))
        b.ring(4, (x + 2, -2.5), (3.0, 0.0), (13, 16), tiled((110, 66, 56)))


@dataclass(frozen=True)
class Kind:
    """A building of the town: its drawing, how far a picture of it stands (metres), the height
    looked at (metres) and the colours of its paving."""

    build: Callable[[Builder], None]
    distance: float
    look: float
    paving: Rgb
    pattern: str


LANDMARKS: dict[str, Kind] = {
    "church": Kind(church, 28, 9.6, (170, 160, 146), "cobble"),
    "town-hall": Kind(town_hall, 26, 8.8, (176, 150, 128), "slab"),
    "old-gate": Kind(old_gate, 25, 8.0, (138, 134, 130), "cobble"),
    "fountain": Kind(fountain, 20, 5.2, (196, 182, 158), "slab"),
    "villa": Kind(villa, 23, 6.2, (166, 146, 116), "gravel"),
    "lighthouse": Kind(lighthouse, 30, 10.2, (150, 152, 150), "slab"),
    "windmill": Kind(windmill, 27, 8.6, (128, 138, 84), "grass"),
    "guildhall": Kind(guildhall, 23, 6.8, (156, 142, 134), "cobble"),
}
ELSEWHERE: dict[str, Kind] = {
    "elsewhere-1": Kind(library, 24, 6.4, (172, 172, 174), "slab"),
    "elsewhere-2": Kind(station, 25, 7.0, (160, 140, 120), "cobble"),
}


@dataclass(frozen=True)
class Place:
    """A building where it stands. centre, target: (3,) metres; heading: radians, about z."""

    name: str
    kind: Kind
    centre: F64
    heading: float
    faces: tuple[Face, ...]

    @property
    def target(self) -> F64:
        """(3,) the point pictures look at."""
        return np.add(self.centre, (0.0, 0.0, self.kind.look))


def place(seed: int, name: str) -> Place:
    """Build one square: the building, its paving and the houses and trees round it."""
    kinds = {**LANDMARKS, **ELSEWHERE}
    slot = list(kinds).index(name)
    rng = seeded(seed, "place", name)
    kind = kinds[name]
    builder = Builder(rng)
    kind.build(builder)
    faces = [*builder.faces, *_neighbours(rng), _plate(rng, kind)]
    # All fronts face the middle of the ring, so every picture looks out of town and no building
    # stands behind another one: a query then has one right answer.
    angle = 2 * np.pi * slot / len(kinds) + float(rng.uniform(-0.03, 0.03))
    away = TOWN_M + float(rng.uniform(-4, 4))
    centre = np.array([away * np.cos(angle), away * np.sin(angle), 0.0])
    heading = float(angle - np.pi / 2 + rng.uniform(-0.06, 0.06))
    return Place(name, kind, centre, heading, tuple(placed(faces, centre, heading)))


def _neighbours(rng: Rng) -> list[Face]:
    """Plain houses and trees in a horseshoe behind the building."""
    out: list[Face] = []
    for angle in np.linspace(-18, 198, 15):
        a = np.radians(angle + rng.uniform(-3, 3))
        r = float(rng.uniform(27, 31))
        at = np.array([r * np.cos(a), r * np.sin(a), 0.0])
        b = Builder(rng, 22.0)
        if rng.random() < 0.24:
            tree(b, float(rng.uniform(6, 9)), 0.0)
            out += placed(b.faces, at, 0.0)
            continue
        house(b)
        out += placed(b.faces, at, float(a + np.pi / 2 + np.pi))
    return out


def house(b: Builder) -> None:
    """A house of the background: plaster, three or four windows a floor, a tiled roof."""
    rng = b.rng
    w, d, h = rng.uniform(6, 9.5), rng.uniform(6, 8), rng.uniform(5, 10)
    wall = vary(
        rng,
        [
            (226, 208, 170),
            (206, 160, 132),
            (190, 198, 196),
            (228, 222, 210),
            (196, 176, 120),
            (168, 120, 104),
        ][int(rng.integers(6))],
        12,
    )
    trim = vary(rng, (200, 190, 176), 25)
    style = str(rng.choice(["cross", "cross shutters", "grid", "cross lintel", "arch cross"]))

    def face(c: Canvas) -> None:
        c.px[..., :3] = wall
        c.mottle(0.12, 2)
        n = max(2, int(c.width / 2.4))
        for floor in range(int(h / 2.9)):
            for i in range(n):
                x = (i + 0.5) * c.width / n - 0.5 + float(c.rng.uniform(-0.12, 0.12))
                c.window(x, 0.9 + 2.9 * floor, 1.0, 1.4, style, WHITE, trim)
        c.door(float(c.rng.uniform(0.6, c.width - 1.8)), 1.1, 2.1, c.colour(), trim, arch=False)
        c.grime(0.3)

    roof_rgb = vary(rng, [(160, 84, 58), (110, 64, 54), (88, 88, 96)][int(rng.integers(3))], 12)
    y = (-d / 2, d / 2)
    b.box((-w / 2, w / 2), y, (0, h), face, face, flat(wall))
    b.gable(
        (-w / 2, w / 2),
        y,
        (h, h + rng.uniform(2.2, 3.6)),
        tiled(roof_rgb, 0.4),
        flat(wall, 0.15),
        along=str(rng.choice(["x", "y"])),
        ppm=20,
    )


def _plate(rng: Rng, kind: Kind) -> Face:
    """The paving: a repeating tile, tinted by stains and ornament that do not repeat."""
    half = SQUARE_M / 2
    ppm = 72.0
    tile = Canvas(rng, 512 / ppm, 512 / ppm, ppm, kind.paving)
    _pave(tile, kind.pattern)
    plate = Canvas(rng, SQUARE_M, SQUARE_M, 12, (128, 128, 128))
    for i in range(6, 0, -1):
        plate.disc(half, half, 2.6 * i + 3, (138, 132, 124) if i % 2 else (116, 118, 122))
    for _ in range(260):
        x, y = rng.uniform(0, SQUARE_M, 2)
        plate.disc(x, y, rng.uniform(0.1, 0.7), vary(rng, (112, 112, 110), 14), flat=0.7)
    for a in np.linspace(0, 2 * np.pi, 12, endpoint=False):
        plate.line(
            [
                (half + 8 * np.cos(a), half + 8 * np.sin(a)),
                (half + 18 * np.cos(a), half + 18 * np.sin(a)),
            ],
            0.5,
            (146, 140, 132),
        )
    plate.mottle(0.22, 9)
    square = np.array([(-half, -half, 0.0), (half, -half, 0), (half, half, 0), (-half, half, 0)])
    corner = np.array([-half, half, 0.0])
    x, y = np.array([1.0, 0, 0]), np.array([0, -1.0, 0])
    return Face(
        square,
        Paint(Texture.build(tile.px), corner, x / ppm, y / ppm, wrap=True),
        Paint(Texture.build(plate.px), corner, x / 12, y / 12),
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
    return Sky(
        np.clip(clouds, 0, 1).astype(np.float32),
        np.array(hills, np.float32),
        np.array([(0.16, 0.22, 0.28), (0.14, 0.22, 0.12)]),
    )


# --------------------------------------------------------------------------- clutter


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


def clutter(rng: Rng, where: Place, eye: F64, amount: int) -> list[Face]:
    """What happens to stand about in one picture, most of it beside the line of sight.

    eye: (3,) camera centre, metres. Nothing comes nearer to it than 5 m.
    """
    out: list[Face] = []
    sight = (where.centre - eye)[:2]
    far = float(np.linalg.norm(sight))
    bearing = float(np.arctan2(sight[1], sight[0]))
    things: list[tuple[Callable[[Builder], None], tuple[float, float], bool]] = [
        (person, (0.0, 0.42), True),
        (car, (0.12, 0.42), False),
        (lamp, (0.06, 0.42), False),
        (person, (0.0, 0.40), True),
        (kiosk, (0.24, 0.46), True),
        (
            lambda b: tree(b, float(b.rng.uniform(4.5, 7)), float(b.rng.uniform(0, 3))),
            (0.3, 0.5),
            False,
        ),
    ]
    spots: list[F64] = []
    for i in range(amount):
        make, (near, wide), facing = things[i % len(things)]
        for _ in range(30):
            side = float(rng.choice([-1, 1])) * float(rng.uniform(near, wide))
            away = float(rng.uniform(max(7.0, 0.35 * far), max(8.0, far - 8.0)))
            a = bearing + side
            spot = eye * (1.0, 1.0, 0.0) + away * np.array([np.cos(a), np.sin(a), 0.0])
            clear = float(np.linalg.norm(spot - where.centre)) > 11.5
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
