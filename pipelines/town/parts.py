"""What buildings are put together from: walls, boxes, towers, gables, and painters to cover them.

A building is drawn in its own frame, front towards -y, standing at the origin, and then turned and
moved to its square by `placed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from locate.types import Array
from pipelines.town.model import Face, Paint, mipmaps
from pipelines.town.paint import Canvas, Painter, Point, Rgb, Rng

Corners = Sequence[Sequence[float] | Array]  # (x, y, z) metres


class Builder:
    """Collects faces in a local frame, front towards -y, metres."""

    def __init__(self, rng: Rng, ppm: float = 64.0) -> None:
        self.rng, self.ppm = rng, ppm
        self.faces: list[Face] = []

    def face(
        self,
        points: Corners,
        paint: Painter,
        ppm: float = 0,
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
        canvas = Canvas(self.rng, float(np.ptp(a)), float(np.ptp(b)), ppm or self.ppm)
        paint(canvas)
        h, w = canvas.px.shape[:2]
        corner = p[0] + a.min() * across + b.max() * up
        laid = Paint(mipmaps(canvas.px), corner, across * np.ptp(a) / w, -up * np.ptp(b) / h)
        self.faces.append(Face(p, laid, cutout=cutout, soft=soft))

    def wall(self, p: Point, q: Point, z: Point, paint: Painter) -> None:
        """An upright rectangle from p to q, seen with p on the left."""
        self.face([(*p, z[0]), (*q, z[0]), (*q, z[1]), (*p, z[1])], paint)

    def gable_front(self, x: Point, y: float, z: Point, paint: Painter) -> None:
        """A front wall with its gable: eaves at z[0], ridge at z[1]."""
        (x0, x1), (eaves, ridge) = x, z
        head = [(x1, y, eaves), ((x0 + x1) / 2, y, ridge), (x0, y, eaves)]
        self.face([(x0, y, 0), (x1, y, 0), *head], paint)

    def box(
        self, x: Point, y: Point, z: Point, front: Painter, side: Painter, top: Painter
    ) -> None:
        """Four walls and a lid; the back is the front again, hardly anyone sees it."""
        (x0, x1), (y0, y1), z1 = x, y, z[1]
        self.wall((x0, y0), (x1, y0), z, front)
        self._opposite(x, y)
        self.wall((x1, y0), (x1, y1), z, side)
        self.wall((x0, y1), (x0, y0), z, side)
        lid = [(x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)]
        self.face(lid, top, ppm=self.ppm / 4)

    def _opposite(self, x: Point, y: Point) -> None:
        """The last face once more, half a turn about the middle of a box: no painting."""
        self.faces += placed(self.faces[-1:], np.array([sum(x), sum(y), 0.0]), np.pi)

    def ring(
        self, n: int, centre: Point, r: Point, z: Point, paint: Painter, lid: Painter | None = None
    ) -> None:
        """n walls round a centre, of circumradius r[0] at z[0] and r[1] at z[1] (0: a spire).

        The walls behind are those in front once more.
        """
        t = -np.pi / 2 - np.pi / n + 2 * np.pi * np.arange(n) / n  # first wall faces the front
        (x, y), even = centre, n % 2 == 0
        foot, head = (
            [(x + q * np.cos(k), y + q * np.sin(k), up) for k in t]
            for q, up in zip(r, z, strict=True)
        )
        painted = [i % n for i in range(-(n // 4), n // 4 + 1)] if even else list(range(n))
        for i in painted:
            j = (i + 1) % n
            tip = [head[j], head[i]] if r[1] > 0 else [(x, y, z[1])]
            self.face([foot[i], foot[j], *tip], paint)
            if even and (i + n // 2) % n not in painted:
                self._opposite((x, x), (y, y))
        if lid is not None:
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
        ppm: float = 0,
    ) -> None:
        """A saddle roof from eaves z[0] to ridge z[1], its ridge along x or y."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        if along == "x":
            m, drop = (y0 + y1) / 2, (z1 - z0) / ((y1 - y0) / 2) * over
            a, b, e = x0 - over, x1 + over, z0 - drop
            self.face([(a, y0 - over, e), (b, y0 - over, e), (b, m, z1), (a, m, z1)], roof, ppm=ppm)
            self._opposite(x, y)
            self.face([(x1, y0, z0), (x1, y1, z0), (x1, m, z1)], end, ppm=ppm)
            self.face([(x0, y1, z0), (x0, y0, z0), (x0, m, z1)], end, ppm=ppm)
        else:
            m, drop = (x0 + x1) / 2, (z1 - z0) / ((x1 - x0) / 2) * over
            a, b, e = y0 - over, y1 + over, z0 - drop
            self.face([(x1 + over, a, e), (x1 + over, b, e), (m, b, z1), (m, a, z1)], roof, ppm=ppm)
            self.face([(x0 - over, b, e), (x0 - over, a, e), (m, a, z1), (m, b, z1)], roof, ppm=ppm)
            self.face([(x0, y0, z0), (x1, y0, z0), (m, y0, z1)], end, ppm=ppm)
            self.face([(x1, y1, z0), (x0, y1, z0), (m, y1, z1)], end, ppm=20)


def placed(faces: Sequence[Face], at: Array, heading: float) -> list[Face]:
    """Faces turned by heading (radians, about z) and moved to at (3,) metres."""
    c, s = np.cos(heading), np.sin(heading)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

    def move(p: Paint) -> Paint:
        corner = turn @ p.corner + at
        return replace(p, corner=corner, across=turn @ p.across, down=turn @ p.down)

    return [
        replace(f, points=f.points @ turn.T + at, paint=move(f.paint), tint=f.tint and move(f.tint))
        for f in faces
    ]


def tiled(rgb: Rgb, course: float = 0.32, by: float = 16) -> Painter:
    """A painter of roof tiles."""
    return lambda c: c.tiles(course, rgb, by)


def flat(rgb: Rgb, mottle: float = 0.2) -> Painter:
    """A painter of weathered plain color."""
    return lambda c: c.coat(rgb, mottle, 0.8)


def stones(rgb: Rgb, course: float = 0.35, long: float = 0.7, by: float = 14) -> Painter:
    """A painter of masonry and nothing else."""

    def paint(c: Canvas) -> None:
        c.courses(course, long, rgb, by, mottle=0.14)
        c.grime()

    return paint
