"""Synthetic shapes whose corners are known exactly: what a corner detector learns first.

The nine kinds of DeTone, Malisiewicz and Rabinovich, "SuperPoint", CVPR Workshops 2018, section 4.1 and
figure 4: lines, a polygon, several polygons, ellipses, a star, a checkerboard, stripes, a cube, noise.
Ellipses and noise have no corner. The drawing is our own: everything is placed in real numbers, drawn
`_FINE` times as large and averaged down, so that a corner's place is exact to a fraction of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import cv2
import numpy as np

from locate.errors import InputError
from locate.pixels import apply_homography
from locate.training.data.homographies import HomographySettings, random_homography
from locate.types import Array

_FINE = 4  # times as large is drawn
_SHIFT = 8  # binary digits behind the point of OpenCV's coordinates
_CONTRAST = 25  # grey levels, least, between what meets
_NEAR = 3.0  # pixels: corners this near to each other cannot be told apart
_TURN = HomographySettings(rotation=180, scale=(0.8, 1.3), perspective=0.25, translation=0.1)


class Drawing(NamedTuple):
    """An image of a shape, H x W uint8, and its corners, N x 2 float64 (x, y) in pixels, within it."""

    image: Array
    corners: Array


def draw_shape(kind: str, rng: np.random.Generator, size: tuple[int, int]) -> Drawing:
    """One image of `size` (width, height) with a shape of a kind of `SHAPES`."""
    if kind not in SHAPES:
        raise InputError(f"a shape is one of {', '.join(SHAPES)}, not {kind!r}")
    if min(size) < 32:
        raise InputError(f"shapes need images of 32 pixels or more, got {size}")
    canvas = _Canvas(rng, size)
    corners = np.asarray(SHAPES[kind](canvas), np.float64).reshape(-1, 2)
    return Drawing(canvas.finish(), canvas.within(corners))


class _Canvas:
    """An image in the making; coordinates are pixels of the finished one."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self.rng, self.size = rng, size
        self.side = min(size)
        width, height = size
        self.grey = float(rng.uniform(0, 255))
        self._fine = np.full((height * _FINE, width * _FINE), self.grey, np.float32)
        self._background()

    def _background(self) -> None:
        """Soft blobs of other grey levels; of low contrast, so that they have no corners."""
        coarse = self.rng.normal(0, 1, (5, 6)).astype(np.float32)
        height, width = self._fine.shape
        soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        self._fine += self.rng.uniform(0, 15) * soft

    def other(self, *levels: float) -> float:
        """A grey level that is told from the background and from `levels`."""
        while True:
            level = float(self.rng.uniform(0, 255))
            if min(abs(level - one) for one in (self.grey, *levels)) >= _CONTRAST:
                return level

    def polygon(self, corners: Array, level: float) -> None:
        """Fill a polygon, N x 2."""
        cv2.fillPoly(self._fine, [self._fixed(corners)], level, shift=_SHIFT)

    def stroke(self, start: Array, end: Array, width: float, level: float) -> None:
        """A line with square ends at its end points, `width` pixels wide."""
        along = np.asarray(end) - start
        along = along / np.linalg.norm(along)
        across = np.array((-along[1], along[0])) * width / 2
        self.polygon(np.stack((start + across, end + across, end - across, start - across)), level)

    def ellipse(self, centre: Array, axes: Array, angle: float, level: float) -> None:
        """Axes are half lengths; the angle is in radians."""
        turns = np.linspace(0, 2 * math.pi, 90, endpoint=False)
        turn = np.array(((math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))))
        rim = np.stack((np.cos(turns), np.sin(turns)), axis=1) * axes @ turn.T + centre
        self.polygon(rim, level)

    def noise(self) -> None:
        """Every pixel for itself."""
        rough = self.rng.normal(0, self.rng.uniform(20, 90), self.size[::-1]).astype(np.float32)
        self._fine += np.kron(rough, np.ones((_FINE, _FINE), np.float32))

    def place(self, margin: float = 0.1) -> Array:
        """A random point away from the border by a share of the shorter side."""
        edge = margin * self.side
        return np.asarray(self.rng.uniform(edge, np.asarray(self.size) - 1 - edge))

    def warp(self, points: Array) -> Array:
        """Points seen at a slant and turned, which keeps lines straight."""
        return apply_homography(random_homography(self.rng, self.size, _TURN), points)

    def within(self, points: Array) -> Array:
        """Those that lie in the image."""
        inside = np.all((points >= 0) & (points <= np.asarray(self.size) - 1), axis=1)
        return np.asarray(points[inside])

    def finish(self) -> Array:
        """The image, H x W uint8, a little out of focus."""
        width, height = self.size
        image = cv2.resize(self._fine, (width, height), interpolation=cv2.INTER_AREA)
        sigma = self.rng.uniform(0.2, 0.9)
        image = cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        return np.asarray(np.clip(np.rint(image), 0, 255).astype(np.uint8))

    @staticmethod
    def _fixed(points: Array) -> Array:
        """Edges on edges: fine + 0.5 = _FINE (pixel + 0.5)."""
        fine = (np.asarray(points) + 0.5) * _FINE - 0.5
        return np.asarray(np.rint(fine * 2**_SHIFT).astype(np.int32))


