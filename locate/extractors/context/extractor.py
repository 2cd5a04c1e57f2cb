"""Steered features with the context that GeM's network sees around them, and GeM's global descriptor.

A corner of a window looks like any other; which window of which facade it belongs to is known to a
network that was trained to recognise things, and that runs for the global descriptor anyway. What its
maps say at a keypoint joins the keypoint's own descriptor, as in Luo et al., "ContextDesc", CVPR 2019
(section 3.2, where both are trained; here one linear map is fitted, `projection`).

ImageNet's photos are the right way up, as most are. What is not turned needs no descriptors that a turn
does not change, and those tell less apart. So where a photo is judged to be the right way up (`upright`)
its descriptors are not turned, and the context has the greater part of a cosine.
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

SYSTEM = "context"
TAPS = ("stage3", "stage5", "stage6", "stage7")  # strides 8, 16, 32, 32
_EXPONENT = 2.0  # of GeM, as in `gem`
_MULTIPLE = (
    32  # only of such sides do all strides divide the image, and cells lie where `grid` says
)
SHARES = (0.5, 0.85)  # of a cosine that are the context's: in turned photos, in upright ones
_SURE = 0.6  # a photo that is upright with this likelihood is
# Of Lowe's test: neighbours share their context, so that it tells them less apart.
_RATIO = 0.98


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
    upright: judges whether a photo is the right way up.
    weights_hash: of everything that was learned.
    shares: of a cosine that are the context's, in turned photos and in upright ones.
    """

    def __init__(
        self,
        steered: Steered,
        deep: DeepMaps,
        projection: Projection,
        upright: Upright,
        weights_hash: str,
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
                "shares": list(shares),
                "sure": _SURE,
                "p": _EXPONENT,
                "global side": deep.max_side,
            },
            global_dim=efficientnet.EfficientNetLite0.widths["head"],
            local_dim=len(projection.joint),
            rotation_invariant=False,  # only if it is not judged to be the right way up
            ratio=_RATIO,
        )

    @classmethod
    def from_pretrained(
        cls,
        weights: Path | None = None,
        *,
        shares: tuple[float, float] = SHARES,
        **settings: Any,
    ) -> Context:
        """Args:
            weights: a file of `benchmarks/context.py`; None for that which comes with the package.
            shares: as in the constructor.
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
            upright = Upright(tensors.pop("upright.weight"), tensors.pop("upright.bias"))
            projection = Projection(**tensors)
        except (KeyError, TypeError) as error:
            raise WeightsError(f"{weights} does not fit: {error}") from error
        imagenet = efficientnet.imagenet_weights_path()
        deep = DeepMaps(efficientnet.load_imagenet(imagenet))
        hashes = (file_hash(imagenet), steered.info.weights or "", file_hash(weights))
        return cls(steered, deep, projection, upright, " ".join(hashes), shares)

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
        upright = self._upright.likelihood(self._deep.layout(maps, small)) > _SURE
        found = self._steered.extract(pixels, size, upright=upright).features
        assert found is not None
        places = resize_points(found.keypoints, found.image_size, small)
        seen = self._deep.around(maps, places, self._projection.context)
        own = torch.from_numpy(found.descriptors).to(self.device)
        joined = self._projection.descriptors(own, seen, self._shares[upright])
        return Features(
            keypoints=found.keypoints,
            scores=found.scores,
            descriptors=joined.float().cpu().numpy(),
            image_size=found.image_size,
        )
