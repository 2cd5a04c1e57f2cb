"""An image halved again and again, all levels of which give keypoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from locate.extractors.base import Size
from locate.extractors.blocks.detection import resize_image
from locate.pixels import resize_points
from locate.types import Array, Extraction, Features

_SMALLEST = 128  # pixels: it goes on while both sides of a level are longer

# Of an image, best first: points N x 2 in its pixels, scores N, descriptors N x D.
Found = tuple[Array, Array, Array]


def halvings(image: Array) -> Iterator[Array]:
    """The image H x W or H x W x C uint8, then its half and so on, as SEKD's authors have it."""
    yield image
    while min(image.shape[:2]) // 2 > _SMALLEST:
        image = resize_image(image, (image.shape[1] // 2, image.shape[0] // 2))
        yield image


def best_of_levels(
    find: Callable[[Array], Found], image: Array, size: Size, most: int, *, pyramid: bool = True
) -> Extraction:
    """The `most` best local features by score that `find` finds in an image and, with `pyramid`, in its
    `halvings`; of a photo of `size` (width, height)."""
    found = []
    for level in halvings(image):
        points, scores, descriptors = find(level)
        here = resize_points(points.astype(np.float64), (level.shape[1], level.shape[0]), size)
        found.append((here.astype(np.float32), scores, descriptors))
        if not pyramid:
            break
    points, scores, descriptors = (np.concatenate(part) for part in zip(*found, strict=True))
    best = np.argsort(-scores, kind="stable")[:most]
    return Extraction(Features(points[best], scores[best], descriptors[best], size), None)
