"""D2-Net as an extractor: pixels in, keypoints and descriptors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from locate.extractors.backbones.registry import create_backbone, load_backbone
from locate.extractors.base import ExtractorInfo, Size, require_positive
from locate.extractors.blocks.corners import to_corners
from locate.extractors.blocks.detection import resize_image, select, to_input
from locate.extractors.blocks.grids import Grid, resample
from locate.extractors.blocks.inference import (
    default_device,
    for_use,
    local_features,
    sizes_of,
)
from locate.extractors.bundled import BUNDLED
from locate.extractors.d2net.detection import describe, distinctness, keypoints
from locate.extractors.d2net.network import STRIDE, SYSTEM, D2Network
from locate.extractors.weights import load_network, warn_untrained
from locate.types import Array, Extraction

SCALES = (0.5, 1.0, 2.0)  # of the paper's image pyramid
RATIO, QUERY_RATIO = 0.98, 0.95  # of Lowe's test: benchmarks/ablations/ratios.py
_FLAT_SIDE = 17  # pixels: where no two pixels of such a window differ by
_FLAT_RANGE = 4  # grey levels or more, there is nothing but noise


class D2Net:
    """D2-Net. Keypoints are ranked by `detection.distinctness` over the number of the level, which is
    ours; the paper takes D^k_ij."""

    def __init__(
        self,
        network: D2Network,  # at the stride of use
        weights_hash: str,  # sha256 of the file
        *,
        max_keypoints: int = 2048,  # the best are kept
        max_side: int = 1024,  # the image is shrunk to at most this many pixels along its long side
        multiscale: bool = False,  # half, full and double size (the paper's "MS"): 5 times the pixels
        # Pixels within which the nearest corner of the image places a keypoint; without one it is
        # dropped. 0 for the paper's, which the map places.
        corner_distance: float = 8.0,
    ) -> None:
        require_positive(max_keypoints=max_keypoints, max_side=max_side)
        self.max_side = max_side
        self.device = default_device()
        self._network = for_use(network, self.device)
        self._max_keypoints = max_keypoints
        self._scales = SCALES if multiscale else (1.0,)
        self._corner_distance = corner_distance
        settings = {
            "backbone": network.backbone.name,
            "taps": list(network.taps),
            "max_keypoints": max_keypoints,
            "max_side": max_side,
            "multiscale": multiscale,
            "corner_distance": corner_distance,
        }
        info = ExtractorInfo(SYSTEM, weights_hash, settings, local_dim=network.width)
        self.info = replace(info, ratio=RATIO, query_ratio=QUERY_RATIO)

    @classmethod
    def from_pretrained(
        cls,
        weights: Path | None = None,
        *,
        backbone: str | None = None,
        backbone_weights: Path | None = None,
        taps: Sequence[str] | None = None,
        **settings: Any,
    ) -> D2Net:
        """With the weights that come with `locate`, or those of `locate train d2net`, which say what
        network they are for; or, where a `backbone` is named, that of `load_backbone` as ImageNet left
        it (the paper's "off-the-shelf"). `WeightsError` if a file does not fit."""
        if weights is None and backbone is None:
            weights = BUNDLED.get(SYSTEM)
        if weights is not None:
            network, _, digest = load_network(weights, SYSTEM, build)
            return cls(network, digest, **settings)
        warn_untrained(SYSTEM, "d2net starts from ImageNet and was not trained further")
        loaded, weights_hash = load_backbone(backbone or "lite0", backbone_weights)
        return cls(D2Network(loaded, taps, STRIDE), weights_hash, **settings)

    def extract(self, pixels: Array, size: Size | None = None, *, local: bool = True) -> Extraction:  # noqa: ARG002
        size, working = sizes_of(pixels, size, self.max_side)
        if len(self._scales) > 1:  # even, so that the levels' sizes are exact multiples
            working = (working[0] + working[0] % 2, working[1] + working[1] % 2)
        with torch.inference_mode():
            points, scores, descriptors = self._detect_and_describe(pixels, working)
        return local_features(points, scores, descriptors, working, size)

    def _detect_and_describe(
        self, pixels: Array, working: tuple[int, int]
    ) -> tuple[Array, Array, Array]:
        """Of all levels of the pyramid, best first: points in pixels of the working size, scores,
        descriptors."""
        before: tuple[Tensor, Grid, Tensor] | None = None  # maps, grid, where something was found
        levels = []
        for number, scale in enumerate(self._scales, start=1):
            level = resize_image(pixels, (round(working[0] * scale), round(working[1] * scale)))
            maps = self._network(to_input(level, self.device))[0]
            # Not of the cells whose centre lies on what `to_input` added.
            maps = self._network.grid.crop(maps, (level.shape[1], level.shape[0]))
            shape = (maps.shape[-2], maps.shape[-1])
            # Of an image `scale` times as large, in pixels of the working size.
            own = self._network.grid
            grid = Grid(own.stride / scale, (own.offset + 0.5) / scale - 0.5)
            banned = torch.zeros(shape, dtype=torch.bool, device=maps.device)
            if before is not None:
                # The running sum over the levels, and where coarser ones have found something.
                maps = maps + resample(before[0][None], before[1], grid, shape)[0]
                banned = _on_grid(before[2], before[1], grid, shape)
            index, places = keypoints(maps, banned)
            contrast = _has_contrast(level, self._network.grid.to_image(places))
            index, places = select(index, contrast), places[contrast]
            scores = distinctness(maps, index) / number
            best = torch.argsort(-scores, stable=True)
            if self._corner_distance:
                at = self._network.grid.to_image(places[best])
                kept, moved = to_corners(at.cpu().numpy(), level, self._corner_distance)
                best = best[torch.from_numpy(kept).to(best.device)]
                places[best] = self._network.grid.to_map(torch.from_numpy(moved).to(places))
            best = best[: self._max_keypoints]
            levels.append((grid.to_image(places[best]), scores[best], describe(maps, places[best])))
            banned[index[1], index[2]] = True
            before = maps, grid, banned
        points, scores, descriptors = (torch.cat(parts) for parts in zip(*levels, strict=True))
        best = torch.argsort(-scores, stable=True)[: self._max_keypoints]
        found = (part[best].float().cpu().numpy() for part in (points, scores, descriptors))
        return tuple(found)  # type: ignore[return-value]


def build(settings: Mapping[str, Any]) -> D2Network:
    """The network of a weights file's settings, with random weights."""
    return D2Network(create_backbone(settings["backbone"]), settings["taps"], STRIDE)


def _on_grid(mask: Tensor, grid: Grid, to_grid: Grid, size: tuple[int, int]) -> Tensor:
    """A mask h x w on another grid of H x W cells: for each the value of the cell that is nearest in the
    image. A level need not have twice the cells of the one before."""
    index = []
    for cells, known in zip(size, mask.shape, strict=True):
        places = to_grid.to_image(torch.arange(cells, device=mask.device, dtype=torch.float64))
        index.append(grid.to_map(places).round().long().clamp(0, known - 1))
    return mask[index[0][:, None], index[1]]


def _has_contrast(pixels: Array, points: Tensor) -> Tensor:
    """Which of N x 2 points of an image have a neighbourhood that is not flat: on a flat one the maxima
    come from rounding, or from the zeros beyond the border of the image."""
    if len(points) == 0:
        return torch.zeros(0, dtype=torch.bool, device=points.device)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    window = np.ones((_FLAT_SIDE, _FLAT_SIDE), np.uint8)
    spread = cv2.subtract(cv2.dilate(grey, window), cv2.erode(grey, window))
    at = points.round().long().cpu().numpy()
    x, y = np.clip(at[:, 0], 0, grey.shape[1] - 1), np.clip(at[:, 1], 0, grey.shape[0] - 1)
    return torch.from_numpy(spread[y, x] >= _FLAT_RANGE).to(points.device)
