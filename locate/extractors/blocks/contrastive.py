"""Descriptors against all rivals at once.

The papers' triplets and hinges look at the hardest rival, or at each on its own. In a network that
knows nothing the hardest is nearer than what is right, so that the shortest way down is to make all
descriptors alike; and a mean over thousands of easy rivals hardly moves the few that are hard. A softmax
over all does neither: it is what small trainings need."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.1  # of cosines
_HUGE = 1e4  # a logarithm that is nothing beside any other


def info_nce(
    a: Tensor,
    b: Tensor,
    counted: Tensor,
    temperature: float = TEMPERATURE,
    apart: Tensor | None = None,
) -> Tensor:
    """InfoNCE: -log of the share that the right one has in the softmax of a_i . b_j / temperature, over
    the j of its pair of images and over the i, the mean over all that count (van den Oord et al., arXiv
    1807.03748).

    Args:
        a, b: corresponding descriptors, B x N x D of length 1.
        counted: B x N bool.
        apart: B x N x N bool, whether j is a wrong answer for i at all; None for all others.
    """
    rivals = counted[:, :, None] & counted[:, None]
    if apart is not None:
        rivals = rivals & (apart | torch.eye(a.shape[1], dtype=torch.bool, device=a.device))
    alike = (a @ b.mT / temperature).masked_fill(~rivals, -_HUGE)
    shares = functional.log_softmax(alike, dim=2) + functional.log_softmax(alike, dim=1)
    right = shares.diagonal(dim1=1, dim2=2)
    return -torch.where(counted, right, 0).sum() / (2 * counted.sum().clamp(min=1))
