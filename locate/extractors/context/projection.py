"""From what two networks see at a keypoint to one descriptor: linear maps, fitted in closed form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from locate.errors import InputError
from locate.extractors.discriminative import discriminative


class Projection(NamedTuple):
    """Attributes:
    mean: K, of what the deep network sees at keypoints.
    context: C x K: keeps of it what tells places apart.
    joint: D x (L + C): a local descriptor and its context to what is stored.
    """

    mean: Tensor
    context: Tensor
    joint: Tensor

    def with_context(self, local: Tensor, seen: Tensor, share: float) -> Tensor:
        """N x (L + C), unit vectors, before `joint`.

        Args:
            local: N x L, unit vectors.
            seen: N x C, `context` times what the deep network sees.
            share: of a cosine that is the context's, 0 to 1.
        """
        context = functional.normalize(seen - self.context @ self.mean, dim=-1)
        return torch.cat((local * (1 - share) ** 0.5, context * share**0.5), dim=-1)

    def descriptors(self, local: Tensor, seen: Tensor, share: float) -> Tensor:
        """N x D, unit vectors."""
        both = self.with_context(local, seen, share)
        return functional.normalize(functional.linear(both, self.joint), dim=-1)


def fit_context(a: Tensor, b: Tensor, dim: int, ridge: float) -> tuple[Tensor, Tensor]:
    """The projection under which matches are alike and all else is not (`discriminative`): linear
    discriminant analysis with a class for each match.

    Args:
        a, b: M x K, what is seen at the two ends of each match.
        dim: C.
        ridge: added to the eigenvalues of the differences, as a share of their mean.

    Returns:
        mean K and projection C x K, float64.

    Raises:
        InputError: fewer matches than dimensions.
    """
    if len(a) <= dim:
        raise InputError(f"{len(a)} matches are too few for a context of {dim} numbers")
    a, b = a.double(), b.double()
    both = torch.cat((a, b))
    mean = both.mean(dim=0)
    return mean, discriminative(both - mean, a - b, dim, ridge)


def fit_joint(both: Tensor, dim: int) -> Tensor:
    """D x (L + C), orthonormal rows: the D dimensions that hold most of `with_context`'s N x (L + C), so
    that cosines hardly change; float64."""
    both = both.double()
    joint: Tensor = torch.linalg.eigh(both.T @ both)[1].flip(1)[:, :dim].T
    return joint.contiguous()
