"""LIFT's keypoints of a whole image: the detector's scores at many sizes of it, maxima among places
and sizes, without edges, to a fraction of a pixel (Yi et al., ECCV 2016, section 3.6; authors' code).

Scores are h x w; a point of level k is (x, y) in its own pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from locate.extractors.blocks.detection import Derivatives
from locate.extractors.blocks.grids import sample
from locate.extractors.lift.network import KERNEL, REACH, SMALL, Detector
from locate.types import Array

_OCTAVES = (1, 4)  # of the scales, as powers of 2
_SMALL_SIDE = 1600  # pixels: of smaller images one more octave, of twice their size
_CURVED = 1e-3  # least sum of second derivatives, downwards: what is flat has no maxima
_NEIGHBOURS = (-2, -1, 1, 2)  # levels that a maximum is compared with


@dataclass(frozen=True)
class Search:
    """How keypoints are chosen."""

    radius: int = 3
    edge_ratio: float = 10.0
    levels: int = 5


@dataclass(frozen=True, eq=False)
class Level:
    """The scores of one size of an image: `scores` h x w begins at pixel (12, 12) of it."""

    scores: Tensor
    scale: float  # of its keypoints, in pixels of the original
    zoom: tuple[float, float]  # its pixels per pixel of the original along x and y

    def to_image(self, points: Tensor) -> Tensor:
        """Points N x 2 of the scores -> pixels of the original."""
        return (points + (KERNEL // 2 + 0.5)) / points.new_tensor(self.zoom) - 0.5

    def from_image(self, points: Tensor) -> Tensor:
        return (points + 0.5) * points.new_tensor(self.zoom) - (KERNEL // 2 + 0.5)


def scales_of(size: tuple[int, int], levels: int) -> Array:
    """The scales that are looked at in an image of this size."""
    first = _OCTAVES[0] - (min(size) <= _SMALL_SIDE)
    return np.asarray(2.0 ** np.linspace(first, _OCTAVES[1], (_OCTAVES[1] - first) * levels + 1))


def score_levels(detector: Detector, grey: Array, levels: int, device: torch.device) -> list[Level]:
    """Of all sizes at which a filter fits into the image H x W uint8: there 24 scales of a level's
    keypoints are 48 pixels, as in training (the authors' code has 47)."""
    height, width = grey.shape
    found = []
    for scale in scales_of((width, height), levels):
        factor = SMALL / 2 / (REACH * scale)
        size = round(width * factor), round(height * factor)
        if min(size) < KERNEL + 2:
            break
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        image = torch.from_numpy(cv2.resize(grey, size, interpolation=how)).to(device).float()
        found.append(
            Level(detector.scores(image), float(scale), (size[0] / width, size[1] / height))
        )
    return found


def find_frames(
    detector: Detector, grey: Array, search: Search, count: int, device: torch.device
) -> tuple[Array, Array]:
    """The `count` best keypoints of an image H x W uint8, best first: frames, N x 4 float64 of angle 0,
    and scores, N float32."""
    levels = score_levels(detector, grey, search.levels, device)
    highest = [_highest(level.scores, search.radius) for level in levels]
    frames, scores = [torch.zeros(0, 4, dtype=torch.float64)], [torch.zeros(0)]
    for number, level in enumerate(levels):
        points = _maxima(levels, highest, number, search)
        step = quadratic_steps(levels, number, points)
        places = level.to_image(points.double() + step[:, :2])
        scale = level.scale * 2 ** (step[:, 2] / search.levels)
        rows = torch.cat((places, scale[:, None], torch.zeros_like(scale)[:, None]), dim=1)
        frames.append(rows.cpu())
        scores.append(level.scores[points[:, 1], points[:, 0]].float().cpu())
    every = torch.cat(scores).numpy()
    best = np.argsort(-every, kind="stable")[:count]
    return torch.cat(frames).numpy()[best], every[best]


def _highest(scores: Tensor, radius: int) -> Tensor:
    """The highest score of the window around each."""
    side = 2 * radius + 1
    rows = functional.max_pool2d(scores[None, None], (1, side), 1, (0, radius))
    return functional.max_pool2d(rows, (side, 1), 1, (radius, 0))[0, 0]


def _maxima(levels: list[Level], highest: list[Tensor], number: int, search: Search) -> Tensor:
    """Points N x 2 int64 of a level that are the highest of their window here and in the levels beside,
    and no edges."""
    level = levels[number]
    scores = level.scores
    inner = (scores == highest[number])[1:-1, 1:-1]  # where all neighbours are there
    rows, columns = (n + 1 for n in torch.nonzero(inner, as_tuple=True))
    index = (torch.zeros_like(rows), rows, columns)
    curves = Derivatives.at(scores[None], index)
    kept = curves.is_blob(search.edge_ratio) & (curves.dxx + curves.dyy < -_CURVED)
    points = torch.stack((columns, rows), dim=1)[kept]
    for other in (number + step for step in _NEIGHBOURS):
        if 0 <= other < len(levels):
            place = levels[other].from_image(level.to_image(points.double())).round().long()
            height, width = levels[other].scores.shape
            inside = (place >= 0).all(1) & (place < place.new_tensor((width, height))).all(1)
            x, y = place[:, 0].clamp(0, width - 1), place[:, 1].clamp(0, height - 1)
            beaten = inside & (highest[other][y, x] > scores[points[:, 1], points[:, 0]])
            points = points[~beaten]
    return points


def quadratic_steps(levels: list[Level], number: int, points: Tensor) -> Tensor:
    """From points N x 2 of a level to the maximum of the quadratic through their neighbours, N x 3:
    pixels along x and y, and levels (Brown and Lowe, BMVC 2002). 0 at the first and the last level, and
    where the maximum would be more than one step away, or there is none."""
    steps = torch.zeros(len(points), 3, dtype=torch.float64, device=points.device)
    if not 0 < number < len(levels) - 1 or not len(points):
        return steps
    offsets = torch.cartesian_prod(*[torch.arange(-1, 2, device=points.device)] * 2)
    level = levels[number]
    cube = []  # of N x 9 values, level by level; of a level y runs last
    for other in levels[number - 1 : number + 2]:
        around = points[:, None] + offsets
        place = other.from_image(level.to_image(around.reshape(-1, 2).double()))
        values = sample(other.scores[None, None], place.to(other.scores.dtype)[None])
        cube.append(values[0, :, 0].double().view(-1, 3, 3))
    gradient, hessian = _derivatives(torch.stack(cube, dim=3))  # N x x x y x level
    good = torch.linalg.eigvalsh(hessian).amax(dim=1) < -1e-9
    found = -torch.linalg.solve(hessian[good], gradient[good])
    steps[good] = torch.where((found.abs() <= 1).all(dim=1, keepdim=True), found, 0.0)
    return steps


def _derivatives(cube: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient, N x 3, and second derivatives, N x 3 x 3, by central differences in the middle of
    N x 3 x 3 x 3 values."""

    def at(**steps: int) -> Tensor:
        a, b, c = (1 + steps.get(axis, 0) for axis in "xyz")
        return cube[:, a, b, c]

    first = [(at(**{a: 1}) - at(**{a: -1})) / 2 for a in "xyz"]
    rows = []
    for a in "xyz":
        for b in "xyz":
            if a == b:
                rows.append(at(**{a: 1}) - 2 * at() + at(**{a: -1}))
            else:
                mixed = at(**{a: 1, b: 1}) - at(**{a: 1, b: -1}) - at(**{a: -1, b: 1})
                rows.append((mixed + at(**{a: -1, b: -1})) / 4)
    return torch.stack(first, dim=1), torch.stack(rows, dim=1).view(-1, 3, 3)
