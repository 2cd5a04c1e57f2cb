"""ResNet-50 and ResNet-101: He et al., CVPR 2016, Table 1, with the stride in the 3 x 3 convolution.

Parameter names and layout are torchvision's (v1.5), so that its checkpoints `resnet50-*.pth` and
`resnet101-*.pth` load as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from torch import Tensor, nn

from locate.extractors.backbones.base import Backbone, stop_after
from locate.extractors.blocks.grids import Grid
from locate.extractors.blocks.layers import fuse_batch_norms

_DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
_LAYERS = ("layer1", "layer2", "layer3", "layer4")


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != out:
            conv = nn.Conv2d(inputs, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """B x C x H x W -> B x C' x H' x W'."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.downsample is not None:
            x = self.downsample(x)
        out: Tensor = self.relu(y + x)
        return out

    def fuse(self) -> None:
        norms = {f"bn{i}": f"conv{i}" for i in (1, 2, 3)}
        if isinstance(self.downsample, nn.Sequential):
            norms["downsample.1"] = "downsample.0"
        fuse_batch_norms(self, norms)

    def dilate(self, dilation: int) -> None:
        """Stride 1, and the holes that keep the receptive field what it was."""
        self.conv2.stride = (1, 1)
        if self.downsample is not None:
            conv = self.downsample[0]
            assert isinstance(conv, nn.Conv2d)
            conv.stride = (1, 1)
        self.conv2.dilation = self.conv2.padding = (dilation, dilation)


class ResNet(Backbone):
    """All taps are after ReLU. "layer3" is the papers' conv4_x, "layer4" conv5_x."""

    widths: ClassVar[Mapping[str, int]] = {
        "stem": 64,
        "layer1": 256,
        "layer2": 512,
        "layer3": 1024,
        "layer4": 2048,
    }

    def __init__(self, name: str = "resnet50", classes: int = 1000) -> None:
        super().__init__()
        self.name = name
        self.strides = {"stem": 4, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for layer, depth, width in zip(_LAYERS, _DEPTHS[name], (64, 128, 256, 512), strict=True):
            blocks = []
            for i in range(depth):
                stride = 2 if i == 0 and layer != "layer1" else 1
                blocks.append(_Bottleneck(channels, width, stride))
                channels = 4 * width
            self.add_module(layer, nn.Sequential(*blocks))
        self.fc = nn.Linear(2048, classes)

    def grid(self, tap: str) -> Grid:
        return Grid(self.strides[tap], 0.0)  # odd kernels, padded on both sides

    def taps(self, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        last = stop_after(self, names)
        maps = {"stem": self.maxpool(self.relu(self.bn1(self.conv1(x))))}
        x = maps["stem"]
        for layer in _LAYERS:
            if layer not in last:
                break
            maps[layer] = x = self.get_submodule(layer)(x)
        return maps

    def fuse(self) -> None:
        fuse_batch_norms(self, {"bn1": "conv1"})
        for module in self.modules():
            if isinstance(module, _Bottleneck):
                module.fuse()

    def dilate(self, stride: int) -> None:
        dilation = 1
        for layer, natural in zip(_LAYERS, (4, 8, 16, 32), strict=True):
            if natural <= stride:
                continue
            # The convolution that had the stride still sees the finer map's neighbours.
            for i, block in enumerate(self.get_submodule(layer).children()):
                assert isinstance(block, _Bottleneck)
                block.dilate(dilation if i == 0 else 2 * dilation)
            dilation *= 2
            self.strides[layer] = stride
