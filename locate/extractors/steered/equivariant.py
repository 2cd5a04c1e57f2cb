"""Convolutions that know quarter turns: turn the image, and the maps turn with it, exactly.

A field is four channels, one for each quarter turn (the regular representation of the group C4). When
the image is turned by 90 degrees, counter-clockwise as it is seen, the maps of a field turn too and
move on by one: channel o becomes channel o + 1. Cohen and Welling, "Group Equivariant Convolutional
Networks", ICML 2016, section 6. Channels are ordered field by field: 4 f + o."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

TURNS = 4


class GroupConv(nn.Module):
    """A convolution without a bias from `inputs` fields (0 for an image of one channel, which turns
    without moving on) to `outputs`, padded so that an even input keeps its size divided by the stride,
    symmetrically: the centre of the image stays that of the map."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        if (size - stride) % 2:
            raise ValueError(f"a kernel of {size} at stride {stride} is not symmetric")
        orders = TURNS if inputs else 1
        self.weight = nn.Parameter(torch.empty(outputs, max(inputs, 1), orders, size, size))
        nn.init.normal_(self.weight, std=(2.0 / self.weight[0].numel()) ** 0.5)
        self.stride, self.padding = stride, (size - stride) // 2

    def kernel(self) -> Tensor:
        """The same as an ordinary kernel: 4 outputs x (4 inputs, or 1) x size x size."""
        rolled = (torch.roll(self.weight, turn, dims=2) for turn in range(TURNS))
        turned = [torch.rot90(one, turn, dims=(-2, -1)) for turn, one in enumerate(rolled)]
        stacked = torch.stack(turned, dim=1)
        outputs, _, inputs, orders, *size = stacked.shape
        return stacked.reshape(TURNS * outputs, inputs * orders, *size)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel(), stride=self.stride, padding=self.padding)


class FieldNorm(nn.BatchNorm3d):
    """Batch normalisation with one mean, variance, scale and shift for the four channels of a field."""

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        return super().forward(x.view(batch, -1, TURNS, height, width)).view_as(x)


def steered(fields: Tensor, direction: Tensor) -> Tensor:
    """What fields look like to someone who faces `direction`: unchanged when both are turned.

    The four channels are taken apart into what turns not at all, once and twice with the image (the
    irreducible representations of C4), and the latter two are turned back: ... x F x 4 and unit
    vectors ... x 2, y down, give ... x 5 F."""
    x, y = (part.unsqueeze(-1) for part in direction.unbind(-1))
    right, up, left, down = fields.unbind(-1)
    along_x, along_y = right - left, down - up
    once = (along_x * x + along_y * y, along_y * x - along_x * y)
    half = right - up + left - down
    twice = (half * (x * x - y * y), half * (2 * x * y))
    return torch.cat((right + up + left + down, *once, *twice), dim=-1)
