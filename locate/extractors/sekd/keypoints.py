"""The keypoints of training photos, found by the network as it was when a stage began.

That network and all that it found lie in the cache, by the hash of its weights: photos are labelled
while the stage goes on, and a training that was killed takes up what is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from locate.errors import InputError
from locate.extractors.blocks.inference import channels_last, default_device
from locate.extractors.sekd.labels import best_points, detected, odds_of_maxima, reliable
from locate.extractors.sekd.network import CELL, SYSTEM, SEKDNetwork
from locate.extractors.weights import Record, load_network, save_weights
from locate.training.data.photos import PhotoPool, name_fraction
from locate.types import Array
from locate.util.files import atomic_write

RANDOM, DETECTED, RELIABLE = "random", "detected", "reliable"
_BORDERS = {RANDOM: 1, DETECTED: 1, RELIABLE: 4}  # without keypoints, in radii of suppression
_LEAST_SIDE = 32  # pixels; smaller photos are left out
_ASIDE = 6  # held-out photos that are labelled
_LEVELLED = 24  # photos


@dataclass(frozen=True)
class Finding:
    """How keypoints are found."""

    views: int  # of a photo besides itself
    most: Mapping[str, int]  # of 240 x 320 pixels and in proportion, the best; by kind
    thresholds: Mapping[str, float]  # below which there is none, by kind
    radius: int  # pixels around a keypoint in which nothing is better
    side: int  # pixels of the long side of photos


class Keypoints:
    """Photos with their keypoints, more and more of them."""

    def __init__(self, pool: PhotoPool, cache: Path, finding: Finding) -> None:
        self._pool, self._cache, self._finding = pool, cache, finding
        cache.mkdir(parents=True, exist_ok=True)
        # Held-out photos come first, a few; then the others, in an order of their names alone.
        order = np.argsort([name_fraction(name) for name in pool.names], kind="stable")
        self._aside = set(pool.held_out.tolist())
        self._order = [int(i) for i in order if i in self._aside][:_ASIDE]
        self._order += [int(i) for i in order if i not in self._aside]
        self._state: dict[str, Any] = {"stage": "", "digest": "", "tried": 0, "photos": []}

    def begin(self, stage: str, kind: str, network: SEKDNetwork) -> SEKDNetwork:
        """Keypoints of this kind are to be found by `network` as it is; but as it was when the stage
        began, if a training is resumed in the middle of it. That network, for use alone."""
        self._kind = kind
        if self._state["stage"] != stage:
            file = self._cache / "network.safetensors"
            digest = save_weights(file, network.state_dict(), Record(SYSTEM))[:12]
            file.replace(self._cache / f"{digest}.safetensors")
            self._state = {"stage": stage, "digest": digest, "tried": 0, "photos": []}
        path = self._cache / f"{self._state['digest']}.safetensors"
        before, _, _ = load_network(path, SYSTEM, lambda _: SEKDNetwork())
        self._network = channels_last(before.eval().requires_grad_(False), default_device())
        for index in self._state["photos"]:  # in case that somebody has tidied up
            self._label(index)
        return self._network

    def find(self, wanted: int) -> None:
        """Go on until so many photos are tried."""
        for index in self._order[self._state["tried"] : wanted]:
            if self._pool.usable(index):
                self._label(index)
                self._state["photos"].append(index)
            self._state["tried"] += 1

    def draw(self, rng: np.random.Generator, *, held_out: bool) -> tuple[Array, Array]:
        """A random photo H x W x 3 uint8, and its keypoints N x 2 float64 (x, y), best first."""
        able = [i for i in self._state["photos"] if (i in self._aside) == held_out]
        if not able:
            raise InputError("sekd: no photo can be used; it needs some of 32 pixels or more")
        index = able[int(rng.integers(len(able)))]
        return self._read(index), np.load(self._file(index)).astype(np.float64)

    def level(self, network: SEKDNetwork, most: int, probability: float) -> None:
        """Move the log-odds of `network`, in evaluation mode, so that in some of the photos about `most`
        maxima of 240 x 320 pixels are more probable than this."""
        network.eval()
        photos = [i for i in self._state["photos"] if i not in self._aside][:_LEVELLED]
        greys = [cv2.cvtColor(self._read(i), cv2.COLOR_RGB2GRAY) for i in photos]
        odds = np.sort(np.concatenate([odds_of_maxima(network, grey) for grey in greys]))[::-1]
        wanted = round(most * sum(grey.size for grey in greys) / (240 * 320))
        least = float(odds[min(wanted, len(odds) - 1)])
        bias = network.detector.bias
        assert bias is not None
        with torch.no_grad():
            bias[1] += math.log(probability / (1 - probability)) - least

    def border(self) -> int:
        """Pixels along the edges of photos in which no keypoint is looked for."""
        return _BORDERS[self._kind] * self._finding.radius

    def state(self) -> dict[str, Any]:
        return {**self._state, "photos": list(self._state["photos"])}

    def set_state(self, state: dict[str, Any]) -> None:
        self._state = {**state, "photos": list(state["photos"])}

    def _file(self, index: int) -> Path:
        return self._cache / f"{self._state['digest']}-{self._kind}-{index}.npy"

    def _label(self, index: int) -> None:
        """Find the keypoints of a photo, unless a run that was killed has done it."""
        file = self._file(index)
        if not file.exists():
            points = self._find(index)
            with atomic_write(file) as stream:
                np.save(stream, points)

    def _find(self, index: int) -> Array:
        """N x 2 float32, in pixels of the photo as `_read` gives it."""
        photo, how = self._read(index), self._finding
        if min(photo.shape[:2]) < _LEAST_SIDE:
            return np.zeros((0, 2), np.float32)
        grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
        rng = np.random.default_rng(index)  # the same whenever a photo is labelled
        if self._kind == RANDOM:
            heat = rng.random(grey.shape, np.float32)
        else:
            heat = (detected if self._kind == DETECTED else reliable)(
                self._network, grey, rng, how.views
            )
        most = round(how.most[self._kind] * heat.size / (240 * 320))
        least = how.thresholds.get(self._kind, 0.0)
        return best_points(heat, least, how.radius, self.border(), most)

    def _read(self, index: int) -> Array:
        """A photo, cut to multiples of a cell."""
        photo = self._pool.read(index, self._finding.side)
        height, width = (max(CELL, side // CELL * CELL) for side in photo.shape[:2])
        return photo[:height, :width]
