"""Two views of one photo with the homography between them: correspondences that are known exactly.

A view is a window of `size` (width, height) pixels looked at through `view_from_image`, a homography
from pixels of the photo to pixels of the view. Both views of a pair are cut from the photo itself, so
neither is interpolated twice, and `b_from_a = view_b_from_image @ inverse(view_a_from_image)`.

The idea of training on such pairs: DeTone, Malisiewicz and Rabinovich, "SuperPoint", CVPR Workshops
2018, section 5. The sampler here is our own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np

from locate.errors import InputError
from locate.pixels import apply_homography
from locate.training.data.photometric import PhotometricSettings, photometric_noise, require_image
from locate.types import Array

_TRIES = 10  # draws of a pair until its overlap suffices
_MIN_DEPTH = 0.2  # of the homogeneous coordinate at the corners, relative to the centre
_GRID = 12  # points along each side that the overlap of a draw is judged by

T = TypeVar("T")


@dataclass(frozen=True)
class HomographySettings:
    """How far two views may lie apart, drawn uniformly; scales and stretches in their logarithm."""

    rotation: float = 25.0  # largest, in the image plane, degrees, either way
    scale: tuple[float, float] = (0.65, 1.5)  # smallest and largest size of things in b to a
    # Largest tilt along each axis: how much the homogeneous coordinate changes from the centre to the
    # edge of the view, relative to the centre. 0 to 0.4.
    perspective: float = 0.15
    translation: float = 0.15  # largest shift along each axis, as a share of the view's side
    anisotropy: float = 1.2  # largest stretch along one direction (any) to the other; shears too
    full_circle: float = 0.0  # chance that the turn is drawn from all 360 degrees instead
    # Smallest and largest side of view a, relative to the largest window that fits into the photo.
    # Small ones leave room around a for b.
    crop: tuple[float, float] = (0.7, 1.0)
    # Of several draws the first is taken in which the two views share at least this much of their area,
    # on average; if none does, the best.
    min_overlap: float = 0.5

    def __post_init__(self) -> None:
        checks = {
            "rotation": (self.rotation, 0 <= self.rotation <= 180),
            "scale": (self.scale, 0 < self.scale[0] <= self.scale[1]),
            "perspective": (self.perspective, 0 <= self.perspective <= 0.4),
            "translation": (self.translation, 0 <= self.translation < 1),
            "anisotropy": (self.anisotropy, self.anisotropy >= 1),
            "full_circle": (self.full_circle, 0 <= self.full_circle <= 1),
            "crop": (self.crop, 0 < self.crop[0] <= self.crop[1] <= 1),
            "min_overlap": (self.min_overlap, 0 <= self.min_overlap <= 1),
        }
        for name, (value, good) in checks.items():
            if not good:
                raise InputError(f"{name} of a random homography cannot be {value}; see its limits")


@dataclass(frozen=True, eq=False)
class WarpedPair:
    """Two views of one photo."""

    # H x W x 3 uint8, RGB; black (before any photometric noise) where the photo has ended.
    image_a: Array
    image_b: Array
    b_from_a: Array  # 3 x 3 float64; the depth is positive wherever a can be seen from b
    valid_a: Array  # H x W bool, the pixel shows something of the photo
    valid_b: Array
    a_from_image: Array  # 3 x 3 float64, from pixels of the photo
    b_from_image: Array


def random_homography(
    rng: np.random.Generator, size: tuple[int, int], settings: HomographySettings | None = None
) -> Array:
    """A random `b_from_a` between two views of `size` (width, height), 3 x 3 float64.

    Tilt, stretch, turn, scale and shift, in this order, about the centre of the view. The homogeneous
    coordinate is positive over all of view a and, backwards, over all of view b."""
    settings = settings or HomographySettings()
    tilt = settings.perspective
    while True:
        b_from_a = _draw(rng, size, settings, tilt)
        both = (b_from_a, np.linalg.inv(b_from_a))
        # The horizon must not run through a view. It rarely does, and less and less by this.
        if all(_least_depth(h, size) > _MIN_DEPTH for h in both):
            return b_from_a
        tilt *= 0.8


def _draw(
    rng: np.random.Generator, size: tuple[int, int], settings: HomographySettings, most_tilt: float
) -> Array:
    limit = 180.0 if rng.random() < settings.full_circle else settings.rotation
    turn = math.radians(rng.uniform(-limit, limit))
    scale = _log_uniform(rng, *settings.scale)
    stretch = _log_uniform(rng, 1.0, settings.anisotropy) ** 0.5
    axes = _rotation(rng.uniform(0, math.pi))
    tilt = rng.uniform(-most_tilt, most_tilt, 2)
    shift = rng.uniform(-settings.translation, settings.translation, 2) * size
    affine = np.eye(3)
    affine[:2, :2] = scale * _rotation(turn) @ axes @ np.diag((stretch, 1 / stretch)) @ axes.T
    affine[:2, 2] = shift
    perspective = np.eye(3)
    perspective[2, :2] = tilt / (np.asarray(size) / 2)
    centre = (np.asarray(size, np.float64) - 1) / 2
    return np.asarray(_translation(centre) @ affine @ perspective @ _translation(-centre))


def warped_pair(
    image: Array,
    rng: np.random.Generator,
    size: tuple[int, int],
    settings: HomographySettings | None = None,
    photometric: PhotometricSettings | None = None,
) -> WarpedPair:
    """Two random views of `size` (width, height) of a photo H x W x 3 uint8: a is an upright window; b
    sees it through `random_homography`. Light and noise are drawn for each view on its own, if at all.
    """
    a_from_image, b_from_image, b_from_a = _drawn(image, rng, size, settings, (0, 1))
    image_a, valid_a = render_view(image, a_from_image, size)
    image_b, valid_b = render_view(image, b_from_image, size)
    if photometric is not None:
        image_a, image_b = (photometric_noise(v, rng, photometric) for v in (image_a, image_b))
    return WarpedPair(image_a, image_b, b_from_a, valid_a, valid_b, a_from_image, b_from_image)


def random_view(
    image: Array,
    rng: np.random.Generator,
    size: tuple[int, int],
    settings: HomographySettings | None = None,
) -> tuple[Array, Array]:
    """One random view of a photo H x W x 3 uint8: an upright window seen through `random_homography`,
    black where the photo has ended; and H x W bool, where it has not. `min_overlap` is how much of it
    must show the photo, if a few draws reach it."""
    return render_view(image, _drawn(image, rng, size, settings, (1, 1))[1], size)


def best_of(draws: Iterable[T], score: Callable[[T], float], enough: float) -> T:
    """The first of a few draws that scores `enough`, or else the first of the best."""
    best, most = None, -math.inf
    for draw in draws:
        scored = score(draw)
        if best is None or scored > most:
            best, most = draw, scored
        if scored >= enough:
            break
    if best is None:
        raise InputError("no photo of the training data can be used any more; look at the log")
    return best


def _drawn(
    image: Array,
    rng: np.random.Generator,
    size: tuple[int, int],
    settings: HomographySettings | None,
    judged: tuple[int, int],  # the two of a draw that must share enough
) -> tuple[Array, Array, Array]:
    require_image(image)
    if min(size) < 2:
        raise InputError(f"a view must be at least 2 pixels wide and high, got {size}")
    settings = settings or HomographySettings()
    draws = _draws(image, rng, size, settings)
    a, b = judged
    return best_of(draws, lambda d: _overlap(image, d[a], d[b], size), settings.min_overlap)


def _draws(
    image: Array, rng: np.random.Generator, size: tuple[int, int], settings: HomographySettings
) -> Iterable[tuple[Array, Array, Array]]:
    """a_from_image of an upright window somewhere in the image, b_from_image and b_from_a."""
    for _ in range(_TRIES):
        b_from_a = random_homography(rng, size, settings)
        room = np.array((image.shape[1], image.shape[0]), np.float64)
        view = np.asarray(size, np.float64)
        zoom = float(min(room / view)) * _log_uniform(rng, *settings.crop)
        corner = rng.uniform(0, 1, 2) * (room - zoom * view)
        a_from_image = window(corner, zoom)
        yield a_from_image, b_from_a @ a_from_image, b_from_a


def window(corner: Array, zoom: float) -> Array:
    """view_from_image of an upright window, 3 x 3, by (x, y) of its top left corner in the image, whose
    own is (0, 0), and the pixels of the image per pixel of the view."""
    # Edges on edges: image + 0.5 = corner + zoom (view + 0.5)
    offset = (0.5 - corner) / zoom - 0.5
    return np.array([[1 / zoom, 0, offset[0]], [0, 1 / zoom, offset[1]], [0, 0, 1]])


def render_view(image: Array, view_from_image: Array, size: tuple[int, int]) -> tuple[Array, Array]:
    """What a view of `size` (width, height) sees of an image H x W x 3 uint8, black outside of it; and
    H x W bool, inside. Bilinear; no horizon may run through it. Where the view shrinks the image, the
    image is first averaged down by area to the resolution that the view has in the middle of what it
    sees."""
    height, width = image.shape[:2]
    shrink = 1 / _magnification(view_from_image, size)
    if shrink > 1.1:
        target = (max(1, round(width / shrink)), max(1, round(height / shrink)))
        image = cv2.resize(image, target, interpolation=cv2.INTER_AREA)
        x, y = width / target[0], height / target[1]  # corners on corners
        resized = np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]])
        view_from_image = view_from_image @ resized
    image_from_view = np.linalg.inv(view_from_image)
    linear, nearest = (cv2.WARP_INVERSE_MAP | how for how in (cv2.INTER_LINEAR, cv2.INTER_NEAREST))
    # Replicated, then masked: mixing in a constant would darken the last row.
    border = cv2.BORDER_REPLICATE
    view = cv2.warpPerspective(image, image_from_view, size, flags=linear, borderMode=border)
    everywhere = np.full(image.shape[:2], 255, np.uint8)
    inside = cv2.warpPerspective(everywhere, image_from_view, size, flags=nearest) > 0
    view[~inside] = 0
    return np.asarray(view), np.asarray(inside)


def visible_grid(pair: WarpedPair, stride: int) -> tuple[Array, Array]:
    """Which cells of a's map of this stride are seen in b, M x 2 int64 (x, y), row by row, and where,
    M x 2 float32, their centres in pixels of b. Both the centre and its image lie among valid pixels;
    that of cell x lies at (x + 0.5) stride - 0.5."""
    height, width = pair.valid_a.shape
    if not 1 <= stride <= min(height, width):
        raise InputError(f"a stride must be 1 to {min(height, width)} here, got {stride}")
    rows, columns = np.mgrid[: height // stride, : width // stride]
    cells = np.stack((columns.ravel(), rows.ravel()), axis=1)
    centres = (cells + 0.5) * stride - 0.5
    seen, points = seen_in_b(pair, centres)
    return cells[seen], points[seen]


def seen_in_b(pair: WarpedPair, points: Array) -> tuple[Array, Array]:
    """Which of N x 2 points (x, y) in pixels of a are seen in b, N bool, and where, N x 2 float32 in
    pixels of b. Both the point and its image lie among valid pixels."""
    seen = _depths(pair.b_from_a, points) > 0
    there = apply_homography(pair.b_from_a, points)
    there = np.where(np.isfinite(there), there, -1.0)
    seen &= _among(pair.valid_a, points) & _among(pair.valid_b, there)
    return seen, there.astype(np.float32)


def _among(valid: Array, points: Array) -> Array:
    """Whether all (up to four) pixels that a bilinear look at each point would read are valid."""
    height, width = valid.shape
    inside = np.all((points >= 0) & (points <= (width - 1, height - 1)), axis=1)
    held = np.where(inside[:, None], points, 0)
    low, high = np.floor(held).astype(np.int64), np.ceil(held).astype(np.int64)
    corners = [valid[y, x] for x in (low[:, 0], high[:, 0]) for y in (low[:, 1], high[:, 1])]
    return np.asarray(inside & np.logical_and.reduce(corners))


def _overlap(
    image: Array, a_from_image: Array, b_from_image: Array, size: tuple[int, int]
) -> float:
    """Share of a view's area that the other sees too, the mean of both views, on a grid of points."""
    room, limit = np.array((image.shape[1::-1], size)) - 0.5
    steps = (np.arange(_GRID) + 0.5) / _GRID
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2) * size - 0.5
    shares = []
    for here, there in ((a_from_image, b_from_image), (b_from_image, a_from_image)):
        image_from_here = np.linalg.inv(here)
        in_image = apply_homography(image_from_here, grid)
        in_there = apply_homography(there, in_image)
        seen = _depths(there @ image_from_here, grid) > 0
        for points, most in ((in_image, room), (in_there, limit)):
            seen &= np.all((points > -0.5) & (points < most), axis=1)
        shares.append(np.mean(seen))
    return float(np.mean(shares))


