"""The network: a C4-equivariant pyramid, and descriptors at keypoints.

Everything up to the map of fields turns with the image by construction (`group`). A keypoint comes
with a direction; the places around it at which the descriptor looks are turned by it, and so are the
channels, so that the descriptor does not change when the image is turned. Training makes that hold
between quarter turns too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from locate.extractors.blocks.grids import Grid, sample
from locate.extractors.steered.equivariant import TURNS, FieldNorm, GroupConv, steered

SYSTEM = "steered"
MULTIPLE = 32  # the sides of an image must be multiples of it
MAPS = Grid(4, 1.5)  # where its cells lie
WIDTH = 128  # of a descriptor

_GREY = (0.299, 0.587, 0.114)  # Rec. 601
_SPACING = 8.0  # pixels between the 3 x 3 places that a descriptor looks at


class Block(nn.Sequential):
    """Convolution, normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__(
            GroupConv(inputs, outputs, size, stride), FieldNorm(outputs), nn.ReLU(inplace=True)
        )


class Residual(nn.Module):
    """x + two convolutions of it."""

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.first = Block(fields, fields)
        self.second = GroupConv(fields, fields)
        self.norm = FieldNorm(fields)

    def forward(self, x: Tensor) -> Tensor:
        """B x 4 F x H x W -> the same shape."""
        return functional.relu(x + self.norm(self.second(self.first(x))), inplace=True)


class SteeredNetwork(nn.Module):
    """A C4-equivariant network: grey pixels in, scores and descriptors that turn with the image out."""

    grey: Tensor
    around: Tensor

    def __init__(
        self,
        widths: Sequence[int] = (6, 8, 24, 48, 64),  # fields at strides 2, 4, 8, 16 and 32
        fields: int = 16,  # F, of the map that descriptors are made of
        residuals: Sequence[int] = (1, 1, 2, 2),  # how many at strides 4, 8, 16 and 32
        hidden: int = 256,  # numbers between the two layers that make a descriptor
    ) -> None:
        super().__init__()
        self.widths, self.fields, self.residuals = tuple(widths), fields, tuple(residuals)
        self.hidden = hidden
        w2 = widths[0]
        self.stem = nn.Sequential(Block(0, w2, 4, 2), Block(w2, w2))
        self.to4, self.to8, self.to16, self.to32 = (
            nn.Sequential(Block(before, after, 2, 2), *(Residual(after) for _ in range(count)))
            for before, after, count in zip(widths, widths[1:], residuals, strict=False)
        )
        self.lateral = nn.ModuleList(GroupConv(w, fields, 1) for w in widths[1:])
        self.join = nn.ModuleList(Block(fields, fields) for _ in range(2))  # at strides 8 and 4
        self.describe = nn.Sequential(
            nn.Linear(5 * 9 * fields, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, WIDTH)
        )
        self.describe_upright: nn.Module | None = None  # of a fused network
        self.register_buffer("grey", torch.tensor(_GREY).view(1, 3, 1, 1), persistent=False)
        steps = torch.tensor((-_SPACING, 0.0, _SPACING)) / MAPS.stride
        around = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).reshape(-1, 2)
        self.register_buffer("around", around, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """B x 3 x H x W, RGB 0..255, sides multiples of 32 -> B x 4 F x H / 4 x W / 4, what descriptors
        are made of; cells lie as `MAPS` says."""
        return self.grey_maps((images * self.grey).sum(dim=1, keepdim=True))

    def grey_maps(self, grey: Tensor) -> Tensor:
        """The same of B x 1 x H x W, 0..255."""
        x = (grey / 64 - 2).to(next(self.stem.parameters()).dtype)
        at4 = self.to4(self.stem(x))
        at8 = self.to8(at4)
        at16 = self.to16(at8)
        at32 = self.to32(at16)
        deep = self.lateral[2](at16) + _double(self.lateral[3](at32))
        deep = self.join[0](self.lateral[1](at8) + _double(deep))
        found: Tensor = self.join[1](self.lateral[0](at4) + _double(deep))
        return found.float()

    def descriptors_at(self, maps: Tensor, points: Tensor, orientations: Tensor) -> Tensor:
        """Unit vectors B x N x 128, from the maps of `forward`, at points B x N x 2 in pixels with an
        orientation each: unit vectors B x N x 2, which way is "right". (1, 0) for all gives upright
        descriptors."""
        along = orientations.unsqueeze(2)
        across = torch.stack((-along[..., 1], along[..., 0]), dim=-1)
        x, y = self.around[:, :1], self.around[:, 1:]
        seen = self._sample(maps, MAPS.to_map(points).unsqueeze(2) + x * along + y * across)
        turned = steered(seen, along.expand(-1, -1, len(self.around), -1))
        return functional.normalize(self.describe(turned.flatten(2)).float(), dim=-1)

    def upright_at(self, maps: Tensor, points: Tensor) -> Tensor:
        """`descriptors_at` of orientations (1, 0). A fused network (`fused`) is faster at it."""
        if self.describe_upright is None:
            return self.descriptors_at(maps, points, points.new_tensor((1, 0)).expand_as(points))
        seen = self._sample(maps, MAPS.to_map(points).unsqueeze(2) + self.around)
        return functional.normalize(self.describe_upright(seen.flatten(2)).float(), dim=-1)

    def _sample(self, maps: Tensor, places: Tensor) -> Tensor:
        """B x N x 9 x F x 4 at B x N x 9 x 2 places in cells."""
        found = sample(maps, places.flatten(1, 2))
        return found.view(*places.shape[:3], self.fields, TURNS)


def build(settings: Mapping[str, Any]) -> SteeredNetwork:
    return SteeredNetwork(**settings)


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
