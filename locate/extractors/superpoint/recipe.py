"""How SuperPoint is trained (DeTone et al., CVPR Workshops 2018, sections 4 to 6).

MagicPoint, the detector alone, learns the corners of synthetic shapes. Its answers on photos, averaged
over random views (homographic adaptation), are labels from which it is trained again, twice. Then
detector and descriptor are trained together on pairs of views of one photo, with the labels of the last
detector.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from locate.errors import InputError, UnknownNameError
from locate.extractors.blocks.contrastive import info_nce
from locate.extractors.blocks.grids import sample
from locate.extractors.blocks.inference import channels_last, default_device
from locate.extractors.superpoint.detection import find_points
from locate.extractors.superpoint.losses import (
    cell_labels,
    correspondence,
    detector_loss,
    drawn_pairs,
    hinge_loss,
    valid_cells,
)
from locate.extractors.superpoint.network import CELL, GRID, SYSTEM, SuperPointNetwork, heat_map
from locate.extractors.weights import Record, file_hash, load_network, save_weights
from locate.pixels import apply_homography
from locate.training.data.adaptation import Detect, adapted_heat_map
from locate.training.data.homographies import HomographySettings, warped_pair
from locate.training.data.photometric import PhotometricSettings, photometric_noise
from locate.training.data.photos import PhotoPool, name_fraction
from locate.training.data.shapes import SHAPES, draw_shape
from locate.training.recipe import Batch, Recipe, Stage, set_tensors
from locate.training.steps import autocast
from locate.types import Array
from locate.util.files import atomic_write

SHAPES_STAGE, JOINT_STAGE = "shapes", "joint"
SOFTMAX, HINGE = "softmax", "hinge"
# Windows of about half the photo: its pixels are seen at the size at which they were labelled.
_VIEWS = HomographySettings(
    rotation=45, scale=(0.6, 1.6), perspective=0.2, full_circle=0.1, crop=(0.4, 0.8)
)
LIGHT = PhotometricSettings(noise=12.0, noise_chance=0.7, blur_chance=0.4, motion_chance=0.2)
_LABEL_THRESHOLD, _LABEL_RADIUS = 0.015, 4  # of the points that become labels
_STATISTICS = 16  # views, of which a network that is trained further takes its statistics
_EVERY = 50  # steps between additions to the labelled photos
_FIRST, _MORE = 24, 3  # photos that are labelled before the first step, and at each addition

_View = tuple[Array, Array, Array]  # image H x W x 3 uint8, points and valid H x W bool


@dataclass(eq=False)
class SuperPointRecipe(Recipe[SuperPointNetwork]):
    """MagicPoint on shapes, rounds of homographic adaptation, then both heads."""

    system = SYSTEM

    _: KW_ONLY
    width: int = 160  # pixels of the views, multiples of 8
    height: int = 120
    batch_size: int = 8  # images of shapes, or views of photos
    rounds: int = 2  # of homographic adaptation before the descriptor is trained
    homographies: int = 30  # of adaptation; the paper has 100
    labels: int = 300  # points of a labelled photo at most, for 240 x 320 pixels
    label_side: int = 320  # pixels of the long side at which photos are labelled
    # Of descriptors: "softmax" against all rivals at once, at places drawn in the cells; or the paper's
    # "hinge" between the centres of all cells, which learns far more slowly.
    descriptor_loss: str = SOFTMAX
    # lambda of the descriptor's loss, and of the hinge lambda_d of its positive pairs. By the paper's,
    # 0.0001 and 250, the descriptor hardly reaches the encoder.
    descriptor_weight: float = 1.0
    positive_weight: float = 250.0
    # Pixels between the centres of cells that are the same to the hinge; the paper has 8.
    near: float = 7.5
    stages: tuple[Stage, ...] = field(init=False)

    def __post_init__(self) -> None:
        sides = min(self.width, self.height) >= 64 and not (self.width % CELL or self.height % CELL)
        counts = min(self.batch_size, self.homographies, self.labels, self.label_side)
        if not sides or counts < 1 or self.batch_size % 2 or self.rounds < 1:
            raise InputError(
                "superpoint: width and height must be 64, 72, ... pixels, batch_size even, all counts "
                f"and rounds at least 1; got {self.width}, {self.height}, {self.batch_size}, "
                f"{self.homographies}, {self.labels}, {self.label_side}, {self.rounds}"
            )
        if self.descriptor_loss not in (SOFTMAX, HINGE):
            raise UnknownNameError("descriptor_loss", self.descriptor_loss, (SOFTMAX, HINGE))
        rounds = [
            Stage(f"adaptation {i + 1}", steps=8000, learning_rate=1e-3) for i in range(self.rounds)
        ]
        self.stages = (
            Stage(SHAPES_STAGE, steps=20000, learning_rate=1e-3),
            *rounds,
            Stage(JOINT_STAGE, steps=40000, learning_rate=1e-3),
        )

    def prepare(self, data: Path, cache: Path) -> None:
        self._pool = PhotoPool.scan(data, held_out=None)
        self._cache = cache
        cache.mkdir(parents=True, exist_ok=True)
        self._labelled: list[int] = []  # photos, in the order in which they were labelled
        self._digest = ""  # of the detector that labelled them
        # Held-out photos are labelled first, a few; then the others, in an order of their names alone.
        order = np.argsort([name_fraction(name) for name in self._pool.names], kind="stable")
        aside = set(self._pool.held_out.tolist())
        self._order = [int(i) for i in order if i in aside][: _FIRST // 3]
        self._order += [int(i) for i in order if i not in aside]
        self.data_words = (
            f"synthetic shapes; {len(self._pool.train)} photos of {data.name}; "
            f"{len(self._pool.held_out)} photos held out"
        )

    def network(self) -> SuperPointNetwork:
        network = SuperPointNetwork(normalised=True)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        return channels_last(network, torch.device("cpu"))

    def start_from(self, network: SuperPointNetwork, tensors: Mapping[str, Tensor]) -> None:
        """Of the published network, in which there is no normalisation."""
        plain = SuperPointNetwork()
        set_tensors(plain, tensors, plain.state_dict())
        rng, size = np.random.default_rng(0), (self.width, self.height)
        photos = [self._pool.draw(rng, False, self.label_side) for _ in range(_STATISTICS)]
        views = [warped_pair(photo, rng, size, _VIEWS, LIGHT).image_a for photo in photos]
        network.unfuse(plain, _grey(np.stack(views)).to(next(network.parameters()).device))

    def begin(self, network: SuperPointNetwork, stage: Stage) -> Iterable[nn.Parameter]:
        network.train()
        self._labelled, self._digest = [], ""
        if stage.name != SHAPES_STAGE:
            self._label_more(network, stage, _FIRST)
        if stage.name == JOINT_STAGE:
            return network.parameters()
        # MagicPoint has no descriptors.
        return [p for name, p in network.named_parameters() if "D" not in name]

    # --- labels of photos, by the detector of the stage before

    def finish(self, network: SuperPointNetwork, stage: Stage) -> None:
        if stage.name != JOINT_STAGE:
            save_weights(self._teacher_path(stage), self.tensors(network), Record(SYSTEM))

    def refresh_every(self, stage: Stage) -> int:
        return 0 if stage.name == SHAPES_STAGE else _EVERY

    def refresh(self, network: SuperPointNetwork, stage: Stage, step: int) -> None:
        if stage.name != SHAPES_STAGE:
            self._label_more(network, stage, _FIRST + _MORE * (step // _EVERY))

    def _label_more(self, network: SuperPointNetwork, stage: Stage, wanted: int) -> None:
        """Label photos by the detector of the stage before until so many are."""
        path = self._teacher_path(self.stages[self.stages.index(stage) - 1])
        if (
            not path.exists()
        ):  # all stages are tried out before the first, to see how long they take
            save_weights(path, self.tensors(network), Record(SYSTEM))
        digest, teacher = file_hash(path)[:12], None
        for index in self._order[len(self._labelled) : wanted]:
            file = self._cache / f"{digest}-{index}.npy"  # a run that was killed has left some
            if not file.exists():
                teacher = teacher or _detector(path)
                with atomic_write(file) as stream:
                    np.save(stream, self._label(teacher, index))
            self._labelled.append(index)
        self._digest = digest

    def state(self) -> dict[str, Any]:
        return {"labelled": list(self._labelled), "digest": self._digest}

    def set_state(self, state: dict[str, Any]) -> None:
        self._labelled, self._digest = list(state["labelled"]), state["digest"]

    def _teacher_path(self, stage: Stage) -> Path:
        return self._cache / f"{stage.name.replace(' ', '-')}.safetensors"

    def _label(self, detect: Detect, index: int) -> Array:
        """Points of a photo, N x 2 float32 in pixels of it at `label_side`; none of a broken file."""
        if not self._pool.usable(index):
            return np.zeros((0, 2), np.float32)
        grey = cv2.cvtColor(self._read(index), cv2.COLOR_RGB2GRAY)
        rng = np.random.default_rng(index)  # the same whenever a photo is labelled
        heat = adapted_heat_map(detect, grey, rng, self.homographies)
        most = round(self.labels * heat.size / (240 * 320))
        points, _ = find_points(
            torch.from_numpy(heat), _LABEL_THRESHOLD, _LABEL_RADIUS, _LABEL_RADIUS, most
        )
        return points.numpy().astype(np.float32)

    def _read(self, index: int) -> Array:
        """A photo at `label_side`, cut to multiples of a cell."""
        photo = self._pool.read(index, self.label_side)
        height, width = (side // CELL * CELL for side in photo.shape[:2])
        return photo[:height, :width]

    # --- batches

    def batch(self, stage: Stage, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """images: B x 1 x H x W, 0 to 1; points, valid: B x H x W bool. Of photos, pairs of views: a and
        b in turn, and b_from_a, B / 2 x 3 x 3."""
        if stage.name == SHAPES_STAGE:
            return _stacked([self._shape(rng) for _ in range(self.batch_size)])
        pairs = [self._pair(rng, held_out) for _ in range(self.batch_size // 2)]
        batch = _stacked([view for views, _ in pairs for view in views])
        return batch | {
            "b_from_a": torch.from_numpy(np.stack([found for _, found in pairs])).float()
        }

    def _shape(self, rng: np.random.Generator) -> _View:
        kind = list(SHAPES)[int(rng.integers(len(SHAPES)))]
        size = (self.width, self.height)
        drawn = draw_shape(kind, rng, size)
        image = photometric_noise(np.repeat(drawn.image[..., None], 3, axis=2), rng, LIGHT)
        return image, _dotted(drawn.corners, size), np.ones(size[::-1], np.bool_)

    def _pair(self, rng: np.random.Generator, held_out: bool) -> tuple[list[_View], Array]:
        aside = set(self._pool.held_out.tolist())
        able = [i for i in self._labelled if (i in aside) == held_out and self._pool.usable(i)]
        index = able[int(rng.integers(len(able)))]
        points = np.load(self._cache / f"{self._digest}-{index}.npy").astype(np.float64)
        size = (self.width, self.height)
        pair = warped_pair(self._read(index), rng, size, _VIEWS, LIGHT)
        views = [
            (image, _dotted(apply_homography(view, points), size) & valid, valid)
            for image, view, valid in (
                (pair.image_a, pair.a_from_image, pair.valid_a),
                (pair.image_b, pair.b_from_image, pair.valid_b),
            )
        ]
        return views, pair.b_from_a

    def losses(self, network: SuperPointNetwork, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        encoded = network.encode(batch["images"])
        valid = valid_cells(batch["valid"])
        labels = cell_labels(batch["points"])
        found = {"detector": detector_loss(network.detect(encoded), labels, valid)}
        if stage.name == JOINT_STAGE:
            described = network.describe(encoded)
            with torch.autocast(described.device.type, enabled=False):  # cosines need the digits
                found["descriptor"] = self._descriptor_loss(described, batch, valid)
        loss = 2 * found["detector"]  # L_p of both views; the mean is over all
        loss = loss + self.descriptor_weight * found.get("descriptor", 0.0)
        return {"loss": loss, **found}

    def _descriptor_loss(self, described: Tensor, batch: Batch, valid: Tensor) -> Tensor:
        a, b = described[::2], described[1::2]
        b_from_a = batch["b_from_a"]
        if self.descriptor_loss == HINGE:
            same = correspondence(b_from_a, (a.shape[-2], a.shape[-1]), self.near)
            return hinge_loss(a, b, same, valid[1::2], self.positive_weight)
        here, there, counted = drawn_pairs(b_from_a, batch["valid"][::2], batch["valid"][1::2])
        at_a, at_b = (
            functional.normalize(sample(maps, GRID.to_map(points)), dim=2)
            for maps, points in ((a, here), (b, there))
        )
        return info_nce(at_a, at_b, counted)

    def tensors(self, network: SuperPointNetwork) -> dict[str, Tensor]:
        return dict(network.fused().state_dict())

    def settings(self) -> dict[str, Any]:
        return {}


def _detector(path: Path) -> Detect:
    """What a network finds in grey images: V x H x W uint8 -> V x H x W float32."""
    network, _, _ = load_network(path, SYSTEM, lambda _: SuperPointNetwork())
    network = channels_last(network.eval().requires_grad_(False), default_device())

    def detect(images: Array) -> Array:
        given = torch.from_numpy(images)[:, None].to(default_device()).float() / 255
        with torch.inference_mode(), autocast(given.device):
            heat = heat_map(network.detect(network.encode(given)))
        return heat.float().cpu().numpy()

    return detect


def _dotted(points: Array, size: tuple[int, int]) -> Array:
    """H x W bool: the pixels nearest to points N x 2 that lie in an image of `size`."""
    dots = np.zeros(size[::-1], np.bool_)
    x, y = np.rint(points).astype(np.int64).T
    inside = (x >= 0) & (x < size[0]) & (y >= 0) & (y < size[1])
    dots[y[inside], x[inside]] = True
    return dots


def _grey(images: Array) -> Tensor:
    """B x H x W x 3 uint8 -> B x 1 x H x W, 0 to 1."""
    weights = np.array((0.299, 0.587, 0.114), np.float32)  # as OpenCV makes grey
    return torch.from_numpy(images.astype(np.float32) @ weights / 255)[:, None]


def _stacked(views: list[_View]) -> dict[str, Tensor]:
    images, points, valid = (np.stack(part) for part in zip(*views, strict=True))
    return {
        "images": _grey(images),
        "points": torch.from_numpy(points),
        "valid": torch.from_numpy(valid),
    }
