"""What `benchmarks/ablations/context.py` fits to: spots seen twice, and photos the right way up and turned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from locate.extractors.blocks.detection import resize_image
from locate.extractors.context.extractor import DeepMaps
from locate.extractors.context.upright import TURN
from locate.extractors.steered.extractor import Steered
from locate.images.reading import read_photo
from locate.pixels import fit_size, resize_points
from locate.training.data.correspondences import MatchedPair
from locate.types import Array

_SIDE = 1024  # pixels of the long side at which photos are read
_TURNED_SIDE = 640  # of those that are turned


def matched_spots(
    deep: DeepMaps, pair: MatchedPair, most: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """M x K each: what the deep network sees at both ends of matches of two photos."""
    chosen = rng.permutation(len(pair.points_a))[:most]
    return (
        _seen_at(deep, pair.image_a, pair.points_a[chosen]),
        _seen_at(deep, pair.image_b, pair.points_b[chosen]),
    )


def _seen_at(deep: DeepMaps, path: Path, points: Array) -> Tensor:
    """At points in pixels of the original photo."""
    photo = read_photo(path, min_long_side=_SIDE)
    maps, small = deep.look(photo.pixels)
    return deep.around(maps, resize_points(points.astype(np.float64), photo.info.size, small))


def own_descriptors(steered: Steered, path: Path, most: int) -> tuple[Tensor, Tensor]:
    """N x L each: turned and upright descriptors of the strongest keypoints of a photo."""
    pixels = read_photo(path, min_long_side=_SIDE).pixels
    turned, upright = (
        torch.from_numpy(found.descriptors[:most])
        for found in steered.features(pixels, None, (False, True))
    )
    return turned, upright


def turned_views(
    deep: DeepMaps, path: Path, rng: np.random.Generator
) -> tuple[Sequence[Tensor], Sequence[bool]]:
    """Three views of a photo: all but upright, turned by about a multiple of a quarter, by any angle;
    `DeepMaps.layout` of each and whether it is the right way up."""
    pixels = read_photo(path, min_long_side=_TURNED_SIDE).pixels
    pixels = resize_image(pixels, fit_size((pixels.shape[1], pixels.shape[0]), _TURNED_SIDE))
    near = rng.normal(0, 0.1, 2)
    angles = (near[0], near[1] + rng.integers(4) * math.pi / 2, rng.uniform(-math.pi, math.pi))
    views = [turned(pixels, angle, rng) for angle in angles]
    return (
        [_layout(deep, view) for view in views],
        [abs(math.remainder(angle, 2 * math.pi)) < TURN for angle in angles],
    )


def _layout(deep: DeepMaps, view: Array) -> Tensor:
    maps, size = deep.look(view)
    return deep.layout(deep.global_vector(maps, size), maps, size)


def turned(pixels: Array, angle: float, rng: np.random.Generator) -> Array:
    """A window of a photo that is turned by an angle (radians, clockwise), of any shape; nothing outside
    of the photo is in it, which would tell the angle."""
    height, width = pixels.shape[:2]
    cos, sin = math.cos(angle), math.sin(angle)
    shape = math.exp(rng.uniform(-0.4, 0.4))  # width by height
    # Half a side: no corner of the window, turned back, lies outside of the photo.
    across = max(abs(shape * cos + sin), abs(shape * cos - sin))
    along = max(abs(shape * sin + cos), abs(shape * sin - cos))
    half = rng.uniform(0.8, 1) * min(width / 2 / across, height / 2 / along)
    size = (max(32, int(2 * half * shape)), max(32, int(2 * half)))
    turn = np.array([[cos, -sin], [sin, cos]])
    centre, target = (np.array(((w - 1) / 2, (h - 1) / 2)) for w, h in ((width, height), size))
    matrix = np.column_stack((turn, target - turn @ centre))
    return cv2.warpAffine(pixels, matrix, size, borderMode=cv2.BORDER_REFLECT)