def _apart(points: list[Array], new: Array, least: float) -> bool:
    return all(np.linalg.norm(np.asarray(new) - one) >= least for one in points)


def _lines(canvas: _Canvas) -> Array:
    """Lines that do not meet; their ends are the corners."""
    rng, least = canvas.rng, 0.08 * canvas.side
    kept: list[tuple[Array, Array]] = []
    for _ in range(int(rng.integers(1, 11))):
        start, end = canvas.place(0.03), canvas.place(0.03)
        if np.linalg.norm(end - start) < 3 * least:
            continue
        if all(_gap((start, end), other) >= least for other in kept):
            kept.append((start, end))
            canvas.stroke(start, end, rng.uniform(1, max(1.5, 0.04 * canvas.side)), canvas.other())
    return np.array([end for line in kept for end in line])


def _gap(one: tuple[Array, Array], other: tuple[Array, Array]) -> float:
    """The least distance between two line segments, by a fine net of their points."""
    steps = np.linspace(0, 1, 50)[:, None]
    a, b = (start + steps * (end - start) for start, end in (one, other))
    return float(np.linalg.norm(a[:, None] - b[None], axis=2).min())


def _corners_around(canvas: _Canvas, centre: Array, radius: float, count: int) -> Array:
    """A polygon around a centre: angles of at least 30 degrees between corners, in their order."""
    rng = canvas.rng
    while True:
        angles = np.sort(rng.uniform(0, 2 * math.pi, count))
        gaps = np.diff(np.append(angles, angles[0] + 2 * math.pi))
        if gaps.min() > math.pi / 6 and gaps.max() < math.pi:
            break
    radii = radius * rng.uniform(0.5, 1, count)
    return np.asarray(centre + radii[:, None] * np.stack((np.cos(angles), np.sin(angles)), axis=1))


def _sharp(corners: Array) -> Array:
    """Corners of a polygon whose inner angle is not too near to 180 degrees to be seen."""
    before, after = np.roll(corners, 1, axis=0) - corners, np.roll(corners, -1, axis=0) - corners
    cosines = (before * after).sum(axis=1)
    cosines /= np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    return np.asarray(corners[cosines > math.cos(math.radians(155))])


def _polygon(canvas: _Canvas) -> Array:
    radius = canvas.rng.uniform(0.15, 0.5) * canvas.side
    count = int(canvas.rng.integers(3, 7))
    corners = _corners_around(canvas, canvas.place(0.25), radius, count)
    canvas.polygon(corners, canvas.other())
    return _sharp(corners)


def _polygons(canvas: _Canvas) -> Array:
    """Several that do not overlap."""
    rng = canvas.rng
    placed: list[tuple[Array, float]] = []
    found = []
    for _ in range(30):
        radius, centre = rng.uniform(0.06, 0.22) * canvas.side, canvas.place(0.05)
        if all(np.linalg.norm(centre - c) > radius + r + _NEAR for c, r in placed):
            placed.append((centre, radius))
            corners = _corners_around(canvas, centre, radius, int(rng.integers(3, 6)))
            canvas.polygon(corners, canvas.other())
            found.append(_sharp(corners))
        if len(placed) == 8:
            break
    return np.concatenate(found)


