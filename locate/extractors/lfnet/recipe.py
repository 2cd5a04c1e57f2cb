"""How LF-Net is trained (Ono et al., section 3.2): on pairs of images whose pixels are known to
correspond, without any labels.

The paper takes depth and pose from COLMAP. Here most pairs are two views of one photo with a known
homography, turned by any angle, and light of their own; the others are two photos of one scene, of which
the surroundings of matched points are known.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from locate.errors import InputError
from locate.extractors.lfnet.correspondence import (
    Field,
    around_points,
    by_homography,
    joined,
    local_affine,
    owners_of,
)
from locate.extractors.lfnet.losses import hardest_of
from locate.extractors.lfnet.network import SYSTEM, LFNetwork
from locate.extractors.lfnet.objective import Counts, Weights, losses_of, swapped
from locate.extractors.sift import Sift
from locate.training.data.homographies import HomographySettings, best_of, warped_pair
from locate.training.data.matched_views import MatchedViews
from locate.training.data.photometric import PhotometricSettings, photometric_noise
from locate.training.data.photos import PhotoPool
from locate.training.data.scenes import known_pairs
from locate.training.recipe import Batch, Parameters, Recipe, Stage, padded, require_pairs
from locate.types import Array

_READ_SIDE = 480  # pixels: photos are kept in memory at this size
_MOST_POINTS = 256  # known ones of a pair of crops
_FEWEST = 40  # that a pair of crops should share
_TRIES = 6  # draws until it does
_EDGE = 4  # pixels along the edge of what a view shows that do not count
_LIGHT = PhotometricSettings()
_EDGES = np.ones((2 * _EDGE + 1, 2 * _EDGE + 1), np.uint8)
_GREY = np.array((0.299, 0.587, 0.114), np.float32)  # as OpenCV makes grey
_NO_POINTS, _NO_MAPS = np.zeros((0, 2), np.float32), np.zeros((0, 2, 2))

_End = dict[str, Array]  # what a batch holds of one image


@dataclass(eq=False)
class LFNetRecipe(Recipe[LFNetwork]):
    """Detector and descriptor at once, each by its own losses."""

    system = SYSTEM
    stages = (Stage("two branches", steps=12000, learning_rate=1e-3),)

    _: KW_ONLY
    crop: int = 192  # side of the images in pixels, a multiple of 32; the paper has 256
    pairs: int = 2  # of images in a batch; the paper has 6
    keypoints: int = 288  # K, of an image; the paper has 512, as many in relation to the area
    described: int = (
        128  # of these, at random, whose crops the descriptor sees; the paper's are all
    )
    rotation: float = 180.0  # of view b to a in the image plane, degrees at most, either way
    matched: float = 0.25  # share of the pairs that are two photos of one scene, if there are any
    matches: Path | None = None  # a file of such pairs; None for `known_pairs` of the data
    strength: float = 1.0  # of the soft argument of the maximum that refines a point
    pair: float = 0.01  # weights of the detector's losses beside L_im
    orientation: float = 0.1
    scale: float = 0.1
    # L_geom of all pixels that are seen, as in the authors' code, or of keypoints, as in the paper.
    dense: bool = True
    margin: float = 1.0  # C
    hardest: int = 64  # M: negatives are drawn from so many at the beginning, and
    hardest_at_last: int = 5

    def __post_init__(self) -> None:
        require_pairs(SYSTEM, self.crop, self.pairs, self.described, self.matched)
        if self.keypoints < self.described or not 1 <= self.hardest_at_last <= self.hardest:
            raise InputError(
                "lfnet: keypoints must be at least those described, hardest at least hardest_at_last; "
                f"got {self.keypoints}, {self.described}, {self.hardest}, {self.hardest_at_last}"
            )
        self._views = HomographySettings(
            rotation=self.rotation,
            scale=(0.5**0.5, 2**0.5),
            perspective=0.1,
            translation=0.1,
            anisotropy=1.15,
            crop=(0.5, 0.8),
            min_overlap=0.5,
        )

    def prepare(self, data: Path, cache: Path) -> None:
        self._pool = pool = PhotoPool.scan(data, held_out=None)
        known = known_pairs(data, cache, Sift(), self.matches) if self.matched else []
        self._matched = MatchedViews(known, pool, _READ_SIDE)
        self.data_words = (
            f"{len(pool.train)} photos of {data.name} in two views each, "
            f"{len(self._matched)} pairs of photos with known matches; "
            f"{len(pool.held_out)} photos held out"
        )

    def network(self) -> LFNetwork:
        return LFNetwork(self.strength)

    def begin(self, network: LFNetwork, stage: Stage) -> Parameters:  # noqa: ARG002
        network.train()
        return network.parameters()

    # --- batches

    def batch(self, stage: Stage, rng: np.random.Generator, *, held_out: bool = False) -> Batch:  # noqa: ARG002
        """images: 2 P x 1 x S x S, 0 to 1, a and b of each pair in turn; valid: 2 P x S x S bool;
        matched: 2 P bool, where the pair is two photos. `there_from_here`: 2 P x 3 x 3 for the others;
        for these owners: 2 P x S x S, see `owners_of`, points: 2 P x N x 2 in pixels, affine:
        2 P x N x 4, the maps around them."""
        ends = [end for _ in range(self.pairs) for end in self._pair(rng, held_out)]
        stacked = ("images", "valid", "matched", "there_from_here", "owners")
        found = {name: torch.from_numpy(np.stack([end[name] for end in ends])) for name in stacked}
        for name in ("points", "affine"):
            found[name] = padded([end[name] for end in ends], _MOST_POINTS)
        return found

    def _pair(self, rng: np.random.Generator, held_out: bool) -> list[_End]:
        if not held_out and len(self._matched) and rng.random() < self.matched:
            draws = (self._matched_views(rng) for _ in range(_TRIES))
            found = best_of(draws, lambda ends: len(ends[0]["points"]) if ends else 0, _FEWEST)
            if found:
                return found
        photo = self._pool.draw(rng, held_out, _READ_SIDE)
        pair = warped_pair(photo, rng, (self.crop, self.crop), self._views, _LIGHT)
        return [
            self._end(pair.image_a, pair.valid_a, pair.b_from_a),
            self._end(pair.image_b, pair.valid_b, np.linalg.inv(pair.b_from_a)),
        ]

    def _matched_views(self, rng: np.random.Generator) -> list[_End]:
        """Of two photos; nothing if they cannot be used."""
        crop = self._matched.draw(rng, self.crop)
        if crop is None:
            return []
        affine, good = local_affine(crop.points_a, crop.points_b)
        kept = rng.permutation(np.flatnonzero(good))[:_MOST_POINTS]
        everywhere = np.ones((self.crop, self.crop), np.bool_)
        return [
            self._end(photometric_noise(image, rng, _LIGHT), everywhere, None, points[kept], maps)
            for image, points, maps in (
                (crop.image_a, crop.points_a, affine[kept]),
                (crop.image_b, crop.points_b, np.linalg.inv(affine[kept])),
            )
        ]

    def _end(
        self,
        image: Array,
        valid: Array,
        homography: Array | None,
        points: Array = _NO_POINTS,
        affine: Array = _NO_MAPS,
    ) -> _End:
        """One image of a pair as `batch` gives it; without a homography, by points and the maps around
        them."""
        shape = (self.crop, self.crop)
        unknown = np.full(shape, -1, np.int64)
        return {
            "images": (image.astype(np.float32) @ _GREY / 255)[None],
            "valid": cv2.erode(valid.astype(np.uint8), _EDGES, borderValue=1) > 0,
            "matched": np.array(homography is None),
            "there_from_here": np.float32(np.eye(3) if homography is None else homography),
            "owners": owners_of(points, shape) if len(points) else unknown,
            "points": points,
            "affine": affine.reshape(-1, 4),
        }

    # --- losses

    def losses(self, network: LFNetwork, batch: Batch, stage: Stage) -> dict[str, Tensor]:  # noqa: ARG002
        # Held-out losses are to be compared, so they have the last negatives.
        now = self.position if network.training else 1.0
        hardest = hardest_of(now, self.hardest, self.hardest_at_last)
        weights = Weights(self.pair, self.orientation, self.scale)
        counts = Counts(self.keypoints, self.described, hardest)
        field, matched = field_of(batch), batch["matched"]
        return losses_of(
            network, batch["images"], field, matched, counts, weights, self.margin, self.dense
        )

    def settings(self) -> dict[str, Any]:
        return {"strength": self.strength}


def field_of(batch: Batch) -> Field:
    """Where the pixels of all images of a batch lie in the other one of their pair."""
    shape = (batch["valid"].shape[-2], batch["valid"].shape[-1])
    points, there = batch["points"], swapped(batch["points"])
    fields = [
        around_points(batch["owners"][i], points[i], there[i], batch["affine"][i])
        if matched
        else by_homography(batch["there_from_here"][i], shape)
        for i, matched in enumerate(batch["matched"].tolist())
    ]
    return joined(fields, batch["valid"], swapped(batch["valid"]))
