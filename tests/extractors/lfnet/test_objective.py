"""Who learns from which of LF-Net's losses, and what all of them say of maps that are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locate.extractors.lfnet import losses
from locate.extractors.lfnet.correspondence import Field, by_homography, joined
from locate.extractors.lfnet.detection import cut, detect
from locate.extractors.lfnet.network import LFNetwork, Maps
from locate.extractors.lfnet.objective import (
    Counts,
    Weights,
    clean_target,
    losses_of,
    swapped,
    to_inputs,
)
from locate.pixels import apply_homography
from tests.extractors.lfnet.test_correspondence import similarity

SIDE = 96
COUNTS = Counts(keypoints=20, described=12, hardest=3)
WEIGHTS = Weights(0.01, 0.1, 0.1)
OFF = -9.0  # a margin by which no triplet has a loss


def field_between(b_from_a):
    shape = (SIDE, SIDE)
    ends = (b_from_a, np.linalg.inv(b_from_a))
    fields = [by_homography(torch.from_numpy(h).float(), shape) for h in ends]
    valid = torch.ones(2, *shape, dtype=torch.bool)
    return joined(fields, valid, valid)


@pytest.fixture(scope="module")
def given():
    """Two images, turned by a quarter, and the network."""
    torch.manual_seed(0)
    a = torch.rand(1, 1, SIDE // 4, SIDE // 4)
    a = torch.nn.functional.interpolate(a, (SIDE, SIDE), mode="bilinear")
    images = torch.cat((a, a.rot90(1, (2, 3))))
    # (x, y) goes to (y, S - 1 - x)
    field = field_between(np.array([[0.0, 1, 0], [-1, 0, SIDE - 1], [0, 0, 1]]))
    network = LFNetwork(4.0)
    for layer in network.modules():  # else every run would change them
        if isinstance(layer, (torch.nn.BatchNorm2d, torch.nn.BatchNorm1d)):
            layer.momentum = 0.0
    torch.nn.init.normal_(network.detector.orientation.weight, std=0.1)
    return network, images, field


def gradients(given, weights=WEIGHTS, margin=1.0, dense=True):
    network, images, field = given
    network.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    none = torch.zeros(2, dtype=torch.bool)
    found = losses_of(network, images, field, none, COUNTS, weights, margin, dense)
    found["loss"].backward()
    flat = [
        torch.cat([torch.zeros_like(p) if p.grad is None else p.grad for p in map(_flat, ps)])
        for ps in (network.detector.parameters(), network.descriptor.parameters())
    ]
    return found, *flat


def _flat(parameter):
    flat = parameter.detach().flatten()
    flat.grad = None if parameter.grad is None else parameter.grad.flatten()
    return flat


def test_the_loss_is_the_sum_of_both(given):
    found, _, _ = gradients(given)
    detector = found["image"] + 0.01 * found["pair"]
    detector = detector + 0.1 * found["orientation"] + 0.1 * found["scale"]
    torch.testing.assert_close(found["detector"], detector)
    torch.testing.assert_close(found["loss"].detach(), detector + found["triplet"])
    assert found["points"] == 12
    assert min(found.values()) > 0


def test_the_descriptor_learns_from_triplets_alone(given):
    found, detector, descriptor = gradients(given, margin=OFF)
    assert found["triplet"] == 0
    assert detector.abs().max() > 0
    assert not descriptor.any()


def test_the_detector_learns_nothing_from_triplets(given):
    _, without, _ = gradients(given, margin=OFF)
    found, detector, descriptor = gradients(given)
    assert found["triplet"] > 0
    assert descriptor.abs().max() > 0
    assert torch.equal(detector, without)
    _, detector, again = gradients(given, Weights(0, 0, 0))
    assert torch.equal(descriptor, again)
    assert not torch.equal(detector, without)


def test_pairs_teach_the_detector_through_places_scales_and_orientations(given):
    _, with_pairs, _ = gradients(given, Weights(1.0, 0, 0), OFF)
    _, without, _ = gradients(given, Weights(0, 0, 0), OFF)
    network = given[0]
    change = torch.split(with_pairs - without, [p.numel() for p in network.detector.parameters()])
    names = [name for name, _ in network.detector.named_parameters()]
    moved = {name for name, part in zip(names, change, strict=True) if part.abs().max() > 0}
    assert moved == set(names)


def test_the_gradient_of_pairs_is_that_of_the_whole_path(given):
    """By parameters that are frozen."""
    network, images, _ = given
    network = network.descriptor.double().eval()
    torch.manual_seed(1)
    points = torch.rand(1, 3, 2, dtype=torch.float64) * 50 + 20
    points.requires_grad_()
    shapes = torch.ones(1, 3).double(), torch.tensor([0.6, 0.8]).double().expand(1, 3, 2)
    targets = torch.nn.functional.normalize(torch.randn(1, 3, 256).double(), dim=2)
    real = torch.ones(1, 3, dtype=torch.bool)

    def pair(crops):
        return losses.pair_loss(network(crops)[None], targets, real)

    crops = cut(images[:1].double(), points, *shapes)
    held = crops.detach().requires_grad_()
    network.zero_grad(set_to_none=True)
    value = pair(held)
    found = to_inputs(value, held, crops)
    assert found.item() == value.item()
    found.backward()
    assert all(p.grad is None for p in network.parameters())
    ours, points.grad = points.grad, None
    pair(cut(images[:1].double(), points, *shapes)).backward()
    torch.testing.assert_close(ours, points.grad)
    assert not to_inputs(value.detach(), held, crops).requires_grad
    given[0].descriptor.float().train()


def test_targets_have_no_gradient(given):
    """The same gradient as of targets that were written down."""
    network, images, field = given
    none = torch.zeros(2, dtype=torch.bool)
    _, expected, _ = gradients(given, Weights(0, 1.0, 1.0), OFF)
    with torch.no_grad():
        kept = network(images)
        others = Maps(*(swapped(part) for part in kept))
        target = clean_target(others.score, field, none, 20)
    network.zero_grad(set_to_none=True)
    maps = network(images)
    parts = losses.geometry_losses(maps, others, field, field.seen)
    (losses.image_loss(maps.score, target, field.seen) + sum(parts)).backward()
    found = torch.cat([p.grad.flatten() for p in network.detector.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_geometry_of_keypoints_alone(given):
    network, images, field = given
    found, _, _ = gradients(given, dense=False)
    with torch.no_grad():
        maps = network(images)
        others = Maps(*(swapped(part) for part in maps))
        points = detect(maps, field.seen, 20, 4.0)
        counted = torch.zeros_like(field.seen)
        for b, pixels in enumerate(points.pixels):
            for pixel, score in zip(pixels.tolist(), points.scores[b], strict=True):
                counted[b, pixel // SIDE, pixel % SIDE] = score > 0
        expected = losses.geometry_losses(maps, others, field, counted)
    torch.testing.assert_close((found["orientation"], found["scale"]), expected)
    dense, _, _ = gradients(given)
    assert found["scale"] != dense["scale"]


def test_swapping():
    part = torch.arange(12).view(6, 2)
    assert swapped(part)[:, 0].tolist() == [2, 0, 6, 4, 10, 8]


class Oracle(LFNetwork):
    """What a perfect detector says of two views of dots: their places, sizes and turns."""

    def __init__(self, b_from_a, dots, turn, grown):
        super().__init__(50.0)
        y, x = np.mgrid[:SIDE, :SIDE]
        drawn = []
        for at in (dots, apply_homography(b_from_a, dots)):
            near = ((x[..., None] - at[:, 0]) ** 2 + (y[..., None] - at[:, 1]) ** 2).min(axis=-1)
            drawn.append(np.exp(-near / (2 * 0.5**2)))
        angles = torch.tensor([0.3, 0.3 + turn])[:, None, None].expand(2, SIDE, SIDE)
        scale = torch.tensor([grown**-0.5, grown**0.5])[:, None, None].expand(2, SIDE, SIDE)
        score = torch.from_numpy(np.array(drawn)).float()
        self.said = score, scale.float(), torch.stack((angles.cos(), angles.sin()), dim=1)

    def forward(self, images):
        return Maps(images, *self.said)


def test_right_maps_have_no_loss_and_the_inverse_homography_is_told():
    turn, grown = 0.5, 1.2
    h = similarity(turn, grown)
    middle = (SIDE - 1) / 2
    h[:2, 2] = middle - h[:2, :2] @ (middle, middle)
    grid = np.array([(x, y) for x in range(20, 80, 10) for y in range(20, 80, 10)], np.float64)
    network = Oracle(h, grid, turn, grown)
    none = torch.zeros(2, dtype=torch.bool)
    images = torch.rand(2, 1, SIDE, SIDE)
    right, wrong = (
        losses_of(network, images, field_between(x), none, Counts(99, 20, 5), WEIGHTS, 1.0, True)
        for x in (h, np.linalg.inv(h))
    )
    assert right["orientation"] == pytest.approx(0, abs=1e-6)
    assert right["scale"] == pytest.approx(0, abs=1e-6)
    assert right["image"] < 0.3 * wrong["image"]
    assert wrong["orientation"] > 0.5
    assert wrong["scale"] > 0.03


def test_the_same_spot_turned_has_the_same_descriptor(given):
    """By maps that know that the image was turned by a quarter."""
    _, images, field = given
    b_from_a = np.array([[0.0, 1, 0], [-1, 0, SIDE - 1], [0, 0, 1]])
    dots = np.array([(x, y) for x in range(20, 80, 9) for y in range(22, 80, 9)], np.float64)
    network = Oracle(b_from_a, dots, -np.pi / 2, 1.0).eval()
    none = torch.zeros(2, dtype=torch.bool)
    found = losses_of(network, images, field, none, Counts(40, 30, 3), WEIGHTS, 1.0, True)
    assert found["points"] == 30
    assert found["pair"] == pytest.approx(0, abs=1e-5)
    for turn, grown in ((0.0, 1.0), (-np.pi / 2, 1.3)):  # orientations or scales disagree
        network = Oracle(b_from_a, dots, turn, grown).eval()
        found = losses_of(network, images, field, none, Counts(40, 30, 3), WEIGHTS, 1.0, True)
        assert found["pair"] > 1e-3


def test_around_known_points_only_the_other_images_keypoints_are_drawn():
    """The edge of what is known is a maximum of what is known, but no keypoint."""
    y, x = np.mgrid[:SIDE, :SIDE]
    wide = np.exp(-((x - 40) ** 2 + (y - 44) ** 2) / (2 * 6.0**2))
    score = torch.from_numpy(np.stack((wide, wide)))
    known = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    known[0, 41:48, 44:51] = True  # beside the peak
    known[1, 41:48, 37:44] = True  # around it
    same = by_homography(torch.eye(3, dtype=torch.float64), (SIDE, SIDE))
    field = Field(*(torch.cat((part, part)) for part in same))._replace(seen=known)
    target = clean_target(score, field, torch.ones(2, dtype=torch.bool), 9)
    assert not target[0].any()
    assert target[1].flatten().argmax() == 44 * SIDE + 40
    assert target[1].max() == 1
    edge = clean_target(score, field, torch.zeros(2, dtype=torch.bool), 9)
    assert edge[0].any()
