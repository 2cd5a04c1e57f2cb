"""Linear maps that are fitted in closed form: where training starts from, and what follows it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from locate.errors import InputError
from locate.extractors.blocks.discriminative import discriminative


def discriminative_projection(
    pairs: Iterable[tuple[Tensor, Tensor]], dim: int, ridge: float = 1.0, best: float = 0.5
) -> Tensor:
    """The projection under which matches are alike and all else is not, D x K float64
    (`discriminative`; for images Radenovic et al., TPAMI 2018, section 3.3), of the features, N x K and
    M x K, of the keypoints of two images of one place. Features that are neither scaled nor centred are
    to be multiplied by it.

    Nobody says what the matches are: they are mutual nearest neighbours, of these the more similar
    share `best`; `InputError` if there are none."""
    features, differences = [], []
    for a, b in pairs:
        features += [a.double(), b.double()]
        first, second = mutual_nearest(a, b, best)
        differences.append(features[-2][first] - features[-1][second])
    delta = torch.cat(differences) if differences else torch.zeros(0, 1)
    if len(delta) == 0:
        raise InputError(
            "no two images of one place match at all; more or sharper photos are needed"
        )
    return discriminative(torch.cat(features), delta, dim, ridge)


def mutual_nearest(a: Tensor, b: Tensor, best: float = 1.0) -> tuple[Tensor, Tensor]:
    """Indices into N x K and M x K features of those that are each other's nearest by cosine; of these
    the share `best` with the largest cosine."""
    if len(a) == 0 or len(b) == 0:
        none = torch.zeros(0, dtype=torch.int64, device=a.device)
        return none, none
    similarity = functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).T
    to_b, to_a = similarity.argmax(dim=1), similarity.argmax(dim=0)
    first = torch.nonzero(to_a[to_b] == torch.arange(len(a), device=a.device))[:, 0]
    order = similarity[first, to_b[first]].argsort(descending=True, stable=True)
    first = first[order[: round(best * len(first))]]
    return first, to_b[first]


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
