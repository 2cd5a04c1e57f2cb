"""Keypoints of LF-Net, and the crops around them (Ono et al., section 3.1), all differentiable but for
the choice of the pixels.

Points are (x, y) in pixels, images and maps have one size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from locate.extractors.blocks.detection import local_maxima
from locate.extractors.blocks.grids import sample
from locate.extractors.lfnet.network import BORDER, SIDE, Maps

SUPPRESSED = 2  # pixels: half the side of the windows of 5 x 5 that hold one point
_PEAK = 9  # samples along a side of the window in which a point is refined


class Keypoints(NamedTuple):
    """K points of each of B images, best first."""

    pixels: Tensor  # B x K int64: x + width * y of the maximum
    points: Tensor  # B x K x 2, refined
    scales: Tensor  # B x K
    orientations: Tensor  # B x K x 2, (cos, sin)
    scores: Tensor  # B x K, of the maximum; 0 where there were no more maxima


def inner(shape: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """Where points may lie: H x W bool, false along the borders."""
    found = torch.zeros(shape, dtype=torch.bool, device=device)
    found[BORDER : shape[0] - BORDER, BORDER : shape[1] - BORDER] = True
    return found


def maxima(score: Tensor) -> Tensor:
    """Scores B x H x W, 0 wherever another one in the window is higher."""
    return torch.where(local_maxima(score, SUPPRESSED), score, 0)


def best(score: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest values (or all) of B x H x W, best first, and their places x + width * y:
    B x K each."""
    flat = score.flatten(1)
    values, places = flat.topk(min(count, flat.shape[1]), dim=1)
    return values, places


def detect(maps: Maps, allowed: Tensor, count: int, strength: float) -> Keypoints:
    """The `count` best maxima.

    Args:
        allowed: B x H x W bool, where points may lie.
        strength: of the soft argument of the maximum.
    """
    with torch.no_grad():
        scores, pixels = best(maxima(maps.score) * allowed, count)
    return keypoints_at(maps, pixels, scores, strength)


def keypoints_at(maps: Maps, pixels: Tensor, scores: Tensor, strength: float) -> Keypoints:
    """What the maps say of B x K pixels; see `Keypoints`."""
    scales = look(maps.scale[:, None], pixels)[..., 0]
    points = refine(maps.score, centres(pixels, maps.score.shape[-1]), scales, strength)
    return Keypoints(pixels, points, scales, look(maps.orientation, pixels), scores)


def centres(pixels: Tensor, width: int) -> Tensor:
    """Places x + width * y, B x K -> (x, y), B x K x 2 float."""
    return torch.stack((pixels % width, pixels.div(width, rounding_mode="floor")), dim=2).float()


def nearest(points: Tensor, shape: tuple[int, int]) -> Tensor:
    """The pixels nearest to points B x K x 2 in an image of `shape`: x + width * y, B x K int64."""
    height, width = shape
    x = points[..., 0].round().long().clamp(0, width - 1)
    y = points[..., 1].round().long().clamp(0, height - 1)
    return x + width * y


def look(maps: Tensor, pixels: Tensor) -> Tensor:
    """Of maps B x C x H x W the values at pixels B x K: B x K x C."""
    flat = maps.flatten(2)
    return flat.gather(2, pixels[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)


def refine(score: Tensor, points: Tensor, scales: Tensor, strength: float) -> Tensor:
    """The soft argument of the maximum: points B x K x 2 moved by the mean offset of 9 x 9 samples of
    the score, a pixel times the scale apart, weighted by the softmax of `strength` times the score."""
    upright = torch.zeros_like(points)
    upright[..., 0] = 1
    where = sampling_grid(points, scales, upright, _PEAK)  # B x K x 81 x 2
    read = sample(score[:, None], where.flatten(1, 2)).view(where.shape[:3])
    weights = torch.softmax(strength * read, dim=2)
    return (weights[..., None] * where).sum(dim=2)


def sampling_grid(points: Tensor, scales: Tensor, orientations: Tensor, side: int) -> Tensor:
    """Where the samples of a crop lie: B x K x `side`^2 x 2, row by row. A crop's sample u (its own
    coordinates, the middle at 0) lies at p + s R(theta) u, R being ((cos, -sin), (sin, cos)).

    Args:
        points: B x K x 2, p.
        scales: B x K, s; pixels between samples.
        orientations: B x K x 2, (cos, sin) of theta.
    """
    steps = torch.arange(side, device=points.device) - (side - 1) / 2
    v, u = torch.meshgrid(steps, steps, indexing="ij")
    cos, sin = (scales * orientations[..., i] for i in (0, 1))
    x, y = u.flatten(), v.flatten()
    along = cos[..., None] * x - sin[..., None] * y
    down = sin[..., None] * x + cos[..., None] * y
    return points[:, :, None] + torch.stack((along, down), dim=3)


def cut(images: Tensor, points: Tensor, scales: Tensor, orientations: Tensor) -> Tensor:
    """Crops of 32 x 32 by a bilinear spatial transformer, beyond the border the border's value:
    B x C x H x W -> B K x C x 32 x 32. See `sampling_grid`."""
    where = sampling_grid(points, scales, orientations, SIDE).flatten(1, 2)
    read = sample(images, where)  # B x K 32^2 x C
    return read.reshape(-1, SIDE, SIDE, images.shape[1]).permute(0, 3, 1, 2)
