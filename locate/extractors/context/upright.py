"""Whether a photo is the right way up: what an ImageNet network sees of a turned photo is worth less.

Sky above and ground below say it as much as things do, so the likelihood is a logistic function of
what the photo shows and of how its halves differ."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

TURN = math.radians(30)  # a photo that is turned by less is the right way up

_STEPS = 200  # of L-BFGS, at most
_LEAST = 1e-4  # of a deviation: what never changes tells nothing


class Upright(NamedTuple):
    """A logistic regression that says whether a photo is the right way up."""

    weight: Tensor  # V + 2 C, of `layout`
    bias: Tensor  # 1

    def likelihood(self, seen: Tensor) -> float:
        """Between 0 and 1, that of V + 2 C numbers of `layout`."""
        return float(torch.sigmoid(seen.detach() @ self.weight + self.bias[0]))


def layout(vector: Tensor, cells: Tensor) -> Tensor:
    """V + 2 C numbers: what a photo shows, its global descriptor V, and how the upper half of a deep
    map, C x h x w, differs from the lower one, the left half from the right one. The middle row or
    column of an odd number belongs to both halves."""
    height, width = cells.shape[1:]
    length = cells.mean(dim=(1, 2)).norm().clamp(min=1e-6)
    upper, lower = cells[:, : (height + 1) // 2], cells[:, height // 2 :]
    left, right = cells[..., : (width + 1) // 2], cells[..., width // 2 :]
    differences = [
        a.mean(dim=(1, 2)) - b.mean(dim=(1, 2)) for a, b in ((upper, lower), (left, right))
    ]
    return torch.cat((vector, *(difference / length for difference in differences)))


def fit_upright(seen: Tensor, upright: Tensor, penalty: float) -> Upright:
    """Logistic regression with a squared penalty on the weights of standardised numbers, float64: of N
    x (V + 2 C) of `layout`, and of N, 1 where the photo is the right way up, else 0."""
    seen, upright = seen.double(), upright.double()
    mean, deviation = seen.mean(dim=0), seen.std(dim=0) + _LEAST
    standard = (seen - mean) / deviation
    weight = torch.zeros(seen.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        fit = functional.binary_cross_entropy_with_logits(standard @ weight + bias, upright)
        total = fit + penalty * weight.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    solver.step(loss)  # type: ignore[no-untyped-call]
    plain = weight.detach() / deviation
    return Upright(plain, bias.detach() - (mean * plain).sum())
