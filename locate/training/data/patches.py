"""Patches around keypoints, in quadruplets: the same keypoint in two photos, another one, and a place
without any (Yi et al., "LIFT", ECCV 2016, section 3.1).

A frame is where a keypoint lies and how it is turned: (x, y) in pixels, the scale (the deviation of
SIFT's Gaussian, in pixels) and the angle in radians from the x axis towards the y axis. N frames are
N x 4 float64. A patch is the square of half a side `reach` scales around it, turned with it: a step of u
pixels in the patch is one of (2 reach scale / side) R(angle) u in the photo.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from locate.training.data.homographies import HomographySettings, random_homography, render_view
from locate.training.data.photometric import PhotometricSettings, photometric_noise
from locate.types import Array

Find = Callable[[Array], Array]  # H x W uint8 -> N x 4 frames of its keypoints

_SMALLEST = 16  # pixels of a pyramid's last image
_TRIED = 6  # times as many keypoints are looked for in the other view as are wanted
_PLACES = 12  # that are tried for one without a keypoint
_TURN = math.radians(30)  # most between a frame that was carried over and the one found there
_GROWN = 1.4  # the same of their scales
_BINS = 36  # of the turn between two photos
_APART = 4.0  # scales, least, between the keypoints that are drawn of one photo
_WINDOW = 6.0  # scales: half the side of a descriptor's window


@dataclass(frozen=True, eq=False)
class Quadruplets:
    """K x 4 frames each: `first`, `other` and `empty` in photo a, `second` in photo b, which is `first`
    there; and the pyramids of both photos."""

    first: Array
    second: Array
    other: Array
    empty: Array
    levels_a: list[Array]
    levels_b: list[Array]

    def __len__(self) -> int:
        return len(self.first)

    def take(self, count: int) -> Quadruplets:
        """The first `count` of them."""
        names = ("first", "second", "other", "empty")
        return replace(self, **{name: getattr(self, name)[:count] for name in names})


def pyramid(grey: Array) -> list[Array]:
    """H x W uint8 and its halves, quarters, ..."""
    levels = [grey]
    while min(levels[-1].shape) >= 2 * _SMALLEST:
        height, width = levels[-1].shape
        size = (round(width / 2), round(height / 2))
        levels.append(np.asarray(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA)))
    return levels


def crop_patches(levels: Sequence[Array], frames: Array, side: int, reach: float) -> Array:
    """The patches of N frames, N x side x side uint8, each from the image of a `pyramid` whose pixels
    are about as large as its own; what lies beyond the photo continues its border."""
    steps = 2 * reach * frames[:, 2] / side  # pixels of the photo per pixel of the patch
    which = np.clip(np.floor(np.log2(steps) + 0.5), 0, len(levels) - 1).astype(np.int64)
    height, width = levels[0].shape
    found = np.empty((len(frames), side, side), np.uint8)
    middle = (side - 1) / 2
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for patch, (x, y, _, angle), step, number in zip(found, frames, steps, which, strict=True):
        level = levels[number]
        shrink = np.array((level.shape[1] / width, level.shape[0] / height))
        c, s = math.cos(angle), math.sin(angle)
        turn = step * np.array(((c, -s), (s, c)))
        start = np.array((x, y)) - turn @ (middle, middle)
        matrix = np.c_[turn * shrink[:, None], (start + 0.5) * shrink - 0.5]
        cv2.warpAffine(
            level, matrix, (side, side), patch, flags=how, borderMode=cv2.BORDER_REPLICATE
        )
    return found


def carried(frames: Array, b_from_a: Array) -> Array:
    """Frames of a as they are in b, by the homography's derivative at each: scales grow by the root of
    the area, angles are those of the direction's image. N x 4; NaN for what lies behind the horizon."""
    h = np.asarray(b_from_a, np.float64)
    depth = frames[:, :2] @ h[2, :2] + h[2, 2]
    depth = np.where(depth > 0, depth, np.nan)[:, None]
    there = (frames[:, :2] @ h[:2, :2].T + h[:2, 2]) / depth
    slope = (h[:2, :2] - there[:, :, None] * h[2, :2]) / depth[:, :, None]  # d b / d a, N x 2 x 2
    ahead = np.stack((np.cos(frames[:, 3]), np.sin(frames[:, 3])), axis=1)
    along = np.einsum("nij,nj->ni", slope, ahead)
    area = slope[:, 0, 0] * slope[:, 1, 1] - slope[:, 0, 1] * slope[:, 1, 0]
    scale = frames[:, 2] * np.sqrt(np.abs(area))
    return np.column_stack((there, scale, np.arctan2(along[:, 1], along[:, 0])))


