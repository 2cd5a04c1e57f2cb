"""How SEKD trains itself (Song et al., arXiv 2006.05077), on photos without any labels.

Every iteration has two stages of two steps each. "descriptor": keypoints are found by the detector as it
is (1), and descriptors learn to be told apart there, while the detector is kept (2). "detector":
keypoints are where descriptors are repeated and distinct (3), and the detector learns these, while
descriptors are kept (4). Before there is a detector, keypoints are random.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from locate.errors import InputError, UnknownNameError
from locate.extractors.blocks.contrastive import info_nce
from locate.extractors.blocks.inference import channels_last, default_device
from locate.extractors.sekd import losses as terms
from locate.extractors.sekd.keypoints import DETECTED, RANDOM, RELIABLE, Finding, Keypoints
from locate.extractors.sekd.network import (
    CELL,
    SYSTEM,
    THRESHOLD,
    SEKDNetwork,
    log_odds,
    read,
)
from locate.pixels import apply_homography
from locate.training.data.homographies import HomographySettings, WarpedPair, warped_pair
from locate.training.data.photometric import PhotometricSettings
from locate.training.data.photos import PhotoPool
from locate.training.recipe import Batch, Recipe, Stage, padded
from locate.types import Array

SOFTMAX, RATIO, MARGIN = "softmax", "ratio", "margin"
_DESCRIPTOR, _DETECTOR = "descriptor", "detector"
# Each of the authors' views is turned and sheared by up to 20 degrees, .8 to 1.2 times as large; here by
# more, so that turned photos are known again. Windows are about as large as the views, since keypoints
# were found at that scale.
_VIEWS = HomographySettings(
    rotation=90, scale=(0.5, 2.0), perspective=0, translation=0.1, anisotropy=1.8, crop=(0.55, 0.8)
)
_LIGHT = PhotometricSettings(blur_chance=0.2)
_EVERY = 50  # steps between additions to the photos whose keypoints are known
_FIRST, _MORE = 16, 4  # photos before the first step, and at each addition
_GREY = np.array((0.299, 0.587, 0.114), np.float32)  # as OpenCV makes it


@dataclass(eq=False)
class SEKDRecipe(Recipe[SEKDNetwork]):
    """Descriptor and detector in turn, each learning from the other."""

    system = SYSTEM

    _: KW_ONLY
    iterations: int = 5  # of both stages
    width: int = 160  # pixels of the views, multiples of 4
    height: int = 120
    pairs: int = 4  # of views in a batch
    # What comes first: "random" keypoints for the descriptor (the paper), or those that are "reliable"
    # by the descriptors of a random network, for the detector (the authors' code).
    start: str = RANDOM
    # Of descriptors: the authors' "ratio" and its other form, "margin", look at the hardest rival alone.
    # In a network that knows nothing it is nearer than what is right, so that the shortest way down is
    # to make all descriptors alike. Against all rivals at once, "softmax", there is none such.
    triplet: str = SOFTMAX
    views: int = 6  # of a photo, by which its keypoints are found; the authors have 12
    # Keypoints of a photo, for the descriptor and for the detector: the best so many of 240 x 320
    # pixels, and above these thresholds. With the authors', .46 and .85, their number moves from one
    # iteration to the next, and they may dwindle.
    points: int = 800
    labels: int = 400
    least_detected: float = 0.0
    least_reliable: float = 0.0
    radius: int = 3  # pixels around a keypoint in which nothing is better
    label_side: int = 240  # pixels of the long side at which keypoints are found
    keep_detector: float = 1.0  # weights of the losses
    keep_descriptor: float = 0.1
    repeatability: float = 1.0
    # Of the focal loss. Its mean is over all pixels, of which one in two hundred is a keypoint: with the
    # authors' 1 a short training learns to repeat a map that is the same everywhere.
    focal: float = 100.0
    stages: tuple[Stage, ...] = field(init=False)

    def __post_init__(self) -> None:
        sides = min(self.width, self.height) >= 64 and not (self.width % CELL or self.height % CELL)
        counts = (self.iterations, self.pairs, self.views, self.points, self.labels, self.radius)
        if not sides or min(counts) < 1 or self.label_side < 64:
            given = ", ".join(map(str, (self.width, self.height, self.label_side, *counts)))
            raise InputError(
                "sekd: width and height must be 64, 68, ... pixels, label_side at least 64, iterations, "
                f"pairs, views, points, labels and radius at least 1; got {given}"
            )
        for name, value, known in (
            ("start", self.start, (RANDOM, RELIABLE)),
            ("triplet", self.triplet, (SOFTMAX, RATIO, MARGIN)),
        ):
            if value not in known:
                raise UnknownNameError(f"{name} of sekd", value, known)
        names = [f"{part} {i + 1}" for i in range(self.iterations) for part in _PARTS]
        # Slower, the detector hardly parts keypoints from other pixels in a short training.
        rates = {_DESCRIPTOR: 1e-3, _DETECTOR: 3e-3}
        self.stages = tuple(
            Stage(name, steps=2000, learning_rate=rates[name.split()[0]], weight_decay=1e-8)
            for name in names[self.start == RELIABLE :]
        )

    def prepare(self, data: Path, cache: Path) -> None:
        pool = PhotoPool.scan(data, held_out=None)
        thresholds = {DETECTED: self.least_detected, RELIABLE: self.least_reliable}
        most = {RANDOM: self.points, DETECTED: self.points, RELIABLE: self.labels}
        finding = Finding(self.views, most, thresholds, self.radius, self.label_side)
        self._keypoints = Keypoints(pool, cache, finding)
        self.data_words = (
            f"{len(pool.train)} photos of {data.name}, keypoints its own; "
            f"{len(pool.held_out)} photos held out"
        )

    def network(self) -> SEKDNetwork:
        return SEKDNetwork()  # torch's random start, as the authors have it

    def begin(self, network: SEKDNetwork, stage: Stage) -> Iterable[nn.Parameter]:
        kind = RELIABLE if _is_detector(stage) else DETECTED
        if stage.name == self.stages[0].name and not _is_detector(stage):
            kind = RANDOM
        # What is kept is in evaluation mode and what learns in training mode, as the authors have it.
        self._before = self._keypoints.begin(stage.name, kind, network)
        self._keypoints.find(_FIRST)
        return channels_last(network.train(), default_device()).parameters()

    def refresh_every(self, stage: Stage) -> int:  # noqa: ARG002
        return _EVERY

    def refresh(self, network: SEKDNetwork, stage: Stage, step: int) -> None:  # noqa: ARG002
        self._keypoints.find(_FIRST + _MORE * (1 + step // _EVERY))

    def finish(self, network: SEKDNetwork, stage: Stage) -> None:
        """In the end the log-odds of keypoints are moved, all by the same, so that at the extractor's
        threshold there are about as many as were learned. By the authors' balance of classes alone
        all probabilities stay near .5 for long, and there might be none."""
        if stage.name == self.stages[-1].name:
            self._keypoints.level(network, self.labels, THRESHOLD)

    def state(self) -> dict[str, Any]:
        return self._keypoints.state()

    def set_state(self, state: dict[str, Any]) -> None:
        self._keypoints.set_state(state)

    def batch(self, stage: Stage, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """images: 2 P x 1 x H x W, 0 to 1, a and b of each pair in turn. For the descriptor, ends:
        P x N x 4, keypoints (x, y) in a and in b, and counted: P x N bool, which are there. For the
        detector, points, valid: 2 P x H x W bool, and b_from_a: P x 3 x 3."""
        pairs, keypoints, photos = [], [], []
        for _ in range(self.pairs):
            photo, points = self._keypoints.draw(rng, held_out=held_out)
            pairs.append(warped_pair(photo, rng, (self.width, self.height), _VIEWS, _LIGHT))
            keypoints.append(points)
            photos.append(photo.shape[:2])
        images = np.stack([image for pair in pairs for image in (pair.image_a, pair.image_b)])
        grey = torch.from_numpy(images.astype(np.float32) @ _GREY / 255)[:, None]
        if not _is_detector(stage):
            ends = [_common(*of_pair) for of_pair in zip(pairs, keypoints, strict=True)]
            most = max(2, *map(len, ends))
            counted = np.arange(most) < np.array([len(found) for found in ends])[:, None]
            named = {"ends": padded(ends, most), "counted": torch.from_numpy(counted)}
            return {"images": grey, **named}
        border = self._keypoints.border()
        dotted = [
            _dots(view, points, shape, border, (self.width, self.height))
            for pair, points, shape in zip(pairs, keypoints, photos, strict=True)
            for view in (pair.a_from_image, pair.b_from_image)
        ]
        points_in, judged = (torch.from_numpy(np.stack(part)) for part in zip(*dotted, strict=True))
        b_from_a = torch.from_numpy(np.stack([pair.b_from_a for pair in pairs])).float()
        return {"images": grey, "points": points_in, "valid": judged, "b_from_a": b_from_a}

    def losses(self, network: SEKDNetwork, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        if _is_detector(stage):
            return self._detector_losses(network, batch)
        return self._descriptor_losses(network, batch, first=stage.name == f"{_DESCRIPTOR} 1")

    def _descriptor_losses(
        self, network: SEKDNetwork, batch: Batch, *, first: bool
    ) -> dict[str, Tensor]:
        """Step 2: L = L_des + L_keep; the detector of a random network is not kept."""
        seen = network.look(batch["images"])
        coarse, ends, counted = network.describe(seen), batch["ends"], batch["counted"]
        a, b = read(coarse[0::2], ends[..., :2]), read(coarse[1::2], ends[..., 2:])
        positive, negative = terms.rivals(terms.distances(a, b), counted)
        if self.triplet == SOFTMAX:
            triplet = info_nce(a, b, counted)
        else:
            loss_of = terms.ratio_loss if self.triplet == RATIO else terms.margin_loss
            triplet = loss_of(positive, negative, counted)
        right = (positive < negative)[counted].float().mean() if counted.any() else triplet * 0
        shown = {"triplet": triplet, "right": right.detach()}
        if first or not self.keep_detector:
            return {"loss": triplet, **shown}
        with torch.no_grad():
            before = self._before.detect(self._before.look(batch["images"]))[0]
        kept = terms.detector_keep_loss(network.detect(seen)[0], before)
        return {"loss": triplet + self.keep_detector * kept, **shown, "kept": kept}

    def _detector_losses(self, network: SEKDNetwork, batch: Batch) -> dict[str, Tensor]:
        """Step 4: L = (FL(P, Y) + FL(P^, Y^)) / 2 + L_rep + L_keep, weighted."""
        seen = network.look(batch["images"])
        z, points, valid = log_odds(network.detect(seen)[0]), batch["points"], batch["valid"]
        # Of the batch; the authors' is of all photos, anew after steps 1 and 3.
        background = points.sum() / (valid.sum() - points.sum()).clamp(min=1)
        focal = terms.focal_loss(z, points, valid, background)
        index, shared = terms.corresponding(batch["b_from_a"], valid[0::2], valid[1::2])
        repeated = terms.repeatability_loss(z[0::2], z[1::2], index, shared)
        with torch.no_grad():
            before = self._before.describe(self._before.look(batch["images"]))
        kept = terms.descriptor_keep_loss(network.describe(seen), before)
        loss = self.focal * focal + self.repeatability * repeated + self.keep_descriptor * kept
        p = torch.sigmoid(z.detach())
        heights = {"p of points": p[points].mean(), "p of others": p[valid & ~points].mean()}
        return {"loss": loss, "focal": focal, "repeated": repeated, "kept": kept, **heights}

    def settings(self) -> dict[str, Any]:
        return {}


_PARTS = (_DESCRIPTOR, _DETECTOR)


def _is_detector(stage: Stage) -> bool:
    return stage.name.startswith(_DETECTOR)


def _common(pair: WarpedPair, points: Array) -> Array:
    """Points of the photo N x 2 that both views show: M x 4, (x, y) in a and in b."""
    a, b = (apply_homography(view, points) for view in (pair.a_from_image, pair.b_from_image))
    shown = _among(pair.valid_a, a) & _among(pair.valid_b, b)
    return np.concatenate((a, b), axis=1)[shown]


def _among(valid: Array, points: Array) -> Array:
    """Whether the pixel nearest to each of N x 2 points is there and is valid."""
    x, y = np.rint(points).astype(np.int64).T
    height, width = valid.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return np.asarray(inside & valid[y.clip(0, height - 1), x.clip(0, width - 1)])


def _dots(
    view_from_photo: Array,
    points: Array,
    shape: tuple[int, int],
    border: int,
    size: tuple[int, int],
) -> tuple[Array, Array]:
    """The pixels of a view of `size` (width, height) that are nearest to a keypoint, H x W bool, and
    those that are judged: what shows the photo, of `shape` (height, width), but for its border, in
    which none was looked for."""
    inner = np.zeros(shape, np.uint8)
    inner[border : shape[0] - border, border : shape[1] - border] = 1
    judged = cv2.warpPerspective(inner, view_from_photo, size, flags=cv2.INTER_NEAREST) > 0
    there = apply_homography(view_from_photo, points)
    x, y = np.rint(there[_among(judged, there)]).astype(np.int64).T
    dots = np.zeros_like(judged)
    dots[y, x] = True
    return dots, judged
