"""VGG16: Simonyan and Zisserman, ICLR 2015, configuration D, without its fully connected part.

Parameter names are torchvision's (`features.N.weight`), so that its checkpoint `vgg16-*.pth` loads as
it is (the `classifier.*` entries are passed over)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import ClassVar

from torch import Tensor, nn

from locate.extractors.backbones.base import Backbone, stop_after
from locate.extractors.blocks.grids import Grid

_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(Backbone):
    """All taps are after ReLU."""

    name = "vgg16"
    widths: ClassVar[Mapping[str, int]] = {
        "conv1_2": 64,
        "conv2_2": 128,
        "conv3_3": 256,
        "conv4_3": 512,
        "conv5_3": 512,
    }

    def __init__(self) -> None:
        super().__init__()
        self.strides = {"conv1_2": 1, "conv2_2": 2, "conv3_3": 4, "conv4_3": 8, "conv5_3": 16}
        layers: list[nn.Module] = []
        self._ends: dict[str, int] = {}  # index of the last ReLU of each block
        channels = 3
        for block, widths in enumerate(_WIDTHS, start=1):
            for width in widths:
                layers += [nn.Conv2d(channels, width, 3, 1, 1), nn.ReLU(inplace=True)]
                channels = width
            self._ends[f"conv{block}_{len(widths)}"] = len(layers) - 1
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)

    def grid(self, tap: str) -> Grid:
        # A 2 x 2 pooling puts cell i on 2 i + 0.5 of the finer map, one of stride 1 on i + 0.5.
        offset, stride = 0.0, 1
        for pool in list(self.features)[: self._ends[tap]]:
            if isinstance(pool, _DilatedAverage):
                offset += 0.5 * stride * pool.dilation
            elif isinstance(pool, nn.MaxPool2d):
                offset += 0.5 * stride
                stride *= 2
        return Grid(stride, offset)

    def taps(self, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        wanted = stop_after(self, names)
        maps: dict[str, Tensor] = {}
        ends = {index: name for name, index in self._ends.items()}
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in ends:
                maps[ends[i]] = x
                if len(maps) == len(wanted):
                    break
        return maps

    def dilate(self, stride: int) -> None:
        """As D2-Net does at test time: the poolings beyond `stride` become averages of 2 x 2 at
        stride 1, the convolutions after them get holes (Dusmanu et al., CVPR 2019, section 4.2)."""
        natural, dilation = 1, 1
        for i, layer in enumerate(self.features):
            if isinstance(layer, nn.Conv2d):
                layer.dilation = layer.padding = (dilation, dilation)
            elif isinstance(layer, nn.MaxPool2d):
                natural *= 2
                if natural > stride:
                    self.features[i] = _DilatedAverage(dilation)
                    dilation *= 2
        for tap, at in self.strides.items():
            self.strides[tap] = min(at, stride)


class _DilatedAverage(nn.Module):
    """Mean of the 2 x 2 cells (0 or `dilation` apart), stride 1; a row and column less per dilation."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """B x C x H x W -> B x C x H - dilation x W - dilation."""
        d = self.dilation
        return (x[..., :-d, :-d] + x[..., d:, :-d] + x[..., :-d, d:] + x[..., d:, d:]) / 4