def wrapped(angles: Array) -> Array:
    """To -pi up to pi."""
    return np.asarray((angles + np.pi) % (2 * np.pi) - np.pi)


def found_again(expected: Array, found: Array) -> Array:
    """Pairs (i, j), M x 2 int64: of frames N x 4, those of which one of `found` lies where they are
    expected, as large and turned alike: the nearest."""
    if not (len(expected) and len(found)):
        return np.zeros((0, 2), np.int64)
    x, y, scale, angle = (found[None, :, k] - expected[:, None, k] for k in range(4))
    ratio = found[None, :, 2] / (found[None, :, 2] - scale)
    grown = (ratio < _GROWN) & (ratio > 1 / _GROWN)
    turned = np.cos(angle) > math.cos(_TURN)
    far = np.hypot(x, y)
    far[~(grown & turned & (far < 1 + 0.5 * found[:, 2]))] = np.inf
    nearest = far.argmin(axis=1)
    kept = np.flatnonzero(np.isfinite(far.min(axis=1)))
    return np.stack((kept, nearest[kept]), axis=1)


def frames_at(
    points_a: Array, points_b: Array, frames_a: Array, frames_b: Array
) -> tuple[Array, Array]:
    """The frames, K x 4 each, of keypoints that lie at M matched points of two photos. Where several do,
    or one that is turned differently, the turn between the photos decides: that of most."""
    ends = (_near(points_a, frames_a), _near(points_b, frames_b))
    pairs = np.array(
        [(i, j) for here, there in zip(*ends, strict=True) for i in here for j in there], np.int64
    ).reshape(-1, 2)
    turns = wrapped(frames_b[pairs[:, 1], 3] - frames_a[pairs[:, 0], 3])
    counts, edges = np.histogram(turns, _BINS, (-np.pi, np.pi))
    most = edges[counts.argmax()] + np.pi / _BINS
    pairs = pairs[np.abs(wrapped(turns - most)) < _TURN]
    return frames_a[pairs[:, 0]], frames_b[pairs[:, 1]]


def _near(points: Array, frames: Array) -> list[Array]:
    """Which frames lie within a pixel of each point."""
    if not len(frames):
        return [np.zeros(0, np.int64)] * len(points)
    far = np.linalg.norm(points[:, None] - frames[None, :, :2], axis=2)
    return [np.flatnonzero(row < 1) for row in far]


def empty_places(
    rng: np.random.Generator, scales: Array, frames: Array, size: tuple[int, int]
) -> Array:
    """A frame for each of K scales in a photo of `size` (width, height) where no keypoint of half this
    scale or more lies in the window of a descriptor; where a few draws find none, the emptiest."""
    room = np.asarray(size, np.float64)
    margin = np.minimum(_WINDOW * scales[:, None], room / 4)[:, None]
    places = margin + rng.uniform(0, 1, (len(scales), _PLACES, 2)) * (room - 1 - 2 * margin)
    x, y = (np.abs(places[:, :, k, None] - frames[:, k]) for k in (0, 1))
    small = frames[:, 2] < scales[:, None] / 2
    far = np.where(small[:, None], np.inf, np.maximum(x, y))
    nearest = far.min(axis=2, initial=np.inf) / scales[:, None]
    best = np.minimum(nearest, _WINDOW).argmax(axis=1)  # the first that is far enough
    chosen = places[np.arange(len(scales)), best]
    return np.column_stack((chosen, scales, rng.uniform(-np.pi, np.pi, len(scales))))