def _magnification(view_from_image: Array, size: tuple[int, int]) -> float:
    """Pixels of the view per pixel of the image along a line, the median of five places in the view."""
    places = np.array([(0.5, 0.5), (0.1, 0.1), (0.9, 0.1), (0.1, 0.9), (0.9, 0.9)]) * size
    # |det J| = |det H| / w^3 for x -> H x (Hartley and Zisserman, section 2.4, by differentiation)
    image_from_view = np.linalg.inv(view_from_image)
    areas = abs(np.linalg.det(image_from_view)) / _depths(image_from_view, places) ** 3
    return float(1 / np.sqrt(np.median(np.abs(areas))))


def _depths(b_from_a: Array, points: Array) -> Array:
    """The homogeneous coordinate that M x 2 points get."""
    return np.asarray(points @ b_from_a[2, :2] + b_from_a[2, 2])


def _least_depth(b_from_a: Array, size: tuple[int, int]) -> float:
    """Smallest homogeneous coordinate over a view, relative to that of its centre."""
    right, low = size[0] - 0.5, size[1] - 0.5
    corners = np.array([(-0.5, -0.5), (right, -0.5), (-0.5, low), (right, low)])
    depths = _depths(b_from_a, corners)
    return float(depths.min() / abs(depths.mean()))


def _translation(by: Array) -> Array:
    return np.array([[1, 0, by[0]], [0, 1, by[1]], [0, 0, 1]])


def _rotation(radians: float) -> Array:
    c, s = math.cos(radians), math.sin(radians)
    return np.array([[c, -s], [s, c]])


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))
