"""How context is fitted: linear maps in closed form, to spots seen twice, and to photos the right way
up and turned. It takes two minutes.

    locate train context --data ../shared/data/train --out build/context --set matches=pairs.npz
    locate train context --data ../shared/data/train --out build/context --set context_of=OLD

The matches are of photos of one scene (`locate.training.data.teacher_files` makes them)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from locate.errors import InputError
from locate.extractors.backbones import efficientnet
from locate.extractors.blocks.detection import resize_image
from locate.extractors.bundled import BUNDLED
from locate.extractors.context.extractor import SYSTEM, TAPS, BackboneMaps
from locate.extractors.context.projection import fit_context, strongest
from locate.extractors.context.upright import TURN, fit_upright
from locate.extractors.steered.extractor import Steered
from locate.extractors.steered.network import WIDTH
from locate.extractors.weights import file_hash, load_weights, read_record
from locate.images.folder import scan
from locate.images.reading import read_photo
from locate.pixels import fit_size, resize_points
from locate.training.data.correspondences import MatchedPair, load_pairs
from locate.training.data.photos import never_trained_on
from locate.training.recipe import Batch, Parameters, Recipe, Stage
from locate.types import Array

log = logging.getLogger("locate")

_DEEP = ("mean", "context", "upright.weight", "upright.bias")
_SIDE = 1024  # pixels of the long side at which photos are read
_TURNED_SIDE = 640  # of those that are turned


@dataclass(eq=False)
class ContextRecipe(Recipe[nn.Module]):
    """Nothing is learned by gradient: a stage is one step that does nothing, and then fits its part."""

    system = SYSTEM

    matches: Path | None = None  # pairs of photos that show the same, of `load_pairs`
    # Weights to take the context and the judge of what is upright from; then only what is kept of a
    # keypoint's own descriptors is fitted. One of the two is needed.
    context_of: Path | None = None
    _: KW_ONLY
    pairs: int = 1000  # of photos that the context is fitted to
    points: int = 80  # matches of each
    photos: int = 140  # by which the dimensions of own descriptors are chosen
    keypoints: int = 200  # of each
    own: int = 64  # numbers of each part of a descriptor
    context: int = 128
    ridge: float = 0.1  # see `fit_context`
    penalty: float = 0.03  # on what says whether a photo is the right way up, see `fit_upright`

    def __post_init__(self) -> None:
        counts = (self.pairs, self.points, self.photos, self.keypoints, self.own)
        if min(*counts, self.context) < 1 or self.own > WIDTH:
            given = f"{', '.join(map(str, counts))} and {self.context}"
            rule = f"all counts must be at least 1 and own at most {WIDTH}"
            raise InputError(f"context: {rule}; got {given}")
        if self.matches is not None and self.context_of is not None:
            raise InputError("context: leave out either matches or context_of")
        parts = ("own",) if self.context_of else ("context", "upright", "own")
        self.stages = tuple(Stage(part, steps=1, learning_rate=0.0) for part in parts)

    def prepare(self, data: Path, cache: Path) -> None:  # noqa: ARG002
        folder = data / "photos" if (data / "photos").is_dir() else data
        photos = [found.absolute for found in scan(folder)]
        self._photos = [path for path in photos if not never_trained_on(path, data)]
        if not self._photos:
            raise InputError(f"{folder} holds no photos to fit context to")
        self._some = self._photos[:: max(1, len(self._photos) // self.photos)]
        words = f"the {self.keypoints} strongest keypoints of {len(self._some)} photos"
        if self.context_of is not None:
            self.data_words = f"{read_record(self.context_of).data}; {words}"
            return
        if self.matches is None:
            raise InputError(
                "context is fitted to matches: name their file by --set matches=FILE "
                "(locate.training.data.teacher_files says how one is made), or weights that have a "
                "context by --set context_of=FILE"
            )
        found = [
            pair
            for pair in load_pairs(self.matches, data)
            if not any(never_trained_on(path, data) for path in (pair.image_a, pair.image_b))
        ]
        self._rng = np.random.default_rng(0)
        self._pairs = [found[i] for i in self._rng.permutation(len(found))[: self.pairs]]
        count = sum(min(self.points, len(pair)) for pair in self._pairs)
        self.data_words = (
            f"{len(self._pairs)} pairs of photos of {data.name} ({count} matches); three views of "
            f"each of {len(self._photos)} photos, turned or not; {words}"
        )

    def network(self) -> nn.Module:
        old = load_weights(self.context_of)[0] if self.context_of else {}
        made = _Weights(self.own, len(old["context"]) if old else self.context)
        made.load_state_dict({name: old[name] for name in _DEEP if old}, strict=False)
        return made

    def begin(self, network: nn.Module, stage: Stage) -> Parameters:  # noqa: ARG002
        return network.parameters()

    def batch(self, stage: Stage, rng: np.random.Generator, *, held_out: bool = False) -> Batch:  # noqa: ARG002
        return {}

    def losses(self, network: nn.Module, batch: Batch, stage: Stage) -> dict[str, Tensor]:  # noqa: ARG002
        return {"loss": torch.zeros(())}

    def finish(self, network: nn.Module, stage: Stage) -> None:
        fit = {"context": self._fit_context, "upright": self._fit_upright, "own": self._fit_own}
        for name, values in fit[stage.name]().items():
            network.get_parameter(name).data.copy_(values)

    def _fit_context(self) -> dict[str, Tensor]:
        deep, rng = BackboneMaps(efficientnet.load_imagenet()), self._rng
        with torch.inference_mode():
            ends = [matched_spots(deep, pair, self.points, rng) for pair in self._pairs]
            a, b = (torch.cat([end[side] for end in ends]) for side in (0, 1))
            mean, context = fit_context(a, b, self.context, self.ridge)
        return {"mean": mean, "context": context}

    def _fit_upright(self) -> dict[str, Tensor]:
        """How well it does on every seventh photo when fitted to the others goes into the log."""
        deep, rng = BackboneMaps(efficientnet.load_imagenet()), np.random.default_rng(0)
        with torch.inference_mode():
            views = [turned_views(deep, path, rng) for path in self._photos]
        aside = torch.tensor([i % 7 == 3 for i, (found, _) in enumerate(views) for _ in found])
        seen = torch.stack([one for found, _ in views for one in found]).clone()
        truth = torch.tensor([one for _, ups in views for one in ups]).double()
        if aside.any():
            judge = fit_upright(seen[~aside], truth[~aside], self.penalty)
            judged = torch.tensor([judge.likelihood(one) > 0.5 for one in seen[aside].double()])
            right = (judged == truth[aside].bool()).double().mean().item()
            log.info("upright: %.0f %% of %d views held out judged right", 100 * right, len(judged))
        judge = fit_upright(seen, truth, self.penalty)
        return {"upright.weight": judge.weight, "upright.bias": judge.bias}

    def _fit_own(self) -> dict[str, Tensor]:
        steered = Steered.from_pretrained()
        with torch.inference_mode():
            both = [own_descriptors(steered, path, self.keypoints) for path in self._some]
            ways = [torch.cat([pair[way] for pair in both]) for way in (0, 1)]
            turned, upright = (strongest(found, self.own) for found in ways)
        return {"own_turned": turned, "own_upright": upright}

    def settings(self) -> dict[str, Any]:
        steered = file_hash(BUNDLED["steered"])
        return {"steered": steered, "ridge": self.ridge, "penalty": self.penalty}


class _Weights(nn.Module):
    """What `Context` reads, by name; T = U = `own` and C = `context` of `Projection`."""

    def __init__(self, own: int, context: int) -> None:
        super().__init__()
        widths = efficientnet.EfficientNetLite0.widths
        seen = sum(widths[tap] for tap in TAPS)
        self.mean = nn.Parameter(torch.zeros(seen))
        self.context = nn.Parameter(torch.zeros(context, seen))
        self.own_turned = nn.Parameter(torch.zeros(own, WIDTH))
        self.own_upright = nn.Parameter(torch.zeros(own, WIDTH))
        self.upright = nn.Module()
        self.upright.weight = nn.Parameter(torch.zeros(widths["head"] + 2 * widths["stage7"]))
        self.upright.bias = nn.Parameter(torch.zeros(1))


def matched_spots(
    deep: BackboneMaps, pair: MatchedPair, most: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """M x K each: what the deep network sees at both ends of matches of two photos."""
    chosen = rng.permutation(len(pair.points_a))[:most]
    a = _context_at(deep, pair.image_a, pair.points_a[chosen])
    return a, _context_at(deep, pair.image_b, pair.points_b[chosen])


def _context_at(deep: BackboneMaps, path: Path, points: Array) -> Tensor:
    """At points in pixels of the original photo."""
    photo = read_photo(path, min_long_side=_SIDE)
    maps, small = deep.feature_maps(photo.pixels)
    places = resize_points(points.astype(np.float64), photo.info.size, small)
    return deep.sample_context(maps, places)


def own_descriptors(steered: Steered, path: Path, most: int) -> tuple[Tensor, Tensor]:
    """N x L each: turned and upright descriptors of the strongest keypoints of a photo."""
    pixels = read_photo(path, min_long_side=_SIDE).pixels
    turned, upright = (
        torch.from_numpy(found.descriptors[:most])
        for found in steered.features(pixels, None, (False, True))
    )
    return turned, upright


def turned_views(
    deep: BackboneMaps, path: Path, rng: np.random.Generator
) -> tuple[Sequence[Tensor], Sequence[bool]]:
    """Three views of a photo: all but upright, turned by about a multiple of a quarter, by any angle;
    `BackboneMaps.layout` of each and whether it is the right way up."""
    pixels = read_photo(path, min_long_side=_TURNED_SIDE).pixels
    pixels = resize_image(pixels, fit_size((pixels.shape[1], pixels.shape[0]), _TURNED_SIDE))
    near = rng.normal(0, 0.1, 2)
    angles = (near[0], near[1] + rng.integers(4) * math.pi / 2, rng.uniform(-math.pi, math.pi))
    views = [turned(pixels, angle, rng) for angle in angles]
    seen = [deep.feature_maps(view) for view in views]
    return (
        [deep.layout(deep.global_vector(maps, size), maps, size) for maps, size in seen],
        [abs(math.remainder(angle, 2 * math.pi)) < TURN for angle in angles],
    )


def turned(pixels: Array, angle: float, rng: np.random.Generator) -> Array:
    """A window of a photo that is turned by an angle (radians, clockwise), of any shape; nothing outside
    of the photo is in it, which would tell the angle."""
    height, width = pixels.shape[:2]
    cos, sin = math.cos(angle), math.sin(angle)
    shape = math.exp(rng.uniform(-0.4, 0.4))  # width by height
    # Half a side: no corner of the window, turned back, lies outside of the photo.
    across = max(abs(shape * cos + sin), abs(shape * cos - sin))
    along = max(abs(shape * sin + cos), abs(shape * sin - cos))
    half = rng.uniform(0.8, 1) * min(width / 2 / across, height / 2 / along)
    size = (max(32, int(2 * half * shape)), max(32, int(2 * half)))
    turn = np.array([[cos, -sin], [sin, cos]])
    centre, target = (np.array(((w - 1) / 2, (h - 1) / 2)) for w, h in ((width, height), size))
    matrix = np.column_stack((turn, target - turn @ centre))
    return np.asarray(cv2.warpAffine(pixels, matrix, size, borderMode=cv2.BORDER_REFLECT))
