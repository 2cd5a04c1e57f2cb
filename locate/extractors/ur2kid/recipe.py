"""How UR2KiD is trained: from images that show the same place, without a single correspondence.

1. Before the first step the projection to low-dimensional descriptors is fitted in closed form, to
   the corners that two views of a photo share (`blocks.discriminative`); ours.
2. Then all losses of `losses` together, by gradient, on triples of an anchor, a positive and a negative.
   Negatives of an anchor from a scene are the photos of other scenes that the network of the last
   `mine_every` steps finds most similar. The paper has photos of one place taken by different people;
   here they are few, so that half of the anchors (`single_share`) are single photos, whose
   positive is a synthetic view of the same photo (warped, in other light).
3. At the end the global vector is whitened (`whitening.whitening`).

An extra that is not the paper's: in the two views of a single photo it is known which point is which,
and descriptors learn from that too (`objective.correspondence_loss`; `correspondence_weight=0` for the
paper's own losses).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from locate.errors import ImageError, InputError
from locate.extractors.blocks.corners import corners
from locate.extractors.blocks.detection import to_input
from locate.extractors.blocks.discriminative import discriminative
from locate.extractors.blocks.grids import sample
from locate.extractors.ur2kid.extractor import SYSTEM, start, trained_tensors
from locate.extractors.ur2kid.network import UR2KiDNetwork
from locate.extractors.ur2kid.objective import Correspondences, Objective, joint_losses
from locate.extractors.ur2kid.whitening import whitening
from locate.images.folder import photos_in
from locate.training.data.correspondences import MatchedPair, load_pairs
from locate.training.data.homographies import HomographySettings, seen_in_b, warped_pair
from locate.training.data.matched_views import MatchedViews
from locate.training.data.photometric import PhotometricSettings, photometric_noise
from locate.training.data.photos import PhotoPool, name_fraction, of_place_held_out, own_name
from locate.training.data.scenes import pairs_of_models, scenes_of
from locate.training.data.tuples import TrainingTuple, TupleMiner
from locate.training.recipe import (
    Batch,
    Parameters,
    Recipe,
    Stage,
    generator,
    images_to_tensor,
    padded,
)
from locate.types import Array

READ_SIDE = 448  # pixels of the long side of a photo before views are cut out of it
HELD_OUT_PHOTOS, HELD_OUT_SCENES = 0.05, 0.12  # shares

_VIEWPOINT = HomographySettings(rotation=180, scale=(0.5, 2.0))
_LIGHT = PhotometricSettings()
_SEED = 0  # of all that is fitted or mined; the training's own seed changes nothing but batches
_FIT_PAIRS, _FIT_RIDGE = 500, 1.0  # of views for the projection; see `discriminative`
_MINED_FROM, _MINED = 256, 9  # photos that are searched; negatives that are kept for a scene
_MATCHED_CHANCE = 0.5  # that a positive from a scene is of `matches`
_MINED_CHANCE = 0.5  # that the negative of an anchor is one of those
_WHITENED_BY, _WHITENED_SIDE = 1600, 352  # photos, at most; their long side in pixels
_TRIES = 50

_Triple = tuple[Array, Array, Array]  # views of an anchor, a positive, a negative
_Points = tuple[Array, Array]  # N x 2 in both of a pair of views


@dataclass(eq=False, kw_only=True)
class UR2KiDRecipe(Recipe[UR2KiDNetwork]):
    """UR2KiD's recipe: retrieval, matching and distillation together."""

    system = SYSTEM

    backbone: str = "lite0"  # see `load_backbone`
    backbone_weights: Path | None = None
    dim: int = 128  # of the network, as the next five
    groups: int = 8
    stride: int = 4
    global_dim: int = 1024
    local_share: float = 0.0
    dropout: float = 0.5
    crop: int = 256  # side of the square views in pixels, a multiple of 32
    tuples: int = 2  # anchors in a batch
    positions: int = 512  # detected places of an image that matching looks at, at most
    single_share: float = 0.5  # of the anchors are single photos, whose positive is another view
    mine_every: int = 100  # steps after which hard negatives are looked for anew
    # A file of `locate.training.data.correspondences`: only these photos of a scene are positives of
    # each other; of their points nothing is used. None for the photos of a COLMAP model that share
    # points of it, and all photos of a scene that has no model.
    pairs: Path | None = None
    # A file of the same kind, whose points are an extra: the projection is fitted to half as many of
    # them as of warped views, and half of the positives from scenes show pairs of it, with their points.
    matches: Path | None = None
    matching: str = "positions"  # (`losses.position_loss`) or "images" (`losses.matching_loss`)
    fit: bool = True  # whether the projection is fitted before the first step
    margin: float = 0.2  # of the matching loss
    retrieval_weight: float = 1.0  # of the losses
    matching_weight: float = 1.0
    distillation_weight: float = 1.0
    correspondence_weight: float = 0.5  # of the extra; 0 for the paper's losses
    correspondences: int = 256  # points of a photo in two views that it looks at, at most
    # Learning rate of the backbone relative to the rest. If it is large and steps are few, the global
    # vector becomes worse than at the start.
    backbone_rate: float = 0.05
    steps: int = 300
    learning_rate: float = 3e-4

    def __post_init__(self) -> None:
        counts = (self.tuples, self.mine_every, self.correspondences)
        if self.crop < 64 or self.crop % 32 or min(counts) < 1:
            raise InputError(
                "the crop must be a multiple of 32 from 64 on, tuples, mine_every and correspondences "
                f"at least 1; got {self.crop} and {counts}"
            )
        weights = (self.retrieval_weight, self.matching_weight, self.distillation_weight)
        own = (self.positions, self.matching, self.margin)
        self._objective = Objective(*own, weights, self.correspondence_weight)
        self.stages = (Stage("joint", self.steps, self.learning_rate),)
        self._mined: dict[str, list[Path]] = {}
        self._fitted = False

    def prepare(self, data: Path, cache: Path) -> None:  # noqa: ARG002  nothing takes long enough
        self._data = data
        scenes = scenes_of(data)
        folder = data / "photos"
        singles: tuple[Path, ...] = ()
        if folder.is_dir() or not scenes:
            singles = tuple(photos_in(folder if folder.is_dir() else data).values())
        in_scenes = [path for photos in scenes.values() for path in photos]
        self._pool = PhotoPool((*singles, *in_scenes), data)
        self._scene_of = {path: name for name, photos in scenes.items() for path in photos}
        names = {own_name(path, data): path for path in singles}
        aside = set_aside(list(names), HELD_OUT_PHOTOS, 2)
        scenes_aside = set_aside(list(scenes), HELD_OUT_SCENES, 0 if aside else 2)
        places = {n for n, p in scenes.items() if of_place_held_out(own_name(p[0], data))}
        if len(scenes_aside | places) < len(scenes):
            scenes_aside |= places
        pairs = self._known_positives(scenes)
        self._matched = self._known_matches(data, aside, scenes_aside)
        self._miners = {}
        for held_out in (True, False):  # the latter's scenes and photos are kept
            self._scenes = {n: p for n, p in scenes.items() if (n in scenes_aside) == held_out}
            self._singles = [path for name, path in names.items() if (name in aside) == held_out]
            miner = TupleMiner(
                self._scenes, self._singles, pairs=pairs, single_share=self.single_share
            )
            miner.draw(generator(0), 1)  # says if there are not enough places
            self._miners[held_out] = miner
        positives = "photos of one scene" if pairs is None else "known pairs"
        self.data_words = (
            f"{len(singles)} single photos ({len(aside)} held out), each with warped views of itself, "
            f"and {len(in_scenes)} photos of {len(scenes)} scenes ({len(scenes_aside)} held out), "
            f"positives being {positives}; no correspondences but those of warped views"
        )
        if len(self._matched):
            self.data_words += f" and the matches of {len(self._matched)} pairs"

    def _known_matches(self, data: Path, singles: Set[str], scenes: Set[str]) -> MatchedViews:
        """Of photos that are not held out: neither single ones of these names nor of these scenes."""
        known = [] if self.matches is None else load_pairs(self.matches, data)

        def held_out(path: Path) -> bool:
            return self._scene_of.get(path) in scenes or own_name(path, data) in singles

        kept = [p for p in known if not (held_out(p.image_a) or held_out(p.image_b))]
        return MatchedViews(kept, self._pool, READ_SIDE)

    def _known_positives(self, scenes: Mapping[str, Sequence[Path]]) -> list[MatchedPair] | None:
        if self.pairs is not None:
            return load_pairs(self.pairs, self._data)
        pairs = pairs_of_models(self._data)
        if not pairs:
            return None
        reconstructed = {path for pair in pairs for path in (pair.image_a, pair.image_b)}
        none = np.zeros((0, 2), np.float32)
        for photos in scenes.values():
            if reconstructed.isdisjoint(photos):
                ends = combinations(photos, 2)
                pairs += [MatchedPair(*both, none, none, "folder") for both in ends]
        return pairs

    def network(self) -> UR2KiDNetwork:
        settings = self.settings() | {"dropout": self.dropout}
        return start(backbone_weights=self.backbone_weights, **settings)[0]

    def settings(self) -> dict[str, Any]:
        names = ("backbone", "dim", "groups", "stride", "global_dim", "local_share")
        return {name: getattr(self, name) for name in names}

    def start_from(self, network: UR2KiDNetwork, tensors: Mapping[str, Tensor]) -> None:
        super().start_from(network, tensors)
        self._fitted = True  # the projection is the earlier training's

    def tensors(self, network: UR2KiDNetwork) -> dict[str, Tensor]:
        return trained_tensors(network)

    def begin(self, network: UR2KiDNetwork, stage: Stage) -> Parameters:
        network.train()
        network.backbone.freeze_normalisation()
        network.requires_grad_(True)
        network.fine.requires_grad_(False)  # no loss looks through it
        if network.whiten is not None:
            network.whiten.requires_grad_(False)
        rate = stage.learning_rate
        return [
            {"params": [*network.reduce.parameters(), *network.pyramid.parameters()], "lr": rate},
            {"params": list(network.backbone.parameters()), "lr": rate * self.backbone_rate},
            {"params": list(network.pools.parameters()), "lr": rate * 10, "weight_decay": 0.0},
        ]

    def batch(self, stage: Stage, rng: np.random.Generator, *, held_out: bool = False) -> Batch:  # noqa: ARG002
        """Images "anchors", "positives" and "negatives", B x 3 x S x S; "points_a" and "points_b",
        B x N x 2 in pixels of anchors and positives, of which "counted", B x N bool, are known to be
        the same."""
        triples = [self._triple(rng, held_out) for _ in range(self.tuples)]
        names = ("anchors", "positives", "negatives")
        columns = zip(*(images for images, _ in triples), strict=True)
        batch = {name: images_to_tensor(c) for name, c in zip(names, columns, strict=True)}
        known = [points for _, points in triples]
        for name, side in zip(("points_a", "points_b"), zip(*known, strict=True), strict=True):
            batch[name] = padded(side, self.correspondences)
        counts = torch.tensor([len(a) for a, _ in known])
        return batch | {"counted": torch.arange(self.correspondences) < counts[:, None]}

    def _triple(self, rng: np.random.Generator, held_out: bool) -> tuple[_Triple, _Points]:
        for _ in range(_TRIES):
            drawn = self._miners[held_out].draw(rng, 1)
            negative = drawn.negatives[0]
            mined = [] if held_out else self._mined.get(self._scene_of.get(drawn.anchor, ""), [])
            if mined and rng.random() < _MINED_CHANCE:
                negative = mined[int(rng.integers(len(mined)))]
            try:
                if self._takes_matches(drawn, rng, held_out):
                    a, p, points = self._positive(drawn, negative, rng)
                else:
                    a, p, points = self._views(drawn.anchor, drawn.positive, rng)
                return (a, p, self._view(negative, rng)), points
            except ImageError:  # the pool has said so
                continue
        raise InputError(f"{_TRIES} photos in a row could not be read; look at the data folder")

    def _takes_matches(
        self, drawn: TrainingTuple, rng: np.random.Generator, held_out: bool
    ) -> bool:
        of_scene = drawn.anchor != drawn.positive and not held_out
        return bool(of_scene and len(self._matched) and rng.random() < _MATCHED_CHANCE)

    def _positive(
        self, drawn: TrainingTuple, negative: Path, rng: np.random.Generator
    ) -> tuple[Array, Array, _Points]:
        """Views of a pair whose points are known, of another place than the negative; else of the anchor
        and its positive."""
        pair = self._matched.pick(rng)
        if self._scene_of.get(pair.image_a) != self._scene_of.get(negative, ""):
            crop = self._matched.crop(pair, rng, self.crop)
            if crop is not None:
                a, b = (photometric_noise(v, rng, _LIGHT) for v in (crop.image_a, crop.image_b))
                some = rng.permutation(len(crop.points_a))[: self.correspondences]
                return a, b, (crop.points_a[some], crop.points_b[some])
        return self._views(drawn.anchor, drawn.positive, rng)

    def _views(self, a: Path, b: Path, rng: np.random.Generator) -> tuple[Array, Array, _Points]:
        """Of both photos a view, and of two views of one photo some corners that both show."""
        if a != b:
            none = np.zeros((0, 2), np.float32)
            return self._view(a, rng), self._view(b, rng), (none, none)
        pair = warped_pair(self._read(a), rng, (self.crop,) * 2, _VIEWPOINT, _LIGHT)
        points, _, _ = corners(cv2.cvtColor(pair.image_a, cv2.COLOR_RGB2GRAY), (1.0,))
        seen, there = seen_in_b(pair, points)
        some = rng.permutation(np.flatnonzero(seen))[: self.correspondences]
        return pair.image_a, pair.image_b, (points[some].astype(np.float32), there[some])

    def _view(self, path: Path, rng: np.random.Generator) -> Array:
        return warped_pair(self._read(path), rng, (self.crop,) * 2, _VIEWPOINT, _LIGHT).image_a

    def _read(self, path: Path) -> Array:
        return self._pool.read(self._pool.index[path], READ_SIDE)

    def losses(self, network: UR2KiDNetwork, batch: Batch, stage: Stage) -> dict[str, Tensor]:  # noqa: ARG002
        images = (batch["anchors"], batch["positives"], batch["negatives"])
        points = (batch["points_a"], batch["points_b"], batch["counted"])
        known = Correspondences(*points) if self.correspondence_weight else None
        return joint_losses(network, images, self._objective, known)

    def refresh_every(self, stage: Stage) -> int:  # noqa: ARG002
        return self.mine_every

    def refresh(self, network: UR2KiDNetwork, stage: Stage, step: int) -> None:  # noqa: ARG002
        network.eval()
        if step == 0 and self.fit and not self._fitted:
            self._fit_projection(network)
        self._mine(network, generator(_SEED, 2, step))

    def _fit_projection(self, network: UR2KiDNetwork) -> None:
        """Of F at corners of pairs of views."""
        device = network.reduce.weight.device
        features, differences = [], []
        for k in range(_FIT_PAIRS):
            rng = generator(_SEED, 1, k)
            crop = self._matched.draw(rng, self.crop) if k % 3 == 2 and len(self._matched) else None
            if crop is None:
                *images, points = self._two_views(rng)
            else:
                images = [crop.image_a, crop.image_b]
                points = crop.points_a, crop.points_b
            with torch.no_grad():
                high = network.pyramid(network.taps(images_to_tensor(images).to(device)))
            ends = [
                sample(high[k : k + 1], network.pyramid.grid.to_map(torch.from_numpy(at)[None]))[0]
                for k, at in enumerate(points)
            ]
            features += ends
            differences.append(ends[0] - ends[1])
        whole = torch.cat(features).double().cpu(), torch.cat(differences).double().cpu()
        weight = discriminative(*whole, network.dim, _FIT_RIDGE)
        # As large as what it takes the place of, so that steps of the optimiser mean the same.
        weight *= network.reduce.weight.detach().norm().cpu() / weight.norm()
        with torch.no_grad():
            network.reduce.weight.copy_(weight[:, :, None, None])
            assert network.reduce.bias is not None
            network.reduce.bias.zero_()

    def _two_views(self, rng: np.random.Generator) -> tuple[Array, Array, _Points]:
        """Two views of a photo that is not held out."""
        photos = [*self._singles, *(path for group in self._scenes.values() for path in group)]
        for _ in range(_TRIES):
            path = photos[int(rng.integers(len(photos)))]
            try:
                a, b, points = self._views(path, path, rng)
            except ImageError:  # the pool has said so
                continue
            if len(points[0]):
                return a, b, points
        raise InputError(
            f"no corner is seen in two views of any of {_TRIES} photos; look at the data"
        )

    def _mine(self, network: UR2KiDNetwork, rng: np.random.Generator) -> None:
        """For every scene the photos of other scenes that are most like one of three of its own."""
        scenes = self._scenes.items()
        anchors = {n: [photos[i] for i in rng.permutation(len(photos))[:3]] for n, photos in scenes}
        others = [self._singles[i] for i in rng.permutation(len(self._singles))[:_MINED_FROM]]
        candidates = [*others, *(path for photos in anchors.values() for path in photos)]
        vectors = dict(self._vectors(network, candidates, self.crop))
        self._mined = {}
        for name, photos in anchors.items():
            found: dict[Path, None] = {}
            for anchor in photos:
                if anchor in vectors:
                    hardest = self._miners[False].hardest(vectors, anchor, _MINED)
                    found.update(dict.fromkeys(hardest[: -(-_MINED // len(photos))]))
            self._mined[name] = list(found)

    def _vectors(
        self, network: UR2KiDNetwork, paths: Sequence[Path], side: int
    ) -> Iterator[tuple[Path, Array]]:
        """The pooled levels of photos; those that cannot be read are left out."""
        device = network.reduce.weight.device
        for path in paths:
            try:
                pixels = self._pool.read(self._pool.index[path], side)
            except ImageError:
                continue
            with torch.no_grad():
                taps = network.taps(to_input(pixels, device))
                yield path, network.pooled(network.to_pool(taps))[0].cpu().numpy()

    def state(self) -> dict[str, Any]:
        mined = self._mined.items()
        names = {n: [p.relative_to(self._data).as_posix() for p in ps] for n, ps in mined}
        return {"mined": names} | ({"fitted": True} if self._fitted else {})

    def set_state(self, state: dict[str, Any]) -> None:
        mined = state.get("mined", {})
        self._fitted = bool(state.get("fitted", False))
        self._mined = {name: [self._data / path for path in paths] for name, paths in mined.items()}

    def finish(self, network: UR2KiDNetwork, stage: Stage) -> None:  # noqa: ARG002
        if network.whiten is None:
            return
        network.eval()
        paths = [*self._singles, *(path for photos in self._scenes.values() for path in photos)]
        order = generator(_SEED, 3).permutation(len(paths))[:_WHITENED_BY]
        found = self._vectors(network, [paths[i] for i in order], _WHITENED_SIDE)
        vectors = torch.from_numpy(np.stack([vector for _, vector in found]))
        weight, bias = whitening(vectors, network.global_dim)
        with torch.no_grad():
            network.whiten.weight.copy_(weight)
            network.whiten.bias.copy_(bias)


def set_aside(names: Sequence[str], share: float, at_least: int) -> frozenset[str]:
    """The names that are held out. Whether one is follows from itself alone, unless they would be
    less than `at_least` of at least three times as many."""
    order = sorted(names, key=name_fraction)
    count = sum(name_fraction(name) < share for name in names)
    if count < at_least and len(names) >= 3 * at_least:
        count = at_least
    return frozenset(order[:count])
