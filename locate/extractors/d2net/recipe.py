"""How D2-Net is trained: on points that are known to be the same in two images.

The paper takes them from the depth maps of MegaDepth. Here some pairs are two views of one photo with
a known homography between them and different light, the others two photos of one scene with the
points of a COLMAP model, or with the matches of another extractor that its geometry confirms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from locate.errors import InputError
from locate.extractors.backbones.registry import load_backbone
from locate.extractors.d2net.losses import d2_loss
from locate.extractors.d2net.network import SYSTEM, D2Network
from locate.extractors.sift import Sift
from locate.training.data.homographies import (
    HomographySettings,
    best_of,
    visible_grid,
    warped_pair,
)
from locate.training.data.matched_views import MatchedViews
from locate.training.data.photometric import PhotometricSettings, photometric_noise
from locate.training.data.photos import PhotoPool
from locate.training.data.scenes import known_pairs
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
_FEWEST = 64  # points that a pair of crops should share
_TRIES = 10  # draws until it does
_VIEWPOINT = HomographySettings(rotation=60, scale=(0.5, 2.0))
_LIGHT = PhotometricSettings()

_Views = tuple[Array, Array, Array, Array]  # image a, image b, points a, points b


@dataclass(eq=False)
class D2NetRecipe(Recipe[D2Network]):
    """D2-Net's recipe: one stage, on pairs of views with known correspondences."""

    system = SYSTEM
    stages = (Stage("describe and detect", steps=1500, learning_rate=1e-3),)

    backbone: str = "lite0"  # see `locate.extractors.backbones.registry.load_backbone`
    backbone_weights: Path | None = None
    _: KW_ONLY
    taps: Sequence[str] | str | None = None  # see `D2Network`; one is trained as in the paper
    crop: int = 256  # side of the views in pixels, a multiple of 32
    pairs: int = 2  # of views in a batch
    points: int = 256  # correspondences that are drawn of each pair
    # K, in cells; None for the paper's 4 with a single tap (32 pixels), and with several, whose cells
    # are half as wide and which shall tell neighbours apart, 1.5 (6 pixels).
    radius: float | None = None
    margin: float = 1.0  # M
    matched: float = 0.3  # share of the pairs that are two photos of one scene, if there are any
    # A file of such pairs, see `locate.training.data.correspondences`, of which those of photos outside
    # the data folder do not count; None for those of COLMAP models below the data folder, and verified
    # RootSIFT matches of scenes that have none.
    matches: Path | None = None

    def __post_init__(self) -> None:
        require_pairs("d2net", self.crop, self.pairs, self.points, self.matched)
        if isinstance(self.taps, str):
            self.taps = tuple(self.taps.split(","))
        network = self.network()
        self.taps = network.taps
        self.radius = self.radius or (1.5 if network.head else 4.0)
        self._stride = int(network.grid.stride)

    def prepare(self, data: Path, cache: Path) -> None:
        self._pool = pool = PhotoPool.scan(data, held_out=None)
        if not (len(pool.held_out) and len(pool.train)):
            raise InputError(
                f"{data} holds only {len(pool)} photos; a training needs a dozen or more"
            )
        known = known_pairs(data, cache, Sift(), self.matches) if self.matched else []
        self._matched = MatchedViews(known, pool, _READ_SIDE)
        self.data_words = (
            f"{len(pool.train)} photos of {data.name} in two views each, "
            f"{len(self._matched)} pairs of photos with known matches; "
            f"{len(pool.held_out)} photos held out"
        )

    def network(self) -> D2Network:
        return D2Network(load_backbone(self.backbone, self.backbone_weights)[0], self.taps)

    def begin(self, network: D2Network, stage: Stage) -> Parameters:  # noqa: ARG002
        network.eval()  # a few crops would spoil the statistics of batch normalisation
        return network.trained()

    def batch(self, stage: Stage, rng: np.random.Generator, *, held_out: bool = False) -> Batch:  # noqa: ARG002
        """images: 2 P x 3 x S x S, a and b of each pair in turn; points: 2 P x N x 2 in pixels, of which
        the first `counts[p]` of pair p count."""
        images: list[Array] = []
        points: list[Array] = []
        for _ in range(self.pairs):
            # Of a few draws the first with enough points in common, or the one with most.
            *views, a, b = best_of(self._draws(rng, held_out), lambda v: len(v[2]), _FEWEST)
            chosen = rng.permutation(len(a))[: self.points]
            images += views
            points += [a[chosen], b[chosen]]
        return {
            "images": images_to_tensor(images),
            "points": padded(points, self.points),
            "counts": [len(one) for one in points[::2]],
        }

    def _draws(self, rng: np.random.Generator, held_out: bool) -> Iterator[_Views]:
        for _ in range(_TRIES):
            matched = not held_out and len(self._matched) and rng.random() < self.matched
            views = self._matched_views(rng) if matched else self._warped_views(rng, held_out)
            if views is not None:
                yield views

    def _warped_views(self, rng: np.random.Generator, held_out: bool) -> _Views:
        photo = self._pool.draw(rng, held_out, _READ_SIDE)
        pair = warped_pair(photo, rng, (self.crop, self.crop), _VIEWPOINT, _LIGHT)
        cells, points_b = visible_grid(pair, self._stride)
        points_a = ((cells + 0.5) * self._stride - 0.5).astype(np.float32)
        return pair.image_a, pair.image_b, points_a, points_b

    def _matched_views(self, rng: np.random.Generator) -> _Views | None:
        crop = self._matched.draw(rng, self.crop)
        if crop is None:
            return None
        image_a, image_b = (photometric_noise(v, rng, _LIGHT) for v in (crop.image_a, crop.image_b))
        return image_a, image_b, crop.points_a, crop.points_b

    def losses(self, network: D2Network, batch: Batch, stage: Stage) -> dict[str, Tensor]:  # noqa: ARG002
        maps = network(batch["images"].contiguous(memory_format=torch.channels_last))
        assert self.radius is not None
        with torch.autocast(maps.device.type, enabled=False):  # 2 - 2 d . d' needs the digits
            maps, cells = maps.float(), network.grid.to_map(batch["points"])
            found = []
            for p, count in enumerate(batch["counts"]):
                a, b = 2 * p, 2 * p + 1
                ends = (maps[a], maps[b]), (cells[a, :count], cells[b, :count])
                found.append(d2_loss(*ends, self.radius, self.margin))
        return {name: torch.stack([f[name] for f in found]).mean() for name in found[0]}

    def settings(self) -> dict[str, Any]:
        return {"backbone": self.backbone, "taps": list(self.taps or ())}
