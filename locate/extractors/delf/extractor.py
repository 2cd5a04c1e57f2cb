"""DELF as an extractor: an image pyramid, the best-attended cells, some numbers for each (Noh et al.,
ICCV 2017, sections 3.3 and 4). The paper's feature lies in the middle of its cell, of 16 pixels and
more; here the image's strongest corner in the cell places it, and where there is none it stays there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from locate.errors import InputError
from locate.extractors.backbones.registry import create_backbone, load_backbone
from locate.extractors.base import ExtractorInfo, Size, no_features, require_positive
from locate.extractors.blocks.corners import strongest_of_cells
from locate.extractors.blocks.detection import resize_image, to_input
from locate.extractors.blocks.inference import default_device, for_use, scaled, sizes_of
from locate.extractors.bundled import BUNDLED
from locate.extractors.delf.network import DelfNetwork
from locate.extractors.weights import load_network, warn_untrained
from locate.pixels import resize_points
from locate.types import AFFINE, Array, Extraction, Features

SYSTEM = "delf"
# Published are 20 px (matching) and 10 px (re-ranking); between them
# benchmarks/ablations/ratios.py proves most.
MAX_ERROR = 15.0
RATIO = 0.98  # of Lowe's test: the same command, of the untrained start
SCALES = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
_MIN_CONTRAST = 4  # grey levels between the darkest and the brightest value of a photo of something
_MIN_SIDE = 32  # of a level of the pyramid, in pixels: two cells
# Of the image pixels that a cell's value depends on, so that boxes of neighbouring cells overlap
# as the paper's do (receptive field 291 at stride 32 in the released model, 291 at 16 with
# torchvision's stride).
_RECEPTIVE_FIELD = 291


class Delf:
    """DELF. The image is looked at in seven sizes from a quarter to the double of that which `max_side`
    allows, but for those beyond `max_scale`. Of two boxes (receptive fields) that overlap by more than
    `iou` the better-attended is kept; 1 keeps all, as the paper does."""

    def __init__(
        self,
        network: DelfNetwork,
        weights_hash: str,  # sha256 of the file
        settings: Mapping[str, Any],  # that the network was built with
        *,
        max_keypoints: int = 1000,  # the best-attended are kept
        max_side: int = 512,  # the image is shrunk to at most this many pixels along its long side
        max_scale: float = 1.4142,  # the paper's 2 takes twice as long
        iou: float = 1.0,
        at_corners: bool = True,  # the strongest corner in its cell places a feature; False: its middle
    ) -> None:
        require_positive(max_keypoints=max_keypoints, max_side=max_side)
        if max_scale < SCALES[0]:
            raise InputError(f"max_scale must be at least {SCALES[0]}, got {max_scale}")
        self.device = default_device()
        self._network = for_use(network, self.device)
        self._scales = [scale for scale in SCALES if scale <= max_scale]
        self._max_keypoints = max_keypoints
        self._iou = iou
        self._at_corners = at_corners
        self.max_side = max_side
        used = {"max_keypoints": max_keypoints, "max_side": max_side, "iou": iou}
        used["max_scale"] = max_scale
        used["at_corners"] = at_corners
        info = ExtractorInfo(SYSTEM, weights_hash, {**settings, **used}, 0, len(network.components))
        self.info = replace(info, ratio=RATIO, verification=AFFINE, max_error=MAX_ERROR)

    @classmethod
    def from_pretrained(
        cls,
        weights: Path | None = None,
        *,
        backbone: str | None = None,
        backbone_weights: Path | None = None,
        **settings: Any,
    ) -> Delf:
        """With the weights that come with `locate`, or those of `locate train delf`; or, where a
        `backbone` is named, the untrained start on it. `WeightsError` if a file does not fit."""
        if weights is None and backbone is None:
            weights = BUNDLED.get(SYSTEM)
        if weights is not None:
            network, built_with, digest = load_network(weights, SYSTEM, build)
            return cls(network, digest, built_with, **settings)
        warn_untrained(SYSTEM, "delf starts from ImageNet with attention that was never trained")
        backbone = backbone or "lite0"
        network, digest = start(backbone, backbone_weights)
        return cls(network, digest, {"backbone": backbone, "dim": 40, "trained": False}, **settings)

    def extract(self, pixels: Array, size: Size | None = None, *, local: bool = True) -> Extraction:  # noqa: ARG002
        size, base = sizes_of(pixels, size, self.max_side)
        if np.ptp(pixels) < _MIN_CONTRAST:  # every cell alike: attention would rank noise
            return Extraction(no_features(size, len(self._network.components)), None)
        levels = []
        with torch.inference_mode():
            for scale in self._scales:
                target = scaled(base, scale)
                if min(target) < _MIN_SIDE and target != base:
                    continue
                at, *seen = self._level(resize_image(pixels, target))
                side = np.full(len(at), _RECEPTIVE_FIELD * size[0] / target[0], np.float32)
                levels.append((resize_points(at, target, size), side, *seen))
            points, sides, scores, found = zip(*levels, strict=True)
            centres, boxes, attended = map(np.concatenate, (points, sides, scores))
            kept = self._select(centres, attended, boxes)
            descriptors = self._network.shorten(torch.cat(found)[torch.from_numpy(kept)])
        numbers = descriptors.cpu().numpy().astype(np.float32)
        features = Features(centres[kept].astype(np.float32), attended[kept], numbers, size)
        return Extraction(features, None)

    def _level(self, pixels: Array) -> tuple[Array, Array, Tensor]:
        """Of one level of the pyramid: centres N x 2 in its pixels, attention N, features N x C."""
        features, attention = self._network(to_input(pixels, self.device))
        features, attention = features[0], attention[0]
        cells = torch.ones(attention.shape).nonzero().flip(1).float()  # (x, y), row by row
        centres = self._network.grid.to_image(cells).numpy()
        scores = attention.reshape(-1).cpu().numpy()
        # The network saw the image continued by mirroring; what lies there is not in it.
        inside = np.all(centres <= (pixels.shape[1] - 1, pixels.shape[0] - 1), axis=1)
        inside &= scores >= float(self._network.threshold)
        index = np.flatnonzero(inside)
        best = index[np.argsort(-scores[index], kind="stable")[: self._max_keypoints]]
        flat = features.reshape(len(features), -1).T
        if self._at_corners:
            shape = (attention.shape[-2], attention.shape[-1])
            filled, points, _ = strongest_of_cells(pixels, self._network.grid, shape)
            centres[filled] = points
        return centres[best], scores[best], flat[torch.from_numpy(best).to(flat.device)]

    def _select(self, points: Array, scores: Array, sides: Array) -> Array:
        """Indices of those that are kept, best first."""
        order = np.argsort(-scores, kind="stable")
        if self._iou >= 1:
            return order[: self._max_keypoints]
        kept: list[int] = []
        for i in order:
            overlap = box_overlap(points[i], sides[i], points[kept], sides[kept])
            if len(kept) == 0 or overlap.max() <= self._iou:
                kept.append(int(i))
            if len(kept) == self._max_keypoints:
                break
        return np.array(kept, np.int64)


def box_overlap(centre: Array, side: float, centres: Array, sides: Array) -> Array:
    """Intersection over union of a square with N squares: centres (x, y), sides in the same unit."""
    low = np.maximum(centre - side / 2, centres - sides[:, None] / 2)
    high = np.minimum(centre + side / 2, centres + sides[:, None] / 2)
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    return np.asarray(shared / (side**2 + sides**2 - shared))


def build(settings: Mapping[str, Any]) -> DelfNetwork:
    """The network of a weights file's settings, with random weights."""
    return DelfNetwork(create_backbone(settings["backbone"]), int(settings["dim"]))


def start(
    backbone: str = "lite0", backbone_weights: Path | None = None, dim: int = 40
) -> tuple[DelfNetwork, str]:
    """The network before training, the same every time; and the sha256 of the backbone's weights."""
    loaded, digest = load_backbone(backbone, backbone_weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = DelfNetwork(loaded, dim)
    return network.eval(), digest
