"""The losses of UR2KiD put together: what they look at in the images of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from locate.errors import InputError, UnknownNameError
from locate.extractors.blocks.contrastive import info_nce
from locate.extractors.blocks.detection import local_maxima
from locate.extractors.blocks.grids import Grid, sample
from locate.extractors.blocks.soft_detection import soft_scores
from locate.extractors.ur2kid import losses as loss
from locate.extractors.ur2kid.detection import group_responses
from locate.extractors.ur2kid.network import UR2KiDNetwork

MATCHING = ("positions", "images")
FOUND_RADIUS = 1.5  # cells: a match that comes back from this far is still mutual
RUNNER_UP_RADIUS = 3.0  # cells around the best that are not another place
RIVAL_RADIUS = 6.0  # pixels: points nearer than this in either image are no wrong answer


@dataclass(frozen=True)
class Objective:
    """What UR2KiD's losses are put together by."""

    positions: int = 512  # detected places of an image that are matched, at most
    matching: str = "positions"  # for `losses.position_loss`, "images" for `losses.matching_loss`
    margin: float = 0.2  # of the matching loss
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0)  # of retrieval, matching and distillation
    # Of an extra that is not the paper's, `correspondence_loss`; it counts where points are known.
    correspondence_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.matching not in MATCHING:
            raise UnknownNameError("form of the matching loss", self.matching, MATCHING)
        weights = (*self.weights, self.correspondence_weight)
        if self.positions < 1 or min(weights) < 0:
            raise InputError(
                f"positions must be at least 1 and weights at least 0, got {self.positions} and "
                f"{weights}"
            )


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Points of anchors and positives that are known to be the same."""

    anchors: Tensor  # B x N x 2 (x, y) in pixels
    positives: Tensor
    counted: Tensor  # B x N bool


def joint_losses(
    network: UR2KiDNetwork,
    images: tuple[Tensor, Tensor, Tensor],
    objective: Objective,
    known: Correspondences | None = None,
) -> dict[str, Tensor]:
    """All losses of a batch of triples: anchors, positives, negatives, B x 3 x S x S each, RGB 0..255.
    In training mode concepts are dropped, the same for all images. Scalars: "loss", its three parts,
    "found again", the share of detected positions whose match is mutual, and where points are `known`
    "correspondence"."""
    taps = network.taps(torch.cat(images))
    kept = network.concepts() if network.training else None
    seen = dense_features(network, taps, kept, objective.positions)
    count = len(images[0])
    rows = []
    for k in range(count):
        a, p, n = seen[k::count]
        matching, found = matching_losses(a, p, n, objective)
        weights = loss.detection_weights(a.scores, p.scores)
        distillation = loss.distillation_loss(a.high @ p.high.T, a.low @ p.low.T, weights)
        rows.append(torch.stack((matching, distillation, found)))
    matching, distillation, found = torch.stack(rows).mean(dim=0)
    vectors = network.pooled(network.to_pool(taps))
    anchors, positives, negatives = vectors.reshape(3, count, -1)
    retrieval = loss.contrastive_loss(anchors, positives, negatives[:, None])
    of = objective.weights  # L = lambda_g L_global + lambda_m L_match + lambda_d L_dis
    values = {
        "loss": of[0] * retrieval + of[1] * matching + of[2] * distillation,
        "retrieval": retrieval,
        "matching": matching,
        "distillation": distillation,
        "found again": found,
    }
    if known is not None:
        dense = torch.stack([one.dense for one in seen[: 2 * count]])
        extra = correspondence_loss(dense, known, network.pyramid.grid)
        values |= {"loss": values["loss"] + objective.correspondence_weight * extra}
        values["correspondence"] = extra
    return values


def correspondence_loss(dense: Tensor, known: Correspondences, grid: Grid) -> Tensor:
    """Ours, an extra: in two views of one photo it is known which point is which, so that descriptors
    can learn it of all points at once (`info_nce`). `dense`, 2 B x D x h x w on `grid`, are the maps
    of anchors, then those of positives."""
    with torch.autocast(dense.device.type, enabled=False):  # near 1 cosines need the digits
        points = (known.anchors, known.positives)
        places = grid.to_map(torch.cat(points))
        found = functional.normalize(sample(dense.float(), places), dim=2)
        apart = torch.stack([torch.cdist(at, at) > RIVAL_RADIUS for at in points]).all(dim=0)
        a, b = found.chunk(2)
        return info_nce(a, b, known.counted, apart=apart)


@dataclass(frozen=True, eq=False)
class DenseFeatures:
    """What the local losses see of an image."""

    dense: Tensor  # D x h x w, the low-dimensional map, L2-normalised
    at: Tensor  # N x 2, detected positions (x, y) in its cells
    low: Tensor  # N x D and N x K, descriptors there, L2-normalised
    high: Tensor
    scores: Tensor  # N, how much each is detected

    @property
    def columns(self) -> Tensor:
        """h w x D: the descriptors of all cells."""
        return self.dense.flatten(1).T


def dense_features(
    network: UR2KiDNetwork, taps: Mapping[str, Tensor], kept: Tensor | None, positions: int
) -> list[DenseFeatures]:
    """Of every image, at no more than `positions` of its local maxima, drawn at random.

    Ours: maxima and soft scores, and so M^det, are those of the groups of the fine map, on which
    keypoints are looked for in use. In the paper detection is on the high-dimensional map F."""
    dense = functional.normalize(network.low(taps, kept), dim=1)
    with torch.no_grad():
        high = network.pyramid(taps)
        responses = group_responses(network.fine(taps), network.groups)
        scores = soft_scores(responses)
    found = []
    for k in range(len(dense)):
        cells = torch.nonzero(local_maxima(responses[k]).any(dim=0))
        cells = cells[torch.randperm(len(cells), device=cells.device)[:positions]]
        y, x = cells[:, 0], cells[:, 1]
        at = network.fine.grid.to_image(torch.stack((x, y), dim=1).to(dense.dtype))
        at = network.pyramid.grid.to_map(at)
        low, far_up = (
            functional.normalize(sample(maps[k : k + 1], at[None])[0], dim=1)
            for maps in (dense, high)
        )
        found.append(DenseFeatures(dense[k], at, low, far_up, scores[k, y, x]))
    return found


def matching_losses(
    a: DenseFeatures, p: DenseFeatures, n: DenseFeatures, objective: Objective
) -> tuple[Tensor, Tensor]:
    """The matching loss of one triple, and the share of the positions that are found again."""
    rows = [a.low @ p.columns.T, p.low @ a.columns.T]
    negative = [one.low @ n.columns.T for one in (a, p)]
    terms, shares = [], []
    for one, other, row, wrong in zip((a, p), (p, a), rows, negative, strict=True):
        best, where = row.max(dim=1)
        again = loss.found_again(where, one.dense, other.dense, one.at, FOUND_RADIUS)
        runner = loss.runner_up(row, where, other.dense.shape[-1], RUNNER_UP_RADIUS)
        others = (wrong.amax(dim=1), runner)
        terms.append(loss.position_loss(best, others, again, objective.margin))
        shares.append(again.to(best.dtype).mean())
    found = torch.stack(shares).mean()
    if objective.matching == "positions":
        return torch.stack(terms).mean(), found
    scores = [loss.matching_score(*rows), loss.matching_score(negative[0], n.low @ a.columns.T)]
    return loss.matching_loss(scores[0], scores[1:], objective.margin), found
