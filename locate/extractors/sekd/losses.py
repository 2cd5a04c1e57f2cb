"""The losses of SEKD (Song et al., arXiv 2006.05077), with the constants of the authors' code.

z is the log-odds of "keypoint" (`network.log_odds`): log p is logsigmoid(z), of the other class
logsigmoid(-z). No loss is given probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

RATIO = 0.85  # of distances, above which a match is not yet told from its hardest rival
MARGIN = 0.8
_SAME = 0.008  # descriptors nearer than this are of one thing, whatever their points say
_FAR = 10.0  # more than any distance
_TINY = 1e-8  # squared distance under a root, whose gradient at 0 is not finite


def distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j| of descriptors B x N x D of length 1: B x N x N."""
    return (2 - 2 * a @ b.mT).clamp(min=_TINY).sqrt()


def rivals(between: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """d+ = |a_i - b_i| and d-, the distance of the hardest negative in the batch with anchor swap:
    the least |a_i - b_j| or |a_j - b_i| over j other than i, B x N each.

    Args:
        between: B x N x N, `distances` of corresponding descriptors.
        counted: B x N bool, rows that are no padding.
    """
    both = counted[:, :, None] & counted[:, None]
    own = torch.eye(between.shape[1], dtype=torch.bool, device=between.device)
    others = between.masked_fill(~both | own | (between < _SAME), _FAR)
    nearest = torch.minimum(others.amin(dim=2), others.amin(dim=1))
    return between.diagonal(dim1=1, dim2=2), nearest


def ratio_loss(positive: Tensor, negative: Tensor, counted: Tensor) -> Tensor:
    """The authors' triplet loss: the mean of d+ - d- over those with d+ / d- > `RATIO`, of every pair
    of images; then over the pairs."""
    hard = counted & (positive > RATIO * negative)
    return _mean_of_pairs(positive - negative, hard)


def margin_loss(positive: Tensor, negative: Tensor, counted: Tensor) -> Tensor:
    """max(0, margin + d+ - d-), the mean over those that are not 0 of every pair of images; then over
    the pairs."""
    losses = MARGIN + positive - negative
    return _mean_of_pairs(losses, counted & (losses > 0))


def _mean_of_pairs(losses: Tensor, chosen: Tensor) -> Tensor:
    sums = torch.where(chosen, losses, 0).sum(dim=1)
    return (sums / chosen.sum(dim=1).clamp(min=1)).mean()


def focal_loss(
    z: Tensor, points: Tensor, valid: Tensor, background: Tensor | float, gamma: float = 1.0
) -> Tensor:
    """FL = -(1 - p)^gamma log p of the right class, that of "nothing" weighted by `background`, the mean
    over both classes and all valid pixels.

    Args:
        z: B x H x W.
        points, valid: B x H x W bool.
        background: n / (pixels - n), with n keypoints; both classes then weigh the same.
    """
    right = torch.where(points, z, -z)
    losses = -(torch.sigmoid(-right) ** gamma) * functional.logsigmoid(right)
    losses = torch.where(points, losses, background * losses)
    return torch.where(valid, losses, 0).sum() / (2 * valid.sum().clamp(min=1))


def corresponding(b_from_a: Tensor, valid_a: Tensor, valid_b: Tensor) -> tuple[Tensor, Tensor]:
    """For every pixel of a, row by row, the number of the pixel of b that is nearest to its place there,
    P x H W int64; and whether both are valid, P x H W bool.

    Args:
        b_from_a: P x 3 x 3.
        valid_a, valid_b: P x H x W bool.
    """
    height, width = valid_a.shape[1:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack((columns, rows, torch.ones_like(rows)), dim=-1).reshape(-1, 3)
    there = pixels.to(b_from_a) @ b_from_a.mT
    ahead = there[..., 2] > 0  # what lies behind the horizon corresponds to nothing
    x, y = (there[..., :2] / torch.where(ahead, there[..., 2], 1)[..., None]).unbind(dim=-1)
    inside = ahead & (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    column, row = x.round().clamp(0, width - 1).long(), y.round().clamp(0, height - 1).long()
    index = row * width + column
    return index, inside & valid_a.flatten(1) & valid_b.flatten(1).gather(1, index)


def repeatability_loss(z_a: Tensor, z_b: Tensor, index: Tensor, seen: Tensor) -> Tensor:
    """L_rep: 1/2 w (KL(P || P^) + KL(P^ || P)) of P at corresponding pixels, w = (p + p^) / 2 without a
    gradient, the mean over both classes and all of these pixels. Of two classes, the sum of both
    divergences is (p - p^) (z - z^).

    Args:
        z_a, z_b: P x H x W.
        index, seen: see `corresponding`.
    """
    a, b = z_a.flatten(1), z_b.flatten(1).gather(1, index)
    p_a, p_b = torch.sigmoid(a), torch.sigmoid(b)
    weights = (p_a + p_b).detach() / 2
    losses = weights * (p_a - p_b) * (a - b) / 2
    return torch.where(seen, losses, 0).sum() / (2 * seen.sum().clamp(min=1))


def detector_keep_loss(logits: Tensor, before: Tensor) -> Tensor:
    """L_keep of a descriptor's update: the mean squared change of the logits."""
    return functional.mse_loss(logits.float(), before.float())


def descriptor_keep_loss(coarse: Tensor, before: Tensor) -> Tensor:
    """L_keep of a detector's update, without its weight: the mean squared change of B x D x h x w
    descriptors, brought to length 1."""
    now, then = (functional.normalize(maps.float(), dim=1) for maps in (coarse, before))
    return functional.mse_loss(now, then)
