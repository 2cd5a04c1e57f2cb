"""The losses of LF-Net (Ono et al., section 3.2), in one direction: images i have a gradient, the other
ones of their pairs, j, give targets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from locate.extractors.blocks.grids import sample
from locate.extractors.lfnet.correspondence import Field
from locate.extractors.lfnet.detection import best, look, maxima, nearest
from locate.extractors.lfnet.network import LOG_RANGE, Maps

_SIGMA, _REACH = 0.5, 7  # pixels, of the Gaussians of a clean score map
_FAR = 32.0  # pixels: negatives are at least so far away


def masked_mean(values: Tensor, seen: Tensor) -> Tensor:
    """The mean over what is seen of each image, 0 where nothing is; then over images. B x ... each."""
    weights = seen.to(values.dtype)
    total = (values * weights).flatten(1).sum(dim=1)
    return (total / weights.flatten(1).sum(dim=1).clamp(min=1)).mean()


def redrawn(score: Tensor, count: int) -> Tensor:
    """g: a clean score map, with a Gaussian of height 1 at each of the `count` best maxima, clipped at
    1. B x H x W -> the same."""
    values, places = best(maxima(score), count)
    drawn = torch.zeros_like(score).flatten(1)
    drawn.scatter_(1, places, (values > 0).to(score.dtype))
    steps = torch.arange(-_REACH, _REACH + 1, device=score.device, dtype=score.dtype)
    bell = torch.exp(-(steps**2) / (2 * _SIGMA**2))[None, None]
    wide = functional.conv2d(drawn.view_as(score)[:, None], bell[:, :, None], padding=(0, _REACH))
    return functional.conv2d(wide, bell[..., None], padding=(_REACH, 0))[:, 0].clamp(max=1)


def warped(score: Tensor, field: Field) -> Tensor:
    """w: the other image's score at each pixel of this one, bilinearly, 0 where it is not seen."""
    read = sample(score[:, None], field.where.flatten(2).mT)[..., 0].view_as(score)
    return torch.where(field.seen, read, 0)


def image_loss(score: Tensor, target: Tensor, seen: Tensor) -> Tensor:
    """L_im: the mean over seen pixels of (S_i - g(w(S_j)))^2. B x H x W each."""
    return masked_mean((score - target) ** 2, seen)


def geometry_losses(
    maps: Maps, other: Maps, field: Field, counted: Tensor
) -> tuple[Tensor, Tensor]:
    """The two parts of L_geom, means over the pixels counted (B x H x W bool): |theta_i - theta_j|^2 of
    (cos, sin), that of j turned back by the local rotation; (log s_i - log s_j)^2, that of j divided by
    the local scale and clipped to the range of scales."""
    shape = (maps.score.shape[-2], maps.score.shape[-1])
    there = nearest(field.where.flatten(2).mT, shape)
    cos_j, sin_j = look(other.orientation, there).unbind(2)
    cos, sin = (part.flatten(1) for part in field.turn())
    back = torch.stack((cos * cos_j + sin * sin_j, cos * sin_j - sin * cos_j), dim=1)
    apart = ((maps.orientation - back.view_as(maps.orientation)) ** 2).sum(dim=1)
    log_there = look(other.scale[:, None], there).log().view_as(maps.scale)
    wanted = (log_there - field.log_scale()).clamp(-LOG_RANGE, LOG_RANGE)
    scales = (maps.scale.log() - wanted) ** 2
    return masked_mean(apart, counted), masked_mean(scales, counted)


def pair_loss(descriptors: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
    """L_pair: the mean over keypoints of |D_i - D_j|^2, 0 for those that are not seen in j. B x K x D,
    B x K bool."""
    return (((descriptors - targets) ** 2).sum(dim=2) * seen).mean()


def triplet_loss(
    descriptors: Tensor,
    targets: Tensor,
    points: Tensor,
    seen: Tensor,
    hardest: int,
    margin: float = 1.0,
) -> Tensor:
    """L_tri: the mean over keypoints of max(0, |D_i - D_j|^2 - |D_i - D_j'|^2 + C). The negative is one
    at random of the `hardest` nearest targets that are seen and at least 32 pixels away in j; a keypoint
    that is not seen has a positive distance of 0; one without negatives does not count.

    Args:
        descriptors: B x K x D of i.
        targets: B x K x D at the same spots of j.
        points: B x K x 2, these spots.
        seen: B x K bool.
    """
    # Of length 1 both: |a - b|^2 = 2 - 2 a . b
    distances = 2 - 2 * descriptors @ targets.mT
    positive = distances.diagonal(dim1=1, dim2=2) * seen
    able = (torch.cdist(points, points) >= _FAR) & seen[:, None]
    with torch.no_grad():
        ranked = distances.masked_fill(~able, torch.inf)
        nearest_first = ranked.topk(min(hardest, ranked.shape[2]), dim=2, largest=False).indices
        choice = able.sum(dim=2).clamp(max=nearest_first.shape[2])
        drawn = (torch.rand(choice.shape, device=choice.device) * choice).long()
        chosen = nearest_first.gather(2, drawn[..., None])
    negative = distances.gather(2, chosen)[..., 0]
    losses = functional.relu(positive - negative + margin)
    return masked_mean(losses, choice > 0)


def hardest_of(position: float, most: int, least: int) -> int:
    """M, from which negatives are drawn, at `position` (0 to 1) of the training: the paper's falls from
    64 by a factor of 0.9 each 1,000 of 50,000 steps, to 5."""
    return max(least, int(most * math.pow(0.9, 50 * position)))
