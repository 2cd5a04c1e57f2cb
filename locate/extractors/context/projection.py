"""From what two networks see at a keypoint to one descriptor: linear maps, fitted in closed form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from locate.errors import InputError
from locate.extractors.blocks.discriminative import discriminative, principal


class Projection(NamedTuple):
    """The linear maps that a descriptor is made by."""

    mean: Tensor  # K, of what the deep network sees at keypoints
    context: Tensor  # C x K: keeps of it what tells places apart
    own_turned: Tensor  # T x L: what is kept of a descriptor that is turned with its keypoint
    own_upright: Tensor  # U x L: of one that is not

    @property
    def parts(self) -> tuple[int, int, int]:
        """T, U and C."""
        return len(self.own_turned), len(self.own_upright), len(self.context)

    def descriptors(
        self, turned: Tensor, upright: Tensor | None, seen: Tensor, weight: float, share: float
    ) -> Tensor:
        """N x (T + U + C), unit vectors in three parts, of N x L unit vectors, turned and upright (None
        for upright ones without weight), and of N x C, `context` times what the deep network sees.
        `weight`, 0 to 1, is that of the upright ones among the keypoint's own, `share` of a cosine the
        context's."""
        own = functional.normalize(functional.linear(turned, self.own_turned), dim=-1)
        still = own.new_zeros(len(own), len(self.own_upright))
        if upright is not None:
            still = functional.normalize(functional.linear(upright, self.own_upright), dim=-1)
        context = functional.normalize(seen - self.context @ self.mean, dim=-1)
        shares = ((1 - share) * (1 - weight), (1 - share) * weight, share)
        parts = zip((own, still, context), shares, strict=True)
        return torch.cat([part * of**0.5 for part, of in parts], dim=-1)


def fit_context(a: Tensor, b: Tensor, dim: int, ridge: float) -> tuple[Tensor, Tensor]:
    """The mean K and the projection C x K, float64, under which matches are alike and all else is not
    (`discriminative`), of what is seen at the two ends of each match, M x K: linear discriminant
    analysis with a class for each match."""
    if len(a) <= dim:
        raise InputError(f"{len(a)} matches are too few for a context of {dim} numbers")
    a, b = a.double(), b.double()
    both = torch.cat((a, b))
    mean = both.mean(dim=0)
    return mean, discriminative(both - mean, a - b, dim, ridge)


def strongest(x: Tensor, dim: int) -> Tensor:
    """The `dim` dimensions that hold most of N x L, orthonormal rows dim x L, float64: cosines hardly
    change."""
    x = x.double()
    return principal(x.T @ x, dim)[1]
