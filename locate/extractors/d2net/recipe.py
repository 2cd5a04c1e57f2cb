"""How D2-Net is trained: on points that are known to be the same in two images.

The paper takes them from the depth maps of MegaDepth. Here some pairs are two views of one photo with a
known homography between them and different light, the others two photos of one scene with the points of
a COLMAP model, or with the matches of another extractor that its geometry confirms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from locate.errors import ImageError, InputError
from locate.extractors.backbones.registry import load_backbone
from locate.extractors.d2net.losses import d2_loss
from locate.extractors.d2net.network import SYSTEM, D2Network
from locate.extractors.sift import Sift
from locate.images.reading import read_photo
from locate.training.data.correspondences import MatchedPair, crop_matched_pair
from locate.training.data.homographies import HomographySettings, visible_grid, warped_pair
from locate.training.data.pairs import known_pairs
from locate.training.data.photometric import PhotometricSettings, photometric_noise
from locate.training.data.photos import PhotoPool, Split
from locate.training.recipe import Batch, Recipe, Stage, images_to_tensor
from locate.types import Array

_READ_SIDE = 640  # pixels: photos are kept in memory at this size
_FEWEST = 64  # points that a pair of crops should share
_TRIES = 10  # draws until it does

_Views = tuple[Array, Array, Array, Array]  # image a, image b, points a, points b


class D2NetRecipe(Recipe):
    """
    Args:
        backbone, backbone_weights: see `locate.extractors.backbones.registry.load_backbone`.
        taps: of the backbone, see `D2Network`; a single one is trained as in the paper.
        crop: side of the views in pixels, a multiple of 32.
        pairs: of views in a batch.
        points: correspondences that are drawn of each pair.
        radius: K, in cells; None for the paper's 4 with a single tap (32 pixels), and with several,
            whose cells are half as wide and which shall tell neighbours apart, 1.5 (6 pixels).
        margin: M.
        matched: share of the pairs that are two photos of one scene, where there are scenes.
        matches: a file of such pairs, see `locate.training.data.correspondences`, of which those
            of photos outside the data folder do not count; None for those of COLMAP
            models below the data folder, and verified RootSIFT matches of scenes that have none.
    """

    system = SYSTEM

    def __init__(
        self,
        backbone: str = "lite0",
        backbone_weights: Path | None = None,
        *,
        taps: Sequence[str] | str | None = None,
        crop: int = 256,
        pairs: int = 2,
        points: int = 256,
        radius: float | None = None,
        margin: float = 1.0,
        matched: float = 0.3,
        matches: Path | None = None,
    ) -> None:
        if crop < 64 or crop % 32 or pairs < 1 or points < 1 or not 0 <= matched <= 1:
            raise InputError(
                "d2net: crop must be 64, 96, ... pixels, pairs and points at least 1, matched 0 to 1; "
                f"got {crop}, {pairs}, {points}, {matched}"
            )
        self.stages = (Stage("describe and detect", steps=1500, learning_rate=1e-3),)
        self._backbone, self._backbone_weights = backbone, backbone_weights
        self._taps = tuple(taps.split(",")) if isinstance(taps, str) else taps
        self._crop, self._pairs, self._points = crop, pairs, points
        self._margin, self._share, self._matches = margin, matched, matches
        network = self.network()
        self._built_with = {"backbone": backbone, "taps": list(network.taps)}
        self._stride = int(network.grid.stride)
        self._radius = radius or (1.5 if network.head else 4.0)
        self._warp, self._light = HomographySettings(), PhotometricSettings()

    def prepare(self, data: Path, cache: Path) -> None:
        self._pool = _scan(data)
        self._place = {path: i for i, path in enumerate(self._pool.paths)}
        self._matched: list[MatchedPair] = []
        if self._share:
            aside = set(self._pool.held_out.tolist())
            for pair in known_pairs(data, cache, Sift(), self._matches):
                places = {self._place.get(path) for path in (pair.image_a, pair.image_b)}
                if None not in places and aside.isdisjoint(places):
                    self._matched.append(pair)
        images = {path for pair in self._matched for path in (pair.image_a, pair.image_b)}
        self._sizes = {path: read_photo(path, min_long_side=1).info.size for path in images}
        self._words = (
            f"{len(self._pool.train)} photos of {data.name} in two views each, "
            f"{len(self._matched)} pairs of photos with known matches; "
            f"{len(self._pool.held_out)} photos held out"
        )

    def describe(self) -> str:
        return self._words

    def network(self) -> D2Network:
        return D2Network(load_backbone(self._backbone, self._backbone_weights)[0], self._taps)

    def begin(self, network: nn.Module, stage: Stage) -> Iterable[nn.Parameter]:  # noqa: ARG002
        assert isinstance(network, D2Network)
        network.eval()  # a few crops would spoil the statistics of batch normalisation
        return network.trained()

    def batch(self, stage: Stage, rng: np.random.Generator, *, held_out: bool = False) -> Batch:  # noqa: ARG002
        """images: 2 P x 3 x S x S, a and b of each pair in turn; points: 2 P x N x 2 in pixels, of which
        the first `counts[p]` of pair p count."""
        images: list[Array] = []
        points = np.zeros((2 * self._pairs, self._points, 2), np.float32)
        counts = []
        for p in range(self._pairs):
            *views, points_a, points_b = self._views(rng, "held_out" if held_out else "train")
            images += views
            chosen = rng.permutation(len(points_a))[: self._points]
            counts.append(len(chosen))
            points[2 * p, : len(chosen)] = points_a[chosen]
            points[2 * p + 1, : len(chosen)] = points_b[chosen]
        return {
            "images": images_to_tensor(images),
            "points": torch.from_numpy(points),
            "counts": counts,
        }

    def _views(self, rng: np.random.Generator, which: Split) -> _Views:
        """Of a few draws the first with enough points in common, or the one with most."""
        best: _Views | None = None
        for _ in range(_TRIES):
            matched = which == "train" and self._matched and rng.random() < self._share
            views = self._matched_views(rng) if matched else self._warped_views(rng, which)
            if views is not None and (best is None or len(views[2]) > len(best[2])):
                best = views
                if len(best[2]) >= _FEWEST:
                    break
        if best is None:
            raise InputError("no photo of the training data can be used any more; look at the log")
        return best

    def _warped_views(self, rng: np.random.Generator, which: Split) -> _Views:
        photo = self._pool.read(self._pool.pick(rng, which), _READ_SIDE)
        pair = warped_pair(photo, rng, (self._crop, self._crop), self._warp, self._light)
        cells, points_b = visible_grid(pair, self._stride)
        points_a = ((cells + 0.5) * self._stride - 0.5).astype(np.float32)
        return pair.image_a, pair.image_b, points_a, points_b

    def _matched_views(self, rng: np.random.Generator) -> _Views | None:
        pair = self._matched[int(rng.integers(len(self._matched)))]
        files = (pair.image_a, pair.image_b)
        try:
            photo_a, photo_b = (self._pool.read(self._place[f], _READ_SIDE) for f in files)
        except ImageError:  # it was there when the pairs were found; the pool has said so
            return None
        sizes = (self._sizes[files[0]], self._sizes[files[1]])
        crop = crop_matched_pair(pair, (photo_a, photo_b), rng, self._crop, sizes=sizes)
        views = (photometric_noise(v, rng, self._light) for v in (crop.image_a, crop.image_b))
        return (*views, crop.points_a, crop.points_b)  # type: ignore[return-value]

    def losses(self, network: nn.Module, batch: Batch, stage: Stage) -> dict[str, Tensor]:  # noqa: ARG002
        assert isinstance(network, D2Network)
        maps = network(batch["images"].contiguous(memory_format=torch.channels_last))
        with torch.autocast(maps.device.type, enabled=False):  # 2 - 2 d . d' needs the digits
            maps, cells = maps.float(), network.grid.to_map(batch["points"])
            found = [
                d2_loss(
                    (maps[2 * p], maps[2 * p + 1]),
                    (cells[2 * p, :count], cells[2 * p + 1, :count]),
                    self._radius,
                    self._margin,
                )
                for p, count in enumerate(batch["counts"])
            ]
        return {name: torch.stack([f[name] for f in found]).mean() for name in found[0]}

    def settings(self) -> dict[str, Any]:
        return dict(self._built_with)


def _scan(data: Path) -> PhotoPool:
    """All photos; of a few more are held out, so that at least one is."""
    for share in (0.05, 0.2, 0.5):
        pool = PhotoPool.scan(data, held_out=share)
        if len(pool.held_out) and len(pool.train):
            return pool
    raise InputError(f"{data} holds only {len(pool)} photos; a training needs a dozen or more")
