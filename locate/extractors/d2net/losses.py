"""The training loss of D2-Net: Dusmanu et al., CVPR 2019, section 4.1.

A correspondence c joins a point A of the first image to a point B of the second. Descriptors are
L2-normalised, so that squared distances are 2 - 2 d . d'. Positions are cells, (x, y). Where the
paper reads maps at the nearest cell, here they are interpolated, as for the descriptors in use."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from locate.extractors.blocks.grids import sample
from locate.extractors.blocks.soft_detection import soft_scores
from locate.extractors.d2net.detection import describe

_OUT = 10.0  # added to a squared distance, which is at most 4, rules it out


def positive_distance(descriptors_a: Tensor, descriptors_b: Tensor) -> Tensor:
    """p(c)^2 = |d_A - d_B|^2 of N x D and N x D -> N."""
    return 2 - 2 * (descriptors_a * descriptors_b).sum(dim=1)


def hardest_negative(descriptors: Tensor, dense: Tensor, matches: Tensor, radius: float) -> Tensor:
    """Squared distance of N x D descriptors to the most similar one of the other image, D x h x w,
    L2-normalised, whose cell is farther (Chebyshev) than `radius`, K in cells, from where the match
    lies, N x 2: N, above the largest possible distance, 4, where there is none."""
    height, width = dense.shape[-2:]
    rows = torch.arange(height, device=dense.device, dtype=matches.dtype)
    columns = torch.arange(width, device=dense.device, dtype=matches.dtype)
    far_y = (matches[:, 1, None] - rows).abs() > radius
    far_x = (matches[:, 0, None] - columns).abs() > radius
    near = ~(far_y[:, :, None] | far_x[:, None, :]).flatten(1)
    squared = 2 - 2 * descriptors @ dense.flatten(1)
    return (squared + _OUT * near).amin(dim=1)


def margin_loss(positive: Tensor, negative: Tensor, margin: float = 1.0) -> Tensor:
    """m(c) = max(0, M + p(c)^2 - n(c)^2), from squared distances."""
    return functional.relu(margin + positive - negative)


def weighted_mean(values: Tensor, scores_a: Tensor, scores_b: Tensor) -> Tensor:
    """L = sum_c s_A s_B / (sum_q s_A s_B) m(c): values weigh as much as both points are detected."""
    weights = scores_a * scores_b
    total = weights.sum()
    return (weights * values).sum() / total.clamp(min=torch.finfo(total.dtype).tiny)


def d2_loss(
    maps: tuple[Tensor, Tensor],
    points: tuple[Tensor, Tensor],
    radius: float = 4.0,
    margin: float = 1.0,
) -> dict[str, Tensor]:
    """The loss of one pair of images, from their maps C x h x w, not negative, and their N x 2 points
    (x, y) in cells, row by row the same spot. Scalars: "loss", and to be shown "positive" and
    "negative", the plain means of p(c)^2 and n(c)^2, and "right", the share of the correspondences with
    p(c) < n(c)."""
    ends = tuple(zip(maps, points, strict=True))
    scores = [sample(soft_scores(m[None])[None], p[None])[0, :, 0] for m, p in ends]
    a, b = (describe(m, p) for m, p in ends)
    dense_a, dense_b = (functional.normalize(m, dim=0) for m in maps)
    positive = positive_distance(a, b)
    negative = torch.minimum(
        hardest_negative(a, dense_b, points[1], radius),
        hardest_negative(b, dense_a, points[0], radius),
    )
    loss = weighted_mean(margin_loss(positive, negative, margin), *scores)
    return {
        "loss": loss,
        "positive": positive.detach().mean(),
        "negative": negative.detach().mean(),
        "right": (positive < negative).detach().to(loss.dtype).mean(),
    }
