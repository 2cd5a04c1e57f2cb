"""How much a cell of a map is detected, as a number that has a gradient: Dusmanu et al., "D2-Net",
CVPR 2019, section 3.2. UR2KiD takes it over.

Maps are B x C x h x w and not negative; D^k_ij of the paper is `maps[:, k, i, j]`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-8


def soft_local_max(maps: Tensor, radius: int = 1) -> Tensor:
    """Eq. 4: alpha^k_ij = exp(D^k_ij) / sum of exp(D^k) over the window of (2 radius + 1)^2 cells.

    As in the authors' code, D is divided by the largest value of the whole map first, which makes
    alpha independent of the scale of the features, and beyond the border exp(D) counts as 1."""
    largest = maps.amax(dim=(1, 2, 3), keepdim=True).clamp(min=_TINY)
    exponential = torch.exp(maps / largest)
    side = 2 * radius + 1
    padded = functional.pad(exponential, [radius] * 4, value=1.0)
    return exponential / (functional.avg_pool2d(padded, side, 1) * side**2)


def channel_ratio(maps: Tensor) -> Tensor:
    """Eq. 5: beta^k_ij = D^k_ij / max_t D^t_ij; 0 where all channels are 0."""
    return maps / maps.amax(dim=1, keepdim=True).clamp(min=_TINY)


def soft_scores(maps: Tensor) -> Tensor:
    """Eqs. 6 and 7: gamma_ij = max_k alpha^k_ij beta^k_ij, divided by its sum over the map, B x h x w;
    each map sums to 1 (to 0 where there are no features)."""
    gamma = (soft_local_max(maps) * channel_ratio(maps)).amax(dim=1)
    return gamma / gamma.sum(dim=(1, 2), keepdim=True).clamp(min=_TINY)
