"""Pairs of photos with points that are known to be the same: how they are kept and cut into crops.

A file of pairs (.npz) holds arrays and no Python objects, so any other matcher can write one too
(`numpy.savez`, then `load_pairs` to see that it is right):

- `images`: strings (`<U...`), I: paths with forward slashes, relative to the data folder that
  `load_pairs` is told of
- `pairs`: int32, P x 2: (image a, image b), as places in `images`, from 0
- `offsets`: int64, P + 1: pair p has the rows `offsets[p]` up to `offsets[p + 1]` of the points
- `points_a`, `points_b`: float32, M x 2: (x, y) in pixels of the original, upright images; row by row
  the same spot. The centre of the top-left pixel is (0, 0): who puts its corner there subtracts 0.5
- `sources`: strings (`<U...`), P: who found the pair, in free words
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from locate.errors import InputError
from locate.pixels import apply_homography, resize_points
from locate.training.data.homographies import render_view, window
from locate.types import Array
from locate.util.files import atomic_write

_WHAT = "pairs"
_KEYS = ("images", "pairs", "offsets", "points_a", "points_b", "sources")
_NEIGHBORS = 50  # points that say how large things are in one image relative to the other
_LEAST_OF_ROOM = 0.7  # a window shows at least this much of the most that it could, along a side
_MOST_RATIO = 5.0  # of sizes; beyond, the points are wrong or the pair is hopeless


@dataclass(frozen=True, eq=False)
class MatchedPair:
    """Two photos and the points that they share: M x 2 float32, (x, y) in pixels of the original images,
    row by row the same spot; and who found them, in free words."""

    image_a: Path
    image_b: Path
    points_a: Array
    points_b: Array
    source: str

    def __post_init__(self) -> None:
        m = len(self.points_a)
        for name, points in (("points_a", self.points_a), ("points_b", self.points_b)):
            if points.shape != (m, 2) or points.dtype != np.float32:
                given = f"{points.shape} {points.dtype}"
                raise InputError(f"{name} must be {m} x 2 float32, got {given}")
            if not np.isfinite(points).all():
                photos = f"{self.image_a} and {self.image_b}"
                raise InputError(f"{name} of {photos} hold NaN or infinity")

    def __len__(self) -> int:
        return len(self.points_a)


def save_pairs(
    file: Path | str, pairs: Sequence[MatchedPair], root: Path | str | None = None
) -> None:
    """Write pairs to an .npz file, which is there complete or not at all, image paths relative to the
    data folder `root`; None for the file's own."""
    file = Path(file)
    images = dict.fromkeys(image for pair in pairs for image in (pair.image_a, pair.image_b))
    place = {image: number for number, image in enumerate(images)}
    ends = [(place[p.image_a], place[p.image_b]) for p in pairs]
    none = [np.zeros((0, 2), np.float32)]
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as stream:
        np.savez_compressed(
            stream,
            images=relative_names(images, file.parent if root is None else Path(root)),
            pairs=np.array(ends, np.int32).reshape(-1, 2),
            offsets=np.cumsum([0, *map(len, pairs)], dtype=np.int64),
            points_a=np.concatenate(none + [p.points_a for p in pairs]),
            points_b=np.concatenate(none + [p.points_b for p in pairs]),
            sources=np.array([p.source for p in pairs], np.str_),
        )


def relative_names(images: Iterable[Path], root: Path) -> Array:
    """Paths as such files keep them."""
    return np.array([Path(os.path.relpath(image, root)).as_posix() for image in images], np.str_)


def load_pairs(file: Path | str, root: Path | str | None = None) -> list[MatchedPair]:
    """Read pairs that `save_pairs` or another matcher wrote, image paths relative to the data folder
    `root`, None for the file's own; `InputError` if there is no such file, it is not of the layout
    above, or an image is not there."""
    file = Path(file)
    root = file.parent if root is None else Path(root)
    images, pairs, offsets, points_a, points_b, sources = read_arrays(file, _KEYS, _WHAT)
    count, points = sources.size, (points_a, points_b)
    rules = {
        f"`pairs` must be {count} x 2 integers, as there are {count} `sources`": has_form(
            pairs, (count, 2), np.integer
        ),
        f"`offsets` must be {count + 1} integers": has_form(offsets, (count + 1,), np.integer),
        "`images` and `sources` must be strings": all(
            a.ndim == 1 and (a.dtype.kind == "U" or a.size == 0) for a in (images, sources)
        ),
        "`points_a` and `points_b` must be M x 2 float32": all(
            has_form(p, (*p.shape[:1], 2), np.float32) for p in points
        ),
    }
    demand(file, _WHAT, rules)
    rules = {
        "`pairs` must be places in `images`": bool(((pairs >= 0) & (pairs < len(images))).all()),
        "`offsets` must rise from 0 to the number of points": all(
            rise_to(offsets, len(p)) for p in points
        ),
    }
    demand(file, _WHAT, rules)
    paths = [root / str(name) for name in images]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{file}: {len(missing)} of {len(paths)} images are not there, the first is {missing[0]}; "
            "name the data folder that the paths are relative to"
        )
    rows = [slice(start, stop) for start, stop in pairwise(offsets.tolist())]
    return [
        MatchedPair(paths[a], paths[b], points_a[here], points_b[here], str(source))
        for (a, b), here, source in zip(pairs, rows, sources, strict=True)
    ]


