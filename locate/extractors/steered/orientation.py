"""Which way each keypoint faces: along the gradient of the blurred image.

A network that learned directions did worse (`docs/experiments.md`, 13)."""

from __future__ import annotations

import cv2
import numpy as np

from locate.types import Array

BLUR = 5.0  # pixels: standard deviation of the Gaussian
_LEAST = 1e-6  # of the gradient, in grey levels: below there is none


def orientations(grey: Array, points: Array) -> Array:
    """The direction of steepest ascent of brightness of H x W uint8 at N x 2 points (x, y): N x 2
    float32, unit vectors, (1, 0) where the image is flat. It turns with the image; points beyond the
    border face as the border does."""
    smooth = cv2.GaussianBlur(
        grey.astype(np.float32), (0, 0), BLUR, borderType=cv2.BORDER_REPLICATE
    )
    x, y = np.ascontiguousarray(points.T, np.float32)
    found = np.zeros((len(points), 2), np.float32)
    for axis in (0, 1):
        slope = cv2.Sobel(
            smooth, cv2.CV_32F, 1 - axis, axis, scale=1 / 8, borderType=cv2.BORDER_REPLICATE
        )
        if len(points):
            found[:, axis] = cv2.remap(
                slope, x[None], y[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )[0]
    length = np.linalg.norm(found, axis=1, keepdims=True)
    flat = np.array((1.0, 0.0), np.float32)
    return np.where(length > _LEAST, found / np.maximum(length, _LEAST), flat)
