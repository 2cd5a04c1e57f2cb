"""Homographic adaptation: a detector's answers averaged over random views of a photo.

DeTone, Malisiewicz and Rabinovich, "SuperPoint", CVPR Workshops 2018, section 5: with the detector f,
the photo I and homographies H_1 = identity, H_2, ..., F(I) = sum_i H_i^-1 f(H_i I) / n, where n counts,
for each pixel, the views that saw it. What the detector finds in many views is a point.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from locate.training.data.homographies import HomographySettings, random_homography
from locate.types import Array

# Near to the authors': turned by up to a quarter, half to one and a half times as large.
VIEWS = HomographySettings(
    rotation=90, scale=(0.7, 1.5), perspective=0.2, translation=0.2, anisotropy=1.2
)
_ERODED = 3  # pixels: what lies so near to the edge of a view says little

Detect = Callable[[Array], Array]  # V x H x W uint8 -> V x H x W float32, probabilities


def adapted_heat_map(
    detect: Detect,
    image: Array,
    rng: np.random.Generator,
    count: int = 100,
    settings: HomographySettings = VIEWS,
    batch: int = 10,
    edge: int = 0,
) -> Array:
    """F(I), H x W float32.

    Args:
        detect: f, for several views at once.
        image: H x W uint8, grey.
        count: homographies, the identity among them.
        batch: views that are looked at together.
        edge: pixels along the edges of a view that do not count, but in the image as it is.
    """
    height, width = image.shape
    size = (width, height)
    views = [np.eye(3)] + [random_homography(rng, size, settings) for _ in range(count - 1)]
    total, seen, inner = np.zeros((3, height, width), np.float32)
    inner[edge : height - edge, edge : width - edge] = 1
    for start in range(0, count, batch):
        some = views[start : start + batch]
        found = detect(np.stack([_look(image, view, cv2.INTER_LINEAR) for view in some]))
        for number, (view, probabilities) in enumerate(zip(some, found, strict=True), start):
            inside = _inside(size, view) * (inner if number else 1)
            back = np.linalg.inv(view)
            total += _look(probabilities * inside, back, cv2.INTER_LINEAR)
            seen += _look(inside, back, cv2.INTER_LINEAR)
    return np.asarray(total / np.maximum(seen, 1))


def _look(image: Array, view_from_image: Array, how: int) -> Array:
    """Through a homography; black outside."""
    size = (image.shape[1], image.shape[0])
    return np.asarray(cv2.warpPerspective(image, view_from_image, size, flags=how))


def _inside(size: tuple[int, int], view_from_image: Array) -> Array:
    """1.0 where a view shows the photo and not just its edge, else 0.0, H x W float32."""
    everywhere = np.ones((size[1], size[0]), np.float32)
    shown = _look(everywhere, view_from_image, cv2.INTER_NEAREST)
    kernel = np.ones((2 * _ERODED + 1, 2 * _ERODED + 1), np.uint8)
    # Beyond the border of the view there may be more of the photo: only the photo's own edge erodes.
    return np.asarray(cv2.erode(shown, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1.0))
