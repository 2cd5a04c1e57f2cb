"""UnsuperPoint as an extractor: pixels in, keypoints and descriptors out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from locate.extractors.base import ExtractorInfo, require_positive
from locate.extractors.blocks.detection import resize_image, suppress, to_input
from locate.extractors.blocks.inference import (
    channels_last,
    default_device,
    sizes_of,
)
from locate.extractors.blocks.pyramid import best_of_levels
from locate.extractors.bundled import bundled_weights
from locate.extractors.unsuperpoint.network import (
    CELL,
    SYSTEM,
    WIDTH,
    UnsuperPointNetwork,
    to_range,
)
from locate.extractors.weights import load_network
from locate.types import Array, Extraction

# Of Lowe's test in queries: benchmarks/ablations/ratios.py. Two cells may give the same corner, and then
# the second nearest descriptor is that of the nearest's own spot. In maps at .98 most matches of pairs
# that share little are wrong: `import-map` refuses the good model of the rendered town, and there .9 was
# chosen.
RATIO, QUERY_RATIO = 0.9, 1.0
BORDER = 4  # pixels along the edges where no point is taken


class UnsuperPoint:
    """UnsuperPoint: the best of the points that its cells give."""

    def __init__(
        self,
        network: UnsuperPointNetwork,
        weights_hash: str,  # sha256 of the file
        *,
        max_keypoints: int = 2048,  # the best are kept
        max_side: int = 1024,  # the image is shrunk to at most this many pixels along its long side
        nms_radius: float = 0.0,  # pixels; the paper has none, since a cell has one point
        pyramid: bool = True,  # see `blocks.pyramid`; False for the one size of the paper
    ) -> None:
        require_positive(max_keypoints=max_keypoints, max_side=max_side)
        self.max_side = max_side
        self.device = default_device()
        self._network = channels_last(network.eval().requires_grad_(False), self.device)
        self._max_keypoints, self._radius = max_keypoints, nms_radius
        self._pyramid = pyramid
        self.info = ExtractorInfo(
            name=SYSTEM,
            weights=weights_hash,
            settings={
                "max_keypoints": max_keypoints,
                "max_side": max_side,
                "nms_radius": nms_radius,
                "reach": network.reach,
                # Infos from before there was one stay as they were.
                **({"pyramid": True} if pyramid else {}),
            },
            local_dim=WIDTH,
            ratio=RATIO,
            query_ratio=QUERY_RATIO,
        )

    @classmethod
    def from_pretrained(cls, weights: Path | None = None, **settings: Any) -> UnsuperPoint:
        """With the weights that come with `locate`, or those of `locate train unsuperpoint`;
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
        image, most = resize_image(pixels, working), self._max_keypoints
        return best_of_levels(self._level, image, size, most, pyramid=self._pyramid)

    def _level(self, image: Array) -> tuple[Array, Array, Array]:
        """Of an image H x W x 3 uint8, best first: points in its pixels, scores, descriptors."""
        with torch.inference_mode():
            found = self._network(to_range(to_input(image, self.device, CELL)))
        scores, places, descriptors = (
            part[0].float().cpu().numpy()
            for part in (found.scores, found.places, found.descriptors)
        )
        limit = np.array((image.shape[1], image.shape[0])) - 1 - BORDER
        inside = np.flatnonzero(np.all((places >= BORDER) & (places <= limit), axis=1))
        kept = inside[suppress(places[inside], scores[inside], self._radius)][: self._max_keypoints]
        return places[kept], scores[kept], descriptors[kept]


def build(settings: Mapping[str, Any]) -> UnsuperPointNetwork:
    """The network of a weights file's settings, with random weights."""
    return UnsuperPointNetwork(settings["reach"])
