"""The network of LF-Net: Ono et al., NeurIPS 2018, section 3.1, with the numbers of the authors' code.

A detector that gives a score, a scale and an orientation for every pixel, and a descriptor of crops of
32 x 32 pixels, which are cut out at the detector's keypoints (`locate.extractors.lfnet.detection`).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from locate.errors import InputError

SYSTEM = "lfnet"
WIDTH = 256  # of a descriptor
SIDE = 32  # pixels of a crop's side at scale 1
BORDER = 16  # pixels at the edges without points: half a crop, and what 8 convolutions of 5 x 5 see
CHANNELS = 16
BLOCKS = 3
LEVELS = 5
FACTORS = tuple(2 ** (0.5 - k / (LEVELS - 1)) for k in range(LEVELS))  # sqrt(2) to sqrt(1/2)
LOG_RANGE = math.log(2) / 2  # of scales, either way
_SLOPE = 0.2  # of leaky ReLUs
_EPSILON = 1e-3  # of variances
_WINDOW, _SHARPNESS = 15, 3.0  # of the soft suppression: pixels of its side, and its strength
_TILE = 4  # pixels of its side, see `NarrowConv2d`
_SELECTION = 100.0  # strength of the choice of a scale


class Maps(NamedTuple):
    """What the detector says of B images."""

    image: Tensor  # B x 1 x H x W, normalised: what crops are cut from
    score: Tensor  # B x H x W, 0 to 1
    scale: Tensor  # B x H x W, `FACTORS[-1]` to `FACTORS[0]`
    orientation: Tensor  # B x 2 x H x W, (cos, sin), of length 1

    def detached(self) -> Maps:
        """The second branch: the same numbers without a gradient."""
        return Maps(*(part.detach() for part in self))


class LFNetwork(nn.Module):
    """Grey images in, maps out; crops in, descriptors out.

    Args:
        strength: of the soft argument of the maximum by which keypoints are refined; the paper has 1.
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        if not 0 < strength < math.inf:
            raise InputError(f"lfnet: strength must be above 0, got {strength}")
        self.strength = float(strength)
        self.detector = Detector()
        self.descriptor = Descriptor()

    def forward(self, images: Tensor) -> Maps:
        """B x 1 x H x W of 0 to 1."""
        image = normalise(images.float())
        return Maps(image, *self.detector(image))


