"""Linear projections that are fitted in closed form."""

from __future__ import annotations

import torch
from torch import Tensor


def discriminative(features: Tensor, differences: Tensor, dim: int, ridge: float) -> Tensor:
    """Of N x K features and the M x K differences between the two ends of each match, float64: first
    the directions in which matches differ are shrunk, by the inverse root of the matrix of their
    differences, then those are kept in which features vary most. Mikolajczyk and Matas, "Improving
    descriptors for fast tree matching by optimal linear projection", ICCV 2007. D x K float64.

    `ridge`, a share of their mean, is added to the eigenvalues of the differences: what is small in the
    data is not taken for none."""
    within = differences.T @ differences / (2 * len(differences))
    values, vectors = torch.linalg.eigh(within)
    shrunk = vectors * (values.clamp(min=0) + ridge * values.mean()) ** -0.5
    directions = torch.linalg.eigh(torch.cov((features @ shrunk).T))[1]
    projection: Tensor = (shrunk @ directions.flip(1)[:, :dim]).T
    return projection


def principal(scatter: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """All eigenvalues of a symmetric K x K matrix, falling, and the first `dim` eigenvectors in rows: of
    each the largest entry by magnitude is positive, so that every machine finds the same."""
    values, vectors = torch.linalg.eigh(scatter)
    rows = vectors.flip(1)[:, :dim].T
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return values.flip(0), (rows * largest.sign()).contiguous()
