"""Where each pixel of one image lies in the other: from a homography, or around points that are known
to be the same.

Of two photos nothing but some points is known. Around each a few pixels are, by the affine map that
fits its neighbours best.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from locate.extractors.lfnet.detection import inner, look, nearest
from locate.types import Array

NEIGHBOURS = 12  # points that an affine map is fitted to
REACH = 3  # pixels around a known point that are known, too
_FAR = 3.0  # pixels by which neighbours may miss the map; more, and it is none
_MOST = 4.0  # size of things in one image to the other, at most
_MOST_STRETCH = 3.0  # the larger to the smaller


class Field(NamedTuple):
    """Of the pixels of B images, in the other one of their pair."""

    where: Tensor  # B x 2 x H x W, (x, y)
    jacobian: Tensor  # B x 4 x H x W, of the map: dx/dx, dx/dy, dy/dx, dy/dy
    seen: Tensor  # B x H x W bool: both ends are known, shown and not at a border

    def turn(self) -> tuple[Tensor, Tensor]:
        """(cos, sin), B x H x W, of the rotation nearest to the Jacobian."""
        a, b, c, d = self.jacobian.unbind(1)
        cos, sin = a + d, c - b
        length = (cos**2 + sin**2).sqrt().clamp(min=1e-8)
        return cos / length, sin / length

    def log_scale(self) -> Tensor:
        """B x H x W: the logarithm of sqrt(|det J|), the local scale."""
        a, b, c, d = self.jacobian.unbind(1)
        return (a * d - b * c).abs().clamp(min=1e-8).log() / 2

    def bring(self, points: Tensor, pixels: Tensor) -> Tensor:
        """Points B x K x 2 near pixels B x K (x + width * y): in the other image, B x K x 2."""
        width = self.where.shape[-1]
        x, y = points[..., 0] - pixels % width, points[..., 1] - pixels // width
        a, b, c, d = look(self.jacobian, pixels).unbind(2)
        return look(self.where, pixels) + torch.stack((a * x + b * y, c * x + d * y), dim=2)


def by_homography(there_from_here: Tensor, shape: tuple[int, int]) -> Field:
    """Of one image (B = 1), `seen` wherever it is not behind the horizon. 3 x 3."""
    x, y = _pixels(shape, there_from_here)
    h = there_from_here
    u, v, w = (h[i, 0] * x + h[i, 1] * y + h[i, 2] for i in range(3))
    ahead = w > 1e-8
    w = torch.where(ahead, w, 1)
    u, v = u / w, v / w
    jacobian = [(h[i, j] - to * h[2, j]) / w for i, to in ((0, u), (1, v)) for j in (0, 1)]
    return Field(torch.stack((u, v))[None], torch.stack(jacobian)[None], ahead[None])


def around_points(owners: Tensor, here: Tensor, there: Tensor, affine: Tensor) -> Field:
    """Of one image (B = 1), `seen` wherever a point is near.

    Args:
        owners: H x W int64, the point that each pixel belongs to, or -1.
        here, there: N x 2.
        affine: N x 4, row by row, of the map around each point.
    """
    shape = (owners.shape[0], owners.shape[1])
    x, y = _pixels(shape, here)
    number = owners.clamp(min=0)
    a, b, c, d = affine[number].unbind(2)
    dx, dy = x - here[number][..., 0], y - here[number][..., 1]
    at = there[number]
    where = torch.stack((at[..., 0] + a * dx + b * dy, at[..., 1] + c * dx + d * dy))
    return Field(where[None], torch.stack((a, b, c, d))[None], (owners >= 0)[None])


def joined(fields: list[Field], valid: Tensor, valid_there: Tensor) -> Field:
    """B of one image each, as one; unseen is what does not lie on what the images show (B x H x W bool
    here and there) off their borders."""
    where, jacobian, seen = (torch.cat(part) for part in zip(*fields, strict=True))
    shape = (valid.shape[-2], valid.shape[-1])
    frame = inner(shape, valid.device)
    height, width = shape
    inside = (where > -0.5) & (where < where.new_tensor((width, height))[:, None, None] - 0.5)
    there = nearest(where.flatten(2).mT, shape)
    known = (valid_there & frame).flatten(1).gather(1, there).view_as(seen)
    return Field(where, jacobian, seen & valid & frame & inside.all(dim=1) & known)


def _pixels(shape: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """x and y of all pixels, H x W each."""
    rows, columns = (torch.arange(n, device=like.device, dtype=like.dtype) for n in shape)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return x, y


def owners_of(points: Array, shape: tuple[int, int]) -> Array:
    """Which of N x 2 points each pixel of an image belongs to, the nearest pixel of which is at most
    `REACH` pixels away along both axes, or -1: H x W int64."""
    owners = np.full(shape, -1, np.int64)
    steps = np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1].reshape(2, -1).T
    far_first = steps[np.argsort(-(steps**2).sum(axis=1), kind="stable")]
    middle = np.rint(points).astype(np.int64)
    for dy, dx in far_first:  # the nearer to its point overwrites the farther
        x, y = middle[:, 0] + dx, middle[:, 1] + dy
        able = np.flatnonzero((x >= 0) & (x < shape[1]) & (y >= 0) & (y < shape[0]))
        owners[y[able], x[able]] = able
    return owners


def local_affine(points_a: Array, points_b: Array) -> tuple[Array, Array]:
    """The affine maps from a to b around N x 2 points, through each and its neighbours, by least
    squares: N x 2 x 2 float64; and N bool, which of them say something."""
    count = min(NEIGHBOURS, len(points_a) - 1)
    if count < 3:
        return np.zeros((len(points_a), 2, 2)), np.zeros(len(points_a), np.bool_)
    a, b = (points.astype(np.float64) for points in (points_a, points_b))
    apart = ((a[:, None] - a[None]) ** 2).sum(axis=2)
    near = np.argsort(apart, axis=1, kind="stable")[:, 1 : count + 1]
    da, db = a[near] - a[:, None], b[near] - b[:, None]  # N x count x 2
    # db = A da: A = (sum db da^T) (sum da da^T)^-1
    spread = np.einsum("nki,nkj->nij", da, da)
    spread += 1e-6 * np.eye(2) * (1 + np.trace(spread, axis1=1, axis2=2))[:, None, None]
    affine = np.einsum("nki,nkj->nij", db, da) @ np.linalg.inv(spread)
    missed = np.sqrt(((db - np.einsum("nij,nkj->nki", affine, da)) ** 2).sum(axis=2).mean(axis=1))
    stretch = np.linalg.svd(affine, compute_uv=False)
    good = (np.linalg.det(affine) > 0) & (missed < _FAR)
    good &= (stretch[:, 0] < _MOST) & (stretch[:, 1] > 1 / _MOST)
    return affine, good & (stretch[:, 0] < _MOST_STRETCH * stretch[:, 1])