def rise_to(offsets: Array, count: int) -> bool:
    """Whether these are where the rows of each of several things begin, of `count` in all."""
    steps = np.diff(offsets.astype(np.int64))
    return int(offsets[0]) == 0 and bool((steps >= 0).all()) and int(offsets[-1]) == count


def has_form(array: Array, shape: tuple[int, ...], dtype: Any) -> bool:
    return array.shape == shape and bool(np.issubdtype(array.dtype, dtype))


def read_arrays(file: Path, keys: Sequence[str], what: str) -> list[Array]:
    """Those of an .npz archive that is a file of `what`; `InputError` if it is none, or lacks one."""
    try:
        with file.open("rb") as stream:  # numpy forgets to close a damaged archive itself
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{file} is one array; a file of {what} is an .npz archive")
            absent = [key for key in keys if key not in archive]
            demand(file, what, {f"it lacks {', '.join(absent)}": not absent})
            return [archive[key] for key in keys]
    except FileNotFoundError:
        raise InputError(f"{file} does not exist; name a file of {what}") from None
    except InputError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{file} is no file of {what} ({error}); write it again") from error


def demand(file: Path, what: str, rules: Mapping[str, bool]) -> None:
    """`InputError` naming the first of the rules of a file of `what` that does not hold."""
    for rule, holds in rules.items():
        if not holds:
            raise InputError(f"{file} is no file of {what}: {rule}")


@dataclass(frozen=True, eq=False)
class MatchedCrop:
    """A square window of each photo of a pair, with the shared points that both show."""

    image_a: Array  # S x S x 3 uint8, RGB
    image_b: Array
    points_a: Array  # M x 2 float32, in pixels of the crops
    points_b: Array


def crop_matched_pair(
    pair: MatchedPair,
    images: tuple[Array, Array],
    rng: np.random.Generator,
    size: int,
    *,
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None,
    scale_jitter: float = 1.5,
) -> MatchedCrop:
    """Cut a window of `size` pixels out of each photo, around one of the points that they share.
    `sizes` are the (width, height) of both original photos, if `images` are reduced copies of them.

    How much of photo a its window shows is random, between `size` of the photo's pixels (or 0.7 of the
    largest square that fits, if that is less) and that square. The window of b is chosen to show things
    as large as that of a does, up to `scale_jitter` larger or smaller, as far as b has room. Both are
    shifted at random, so that the point that was drawn does not always lie in the middle. No window
    reaches beyond its photo; small photos are enlarged."""
    if size < 2 or scale_jitter < 1:
        rule = "a size of at least 2 and a scale jitter of at least 1"
        raise InputError(f"a crop needs {rule}, got {size} and {scale_jitter}")
    points = [given.astype(np.float64) for given in (pair.points_a, pair.points_b)]
    if sizes is not None:
        ends = zip(points, sizes, map(_size, images), strict=True)
        points = [resize_points(*end) for end in ends]
    inside = _inside(points[0], _size(images[0])) & _inside(points[1], _size(images[1]))
    if not inside.any():
        raise InputError(
            f"{pair.image_a} and {pair.image_b} share no point inside of both; "
            "leave the pair out, or check the sizes of the photos"
        )
    anchor = int(rng.choice(np.flatnonzero(inside)))
    room = [min(_size(image)) / size for image in images]  # pixels of the photo per one of the crop
    ratio = _size_ratio(points[0], points[1], anchor)
    most = min(room[0], room[1] / ratio)  # that leaves room for b to keep up
    zoom_a = math.exp(rng.uniform(math.log(min(1.0, _LEAST_OF_ROOM * most)), math.log(most)))
    jitter = math.exp(rng.uniform(-1, 1) * math.log(scale_jitter))
    zooms = (zoom_a, min(zoom_a * ratio * jitter, room[1]))
    crops, moved = [], []
    for image, spots, zoom in zip(images, points, zooms, strict=True):
        side = zoom * size
        place = rng.uniform(0.25, 0.75, 2)  # of the point, as a share of the window
        corner = np.clip(
            spots[anchor] + 0.5 - place * side, 0, np.maximum(np.array(_size(image)) - side, 0)
        )
        crop_from_image = window(corner, zoom)
        crops.append(render_view(image, crop_from_image, (size, size))[0])
        moved.append(apply_homography(crop_from_image, spots).astype(np.float32))
    keep = _inside(moved[0], (size, size)) & _inside(moved[1], (size, size))
    return MatchedCrop(crops[0], crops[1], moved[0][keep], moved[1][keep])


def _size_ratio(points_a: Array, points_b: Array, anchor: int) -> float:
    """How much larger things are in b than in a around one point: the median ratio of distances from it
    to its neighbours."""
    far_a = np.linalg.norm(points_a - points_a[anchor], axis=1)
    far_b = np.linalg.norm(points_b - points_b[anchor], axis=1)
    near = np.argsort(far_a, kind="stable")[: _NEIGHBORS + 1]
    near = near[(far_a[near] > 1) & (far_b[near] > 1)]
    if len(near) == 0:
        return 1.0
    ratio = float(np.median(far_b[near] / far_a[near]))
    return min(max(ratio, 1 / _MOST_RATIO), _MOST_RATIO)


def _inside(points: Array, size: tuple[int, int]) -> Array:
    return np.asarray(np.all((points >= 0) & (points <= (size[0] - 1, size[1] - 1)), axis=1))


def _size(image: Array) -> tuple[int, int]:
    return image.shape[1], image.shape[0]
