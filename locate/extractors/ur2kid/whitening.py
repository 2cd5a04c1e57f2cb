"""The linear map that follows the training of a global vector, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor


def whitening(vectors: Tensor, dim: int, ridge: float = 1.0) -> tuple[Tensor, Tensor]:
    """PCA whitening with a ridge: what most images have in common, and what varies from image to image
    for whatever reason, weighs less. Jegou and Chum, "Negative evidences and co-occurences in image
    retrieval", ECCV 2012, section 3.

    Of N x C vectors the D directions of most variance, as weight D x C and bias D for `linear`,
    float64; if N or C is too small the last rows are 0. `ridge` is added to the eigenvalues, as a share
    of the mean of those that are kept: directions of little variance are mostly noise."""
    vectors = vectors.double()
    mean = vectors.mean(dim=0)
    _, values, directions = torch.linalg.svd(vectors - mean, full_matrices=False)
    variances = values[:dim].square() / len(vectors)
    # N vectors less their mean span N - 1 dimensions at most; what is left is rounding.
    real = variances > 1e-12 * variances.max().clamp(min=1e-30)
    scale = torch.where(real, (variances + ridge * variances.mean()).clamp(min=1e-30) ** -0.5, 0)
    weight = torch.zeros(dim, vectors.shape[1], dtype=torch.float64, device=vectors.device)
    weight[: len(scale)] = scale[:, None] * directions[:dim]
    return weight, -weight @ mean
