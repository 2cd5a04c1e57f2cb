"""What UR2KiD is trained by: Yang et al., arXiv 2001.07252. Nothing here knows which point is which.

All that is known is which images show the same place: an anchor a and a positive p, and which do not:
a negative n. Descriptors of N positions stand in rows, N x D, L2-normalised; dense maps are D x h x
w, L2-normalised along D; positions are (x, y) in cells of these maps. M = F_a F_b^T is the affinity
matrix: the cosine of every position of a with every one of b. What a docstring calls "ours" is a
choice that the paper, as far as we know it, does not make."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_NONE = -2.0  # less than any cosine


def matching_score(rows: Tensor, columns: Tensor) -> Tensor:
    """s(a, b) = (mean_i max_j M_ij + mean_j max_i M_ij) / 2, of some rows of M, N x K, and some of its
    columns, as rows. Both, since of rows alone one cell of b that is like everything could be the best
    for all."""
    return (rows.amax(dim=1).mean() + columns.amax(dim=1).mean()) / 2


def matching_loss(positive: Tensor, negatives: Sequence[Tensor], margin: float = 0.1) -> Tensor:
    """L_match = sum_k max(0, m - s(a, p) + s(a, n_k)), from matching scores. The hinge is ours."""
    return functional.relu(margin - positive + torch.stack(list(negatives))).sum()


def found_again(
    best: Tensor, dense_a: Tensor, dense_b: Tensor, positions: Tensor, radius: float
) -> Tensor:
    """Which of N positions (N x 2) of a are both row and column maximum, N bool: their best cell in b,
    of index `best`, has its own best cell in a within `radius` of where it started (ours: what b does
    not show has no such cell)."""
    back = (dense_b.flatten(1)[:, best].T @ dense_a.flatten(1)).argmax(dim=1)
    return (_cells(back, dense_a.shape[-1]) - positions).abs().amax(dim=1) <= radius


def runner_up(rows: Tensor, best: Tensor, width: int, radius: float) -> Tensor:
    """The largest value of each row, N x (h w) affinities with all cells of a map `width` wide, farther
    than `radius` cells, along x or y, from the best one, N indices; -2 where no cell is so far away."""
    cells = _cells(torch.arange(rows.shape[1], device=rows.device), width)
    near = (cells[None] - _cells(best, width)[:, None]).abs().amax(dim=2) <= radius
    return rows.masked_fill(near, _NONE).amax(dim=1)


def position_loss(
    best: Tensor, others: Sequence[Tensor], counts: Tensor, margin: float = 0.2
) -> Tensor:
    """sum_k max(0, m - max_j M_ij + o_ki), the mean over the positions i that count, N bool (ours), of
    N row maxima with the positive and `others`, the o_k, N each.

    The hinge of the means in `matching_loss` is soon satisfied; this one goes on wherever a position is
    told apart badly, from the best cell of a negative or from the runner-up in the positive itself."""
    hinges = functional.relu(margin - best + torch.stack(list(others))).sum(dim=0)
    weights = counts.to(hinges.dtype)
    return (weights * hinges).sum() / weights.sum().clamp(min=1)


def detection_weights(scores_a: Tensor, scores_p: Tensor) -> Tensor:
    """M^det_ij = s_i s_j, N x K, of soft detection scores N and K, scaled to a mean of 1 (the scale is
    ours)."""
    weights = scores_a[:, None] * scores_p[None]
    return weights / weights.mean().clamp(min=torch.finfo(weights.dtype).tiny)


def distillation_loss(high: Tensor, low: Tensor, weights: Tensor) -> Tensor:
    """L_dis = mean (M . M^det - M^)^2: the low-dimensional affinity is to be the high-dimensional one
    times M^det, N x K all. So it is the target that detection scales, above the cosine where both
    positions are detected more than on average and below it elsewhere; the residual weighs the same
    everywhere. The teacher learns nothing from it."""
    return (high.detach() * weights.detach() - low).pow(2).mean()


def contrastive_loss(
    anchors: Tensor, positives: Tensor, negatives: Tensor, margin: float = 0.85
) -> Tensor:
    """1/2 |a - p|^2 + sum_n 1/2 max(0, tau - |a - n|)^2, Radenovic et al., TPAMI 2018, eq. 3; the mean
    over the anchors B x D, of positives B x D and negatives B x N x D, all L2-normalised."""
    near = (anchors - positives).pow(2).sum(dim=1)
    squared = (anchors[:, None] - negatives).pow(2).sum(dim=2)
    # The root has no gradient at 0, where a negative is the anchor's double.
    far = functional.relu(margin - squared.clamp(min=1e-12).sqrt()).pow(2)
    return ((near + far.sum(dim=1)) / 2).mean()


def _cells(index: Tensor, width: int) -> Tensor:
    """Index of a flattened map -> (x, y)."""
    return torch.stack((index % width, torch.div(index, width, rounding_mode="floor")), dim=-1)
