"""Steps that several detectors share: local maxima, edge test, sub-pixel step, suppression, pyramid.

Maps are C x H x W; positions are cells, (x, y) where they are points and (channel, y, x), N each,
where they are indices."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from locate.types import Array

Index = tuple[Tensor, Tensor, Tensor]
EDGE_RATIO = 5.0  # D2-Net's limit of the ratio of principal curvatures; SIFT has 10


def local_maxima(maps: Tensor, radius: int = 1) -> Tensor:
    """Where a value of ... x H x W is the largest of its (2 radius + 1)^2 window, bool; ties are all
    maxima. Never in the outermost row and column, whose neighbours are not all there."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    highest = functional.max_pool2d(flat, 2 * radius + 1, 1, radius).reshape(maps.shape)
    found = maps == highest
    inner = torch.zeros_like(found)
    inner[..., 1:-1, 1:-1] = True
    return found & inner


@dataclass(frozen=True, eq=False)
class Derivatives:
    """First and second derivatives by central differences at N cells, per cell of distance."""

    dx: Tensor
    dy: Tensor
    dxx: Tensor
    dyy: Tensor
    dxy: Tensor

    @classmethod
    def at(cls, maps: Tensor, index: Index) -> Derivatives:
        """At cells off the border alone: those of all channels and cells would not fit into memory."""
        c, y, x = index
        here = maps[c, y, x]
        left, right = maps[c, y, x - 1], maps[c, y, x + 1]
        up, down = maps[c, y - 1, x], maps[c, y + 1, x]
        corners = (
            maps[c, y + 1, x + 1]
            - maps[c, y + 1, x - 1]
            - maps[c, y - 1, x + 1]
            + maps[c, y - 1, x - 1]
        )
        first = (right - left) / 2, (down - up) / 2
        return cls(*first, left - 2 * here + right, up - 2 * here + down, corners / 4)

    @property
    def determinant(self) -> Tensor:
        return self.dxx * self.dyy - self.dxy**2

    def is_blob(self, ratio: float = EDGE_RATIO) -> Tensor:
        """N bool: an extremum that is no edge, tr(H)^2 / det(H) <= (r + 1)^2 / r and det(H) > 0
        (Lowe, IJCV 2004, section 4.1)."""
        determinant = self.determinant
        curved = (self.dxx + self.dyy) ** 2 <= (ratio + 1) ** 2 / ratio * determinant
        return (determinant > 0) & curved

    def step(self) -> Tensor:
        """N x 2 (x, y): from the cell to the extremum of the fitted parabola, -H^-1 g (Brown and
        Lowe, BMVC 2002); not finite where H is singular."""
        determinant = self.determinant
        x = -(self.dyy * self.dx - self.dxy * self.dy) / determinant
        y = -(self.dxx * self.dy - self.dxy * self.dx) / determinant
        return torch.stack((x, y), dim=-1)


def select(index: Index, which: Tensor) -> Index:
    """Some of the cells, by a mask or by their numbers."""
    return index[0][which], index[1][which], index[2][which]


def refine(
    maps: Tensor, index: Index, ratio: float = EDGE_RATIO, limit: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Edge test, by `ratio`, and sub-pixel step for cells off the border: the numbers of the K that
    pass, and K x 2 their places (x, y). A step of `limit` cells or more along either axis means that
    the extremum is not here."""
    derivatives = Derivatives.at(maps, index)
    step = derivatives.step()
    good = derivatives.is_blob(ratio) & (step.abs() < limit).all(dim=-1)
    kept = torch.nonzero(good)[:, 0]
    points = torch.stack((index[2], index[1]), dim=-1)[kept].to(step.dtype) + step[kept]
    return kept, points


def suppress(points: Array, scores: Array, radius: float) -> Array:
    """Greedy non-maximum suppression of N x 2 points: from the best down, every one that lies within
    `radius` of a kept one is dropped. Indices of those kept, best first; of equal scores the earlier
    comes first."""
    order = np.argsort(-scores, kind="stable")
    if radius <= 0 or len(points) == 0:
        return order
    ranked = points[order]
    better, worse = pairs_within(ranked, radius)
    kept, open_ = np.zeros(len(order), np.bool_), np.ones(len(order), np.bool_)
    while open_.any():  # all at once that have no better neighbour left, then the same again
        new = open_.copy()
        new[worse] = False
        kept |= new
        open_ &= ~new
        open_[worse[new[better]]] = False
        left = open_[better] & open_[worse]
        better, worse = better[left], worse[left]
    return np.asarray(order[kept])


def pairs_within(points: Array, radius: float) -> tuple[Array, Array]:
    """Indices (i, j), i < j, of all pairs of N x 2 points that are no farther apart than `radius`."""
    cells = np.floor(points / radius).astype(np.int64)
    cells -= cells.min(axis=0)
    width = int(cells[:, 1].max()) + 3  # a row is never beside the next
    keys = cells[:, 0] * width + cells[:, 1]
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first, second = [], []
    # Buckets of `radius`: only the nine around a point can hold one that is near enough. Half of them,
    # so that each pair comes once.
    for step in (0, 1, width - 1, width, width + 1):
        start = np.searchsorted(keys, keys + step, "left")
        count = np.searchsorted(keys, keys + step, "right") - start
        if step == 0:  # of its own only those behind it
            start, count = np.arange(len(keys)) + 1, start + count - np.arange(len(keys)) - 1
        ends = np.cumsum(count)
        first.append(np.repeat(order, count))
        second.append(order[np.arange(ends[-1]) + np.repeat(start - ends + count, count)])
    one, other = np.concatenate(first), np.concatenate(second)
    squared = ((points[one] - points[other]) ** 2).sum(axis=1)
    near = squared <= radius**2
    one, other = one[near], other[near]
    return np.minimum(one, other), np.maximum(one, other)


def resize_image(pixels: Array, size: tuple[int, int]) -> Array:
    """H x W x 3 uint8 -> `size` (width, height); area averages when shrinking, else bilinear."""
    height, width = pixels.shape[:2]
    if (width, height) == size:
        return pixels
    shrinks = size[0] < width or size[1] < height
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, size, interpolation=how))


def to_input(pixels: Array, device: torch.device, multiple: int = 32) -> Tensor:
    """H x W x C uint8, or H x W -> 1 x C x H' x W' float, 0..255, channels last; the right and the
    bottom are continued by mirroring up to a multiple of `multiple`, so that every stride divides the
    sides."""
    height, width = pixels.shape[:2]
    below, beside = -height % multiple, -width % multiple
    if below or beside:
        mirror = cv2.BORDER_REFLECT_101 if min(height, width) > multiple else cv2.BORDER_REPLICATE
        pixels = cv2.copyMakeBorder(pixels, 0, below, 0, beside, mirror)
    if not pixels.flags.writeable:  # torch warns of it, though the array is only read
        pixels = pixels.copy()
    x = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
    return x.view(*x.shape[:2], -1).permute(2, 0, 1)[None].float()
