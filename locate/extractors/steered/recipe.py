"""How the steered network is trained: by a teacher that sees upright photos, and by known turns.

The teacher's descriptors of a photo are what a student shall find in any view of it, however it is
turned, when it is told which way up the view is. In two views of a photo, or two photos that the
teacher matched, it has to find the same without being told; at the teacher's keypoints and, in views
of one photo, at corners as well, since these are what it will be asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from locate.errors import InputError
from locate.extractors.blocks.corners import corners, orientations
from locate.extractors.steered import losses
from locate.extractors.steered.network import SYSTEM, WIDTH, SteeredNetwork
from locate.images.reading import read_photo
from locate.pixels import apply_homography, resize_points
from locate.training.data import homographies
from locate.training.data.correspondences import load_pairs
from locate.training.data.homographies import HomographySettings
from locate.training.data.photometric import PhotometricSettings, photometric_noise
from locate.training.data.photos import PhotoPool
from locate.training.data.teacher import load_teacher
from locate.training.recipe import (
    Batch,
    Parameters,
    Recipe,
    Stage,
    images_to_tensor,
    padded,
    require_pairs,
)
from locate.types import Array

_READ_SIDE = 640  # pixels: photos are kept in memory at this size
_TRIES = 6  # draws of a pair of views until it shares enough
_BORDER = 4.0  # pixels: points nearer to the border of a view do not count
_NEAR = 4.0  # pixels: points so near to each other are not told apart
_TEMPERATURE = 0.04
_JITTER = 0.6  # pixels: keypoints of two photos are never quite the same spot
_SCALES = (1.0, 0.71, 0.5)  # of the pyramid in which corners are found
_MOST_CORNERS = 600  # of a photo
# What is found untold comes last: it pulls away from the teacher, which knows upright photos alone.
_WEIGHTS = {
    "distil": {"teacher": 3.0, "contrast": 0.1},
    "refine": {"teacher": 2.0, "contrast": 0.1, "untold": 0.3},
}
_WARP = HomographySettings(
    rotation=25, full_circle=0.6, scale=(0.7, 1.4), perspective=0.2, translation=0.12
)
_LIGHT = PhotometricSettings(contrast=0.5, gamma=0.7, season_chance=0.25)


class _View(NamedTuple):
    photo: int
    image: Array
    rows: Array  # places, among those of the photo, of the keypoints that lie in the view
    points: Array  # these in its pixels
    upright: Array  # where "right" of the photo points at them


@dataclass(eq=False)
class SteeredRecipe(Recipe[SteeredNetwork]):
    """Distillation of a teacher's keypoints and descriptors."""

    system = SYSTEM
    stages = (
        Stage("distil", steps=6000, learning_rate=2e-3, clip=5.0),
        Stage("refine", steps=9000, learning_rate=1e-3, clip=5.0),
    )

    # A file of a teacher's features, `locate.training.data.teacher`. Photos without any are not used.
    teacher: Path | None = None
    # A file of pairs whose points are keypoints of the teacher's, see `load_pairs`;
    # None for views of single photos alone.
    matches: Path | None = None
    _: KW_ONLY
    widths: tuple[int, ...] = (6, 8, 24, 48, 64)  # of the network, see `SteeredNetwork`
    fields: int = 16
    residuals: tuple[int, ...] = (1, 1, 2, 2)
    hidden: int = 256
    crop: int = 256  # side of the views in pixels, a multiple of 32
    pairs: int = 6  # of views in a batch
    points: int = 256  # correspondences that are drawn of each pair
    matched: float = 0.35  # share of the pairs that are two photos of one scene

    def __post_init__(self) -> None:
        right = (len(self.widths), len(self.residuals)) == (5, 4) and min(self.residuals) >= 0
        if not right or min(*self.widths, self.fields, self.hidden) < 1:
            raise InputError(
                "steered: widths must be five numbers of fields, at strides 2 to 32, fields and "
                "hidden one, all at least 1, residuals four; "
                f"got {list(self.widths)}, {self.fields}, {self.hidden} and {list(self.residuals)}"
            )
        require_pairs("steered", self.crop, self.pairs, self.points, self.matched)

    def prepare(self, data: Path, cache: Path) -> None:  # noqa: ARG002
        if self.teacher is None:
            raise InputError(
                "steered learns from a teacher: name its features by --set teacher=FILE "
                "(locate.training.data.teacher says what is in it)"
            )
        self._teacher = load_teacher(self.teacher, data)
        if self._teacher.dim != WIDTH:
            raise InputError(
                f"{self.teacher}: its descriptors have {self._teacher.dim} numbers, the student's "
                f"{WIDTH}; take another teacher"
            )
        photos = [path for path in self._teacher.keypoints if path.is_file()]
        if not photos:
            raise InputError(f"{data} holds none of the photos of {self.teacher}")
        self._pool = pool = PhotoPool(photos, data, held_out=None)
        self._found: dict[int, Array] = {}
        self._matched: list[tuple[int, int, Array]] = []
        for pair in load_pairs(self.matches, data) if self.matches and self.matched else ():
            ends = ((pair.image_a, pair.points_a), (pair.image_b, pair.points_b))
            if not pool.in_training(pair.image_a, pair.image_b):
                continue
            rows = np.stack([_rows(self._teacher.keypoints[image], p) for image, p in ends], axis=1)
            rows = rows[(rows >= 0).all(axis=1)]
            if len(rows) >= 16:
                self._matched.append((pool.index[pair.image_a], pool.index[pair.image_b], rows))
        self.data_words = (
            f"{len(pool.train)} photos of {data.name} and {len(self._matched)} pairs of them as "
            f"{self._teacher.name} sees them; {len(pool.held_out)} photos held out"
        )

    def network(self) -> SteeredNetwork:
        return SteeredNetwork(**self.settings())

    def begin(self, network: SteeredNetwork, stage: Stage) -> Parameters:  # noqa: ARG002
        network.train()
        return network.parameters()

    def batch(self, stage: Stage, rng: np.random.Generator, *, held_out: bool = False) -> Batch:  # noqa: ARG002
        """images: 2 P x 3 x S x S, a and b of each pair in turn; points 2 P x N x 2, of which the first
        `counts[p]` of pair p count; upright 2 P x N x 2, where the photo's "right" points in the view,
        which tells the student what is up; orientations 2 P x N x 2, which it finds itself; descriptors
        2 P x N x D of the teacher, zeros where it has none."""
        drawn = []
        for _ in range(self.pairs):
            draws = self._draws(rng, held_out)
            drawn.append(homographies.best_of(draws, lambda draw: len(draw[2]), self.points // 2))
        counts, rows = [], []
        for a, b, common in drawn:
            chosen = common[rng.permutation(len(common))[: self.points]]
            counts.append(len(chosen))
            rows += [self._at(a, chosen[:, 0]), self._at(b, chosen[:, 1])]
        names = ("points", "upright", "orientations", "descriptors")
        columns = zip(names, zip(*rows, strict=True), strict=True)
        return {
            "images": images_to_tensor(view.image for a, b, _ in drawn for view in (a, b)),
            "counts": counts,
            **{name: padded(column, self.points) for name, column in columns},
        }

    def _at(self, view: _View, places: Array) -> tuple[Array, Array, Array, Array]:
        """Of some of a view's points, as `batch` names them."""
        points, rows = view.points[places], view.rows[places]
        taught = self._teacher.descriptors[self._pool.paths[view.photo]]
        known = rows < len(taught)
        descriptors = np.zeros((len(rows), self._teacher.dim), np.float32)
        descriptors[known] = taught[rows[known]]
        grey = cv2.cvtColor(view.image, cv2.COLOR_RGB2GRAY)
        return points, view.upright[places], orientations(grey, points), descriptors

    def _draws(
        self, rng: np.random.Generator, held_out: bool
    ) -> Iterator[tuple[_View, _View, Array]]:
        """Two views, and which of their points are the same (M x 2 places)."""
        matched = not held_out and self._matched and rng.random() < self.matched
        for _ in range(_TRIES):
            if matched:
                a, b, rows = self._matched[int(rng.integers(len(self._matched)))]
                rows = rows[rng.permutation(len(rows))]
                spots = rows[0]
                if not (self._pool.usable(a) and self._pool.usable(b)):
                    continue
            else:
                a = b = self._pool.pick(rng, "held_out" if held_out else "train")
                count = len(self._keypoints(a))
                if not count:
                    continue
                rows = np.repeat(np.arange(count)[:, None], 2, axis=1)
                spots = rows[int(rng.integers(count))]
            views = (self._view(rng, a, int(spots[0])), self._view(rng, b, int(spots[1])))
            yield *views, _common(views[0].rows, views[1].rows, rows)

    def _view(self, rng: np.random.Generator, index: int, spot: int) -> _View:
        """A window with the keypoint `spot` in it, tilted and turned."""
        photo = self._pool.read(index, _READ_SIDE)
        keypoints = self._keypoints(index)
        side = self.crop
        least = 0.5 * min(photo.shape[:2]) / side
        zoom = float(np.exp(rng.uniform(np.log(max(least, 0.6)), np.log(max(1.6, least)))))
        # The spot lies somewhere in the middle half of the window, the window mostly in the photo.
        room = np.array((photo.shape[1], photo.shape[0])) - zoom * side
        corner = keypoints[spot] + 0.5 - zoom * side * rng.uniform(0.25, 0.75, 2)
        corner = np.clip(corner, np.minimum(0, room), np.maximum(0, room))
        tilted = homographies.random_homography(rng, (side, side), _WARP)
        warp = tilted @ homographies.window(corner, zoom)
        image, valid = homographies.render_view(photo, warp, (side, side))
        image = photometric_noise(image, rng, _LIGHT)
        image[~valid] = 0
        points = apply_homography(warp, keypoints)
        inside = np.all((points >= _BORDER) & (points <= side - 1 - _BORDER), axis=1)
        inside &= keypoints @ warp[2, :2] + warp[2, 2] > 0
        rows = np.flatnonzero(inside)
        upright = _upright(warp, keypoints[rows]).astype(np.float32)
        return _View(index, image, rows, points[rows].astype(np.float32), upright)

    def _keypoints(self, index: int) -> Array:
        """Of a photo, N x 2 in the pixels that it is read at: the teacher's, then corners."""
        found = self._found.get(index)
        if found is None:
            photo = self._pool.read(index, _READ_SIDE)
            points, _, strengths = corners(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), _SCALES)
            best = np.argsort(-strengths, kind="stable")[:_MOST_CORNERS]
            path, size = self._pool.paths[index], (photo.shape[1], photo.shape[0])
            taught = self._teacher.keypoints[path].astype(np.float64)
            taught = resize_points(taught, read_photo(path, min_long_side=1).info.size, size)
            self._found[index] = found = np.concatenate((taught, points[best]))
        return found

    def losses(self, network: SteeredNetwork, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        maps = network(batch["images"])
        upright = batch["upright"]
        points = batch["points"] + _JITTER * torch.randn_like(batch["points"])
        faced = (upright, self._rotated(upright), batch["orientations"])
        with torch.autocast(maps.device.type, enabled=False):  # cosines need the digits
            seen = [network.descriptors_at(maps.float(), points, one) for one in faced]
            return self._losses(seen, points, batch, stage)

    def _losses(
        self, seen: Sequence[Tensor], points: Tensor, batch: Batch, stage: Stage
    ) -> dict[str, Tensor]:
        told, rotated, found = seen
        counts = torch.tensor(batch["counts"]).repeat_interleave(2)
        mine = (torch.arange(points.shape[1]) < counts[:, None]).to(points.device)
        taught = batch["descriptors"]
        agreement = (told * taught).sum(dim=-1)[mine & (taught != 0).any(dim=-1)]
        a, b = mine[0::2], mine[1::2]
        apart = _apart(points, mine)
        parts = {"teacher": losses.mean(1 - agreement)}
        for name, one in (("contrast", rotated), ("untold", found)):
            parts[name] = losses.contrastive_loss(one[0::2][a], one[1::2][b], _TEMPERATURE, apart)
        total = sum(weight * parts[name] for name, weight in _WEIGHTS[stage.name].items())
        with torch.no_grad():
            right = (found[0::2][a] @ found[1::2][b].T).argmax(dim=1)
            parts["right"] = (right == torch.arange(len(right), device=right.device)).float().mean()
        assert isinstance(total, Tensor)
        return {"loss": total, **parts}

    def _rotated(self, upright: Tensor) -> Tensor:
        """Directions that are turned against those given, all of a pair alike, by any angle: what is to
        be found untold will be asked for in any."""
        angles = 2 * torch.pi * torch.rand(self.pairs, 1, device=upright.device)
        angles = angles.repeat_interleave(2, dim=0)
        x, y = upright.unbind(-1)
        cos, sin = angles.cos(), angles.sin()
        return torch.stack((x * cos - y * sin, x * sin + y * cos), dim=-1)

    def settings(self) -> dict[str, Any]:
        sizes = {"fields": self.fields, "hidden": self.hidden}
        return {"widths": list(self.widths), "residuals": list(self.residuals), **sizes}


def _rows(keypoints: Array, points: Array) -> Array:
    """For each point the row of the keypoint that it is, -1 if it is none."""
    place = {tuple(k): i for i, k in enumerate(np.round(keypoints, 2).tolist())}
    return np.array([place.get(tuple(p), -1) for p in np.round(points, 2).tolist()], np.int64)


def _common(rows_a: Array, rows_b: Array, same: Array) -> Array:
    """M x 2: places in `rows_a` and `rows_b` of the rows that `same` (K x 2) says are one spot."""
    place_a = {int(row): i for i, row in enumerate(rows_a)}
    place_b = {int(row): i for i, row in enumerate(rows_b)}
    found = [(place_a[a], place_b[b]) for a, b in same.tolist() if a in place_a and b in place_b]
    return np.array(found, np.int64).reshape(-1, 2)


def _upright(homography: Array, points: Array) -> Array:
    """N x 2, unit vectors: where "right" points at the images of N x 2 points. For x -> (A x + t) / w(x)
    the derivative by the first coordinate is (a - x' g) / w: a is the first column of A, g the first
    number of the last row."""
    depth = points @ homography[2, :2] + homography[2, 2]
    moved = apply_homography(homography, points)
    found = (homography[:2, 0] - moved * homography[2, 0]) / depth[:, None]
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def _apart(points: Tensor, mine: Tensor) -> Tensor:
    """N x N bool over all matched rows: not the same pair, or not near to each other in both views."""
    pair = torch.arange(len(mine) // 2, device=mine.device)[:, None].expand(-1, mine.shape[1])
    pair = pair[mine[0::2]]
    apart = pair[:, None] != pair
    for side in (0, 1):
        places = points[side::2][mine[side::2]]
        apart = apart | (torch.cdist(places, places) > _NEAR)
    return apart
