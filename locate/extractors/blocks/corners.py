"""Where to look, and which way up: corners at several scales, to a fraction of a pixel.

Rohr, "Modelling and identification of characteristic intensity variations", IVC 1992: the determinant
of the second-moment matrix of the gradient, at its local maxima over the image, at every level of a
pyramid. It is smooth where the smaller eigenvalue (Shi and Tomasi, CVPR 1994) has a kink, so that its
maxima are found again at the same place. A corner is found again more precisely than what networks
this small learn to detect (`docs/experiments.md`, 3 and 16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from locate.extractors.blocks.detection import Derivatives, pairs_within
from locate.extractors.blocks.grids import Grid
from locate.pixels import resize_points
from locate.types import Array

_BORDER = 4  # pixels at the border of a level in which nothing is detected
LEAST = 1e-6  # strength, for grey values of 0 to 1: below there is only noise
_FURTHEST = 0.7  # pixels: a maximum that lies further from its pixel is none
# Of orientations, which a network that learned them found less well (`docs/experiments.md`, 13).
BLUR = 5.0  # pixels: standard deviation of the Gaussian
_FLAT = 1e-6  # of the gradient, in grey levels: below there is none


@dataclass(frozen=True)
class CornerSettings:
    """What a corner is. `benchmarks/ablations/steered.py` has measured others."""

    blur: float = 1.5  # in pixels, of the image before its gradient is taken, at each level
    window: float = 1.0  # in pixels, deviation of the Gaussian window of the second-moment matrix
    radius: int = 3  # a corner is the strongest within so many pixels to either side
    # In pixels of the image: of corners that several levels find at one spot the strongest counts, else
    # the second nearest neighbour of a descriptor, by which matches are judged, would be the same spot.
    cell: float = 3.0


def corners(
    grey: Array, scales: Sequence[float], settings: CornerSettings | None = None
) -> tuple[Array, Array, Array]:
    """Corners of H x W uint8 in levels of these scales, 1 and less, level by level: N x 2 float64
    places (x, y) in pixels of the image; N places in `scales`; N float32 strengths, the geometric mean
    of the two eigenvalues."""
    settings = settings or CornerSettings()
    height, width = grey.shape
    found = [(np.zeros((0, 2)), np.zeros(0, np.int64), np.zeros(0))]
    pyramid = {1.0: grey}
    for number, scale in enumerate(scales):
        size = (round(width * scale), round(height * scale))
        if min(size) <= 2 * _BORDER:
            continue
        if scale < 1:
            # Of a level twice as large it takes half the time, and averages the same pixels.
            source = min(larger for larger in pyramid if larger > 1.99 * scale or larger == 1)
            level = cv2.resize(pyramid[source], size, interpolation=cv2.INTER_AREA)
            pyramid[scale] = np.asarray(level)
        level = pyramid.get(scale, grey)
        here, values = _at(level.astype(np.float32) / 255, settings)
        there = resize_points(here, size, (width, height))
        found.append((there, np.full(len(here), number, np.int64), values))
    points, levels, strengths = map(np.concatenate, zip(*found, strict=True))
    return points, levels, strengths.astype(np.float32)


def to_corners(points: Array, image: Array, distance: float) -> tuple[Array, Array]:
    """Move N x 2 points (x, y), best first, to the nearest corner of the image, H x W x 3 uint8: the
    numbers of the K that have one within `distance` pixels, of those that share one the best; K x 2
    their corners.

    For detectors that choose points on a coarse map, whose maxima move by more than a pixel when the
    view changes; the image places them to a fraction of one."""
    there, _, _ = corners(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (1.0,))
    if len(there) == 0 or len(points) == 0:
        return np.zeros(0, np.int64), np.zeros((0, 2))
    one, other = pairs_within(np.concatenate((points, there)), distance)
    mixed = (one < len(points)) & (other >= len(points))
    one, other = one[mixed], other[mixed] - len(points)
    order = np.lexsort((((points[one] - there[other]) ** 2).sum(axis=1), one))
    kept, first = np.unique(one[order], return_index=True)
    nearest = other[order][first]
    own = np.sort(np.unique(nearest, return_index=True)[1])
    return kept[own], there[nearest[own]]


def strongest_of_cells(
    image: Array, grid: Grid, shape: tuple[int, int]
) -> tuple[Array, Array, Array]:
    """Of each cell of a map h x w = `shape`, row by row, the strongest corner that an image H x W x 3
    uint8 has in it: the K numbers of cells that have one, K x 2 places (x, y) in pixels, K strengths."""
    points, _, strengths = corners(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (1.0,))
    columns, rows = np.rint((points - grid.offset) / grid.stride).astype(np.int64).T
    inside = (columns >= 0) & (columns < shape[1]) & (rows >= 0) & (rows < shape[0])
    order = np.flatnonzero(inside)[np.argsort(-strengths[inside], kind="stable")]
    cells, first = np.unique(rows[order] * shape[1] + columns[order], return_index=True)
    return cells, points[order[first]], strengths[order[first]]


def distinct(points: Array, side: float) -> Array:
    """Which of N x 2 points, the best first, to keep so that hardly two show the same spot: the first of
    those that share a cell of a grid of this side, and of these again the first in the cells of a grid
    that is half a cell further. Indices, ascending."""
    kept = np.arange(len(points))
    for offset in (0.0, 0.5):
        x, y = np.floor(points[kept] / side + offset).astype(np.int64).T
        _, first = np.unique((x << 32) + y, return_index=True)  # y is far below 2^31
        kept = kept[np.sort(first)]
    return kept


def _strength(smooth: Array, window: float) -> Array:
    """The root of the determinant of the second-moment matrix of the gradient. In place, which takes a
    fifth of the time: fresh memory costs more than the arithmetic in it."""
    xx, yy = (cv2.Sobel(smooth, cv2.CV_32F, 1 - axis, axis, scale=1 / 8) for axis in (0, 1))
    xy = cv2.multiply(xx, yy)
    for moment in (cv2.multiply(xx, xx, dst=xx), xy, cv2.multiply(yy, yy, dst=yy)):
        cv2.GaussianBlur(moment, (0, 0), window, dst=moment)
    determinant = cv2.subtract(cv2.multiply(xx, yy, dst=xx), cv2.multiply(xy, xy, dst=xy), dst=xx)
    return np.asarray(cv2.sqrt(cv2.max(determinant, 0, dst=xx), dst=xx))


def _at(image: Array, settings: CornerSettings) -> tuple[Array, Array]:
    """The corners of one level and their strengths."""
    smooth = cv2.GaussianBlur(image, (0, 0), settings.blur)
    strength = _strength(smooth, settings.window)
    highest = cv2.dilate(strength, np.ones((2 * settings.radius + 1,) * 2, np.uint8))
    inner = np.s_[_BORDER:-_BORDER, _BORDER:-_BORDER]
    peak = (strength == highest)[inner] & (strength[inner] > LEAST)
    # Of a flat array nonzero takes a fifth of the time.
    y, x = (index + _BORDER for index in np.divmod(np.flatnonzero(peak), peak.shape[1]))
    index = tuple(torch.from_numpy(part) for part in (np.zeros_like(y), y, x))
    parabola = Derivatives.at(torch.from_numpy(strength)[None], index)  # type: ignore[arg-type]
    step = parabola.step().numpy()
    good = (parabola.determinant > 0).numpy() & (np.abs(step) < _FURTHEST).all(axis=1)
    return (np.stack((x, y), axis=1) + step)[good].astype(np.float64), strength[y, x][good]


def orientations(grey: Array, points: Array) -> Array:
    """The direction of steepest ascent of brightness of H x W uint8 at N x 2 points (x, y): N x 2
    float32, unit vectors, (1, 0) where the image is flat. It turns with the image; points beyond the
    border face as the border does."""
    border = cv2.BORDER_REPLICATE
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), BLUR, borderType=border)
    x, y = np.ascontiguousarray(points.T, np.float32)
    found = np.zeros((len(points), 2), np.float32)
    for axis in (0, 1):
        slope = cv2.Sobel(smooth, cv2.CV_32F, 1 - axis, axis, scale=1 / 8, borderType=border)
        if len(points):
            at = (x[None], y[None], cv2.INTER_LINEAR)
            found[:, axis] = cv2.remap(slope, *at, borderMode=border)[0]
    length = np.linalg.norm(found, axis=1, keepdims=True)
    flat = np.array((1.0, 0.0), np.float32)
    return np.where(length > _FLAT, found / np.maximum(length, _FLAT), flat)
