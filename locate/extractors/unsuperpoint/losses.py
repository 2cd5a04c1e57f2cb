"""The losses of UnsuperPoint (Christiansen et al., arXiv 1907.04011), of one pair of images; each a
sum, as the paper writes it, beside the number of its terms.

Points of a and b are brought together by the known homography: g_ij = |H p_i - p_j|.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from locate.extractors.blocks.contrastive import info_nce
from locate.extractors.unsuperpoint.network import CELL, Points

MARGINS = (1.0, 0.2)  # m_p, m_n
_TINY = 1e-8  # pixels^2 under a root, whose gradient at 0 is not finite


class Loss(NamedTuple):
    """A sum and how many terms it has."""

    total: Tensor
    terms: int

    @property
    def mean(self) -> Tensor:
        return self.total / max(self.terms, 1)


class Pairs(NamedTuple):
    """K pairs of points of a and b: their indices, and d_k, their distance in pixels."""

    a: Tensor
    b: Tensor
    distance: Tensor


def distances(places_a: Tensor, places_b: Tensor, b_from_a: Tensor) -> Tensor:
    """g: M_A x M_B, in pixels of b; infinite for points of a behind the horizon.

    Args:
        places_a, places_b: M x 2 (x, y) in pixels.
        b_from_a: 3 x 3.
    """
    there = torch.cat((places_a, torch.ones_like(places_a[:, :1])), dim=1) @ b_from_a.T
    ahead = there[:, 2:] > 0
    there = there[:, :2] / torch.where(ahead, there[:, 2:], 1)
    squared = ((there[:, None] - places_b[None]) ** 2).sum(dim=2)
    return torch.where(ahead, (squared + _TINY).sqrt(), torch.inf)


def nearest_pairs(g: Tensor, allowed_a: Tensor, allowed_b: Tensor, near: float = 4.0) -> Pairs:
    """For every point of a the nearest of b, where that is less than `near` pixels away.

    Args:
        allowed_a, allowed_b: M bool; points that count (those on what is shown, off the borders).
    """
    known = torch.where(allowed_a[:, None] & allowed_b[None], g, torch.inf)
    least, index = known.min(dim=1)
    kept = torch.nonzero(least < near)[:, 0]
    return Pairs(kept, index[kept], g[kept, index[kept]])


def position_loss(pairs: Pairs) -> Loss:
    """L_position: sum_k d_k."""
    return Loss(pairs.distance.sum(), len(pairs.a))


def score_loss(scores_a: Tensor, scores_b: Tensor, pairs: Pairs) -> Loss:
    """L_score: sum_k (s_k^A - s_k^B)^2."""
    return Loss(((scores_a[pairs.a] - scores_b[pairs.b]) ** 2).sum(), len(pairs.a))


def usp_loss(scores_a: Tensor, scores_b: Tensor, pairs: Pairs) -> Loss:
    """L_usp: sum_k s_k (d_k - mean d), s_k the mean score of the pair: where points lie nearer to each
    other than is usual, scores rise."""
    both = (scores_a[pairs.a] + scores_b[pairs.b]) / 2
    if len(pairs.a) == 0:
        return Loss(both.sum(), 0)
    return Loss((both * (pairs.distance - pairs.distance.mean())).sum(), len(pairs.a))


def uniform_loss(relative: Tensor) -> Loss:
    """L_uni_xy: the sorted values of each coordinate of M x 2 relative places against evenly spread
    ones, sum_i (x_i - (i - 1) / (M - 1))^2, with the square in both coordinates."""
    ranked = relative.sort(dim=0).values
    even = torch.linspace(0, 1, len(ranked)).to(ranked)
    return Loss(((ranked - even[:, None]) ** 2).sum(), len(ranked))


def descriptor_loss(
    descriptors_a: Tensor,
    descriptors_b: Tensor,
    g: Tensor,
    allowed_a: Tensor,
    allowed_b: Tensor,
    positive_weight: float = 250.0,
    near: float = 8.0,
) -> Loss:
    """L_desc: the sum over all i, j of
    lambda_d c_ij max(0, m_p - f_i . f_j) + (1 - c_ij) max(0, f_i . f_j - m_n), c_ij = [g_ij <= near].

    Args:
        descriptors_a, descriptors_b: M x D of length 1.
        positive_weight: lambda_d.
    """
    similarity = descriptors_a @ descriptors_b.T
    apart = functional.relu(MARGINS[0] - similarity)
    alike = functional.relu(similarity - MARGINS[1])
    losses = torch.where(g <= near, positive_weight * apart, alike)
    counted = allowed_a[:, None] & allowed_b[None]
    return Loss((losses * counted).sum(), int(counted.sum()))


def triplet_loss(
    descriptors_a: Tensor,
    descriptors_b: Tensor,
    g: Tensor,
    pairs: Pairs,
    margin: float = 0.2,
    near: float = 8.0,
) -> Loss:
    """KP2D's: sum_k max(0, |f_k^A - f_k^B| - |f_k^A - f_n^B| + margin) with the most similar descriptor
    of b that is farther than `near` pixels away (Tang et al., ICLR 2020)."""
    similarity = descriptors_a[pairs.a] @ descriptors_b.T
    hardest = similarity.masked_fill(g[pairs.a] <= near, -1.0).amax(dim=1)
    same = similarity[torch.arange(len(pairs.a)), pairs.b]
    positive, negative = ((2 - 2 * s).clamp(min=_TINY).sqrt() for s in (same, hardest))
    return Loss(functional.relu(positive - negative + margin).sum(), len(pairs.a))


def softmax_loss(
    descriptors_a: Tensor, descriptors_b: Tensor, g: Tensor, pairs: Pairs, near: float = 8.0
) -> Loss:
    """InfoNCE of the pairs' descriptors, in place of KP2D's triplets: of b only those that are farther
    than `near` pixels away are rivals."""
    if len(pairs.a) == 0:
        return Loss(descriptors_a.sum() * 0, 0)
    a, b = descriptors_a[pairs.a][None], descriptors_b[pairs.b][None]
    apart = (g[pairs.a][:, pairs.b] > near)[None]
    counted = torch.ones_like(pairs.a, dtype=torch.bool)[None]
    return Loss(info_nce(a, b, counted, apart=apart) * len(pairs.a), len(pairs.a))


def corner_losses(points: Points, places: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Ours, of a start at the image's own corners: the mean distance in pixels of points from the corner
    that their cell holds, and the binary cross-entropy of all scores towards the corners' ranks.

    Args:
        places: B x M x 2 across each cell from 0 to 1, NaN where there is no corner.
        ranks: B x M, 0 to 1.
    """
    held = places[..., 0].isfinite()
    apart = ((points.relative[held] - places[held]) * CELL).square().sum(dim=-1)
    distance = (apart + _TINY).sqrt().sum() / held.sum().clamp(min=1)
    scores = points.scores.clamp(1e-6, 1 - 1e-6)
    return distance, functional.binary_cross_entropy(scores, ranks)


def decorrelation_loss(descriptors: Tensor) -> Loss:
    """L_decorr: sum over i != j of r_ij^2, the correlation (Pearson's) of two
    dimensions of M x D descriptors over the points."""
    centred = descriptors - descriptors.mean(dim=0)
    unit = centred / centred.norm(dim=0).clamp(min=_TINY)
    r = unit.T @ unit
    off = 1 - torch.eye(len(r)).to(r)
    return Loss((r**2 * off).sum(), int(off.sum()))
