"""What extractors with a network do alike: where it runs, and what it is shown."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from locate.extractors.base import Size
from locate.extractors.blocks.detection import resize_image
from locate.pixels import fit_size, resize_points
from locate.precision import precision
from locate.types import Array, Extraction, Features

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


def grey_of(pixels: Array, size: Size) -> Array:
    """RGB H x W x 3 uint8 -> grey, uint8, resized to (width, height)."""
    return np.asarray(cv2.cvtColor(resize_image(pixels, size), cv2.COLOR_RGB2GRAY))


def local_features(
    points: Array | Tensor,
    scores: Array | Tensor,
    descriptors: Array | Tensor,
    working: Size,
    size: Size,
) -> Extraction:
    """Local features alone, of points N x 2 in pixels of what was looked at, which had the size
    `working`, of a photo of `size`."""
    places = _array(points).astype(np.float64)
    there = resize_points(places, working, size).astype(np.float32)
    return Extraction(Features(there, _array(scores), _array(descriptors), size), None)


def _array(values: Array | Tensor) -> Array:
    return values.float().cpu().numpy() if isinstance(values, Tensor) else values


def scaled(size: Size, scale: float) -> Size:
    """The size of a level of a pyramid; a pixel at least."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
