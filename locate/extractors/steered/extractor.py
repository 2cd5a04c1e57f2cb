"""Steered features as an extractor: corners at several scales, described by the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from locate.errors import InputError
from locate.extractors.base import ExtractorInfo, Size, require_positive
from locate.extractors.blocks.corners import (
    BLUR,
    LEAST,
    CornerSettings,
    corners,
    distinct,
    orientations,
)
from locate.extractors.blocks.detection import resize_image, to_input
from locate.extractors.blocks.inference import channels_last, default_device, scaled, sizes_of
from locate.extractors.bundled import BUNDLED
from locate.extractors.steered.fusion import fused
from locate.extractors.steered.network import MULTIPLE, SYSTEM, WIDTH, SteeredNetwork, build
from locate.extractors.weights import load_network
from locate.pixels import resize_points
from locate.precision import precision
from locate.types import Array, Extraction, Features

SCALES = tuple(2 ** (-k / 2) for k in range(6))  # of the pyramid in which corners are found
SEEN_AT = (0.6, 0.36)  # of the pyramid that the network looks at (`docs/experiments.md`, 30)
_RATIO = 0.9  # of Lowe's test: docs/experiments.md, 8


class Steered:
    """Corners, each described at the level of `seen_at` that is nearest to its own scale,
    of two equally near ones at the smaller."""

    def __init__(
        self,
        network: SteeredNetwork,
        weights_hash: str,  # sha256 of the file
        *,
        max_keypoints: int = 2048,  # the best are kept
        max_side: int = 1024,  # the image is shrunk to at most this many pixels along its long side
        scales: Sequence[float] = SCALES,  # of the pyramid in which corners are found; all compete
        seen_at: Sequence[float] = SEEN_AT,  # of the pyramid that the network looks at
        found_by: CornerSettings | None = None,
        upright: bool = False,  # photos are so: descriptors are not turned, and tell more apart
    ) -> None:
        require_positive(max_keypoints=max_keypoints, max_side=max_side)
        for name, values in (("scales", scales), ("seen_at", seen_at)):
            if not values or min(values) <= 0 or max(values) > 1:
                raise InputError(f"{name} must be above 0 and at most 1, got {list(values)}")
        self.max_side = max_side
        self.device = default_device()
        self._network = channels_last(fused(network, precision(self.device)), self.device)
        self._max_keypoints, self._upright = max_keypoints, upright
        self._scales, self._seen_at = tuple(scales), tuple(seen_at)
        self._found_by = found_by or CornerSettings()
        self._level_of = nearest_levels(self._scales, self._seen_at)
        self.info = ExtractorInfo(
            name=SYSTEM,
            weights=weights_hash,
            settings={
                "max_keypoints": max_keypoints,
                "max_side": max_side,
                "scales": [round(scale, 4) for scale in self._scales],
                "seen_at": [round(scale, 4) for scale in self._seen_at],
                "upright": upright,
                "direction blur": BLUR,
                "corners": asdict(self._found_by) | {"least": LEAST},
            },
            local_dim=WIDTH,
            rotation_invariant=not upright,
            ratio=_RATIO,
        )

    @classmethod
    def from_pretrained(cls, weights: Path | None = None, **settings: Any) -> Steered:
        """With weights of `locate train steered`, by default those that come with the package;
        `WeightsError` if they do not fit."""
        network, _, digest = load_network(weights or BUNDLED[SYSTEM], SYSTEM, build)
        return cls(network, digest, **settings)

    def extract(self, pixels: Array, size: Size | None = None, *, local: bool = True) -> Extraction:  # noqa: ARG002
        return Extraction(self.features(pixels, size, (self._upright,))[0], None)

    def features(
        self, pixels: Array, size: tuple[int, int] | None, ways: Sequence[bool]
    ) -> list[Features]:
        """The same keypoints once for each of `ways`: with upright descriptors, or with turned ones."""
        size, working = sizes_of(pixels, size, self.max_side)
        grey = cv2.cvtColor(resize_image(pixels, working), cv2.COLOR_RGB2GRAY)
        found = corners(grey, self._scales, self._found_by)
        order = np.argsort(-found[2], kind="stable")
        best = order[distinct(found[0][order], self._found_by.cell)][: self._max_keypoints]
        points, scales, strengths = (part[best] for part in found)
        descriptors = np.zeros((len(ways), len(points), WIDTH), np.float32)
        with torch.inference_mode():
            for number, scale in enumerate(self._seen_at):
                here = np.flatnonzero(self._level_of[scales] == number)
                if len(here):
                    level = scaled(working, scale)
                    descriptors[:, here] = self._describe(
                        resize_image(grey, level), resize_points(points[here], working, level), ways
                    )
        keypoints = resize_points(points, working, size).astype(np.float32)
        return [Features(keypoints, strengths, found, size) for found in descriptors]

    def _describe(self, grey: Array, points: Array, ways: Sequence[bool]) -> Array:
        """W x N x 128 float32 at N x 2 points in pixels of the image, H x W uint8."""
        maps = self._network.grey_maps(to_input(grey, self.device, MULTIPLE))
        places = torch.from_numpy(points).to(self.device, torch.float32)[None]
        found = []
        for upright in ways:
            if upright:
                found.append(self._network.upright_at(maps, places)[0])
            else:
                facing = torch.from_numpy(orientations(grey, points)).to(self.device)[None]
                found.append(self._network.descriptors_at(maps, places, facing)[0])
        return np.asarray(torch.stack(found).float().cpu().numpy())


def nearest_levels(scales: Sequence[float], levels: Sequence[float]) -> Array:
    """For each scale the place in `levels` of the one that is nearest by ratio; of two equally near ones
    the smaller. Half an octave apart they often are, up to the last bit of a logarithm."""
    apart = np.abs(np.log(np.array(scales)[:, None] / np.array(levels))).round(6)
    best = np.where(apart == apart.min(axis=1, keepdims=True), np.array(levels), np.inf)
    return np.asarray(best.argmin(axis=1))