def warped_quadruplets(
    photo: Array,
    frames: Array,
    find: Find,
    rng: np.random.Generator,
    count: int,
    views: HomographySettings,
    light: PhotometricSettings,
) -> Quadruplets | None:
    """At most `count` of a photo H x W x 3 uint8 with keypoints `frames` and a warped view of it, in
    which `find` found them again; `second` is `first` as the homography carries it over. None if there
    are less than two."""
    size = (photo.shape[1], photo.shape[0])
    b_from_a = random_homography(rng, size, views)
    view, valid = render_view(photo, b_from_a, size)
    images = [to_grey(photometric_noise(image, rng, light)) for image in (photo, view)]
    tried = frames[rng.permutation(len(frames))[: _TRIED * count]]
    expected = carried(tried, b_from_a)
    shown = _shown(expected, valid)
    tried, expected = tried[shown], expected[shown]
    again = found_again(expected, find(to_grey(view)))[:, 0]
    return _drawn(tried[again], expected[again], frames, (images[0], images[1]), rng, count)


def matched_quadruplets(
    photos: tuple[Array, Array],
    points: tuple[Array, Array],
    frames: tuple[Array, Array],
    rng: np.random.Generator,
    count: int,
    light: PhotometricSettings,
) -> Quadruplets | None:
    """The same of two photos with M matched points each and the keypoints of both."""
    a, b = frames_at(*points, *frames)
    images = [to_grey(photometric_noise(photo, rng, light)) for photo in photos]
    return _drawn(a, b, frames[0], (images[0], images[1]), rng, count)


def to_grey(image: Array) -> Array:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


def _shown(frames: Array, valid: Array) -> Array:
    """N bool: whether the corners of each descriptor's window, however it is turned, are valid."""
    reach = math.sqrt(2) * _WINDOW * frames[:, 2, None]
    turns = np.arange(8) * math.pi / 4
    rim = frames[:, None, :2] + reach[..., None] * np.stack((np.cos(turns), np.sin(turns)), axis=1)
    x, y = np.rint(np.nan_to_num(np.moveaxis(rim, 2, 0), nan=-1.0)).astype(np.int64)
    inside = (x >= 0) & (y >= 0) & (x < valid.shape[1]) & (y < valid.shape[0])
    seen = valid[np.where(inside, y, 0), np.where(inside, x, 0)]
    return np.asarray((seen & inside).all(axis=1))


def _drawn(
    a: Array,
    b: Array,
    frames: Array,
    images: tuple[Array, Array],
    rng: np.random.Generator,
    count: int,
) -> Quadruplets | None:
    """Some of the pairs, and what completes them."""
    kept = spaced(a, rng, count)
    if len(kept) < 2:
        return None
    first = a[kept]
    empty = empty_places(rng, first[:, 2], frames, images[0].shape[1::-1])
    other = np.roll(first, int(rng.integers(1, len(kept))), axis=0)
    return Quadruplets(first, b[kept], other, empty, pyramid(images[0]), pyramid(images[1]))


def spaced(frames: Array, rng: np.random.Generator, count: int) -> Array:
    """Which frames, at most `count` at random, no two of them at one spot."""
    kept: list[int] = []
    for i in rng.permutation(len(frames)):
        far = np.hypot(*(frames[kept, :2] - frames[i, :2]).T)
        if len(kept) < count and np.all(far > _APART * np.maximum(frames[kept, 2], frames[i, 2])):
            kept.append(int(i))
    return np.array(kept, np.int64)
