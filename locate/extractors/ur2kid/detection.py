"""Group-Concept Detect-and-Describe: Yang et al., arXiv 2001.07252. A map F is K x h x w.

D2-Net looks at the largest channel of a cell; here a group of channels answers together, by its
length."""

from __future__ import annotations

import torch
from torch import Tensor

from locate.extractors.blocks.detection import local_maxima, refine, suppress


def group_responses(maps: Tensor, groups: int) -> Tensor:
    """R^g_(x,y) = |F^g_(x,y)|_2, ... x G x h x w, where F^g are the channels (g - 1) floor(K / G) + 1 to
    g floor(K / G) of F, ... x K x h x w, counted from 1. The remainder of K over G is in no group."""
    size = maps.shape[-3] // groups
    used = maps[..., : size * groups, :, :]
    grouped = used.reshape(*maps.shape[:-3], groups, size, *maps.shape[-2:])
    lengths: Tensor = torch.linalg.vector_norm(grouped, dim=-3)
    return lengths


def keypoints(
    responses: Tensor, strictness: float = 1.0, merge: float = 1.0
) -> tuple[Tensor, Tensor]:
    """N x 2 places (x, y) in cells, best first, and N scores, deviations above the mean: the union over
    the groups of the local maxima of R^g that are no edges, move by less than half a cell when fitted
    by a parabola, and exceed mean + `strictness` x deviation of R^g in this image.

    Of several that lie within `merge` cells the one of the highest score is kept: so no group rules
    because its channels are large."""
    height, width = responses.shape[-2:]
    if height < 3 or width < 3:
        return responses.new_zeros((0, 2)), responses.new_zeros(0)
    mean = responses.mean(dim=(1, 2), keepdim=True)
    deviation = responses.std(dim=(1, 2), keepdim=True)
    # On a flat image rounding alone makes maxima.
    normalised = (responses - mean) / deviation.clamp(min=1e-4 * mean.abs() + 1e-12)
    found = local_maxima(responses) & (normalised > strictness)
    group, y, x = torch.nonzero(found, as_tuple=True)
    index = (group, y, x)
    kept, points = refine(responses, index)
    scores = normalised[index][kept]
    best = suppress(points.double().cpu().numpy(), scores.double().cpu().numpy(), merge)
    order = torch.from_numpy(best).to(points.device)
    return points[order], scores[order]
