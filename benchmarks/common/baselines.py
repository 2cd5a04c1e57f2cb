"""What a detector has to beat: points on a regular grid, and its own points by random scores."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np

from locate.extractors.base import Extractor, ExtractorInfo
from locate.types import Array, Extraction, Features

_STEP = 13.0  # pixels: some 440 points at 320 x 240, of which 300 count


class GridPoints:
    """As many points as detectors find, everywhere the same."""

    max_side = 1024
    info = ExtractorInfo("grid", None, {"step": _STEP}, local_dim=1)

    def extract(
        self,
        pixels: Array,
        size: tuple[int, int] | None = None,
        *,
        local: bool = True,  # noqa: ARG002
    ) -> Extraction:
        width, height = size or (pixels.shape[1], pixels.shape[0])
        x, y = (np.arange(_STEP / 2, side, _STEP) - 0.5 for side in (width, height))
        points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
        scores = np.ones(len(points), np.float32)
        return Extraction(Features(points, scores, scores[:, None], (width, height)), None)


class RandomScores:
    """The points of a detector in a random order, which depends on the photo alone."""

    def __init__(self, extractor: Extractor) -> None:
        self._extractor = extractor
        self.max_side = extractor.max_side
        self.info = replace(
            extractor.info, settings={**extractor.info.settings, "scores": "random"}
        )

    def extract(
        self, pixels: Array, size: tuple[int, int] | None = None, *, local: bool = True
    ) -> Extraction:
        found = self._extractor.extract(pixels, size, local=local)
        assert found.features is not None
        f = found.features
        rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(pixels)))
        order = rng.permutation(len(f))
        scores = np.linspace(1, 0, len(f), dtype=np.float32)
        features = Features(f.keypoints[order], scores, f.descriptors[order], f.image_size)
        return Extraction(features, found.global_descriptor)
