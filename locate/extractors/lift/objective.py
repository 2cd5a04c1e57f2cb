"""The losses of LIFT put together: what each stage's batch has to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from locate.errors import UnknownNameError
from locate.extractors.lift import losses as terms
from locate.extractors.lift.network import CROP, PATCH, SMALL, WINDOW_REACH, LiftNetwork, crop
from locate.extractors.lift.network import REACH as PATCH_REACH

PAIRS, TRIPLET = FORMS = ("pairs", "triplet")


@dataclass(frozen=True)
class Objective:
    """What the losses are put together by."""

    form: str = TRIPLET  # of the descriptor's loss; "pairs" is the paper's
    margin: float = 1.0  # of it; the paper has 4
    turn: float = 1.0  # weight of `losses.turn_loss` beside L_ori; the paper has 0
    classes: float = 1.0  # gamma, of L_class beside L_pair; the paper has 1e-5
    described: int = 32  # pairs of a batch, at most, whose descriptors are compared after stage one

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UnknownNameError("form of the loss of lift's descriptor", self.form, FORMS)

    def describe(self, network: LiftNetwork, windows: Tensor) -> Tensor:
        """Descriptors as they are compared: of length 1, or as the paper has them."""
        if self.form == TRIPLET:
            return network.descriptor.unit(windows)
        found: Tensor = network.descriptor(windows).float()
        with torch.no_grad():
            network.descriptor.spread(found)  # its statistics, for use
        return found

    def descriptor(
        self, network: LiftNetwork, batch: Mapping[str, Tensor], kept: int
    ) -> dict[str, Tensor]:
        """Of `window_batch`. By "pairs" the `kept` positive and negative pairs of largest loss count;
        by "triplet" the hardest negative that the batch has for each pair."""
        first, second, other = batch["windows"].chunk(3)
        if self.form == TRIPLET:
            a, b = self.describe(network, torch.cat((first, second))).chunk(2)
            loss = terms.triplet_loss(a, b, self.margin)
            return {"loss": loss, "right": _right(a, b)}
        count = len(first)
        same, apart = torch.arange(count), torch.arange(count)
        if kept < count:
            with torch.no_grad():
                said = self.describe(network, batch["windows"]).chunk(3)
                positive, negative = terms.pair_losses(said[0], said[1], said[2], self.margin)
            same, apart = terms.hardest(positive, kept), terms.hardest(negative, kept)
        windows = torch.cat((first[same], second[same], first[apart], other[apart]))
        a, b, c, d = self.describe(network, windows).chunk(4)
        positive, negative = terms.distance(a, b), terms.pair_losses(c, c, d, self.margin)[1]
        loss = positive.mean() + negative.mean()
        shown = {"positive": positive.mean(), "negative": negative.mean(), "right": _right(a, b)}
        return {"loss": loss, **shown}

    def orientation(self, network: LiftNetwork, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of `patch_batch`: L_ori (eq. 4), and `turn_loss`."""
        patches, count = batch["patches"], self.described
        direction = network.direction(patches)
        a, b = direction.chunk(2)
        few = torch.cat([part[:count] for part in patches.chunk(2)])
        windows = crop(few, torch.cat((a[:count], b[:count])))
        pair = terms.distance(*self.describe(network, windows).chunk(2)).mean()
        turn = terms.turn_loss(a, b, batch["turn"])
        near = _within(a, b, batch["turn"], 15.0)
        return {"loss": pair + self.turn * turn, "pair": pair, "turn": turn, "within 15": near}

    def detector(self, network: LiftNetwork, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of `detector_batch`: L_class, and L_pair by descriptors if there are `patches`, else by the
        overlap of windows."""
        scores = network.detector(batch["small"]).float()[:, CROP:-CROP, CROP:-CROP]
        quads = scores.unflatten(0, (-1, 4))
        classes = terms.class_loss(quads)
        places = terms.soft_argmax(quads[:, :2].flatten(0, 1))  # 2 N x 2, in the detector's pixels
        found = _from_keypoint(places, batch)
        apart = (found[:, 0] - found[:, 1]).detach().norm(dim=1).mean()
        if "patches" in batch:
            count = 2 * self.described
            patches, shift = batch["patches"][:count], places[:count] * (PATCH / SMALL)
            windows = crop(patches, network.direction(patches, shift), shift)
            said = self.describe(network, windows)
            pair = terms.distance(said[0::2], said[1::2]).mean()
        else:
            pair = terms.overlap_loss(found[:, 0], found[:, 1], WINDOW_REACH)
        loss = self.classes * classes + pair
        return {"loss": loss, "pair": pair, "class": classes, "scales apart": apart}


def _from_keypoint(places: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Places 2 N x 2 in the detector's pixels, from where the keypoint lies, in scales along the axes of
    its frame: N x 2 x 2."""
    moved = places.view(-1, 2, 2) * (2 * PATCH_REACH / SMALL) - batch["place"]
    c, s = torch.cos(batch["turn"]), torch.sin(batch["turn"])
    x, y = moved.unbind(2)
    return torch.stack((c * x + s * y, c * y - s * x), dim=2)


def _right(a: Tensor, b: Tensor) -> Tensor:
    """Share of the a whose nearest descriptor among all b is their own."""
    nearest = torch.cdist(a.detach(), b.detach()).argmin(dim=1)
    return (nearest == torch.arange(len(a), device=a.device)).float().mean()


def _within(a: Tensor, b: Tensor, turn: Tensor, degrees: float) -> Tensor:
    """Share of pairs (cos, sin) whose turn is known to be `turn` and found to be, up to `degrees`."""
    error = torch.atan2(b[:, 1], b[:, 0]) - torch.atan2(a[:, 1], a[:, 0]) - turn
    return (
        (torch.cos(error.detach()) > torch.cos(torch.deg2rad(torch.tensor(degrees)))).float().mean()
    )
