"""Layers that several networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: output size = ceil(input / stride), and where
    the padding is odd the extra row and column go to the bottom and the right."""

    unstrided = False

    def unstride(self) -> None:
        """From stride 2 to stride 1, so that every second output cell is what it was (for inputs of
        even size, borders apart)."""
        self.stride = (1, 1)
        self.unstrided = True

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for dim in (-1, -2):  # functional.pad wants the last dimension first
            dilation, stride, size = self.dilation[dim], self.stride[dim], x.shape[dim]
            reach = (self.kernel_size[dim] - 1) * dilation
            total = max((-(size // -stride) - 1) * stride + reach + 1 - size, 0)
            before = (self.kernel_size[dim] - 2) // 2 * dilation if self.unstrided else total // 2
            pads += [before, total - before]
        left, right, top, bottom = pads
        padding = (top, left)
        if (left, top) != (right, bottom):  # a copy of the input, which the convolution spares
            x, padding = functional.pad(x, pads), (0, 0)
        return functional.conv2d(
            x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )


class GeM(nn.Module):
    """Generalised-mean pooling, Radenovic et al., TPAMI 2018, eq. 2: f = (mean x^p)^(1/p) over all
    positions; p = 1 is the average, p -> infinity the maximum.

    B x C x H x W -> B x C.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=self.eps).pow(self.p).mean(dim=(-2, -1)).pow(1.0 / self.p)
