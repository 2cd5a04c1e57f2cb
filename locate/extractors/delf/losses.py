"""What DELF is trained by: landmark classification, first of the pooled, then of the attended
feature. Equation numbers are those of Noh et al., ICCV 2017, section 3.2."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from locate.extractors.blocks.discriminative import principal

WHITENING_RIDGE = 0.3  # times the mean variance: what hardly varies is mostly noise


def pooled_feature(features: Tensor) -> Tensor:
    """Global average pooling B x C x H x W -> B x C, for the fine-tuning of the descriptors
    (section 3.1)."""
    return features.mean(dim=(-2, -1))


def attended_feature(features: Tensor, scores: Tensor) -> Tensor:
    """The sum of features weighted by attention, eq. 1 without its W: sum_n alpha(f_n) f_n / N, B x
    C, of features B x C x H x W, not normalised, and their attention alpha, B x H x W.

    The f_n that are summed are L2-normalised, while alpha saw them as they were; the mean instead of
    the sum makes it independent of the image's size. Both follow the authors' code."""
    unit = functional.normalize(features, dim=1)
    return (scores[:, None] * unit).mean(dim=(-2, -1))


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax cross-entropy, eqs. 2 and 3: - log( exp(y_c) / 1^T exp(y) ), the mean over the batch of
    logits B x K and labels B, integers below K."""
    chosen = logits.gather(1, labels[:, None])[:, 0]
    return (torch.logsumexp(logits, dim=1) - chosen).mean()


def fit_whitening(features: Tensor, dim: int, rotation: Tensor) -> tuple[Tensor, Tensor]:
    """Ours, in the place of PCA. Of L2-normalised features N x C the mean (C,) and a projection dim x C:
    first all directions are made to vary nearly alike, then the `rotation`, C x C, mixes them and the
    first `dim` of what comes out are kept. What varies most in features, which is all that PCA keeps, is
    not what tells places apart."""
    unit = functional.normalize(features.double(), dim=1)
    mean = unit.mean(dim=0)
    centred = unit - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(unit) - 1))
    scale = (values.clamp(min=0) + WHITENING_RIDGE * values.mean()) ** -0.5
    components = rotation[:dim].double() @ (scale[:, None] * vectors.T)
    return mean.to(features.dtype), components.to(features.dtype)


def fit_pca(features: Tensor, dim: int) -> tuple[Tensor, Tensor, float]:
    """Of L2-normalised features N x C, N at least 2, the mean (C,), the principal components dim x C
    (`principal`), and the share of the variance that they keep."""
    unit = functional.normalize(features.double(), dim=1)
    mean = unit.mean(dim=0)
    centred = unit - mean
    values, components = principal(centred.T @ centred / (len(unit) - 1), dim)
    kept = float(values[:dim].sum() / values.sum().clamp(min=1e-30))
    return mean.to(features.dtype), components.to(features.dtype), kept
