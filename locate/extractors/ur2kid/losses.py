"""What UR2KiD is trained by: Yang et al., arXiv 2001.07252. Nothing here knows which point is which.

Only whole images are known to show the same place or not: an anchor a, a positive p, negatives n.
Descriptors of positions stand in rows, N x D, L2-normalised. The paper's text was available in part;
what the docstrings call "ours" is our reading or our choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def affinity(a: Tensor, b: Tensor) -> Tensor:
    """M = F_a F_b^T: the cosine of every position of one image with every one of the other.

    Args:
        a: N x D, b: K x D, L2-normalised rows.

    Returns:
        N x K.
    """
    return a @ b.T


def best_in_rows(matrix: Tensor) -> Tensor:
    """max_j M_ij: how well each position of a is found in b. N x K -> N."""
    return matrix.amax(dim=1)


def matching_score(matrix: Tensor) -> Tensor:
    """s(a, b) = (mean_i max_j M_ij + mean_j max_i M_ij) / 2. Rows and columns, so that one cell that
    is like everything cannot stand for the whole image."""
    return (matrix.amax(dim=1).mean() + matrix.amax(dim=0).mean()) / 2


def matching_loss(positive: Tensor, negatives: Sequence[Tensor], margin: float = 0.1) -> Tensor:
    """L_match = sum_k max(0, m - s(a, p) + s(a, n_k)) over the affinity matrices of a with p and with
    each n_k (the hinge of the means is our form of it)."""
    own = matching_score(positive)
    scores = torch.stack([matching_score(matrix) for matrix in negatives])
    return functional.relu(margin - own + scores).sum()
