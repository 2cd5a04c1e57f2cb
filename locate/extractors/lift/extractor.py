"""LIFT as an extractor: pixels in, keypoints and descriptors out.

The paper compares descriptors of any length by Euclidean distance; here all are centred and of length 1,
since matches of all extractors are judged by cosines.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from locate.extractors.base import ExtractorInfo, require_positive
from locate.extractors.blocks.inference import (
    channels_last,
    default_device,
    grey_of,
    local_features,
    sizes_of,
)
from locate.extractors.blocks.layers import fuse_batch_norms
from locate.extractors.bundled import bundled_weights
from locate.extractors.lift.detection import Search, find_frames
from locate.extractors.lift.network import (
    SYSTEM,
    WIDTH,
    WINDOW,
    WINDOW_REACH,
    LiftNetwork,
    build,
)
from locate.extractors.weights import load_network
from locate.precision import precision
from locate.training.data.patches import crop_patches, pyramid
from locate.types import Array, Extraction

_BATCH = 256  # windows that a network is shown at once


class Lift:
    """LIFT."""

    def __init__(
        self,
        network: LiftNetwork,
        weights_hash: str,  # sha256 of the file
        *,
        max_keypoints: int = 2048,  # the best are kept; the authors' program has 1000
        max_side: int = 1024,  # the image is shrunk to at most this many pixels along its long side
        upright: bool = False,  # windows are not turned, for photos that are held alike
        radius: int = 3,  # pixels of a level's image within which a point is the highest
        edge_ratio: float = 10.0,  # of principal curvatures, beyond which a point is an edge
        levels: int = 5,  # sizes of the image to an octave
    ) -> None:
        require_positive(max_keypoints=max_keypoints, max_side=max_side, radius=radius)
        require_positive(edge_ratio=edge_ratio, levels=levels)
        self.max_side = max_side
        self.device = default_device()
        self._network = channels_last(deepcopy(network).eval().requires_grad_(False), self.device)
        norms = {f"norm{k}": f"conv{k}" for k in (1, 2, 3)}
        fuse_batch_norms(self._network.descriptor, norms)
        self._max_keypoints, self._upright = max_keypoints, upright
        self._search = Search(radius=radius, edge_ratio=edge_ratio, levels=levels)
        self.info = ExtractorInfo(
            name=SYSTEM,
            weights=weights_hash,
            settings={
                "max_keypoints": max_keypoints,
                "max_side": max_side,
                "upright": upright,
                "radius": radius,
                "edge_ratio": edge_ratio,
                "levels": levels,
            },
            local_dim=WIDTH,
            rotation_invariant=not upright,
        )

    @classmethod
    def from_pretrained(cls, weights: Path | None = None, **settings: Any) -> Lift:
        """With weights of `locate train lift`; `WeightsError` if the file does not fit."""
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
        grey = grey_of(pixels, working)
        with torch.inference_mode():
            frames, scores = find_frames(
                self._network.detector, grey, self._search, self._max_keypoints, self.device
            )
        photo = pyramid(grey)
        if not self._upright:
            frames[:, 3] = self.orient(photo, frames)
        return local_features(frames[:, :2], scores, self.describe(photo, frames), working, size)

    def orient(self, photo: Sequence[Array], frames: Array) -> Array:
        """The angles, N in radians, that windows at N x 4 frames of a `pyramid` should have, which are
        shown turned by those that they have."""
        found = self._told(self._network.orientation, photo, frames, 2)
        return frames[:, 3] + np.arctan2(found[:, 1], found[:, 0])

    def describe(self, photo: Sequence[Array], frames: Array) -> Array:
        """The descriptors at N x 4 frames of a `pyramid`, N x 128 float32 of length 1."""
        return self._told(self._network.descriptor.unit, photo, frames, WIDTH)

    def _numbers(self) -> torch.autocast:
        """The precision of convolutions; places and scores are found in float32."""
        dtype = precision(self.device)
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def _told(self, network: Any, photo: Sequence[Array], frames: Array, width: int) -> Array:
        found = [np.zeros((0, width), np.float32)]
        for start in range(0, len(frames), _BATCH):
            rows = crop_patches(photo, frames[start : start + _BATCH], WINDOW, WINDOW_REACH)
            windows: Tensor = torch.from_numpy(rows)[:, None].to(self.device).float()
            with torch.inference_mode(), self._numbers():
                found.append(network(windows).float().cpu().numpy())
        return np.concatenate(found)
