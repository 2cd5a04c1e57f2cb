"""How UnsuperPoint is trained (Christiansen et al., arXiv 1907.04011): on two views of a photo with a
known homography and light of their own, without any labels.

`variant` "paper" has its four losses; points then tend to be spread evenly, as in every open
re-implementation. "kp2d" has the mends of KP2D (Tang et al., ICLR 2020): points may reach into
neighbouring cells, nothing spreads them, cells at the border do not count. On few photos it would take
days until points leave the middle of their cells; so the first stage of "kp2d", which is ours, teaches
each cell where the image's strongest corner lies, and the second holds on to it a little: left alone,
scores become equal and points forget their corners before they have learned to meet.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from locate.errors import InputError, UnknownNameError
from locate.extractors.blocks.corners import strongest_of_cells
from locate.extractors.blocks.inference import channels_last
from locate.extractors.unsuperpoint import losses as terms
from locate.extractors.unsuperpoint.network import (
    CELL,
    GRID,
    SYSTEM,
    Points,
    UnsuperPointNetwork,
    to_range,
)
from locate.training.data.homographies import HomographySettings, warped_pair
from locate.training.data.photometric import PhotometricSettings
from locate.training.data.photos import PhotoPool
from locate.training.recipe import Batch, Parameters, Recipe, Stage, images_to_tensor
from locate.types import Array

PAPER, KP2D = "paper", "kp2d"
CORNERS_STAGE = "corners"
_READ_SIDE = 480  # pixels: photos are kept in memory at this size
_VIEWS = HomographySettings(
    rotation=30, scale=(0.7, 1.4), perspective=0.15, crop=(0.4, 0.9), min_overlap=0.6
)
_LIGHT = PhotometricSettings()


@dataclass(eq=False)
class UnsuperPointRecipe(Recipe[UnsuperPointNetwork]):
    """Siamese training on pairs of warped views."""

    system = SYSTEM

    _: KW_ONLY
    variant: str = KP2D
    width: int = 208  # pixels of the views, multiples of 8
    height: int = 160
    pairs: int = 6  # of views in a batch
    # Weights of the losses. With `sums`, the losses are those of the paper, for which it has 1, 2, 1,
    # 100, 0.001, 0.03; else each is the mean of its terms.
    sums: bool = False
    position: float = 1.0
    score: float = 2.0
    usp: float = 1.0
    uniform: float = 1.0
    descriptor: float = 1.0
    decorrelation: float = 0.03
    positive_weight: float = 250.0  # lambda_d, of "paper"
    # Of "kp2d": descriptors learn from the hardest rival alone, by this margin, as in its paper. Here
    # all become alike by it, and so they learn from all rivals at once, see `blocks.contrastive`.
    hardest: bool = False
    corner: float = 0.3  # of "kp2d", weight of the corners' losses in the stage that follows theirs
    margin: float = 0.2
    stages: tuple[Stage, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.variant not in (PAPER, KP2D):
            raise UnknownNameError("variant of unsuperpoint", self.variant, (PAPER, KP2D))
        sides = min(self.width, self.height) >= 64 and not (self.width % CELL or self.height % CELL)
        if not sides or self.pairs < 1:
            raise InputError(
                "unsuperpoint: width and height must be 64, 72, ... pixels and pairs at least 1; got "
                f"{self.width}, {self.height} and {self.pairs}"
            )
        if self.variant == PAPER:
            self.stages = (Stage("siamese", steps=36000, learning_rate=1e-3),)
        else:
            self.stages = (
                Stage(CORNERS_STAGE, steps=24000, learning_rate=2e-3),
                Stage("siamese", steps=12000, learning_rate=5e-4),
            )

    def _with_corners(self, stage: Stage) -> bool:
        return stage.name == CORNERS_STAGE or (self.variant == KP2D and self.corner > 0)

    def prepare(self, data: Path, cache: Path) -> None:  # noqa: ARG002
        self._pool = PhotoPool.scan(data, held_out=None)
        self.data_words = (
            f"{len(self._pool.train)} photos of {data.name} in two views each; "
            f"{len(self._pool.held_out)} photos held out"
        )

    def network(self) -> UnsuperPointNetwork:
        reach = 2.0 if self.variant == KP2D else 1.0
        return channels_last(UnsuperPointNetwork(reach), torch.device("cpu"))

    def begin(self, network: UnsuperPointNetwork, stage: Stage) -> Parameters:  # noqa: ARG002
        network.train()
        return network.parameters()

    def batch(self, stage: Stage, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """images: 2 P x 3 x H x W, a and b of each pair in turn; valid: 2 P x H x W bool; b_from_a:
        P x 3 x 3; of "kp2d" what `strongest_corners` gives of each image."""
        size = (self.width, self.height)
        pairs = [
            warped_pair(self._pool.draw(rng, held_out, _READ_SIDE), rng, size, _VIEWS, _LIGHT)
            for _ in range(self.pairs)
        ]
        images = [image for p in pairs for image in (p.image_a, p.image_b)]
        batch = {
            "images": images_to_tensor(images),
            "valid": torch.from_numpy(np.stack([v for p in pairs for v in (p.valid_a, p.valid_b)])),
            "b_from_a": torch.from_numpy(np.stack([p.b_from_a for p in pairs])).float(),
        }
        if self._with_corners(stage):
            found = zip(*(strongest_corners(image) for image in images), strict=True)
            places, ranks = (torch.from_numpy(np.stack(part)) for part in found)
            batch |= {"corners": places, "ranks": ranks}
        return batch

    def losses(self, network: UnsuperPointNetwork, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        points = network(to_range(batch["images"]))
        with torch.autocast(points.scores.device.type, enabled=False):  # distances need the digits
            found = self._point_losses(points, batch)
            if self._with_corners(stage):
                place, rank = terms.corner_losses(points, batch["corners"], batch["ranks"])
                found |= {"corner": place, "rank": rank}
                if stage.name == CORNERS_STAGE:  # points are not yet where they would meet
                    found["loss"] = place + rank + self.descriptor * found["descriptor"]
                else:
                    found["loss"] = found["loss"] + self.corner * (place + rank)
            return found

    def _point_losses(self, points: Points, batch: Batch) -> dict[str, Tensor]:
        allowed = self._allowed(points.places, batch["valid"])
        found = [
            self._pair_losses(
                Points(*(part[2 * p] for part in points)),
                Points(*(part[2 * p + 1] for part in points)),
                (allowed[2 * p], allowed[2 * p + 1]),
                b_from_a,
            )
            for p, b_from_a in enumerate(batch["b_from_a"])
        ]
        shown = {name: torch.stack([one[name] for one in found]).mean() for name in found[0]}
        weights = {name: getattr(self, name) for name in shown if hasattr(self, name)}
        loss = sum(
            (weights[name] * shown[name] for name in weights), torch.zeros(()).to(points.scores)
        )
        spread = points.scores.std(dim=1).mean()  # near to 0, scores say nothing
        return {"loss": loss, **shown, "spread of scores": spread.detach()}

    def _pair_losses(
        self, a: Points, b: Points, allowed: tuple[Tensor, Tensor], b_from_a: Tensor
    ) -> dict[str, Tensor]:
        """The losses of one pair by the names of their weights, and how far its points are apart."""
        g = terms.distances(a.places, b.places, b_from_a)
        pairs = terms.nearest_pairs(g, *allowed)
        found = {
            "position": terms.position_loss(pairs),
            "score": terms.score_loss(a.scores, b.scores, pairs),
            "usp": terms.usp_loss(a.scores, b.scores, pairs),
        }
        if self.variant == PAPER:
            both = [terms.uniform_loss(points.relative) for points in (a, b)]
            found["uniform"] = _added(*both)
            both = [terms.decorrelation_loss(points.descriptors) for points in (a, b)]
            found["decorrelation"] = _added(*both)
            found["descriptor"] = terms.descriptor_loss(
                a.descriptors, b.descriptors, g, *allowed, self.positive_weight
            )
        else:
            described = a.descriptors, b.descriptors, g, pairs
            found["descriptor"] = (
                terms.triplet_loss(*described, self.margin)
                if self.hardest
                else terms.softmax_loss(*described)
            )
        values = {name: loss.total if self.sums else loss.mean for name, loss in found.items()}
        return values | {"pixels apart": found["position"].mean.detach()}

    def _allowed(self, places: Tensor, valid: Tensor) -> Tensor:
        """B x M bool: points on what a view shows of its photo; of "kp2d" not of cells at the border."""
        height, width = valid.shape[-2:]
        column = places[..., 0].detach().round().long().clamp(0, width - 1)
        row = places[..., 1].detach().round().long().clamp(0, height - 1)
        shown = valid.flatten(1).gather(1, row * width + column)
        if self.variant == PAPER:
            return shown
        inner = torch.zeros(height // CELL, width // CELL, dtype=torch.bool, device=valid.device)
        inner[1:-1, 1:-1] = True
        return shown & inner.flatten()

    def settings(self) -> dict[str, Any]:
        return {"reach": self.network().reach}


def strongest_corners(image: Array) -> tuple[Array, Array]:
    """Of each of M cells of an image H x W x 3 uint8, row by row, the place of its strongest corner,
    across the cell from 0 to 1, M x 2 float32, NaN where there is none; and its rank by strength, from 1
    for the strongest of all down towards 0, 0 where there is none."""
    shape = image.shape[0] // CELL, image.shape[1] // CELL
    places = np.full((shape[0] * shape[1], 2), np.nan, np.float32)
    ranks = np.zeros(len(places), np.float32)
    cells, points, strengths = strongest_of_cells(image, GRID, shape)
    places[cells] = (points + 0.5) / CELL % 1
    ranks[cells] = (strengths.argsort().argsort() + 1) / max(len(cells), 1)
    return places, ranks


def _added(*losses: terms.Loss) -> terms.Loss:
    """Losses of both images as one, whose mean is of one image."""
    return terms.Loss(
        torch.stack([loss.total for loss in losses]).sum(), sum(loss.terms for loss in losses)
    )
