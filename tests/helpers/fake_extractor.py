"""An extractor for nothing."""

from __future__ import annotations

import cv2
import numpy as np

from locate.extractors.base import ExtractorInfo
from locate.pixels import fit_size, resize_points
from locate.types import Array, Extraction, Features


class FakeExtractor:
    """Both kinds of descriptor by averaging pixels: a millisecond a photo, the same on any machine.

    Local: 4 x 4 averages of 16-pixel patches on a grid. Global: 2 x 4 averages of the image.
    """

    max_side = 160

    def __init__(self, patch: int = 16) -> None:
        self._patch = patch
        self.info = ExtractorInfo(
            name="fake", weights=None, settings={"patch": patch}, global_dim=8, local_dim=16
        )

    def extract(
        self, pixels: Array, size: tuple[int, int] | None = None, *, local: bool = True
    ) -> Extraction:
        height, width = pixels.shape[:2]
        size = size or (width, height)
        target = fit_size((width, height), self.max_side)
        grey = cv2.cvtColor(
            cv2.resize(pixels, target, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
        )
        p = self._patch
        corners = [
            (x, y) for y in range(0, target[1] - p + 1, p) for x in range(0, target[0] - p + 1, p)
        ]
        patches = [
            cv2.resize(grey[y : y + p, x : x + p], (4, 4), interpolation=cv2.INTER_AREA)
            for x, y in corners
        ]
        local = np.array(patches, np.float32).reshape(-1, 16)
        centres = np.array(corners, np.float32).reshape(-1, 2) + (p - 1) / 2
        spread = local.std(axis=1)
        order = np.argsort(-spread, kind="stable")
        features = Features(
            keypoints=resize_points(centres, target, size)[order],
            scores=spread[order],
            descriptors=_unit(local)[order],
            image_size=size,
        )
        overview = cv2.resize(grey, (4, 2), interpolation=cv2.INTER_AREA).astype(np.float32)
        return Extraction(features, _unit(overview.reshape(1, 8))[0])


def _unit(rows: Array) -> Array:
    rows = rows - rows.mean(axis=1, keepdims=True) + 1e-3
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
