"""UR2KiD's losses put together, against numpy in float64 that knows the maps of the network alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from locate.extractors.blocks.grids import Grid
from locate.extractors.ur2kid import objective as module
from locate.extractors.ur2kid.extractor import start
from locate.extractors.ur2kid.objective import (
    Correspondences,
    Objective,
    correspondence_loss,
    dense_features,
    joint_losses,
)

SIDE = 64
WEIGHTS = (2.0, 3.0, 0.5)  # of retrieval, matching, distillation: none can take another's place


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network():
    made, _ = start(global_dim=16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # no term is zero or one by chance of the start
        made.reduce.bias.copy_(0.02 * torch.randn(made.dim, generator=generator))
        for i, pool in enumerate(made.pools.values()):
            pool.p.fill_(2.0 + 0.3 * i)
    made.train()
    made.backbone.freeze_normalisation()
    return made


@pytest.fixture(scope="module")
def images(texture):
    """Anchors, positives and negatives of two triples; a positive is its anchor, moved a little."""

    def batch(*cuts):
        pixels = [texture((96, 96), seed=s)[y : y + SIDE, x : x + SIDE] for s, x, y in cuts]
        return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float()

    return batch((1, 0, 4), (2, 9, 9)), batch((1, 6, 2), (2, 3, 12)), batch((3, 0, 0), (4, 5, 5))


# --- the same by numpy --------------------------------------------------------------------------------


def unit(values, axis=-1):
    return values / np.linalg.norm(values, axis=axis, keepdims=True)


def bilinear(maps, at):
    """C x h x w at N x 2 (x, y) in cells, none outside: N x C."""
    rows = []
    for x, y in np.clip(at, 0, (maps.shape[2] - 1, maps.shape[1] - 1)):
        left, top = int(min(x, maps.shape[2] - 2)), int(min(y, maps.shape[1] - 2))
        u, v = x - left, y - top
        above = (1 - u) * maps[:, top, left] + u * maps[:, top, left + 1]
        below = (1 - u) * maps[:, top + 1, left] + u * maps[:, top + 1, left + 1]
        rows.append((1 - v) * above + v * below)
    return np.array(rows)


def lengths(fine):
    """R^g of 8 groups of 5 of the 40 channels."""
    return np.stack([np.linalg.norm(fine[5 * g : 5 * g + 5], axis=0) for g in range(8)])


def soft(responses):
    """D2-Net's equations 4 to 7; beyond the border exp(D) is 1."""
    raised = np.exp(responses / responses.max())
    padded = np.pad(raised, ((0, 0), (1, 1), (1, 1)), constant_values=1.0)
    height, width = responses.shape[1:]
    around = sum(padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3))
    gamma = (raised / around * responses / responses.max(axis=0)).max(axis=0)
    return gamma / gamma.sum()


class Seen:
    """Of one image: what the paper calls by these names."""

    def __init__(self, network, taps, k, kept):
        with torch.no_grad():
            high, fine = (p(taps)[k].double().numpy() for p in (network.pyramid, network.fine))
        weight, bias = (p.detach().double().numpy() for p in network.reduce.parameters())
        dropped = high if kept is None else high * kept.double().numpy()[:, None, None]
        low = np.einsum("dk,kyx->dyx", weight[:, :, 0, 0], dropped) + bias[:, None, None]
        self.dense = unit(low, axis=0)
        responses = lengths(fine)
        scores = soft(responses)
        cells = [
            (x, y)
            for y in range(1, fine.shape[1] - 1)
            for x in range(1, fine.shape[2] - 1)
            if any(r[y, x] == r[y - 1 : y + 2, x - 1 : x + 2].max() for r in responses)
        ]
        # Fine cell x is centred on pixel 2 x + 0.5, cell X of F on 4 X + 1.5.
        self.at = np.array([((2 * x + 0.5 - 1.5) / 4, (2 * y + 0.5 - 1.5) / 4) for x, y in cells])
        self.scores = np.array([scores[y, x] for x, y in cells])
        self.low = unit(bilinear(self.dense, self.at))
        self.high = unit(bilinear(high, self.at))
        self.columns = self.dense.reshape(len(self.dense), -1).T
        self.width = self.dense.shape[2]


