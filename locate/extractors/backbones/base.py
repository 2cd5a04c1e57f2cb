"""What every pretrained backbone is: pixels in, feature maps by name out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from locate.errors import UnknownNameError
from locate.extractors.blocks.grids import Grid

# ImageNet's, of RGB in 0..1.
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


class Backbone(nn.Module, ABC):
    """Attributes:
    name: "lite0", "resnet50", "resnet101" or "vgg16".
    widths: channels of each tap, in the order in which the network computes them.
    strides: of each tap, in pixels.
    """

    name: str
    widths: ClassVar[Mapping[str, int]]
    strides: dict[str, int]

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

    @abstractmethod
    def dilate(self, stride: int) -> None:
        """Change the network in place so that no tap is coarser than `stride`: strides beyond it
        become 1, and the convolutions after them get holes ("a trous"), with the same weights."""

    def fuse(self) -> None:
        """Change the network in place, for use alone: the same maps, with every normalisation, if there
        is any, fused into its convolution."""
        return

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
    used: set[nn.Module] = set()
    layers = [m for m in backbone.modules() if not list(m.children())]
    hooks = [layer.register_forward_hook(lambda m, *_: used.add(m)) for layer in layers]
    modes = {module: module.training for module in backbone.modules()}
    parameter = next(backbone.parameters())
    try:
        with torch.no_grad():  # in evaluation mode, or batch normalisation would take up the zeros
            backbone.eval().taps(parameter.new_zeros(1, 3, 64, 64), taps)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode
    for name, module in list(backbone.named_modules()):
        if module in layers and module not in used and module.state_dict():
            backbone.set_submodule(name, nn.Identity())
