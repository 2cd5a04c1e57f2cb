"""What extractors with a network do alike: where it runs, and what it is shown."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

from locate.extractors.base import Size
from locate.pixels import fit_size
from locate.precision import precision
from locate.types import Array

Network = TypeVar("Network", bound=nn.Module)


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def channels_last(network: Network, device: torch.device) -> Network:
    """It on the device; this order of the numbers halves the time of depthwise convolutions."""
    placed = network.to(device)
    return placed.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def for_use(network: Network, device: torch.device) -> Network:
    """A copy of a network with a `backbone`, for use alone: evaluation mode, normalisation fused, the
    backbone in the device's `precision`."""
    copy = deepcopy(network).eval().requires_grad_(False).to(device)
    copy.backbone.fuse()  # type: ignore[operator,union-attr]
    copy.backbone.to(precision(device))
    return channels_last(copy, device)


def sizes_of(pixels: Array, size: Size | None, max_side: int) -> tuple[Size, Size]:
    """(width, height) of the original photo, which is `size` if `pixels` are a reduced copy, and of
    what is looked at: `pixels` shrunk to a long side of `max_side` at most."""
    here = pixels.shape[1], pixels.shape[0]
    return size or here, fit_size(here, max_side)


def scaled(size: Size, scale: float) -> Size:
    """The size of a level of a pyramid; a pixel at least."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
