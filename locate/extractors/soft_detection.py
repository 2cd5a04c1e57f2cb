"""How much a cell of a map is detected, as a number that has a gradient: Dusmanu et al., "D2-Net", CVPR
2019, section 3.2. UR2KiD takes it over.

Maps are B x C x H x W and not negative; D^k_ij of the paper is `maps[:, k, i, j]`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-8


def soft_local_max(maps: Tensor, radius: int = 1) -> Tensor:
    """Eq. 4: alpha^k_ij = exp(D^k_ij) over the sum of exp(D^k) in the window of (2 radius + 1)^2 cells.

    The values are first divided by the largest of their image, so that alpha does not depend on the
    features' scale; without that the exponentials of large features would leave no gradient.

    Returns:
        B x C x H x W, each 0 to 1. Beyond the border nothing is summed.
    """
    largest = maps.amax(dim=(1, 2, 3), keepdim=True).clamp(min=_TINY)
    raised = torch.exp(maps / largest)
    side = 2 * radius + 1
    total = functional.avg_pool2d(raised, side, 1, radius, count_include_pad=True) * side**2
    return raised / total


def channel_ratio(maps: Tensor) -> Tensor:
    """Eq. 5: beta^k_ij = D^k_ij / max_t D^t_ij; 0 where all are 0."""
    return maps / maps.amax(dim=1, keepdim=True).clamp(min=_TINY)


def soft_scores(maps: Tensor, radius: int = 1) -> Tensor:
    """Eqs. 6 and 7: gamma_ij = max_k alpha^k_ij beta^k_ij, over its sum in the image.

    Returns:
        B x H x W; each image sums to 1, or to 0 if it has no features.
    """
    gamma = (soft_local_max(maps, radius) * channel_ratio(maps)).amax(dim=1)
    return gamma / gamma.sum(dim=(1, 2), keepdim=True).clamp(min=_TINY)
