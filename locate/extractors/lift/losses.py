"""The losses of LIFT (Yi et al., ECCV 2016, section 3) and their mends.

Descriptors are B x 128, score maps B x h x w, places (x, y).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-12
STRENGTH = 10.0  # of both soft maxima
MARGIN = 4.0  # C, of descriptors of any length
WEIGHTS = (1 / 6, 1 / 6, 1 / 6, 3 / 6)  # alpha_i, of the four patches of a quadruplet


def distance(a: Tensor, b: Tensor) -> Tensor:
    """|a - b| of B rows each; its gradient is finite at 0, too."""
    return ((a - b).square().sum(dim=1) + _TINY).sqrt()


def pair_losses(
    first: Tensor, second: Tensor, other: Tensor, margin: float = MARGIN
) -> tuple[Tensor, Tensor]:
    """L_desc (eq. 2) of each positive pair (first, second), |h - h'|, and of each negative pair
    (first, other), max(0, C - |h - h'|): B each."""
    return distance(first, second), functional.relu(margin - distance(first, other))


def hardest(losses: Tensor, count: int) -> Tensor:
    """Which `count` of B losses are largest (Simo-Serra et al., ICCV 2015, section 3.3)."""
    return losses.topk(min(count, len(losses))).indices


def triplet_loss(first: Tensor, second: Tensor, margin: float = 1.0) -> Tensor:
    """The mean over pairs of descriptors of length 1 of max(0, margin + |a_i - b_i| - min over j of
    |a_i - b_j| and |a_j - b_i|): the hardest of the batch (Mishchuk et al., "HardNet", NIPS 2017)."""
    with torch.autocast(first.device.type, enabled=False):  # 2 - 2 a . b needs the digits
        apart = (2 - 2 * first @ second.T).clamp(min=_TINY).sqrt()
    same = torch.eye(len(apart), dtype=torch.bool, device=apart.device)
    others = apart.masked_fill(same, torch.inf)
    nearest = torch.minimum(others.amin(dim=1), others.amin(dim=0))
    return functional.relu(margin + apart.diagonal() - nearest).mean()


def turn_loss(first: Tensor, second: Tensor, turn: Tensor) -> Tensor:
    """The mean of 1 - cos of the error of the angle between two windows, (cos, sin) B x 2 each, that is
    known to be `turn`, B radians. (Not the paper's, whose loss of descriptors alone says nothing any
    more where the angles are far from right.)"""
    c, s = torch.cos(turn), torch.sin(turn)
    expected = torch.stack(
        (c * first[:, 0] - s * first[:, 1], s * first[:, 0] + c * first[:, 1]), 1
    )
    return (1 - (expected * second).sum(dim=1)).mean()


def soft_max(scores: Tensor, strength: float = STRENGTH) -> Tensor:
    """The "softmax" of eq. 7: log(mean(exp(strength f))) / strength, B."""
    flat = strength * scores.flatten(1)
    count = torch.tensor(float(flat.shape[1]), device=flat.device)
    return (torch.logsumexp(flat, dim=1) - count.log()) / strength


def soft_argmax(scores: Tensor, strength: float = STRENGTH) -> Tensor:
    """Eq. 5: the mean place, B x 2, by the weights exp(strength f); from the middle of the map, in its
    pixels."""
    height, width = scores.shape[1:]
    weights = torch.softmax(strength * scores.flatten(1), dim=1).view_as(scores)
    x, y = (torch.arange(n, device=scores.device) - (n - 1) / 2 for n in (width, height))
    return torch.stack(((weights.sum(dim=1) * x).sum(1), (weights.sum(dim=2) * y).sum(1)), dim=1)


def class_loss(scores: Tensor) -> Tensor:
    """L_class (eq. 7): the mean over quadruplets of sum_i alpha_i max(0, 1 - softmax(f(P_i)) y_i)^2,
    y = 1, 1, 1, -1. B x 4 x h x w."""
    y = scores.new_tensor((1.0, 1.0, 1.0, -1.0))
    values = soft_max(scores.flatten(0, 1)).view(-1, 4)
    return (functional.relu(1 - values * y).square() * scores.new_tensor(WEIGHTS)).sum(1).mean()


def overlap_loss(first: Tensor, second: Tensor, half: float) -> Tensor:
    """L_pair of the pre-training (eq. 9): the mean of 1 - intersection / union of two upright squares of
    2 `half` pixels around places B x 2, plus the gap between them over the root of the union."""
    apart = (first - second).abs()
    shared = functional.relu(2 * half - apart).prod(dim=1)
    union = 2 * (2 * half) ** 2 - shared
    gap = functional.relu(apart - 2 * half).sum(dim=1)
    return (1 - shared / union + gap / union.sqrt()).mean()
