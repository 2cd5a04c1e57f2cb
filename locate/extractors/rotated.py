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
    """The four rotations of a photo: what is seen in it upright, then turned by 90, 180 and 270 degrees,
    each looked at when it is asked for.

    The local features of a rotation-invariant extractor are extracted once: a turned photo has those of
    the upright one, and a global descriptor of its own.

    Args:
        size, mask: see `extract_turned`.
        local: False leaves the local features of turned photos out, unless they are known.
        vectors: False if nobody asks for global descriptors: of a rotation-invariant extractor the
            upright photo is all then.

    Yields:
        (degrees, what was seen).
    """
    upright = extract_turned(extractor, pixels, size, 0, local=True, mask=mask)
    yield 0, upright
    known = upright.features if extractor.info.rotation_invariant else None
    if known is not None and not vectors:
        return
    for degrees in ROTATIONS[1:]:
        again = local and known is None
        seen = extract_turned(extractor, pixels, size, degrees, local=again, mask=mask)
        yield degrees, seen if known is None else Extraction(known, seen.global_descriptor)


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
