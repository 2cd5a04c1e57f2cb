"""Steered features with the context that GeM's network sees around them, and GeM's global descriptor.

A corner of a window looks like any other; which window of which facade it belongs to is known to a
network that was trained to recognise things, and that runs for the global descriptor anyway. What its
maps say at a keypoint joins the keypoint's own descriptor, as in Luo et al., "ContextDesc", CVPR 2019
(section 3.2, where both are trained; here one linear map is fitted, `projection`).
"""

from __future__ import annotations

from collections.abc import Mapping
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
from locate.extractors.detection import resize_image, to_input
from locate.extractors.grids import sample
from locate.extractors.layers import GeM
from locate.extractors.precision import precision
from locate.extractors.shipped import SHIPPED
from locate.extractors.steered.extractor import Steered
from locate.extractors.weights import file_hash, load_weights
from locate.pixels import fit_size, resize_points
from locate.types import Array, Extraction, Features

SYSTEM = "context"
TAPS = ("stage5", "stage7")  # strides 16 and 32: what is around, not what is there
_EXPONENT = 2.0  # of GeM, as in `gem`
_MULTIPLE = (
    32  # only of such sides do all strides divide the image, and cells lie where `grid` says
)
# Of Lowe's test: neighbours share their context, so that it tells them less apart. In queries things of
# one kind, which share theirs as well, must not pass for one thing (`docs/experiments.md`, 17).
_RATIO, _QUERY_RATIO = 0.95, 0.9


class DeepMaps:
    """EfficientNet-Lite0 on a photo that is shrunk so that its long side is at most `max_side`: its
    maps for a context, and their GeM-pooled head."""

    def __init__(self, network: efficientnet.EfficientNetLite0, max_side: int = 448) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.max_side = max_side
        plain = efficientnet.folded(network, precision(self.device)).to(self.device)
        self._network = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._pool = GeM(_EXPONENT).eval().to(self.device)

    def look(self, pixels: Array) -> tuple[dict[str, Tensor], tuple[int, int]]:
        """Maps by tap, and the size (width, height) of the image that they are of."""
        size = fit_size((pixels.shape[1], pixels.shape[0]), self.max_side)
        x = to_input(resize_image(pixels, size), self.device, _MULTIPLE)
        maps = self._network.taps(self._network.normalise(x), {*TAPS, "head"})
        return {tap: one.float() for tap, one in maps.items()}, size

    def global_vector(self, maps: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """1280 numbers, of length 1, from the cells that saw the image."""
        columns, rows = self._network.grid("head").cells(size)
        seen = maps["head"][..., : max(rows, 1), : max(columns, 1)]
        pooled: Tensor = self._pool(seen)
        return functional.normalize(pooled, dim=1)[0]

    def around(
        self, maps: Mapping[str, Tensor], points: Array, projection: Tensor | None = None
    ) -> Tensor:
        """N x K: the maps at N x 2 points in pixels of the image that they are of.

        Args:
            projection: C x K; N x C then. Cells are projected, not points: both are linear, and of
                cells there are fewer.
        """
        places = torch.from_numpy(points).to(self.device, torch.float32)[None]
        cells = [maps[tap] for tap in TAPS]
        if projection is not None:
            parts = torch.split(projection, [one.shape[1] for one in cells], dim=1)
            pairs = zip(cells, parts, strict=True)
            cells = [functional.conv2d(one, part[:, :, None, None]) for one, part in pairs]
        found = [
            sample(one, self._network.grid(tap).to_map(places))[0]
            for tap, one in zip(TAPS, cells, strict=True)
        ]
        return torch.cat(found, dim=-1) if projection is None else torch.stack(found).sum(dim=0)


class Context:
    """Args:
    steered: gives the keypoints and their own descriptors.
    deep: gives the context and the global descriptor.
    projection: joins them.
    weights_hash: of everything that was learned.
    """

    def __init__(
        self, steered: Steered, deep: DeepMaps, projection: Projection, weights_hash: str
    ) -> None:
        self.max_side = steered.max_side
        self.device = steered.device
        self._steered, self._deep = steered, deep
        self._projection = Projection(*(part.to(self.device) for part in projection))
        self.info = ExtractorInfo(
            name=SYSTEM,
            weights=weights_hash,
            settings={
                "steered": dict(steered.info.settings),
                "taps": list(TAPS),
                "p": _EXPONENT,
                "global side": deep.max_side,
            },
            global_dim=efficientnet.EfficientNetLite0.widths["head"],
            local_dim=len(projection.joint),
            rotation_invariant=steered.info.rotation_invariant,
            ratio=_RATIO,
            query_ratio=_QUERY_RATIO,
        )

    @classmethod
    def from_pretrained(cls, weights: Path | None = None, **settings: Any) -> Context:
        """Args:
            weights: a file of `benchmarks/context.py`; None for that which comes with the package.
            settings: of `Steered`.

        Raises:
            WeightsError: the file is missing, does not fit, or was fitted to other steered features.
        """
        weights = weights or SHIPPED[SYSTEM]
        tensors, record = load_weights(weights, SYSTEM)
        steered = Steered.from_pretrained(**settings)
        if record.settings.get("steered") != steered.info.weights:
            raise WeightsError(
                f"{weights} was fitted to other weights of steered than those of this installation; "
                "fit it again with benchmarks/context.py"
            )
        try:
            projection = Projection(**tensors)
        except TypeError as error:
            raise WeightsError(f"{weights} does not fit: {error}") from error
        imagenet = efficientnet.imagenet_weights_path()
        deep = DeepMaps(efficientnet.load_imagenet(imagenet))
        hashes = (file_hash(imagenet), steered.info.weights or "", file_hash(weights))
        return cls(steered, deep, projection, " ".join(hashes))

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
        found = self._steered.extract(pixels, size).features
        assert found is not None
        places = resize_points(found.keypoints, found.image_size, small)
        seen = self._deep.around(maps, places, self._projection.context)
        own = torch.from_numpy(found.descriptors).to(self.device)
        joined = self._projection.descriptors(own, seen)
        return Features(
            keypoints=found.keypoints,
            scores=found.scores,
            descriptors=joined.float().cpu().numpy(),
            image_size=found.image_size,
        )
