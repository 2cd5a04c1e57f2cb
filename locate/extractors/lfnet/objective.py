"""All losses of LF-Net on a batch: two branches, and who learns from which loss (Ono et al., section
3.2).

The second branch is a copy of the first that gives targets and learns nothing. Since both images of a
pair take either part in turn, one pass of the detector over both serves both branches.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from locate.extractors.lfnet import losses as terms
from locate.extractors.lfnet.correspondence import Field
from locate.extractors.lfnet.detection import (
    Keypoints,
    cut,
    detect,
    inner,
    look,
    nearest,
)
from locate.extractors.lfnet.network import LFNetwork, Maps

_CLEAN = 0.3  # of a clean map that was warped: less is the slope of a Gaussian beyond what is known


class Counts(NamedTuple):
    """Numbers of points: K, how many of these are described, and M of L_tri."""

    keypoints: int
    described: int
    hardest: int


class Weights(NamedTuple):
    """Of the detector's losses beside L_im."""

    pair: float
    orientation: float
    scale: float


def losses_of(
    network: LFNetwork,
    images: Tensor,
    field: Field,
    matched: Tensor,
    counts: Counts,
    weights: Weights,
    margin: float,
    dense: bool,
) -> dict[str, Tensor]:
    """Scalars by name, "loss" the sum of L_det, from which the detector alone learns, and L_tri, from
    which the descriptor alone does; both directions averaged.

    Args:
        images: 2 P x 1 x H x W of 0 to 1, a and b of each pair in turn.
        matched: 2 P bool, of two photos, for which the field is known around points alone.
        margin: C of L_tri.
        dense: L_geom of all pixels, not of keypoints alone.
    """
    maps = network(images)
    others = Maps(*(swapped(part) for part in maps.detached()))
    with torch.autocast(images.device.type, enabled=False):
        target = clean_target(others.score, field, matched, counts.keypoints)
        image = terms.image_loss(maps.score, target, field.seen)
        found = detect(maps, field.seen, counts.keypoints, network.strength)
        counted = field.seen if dense else marked(found, field.seen)
        orientation, scale = terms.geometry_losses(maps, others, field, counted)
        points = chosen(found, counts.described)
        places = field.bring(points.points.detach(), points.pixels)
        crops = cut(maps.image, points.points, points.scales, points.orientations)
        with torch.no_grad():
            shape = (images.shape[-2], images.shape[-1])
            pixels = nearest(places, shape)
            there = cut(
                others.image,
                places,
                look(others.scale[:, None], pixels)[..., 0],
                look(others.orientation, pixels),
            )
    with torch.no_grad():
        targets = network.descriptor(there).view(*places.shape[:2], -1)
    held = crops.detach().requires_grad_()
    descriptors = network.descriptor(held).view(*places.shape[:2], -1)
    real = points.scores > 0
    with torch.autocast(images.device.type, enabled=False):
        triplet = terms.triplet_loss(descriptors, targets, places, real, counts.hardest, margin)
        pair = terms.pair_loss(descriptors, targets, real)
        pair = to_inputs(pair, held, crops)
    detector = image + weights.pair * pair
    detector = detector + weights.orientation * orientation + weights.scale * scale
    shown = {
        "detector": detector,
        "image": image,
        "pair": pair,
        "orientation": orientation,
        "scale": scale,
        "triplet": triplet,
        "points": real.sum(dim=1).float().mean(),
    }
    return {"loss": detector + triplet} | {name: value.detach() for name, value in shown.items()}


def clean_target(score: Tensor, field: Field, matched: Tensor, count: int) -> Tensor:
    """g(w(S_j)). Around known points a maximum of the warped map may be the edge of what is known;
    hence there the other image's own clean map is warped and drawn again."""
    own = matched[:, None, None]
    frame = inner((score.shape[-2], score.shape[-1]), score.device)
    warped = terms.warped(torch.where(own, terms.redrawn(score * frame, count), score), field)
    return terms.redrawn(torch.where(own & (warped < _CLEAN), 0, warped), count)


def marked(points: Keypoints, like: Tensor) -> Tensor:
    """B x H x W bool, true at the pixels of keypoints."""
    found = torch.zeros_like(like).flatten(1)
    return found.scatter(1, points.pixels, points.scores > 0).view_as(like)


def chosen(points: Keypoints, count: int) -> Keypoints:
    """At most `count` of the keypoints, at random, those that are none last."""
    chance = torch.rand(points.scores.shape, device=points.scores.device) + (points.scores > 0)
    rows = chance.argsort(dim=1, descending=True)[:, :count]

    def take(part: Tensor) -> Tensor:
        wide = rows if part.ndim == 2 else rows[..., None].expand(-1, -1, part.shape[2])
        return part.gather(1, wide)

    return Keypoints(*(take(part) for part in points))


def to_inputs(loss: Tensor, held: Tensor, inputs: Tensor) -> Tensor:
    """The same number, whose gradient reaches `inputs` (of which `held` is a copy apart from the graph)
    but none of the parameters between them and the loss."""
    if not (loss.requires_grad and inputs.requires_grad):
        return loss.detach()
    (gradient,) = torch.autograd.grad(loss, held, retain_graph=True)
    along = (inputs * gradient).sum()
    return loss.detach() + along - along.detach()


def swapped(part: Tensor) -> Tensor:
    """Of each pair a in the place of b and b in that of a: 2 P x ..."""
    return part.view(-1, 2, *part.shape[1:]).flip(1).flatten(0, 1)
