"""Layers that several networks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import fuse_conv_bn_weights


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: output size = ceil(input / stride), and where
    the padding is odd the extra row and column go to the bottom and the right."""

    unstrided = False
    widened: Tensor | None

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.register_buffer("widened", None, persistent=False)

    def unstride(self) -> None:
        """From stride 2 to stride 1, so that every second output cell is what it was (for inputs of
        even size, borders apart)."""
        self.stride = (1, 1)
        self.unstrided = True

    def widen(self) -> None:
        """For use alone: where one more row and column are wanted at the bottom and the right, a kernel
        with a row and a column of zeros before it wants as many at all sides, which spares a copy of
        the input. The kernel must not change any more."""
        self.widened = functional.pad(self.weight.detach(), (1, 0, 1, 0))

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for dim in (-1, -2):  # functional.pad wants the last dimension first
            dilation, stride, size = self.dilation[dim], self.stride[dim], x.shape[dim]
            reach = (self.kernel_size[dim] - 1) * dilation
            total = max((-(size // -stride) - 1) * stride + reach + 1 - size, 0)
            before = (self.kernel_size[dim] - 2) // 2 * dilation if self.unstrided else total // 2
            pads += [before, total - before]
        left, right, top, bottom = pads
        padding, kernel = (top, left), self.weight
        if self.widened is not None and (left + 1, top + 1) == (right, bottom):
            padding, kernel = (bottom, right), self.widened
        elif (left, top) != (right, bottom):  # a copy of the input, which the convolution spares
            x, padding = functional.pad(x, pads), (0, 0)
        return functional.conv2d(
            x, kernel, self.bias, self.stride, padding, self.dilation, self.groups
        )


def fuse_batch_norms(module: nn.Module, norms: Mapping[str, str]) -> None:
    """For use alone: join batch normalisations, as they are in evaluation mode, to the convolutions
    before them, both by their names in `module`. One that was taken out already is passed over."""
    for name, before in norms.items():
        norm, convolution = module.get_submodule(name), module.get_submodule(before)
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        assert isinstance(convolution, nn.Conv2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        moments = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, *moments
        )
        module.set_submodule(name, nn.Identity())


class Pointwise(nn.Module):
    """A linear layer for use alone, as a convolution: on two cores it takes half the time."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach()[:, :, None, None])
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        column = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
        found = functional.conv2d(column.to(self.weight.dtype), self.weight, self.bias)
        return found.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class GeM(nn.Module):
    """Generalised-mean pooling, Radenovic et al., TPAMI 2018, eq. 2: f = (mean x^p)^(1/p) over all
    positions; p = 1 is the average, p -> infinity the maximum. It is meant for maps that are not
    negative: what is below `eps` counts as `eps`, so that of a map with signs the negative values are
    dropped. B x C x H x W -> B x C."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=self.eps).pow(self.p).mean(dim=(-2, -1)).pow(1.0 / self.p)
