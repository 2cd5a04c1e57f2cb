"""Where the keypoints of a photo are, by the detector or by the descriptors of a network that is no
longer trained (Song et al., arXiv 2006.05077): steps 1 and 3 of each iteration.

Either gives a map of the photo, H x W float32, whose highest local maxima are the keypoints. Both
look at the photo and at random affine views of it, each in a light of its own.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from locate.extractors.blocks.detection import local_maxima
from locate.extractors.blocks.grids import Grid, resample, sample
from locate.extractors.sekd.network import GRID, PIXELS, RADIUS, SEKDNetwork, heat_map, log_odds
from locate.training.data.adaptation import adapted_heat_map
from locate.training.data.homographies import HomographySettings, random_homography
from locate.training.data.photometric import PhotometricSettings, photometric_noise
from locate.types import Array

# Turned and sheared by up to 40 degrees either way, .7 to 1.4 times as large.
VIEWS = HomographySettings(
    rotation=40, scale=(0.7, 1.4), perspective=0, translation=0.04, anisotropy=2.2
)
# Without noise of the sensor, which would make flat places as distinct as any other.
LIGHT = PhotometricSettings(
    blur_chance=0.2, noise_chance=0.0, motion_chance=0.0, shadow_chance=0.0, jpeg_chance=0.0
)
EDGE = (
    14  # pixels of a view's edge that do not count; the authors have 28, in photos twice as large
)
_RADIUS, _STRIDE = 3, 2  # of the neighbourhood: 7 x 7 cells, every second one
_SOFT = 1e-4  # added to squared distances
_LEAST = 0.03  # added to D_ii, which else may be as small as it likes
_NOBODY = 0.01  # added to counts


def detected(network: SEKDNetwork, grey: Array, rng: np.random.Generator, views: int) -> Array:
    """Step 1: P of a photo H x W uint8 and of `views` affine views, warped back and averaged over those
    that see a pixel; H and W multiples of 4."""

    def detect(images: Array) -> Array:
        with torch.inference_mode():
            return heat_map(network(_input(network, _lit(images, rng)))[0]).cpu().numpy()

    return adapted_heat_map(detect, grey, rng, views + 1, VIEWS, batch=1, edge=EDGE)


def reliable(network: SEKDNetwork, grey: Array, rng: np.random.Generator, views: int) -> Array:
    """Step 3: R = (R of f0 + R of the descriptors, brought to full resolution) / 2."""
    height, width = grey.shape
    from_photo = [random_homography(rng, (width, height), VIEWS) for _ in range(views)]
    images = [grey, *(cv2.warpPerspective(grey, view, (width, height)) for view in from_photo)]
    with torch.inference_mode():
        maps: list[tuple[Tensor, Tensor]] = []
        for image in _lit(np.stack(images), rng):  # one by one: f0 of all would fill the memory
            seen = network.look(_input(network, image[None]))
            maps.append((network.detect(seen)[1], network.describe(seen)))
        views_from_photo = torch.from_numpy(np.stack(from_photo)).float()
        fine, coarse = (
            mean_reliability(torch.cat([one[level] for one in maps]), views_from_photo, grid)
            for level, grid in enumerate((PIXELS, GRID))
        )
        upright = resample(coarse[None, None], GRID, PIXELS, (height, width))[0, 0]
        return np.asarray((fine + upright).cpu().numpy() / 2)


def mean_reliability(maps: Tensor, views_from_photo: Tensor, grid: Grid) -> Tensor:
    """R of every cell of a photo, h x w, the mean over the views that see it.

    Args:
        maps: 1 + V x D x h x w, of the photo and of its views, of any length.
        views_from_photo: V x 3 x 3, in pixels.
        grid: of the maps.
    """
    height, width = maps.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cells = torch.stack((columns, rows), dim=-1).reshape(-1, 2).to(maps)
    own = functional.normalize(maps[0], dim=0)
    total, count = torch.zeros_like(own[0]), torch.zeros_like(own[0])
    for view, view_from_photo in zip(maps[1:], views_from_photo.to(maps), strict=True):
        pixels = grid.to_image(cells)
        there = grid.to_map(pixels @ view_from_photo[:2, :2].T + view_from_photo[:2, 2])
        limit = there.new_tensor((width - 1, height - 1))
        seen = ((there >= 0) & (there <= limit)).all(dim=1).reshape(height, width)
        found = functional.normalize(sample(view[None], there[None])[0], dim=1)
        total += torch.where(seen, reliability(own, found.T.reshape(own.shape), seen), 0)
        count += seen
    return total / (count + _NOBODY)


def reliability(own: Tensor, found: Tensor, seen: Tensor) -> Tensor:
    """R = D_in / (D_ii + .03), h x w: D_ii = |f_i - f^_i| says how little a cell's descriptor is
    repeated, D_in = min |f_i - f^_j| over the neighbours j of i how distinct it is. What a view does
    not show is no neighbour.

    Args:
        own, found: f and f^, D x h x w of length 1: of a photo, and of a view at the places of the
            photo's cells.
        seen: h x w bool, the view shows it.
    """
    reach = _RADIUS * _STRIDE
    height, width = seen.shape
    around = functional.pad(found, [reach] * 4)
    known = functional.pad(seen, [reach] * 4)
    steps = range(0, 2 * reach + 1, _STRIDE)
    nearest = torch.full_like(own[0], -1.0)
    for dy, dx in ((dy, dx) for dy in steps for dx in steps if (dy, dx) != (reach, reach)):
        there = slice(dy, dy + height), slice(dx, dx + width)
        alike = (own * around[:, *there]).sum(dim=0)
        nearest = torch.where(known[there], torch.maximum(nearest, alike), nearest)
    same = (own * found).sum(dim=0)
    repeated, distinct = ((2 - 2 * dot + _SOFT).clamp(min=0).sqrt() for dot in (same, nearest))
    return distinct / (repeated + _LEAST)


def odds_of_maxima(network: SEKDNetwork, grey: Array) -> Array:
    """The log-odds of all local maxima of a photo H x W uint8, as an extractor looks for them."""
    with torch.inference_mode():
        z = log_odds(network(_input(network, grey[None]))[0])[0].cpu().numpy()
    x, y = best_points(z, -np.inf, RADIUS, RADIUS, z.size).astype(np.int64).T
    return np.asarray(z[y, x])


def best_points(heat: Array, threshold: float, radius: int, border: int, count: int) -> Array:
    """The `count` highest local maxima of H x W above `threshold`, N x 2 float32 (x, y), best first.

    Args:
        radius: pixels around a maximum in which nothing is higher.
        border: pixels along the edges where there is none.
    """
    found = local_maxima(torch.from_numpy(heat)[None], radius)[0].numpy() & (heat > threshold)
    inner = np.zeros_like(found)
    inner[border : heat.shape[0] - border, border : heat.shape[1] - border] = True
    rows, columns = np.nonzero(found & inner)
    best = np.argsort(-heat[rows, columns], kind="stable")[:count]
    return np.stack((columns, rows), axis=1)[best].astype(np.float32)


def _lit(images: Array, rng: np.random.Generator) -> Array:
    """V x H x W uint8, each in another light."""
    colours = (np.repeat(image[..., None], 3, axis=2) for image in images)
    return np.stack([photometric_noise(c, rng, LIGHT)[..., 1] for c in colours])


def _input(network: SEKDNetwork, images: Array) -> Tensor:
    """V x H x W uint8 -> V x 1 x H x W of 0 to 1, where the network is."""
    return torch.from_numpy(images)[:, None].to(network.conv0.weight.device).float() / 255
