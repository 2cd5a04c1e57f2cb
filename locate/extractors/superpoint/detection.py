"""From a heat map to points: threshold, greedy suppression, borders, the best (DeTone et al., section 4
and the authors' code); and an optional step to a fraction of a pixel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def suppress_windows(heat: Tensor, radius: int) -> Tensor:
    """Greedy non-maximum suppression: from the highest value down, all others in the (2 radius + 1)^2
    window around a kept one are dropped. B x H x W -> bool of the same shape."""
    side = 2 * radius + 1

    def windows(values: Tensor) -> Tensor:
        return functional.max_pool2d(values[:, None], side, 1, radius)[:, 0]

    kept = torch.zeros_like(heat, dtype=torch.bool)
    left = heat.clamp(min=0)
    while True:  # all at once that are highest in their windows, then the same with what is left
        new = (left == windows(left)) & (left > 0)
        if not new.any():
            return kept
        kept |= new
        left = left.masked_fill(windows(kept.to(heat.dtype)) > 0, 0)


def find_points(
    heat: Tensor, threshold: float, radius: int, border: int, count: int
) -> tuple[Tensor, Tensor]:
    """The `count` best points of a heat map H x W, best first: N x 2 int64 (x, y) and N scores.

    Args:
        threshold: a point's probability is at least this.
        radius: of `suppress_windows`.
        border: pixels along the edges where there is none.
    """
    shown = torch.where(heat >= threshold, heat, 0)
    kept = suppress_windows(shown[None], radius)[0]
    height, width = heat.shape
    inner = torch.zeros_like(kept)
    inner[border : height - border, border : width - border] = True
    rows, columns = torch.nonzero(kept & inner, as_tuple=True)
    scores = heat[rows, columns]
    best = torch.argsort(scores, descending=True, stable=True)[:count]
    return torch.stack((columns, rows), dim=1)[best], scores[best]


def soft_peak(heat: Tensor, points: Tensor, radius: int = 2) -> Tensor:
    """Points moved to the mean of their window's pixels, weighted by the heat: N x 2 (x, y) -> N x 2
    float. (The soft argmax of the eric-yyjau port, with probabilities for their exponentials.)"""
    padded = functional.pad(heat[None, None], [radius] * 4)[0, 0]
    steps = torch.arange(-radius, radius + 1, device=heat.device)
    dy, dx = torch.meshgrid(steps, steps, indexing="ij")
    x, y = points[:, 0, None] + dx.reshape(-1), points[:, 1, None] + dy.reshape(-1)
    weights = padded[y + radius, x + radius]
    weights = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return torch.stack(((weights * x).sum(dim=1), (weights * y).sum(dim=1)), dim=1)
