"""The network of D2-Net: one map of features that is detector and descriptor at once.

Dusmanu et al., CVPR 2019. The paper takes VGG16 up to conv4_3, at stride 8 in training and at stride
4 in use (same weights, the last pooling without its stride, holes in the convolutions after it), and
trains conv4_3 alone. So does this network with a single tap of any backbone.

Cell i of VGG16's map of stride 4 is centred on pixel 4 i + 3.5, as cell i of the one of stride 8 that
was trained is on 8 i + 3.5: each of three poolings, also that without a stride, moves cells by half
of one. The authors' code has 4 i + 1.5, from two of them.
`tests/extractors/backbones/test_backbones.py` measures where cells look.

With several taps, the default on EfficientNet-Lite0, it is ours and not the paper's: the maps are
brought to the grid of the finest, put side by side and mixed by a 1 x 1 convolution with a ReLU, the
head, which alone is trained. Layers of Lite0 are either precise (stage 2) or distinctive (stage 5);
conv4_3 of VGG16, at many times the work, is both. One pass at the natural strides gives a map of
stride 4, in training and in use. Before training the head passes on the positive and the negative
part of every channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from locate.errors import InputError, UnknownNameError
from locate.extractors.backbones.base import Backbone, take_out_unused
from locate.extractors.blocks.grids import Grid, resample

SYSTEM = "d2net"
TRAINING_STRIDE, STRIDE = 8, 4  # pixels per cell of a single tap, in training and in use


@dataclass(frozen=True)
class Plan:
    """What is taken of a backbone: its taps by default, and how the names of the parameters begin that
    are trained if there is a single one."""

    taps: tuple[str, ...]
    trained: tuple[str, ...]


PLANS: Mapping[str, Plan] = {
    # With the single tap "expand4" (not negative, stride 8, as conv4_3, but a 1 x 1 convolution, which
    # alone can learn little) the two blocks before it are trained too.
    "lite0": Plan(
        ("stage2", "stage3", "stage5"),
        ("_blocks.3.", "_blocks.4.", "_blocks.5._expand_conv.", "_blocks.5._bn0."),
    ),
    "resnet50": Plan(("layer2",), ("layer2.3.",)),
    "resnet101": Plan(("layer2",), ("layer2.3.",)),
    "vgg16": Plan(("conv4_3",), ("features.21.",)),
}


class D2Network(nn.Module):
    """Pixels in, one map of features out, of `width` channels.

    Of the backbone, at its natural strides, what the `taps` (None for those of `PLANS`) do not depend
    on is taken out. `stride` is the pixels per cell of a single tap: finer than its own, and the
    backbone gets holes."""

    def __init__(
        self, backbone: Backbone, taps: Sequence[str] | None = None, stride: int = TRAINING_STRIDE
    ) -> None:
        super().__init__()
        plan = PLANS[backbone.name]
        self.taps = plan.taps if taps is None else tuple(taps)
        for tap in self.taps:
            if tap not in backbone.widths:
                raise UnknownNameError(f"{backbone.name} tap", tap, backbone.widths)
        if not self.taps or stride < 1 or stride & (stride - 1):
            raise InputError(
                f"a network needs taps and a stride of 1, 2, 4, ..., got {self.taps} and {stride}"
            )
        self.head: nn.Conv2d | None = None
        if len(self.taps) > 1:
            self.head = _head(backbone, self.taps)
        elif backbone.strides[self.taps[0]] > stride:
            backbone.dilate(stride)
        self.backbone = backbone
        self._finest = min(self.taps, key=lambda tap: backbone.strides[tap])
        self.width = self.head.out_channels if self.head else backbone.widths[self._finest]
        self.grid: Grid = backbone.grid(self._finest)
        self._trained = plan.trained
        take_out_unused(backbone, self.taps)

    def forward(self, pixels: Tensor) -> Tensor:
        """RGB of 0 to 255, B x 3 x H x W, sides multiples of 32 -> B x `width` x h x w, not negative."""
        maps = self.backbone.maps(pixels, self.taps)
        finest = maps[self._finest]
        if self.head is None:
            return functional.relu(finest)
        size = (finest.shape[-2], finest.shape[-1])
        for tap in self.taps:
            if tap != self._finest:
                maps[tap] = resample(maps[tap], self.backbone.grid(tap), self.grid, size)
        return functional.relu(self.head(torch.cat([maps[tap] for tap in self.taps], dim=1)))

    def trained(self) -> list[nn.Parameter]:
        """The parameters that are trained; they alone are left with `requires_grad`."""
        begin = ("head.",) if self.head else tuple(f"backbone.{name}" for name in self._trained)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(begin))
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def _head(backbone: Backbone, taps: Sequence[str]) -> nn.Conv2d:
    """A 1 x 1 convolution that, followed by a ReLU, gives the positive part of every channel, and of
    those that have a sign (Lite0's stages) the negative part too."""
    widths = torch.tensor([backbone.widths[tap] for tap in taps])
    signed = torch.tensor([tap.startswith("stage") for tap in taps]).repeat_interleave(widths)
    identity = torch.eye(len(signed))
    weight = torch.cat((identity, -identity[signed]))
    head = nn.Conv2d(len(signed), len(weight), 1)
    with torch.no_grad():
        head.weight.copy_(weight[:, :, None, None])
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    return head
