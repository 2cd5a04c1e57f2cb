"""The network of SEKD: Song et al., arXiv 2006.05077.

A trunk of nine residual blocks comes down to stride 4, where descriptors are; two transposed
convolutions go back up to every pixel, where a pixel is a keypoint or not, and take what the trunk saw
at each resolution on the way as short cuts.

Parameters are called as in the authors' file, so that their weights load.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from locate.extractors.blocks.grids import Grid, sample

SYSTEM = "sekd"
CELL = 4  # pixels between the cells of the map of descriptors
WIDTH = 128  # of a descriptor
THRESHOLD, RADIUS = 0.55, 4  # of the authors' keypoints: least probability, pixels of suppression
GRID = Grid(CELL, 0.0)  # 3 x 3 kernels of stride 2: a cell is centred on its first pixel
PIXELS = Grid(1, 0.0)  # of the map at full resolution


class Trunk(NamedTuple):
    """What the trunk saw, B x 32, 64, 128 channels at stride 1, 2, 4."""

    full: Tensor
    half: Tensor
    quarter: Tensor


class _Residual(nn.Module):
    """Normalisation, ReLU, one convolution of 3 x 3; beside it the input, by a convolution of 1 x 1
    where its shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.convb = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(inputs, outputs, 3, stride, padding=1),
        )
        self.conv_residual = (
            nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.convb(x)
        return found.add_(x if self.conv_residual is None else self.conv_residual(x))


class SEKDNetwork(nn.Module):
    """Grey pixels in; logits of each pixel, descriptors at stride 4 and features at stride 1 out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(1, 32, 5, padding=2)
        self.resblock0 = _blocks(32, 32, 1)
        self.resblock1 = _blocks(32, 64, 2)
        self.resblock2 = _blocks(64, WIDTH, 2)
        self.deconv0 = _upwards(WIDTH, 64)
        self.deconv1 = _upwards(64, 32)
        self.detector = nn.Conv2d(32, 2, 3, padding=1)
        self.descriptor = _Residual(WIDTH, WIDTH)

    def look(self, images: Tensor) -> Trunk:
        """B x 1 x H x W of 0 to 1, H and W multiples of 4."""
        full = self.resblock0(self.conv0(images))
        half = self.resblock1(full)
        return Trunk(full, half, self.resblock2(half))

    def detect(self, seen: Trunk) -> tuple[Tensor, Tensor]:
        """Logits B x 2 x H x W, of "nothing" and of "keypoint"; and f0, the features B x 32 x H x W that
        they are made of."""
        half = seen.half + self.deconv0(seen.quarter)
        full = seen.full + self.deconv1(half)
        return self.detector(full), full

    def describe(self, seen: Trunk) -> Tensor:
        """B x 128 x H / 4 x W / 4, of any length; see `read`."""
        found: Tensor = self.descriptor(seen.quarter)
        return found

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """B x 1 x H x W of 0 to 1 -> logits B x 2 x H x W, descriptors B x 128 x H / 4 x W / 4."""
        seen = self.look(images)
        return self.detect(seen)[0], self.describe(seen)


def _blocks(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = _Residual(inputs, outputs, stride)
    return nn.Sequential(first, _Residual(outputs, outputs), _Residual(outputs, outputs))


def _upwards(inputs: int, outputs: int) -> nn.Sequential:
    """To twice the resolution: cell i lies on cell 2 i."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(inputs, outputs, 3, 2, padding=1, output_padding=1, groups=8),
    )


def log_odds(logits: Tensor) -> Tensor:
    """log p / (1 - p) of "keypoint" by the softmax over both classes: B x 2 x H x W -> B x H x W."""
    return logits[:, 1].float() - logits[:, 0].float()


def heat_map(logits: Tensor) -> Tensor:
    """p, the probability that a pixel is a keypoint: B x 2 x H x W -> B x H x W."""
    return torch.sigmoid(log_odds(logits))


def read(coarse: Tensor, points: Tensor) -> Tensor:
    """Descriptors at B x N x 2 points (x, y) in pixels, bilinearly, then of length 1: B x N x 128."""
    return functional.normalize(sample(coarse.float(), GRID.to_map(points)), dim=2)
