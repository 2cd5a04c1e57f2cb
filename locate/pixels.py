"""Pixel conventions, all of them, in one file; `tests/test_convention.py` pins each.

- A point is (x, y): x to the right, y down. Arrays of images are indexed [y, x].
- The CENTRE of the top-left pixel is (0, 0) (OpenCV's convention). An image of width W covers
  x from -0.5 to W - 0.5. COLMAP puts (0, 0) at the top-left CORNER, so its points are ours + 0.5.
- Resizing keeps corners on corners (OpenCV's `resize`, torch's `align_corners=False`).
- `extraction_scale` is how many pixels of a photo one is of those that the extractor sees: 1 or more.
- A homography `b_from_a` maps points of image a to points of image b.
"""

from __future__ import annotations

import numpy as np

from locate.types import Array

COLMAP_OFFSET = 0.5


def to_colmap(points: Array) -> Array:
    """Points (..., 2) in our pixels -> COLMAP's pixels."""
    return points + COLMAP_OFFSET


def from_colmap(points: Array) -> Array:
    """Points (..., 2) in COLMAP's pixels -> our pixels."""
    return points - COLMAP_OFFSET


def resize_points(points: Array, from_size: tuple[int, int], to_size: tuple[int, int]) -> Array:
    """Points (N, 2) of an image of `from_size` (width, height) -> where they lie in `to_size`."""
    scale = np.asarray(to_size, np.float64) / np.asarray(from_size, np.float64)
    return ((points + 0.5) * scale - 0.5).astype(points.dtype)


def fit_size(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """`size` (width, height) shrunk so that its long side is at most `long_side` pixels."""
    scale = min(1.0, long_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def extraction_scale(long_side: float, working_side: int) -> float:
    """See above: of an extractor that shrinks photos to a long side of at most `working_side` pixels."""
    return max(1.0, long_side / working_side)


def unrotate_points(points: Array, turned_size: tuple[int, int], degrees: int) -> Array:
    """Points (N, 2) of an image of `turned_size` (width, height) -> the image before it was turned by 0,
    90, 180 or 270 degrees, counter-clockwise as `numpy.rot90` turns (k = degrees / 90)."""
    x, y = points[:, 0], points[:, 1]
    width, height = turned_size
    match degrees % 360:
        case 0:
            back = x, y
        case 90:
            back = height - 1 - y, x
        case 180:
            back = width - 1 - x, height - 1 - y
        case 270:
            back = y, width - 1 - x
        case _:
            raise ValueError(f"degrees must be a multiple of 90, got {degrees}")
    return np.stack(back, axis=1).astype(points.dtype)


def apply_homography(b_from_a: Array, points: Array) -> Array:
    """Points (N, 2) of image a -> image b, by the 3 x 3 homography `b_from_a`."""
    homogeneous = np.c_[points.astype(np.float64), np.ones(len(points))] @ np.asarray(b_from_a).T
    return np.asarray(homogeneous[:, :2] / homogeneous[:, 2:])
