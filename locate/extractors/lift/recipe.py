"""How LIFT is trained (Yi et al., ECCV 2016, section 3.5): the descriptor on windows turned as SIFT
says; then the orientation estimator by what the finished descriptor says of what it turned; then the
detector by both, at first by how far windows overlap. Later stages leave the parts before as they are.

The quadruplets are of SIFT's keypoints: those that are found again in a warped view of a photo, or in
another photo of the same place. Patches are turned at random, for else the orientation settles on one
angle, as the authors' did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from locate.errors import ImageError, InputError
from locate.extractors.blocks.inference import channels_last
from locate.extractors.lift.network import SYSTEM, LiftNetwork
from locate.extractors.lift.objective import PAIRS, TRIPLET, Objective
from locate.extractors.lift.stages import (
    DESCRIBE,
    DETECT,
    ORIENT,
    OVERLAP,
    Jitter,
    detector_batch,
    patch_batch,
    window_batch,
)
from locate.extractors.sift import Sift, find_frames
from locate.images.reading import read_photo
from locate.pixels import resize_points
from locate.training.data.homographies import HomographySettings
from locate.training.data.patches import (
    Quadruplets,
    matched_quadruplets,
    to_grey,
    warped_quadruplets,
)
from locate.training.data.photometric import PhotometricSettings
from locate.training.data.photos import PhotoPool
from locate.training.data.scenes import known_pairs
from locate.training.recipe import Batch, Parameters, Recipe, Stage
from locate.types import Array

READ_SIDE = 576  # pixels: photos are kept in memory at this size
VIEWS = HomographySettings(
    rotation=30, scale=(0.55, 1.7), perspective=0.25, anisotropy=1.4, full_circle=0.3
)
LIGHT = PhotometricSettings(noise=10.0, blur_chance=0.4)
_TRIES = 30  # draws of photos in a row that may have nothing to show


@dataclass(eq=False)
class LiftRecipe(Recipe[LiftNetwork]):
    """Descriptor, orientation estimator, detector."""

    system = SYSTEM
    stages = (
        Stage(DESCRIBE, steps=8000, learning_rate=2e-3),
        Stage(ORIENT, steps=3000, learning_rate=1e-3),
        Stage(OVERLAP, steps=4000, learning_rate=3e-4),
        Stage(DETECT, steps=1000, learning_rate=1e-4),
    )

    _: KW_ONLY
    quads: int = 128  # quadruplets in a batch
    per_photo: int = 16  # of them from one pair of photos, at most
    pooled: bool = True  # these three: see `LiftNetwork`
    published: bool = False
    by_patch: bool = True
    blobs: bool = True  # the detector starts with filters of blobs; the paper's are random
    form: str = TRIPLET  # these five: see `Objective`
    margin: float = 1.0
    turn: float = 1.0
    classes: float = 1.0
    described: int = 32
    upright: bool = False  # patches as photos are held, for photos of one camera's hand alone
    # Of "pairs": after so many steps the hardest pairs are chosen from twice as many; at most.
    mining_every: int = 5000
    most_mined: int = 8
    matched: float = 0.3  # share of pairs that are two photos of one place, if there are any
    matches: Path | None = None  # a file of such, see `locate.training.data.correspondences`

    def __post_init__(self) -> None:
        counts = (self.per_photo, self.mining_every, self.most_mined)
        if self.quads < 2 or min(counts) < 1 or not 0 <= self.matched <= 1:
            raise InputError(
                "lift: quads must be at least 2, per_photo, mining_every and most_mined at least 1 and "
                f"matched 0 to 1; got {self.quads}, {', '.join(map(str, counts))}, {self.matched}"
            )
        self._objective = Objective(self.form, self.margin, self.turn, self.classes, self.described)
        self._jitter = Jitter(upright=self.upright)
        self._ratio = 1

    def prepare(self, data: Path, cache: Path) -> None:
        self._pool = pool = PhotoPool.scan(data, held_out=None)
        if not (len(pool.held_out) and len(pool.train)):
            raise InputError(
                f"{data} holds only {len(pool)} photos; a training needs a dozen or more"
            )
        known = known_pairs(data, cache, Sift(), self.matches) if self.matched else []
        self._matched = [pair for pair in known if pool.in_training(pair.image_a, pair.image_b)]
        images = {path for pair in self._matched for path in (pair.image_a, pair.image_b)}
        self._sizes = {path: read_photo(path, min_long_side=1).info.size for path in images}
        self._found: dict[int, Array] = {}  # by photo, its keypoints
        self.data_words = (
            f"keypoints of {len(pool.train)} photos of {data.name} and their warped views, and of "
            f"{len(self._matched)} pairs with known matches; {len(pool.held_out)} photos held out"
        )

    def network(self) -> LiftNetwork:
        network = LiftNetwork(**self.settings())
        if self.blobs:
            network.detector.start_with_blobs()
        return channels_last(network, torch.device("cpu"))

    def begin(self, network: LiftNetwork, stage: Stage) -> Parameters:
        self._ratio = 1
        part = {DESCRIBE: network.descriptor, ORIENT: network.orientation}.get(
            stage.name, network.detector
        )
        network.eval().requires_grad_(False)
        return part.train().requires_grad_(True).parameters()

    # --- hard mining, of "pairs"

    def refresh_every(self, stage: Stage) -> int:
        return self.mining_every if self.form == PAIRS and stage.name == DESCRIBE else 0

    def refresh(self, network: LiftNetwork, stage: Stage, step: int) -> None:  # noqa: ARG002
        if every := self.refresh_every(stage):
            self._ratio = min(2 ** (step // every), self.most_mined)

    def state(self) -> dict[str, Any]:
        return {"ratio": self._ratio}

    def set_state(self, state: dict[str, Any]) -> None:
        self._ratio = state["ratio"]

    # --- batches

    def batch(self, stage: Stage, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """See `stages`."""
        mined = stage.name == DESCRIBE and not held_out
        # A detector of 10,016 numbers learns from keypoints of fewer photos.
        each = self.per_photo * (2 if stage.name in (OVERLAP, DETECT) else 1)
        count = self.quads * (self._ratio if mined else 1)
        drawn = self._quadruplets(rng, held_out, count, each)
        if stage.name == DESCRIBE:
            return window_batch(drawn, rng, self._jitter)
        if stage.name == ORIENT:
            return patch_batch(drawn, rng, self._jitter)
        return detector_batch(drawn, rng, self._jitter, wide=stage.name == DETECT)

    def _quadruplets(
        self, rng: np.random.Generator, held_out: bool, count: int, each: int
    ) -> list[Quadruplets]:
        drawn: list[Quadruplets] = []
        found, tries = 0, 0
        for quads in self._draws(rng, held_out, min(each, count)):
            tries = 0 if quads else tries + 1
            if tries == _TRIES:
                raise InputError(
                    f"the last {tries} photos had no keypoints that are found again; add photos of "
                    "things with texture"
                )
            if quads is not None:
                drawn.append(quads.take(count - found))
                found += len(drawn[-1])
                if found == count:
                    break
        return drawn

    def _draws(
        self, rng: np.random.Generator, held_out: bool, count: int
    ) -> Iterator[Quadruplets | None]:
        while True:
            if not held_out and self._matched and rng.random() < self.matched:
                yield self._of_matched(rng, count)
            else:
                index = self._pool.pick(rng, "held_out" if held_out else "train")
                photo = self._pool.read(index, READ_SIDE)
                frames = self._frames(index)
                yield warped_quadruplets(photo, frames, find_frames, rng, count, VIEWS, LIGHT)

    def _of_matched(self, rng: np.random.Generator, count: int) -> Quadruplets | None:
        pair = self._matched[int(rng.integers(len(self._matched)))]
        photos, points, frames = [], [], []
        for path, given in ((pair.image_a, pair.points_a), (pair.image_b, pair.points_b)):
            index = self._pool.index[path]
            try:
                photo = self._pool.read(index, READ_SIDE)
            except ImageError:  # it was there when the pairs were found; the pool has said so
                return None
            photos.append(photo)
            size = (photo.shape[1], photo.shape[0])
            points.append(resize_points(given.astype(np.float64), self._sizes[path], size))
            frames.append(self._frames(index))
        ends = ((photos[0], photos[1]), (points[0], points[1]), (frames[0], frames[1]))
        return matched_quadruplets(*ends, rng, count, LIGHT)

    def _frames(self, index: int) -> Array:
        """Keypoints of a photo at `READ_SIDE`; the same however often and by whom they are found."""
        if index not in self._found:
            self._found[index] = find_frames(to_grey(self._pool.read(index, READ_SIDE)))
        return self._found[index]

    def losses(self, network: LiftNetwork, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        if stage.name == DESCRIBE:
            return self._objective.descriptor(network, batch, self.quads)
        if stage.name == ORIENT:
            return self._objective.orientation(network, batch)
        return self._objective.detector(network, batch)

    def settings(self) -> dict[str, Any]:
        return {"pooled": self.pooled, "published": self.published, "by_patch": self.by_patch}
