"""What buildings are put together from: walls, boxes, towers, gables, and painters to cover them.

A building is drawn in its own frame, front towards -y, standing at the origin, and then turned and
moved to its square by `placed`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipelines.town.model import F64, Face, Paint, Texture
from pipelines.town.paint import Canvas, Painter, Point, Rgb, Rng


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
        """Four walls and a lid; the back is the front again, hardly anyone sees it."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        self.wall((x0, y0), (x1, y0), z0, z1, front, ppm)
        self._opposite(self.faces[-1], x, y)
        self.wall((x1, y0), (x1, y1), z0, z1, side, ppm)
        self.wall((x0, y1), (x0, y0), z0, z1, side, ppm)
        coarse = (ppm or self.ppm) / 4
        self.face([(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)], top, ppm=coarse)

    def _opposite(self, face: Face, x: Point, y: Point) -> None:
        """The same face once more, half a turn about the middle of a box: no painting."""
        self.faces += placed([face], np.array([sum(x), sum(y), 0.0]), np.pi)

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
        """n walls round a centre, of circumradius r[0] at z[0] and r[1] at z[1] (0: a spire).

        The walls behind are those in front once more.
        """
        t = -np.pi / 2 - np.pi / n + 2 * np.pi * np.arange(n) / n  # first wall faces the front
        foot = [(centre[0] + r[0] * np.cos(k), centre[1] + r[0] * np.sin(k), z[0]) for k in t]
        head = [(centre[0] + r[1] * np.cos(k), centre[1] + r[1] * np.sin(k), z[1]) for k in t]
        (x, y), even = centre, n % 2 == 0
        painted = [i % n for i in range(-(n // 4), n // 4 + 1)] if even else list(range(n))
        for i in painted:
            j = (i + 1) % n
            tip = [head[j], head[i]] if r[1] > 0 else [(*centre, z[1])]
            self.face([foot[i], foot[j], *tip], paint, ppm=ppm)
            if even and (i + n // 2) % n not in painted:
                self._opposite(self.faces[-1], (x, x), (y, y))
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
            self._opposite(self.faces[-1], x, y)
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

    def paint(c: Canvas) -> None:
        c.tiles(course, rgb, by)

    return paint


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
