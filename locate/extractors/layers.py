"""Layers that several networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: output size = ceil(input / stride), and where
    the padding is odd the extra row and column go to the bottom and the right."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for dim in (-1, -2):  # functional.pad wants the last dimension first
            kernel, stride = self.kernel_size[dim], self.stride[dim]
            size = x.shape[dim]
            total = max((-(size // -stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        if any(pads):
            x = functional.pad(x, pads)
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


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
