"""Features of a photo in each of the four rotations by 90 degrees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from locate.extractors.base import Extractor
from locate.images.masks import Mask
from locate.pixels import unrotate_points
from locate.types import Array, Extraction


def extract_turned(
    extractor: Extractor,
    pixels: Array,
    size: tuple[int, int],
    degrees: int,
    *,
    local: bool,
    mask: Mask | None = None,
) -> Extraction:
    """Look at an image turned counter-clockwise; keypoints come back in the image as it was.

    Args:
        size: (width, height) of the original photo, upright.
        local: False leaves the local features out.
        mask: `pixels` were filled by it; there are no features in what it ignores.
    """
    seen = _turned(extractor, pixels, size, degrees, local)
    if seen.features is None or mask is None:
        return seen
    return Extraction(mask.outside(seen.features), seen.global_descriptor)


def _turned(
    extractor: Extractor, pixels: Array, size: tuple[int, int], degrees: int, local: bool
) -> Extraction:
    if degrees == 0:
        return extractor.extract(pixels, size)
    turned_size = size if degrees == 180 else size[::-1]
    turned = np.ascontiguousarray(np.rot90(pixels, degrees // 90))
    seen = extractor.extract(turned, turned_size, local=local)
    if seen.features is None:
        return seen
    keypoints = unrotate_points(seen.features.keypoints, turned_size, degrees)
    features = replace(seen.features, keypoints=keypoints, image_size=size)
    return Extraction(features, seen.global_descriptor)
