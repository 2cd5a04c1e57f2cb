"""SuperPoint as an extractor: pixels in, keypoints and descriptors out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from locate.extractors.base import ExtractorInfo, require_positive
from locate.extractors.blocks.detection import to_input
from locate.extractors.blocks.grids import sample
from locate.extractors.blocks.inference import (
    channels_last,
    default_device,
    grey_of,
    sizes_of,
)
from locate.extractors.blocks.pyramid import best_of_levels
from locate.extractors.bundled import bundled_weights
from locate.extractors.superpoint.detection import find_points, soft_peak
from locate.extractors.superpoint.network import (
    CELL,
    GRID,
    SYSTEM,
    WIDTH,
    SuperPointNetwork,
    heat_map,
)
from locate.extractors.weights import load_network
from locate.types import Array, Extraction

BORDER = 4  # pixels along the edges where the authors take no point


class SuperPoint:
    """SuperPoint."""

    def __init__(
        self,
        network: SuperPointNetwork,
        weights_hash: str,  # sha256 of the file
        *,
        max_keypoints: int = 2048,  # the best are kept
        max_side: int = 1024,  # the image is shrunk to at most this many pixels along its long side
        threshold: float = 0.005,  # least probability of a point; the authors' demo has 0.015
        nms_radius: int = 4,  # pixels: half the side of the windows that hold one point
        subpixel: bool = True,  # points move to the middle of their peak; the paper's are whole pixels
        pyramid: bool = True,  # see `blocks.pyramid`; False for the one size of the paper
    ) -> None:
        require_positive(max_keypoints=max_keypoints, max_side=max_side, nms_radius=nms_radius)
        self.max_side = max_side
        self.device = default_device()
        self._network = channels_last(network.fused().requires_grad_(False), self.device)
        self._max_keypoints, self._threshold = max_keypoints, threshold
        self._radius, self._subpixel, self._pyramid = nms_radius, subpixel, pyramid
        self.info = ExtractorInfo(
            name=SYSTEM,
            weights=weights_hash,
            settings={
                "max_keypoints": max_keypoints,
                "max_side": max_side,
                "threshold": threshold,
                "nms_radius": nms_radius,
                "subpixel": subpixel,
                # Infos from before there was one stay as they were.
                **({"pyramid": True} if pyramid else {}),
            },
            local_dim=WIDTH,
        )

    @classmethod
    def from_pretrained(cls, weights: Path | None = None, **settings: Any) -> SuperPoint:
        """With the weights that come with `locate`, or those of `locate train superpoint`;
        `WeightsError` if the file does not fit."""
        weights = weights or bundled_weights(SYSTEM)
        network, _, digest = load_network(weights, SYSTEM, build)
        return cls(network, digest, **settings)

    def extract(
        self,
        pixels: Array,
        size: tuple[int, int] | None = None,
        *,
        local: bool = True,  # noqa: ARG002  there is nothing else to give
    ) -> Extraction:
        """H x W x 3 uint8, RGB -> local features alone."""
        size, working = sizes_of(pixels, size, self.max_side)
        grey, most = grey_of(pixels, working), self._max_keypoints
        return best_of_levels(self._level, grey, size, most, pyramid=self._pyramid)

    def _level(self, grey: Array) -> tuple[Array, Array, Array]:
        """Of an image H x W uint8, best first: points in its pixels, scores, descriptors."""
        height, width = grey.shape
        with torch.inference_mode():
            logits, coarse = self._network(to_input(grey, self.device, CELL) / 255)
            heat = heat_map(logits)[0, :height, :width]  # without what was added
            found, scores = find_points(
                heat, self._threshold, self._radius, BORDER, self._max_keypoints
            )
            points = soft_peak(heat, found) if self._subpixel else found.to(heat.dtype)
            descriptors = describe(coarse, points)
        return points.cpu().numpy(), scores.cpu().numpy(), descriptors.cpu().numpy()


def describe(coarse: Tensor, points: Tensor) -> Tensor:
    """The descriptors 1 x D x h x w of cells at N points (x, y) in pixels, bilinearly, of length 1:
    N x D."""
    return functional.normalize(sample(coarse, GRID.to_map(points)[None])[0], dim=1)


def build(settings: Mapping[str, Any]) -> SuperPointNetwork:  # noqa: ARG001
    """The network of a weights file, with random weights."""
    return SuperPointNetwork()
