"""Features of a photo in each of the four rotations by 90 degrees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from locate.extractors.base import Extractor
from locate.images.masks import Mask
from locate.pixels import unrotate_points
from locate.types import Array, Extraction

ROTATIONS = (0, 90, 180, 270)  # degrees, counter-clockwise


def extract_rotations(
    extractor: Extractor,
    pixels: Array,
    size: tuple[int, int],
    *,
    local: bool = True,
    vectors: bool = True,
    mask: Mask | None = None,
) -> Iterator[tuple[int, Extraction]]:
    """What is in a photo upright, then rotated by 90, 180 and 270 degrees, each with the degrees and
    extracted when it is asked for; see `extract_rotated`.

    The local features of a rotation-invariant extractor are extracted once: a rotated photo has those
    of the upright one, and a global descriptor of its own. If nobody asks for global `vectors`, the
    upright photo is all then."""
    upright = extract_rotated(extractor, pixels, size, 0, local=True, mask=mask)
    yield 0, upright
    known = upright.features if extractor.info.rotation_invariant else None
    if known is not None and not vectors:
        return
    for degrees in ROTATIONS[1:]:
        again = local and known is None
        seen = extract_rotated(extractor, pixels, size, degrees, local=again, mask=mask)
        yield degrees, seen if known is None else Extraction(known, seen.global_descriptor)


def extract_rotated(
    extractor: Extractor,
    pixels: Array,
    size: tuple[int, int],
    degrees: int,
    *,
    local: bool,
    mask: Mask | None = None,
) -> Extraction:
    """What is in an image rotated counter-clockwise; keypoints come back in the image as it was, in
    pixels of the upright original of `size` (width, height). `local` False leaves the local features of
    a rotated image out; `pixels` were filled by the mask, and there are no features in what it ignores.
    """
    rotated_size = size if degrees % 180 == 0 else size[::-1]
    rotated = np.ascontiguousarray(np.rot90(pixels, degrees // 90)) if degrees else pixels
    seen = extractor.extract(rotated, rotated_size, local=local or degrees == 0)
    features = seen.features
    if features is not None and degrees:
        keypoints = unrotate_points(features.keypoints, rotated_size, degrees)
        features = replace(features, keypoints=keypoints, image_size=size)
    if features is not None and mask is not None:
        features = mask.outside(features)
    return Extraction(features, seen.global_descriptor)
