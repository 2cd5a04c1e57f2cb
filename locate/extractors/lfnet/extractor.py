"""LF-Net as an extractor: pixels in, keypoints and descriptors out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from locate.extractors.base import ExtractorInfo, require_positive
from locate.extractors.blocks.detection import to_input
from locate.extractors.blocks.inference import (
    channels_last,
    default_device,
    grey_of,
    sizes_of,
)
from locate.extractors.blocks.pyramid import best_of_levels
from locate.extractors.bundled import bundled_weights
from locate.extractors.lfnet.detection import Keypoints, cut, detect, inner
from locate.extractors.lfnet.network import SYSTEM, WIDTH, LFNetwork, Maps
from locate.extractors.weights import load_network
from locate.types import Array, Extraction

RATIO = 0.9  # of Lowe's test: benchmarks/ablations/ratios.py; the authors have none
_TOGETHER = 256  # crops that are described at once


class LFNet:
    """LF-Net: maxima of the score map, each described by a crop of its scale and orientation."""

    def __init__(
        self,
        network: LFNetwork,
        weights_hash: str,  # sha256 of the file
        *,
        max_keypoints: int = 2048,  # the best are kept; the paper has 512
        max_side: int = 1024,  # the image is shrunk to at most this many pixels along its long side
        # Least score of a point; the paper has 0. Without any structure it is 1 / 1125 everywhere.
        threshold: float = 0.002,
        pyramid: bool = True,  # see `blocks.pyramid`; False for the one size of the paper
    ) -> None:
        require_positive(max_keypoints=max_keypoints, max_side=max_side)
        self.max_side = max_side
        self.device = default_device()
        self._network = channels_last(network.eval().requires_grad_(False), self.device)
        self._max_keypoints, self._threshold = max_keypoints, threshold
        self._pyramid = pyramid
        self.info = ExtractorInfo(
            name=SYSTEM,
            weights=weights_hash,
            settings={
                "max_keypoints": max_keypoints,
                "max_side": max_side,
                "threshold": threshold,
                "strength": network.strength,
                # Infos from before there was one stay as they were.
                **({"pyramid": True} if pyramid else {}),
            },
            local_dim=WIDTH,
            ratio=RATIO,
        )

    @classmethod
    def from_pretrained(cls, weights: Path | None = None, **settings: Any) -> LFNet:
        """With weights of `locate train lfnet`; `WeightsError` if the file does not fit."""
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
        with torch.inference_mode():
            maps = self._network(to_input(grey, self.device, 1) / 255)
            found = self._detect(maps)
            descriptors = self._describe(maps.image, found)
        parts = found.points[0], found.scores[0], descriptors
        return tuple(part.float().cpu().numpy() for part in parts)  # type: ignore[return-value]

    def _detect(self, maps: Maps) -> Keypoints:
        height, width = maps.score.shape[-2:]
        allowed = inner((height, width), self.device) & (maps.score > self._threshold)
        found = detect(maps, allowed, self._max_keypoints, self._network.strength)
        count = int((found.scores > 0).sum())
        return Keypoints(*(part[:, :count] for part in found))

    def _describe(self, image: Tensor, points: Keypoints) -> Tensor:
        """N x 256."""
        described = [torch.zeros(0, WIDTH, device=self.device)]
        for start in range(0, points.scores.shape[1], _TOGETHER):
            few = slice(start, start + _TOGETHER)
            shapes = points.scales[:, few], points.orientations[:, few]
            described.append(self._network.descriptor(cut(image, points.points[:, few], *shapes)))
        return torch.cat(described)


def build(settings: Mapping[str, Any]) -> LFNetwork:
    """The network of a weights file's settings, with random weights."""
    return LFNetwork(settings["strength"])
