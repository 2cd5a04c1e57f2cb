"""DELF's network: a backbone cut off in the middle, an attention score for each cell, a PCA.

Noh, Araujo, Sim, Weyand, Han: "Large-Scale Image Retrieval with Attentive Deep Local Features", ICCV
2017, sections 3.1 and 3.2. The paper takes ResNet-50 up to conv4_x ("layer3"). On EfficientNet-Lite0
our choice is "expand6": like conv4_x it has stride 16, and it is the widest map there (672 channels
after a ReLU), which the descriptors need more than the depth of the maps behind it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from locate.errors import UnknownNameError
from locate.extractors.backbones.base import Backbone, take_out_unused
from locate.extractors.blocks.grids import Grid

TAPS: Mapping[str, str] = {"lite0": "expand6", "resnet50": "layer3", "resnet101": "layer3"}
# How the names of the parameters begin that are fine-tuned for the descriptors. The paper's: all. On
# Lite0 stages 1 to 3, with a twentieth of the parameters and most of the work, stay as they are.
FINE_TUNED: Mapping[str, tuple[str, ...]] = {
    "lite0": tuple(f"_blocks.{i}." for i in range(5, 12)),
    "resnet50": ("",),
    "resnet101": ("",),
}


class Attention(nn.Module):
    """alpha(f): two 1 x 1 convolutions with a ReLU between, then softplus (section 3.2): B x C x H x
    W features, not normalised -> B x H x W scores above 0.

    At the start it is nearly the same everywhere, so that pooling by it is the plain mean that the
    descriptors were trained with (ours): what a random start prefers would take long to unlearn."""

    def __init__(self, channels: int, hidden: int = 512) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, 1, 1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.01)

    def forward(self, features: Tensor) -> Tensor:
        """B x C x h x w -> B x h x w, attention of 0 or more."""
        scores: Tensor = functional.softplus(self.conv2(functional.relu(self.conv1(features))))
        return scores[:, 0]


class DelfNetwork(nn.Module):
    """Features and their attention; the PCA that shortens the descriptors is fitted after training.

    The backbone, "lite0", "resnet50" or "resnet101", is changed in place: what the tap does not need is
    taken out of it."""

    mean: Tensor  # C, of the PCA
    components: Tensor  # dim x C; before it is fitted, of a fixed random rotation
    threshold: Tensor  # the attention below which a feature is not kept

    def __init__(self, backbone: Backbone, dim: int = 40) -> None:
        super().__init__()
        if backbone.name not in TAPS:
            raise UnknownNameError("backbone of delf", backbone.name, TAPS)
        self.tap = TAPS[backbone.name]
        take_out_unused(backbone, [self.tap])
        self.backbone = backbone
        channels = backbone.widths[self.tap]
        self.attention = Attention(channels)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("components", fixed_rotation(channels)[:dim])
        self.register_buffer("threshold", torch.tensor(0.0))

    @property
    def grid(self) -> Grid:
        return self.backbone.grid(self.tap)

    def fine_tuned(self) -> list[nn.Parameter]:
        """The parameters of the backbone that are trained with the descriptors."""
        names = FINE_TUNED[self.backbone.name]
        return [p for name, p in self.backbone.named_parameters() if name.startswith(names)]

    def features(self, pixels: Tensor) -> Tensor:
        """B x 3 x H x W, RGB 0..255 -> B x C x h x w, not normalised."""
        return self.backbone.maps(pixels, [self.tap])[self.tap]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """B x 3 x H x W, RGB 0..255 -> features B x C x h x w and their attention B x h x w."""
        features = self.features(pixels)
        return features, self.attention(features)

    def shorten(self, features: Tensor) -> Tensor:
        """N x C features -> N x dim descriptors: L2, PCA or what has its place, L2 (section 3.3)."""
        unit = functional.normalize(features, dim=1)
        return functional.normalize((unit - self.mean) @ self.components.T, dim=1)


def fixed_rotation(size: int) -> Tensor:
    """A random rotation, the same every time, size x size with orthonormal rows."""
    generator = torch.Generator().manual_seed(0)
    rotation: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
    return rotation
