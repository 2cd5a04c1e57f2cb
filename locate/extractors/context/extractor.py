"""Steered features with the context that GeM's network sees around them, and GeM's global descriptor.

A corner of a window looks like any other; which window of which facade it belongs to is known to a
network that was trained to recognise things, and that runs for the global descriptor anyway. What its
maps say at a keypoint joins the keypoint's own descriptor, as in Luo et al., "ContextDesc", CVPR 2019
(section 3.2, where both are trained; here linear maps are fitted, `projection`).

ImageNet's photos are the right way up, as most are. What is not turned needs no descriptors that a
turn does not change, and those tell less apart. So the likelihood that a photo is the right way up
(`upright`) decides how much its upright descriptors weigh, its turned ones, and the context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from locate.errors import WeightsError
from locate.extractors.backbones import efficientnet
from locate.extractors.base import ExtractorInfo, Size
from locate.extractors.blocks.detection import resize_image, to_input
from locate.extractors.blocks.grids import Grid, sample
from locate.extractors.blocks.inference import channels_last, default_device
from locate.extractors.blocks.layers import GeM
from locate.extractors.bundled import BUNDLED, imagenet_weights_path
from locate.extractors.context.projection import Projection
from locate.extractors.context.upright import Upright, layout
from locate.extractors.steered.extractor import Steered
from locate.extractors.weights import file_hash, load_weights
from locate.pixels import fit_size, resize_points
from locate.precision import precision
from locate.types import Array, Extraction, Features

SYSTEM = "context"
SIDE = 384  # pixels: what it looks at (`docs/experiments.md`, 30)
TAPS = ("stage3", "stage5", "stage6", "stage7")  # strides 8, 16, 32, 32: what is there and around
SHARES = (0.5, 0.85)  # of a cosine that are the context's, in turned photos and in upright ones
# Neighbours share their context, so that it tells them less apart (`docs/experiments.md`, 27); in
# queries it weighs less.
RATIO, QUERY_RATIO = 0.98, 0.96
# In queries things of one kind, which share theirs as well, must not pass for one thing, and a turned
# descriptor proves more than an upright one (28, 29).
QUERY_SHARES = (0.4, 0.0, 0.6)  # of turned and upright descriptors and of the context
_EXPONENT = 2.0  # of GeM, as in `gem`
_MULTIPLE = 32  # of such sides all strides divide the image, and cells lie where `grid` says
_EVEN = 0.6  # likelihood of being upright at which both kinds of descriptors weigh the same
_SHARPNESS = 3.0  # how fast the weight follows the likelihood, see `weight_of`
_LEAST = 0.02  # upright descriptors of less weight have none; turned ones have no less


class BackboneMaps:
    """EfficientNet-Lite0 on a photo that is shrunk so that its long side is at most `SIDE`: its maps of
    `TAPS` and their GeM-pooled head."""

    def __init__(self, network: efficientnet.EfficientNetLite0) -> None:
        self.device = default_device()
        plain = efficientnet.fused(network, precision(self.device))
        self._network = channels_last(plain, self.device)
        self._pool = GeM(_EXPONENT).eval().to(self.device)

    def feature_maps(self, pixels: Array) -> tuple[dict[str, Tensor], tuple[int, int]]:
        """Maps by tap, and the size (width, height) of the image that they are of."""
        size = fit_size((pixels.shape[1], pixels.shape[0]), SIDE)
        x = to_input(resize_image(pixels, size), self.device, _MULTIPLE)
        maps = self._network.taps(self._network.normalise(x), {*TAPS, "head"})
        return {tap: one.float() for tap, one in maps.items()}, size

    def global_vector(self, maps: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """1280 numbers, of length 1, from the cells that saw the image."""
        pooled: Tensor = self._pool(self._cropped(maps, "head", size))
        return functional.normalize(pooled, dim=1)[0]

    def layout(self, vector: Tensor, maps: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """What tells whether the photo of this `global_vector` is the right way up, see `upright`."""
        return layout(vector, self._cropped(maps, "stage7", size)[0])

    def _cropped(self, maps: Mapping[str, Tensor], tap: str, size: tuple[int, int]) -> Tensor:
        """The cells that saw the image, and not what it was padded with."""
        return self._network.grid(tap).crop(maps[tap], size)

    def sample_context(
        self, maps: Mapping[str, Tensor], points: Array, projection: Tensor | None = None
    ) -> Tensor:
        """N x K: the maps at N x 2 points in pixels of the image that they are of; with a projection
        C x K, N x C. Cells are projected, not points: both are linear, and of cells there are fewer."""
        places = torch.from_numpy(points).to(self.device, torch.float32)[None]
        cells = [(self._network.grid(tap), maps[tap]) for tap in TAPS]
        if projection is not None:
            parts = torch.split(projection, [one.shape[1] for _, one in cells], dim=1)
            alike: dict[Grid, Tensor] = {}  # whose cells lie at the same places are read together
            for (grid, one), part in zip(cells, parts, strict=True):
                projected = functional.conv2d(one, part[:, :, None, None])
                alike[grid] = alike[grid] + projected if grid in alike else projected
            cells = list(alike.items())
        found = [sample(one, grid.to_map(places))[0] for grid, one in cells]
        return torch.cat(found, dim=-1) if projection is None else torch.stack(found).sum(dim=0)


class Context:
    """Keypoints and their own descriptors are `steered`'s, the context and the global descriptor
    `deep`'s; `projection` joins them."""

    settings_of = Steered  # those that `from_pretrained` takes besides its own

    def __init__(
        self,
        steered: Steered,
        deep: BackboneMaps,
        projection: Projection,
        upright: Upright,
        weights_hash: str,  # of everything that was learned
        shares: tuple[float, float] = SHARES,
    ) -> None:
        self.max_side = steered.max_side
        self.device = steered.device
        self._steered, self._deep, self._shares = steered, deep, shares
        self._projection = Projection(*(part.to(self.device) for part in projection))
        self._upright = Upright(*(part.to(self.device) for part in upright))
        self.info = ExtractorInfo(
            name=SYSTEM,
            weights=weights_hash,
            settings={
                "steered": dict(steered.info.settings),
                "taps": list(TAPS),
                "p": _EXPONENT,
                "global side": SIDE,
                "shares": list(shares),
                "even, sharpness, least": [_EVEN, _SHARPNESS, _LEAST],
            },
            global_dim=efficientnet.EfficientNetLite0.widths["head"],
            local_dim=sum(projection.parts),
            ratio=RATIO,
            query_ratio=QUERY_RATIO,
            parts=projection.parts,
            query_shares=QUERY_SHARES,
        )

    @classmethod
    def from_pretrained(
        cls, weights: Path | None = None, *, shares: tuple[float, float] = SHARES, **settings: Any
    ) -> Context:
        """With weights of `locate train context`, by default those that come with the package, and
        settings of `Steered`; `WeightsError` if they do not fit, or were fitted to other features."""
        weights = weights or BUNDLED[SYSTEM]
        tensors, record = load_weights(weights, SYSTEM)
        steered = Steered.from_pretrained(**settings)
        if record.settings.get("steered") != steered.info.weights:
            raise WeightsError(
                f"{weights} was fitted to other weights of steered than those of this installation; "
                "fit it again with: locate train context"
            )
        try:
            judge = Upright(tensors.pop("upright.weight"), tensors.pop("upright.bias"))
            projection = Projection(**tensors)
        except (KeyError, TypeError) as error:
            raise WeightsError(f"{weights} does not fit: {error}") from error
        imagenet = imagenet_weights_path()
        deep = BackboneMaps(efficientnet.load_imagenet(imagenet))
        hashes = (file_hash(imagenet), steered.info.weights or "", file_hash(weights))
        return cls(steered, deep, projection, judge, " ".join(hashes), shares)

    def extract(self, pixels: Array, size: Size | None = None, *, local: bool = True) -> Extraction:
        with torch.inference_mode():
            maps, small = self._deep.feature_maps(pixels)
            vector = self._deep.global_vector(maps, small)
            features = None
            if local:
                up = self._upright.likelihood(self._deep.layout(vector, maps, small))
                weight = weight_of(up)
                found = self._steered.features(pixels, size, (False, True) if weight else (False,))
                places = resize_points(found[0].keypoints, found[0].image_size, small)
                seen = self._deep.sample_context(maps, places, self._projection.context)
                features = self._joined(found, seen, weight)
        return Extraction(features, vector.cpu().numpy().astype(np.float32))

    def _joined(self, found: Sequence[Features], seen: Tensor, weight: float) -> Features:
        own = [torch.from_numpy(one.descriptors).to(self.device) for one in found]
        turned, upright = self._shares
        share = turned + (upright - turned) * weight
        still = own[1] if weight else None
        joined = self._projection.descriptors(own[0], still, seen, weight, share)
        return replace(found[0], descriptors=joined.float().cpu().numpy())


def weight_of(likelihood: float) -> float:
    """Of the upright descriptors of a photo that is the right way up with this likelihood, 0 to 1. Where
    it is open both kinds have weight, so that two looks at one thing match by either."""
    odds = likelihood / max(1 - likelihood, 1e-9) * (1 - _EVEN) / _EVEN
    weight = odds**_SHARPNESS / (1 + odds**_SHARPNESS)
    return 0.0 if weight < _LEAST else min(weight, 1 - _LEAST)
