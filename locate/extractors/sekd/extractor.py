"""SEKD as an extractor: pixels in, keypoints and descriptors out."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from locate.errors import WeightsError
from locate.extractors.base import ExtractorInfo, require_positive
from locate.extractors.blocks.detection import local_maxima, to_input
from locate.extractors.blocks.inference import (
    channels_last,
    default_device,
    grey_of,
    sizes_of,
)
from locate.extractors.blocks.pyramid import best_of_levels
from locate.extractors.bundled import bundled_weights
from locate.extractors.sekd.network import (
    CELL,
    RADIUS,
    SYSTEM,
    THRESHOLD,
    WIDTH,
    SEKDNetwork,
    heat_map,
    read,
)
from locate.extractors.weights import file_hash, load_into, load_network
from locate.types import Array, Extraction

RATIO = 0.85  # of Lowe's test: benchmarks/ablations/ratios.py
_LEVEL = 1e-5  # of a probability: less is an error of rounding
_PUBLISHED = (".pth", ".pt")


class SEKD:
    """SEKD."""

    def __init__(
        self,
        network: SEKDNetwork,
        weights_hash: str,  # sha256 of the file
        *,
        max_keypoints: int = 2048,  # the best are kept; the authors have 500
        max_side: int = 1024,  # the image is shrunk to at most this many pixels along its long side
        # Least probability of a keypoint. Since both classes weigh the same in training, most pixels
        # lie just below .5, and a little more or less here means many keypoints less or more.
        threshold: float = THRESHOLD,
        nms_radius: int = RADIUS,  # pixels around a keypoint in which nothing is more probable
        border: int = 4,  # pixels along the edges without keypoints; the authors have 0, the least is 1
        subpixel: bool = True,  # keypoints move to the top of a parabola; the authors' need not
        pyramid: bool = True,  # see `blocks.pyramid`; False for the one size of the authors
    ) -> None:
        require_positive(
            max_keypoints=max_keypoints, max_side=max_side, nms_radius=nms_radius, border=border
        )
        self.max_side = max_side
        self.device = default_device()
        self._network = channels_last(network.eval().requires_grad_(False), self.device)
        self._max_keypoints, self._threshold = max_keypoints, threshold
        self._radius, self._border = nms_radius, border
        self._subpixel, self._pyramid = subpixel, pyramid
        self.info = ExtractorInfo(
            name=SYSTEM,
            weights=weights_hash,
            settings={
                "max_keypoints": max_keypoints,
                "max_side": max_side,
                "threshold": threshold,
                "nms_radius": nms_radius,
                "border": border,
                "subpixel": subpixel,
                "pyramid": pyramid,
            },
            local_dim=WIDTH,
            ratio=RATIO,
        )

    @classmethod
    def from_pretrained(cls, weights: Path | None = None, **settings: Any) -> SEKD:
        """With weights of `locate train sekd`, or the authors' own file (sekd.pth of
        aliyun/Self-Evolving-Keypoint-Demo, MIT); `WeightsError` if the file does not fit."""
        weights = weights or bundled_weights(SYSTEM)
        if weights.suffix in _PUBLISHED:
            return cls(load_published(weights), file_hash(weights), **settings)
        network, _, digest = load_network(weights, SYSTEM, build)
        return cls(network, digest, **settings)

    def extract(
        self,
        pixels: Array,
        size: tuple[int, int] | None = None,
        *,
        local: bool = True,  # noqa: ARG002  there is nothing else to give
    ) -> Extraction:
        """H x W x 3 uint8, RGB -> local features alone."""
        size, working = sizes_of(pixels, size, self.max_side)
        grey = grey_of(pixels, working)
        most = self._max_keypoints
        return best_of_levels(self._level, grey, size, most, pyramid=self._pyramid)

    def _level(self, grey: Array) -> tuple[Array, Array, Array]:
        """Of an image H x W uint8, best first: points in its pixels, scores, descriptors."""
        with torch.inference_mode():
            logits, coarse = self._network(to_input(grey, self.device, CELL) / 255)
            heat = heat_map(logits)[0, : grey.shape[0], : grey.shape[1]]  # without what was added
            found, scores = self._find(heat)
            points = parabola_peaks(heat, found) if self._subpixel else found.to(heat.dtype)
            descriptors = read(coarse, points[None])[0]
        return points.cpu().numpy(), scores.cpu().numpy(), descriptors.cpu().numpy()

    def _find(self, heat: Tensor) -> tuple[Tensor, Tensor]:
        """The most probable keypoints of a heat map, best first: N x 2 int64 (x, y), N scores."""
        height, width = heat.shape
        found = local_maxima(heat[None], self._radius)[0] & (heat > self._threshold)
        lowest = -functional.max_pool2d(-heat[None], 3, 1, 1)[0]
        found &= heat > lowest + _LEVEL  # where all is level nothing is a maximum
        inner = torch.zeros_like(found)
        inner[self._border : height - self._border, self._border : width - self._border] = True
        rows, columns = torch.nonzero(found & inner, as_tuple=True)
        scores = heat[rows, columns]
        best = torch.argsort(scores, descending=True, stable=True)[: self._max_keypoints]
        return torch.stack((columns, rows), dim=1)[best], scores[best]


def parabola_peaks(heat: Tensor, points: Tensor) -> Tensor:
    """Local maxima N x 2 (x, y), off the border, moved along each axis to the top of the parabola
    through three pixels, by 1 at most; where these are level, not at all."""
    x, y = points.unbind(dim=1)
    here = heat[y, x]

    def step(before: Tensor, after: Tensor) -> Tensor:
        bend = before - 2 * here + after
        return torch.where(bend < 0, (before - after) / (2 * bend.clamp(max=-1e-12)), 0).clamp(
            -1, 1
        )

    steps = step(heat[y, x - 1], heat[y, x + 1]), step(heat[y - 1, x], heat[y + 1, x])
    return points + torch.stack(steps, dim=1)


def build(settings: Mapping[str, Any]) -> SEKDNetwork:  # noqa: ARG001
    """The network of a weights file, with random weights."""
    return SEKDNetwork()


def load_published(path: Path) -> SEKDNetwork:
    """The network with the authors' weights; `WeightsError` if that is not what the file holds.

    For the commands they are written as weights of ours:
    `save_weights(out, load_published(path).state_dict(), Record("sekd", licence="MIT"))`."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        tensors = dict(held["state_dict"])
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist; name the authors' sekd.pth") from None
    except (
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise WeightsError(f"{path} does not hold the authors' weights ({error})") from error
    network = SEKDNetwork()
    load_into(network, tensors, path)
    return network