def place(index, width):
    return np.array((index % width, index // width), float)  # x, y


def position_term(one, other, negative, margin):
    """sum_k max(0, m - best + o_k) over the positions of `one` that are found again, and their share."""
    total, count = 0.0, 0
    for descriptor, at in zip(one.low, one.at, strict=True):
        row = other.columns @ descriptor
        best = int(row.argmax())
        back = int((one.columns @ other.columns[best]).argmax())
        if np.abs(place(back, one.width) - at).max() > 1.5:
            continue
        cells = place(np.arange(len(row)), other.width) - place(best, other.width)[:, None]
        far = row[np.abs(cells).max(axis=0) > 3]
        for rival in ((negative.columns @ descriptor).max(), far.max()):
            total += max(0.0, margin - row[best] + rival)
        count += 1
    return total / max(count, 1), count / len(one.at)


def image_score(one, other):
    """(mean of row maxima + mean of column maxima) / 2."""
    return (
        (one.low @ other.columns.T).max(axis=1).mean()
        + (other.low @ one.columns.T).max(axis=1).mean()
    ) / 2


def pooled(network, taps, k):
    parts = []
    for name, share in {"stage3": 0.3, "stage5": 0.5, "stage7": 0.5, "head": 1.0}.items():
        maps = np.maximum(taps[name][k].detach().double().numpy(), 1e-6)
        p = network.pools[name].p.item()
        parts.append(share * unit((maps**p).mean(axis=(1, 2)) ** (1 / p)))
    return unit(np.concatenate(parts))


def expected(network, images, kept, matching, margin):
    with torch.no_grad():
        taps = network.taps(torch.cat(images))
    seen = [Seen(network, taps, k, kept) for k in range(6)]
    vectors = [pooled(network, taps, k) for k in range(6)]
    totals = dict.fromkeys(("retrieval", "matching", "distillation", "found again"), 0.0)
    for k in range(2):
        a, p, n = seen[k], seen[2 + k], seen[4 + k]
        first, second = position_term(a, p, n, margin), position_term(p, a, n, margin)
        totals["found again"] += (first[1] + second[1]) / 2 / 2
        if matching == "positions":
            totals["matching"] += (first[0] + second[0]) / 2 / 2
        else:
            totals["matching"] += max(0.0, margin - image_score(a, p) + image_score(a, n)) / 2
        weights = np.outer(a.scores, p.scores)
        weights /= weights.mean()
        residual = (a.high @ p.high.T) * weights - a.low @ p.low.T
        totals["distillation"] += (residual**2).mean() / 2
        near = ((vectors[k] - vectors[2 + k]) ** 2).sum()
        far = math.sqrt(((vectors[k] - vectors[4 + k]) ** 2).sum())
        totals["retrieval"] += (near + max(0.0, 0.85 - far) ** 2) / 2 / 2
    parts = (totals["retrieval"], totals["matching"], totals["distillation"])
    return totals | {"loss": sum(w * v for w, v in zip(WEIGHTS, parts, strict=True))}


# --- tests --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("matching", "margin"), [("positions", 0.2), ("positions", 0.35), ("images", 0.9)]
)
def test_the_joint_losses_by_hand(network, images, matching, margin, training):
    objective = Objective(positions=10_000, matching=matching, margin=margin, weights=WEIGHTS)
    torch.manual_seed(5)
    kept = network.concepts() if training else None
    if kept is not None:
        assert set(kept.tolist()) == {0.0, 2.0}
    by_hand = expected(network, images, kept, matching, margin)
    network.training = training  # the network's own flag alone; normalisations stay as they are
    torch.manual_seed(5)
    with torch.no_grad():
        found = joint_losses(network, images, objective)
    network.training = True
    assert set(found) == set(by_hand)
    for name, value in by_hand.items():
        assert float(found[name]) == pytest.approx(value, rel=2e-4, abs=1e-6), name
        assert value > 1e-3, name  # nothing is tested that is not there


def test_the_correspondence_loss_by_hand():
    """-log of the share of the right one among all that are 6 px off in both images, both ways, on F's
    grid, whose cell X lies at pixel 4 X + 1.5."""
    generator = torch.Generator().manual_seed(3)
    dense = torch.nn.functional.normalize(torch.randn(4, 5, 16, 16, generator=generator), dim=1)
    points = 60 * torch.rand(2, 2, 12, 2, generator=generator)
    points[0, :, 1] = points[0, :, 0] + 4.0  # near in the anchors alone
    counted = torch.arange(12) < torch.tensor([[12], [9]])
    known = Correspondences(points[0], points[1], counted)
    grid = Grid(4, 1.5)
    terms = []
    for k in range(2):
        a, b = (
            unit(bilinear(dense[k + 2 * side].double().numpy(), (at - 1.5) / 4))
            for side, at in enumerate(points[:, k].double().numpy())
        )
        n = int(counted[k].sum())
        alike = a[:n] @ b[:n].T / 0.1
        for i in range(n):
            far = [
                j == i
                or all(np.linalg.norm(at[k, i] - at[k, j]) > 6 for at in points.double().numpy())
                for j in range(n)
            ]
            terms += [np.log(np.exp(r[far]).sum()) - r[i] for r in (alike[i], alike[:, i])]
    value = float(correspondence_loss(dense, known, grid))
    assert value == pytest.approx(np.mean(terms), rel=1e-4)
    swapped = Correspondences(points[0].flip(-1), points[1].flip(-1), counted)
    assert abs(float(correspondence_loss(dense, swapped, grid)) - value) > 1e-2


def test_the_teacher_and_detection_learn_nothing(network, images):
    taps = network.taps(images[0])
    seen = dense_features(network, taps, network.concepts(), 100)[0]
    assert not seen.high.requires_grad
    assert not seen.scores.requires_grad
    assert seen.low.requires_grad
    assert seen.dense.requires_grad


@pytest.mark.parametrize(
    ("weights", "learns"),
    [
        ((1.0, 0.0, 0.0), {"pools.", "backbone."}),
        ((0.0, 1.0, 0.0), {"reduce.", "pyramid.", "backbone."}),
        ((0.0, 0.0, 1.0), {"reduce.", "pyramid.", "backbone."}),
    ],
)
def test_every_loss_teaches_its_own_part(network, images, weights, learns):
    network.requires_grad_(True)
    network.zero_grad()
    torch.manual_seed(5)
    joint_losses(network, images, Objective(weights=weights))["loss"].backward()
    moved = {
        name.split(".")[0] + "."
        for name, p in network.named_parameters()
        if p.grad is not None and p.grad.abs().max() > 0
    }
    network.zero_grad()
    assert moved == learns


def test_the_student_alone_is_taught_by_distillation(network, images):
    """By its weight: a step against the gradient of L_dis with the teacher as it is lowers it, and the
    gradient is that of (target - student)^2 by finite differences."""
    objective = Objective(positions=10_000, weights=(0.0, 0.0, 1.0))
    network.requires_grad_(True)
    network.zero_grad()
    network.training = False
    joint_losses(network, images, objective)["loss"].backward()
    gradient = network.reduce.weight.grad.double()
    direction = gradient / gradient.norm()
    values = []
    before = network.reduce.weight.detach().clone()
    for sign in (1, -1):
        with torch.no_grad():
            network.reduce.weight.copy_(before + sign * 0.02 * direction)
            values.append(float(joint_losses(network, images, objective)["distillation"]))
            network.reduce.weight.copy_(before)
    network.training = True
    network.zero_grad()
    slope = (values[0] - values[1]) / 0.04
    assert slope == pytest.approx(float(gradient.norm()), rel=0.05)


def test_radii_are_what_the_losses_are_tested_with():
    assert (module.FOUND_RADIUS, module.RUNNER_UP_RADIUS, module.RIVAL_RADIUS) == (1.5, 3.0, 6.0)
