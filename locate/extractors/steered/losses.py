"""The losses: no spot is taken for another.

All take matched rows: row i of a and row i of b are the same spot."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_loss(a: Tensor, b: Tensor, temperature: float, apart: Tensor) -> Tensor:
    """InfoNCE both ways, of N x D unit vectors: each row shall find its partner among all rows of the
    other side (van den Oord, Li, Vinyals 2018, eq. 4; both directions as in Radford et al. 2021). Row j
    of b may count as a wrong answer for row i of a, and the other way round, where they are `apart`,
    N x N bool."""
    similarities = a @ b.T / temperature
    same = torch.eye(len(a), dtype=torch.bool, device=a.device)
    similarities = similarities.masked_fill(~(apart | same), -torch.inf)
    right = torch.arange(len(a), device=a.device)
    there = functional.cross_entropy(similarities, right)
    back = functional.cross_entropy(similarities.T, right)
    return (there + back) / 2


def mean(values: Tensor) -> Tensor:
    """The mean; 0, which teaches nothing, if there are none."""
    return values.sum() / max(1, values.numel())
