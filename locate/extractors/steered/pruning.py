"""A narrower steered network from a wider one: it sees what that sees, in less time.

The start is the wider one without its later residuals and the fields that count least (Li et al.,
"Pruning filters for efficient ConvNets", ICLR 2017; here by the weights that read a field, not by
those that make it). Then the narrow one learns to describe any spot of any view as the wide one does
(Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015), turned and upright."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from locate.errors import InputError
from locate.extractors.blocks.corners import corners, orientations
from locate.extractors.steered.equivariant import GroupConv
from locate.extractors.steered.fusion import fused
from locate.extractors.steered.network import SYSTEM, SteeredNetwork, build
from locate.extractors.weights import load_network
from locate.training.data.homographies import HomographySettings, random_view
from locate.training.data.photometric import PhotometricSettings, photometric_noise
from locate.training.data.photos import PhotoPool
from locate.training.recipe import Batch, Parameters, Recipe, Stage, images_to_tensor, require_views
from locate.types import Array

_READ_SIDE = 640  # pixels: photos are kept in memory at this size
_BORDER = 4.0  # pixels: no spot lies nearer to the border of a view
_SCALES = (1.0, 0.71, 0.5)  # of the pyramid in which corners are found
_WARP = HomographySettings(
    rotation=20, full_circle=0.4, scale=(0.7, 1.5), perspective=0.1, crop=(0.5, 1.0)
)
_LIGHT = PhotometricSettings(contrast=0.5, gamma=0.7, season_chance=0.1)


@dataclass(eq=False)
class PruningRecipe(Recipe[SteeredNetwork]):
    """Structured pruning: the student keeps what counts and learns the rest from its teacher."""

    system = SYSTEM
    stages = (Stage("narrow", steps=8000, learning_rate=3e-3, clip=5.0),)

    wide_weights: Path | None = None  # of the network to learn from
    _: KW_ONLY
    # Of the narrow one, see `SteeredNetwork`; none may be larger than the wide one's.
    widths: tuple[int, ...] = (4, 6, 16, 24, 32)
    fields: int = 10
    residuals: tuple[int, ...] = (1, 1, 1, 1)
    hidden: int = 128
    crop: int = 256  # side of the views in pixels, a multiple of 32
    views: int = 8  # in a batch
    points: int = 384  # of each view; half are corners, and half of each kind are described upright

    def __post_init__(self) -> None:
        good = self.views >= 1 and self.points >= 4
        rule = "views at least 1 and points at least 4"
        require_views("narrow", self.crop, good, rule, self.views, self.points)

    def prepare(self, data: Path, cache: Path) -> None:  # noqa: ARG002
        if self.wide_weights is None:
            raise InputError(
                "a narrow network learns from a wide one: name its weights by --set wide_weights=FILE"
            )
        self._teacher, _, digest = load_network(self.wide_weights, SYSTEM, build)
        self._fused_teacher = fused(self._teacher)
        self._pool = PhotoPool.scan(data)
        self.data_words = (
            f"{len(self._pool.train)} photos; {len(self._pool.held_out)} held out; taught by the "
            f"network of sha256 {digest[:12]}"
        )

    def network(self) -> SteeredNetwork:
        return pruned(self._teacher, **self.settings())

    def begin(self, network: SteeredNetwork, stage: Stage) -> Parameters:  # noqa: ARG002
        network.train()
        self._fused_teacher.to(next(network.parameters()).device)
        return network.parameters()

    def batch(self, stage: Stage, rng: np.random.Generator, *, held_out: bool = False) -> Batch:  # noqa: ARG002
        """images: B x 3 x S x S; points and orientations B x N x 2."""
        drawn = []
        for _ in range(self.views):
            photo = self._pool.draw(rng, held_out, _READ_SIDE)
            view, inside = random_view(photo, rng, (self.crop, self.crop), _WARP)
            view = photometric_noise(view, rng, _LIGHT)
            view[~inside] = 0
            grey = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)
            spots = self._spots(grey, rng)
            facing = orientations(grey, spots)
            facing[1::2] = (1, 0)
            drawn.append((view, spots, facing))
        views, points, faced = zip(*drawn, strict=True)
        return {
            "images": images_to_tensor(views),
            "points": torch.from_numpy(np.stack(points).astype(np.float32)),
            "orientations": torch.from_numpy(np.stack(faced)),
        }

    def _spots(self, grey: Array, rng: np.random.Generator) -> Array:
        """N x 2 places in random order: corners, as many as there are up to half, and anything."""
        last = self.crop - 1 - _BORDER
        found, _, _ = corners(grey, _SCALES)
        found = found[np.all((found >= _BORDER) & (found <= last), axis=1)]
        found = found[rng.permutation(len(found))[: self.points // 2]]
        rest = rng.uniform(_BORDER, last, (self.points - len(found), 2))
        return rng.permutation(np.concatenate((found, rest)))

    def losses(self, network: SteeredNetwork, batch: Batch, stage: Stage) -> dict[str, Tensor]:  # noqa: ARG002
        images, points, faced = (batch[name] for name in ("images", "points", "orientations"))
        with torch.no_grad():
            taught = self._fused_teacher.descriptors_at(self._fused_teacher(images), points, faced)
        maps = network(images)
        with torch.autocast(maps.device.type, enabled=False):  # cosines need the digits
            found = network.descriptors_at(maps.float(), points, faced)
        return {"loss": 1 - functional.cosine_similarity(found, taught, dim=-1).mean()}

    def settings(self) -> dict[str, Any]:
        sizes = {"fields": self.fields, "hidden": self.hidden}
        return {"widths": list(self.widths), "residuals": list(self.residuals), **sizes}


def pruned(
    teacher: SteeredNetwork,
    widths: Iterable[int],
    fields: int,
    residuals: Iterable[int],
    hidden: int,
) -> SteeredNetwork:
    """A `SteeredNetwork` of these sizes that has those fields and hidden numbers of `teacher` that are
    read with the largest weights; `InputError` if it has fewer."""
    widths, residuals = tuple(widths), tuple(residuals)
    before = (teacher.widths, teacher.residuals, (teacher.fields, teacher.hidden))
    after = (widths, residuals, (fields, hidden))
    if any(
        len(b) != len(a) or min(b) < 1 or any(y > x for x, y in zip(a, b, strict=True))
        for a, b in zip(before, after, strict=True)
    ):
        old, new = (
            "of widths {}, residuals {} and fields, hidden {}".format(*map(list, sizes))
            for sizes in (before, after)
        )
        raise InputError(f"a network {old} cannot be pruned to one {new}")
    student = SteeredNetwork(widths, fields, residuals, hidden)
    _copy_strongest(teacher, student)
    return student


@torch.no_grad()
def _copy_strongest(teacher: Any, student: Any) -> None:  # torch does not tell the types of parts
    """Copy what is kept, layer by layer; `kept` are fields of what is between two."""
    names = ("to4", "to8", "to16", "to32")
    stages = [(getattr(teacher, name), getattr(student, name)) for name in names]
    first = _strongest(student.widths[0], teacher.stem[1][0])
    _copy_block(teacher.stem[0], student.stem[0], None, first)
    kept = _strongest(student.widths[0], teacher.to4[0][0])
    _copy_block(teacher.stem[1], student.stem[1], first, kept)
    outputs = []
    for number, (a, b) in enumerate(stages):
        readers = [teacher.lateral[number]]
        if number + 1 < len(stages):
            readers.append(stages[number + 1][0][0][0])
        after = _strongest(student.widths[number + 1], *readers)
        _copy_block(a[0], b[0], kept, after)
        for one, other in zip(a[1:], b[1:], strict=False):
            inner = _strongest(len(after), one.second)
            _copy_block(one.first, other.first, after, inner)
            _copy_block((one.second, one.norm), (other.second, other.norm), inner, after)
        kept = after
        outputs.append(after)
    at8 = _strongest(student.fields, teacher.join[0][0])
    at4 = _strongest(student.fields, teacher.join[1][0])
    first_layer = teacher.describe[0].weight
    read = first_layer.view(len(first_layer), -1, teacher.fields).square().sum(dim=(0, 1))
    last = _largest(read, student.fields)
    for number, after in enumerate((at4, at8, at8, at8)):
        _copy(teacher.lateral[number], student.lateral[number], outputs[number], after)
    _copy_block(teacher.join[0], student.join[0], at8, at4)
    _copy_block(teacher.join[1], student.join[1], at4, last)
    second = teacher.describe[2]
    inner = _largest(second.weight.square().sum(dim=0), student.hidden)
    seen = first_layer.view(len(first_layer), -1, teacher.fields)[inner][..., last]
    student.describe[0].weight.copy_(seen.flatten(1))
    student.describe[0].bias.copy_(teacher.describe[0].bias[inner])
    student.describe[2].weight.copy_(second.weight[:, inner])
    student.describe[2].bias.copy_(second.bias)


def _copy_block(teacher: Any, student: Any, inputs: Tensor | None, outputs: Tensor) -> None:
    """A convolution and its normalisation."""
    _copy(teacher[0], student[0], inputs, outputs)
    for name, value in teacher[1].state_dict().items():
        student[1].state_dict()[name].copy_(value if value.ndim == 0 else value[outputs])


def _copy(teacher: GroupConv, student: GroupConv, inputs: Tensor | None, outputs: Tensor) -> None:
    kept = teacher.weight[outputs]
    student.weight.copy_(kept if inputs is None else kept[:, inputs])


def _strongest(count: int, *readers: GroupConv) -> Tensor:
    """The fields that are read with the largest weights."""
    weights = [reader.weight.square().mean(dim=0).sum(dim=(1, 2, 3)) for reader in readers]
    return _largest(sum(weights), count)


def _largest(strengths: Any, count: int) -> Tensor:
    found: Tensor = strengths.topk(count).indices.sort().values
    return found
