"""UR2KiD as an extractor: one network, local features and a global descriptor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from locate.errors import InputError
from locate.extractors.backbones.registry import create_backbone, load_backbone
from locate.extractors.base import ExtractorInfo, Size
from locate.extractors.blocks.corners import to_corners
from locate.extractors.blocks.detection import resize_image, suppress, to_input
from locate.extractors.blocks.inference import default_device, for_use, scaled, sizes_of
from locate.extractors.bundled import BUNDLED
from locate.extractors.ur2kid.detection import group_responses, keypoints
from locate.extractors.ur2kid.network import UR2KiDNetwork
from locate.extractors.weights import file_hash, load_into, load_weights, warn_untrained
from locate.pixels import fit_size, resize_points
from locate.types import Array, Extraction, Features

SYSTEM = "ur2kid"
SCALES = (0.5, 1.0)  # zoom needs a second, which costs a quarter
RATIO = 0.98  # of Lowe's test: benchmarks/ablations/ratios.py, of the untrained start


class UR2KiD:
    """UR2KiD. Of the global descriptor `global_side` is what `max_side` is of the features, since
    details are no help there: a larger image runs through the network twice; 0 for once."""

    def __init__(
        self,
        network: UR2KiDNetwork,
        weights_hash: str,  # sha256 of the file
        *,
        max_keypoints: int = 2048,  # the strongest are kept
        max_side: int = 1024,  # the image is shrunk to at most this many pixels along its long side
        global_side: int = 448,
        strictness: float = 1.0,  # how many deviations above its mean a group's response must be
        # Of what `max_side` allows: features are looked for at all these sizes. (1,) for the paper's
        # single one.
        scales: Sequence[float] = SCALES,
        # Pixels, of what is looked at, within which the nearest corner of the image places a keypoint;
        # without one it is dropped. 0 for the paper's, which the map of responses places.
        corner_distance: float = 5.0,
    ) -> None:
        if min(max_keypoints, max_side, global_side + 1) < 1:
            raise InputError(
                "max_keypoints and max_side must be at least 1 and global_side at least 0, "
                f"got {max_keypoints}, {max_side} and {global_side}"
            )
        if not scales or min(scales) <= 0:
            raise InputError(f"scales must be above 0, got {list(scales)}")
        self.max_side = max_side
        self._global_side = global_side or max_side
        self.device = default_device()
        self._network = for_use(network, self.device)
        self._max_keypoints = max_keypoints
        self._strictness = strictness
        self._scales = tuple(scales)
        self._corner_distance = corner_distance
        sides = {"max_side": max_side, "global_side": global_side}
        found = {
            "max_keypoints": max_keypoints,
            "strictness": strictness,
            "scales": list(self._scales),
        }
        found["corner_distance"] = corner_distance
        settings = network_settings(network) | sides | found
        dims = network.global_dim, network.dim
        self.info = ExtractorInfo(SYSTEM, weights_hash, settings, *dims, ratio=RATIO)

    @classmethod
    def from_pretrained(
        cls,
        weights: Path | None = None,
        *,
        backbone: str | None = None,
        backbone_weights: Path | None = None,
        **settings: Any,
    ) -> UR2KiD:
        """With the weights that come with `locate`, or those of `locate train ur2kid`, which say what
        backbone they are for; or, where a `backbone` is named, "lite0", "resnet50" or "resnet101", the
        untrained start on ImageNet's weights. `WeightsError` if a file does not fit."""
        if weights is None and backbone is None:
            weights = BUNDLED.get(SYSTEM)
        if weights is not None:
            tensors, record = load_weights(weights, SYSTEM)
            network = build(record.settings)
            never_used = network.state_dict().keys() - trained_tensors(network).keys()
            random = {name: network.state_dict()[name] for name in never_used}
            load_into(network, random | tensors, weights)
            return cls(network, file_hash(weights), **settings)
        network, digest = start(backbone or "lite0", backbone_weights)
        words = "ur2kid: no trained weights are given, so this is the untrained start on ImageNet's"
        warn_untrained(SYSTEM, words)
        return cls(network, digest, **settings)

    def extract(self, pixels: Array, size: Size | None = None, *, local: bool = True) -> Extraction:
        size, working = sizes_of(pixels, size, self.max_side)
        small = fit_size(working, self._global_side)
        with torch.inference_mode():
            taps = self._taps(resize_image(pixels, small))
            vector = self._network.global_vector(self._cropped(taps, small))[0]
            # A photo that is small enough is not looked at twice.
            features = self._local(pixels, working, size, {small: taps}) if local else None
        return Extraction(features, vector.float().cpu().numpy())

    def _taps(self, pixels: Array) -> dict[str, Tensor]:
        taps: dict[str, Tensor] = self._network.taps(to_input(pixels, self.device))
        return taps

    def _cropped(self, taps: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
        """Of the maps to be pooled the cells that saw the image, and not what `to_input` added."""
        to_pool = self._network.to_pool(taps).items()
        return {name: self._network.grid_of(name).crop(maps, size) for name, maps in to_pool}

    def _local(
        self,
        pixels: Array,
        working: Size,
        size: Size,
        seen: Mapping[Size, Mapping[str, Tensor]],
    ) -> Features:
        """Features of all scales; `seen` are taps that are there already, by the size of the image."""
        found = []
        for scale in self._scales:
            level = scaled(working, scale)
            image = resize_image(pixels, level)
            maps = seen.get(level) or self._taps(image)
            points, scores, descriptors = self._detect_and_describe(maps, image)
            found.append((resize_points(points, level, size), scores, descriptors))
        points, scores, descriptors = (np.concatenate(parts) for parts in zip(*found, strict=True))
        # Within one scale neighbours are merged already.
        radius = self._network.pyramid.grid.stride * size[0] / working[0] if len(found) > 1 else 0.0
        best = suppress(points, scores, radius)[: self._max_keypoints]
        return Features(points[best].astype(np.float32), scores[best], descriptors[best], size)

    def _detect_and_describe(
        self, taps: Mapping[str, Tensor], image: Array
    ) -> tuple[Array, Array, Array]:
        """Of an image H x W x 3 uint8: N x 2 float64 places in its pixels, N scores, N x D descriptors,
        the best `max_keypoints`."""
        network = self._network
        columns, rows = network.fine.grid.cells((image.shape[1], image.shape[0]))
        fine = network.fine(taps)[0, :, :rows, :columns]
        # Merged within a cell of F, beyond which descriptors differ little.
        merge = network.pyramid.grid.stride / network.fine.grid.stride
        at, scores = keypoints(group_responses(fine, network.groups), self._strictness, merge)
        points = network.fine.grid.to_image(at)
        if self._corner_distance:
            kept, moved = to_corners(points.cpu().numpy(), image, self._corner_distance)
            points = torch.from_numpy(moved).to(points)
            scores = scores[torch.from_numpy(kept).to(scores.device)]
        points, scores = points[: self._max_keypoints], scores[: self._max_keypoints]
        plain = points.double(), scores.float(), network.describe(taps, points).float()
        return tuple(part.cpu().numpy() for part in plain)  # type: ignore[return-value]


def network_settings(network: UR2KiDNetwork) -> dict[str, Any]:
    """What `build` needs."""
    return {
        "backbone": network.backbone.name,
        "dim": network.dim,
        "groups": network.groups,
        "stride": network.stride,
        "global_dim": network.global_dim if network.whiten is not None else 0,
        "local_share": network.local_share,
    }


def build(settings: Mapping[str, Any]) -> UR2KiDNetwork:
    """The network of `network_settings`, its backbone with random weights."""
    rest = {key: value for key, value in settings.items() if key != "backbone"}
    return UR2KiDNetwork(create_backbone(settings["backbone"]), **rest)


def start(
    backbone: str = "lite0", backbone_weights: Path | None = None, **settings: Any
) -> tuple[UR2KiDNetwork, str]:
    """The network before training, the same every time; and the sha256 of the backbone's weights."""
    loaded, digest = load_backbone(backbone, backbone_weights)
    network = UR2KiDNetwork(loaded, **settings)
    network.balance()
    return network.eval(), digest


def trained_tensors(network: UR2KiDNetwork) -> dict[str, Tensor]:
    """The state without the backbone's classifier, which nothing here looks at."""
    left_out = ("backbone.fc.", "backbone._fc.")
    return {k: v for k, v in network.state_dict().items() if not k.startswith(left_out)}
