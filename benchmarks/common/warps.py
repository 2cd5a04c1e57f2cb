"""Pairs of views of single photos with the homography between them, in which one thing changes by a known
amount: zoom, rotation, viewpoint, light, blur, JPEG.

The photos are those of `train/photos` that no training sees (`PhotoPool`), at most 400 pixels long. View
a shows the photo as it is taken upright, at most some 700 pixels long, view b a part of it through the
change, never more than there is, so that no view has black edges. In zoom and tilt one view is shrunk by
what the other is enlarged by, since neither can show more than the photo has.

They are written as Oxford affine's are, a folder a kind and in it a sequence a pair:
KIND/NUMBER_STEP_PHOTO/img1.png, img2.png, H1to2p.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.common.held_out import held_out_photos
from locate.errors import InputError
from locate.images.reading import read_photo
from locate.training.data.homographies import render_view
from locate.types import Array

VERSION = 1  # of what is written
SIDE = 480  # pixels that the long side of an upright photo takes where nothing is zoomed
QUICK = 18  # pairs of a kind, for those who look at a few alone
_ROOM = 0.1  # how far the middle of view b may lie from that of the photo, as a share of its sides
_ANGLES = {"zoom": (0.0, 0.0), "rotation": (0, 2 * math.pi), "zoom-rotation": (0, 2 * math.pi)}
_HELD = (-0.1, 0.1)  # radians that a photo from the hand is turned by
_GAMMA = 2.2  # of stored values to light
_LENS = 1.2  # focal length of the camera that is tilted, in long sides of the photo

# The amounts of each kind: things in b are so many times as large as in a; degrees of tilt; stops of
# exposure; standard deviation in pixels; quality. Angles are drawn.
STEPS: Mapping[str, tuple[float, ...]] = {
    "zoom": (4, 3, 2, 1.5, 1 / 1.5, 1 / 2, 1 / 3, 1 / 4),
    "rotation": (0,),
    "zoom-rotation": (3, 2, 1.5, 1 / 1.5, 1 / 2, 1 / 3),
    "viewpoint": (20, 30, 40, 50, 60),
    "light": (-5, -3.5, -2, 1, 2),
    "blur": (1, 1.5, 2, 3),
    "jpeg": (40, 20, 10, 5),
}


@dataclass(frozen=True, eq=False)
class Warp:
    """Two views, H x W x 3 uint8, and 3 x 3 float64: pixels of a -> pixels of b."""

    image_a: Array
    image_b: Array
    b_from_a: Array


def make_warp(photo: Array, kind: str, step: float, rng: np.random.Generator) -> Warp:
    """Views of a photo H x W x 3 uint8; `step` is one of `STEPS`."""
    if "zoom" in kind and step < 1:
        warp = make_warp(photo, kind, 1 / step, rng)
        return Warp(warp.image_b, warp.image_a, np.linalg.inv(warp.b_from_a))
    size = np.array((photo.shape[1], photo.shape[0]))
    scale, zoom = SIDE / max(size), 1.0
    if kind == "viewpoint":
        bend = tilted(math.radians(step), rng.uniform(0, 2 * math.pi), _LENS * max(size))
        zoom = 1 / math.cos(math.radians(step))
    else:
        bend = turned(rng.uniform(*_ANGLES.get(kind, _HELD)))
        zoom = step if "zoom" in kind else rng.uniform(0.95, 1.05)
    enlarged = np.diag((scale * math.sqrt(zoom),) * 2 + (1.0,))
    middle = (size - 1) / 2 + rng.uniform(-_ROOM, _ROOM, 2) * size
    views = (
        whole(size, scale / math.sqrt(zoom)),
        inside(enlarged @ bend, middle, size, scale * size),
    )
    image_a, image_b = (render_view(photo, *view)[0] for view in views)
    if kind in CHANGES:
        image_b = CHANGES[kind](image_b, step, rng)
    return Warp(image_a, image_b, views[1][0] @ np.linalg.inv(views[0][0]))


def turned(radians: float) -> Array:
    """3 x 3, clockwise as seen on a screen, about (0, 0)."""
    c, s = math.cos(radians), math.sin(radians)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def tilted(radians: float, axis: float, focal: float) -> Array:
    """3 x 3: what a camera of this focal length in pixels sees of a plane that it looked at straight, when
    it has moved about the point (0, 0) of it by `radians`, looking at that; pixels are counted from
    there. `axis` is the direction in the plane, in radians, that it moves about.

    A point X of the plane Z = 1 lies at R (X - C) + C afterwards, with C = (0, 0, 1)."""
    rotation, _ = cv2.Rodrigues(radians * np.array([math.cos(axis), math.sin(axis), 0.0]))
    of_plane = np.column_stack((rotation[:, 0], rotation[:, 1], (0, 0, 1)))
    pixels = np.diag((focal, focal, 1.0))
    return np.asarray(pixels @ of_plane @ np.linalg.inv(pixels))


def whole(size: Array, scale: float) -> tuple[Array, tuple[int, int]]:
    """(view_from_photo, (width, height)) of a photo of `size` at another scale, corners on corners."""
    width, height = (max(1, round(float(side) * scale)) for side in size)
    x, y = width / size[0], height / size[1]  # after rounding
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]]), (width, height)


def inside(bend: Array, middle: Array, size: Array, most: Array) -> tuple[Array, tuple[int, int]]:
    """(view_from_photo, (width, height)) of a view with the point `middle` of the photo in its own middle,
    and around it what `bend` (3 x 3, of pixels counted from there) makes of the photo: of the shape of
    `most` (width, height), and as large, or as nothing but the photo, of `size`, is in it."""
    photo_from_view, corners = np.linalg.inv(bend), np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    low, high = 0.0, 1.0
    for _ in range(30):
        share = (low + high) / 2
        ends = np.c_[share * corners * most / 2, np.ones(4)] @ photo_from_view.T
        points = ends[:, :2] / ends[:, 2:] + middle
        seen = (ends[:, 2] > 0).all() and (points >= -0.5).all() and (points <= size - 0.5).all()
        low, high = (share, high) if seen else (low, share)
    width, height = (max(1, math.floor(low * side)) for side in most)
    to_view = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
    from_middle = np.array([[1, 0, -middle[0]], [0, 1, -middle[1]], [0, 0, 1]])
    return to_view @ bend @ from_middle, (width, height)


def lit(image: Array, stops: float, rng: np.random.Generator) -> Array:
    """Another exposure, a shadow across the view, light of another colour, and the noise of a sensor."""
    height, width = image.shape[:2]
    light = (image / 255.0) ** _GAMMA * 2.0**stops
    direction = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light *= np.exp(0.5 * (math.cos(direction) * x + math.sin(direction) * y))[..., None]
    light *= np.exp(rng.uniform(-0.3, 0.3, 3))
    light += rng.normal(size=light.shape) * np.sqrt(1e-6 + 1e-4 * light)
    return np.asarray(255 * light.clip(0, 1) ** (1 / _GAMMA) + 0.5, np.uint8)


def blurred(image: Array, sigma: float, rng: np.random.Generator) -> Array:  # noqa: ARG001
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma))


def compressed(image: Array, quality: float, rng: np.random.Generator) -> Array:  # noqa: ARG001
    _, stored = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    return np.ascontiguousarray(cv2.imdecode(stored, cv2.IMREAD_COLOR)[..., ::-1])


CHANGES: Mapping[str, Callable[[Array, float, np.random.Generator], Array]] = {
    "light": lit,
    "blur": blurred,
    "jpeg": compressed,
}


def write_warps(data: Path, work: Path) -> dict[str, Path]:
    """The folder of each kind, below `work`; what an earlier call has written is used again."""
    photos = held_out_photos(data)
    if not photos:
        raise InputError(f"{data} has no photos in train/photos that are held out")
    files = [(path.name, path.stat().st_size) for path in photos]
    key = hashlib.sha256(repr((VERSION, SIDE, STEPS, files)).encode())
    home = work / f"warps-{key.hexdigest()[:12]}"
    if not home.exists():
        new = home.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        for number, kind in enumerate(STEPS):
            # Each kind begins with other photos, so that a few pairs of each show many.
            first = number * QUICK % len(photos)
            for place, path in enumerate(photos[first:] + photos[:first]):
                _write(new / kind, place, path, kind)
        new.rename(home)
    return {kind: home / kind for kind in STEPS}


def _write(folder: Path, place: int, path: Path, kind: str) -> None:
    step = STEPS[kind][place % len(STEPS[kind])]
    seed = int.from_bytes(hashlib.sha256(f"{kind} {path.name}".encode()).digest()[:8])
    warp = make_warp(read_photo(path).pixels, kind, step, np.random.default_rng(seed))
    sequence = folder / f"{place:03d}_{step:.3g}_{path.stem}"
    sequence.mkdir(parents=True)
    for name, image in (("img1.png", warp.image_a), ("img2.png", warp.image_b)):
        Image.fromarray(image).save(sequence / name, compress_level=1)
    np.savetxt(sequence / "H1to2p", warp.b_from_a, "%.17g")
