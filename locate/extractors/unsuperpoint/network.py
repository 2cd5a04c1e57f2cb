"""The network of UnsuperPoint: Christiansen et al., arXiv 1907.04011.

Each cell of 8 x 8 pixels gives one point: a score, a place and a descriptor, which is read from the map
of descriptors at that place inside the network, so that places and descriptors are trained together.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from locate.errors import InputError
from locate.extractors.blocks.grids import Grid, sample

SYSTEM = "unsuperpoint"
CELL = 8  # pixels of its side
WIDTH = 256  # of a descriptor
GRID = Grid(CELL, (CELL - 1) / 2)
_BLOCKS = (32, 64, 128, 256)  # channels of two convolutions each; a maximum of 2 x 2 between blocks
_SLOPE = 0.01  # of LeakyReLU
REACHES = (1.0, 2.0)


class Points(NamedTuple):
    """The points of B images, M = h w cells each, row by row."""

    scores: Tensor  # B x M, 0 to 1
    relative: Tensor  # B x M x 2, 0 to 1 across the cell (beyond it where points may reach farther)
    places: Tensor  # B x M x 2, (x, y) in pixels, the centre of the first one at (0, 0)
    descriptors: Tensor  # B x M x 256, of length 1


class UnsuperPointNetwork(nn.Module):
    """Pixels in, one point a cell out.

    Args:
        reach: how far a point may lie from its cell's centre, in halves of a cell. 1, the paper's, is a
            sigmoid across the cell; more, a tanh across it and its neighbours, as in KP2D (Tang et al.,
            "Neural Outlier Rejection for Self-Supervised Keypoint Learning", ICLR 2020).
    """

    def __init__(self, reach: float = 1.0) -> None:
        super().__init__()
        if not 1 <= reach <= 4:
            raise InputError(f"unsuperpoint: a point reaches 1 to 4 halves of a cell, not {reach}")
        self.reach = float(reach)
        layers: list[nn.Module] = []
        inputs = 3
        for number, outputs in enumerate(_BLOCKS):
            layers += [nn.MaxPool2d(2)] * (number > 0)
            layers += [_convolution(inputs, outputs), _convolution(outputs, outputs)]
            inputs = outputs
        self.backbone = nn.Sequential(*layers)
        self.score, self.position, self.descriptor = (
            nn.Sequential(_convolution(inputs, 256), nn.Conv2d(256, outputs, 3, padding=1))
            for outputs in (1, 2, WIDTH)
        )

    def forward(self, images: Tensor) -> Points:
        """B x 3 x H x W of -1 to 1, H and W multiples of 8 -> the points of all cells."""
        maps = self.backbone(images)
        scores = torch.sigmoid(self.score(maps).float()).flatten(1)
        # bfloat16 has 8 binary digits: too few for a place in a photo.
        relative = self._relative(self.position(maps).float()).flatten(2).mT
        places = self.places(relative, (maps.shape[-2], maps.shape[-1]))
        read = sample(self.descriptor(maps).float(), GRID.to_map(places))
        return Points(scores, relative, places, functional.normalize(read, dim=2))

    def _relative(self, found: Tensor) -> Tensor:
        if self.reach == 1:
            return torch.sigmoid(found)
        return 0.5 + 0.5 * self.reach * torch.tanh(found)

    @staticmethod
    def places(relative: Tensor, shape: tuple[int, int]) -> Tensor:
        """(column + p_x, row + p_y) cells, from the image's corner; in pixels whose centres
        are whole numbers.

        Args:
            relative: B x M x 2.
            shape: (h, w) cells.
        """
        rows, columns = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
        cells = torch.stack((columns, rows), dim=-1).reshape(1, -1, 2).to(relative)
        return (cells + relative) * CELL - 0.5


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(_SLOPE, inplace=True),
    )


def to_range(images: Tensor) -> Tensor:
    """0..255 -> about -1..1, as the network is fed."""
    return images / 127.5 - 1
