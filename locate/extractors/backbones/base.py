"""What every pretrained backbone is: pixels in, feature maps by name out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import ClassVar

import torch
from torch import Tensor, nn

from locate.errors import UnknownNameError
from locate.extractors.blocks.grids import Grid

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, of RGB in 0..1


class Backbone(nn.Module, ABC):
    """A backbone: feature maps at several strides, by name."""

    name: str  # "lite0", "resnet50", "resnet101" or "vgg16"
    widths: ClassVar[Mapping[str, int]]  # channels of each tap, in the order of the network
    strides: dict[str, int]  # of each tap, in pixels

    def normalise(self, pixels: Tensor) -> Tensor:
        """B x 3 x H x W float, RGB 0..255 -> what the pretrained weights expect: as torchvision's, of
        0..1 less the mean, over the deviation of ImageNet."""
        mean, deviation = (
            torch.tensor(values, device=pixels.device, dtype=pixels.dtype)[:, None, None]
            for values in (_MEAN, _DEVIATION)
        )
        return (pixels / 255 - mean) / deviation

    @abstractmethod
    def grid(self, tap: str) -> Grid:
        """Where the cells of a tap lie in the image. Sides of the image must be multiples of 32."""

    @abstractmethod
    def taps(self, x: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Feature maps by name, of B x 3 x H x W, normalised; those on the way come too, but nothing
        beyond the last of `names` (None for all) is computed."""

    def maps(self, pixels: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """`taps` of B x 3 x H x W float, RGB 0..255; float whatever the network computes in."""
        inner = next(self.parameters()).dtype
        taps = self.taps(self.normalise(pixels).to(inner), names)
        return {name: maps.to(pixels.dtype) for name, maps in taps.items()}

    @abstractmethod
    def dilate(self, stride: int) -> None:
        """Change the network in place so that no tap is coarser than `stride`: strides beyond it
        become 1, and the convolutions after them get holes ("a trous"), with the same weights."""

    def fuse(self) -> None:
        """Change the network in place, for use alone: the same maps, with every normalisation, if there
        is any, fused into its convolution."""

    def freeze_normalisation(self) -> None:
        """Keep the statistics of batch normalisation as they are, also in training mode: batches
        of a few images would spoil them."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def stop_after(backbone: Backbone, names: Collection[str] | None) -> tuple[str, ...]:
    """The taps up to the last of `names`, in order; `UnknownNameError` for one that there is not."""
    known = tuple(backbone.widths)
    if names is None:
        return known
    for name in names:
        if name not in known:
            raise UnknownNameError(f"{backbone.name} tap", name, known)
    return known[: 1 + max(known.index(name) for name in names)]


def take_out_unused(backbone: Backbone, taps: Collection[str]) -> None:
    """Replace every layer that `taps` do not depend on by an empty one, so that neither the memory
    nor a weights file holds it."""
    used = set()
    copy = deepcopy(backbone).eval()
    for name, layer in copy.named_modules():
        layer.register_forward_hook(lambda *_, name=name: used.add(name))
    with torch.no_grad():
        copy.taps(next(copy.parameters()).new_zeros(1, 3, 64, 64), taps)
    for name, layer in list(backbone.named_modules()):
        if not list(layer.children()) and name not in used and layer.state_dict():
            backbone.set_submodule(name, nn.Identity())
