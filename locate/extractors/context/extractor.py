"""Steered features with the context that GeM's network sees around them, and GeM's global descriptor.

A corner of a window looks like any other; which window of which facade it belongs to is known to a
network that was trained to recognise things, and that runs for the global descriptor anyway. What its
maps say at a keypoint joins the keypoint's own descriptor, as in Luo et al., "ContextDesc", CVPR 2019
(section 3.2, where both are trained; here one linear map is fitted, `projection`).

ImageNet's photos are the right way up, as most are. What is not turned needs no descriptors that a turn
does not change, and those tell less apart. So with the style `WIDE`, where a photo is judged to be the
right way up (`upright`) its descriptors are not turned, and the context has the greater part of a
cosine. More of them are right across seasons and at night, but things of one kind, an elephant and
another, are matched as well: where a match has to prove a place, `PLAIN` does it better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from locate.errors import WeightsError
from locate.extractors import efficientnet
from locate.extractors.base import ExtractorInfo
from locate.extractors.context.projection import Projection
from locate.extractors.context.upright import Upright, layout
from locate.extractors.detection import resize_image, to_input
from locate.extractors.grids import sample
from locate.extractors.layers import GeM
from locate.extractors.precision import precision
from locate.extractors.shipped import SHIPPED
from locate.extractors.steered.extractor import Steered
from locate.extractors.weights import file_hash, load_weights
from locate.pixels import fit_size, resize_points
from locate.types import Array, Extraction, Features

SYSTEM, WIDE_SYSTEM = "context", "context-wide"
_EXPONENT = 2.0  # of GeM, as in `gem`
_MULTIPLE = (
    32  # only of such sides do all strides divide the image, and cells lie where `grid` says
)
_SURE = 0.6  # a photo that is upright with this likelihood is


@dataclass(frozen=True)
class Style:
    """What one set of weights is for.

    Attributes:
        system: name of the extractor.
        taps: of the deep network.
        shares: of a cosine that are the context's, in turned photos and in upright ones.
        judges: whether photos are upright; otherwise all are treated as turned.
        ratio, query_ratio: of Lowe's test, see `ExtractorInfo`.
    """

    system: str
    taps: tuple[str, ...]
    shares: tuple[float, float]
    judges: bool
    ratio: float
    query_ratio: float | None = None


# Ratios: neighbours share their context, so that it tells them less apart. In queries things of one
# kind, which share theirs as well, must not pass for one thing (`docs/experiments.md`, 17 and 27).
PLAIN = Style(SYSTEM, ("stage5", "stage7"), (0.5, 0.5), judges=False, ratio=0.95, query_ratio=0.9)
WIDE = Style(
    WIDE_SYSTEM, ("stage3", "stage5", "stage6", "stage7"), (0.5, 0.85), judges=True, ratio=0.98
)  # strides 8, 16, 32 and 32: what is there as well as what is around
STYLES = {style.system: style for style in (PLAIN, WIDE)}


class DeepMaps:
    """EfficientNet-Lite0 on a photo that is shrunk so that its long side is at most `max_side`: its
    maps for a context, and their GeM-pooled head.

    Args:
        network: with its weights.
        taps: the maps of a context.
        max_side: as above.
    """

    def __init__(
        self,
        network: efficientnet.EfficientNetLite0,
        taps: Sequence[str] = PLAIN.taps,
        max_side: int = 448,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.taps, self.max_side = tuple(taps), max_side
        plain = efficientnet.folded(network, precision(self.device)).to(self.device)
        self._network = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._pool = GeM(_EXPONENT).eval().to(self.device)

    def look(self, pixels: Array) -> tuple[dict[str, Tensor], tuple[int, int]]:
        """Maps by tap, and the size (width, height) of the image that they are of."""
        size = fit_size((pixels.shape[1], pixels.shape[0]), self.max_side)
        x = to_input(resize_image(pixels, size), self.device, _MULTIPLE)
        maps = self._network.taps(self._network.normalise(x), {*self.taps, "head"})
        return {tap: one.float() for tap, one in maps.items()}, size

    def global_vector(self, maps: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """1280 numbers, of length 1, from the cells that saw the image."""
        pooled: Tensor = self._pool(self._cropped(maps, "head", size))
        return functional.normalize(pooled, dim=1)[0]

    def layout(self, maps: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """What tells whether the photo is the right way up, see `upright`."""
        return layout(self.global_vector(maps, size), self._cropped(maps, "stage7", size)[0])

    def _cropped(self, maps: Mapping[str, Tensor], tap: str, size: tuple[int, int]) -> Tensor:
        """The cells that saw the image, and not what it was padded with."""
        columns, rows = self._network.grid(tap).cells(size)
        return maps[tap][..., : max(rows, 1), : max(columns, 1)]

    def around(
        self, maps: Mapping[str, Tensor], points: Array, projection: Tensor | None = None
    ) -> Tensor:
        """N x K: the maps at N x 2 points in pixels of the image that they are of.

        Args:
            projection: C x K; N x C then. Cells are projected, not points: both are linear, and of
                cells there are fewer.
        """
        places = torch.from_numpy(points).to(self.device, torch.float32)[None]
        cells = [maps[tap] for tap in self.taps]
        if projection is not None:
            parts = torch.split(projection, [one.shape[1] for one in cells], dim=1)
            pairs = zip(cells, parts, strict=True)
            cells = [functional.conv2d(one, part[:, :, None, None]) for one, part in pairs]
        found = [
            sample(one, self._network.grid(tap).to_map(places))[0]
            for tap, one in zip(self.taps, cells, strict=True)
        ]
        return torch.cat(found, dim=-1) if projection is None else torch.stack(found).sum(dim=0)


class Context:
    """Args:
    steered: gives the keypoints and their own descriptors.
    deep: gives the context and the global descriptor; with the taps of `style`.
    projection: joins them.
    weights_hash: of everything that was learned.
    style: what it is for.
    upright: judges whether a photo is the right way up; needed if `style` says so.
    """

    def __init__(
        self,
        steered: Steered,
        deep: DeepMaps,
        projection: Projection,
        weights_hash: str,
        style: Style = PLAIN,
        upright: Upright | None = None,
    ) -> None:
        self.max_side = steered.max_side
        self.device = steered.device
        self._steered, self._deep, self._shares = steered, deep, style.shares
        self._projection = Projection(*(part.to(self.device) for part in projection))
        self._upright: Upright | None = None
        judged: dict[str, Any] = {}
        if style.judges:
            assert upright is not None
            self._upright = Upright(*(part.to(self.device) for part in upright))
            judged = {"shares": list(style.shares), "sure": _SURE}
        self.info = ExtractorInfo(
            name=style.system,
            weights=weights_hash,
            settings={
                "steered": dict(steered.info.settings),
                "taps": list(deep.taps),
                "p": _EXPONENT,
                "global side": deep.max_side,
            }
            | judged,
            global_dim=efficientnet.EfficientNetLite0.widths["head"],
            local_dim=len(projection.joint),
            # Photos that are judged to be the right way up are not turned.
            rotation_invariant=steered.info.rotation_invariant and not style.judges,
            ratio=style.ratio,
            query_ratio=style.query_ratio,
        )

    @classmethod
    def from_pretrained(
        cls, weights: Path | None = None, *, style: Style = PLAIN, **settings: Any
    ) -> Context:
        """Args:
            weights: a file of `benchmarks/context.py`; None for that which comes with the package.
            style: that the weights are for.
            settings: of `Steered`.

        Raises:
            WeightsError: the file is missing, does not fit, or was fitted to other steered features.
        """
        weights = weights or SHIPPED[style.system]
        tensors, record = load_weights(weights, style.system)
        steered = Steered.from_pretrained(**settings)
        if record.settings.get("steered") != steered.info.weights:
            raise WeightsError(
                f"{weights} was fitted to other weights of steered than those of this installation; "
                "fit it again with benchmarks/context.py"
            )
        upright = None
        try:
            if style.judges:
                upright = Upright(tensors.pop("upright.weight"), tensors.pop("upright.bias"))
            projection = Projection(**tensors)
        except (KeyError, TypeError) as error:
            raise WeightsError(f"{weights} does not fit: {error}") from error
        imagenet = efficientnet.imagenet_weights_path()
        deep = DeepMaps(efficientnet.load_imagenet(imagenet), style.taps)
        hashes = (file_hash(imagenet), steered.info.weights or "", file_hash(weights))
        return cls(steered, deep, projection, " ".join(hashes), style, upright)

    def extract(
        self, pixels: Array, size: tuple[int, int] | None = None, *, local: bool = True
    ) -> Extraction:
        with torch.inference_mode():
            maps, small = self._deep.look(pixels)
            vector = self._deep.global_vector(maps, small).cpu().numpy()
            features = self._features(pixels, size, maps, small) if local else None
        return Extraction(features, vector.astype(np.float32))

    def _features(
        self,
        pixels: Array,
        size: tuple[int, int] | None,
        maps: Mapping[str, Tensor],
        small: tuple[int, int],
    ) -> Features:
        upright = None  # as steered's setting says
        if self._upright is not None:
            upright = self._upright.likelihood(self._deep.layout(maps, small)) > _SURE
        found = self._steered.extract(pixels, size, upright=upright).features
        assert found is not None
        places = resize_points(found.keypoints, found.image_size, small)
        seen = self._deep.around(maps, places, self._projection.context)
        own = torch.from_numpy(found.descriptors).to(self.device)
        joined = self._projection.descriptors(own, seen, self._shares[bool(upright)])
        return Features(
            keypoints=found.keypoints,
            scores=found.scores,
            descriptors=joined.float().cpu().numpy(),
            image_size=found.image_size,
        )
