"""Painting the town's textures: colors, noise, and a canvas measured in metres.

All chance comes from the generator that a canvas is given, so the same seed is the same wall.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import cv2
import numpy as np

from locate.types import Array

Rgb = tuple[int, int, int]
Rng = np.random.Generator
Painter = Callable[["Canvas"], None]
Point = tuple[float, float]

GLASS, IRON, WHITE = (52, 66, 82), (44, 46, 50), (238, 234, 224)


def seeded(seed: int, *names: str | int) -> Rng:
    """An independent generator for each thing, so that adding one thing changes no other."""
    return np.random.default_rng([seed, *(zlib.crc32(str(n).encode()) for n in names)])


def palette(codes: str) -> list[Rgb]:
    """Colors by their hexadecimal codes."""
    return [(r, g, b) for r, g, b in map(bytes.fromhex, codes.split())]


def pick(rng: Rng, colors: Sequence[Rgb]) -> Rgb:
    return colors[int(rng.integers(len(colors)))]


def _clipped(values: Iterable[float]) -> Rgb:
    r, g, b = (min(255, max(0, round(v))) for v in values)
    return r, g, b


def vary(rng: Rng, rgb: Sequence[float], by: float) -> Rgb:
    """A neighbor of a color: brightness varies by `by` of 255, hue by a quarter of it."""
    return varied(rng, rgb, by, 1)[0]


def varied(rng: Rng, rgb: Sequence[float], by: float, n: int) -> list[Rgb]:
    """n neighbors of a color (see `vary`) at once."""
    level, hues = rng.standard_normal((n, 1)), rng.standard_normal((n, 3))
    tones = np.rint(np.asarray(rgb) + by * (level + hues / 4))
    return [(r, g, b) for r, g, b in tones.clip(0, 255).astype(int).tolist()]


def dim(rgb: Sequence[float], k: float) -> Rgb:
    """A color times k."""
    return _clipped(v * k for v in rgb)


def hue(rng: Rng, gray: float) -> Rgb:
    """A random color; gray: 0 for the full hue, 1 for none."""
    turn, level = rng.uniform(0, 6), rng.uniform(110, 225)
    pure = [float(np.clip(abs((turn + o) % 6 - 3) - 1, 0, 1)) for o in (0, 4, 2)]
    return _clipped(level * (gray + (1 - gray) * v) for v in pure)


def cloudy(rng: Rng, shape: tuple[int, ...], cell: float, octaves: int = 4) -> Array:
    """Fractal value noise (h, w) float32, about -1..1; cell: texels of the coarsest octave."""
    out, weight = np.zeros(shape, np.float32), 0.55
    for _ in range(octaves):
        grid = [max(2, int(side / cell) + 2) for side in shape]
        coarse = rng.uniform(-1, 1, grid).astype(np.float32)
        smooth = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
        out += np.float32(weight) * smooth
        cell, weight = max(cell / 2.3, 1.0), weight * 0.6
    return out


@cache
def _circle(n: int) -> Array:
    """(n, 2) corners of a unit circle."""
    t = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(t), np.sin(t)], axis=1)


def on_clock(x: float, y: float, r: float, angle: float) -> Point:
    """The point r metres from (x, y), clockwise from straight up by an angle in radians."""
    return x + r * np.sin(angle), y + r * np.cos(angle)


class Canvas:
    """A wall to paint on, in metres from its lower left corner, y up.

    px: (h, w, 4) uint8, RGB and glow (or opacity for cutouts).
    """

    def __init__(
        self, rng: Rng, width: float, height: float, ppm: float, fill: Rgb = (200, 200, 200)
    ) -> None:
        self.rng, self.width, self.height, self.ppm = rng, width, height, ppm
        shape = (max(4, round(height * ppm)), max(4, round(width * ppm)))
        self.px: Array = np.zeros((*shape, 4), np.uint8)
        self.px[..., :3] = fill

    @property
    def mid(self) -> float:
        return self.width / 2

    def _fixed(self, points: Iterable[Point] | Array) -> Array:
        """Metres to texels with four fractional bits, as OpenCV's drawing wants them."""
        k, top = 16 * self.ppm, self.height
        return np.array([(round(k * x - 8), round(k * (top - y) - 8)) for x, y in points], np.int32)

    def poly(self, points: Iterable[Point] | Array, rgb: Rgb, a: int = 0) -> None:
        cv2.fillPoly(self.px, [self._fixed(points)], (*rgb, a), cv2.LINE_AA, 4)

    def rect(self, x: float, y: float, w: float, h: float, rgb: Rgb, a: int = 0) -> None:
        self.poly([(x, y), (x + w, y), (x + w, y + h), (x, y + h)], rgb, a)

    def disc(self, x: float, y: float, r: float, rgb: Rgb, a: int = 0, flat: float = 1.0) -> None:
        k = 16 * self.ppm
        outline = _circle(28 if r * self.ppm > 6 else 10) * np.array((k * r, k * r * flat))
        outline += np.array((k * x - 8, k * (self.height - y) - 8))
        corners = np.rint(outline).astype(np.int32)
        cv2.fillPoly(self.px, [corners], (*rgb, a), cv2.LINE_AA, 4)

    def line(self, points: Sequence[Point], width: float, rgb: Rgb, a: int = 0) -> None:
        thick = max(1, round(width * self.ppm))
        cv2.polylines(self.px, [self._fixed(points)], False, (*rgb, a), thick, cv2.LINE_AA, 4)

    def _shade(self, factor: Array) -> None:
        """Multiply the colors by (h, w) or (h, w, 1) factors."""
        self.px[..., :3] = np.clip(self.px[..., :3] * factor[..., None], 0, 255).astype(np.uint8)

    def mottle(self, amount: float, cell: float = 1.5) -> None:
        """Multiply by soft noise, coarsest at `cell` metres: weather."""
        noise = cloudy(self.rng, self.px.shape[:2], max(cell * self.ppm, 2.0))
        self._shade(1 + np.float32(amount) * noise)

    def coat(self, rgb: Rgb, mottle: float = 0, cell: float = 1.5) -> None:
        """One color all over, perhaps mottled."""
        self.px[..., :3] = rgb
        if mottle:
            self.mottle(mottle, cell)

    def grime(self, amount: float = 0.35) -> None:
        """Dark foot, dark eaves and streaks of rain: what ages a wall."""
        h, w = self.px.shape[:2]
        y = (np.arange(h, dtype=np.float32)[::-1] + 0.5) / np.float32(self.ppm)  # height, metres
        edge = 0.9 * np.exp(-y / 0.35) + 0.5 * np.exp(-(self.height - y) / 0.5)
        streak = cloudy(self.rng, (4, w), 0.5 * self.ppm)
        tall = cv2.resize(streak, (w, h), interpolation=cv2.INTER_CUBIC)
        self._shade(1 - np.float32(amount) * (edge[:, None] + 0.35 * np.clip(tall, 0, 1)))

    def courses(
        self, course: float, long: float, rgb: Rgb, by: float, gap: float = 0.018, mottle: float = 0
    ) -> None:
        """Bricks or stones of random length, each with its own color, perhaps mottled."""
        self.px[..., :3] = dim(rgb, 0.72)
        n = int(self.width / (0.55 * long)) + 3
        for y in np.arange(0, self.height, course).tolist():
            steps = long * self.rng.uniform(0.55, 1.4, n)
            left = np.cumsum(steps) - steps - self.rng.uniform(0, long)
            stones = zip(left.tolist(), steps.tolist(), varied(self.rng, rgb, by, n), strict=True)
            for x, step, tone in stones:
                if x < self.width:
                    self.rect(x, y, step - gap, course - gap, tone)
        if mottle:
            self.mottle(mottle)

    def tiles(self, course: float, rgb: Rgb, by: float = 16) -> None:
        """Roof tiles, rounded at their lower end, with patches of moss and mended places."""
        self.px[..., :3] = dim(rgb, 0.6)
        n = int(self.width / course) + 2
        for row, y in enumerate(np.arange(self.height, -course, -course).tolist()):
            mended = self.rng.random(n) < 0.03
            for i, tone in enumerate(varied(self.rng, rgb, by, n)):
                x = course * (i - row % 2 / 2)
                tile = dim(tone, 1.35) if mended[i] else tone
                self.rect(x, y - course, course * 0.92, course * 1.2, dim(tile, 0.75))
                self.rect(x + 0.02, y - course + 0.05, course * 0.88, course * 1.2, tile)
        for _ in range(int(self.width * self.height / 9)):
            x, y = self.rng.uniform(0, self.width), self.rng.uniform(0, self.height)
            self.speckle(x, y, 0.5, (98, 112, 62), 12, 0.06)
        self.mottle(0.16, 2.0)

    def speckle(self, x: float, y: float, spread: float, rgb: Rgb, n: int, r: float) -> None:
        """A cluster of small leaves: moss, blossom, flowers."""
        for _ in range(n):
            dx, dy = self.rng.normal(0, spread, 2)
            self.leaf(x + dx, y + dy, r * self.rng.uniform(0.7, 1.9), vary(self.rng, rgb, 20))

    def leaf(self, x: float, y: float, r: float, rgb: Rgb) -> None:
        """A pointed leaf or petal of half length r, turned anyhow: no two alike, as discs are."""
        turn, slim = self.rng.uniform((0.0, 0.3), (6.3, 0.8))
        c, s = r * np.cos(turn), r * np.sin(turn)
        a, b = slim * c, slim * s
        self.poly([(x + c, y + s), (x - b, y + a), (x - c, y - s), (x + b, y - a)], rgb)

    def ivy(self, x: float, top: float, spread: float) -> None:
        """Climbing leaves from the ground up to `top`."""
        for _ in range(int(70 * top * spread)):
            h = top * self.rng.beta(1.2, 1.8)
            wide = spread * (1.1 - 0.6 * h / top)
            px = x + self.rng.normal(0, wide * 0.45) + 0.3 * np.sin(h * 1.7)
            tone = vary(self.rng, (74, 108, 48) if self.rng.random() < 0.85 else (150, 72, 40), 18)
            self.leaf(px, h, self.rng.uniform(0.06, 0.18), tone)

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
            left = x + w * i / n + self.rng.uniform(-0.05, 0.05)
            bottom = y + self.rng.uniform(-0.15, 0.15)
            wide, tall = w / n * 0.92, self.rng.uniform(0.8, 1.25)
            paper, ink = self.color(), self.color()
            self.rect(left, bottom, wide, tall, paper)
            self.disc(left + wide * 0.5, bottom + tall * 0.6, wide * 0.28, ink)
            self.poly(self.scrap(left, bottom + tall * 0.3, wide, tall * 0.5), self.color())
            self.glyphs(left + 0.05, bottom + 0.08, wide - 0.1, 0.16 * tall, 5, dim(ink, 0.5))

    def color(self) -> Rgb:
        """A random color, strong but not neon."""
        return hue(self.rng, 0.3)

    def scrap(self, x: float, y: float, w: float, h: float) -> list[Point]:
        """An irregular convex outline of 3 to 6 corners in a box."""
        t = np.sort(self.rng.uniform(0, 2 * np.pi, int(self.rng.integers(3, 7))))
        return [(x + w * (0.5 + 0.45 * np.cos(a)), y + h * (0.5 + 0.45 * np.sin(a))) for a in t]

    def mural(self, x: float, y: float, w: float, h: float, colors: Sequence[Rgb]) -> None:
        """A painted wall: flowing bands, discs, leaves and dots in a palette."""
        rng = self.rng
        self.rect(x, y, w, h, colors[0])
        t = np.linspace(0, 1, 24)
        for _ in range(7):
            rgb = vary(rng, pick(rng, colors), 10)
            mid, amp = rng.uniform(0.1, 0.9), rng.uniform(0.05, 0.22)
            wave = np.sin(2 * np.pi * (t * rng.uniform(0.5, 2) + rng.random()))
            top = y + h * np.clip(mid + amp * wave, 0, 1)
            bottom = np.maximum(top - h * rng.uniform(0.04, 0.2), y)
            self.poly(np.r_[np.c_[x + w * t, top], np.c_[x + w * t, bottom][::-1]], rgb)
        for _ in range(int(2.2 * w * h)):
            r = rng.uniform(0.06, 0.42) * min(1.0, h / 3)
            cx, cy = rng.uniform(x + r, x + w - r), rng.uniform(y + r, y + h - r)
            rgb = vary(rng, pick(rng, colors), 14)
            shape = rng.random()
            if shape < 0.35:
                self.disc(cx, cy, r, rgb)
                self.disc(cx, cy, r * 0.55, vary(rng, colors[-1], 14))
            elif shape < 0.75:
                self.poly(self.scrap(cx - r, cy - r, 2 * r, 2 * r), rgb)
            else:
                self.line([(cx - r, cy - r), (cx, cy + r), (cx + r, cy - r / 2)], 0.06, rgb)

    def clock(self, x: float, y: float, r: float, face: Rgb, ink: Rgb) -> None:
        """A clock at a random hour."""
        self.disc(x, y - 0.06, r * 1.16, dim(ink, 0.5))
        self.disc(x, y, r * 1.12, (196, 160, 70))
        self.disc(x, y, r, face, 200)
        for i in range(12):
            a, inner = i * np.pi / 6, 0.78 if i % 3 else 0.68
            mark = [on_clock(x, y, r * inner, a), on_clock(x, y, r * 0.95, a)]
            self.line(mark, 0.07 * r, ink)
        for reach, wide in ((0.55, 0.11), (0.8, 0.07)):
            hand = on_clock(x, y, r * reach, self.rng.uniform(0, 2 * np.pi))
            self.line([(x, y), hand], wide * r, ink)

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

        style: words out of arch, cross, grid, lead, shutters, flowers, lintel.
        """
        rng, words, right = self.rng, style.split(), x + w
        lamp = int(rng.choice([0, 0, 90, 190, 255]))
        # joiners differ: a frame's width and where its bars sit belong to this window alone
        e, bar = rng.uniform(0.06, 0.12, 2).tolist()
        if trim is not None:
            self._opening(x - 2.2 * e, y - e, w + 4.4 * e, h + 3.2 * e, words, trim)
        self._opening(x - e, y - e / 2, w + 2 * e, h + 1.5 * e, words, dim(frame, 0.55))
        self._opening(x - e / 2, y, w + e, h + e / 2, words, frame)
        self._opening(x + e / 2, y + e / 2, w - e, h - e, words, vary(rng, GLASS, 12), lamp)
        # a reflection of the sky and what stands behind the pane, none twice alike
        a = rng.uniform(0.15, 0.6)
        top = [(right - e, y + h * 0.92), (x + e, y + h * 0.88)]
        sky = [(x + e, y + h * a), (right - e, y + h * (a + 0.2)), *top]
        self.poly(sky, vary(rng, (112, 136, 160), 12), lamp)
        if rng.random() < 0.6:
            cloth = vary(rng, (206, 190, 160), 25)
            cw = w * rng.uniform(0.14, 0.3)
            self.rect(x + e, y + e, cw, h * 0.8, cloth, lamp // 2)
            self.rect(right - e - cw, y + e, cw, h * 0.8, dim(cloth, 0.94), lamp // 2)
        elif rng.random() < 0.5:
            self.disc(x + w * rng.uniform(0.3, 0.7), y + 0.25 * h, 0.16 * w, self.color())
        if "cross" in words:
            self.rect(x + w * rng.uniform(0.38, 0.62) - bar / 2, y, bar, h, frame)
            self.rect(x, y + h * rng.uniform(0.5, 0.72), w, bar, frame)
        if "grid" in words:
            for k in rng.uniform(0.15, 0.85, int(rng.integers(1, 4))):
                self.rect(x + w * k - 0.025, y, 0.05, h, frame)
            for k in rng.uniform(0.12, 0.88, int(rng.integers(2, 5))):
                self.rect(x, y + h * k, w, 0.05, frame)
        if "lead" in words:
            for i in range(-4, 9):
                s = x + w * i / 4
                for k in (1, -1):
                    ends = np.clip(np.array([s, s + k * h * 0.6]), x, right)
                    self.line([(p, y + abs(p - s) / 0.6) for p in ends], 0.03, dim(frame, 0.5))
        if "shutters" in words:
            tone = vary(rng, trim or frame, 8)
            for side in (x - 0.62 * w, right + 0.12 * w):
                wide = 0.5 * w * rng.uniform(0.8, 1.0)
                self.rect(side, y - 0.04, wide, h + 0.08, dim(tone, 0.6))
                self.rect(side + 0.03, y, wide - 0.06, h, tone)
                for k in rng.uniform(0.04, 0.9, int(rng.integers(3, 12))):
                    self.rect(side + 0.07, y + h * k, wide - 0.14, 0.05, dim(tone, 0.7))
        if "lintel" in words:
            left, more = rng.uniform(0.12, 0.35, 2)
            stone = dim(trim or frame, rng.uniform(0.8, 1.0))
            self.rect(x - left, y + h + 0.12, w + left + more, rng.uniform(0.14, 0.28), stone)
            self.rect(x - left, y + h + 0.06, w + left + more, 0.07, dim(stone, 0.55))
        left, more, deep = rng.uniform((0.08, 0.08, 0.06), (0.22, 0.22, 0.16))
        self.rect(x - left, y - 0.16, w + left + more, 0.14, dim(trim or frame, 0.95))
        self.rect(x - left, y - 0.16 - deep, w + left + more, deep, dim(trim or frame, 0.45))
        if "flowers" in words and rng.random() < 0.75:
            self.rect(x, y - 0.12, w, 0.2, (118, 72, 46))
            bloom = self.color()
            for k in rng.uniform(0, 1, int(rng.integers(2, 6))):
                up = y + rng.uniform(0.08, 0.3)
                self.speckle(x + w * k, up, 0.1, (66, 104, 48), 8, 0.05)
                self.speckle(x + w * k, up + 0.05, 0.1, bloom, 6, 0.045)

    def _opening(
        self, x: float, y: float, w: float, h: float, words: Sequence[str], rgb: Rgb, a: int = 0
    ) -> None:
        if "arch" not in words:
            self.rect(x, y, w, h, rgb, a)
            return
        r = w / 2
        t = np.linspace(0, np.pi, 15)
        round_top = [(x + r + r * np.cos(k), y + h - r + r * np.sin(k)) for k in t]
        self.poly([(x, y), (x + w, y), *round_top], rgb, a)

    def door(
        self, x: float, w: float, h: float, wood: Rgb, stone: Rgb, *, arch: bool = False
    ) -> None:
        """A panelled door at the foot of the wall, under blocks of stone."""
        words, rng = ["arch"] if arch else [], self.rng
        n = int(rng.integers(6, 11))
        for i in range(n + 1):  # voussoirs and jambs, each its own stone
            y = (h - w / 2 if arch else h) * i / n
            for side in (x - 0.34, x + w + 0.04):
                self.rect(side, y, rng.uniform(0.26, 0.38), h / n * 0.92, vary(rng, stone, 14))
        if arch:
            r = w / 2
            for k in np.linspace(0, np.pi, 13):
                cx, cy = x + r + (r + 0.18) * np.cos(k), h - r + (r + 0.18) * np.sin(k)
                self.disc(cx, cy, 0.19, vary(rng, stone, 12))
        else:
            self.rect(x - 0.4, h, w + 0.8, 0.34, vary(rng, stone, 8))
        self._opening(x, 0, w, h, words, dim(wood, 0.45))
        self._opening(x + 0.08, 0, w - 0.16, h - 0.08, words, wood)
        for k in rng.uniform(0.05, 0.9, int(rng.integers(2, 7))):
            self.rect(x + w * k, 0, 0.03, h * 0.72, dim(wood, 0.55))
        for y in rng.uniform(0.2, max(0.3, h - 0.9), int(rng.integers(1, 4))):
            reach, rise = rng.uniform((0.25, -0.1), (0.44, 0.1))
            self.line([(x + 0.12, y), (x + w * reach, y + rise)], 0.06, IRON)
            self.line([(x + w - 0.12, y), (x + w * (1 - reach), y + rise)], 0.06, IRON)
        self.disc(x + w * rng.uniform(0.15, 0.85), rng.uniform(0.9, 1.2), 0.06, (206, 170, 84))

    def frieze(self, y: float, h: float, base: Rgb, ink: Rgb) -> None:
        """A band of ornament in which no two fields are alike."""
        rng, x = self.rng, 0.0
        self.rect(0, y - 0.06, self.width, h + 0.12, dim(base, 0.6))
        self.rect(0, y, self.width, h, base)
        while x < self.width:
            wide = rng.uniform(0.5, 1.1) * h
            self.poly(self.scrap(x, y, wide, h), vary(rng, ink, 22))
            up = y + h * rng.uniform(0.3, 0.7)
            self.disc(x + wide / 2, up, 0.16 * h, vary(rng, base, 20))
            x += wide

    def stains(self, n: int, size: float, rgb: Rgb, by: float = 14) -> None:
        """Patches of another color at random, `size` metres wide or less: mended plaster, damp."""
        for _ in range(n):
            x, y = self.rng.uniform(0, self.width), self.rng.uniform(0, self.height)
            w, h = self.rng.uniform(0.3, 1.0, 2) * size
            self.poly(self.scrap(x - w / 2, y - h / 2, w, h), vary(self.rng, rgb, by))

    def quoins(self, rgb: Rgb, w: float = 0.5) -> None:
        """Corner stones at both ends of the wall."""
        x, y, i = 0.0, 0.0, 0
        while y < self.height:
            high, step = self.rng.uniform(0.28, 0.5), 1.0 if i % 2 else 0.65
            for wide in w * step * self.rng.uniform(0.8, 1.2, 2):
                x = 0.0 if x else self.width - wide
                self.rect(x, y, wide, high - 0.02, dim(rgb, 0.6))
                self.rect(x, y + 0.03, wide - 0.02, high - 0.05, vary(self.rng, rgb, 14))
            y, i = y + high, i + 1

    def rose(self, x: float, y: float, r: float, stone: Rgb) -> None:
        """A round window of colored glass."""
        self.disc(x, y, r * 1.2, dim(stone, 0.55))
        self.disc(x, y, r * 1.14, vary(self.rng, stone, 4))
        self.disc(x, y, r, (40, 38, 48))
        for ring, n, size in ((0.8, 16, 0.135), (0.48, 10, 0.135), (0.0, 1, 0.2)):
            for i in range(n):
                center = on_clock(x, y, ring * r, 2 * np.pi * i / n)
                self.disc(*center, size * r, self.color(), 230)
