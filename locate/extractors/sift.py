"""RootSIFT on OpenCV's SIFT: the classical baseline that stands in every table.

Lowe, "Distinctive Image Features from Scale-Invariant Keypoints", IJCV 2004; RootSIFT: Arandjelovic
and Zisserman, "Three things everyone should know to improve object retrieval", CVPR 2012, section 3:
L1-normalise, then take the square root of each element, so that the Euclidean distance of two
descriptors is the Hellinger distance of the SIFT histograms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from locate.extractors.base import ExtractorInfo, Size, no_features, require_positive
from locate.extractors.blocks.detection import resize_image
from locate.extractors.blocks.inference import sizes_of
from locate.pixels import resize_points
from locate.types import Array, Extraction, Features

# OpenCV doubles the image before it looks and forgets half a pixel of the doubled one on the way back:
# every keypoint is a quarter of a pixel too far right and down (tests/extractors/test_contract.py
# measures it). Its own cure, enable_precise_upscale, finds keypoints that match less well (MMA@3
# .445 for .456: benchmarks/ablations/sift_bias.py).
_BIAS = np.float32(0.25)


class Sift:
    """RootSIFT."""

    def __init__(
        self,
        max_keypoints: int = 2048,  # the strongest are kept
        max_side: int = 1024,  # the image is shrunk to at most this many pixels along its long side
        contrast_threshold: float = 0.04,  # OpenCV's; lower gives more keypoints on flat images
    ) -> None:
        require_positive(max_keypoints=max_keypoints, max_side=max_side)
        self.max_side = max_side
        self._max_keypoints = max_keypoints
        self._contrast_threshold = contrast_threshold
        limits = {"max_keypoints": max_keypoints, "max_side": max_side}
        settings = {**limits, "contrast_threshold": contrast_threshold, "unbiased": True}
        self.info = ExtractorInfo("sift", None, settings, local_dim=128, rotation_invariant=True)

    def extract(self, pixels: Array, size: Size | None = None, *, local: bool = True) -> Extraction:  # noqa: ARG002
        size, target = sizes_of(pixels, size, self.max_side)
        grey = resize_image(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), target)
        # A detector of its own for each call: cv2.SIFT keeps no promise about threads.
        detector = cv2.SIFT.create(
            nfeatures=self._max_keypoints, contrastThreshold=self._contrast_threshold
        )
        found, descriptors = detector.detectAndCompute(grey, None)
        if descriptors is None or len(found) == 0:
            return Extraction(no_features(size, 128), None)
        points = np.array([k.pt for k in found], np.float32).reshape(-1, 2) - _BIAS
        scores = np.array([k.response for k in found], np.float32)
        # OpenCV keeps ties at the cut, so it may return a few more than asked.
        order = np.argsort(-scores, kind="stable")[: self._max_keypoints]
        points = resize_points(points[order], target, size)
        return Extraction(
            Features(points, scores[order], root_sift(descriptors[order]), size), None
        )


def find_frames(grey: Array) -> Array:
    """The keypoints of an image H x W uint8 as frames (see `locate.training.data.patches`), N x 4
    float64."""
    return _frames(cv2.SIFT.create().detect(grey, None))


def describe_frames(grey: Array) -> tuple[Array, Array]:
    """The same, and their RootSIFT, N x 128 float32."""
    found, descriptors = cv2.SIFT.create().detectAndCompute(grey, None)
    if descriptors is None:
        descriptors = np.zeros((0, 128), np.float32)
    return _frames(found), root_sift(descriptors)


def _frames(found: Sequence[cv2.KeyPoint]) -> Array:
    # OpenCV's size is twice the scale; its angle turns from x to y, too.
    frames = [(*k.pt, k.size / 2, math.radians(k.angle)) for k in found]
    return np.asarray(np.array(frames).reshape(-1, 4) - (_BIAS, _BIAS, 0, 0))


def root_sift(descriptors: Array) -> Array:
    """SIFT histograms N x 128 -> RootSIFT N x 128 float32, L2-normalised rows."""
    descriptors = descriptors.astype(np.float32)
    total = np.abs(descriptors).sum(axis=1, keepdims=True)
    return np.asarray(np.sqrt(descriptors / np.maximum(total, 1e-12)), np.float32)