class Detector(nn.Module):
    """Residual network, scale space of its features, soft suppression, choice of a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _convolution(1, CHANNELS)
        self.blocks = nn.Sequential(*(_Block() for _ in range(BLOCKS)))
        self.last = _activation(CHANNELS)
        # What is added to a whole level is taken away by its normalisation: no bias.
        self.scores = nn.ModuleList(NarrowConv2d(1) for _ in range(LEVELS))
        self.orientation = NarrowConv2d(2, bias=True)
        nn.init.zeros_(self.orientation.weight)
        with torch.no_grad():
            assert self.orientation.bias is not None
            self.orientation.bias.copy_(torch.tensor([1.0, 0.0]))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """B x 1 x H x W, normalised -> score and scale B x H x W, orientation B x 2 x H x W."""
        channels_last = image.contiguous(memory_format=torch.channels_last)
        features = self.last(self.blocks(self.first(channels_last)))
        # Maxima and angles need the digits that bfloat16 has not.
        with torch.autocast(image.device.type, enabled=False):
            features = features.float()
            score, scale = fuse(self.levels(features))
            return score, scale, functional.normalize(self.orientation(features), dim=1)

    def levels(self, features: Tensor) -> Tensor:
        """B x 16 x H x W -> z, B x 5 x H x W: of the features at 1 / s of their size one map for each
        scale s, normalised and brought back to the full size."""
        size = (features.shape[-2], features.shape[-1])
        found = []
        for factor, convolution in zip(FACTORS, self.scores, strict=True):
            smaller = [max(1, round(side / factor)) for side in size]
            level = normalise(convolution(_resize(features, smaller)))
            found.append(_resize(level, list(size)))
        return torch.cat(found, dim=1)


class Descriptor(nn.Module):
    """Three convolutions of stride 2 and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 64, 128, 256)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs, eps=_EPSILON), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*layers)
        self.linear = nn.Sequential(
            nn.Linear(widths[-1] * (SIDE // 8) ** 2, 512, bias=False),
            nn.BatchNorm1d(512, eps=_EPSILON),
            nn.ReLU(inplace=True),
            nn.Linear(512, WIDTH),
        )

    def forward(self, crops: Tensor) -> Tensor:
        """N x 1 x 32 x 32 -> N x 256, of length 1."""
        maps = self.convolutions(crops.contiguous(memory_format=torch.channels_last))
        return functional.normalize(self.linear(maps.flatten(1)).float(), dim=1)


class _Block(nn.Module):
    """A residual block whose normalisations come before the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _activation(CHANNELS),
            _convolution(CHANNELS, CHANNELS),
            _activation(CHANNELS),
            _convolution(CHANNELS, CHANNELS),
        )

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.layers(x)
        return x + added


class NarrowConv2d(nn.Conv2d):
    """A convolution of 5 x 5 with few outputs, at half the time or less: processors compute sixteen
    outputs as fast as one, so those of 4 x 4 pixels are computed as channels, by one kernel of 8 x 8
    that holds the kernel of each pixel at its place."""

    def __init__(self, outputs: int, *, bias: bool = False) -> None:
        super().__init__(CHANNELS, outputs, 5, padding=2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        n, (height, width) = _TILE, x.shape[-2:]
        padded = functional.pad(x, (2, 2 + -width % n, 2, 2 + -height % n))
        places = [(row, column) for row in range(n) for column in range(n)]
        kernels = [functional.pad(self.weight, (c, n - 1 - c, r, n - 1 - r)) for r, c in places]
        bias = None if self.bias is None else self.bias.repeat_interleave(n * n)
        tiles = functional.conv2d(padded, torch.stack(kernels, dim=1).flatten(0, 1), bias, stride=n)
        return functional.pixel_shuffle(tiles, n)[..., :height, :width]


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 5, padding=2, bias=False)


def _activation(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels, eps=_EPSILON), nn.LeakyReLU(_SLOPE, inplace=True))


def _resize(maps: Tensor, size: list[int]) -> Tensor:
    """Corners on corners."""
    if list(maps.shape[-2:]) == size:
        return maps
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


def normalise(maps: Tensor) -> Tensor:
    """Instance normalisation: every channel of every image with mean 0 and variance 1."""
    variance, mean = torch.var_mean(maps, dim=(-2, -1), correction=0, keepdim=True)
    return (maps - mean) * (variance + _EPSILON).rsqrt()


def soft_suppression(z: Tensor) -> Tensor:
    """exp(3 (z - m)) / sum of the same over the window of 15 x 15 pixels and all scales, m being the
    largest z in a pixel's window. B x S x H x W -> the same."""
    reach = _WINDOW // 2
    largest = z.amax(dim=1, keepdim=True)
    for kernel, pad in (((_WINDOW, 1), (reach, 0)), ((1, _WINDOW), (0, reach))):
        largest = functional.max_pool2d(largest, kernel, 1, pad)
    raised = torch.exp(_SHARPNESS * (z - largest))
    around = raised.sum(dim=1, keepdim=True)
    for kernel, pad in (((_WINDOW, 1), (reach, 0)), ((1, _WINDOW), (0, reach))):
        around = functional.avg_pool2d(around, kernel, 1, pad, divisor_override=1)
    return raised / (around + 1e-6)


def fuse(z: Tensor) -> tuple[Tensor, Tensor]:
    """From normalised levels, B x S x H x W, to score and scale, B x H x W: the soft maximum and the
    soft argument of the maximum over scales."""
    suppressed = soft_suppression(z)
    chosen = torch.softmax(_SELECTION * suppressed, dim=1)
    factors = z.new_tensor(FACTORS)[:, None, None]
    return (chosen * suppressed).sum(dim=1), (chosen * factors).sum(dim=1)