def _ellipses(canvas: _Canvas) -> Array:
    """Several that do not overlap, and have no corner."""
    rng = canvas.rng
    placed: list[tuple[Array, float]] = []
    for _ in range(20):
        axes, centre = rng.uniform(0.03, 0.2, 2) * canvas.side, canvas.place(0.05)
        if all(np.linalg.norm(centre - c) > axes.max() + r + _NEAR for c, r in placed):
            placed.append((centre, float(axes.max())))
            canvas.ellipse(centre, axes, rng.uniform(0, math.pi), canvas.other())
    return np.zeros((0, 2))


def _star(canvas: _Canvas) -> Array:
    """Lines from one point; their ends and that point are the corners."""
    rng = canvas.rng
    centre = canvas.place(0.25)
    ends = _corners_around(canvas, centre, 0.45 * canvas.side, int(rng.integers(3, 7)))
    for end in ends:
        canvas.stroke(centre, end, rng.uniform(1, max(1.5, 0.03 * canvas.side)), canvas.other())
    return np.concatenate((centre[None], ends))


def _checkerboard(canvas: _Canvas) -> Array:
    """Squares of many greys at a slant; every crossing is a corner."""
    rng = canvas.rng
    columns, rows = (int(n) for n in rng.integers(3, 8, 2))
    width, height = canvas.size
    x, y = np.linspace(0.1 * width, 0.9 * width, columns + 1), np.linspace(0.1, 0.9, rows + 1)
    net = canvas.warp(np.stack(np.meshgrid(x, y * height), axis=-1).reshape(-1, 2))
    net = net.reshape(rows + 1, columns + 1, 2)
    levels = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            beside = [levels[i - 1, j]] * (i > 0) + [levels[i, j - 1]] * (j > 0)
            levels[i, j] = canvas.other(*beside)
            square = net[[i, i, i + 1, i + 1], [j, j + 1, j + 1, j]]
            canvas.polygon(square, levels[i, j])
    return net.reshape(-1, 2)


def _stripes(canvas: _Canvas) -> Array:
    """Parallel stripes at a slant; their ends are the corners."""
    rng = canvas.rng
    count = int(rng.integers(2, 9))
    width, height = canvas.size
    cuts = np.cumsum(rng.uniform(0.5, 1.5, count + 1))
    cuts = (0.1 + 0.8 * (cuts - cuts[0]) / (cuts[-1] - cuts[0])) * width
    low, high = np.sort(rng.uniform(0.05, 0.95, 2))
    high = max(high, low + 0.2)
    ends = np.stack((np.stack((cuts, np.full_like(cuts, low * height)), axis=1),
                     np.stack((cuts, np.full_like(cuts, high * height)), axis=1)))  # fmt: skip
    ends = canvas.warp(ends.reshape(-1, 2)).reshape(2, count + 1, 2)
    level = canvas.grey
    for i in range(count):
        level = canvas.other(level)
        canvas.polygon(ends[[0, 0, 1, 1], [i, i + 1, i + 1, i]], level)
    return ends.reshape(-1, 2)


def _cube(canvas: _Canvas) -> Array:
    """A box of which three sides are seen, in parallel projection: seven corners."""
    rng = canvas.rng
    side = canvas.side
    first = rng.uniform(0, 2 * math.pi)
    angles = first + np.array((0, 1, 2)) * 2 * math.pi / 3 + rng.uniform(-0.4, 0.4, 3)
    edges = np.stack((np.cos(angles), np.sin(angles)), axis=1)
    edges *= rng.uniform(0.15, 0.35, (3, 1)) * side
    near = canvas.place(0.3)
    a, b, c = near + edges
    ab, bc, ca = near + edges[0] + edges[1], near + edges[1] + edges[2], near + edges[2] + edges[0]
    levels: list[float] = []
    for face in ((near, a, ab, b), (near, b, bc, c), (near, c, ca, a)):
        levels.append(canvas.other(*levels))
        canvas.polygon(np.stack(face), levels[-1])
    return np.stack((near, a, b, c, ab, bc, ca))


def _noise(canvas: _Canvas) -> Array:
    canvas.noise()
    return np.zeros((0, 2))


SHAPES: Mapping[str, Callable[[_Canvas], Array]] = {
    "lines": _lines,
    "polygon": _polygon,
    "polygons": _polygons,
    "ellipses": _ellipses,
    "star": _star,
    "checkerboard": _checkerboard,
    "stripes": _stripes,
    "cube": _cube,
    "noise": _noise,
}
