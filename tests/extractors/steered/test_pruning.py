"""Narrowing the steered network: what counts is kept, the rest is learned from the wide one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError, WeightsError
from locate.extractors.blocks.corners import orientations
from locate.extractors.recipes import create_recipe
from locate.extractors.steered.equivariant import FieldNorm, GroupConv
from locate.extractors.steered.extractor import Steered
from locate.extractors.steered.network import SteeredNetwork
from locate.extractors.steered.pruning import PruningRecipe, pruned
from locate.extractors.weights import Record, save_weights
from locate.training.recipe import generator

WIDE = ((3, 4, 5, 6, 7), 5, (1, 1, 2, 2), 30)
NARROW = ((2, 3, 3, 4, 4), 3, (1, 1, 1, 1), 20)


@pytest.fixture
def wide():
    torch.manual_seed(0)
    made = SteeredNetwork(*WIDE)
    for module in made.modules():
        if isinstance(module, FieldNorm):  # as if trained
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texture):
    root = tmp_path_factory.mktemp("photos")
    for i in range(30):
        cv2.imwrite(str(root / f"{i:02}.png"), texture((200, 160), seed=i)[..., ::-1])
    torch.manual_seed(1)
    network = SteeredNetwork(*WIDE)
    settings = dict(zip(("widths", "fields", "residuals", "hidden"), WIDE, strict=True))
    save_weights(root / "wide.safetensors", network.state_dict(), Record("steered", settings))
    return root


@pytest.fixture(scope="module")
def recipe(folder, tmp_path_factory):
    made = PruningRecipe(
        folder / "wide.safetensors",
        widths=NARROW[0],
        fields=NARROW[1],
        residuals=NARROW[2],
        hidden=NARROW[3],
        crop=96,
        views=3,
        points=40,
    )
    made.prepare(folder, tmp_path_factory.mktemp("cache"))
    return made


def described(network, image, points, facing):
    return network.descriptors_at(network(image), points, facing)


def test_nothing_is_lost_with_fields_that_nothing_reads(wide):
    """A wide network whose surplus fields are read with weights of zero, and whose surplus residuals add
    zero, sees exactly what the narrow one does."""
    rng = np.random.default_rng(0)
    stem, streams, last = wide.stem, (wide.to4, wide.to8, wide.to16, wide.to32), wide.fields

    def unread(count, kept, *readers):
        for field in rng.permutation(count)[kept:]:
            for reader in readers:
                if isinstance(reader, GroupConv):
                    reader.weight[:, field] = 0
                else:
                    reader.weight.view(len(reader.weight), -1, count)[..., field] = 0

    unread(3, 2, stem[1][0])
    unread(3, 2, wide.to4[0][0])
    for number, stream in enumerate(streams):
        count, kept = WIDE[0][number + 1], NARROW[0][number + 1]
        readers = [wide.lateral[number], *(one.first[0] for one in stream[1:])]
        if number < 3:
            readers.append(streams[number + 1][0][0])
        unread(count, kept, *readers)
        for one in stream[1:2]:
            unread(count, kept, one.second)
        for one in stream[2:]:
            one.norm.weight.zero_()
            one.norm.bias.zero_()
    unread(last, 3, wide.join[0][0])
    unread(last, 3, wide.join[1][0])
    unread(last, 3, wide.describe[0])
    wide.describe[2].weight[:, rng.permutation(30)[20:]] = 0
    narrow = pruned(wide, *NARROW).eval()
    image = 255 * torch.rand(1, 3, 96, 128)
    points = 16 + torch.rand(1, 40, 2) * torch.tensor((96.0, 64.0))
    facing = torch.nn.functional.normalize(torch.randn(1, 40, 2), dim=-1)
    a, b = (described(network, image, points, facing) for network in (wide, narrow))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    assert (a[:, 1:] - a[:, :-1]).norm(dim=-1).min() > 1e-3


@pytest.mark.parametrize(
    "larger",
    [
        ((4, *NARROW[0][1:]), 3, (1, 1, 1, 1), 20),
        (NARROW[0], 6, (1, 1, 1, 1), 20),
        (NARROW[0], 3, (2, 1, 1, 1), 20),
        (NARROW[0], 3, (1, 1, 1, 1), 31),
        (NARROW[0][:4], 3, (1, 1, 1, 1), 20),
    ],
)
def test_a_narrow_network_that_is_wider(wide, larger):
    with pytest.raises(InputError, match="cannot be pruned"):
        pruned(wide, *larger)


def test_batches_depend_on_their_number_alone(recipe):
    stage = recipe.stages[0]
    a, b, other = (recipe.batch(stage, generator(0, 0, n)) for n in (3, 3, 4))
    for name in ("images", "points", "orientations"):
        assert torch.equal(a[name], b[name])
    assert not torch.equal(a["images"], other["images"])
    assert a["images"].shape == (3, 3, 96, 96)
    assert a["points"].shape == a["orientations"].shape == (3, 40, 2)
    assert a["points"].min() >= 4
    assert a["points"].max() <= 91


def test_every_second_spot_is_described_upright_and_the_others_face_along_the_gradient(recipe):
    batch = recipe.batch(recipe.stages[0], generator(0, 0, 1))
    assert (batch["orientations"][:, 1::2] == torch.tensor((1.0, 0.0))).all()
    for image, points, facing in zip(
        *(batch[n] for n in ("images", "points", "orientations")), strict=True
    ):
        pixels = image.permute(1, 2, 0).numpy().astype(np.uint8)
        expected = orientations(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), points.numpy())
        np.testing.assert_allclose(facing[0::2], expected[0::2], atol=1e-3)


def test_a_network_that_sees_the_same_has_no_loss(recipe, folder):
    stage = recipe.stages[0]
    batch = recipe.batch(stage, generator(0, 0, 2))
    same = pruned(recipe._teacher, *WIDE).eval()
    assert abs(float(recipe.losses(same, batch, stage)["loss"].detach())) < 1e-5
    # By hand: one less the mean cosine, of an untrained network with the wide one's descriptors.
    torch.manual_seed(5)
    other = SteeredNetwork(*NARROW).eval()
    images, points, facing = (batch[name] for name in ("images", "points", "orientations"))
    pairs = [described(n.eval(), images, points, facing).detach() for n in (other, recipe._teacher)]
    expected = 1 - (pairs[0].numpy() * pairs[1].numpy()).sum(axis=-1).mean()
    assert float(recipe.losses(other, batch, stage)["loss"].detach()) == pytest.approx(
        expected, abs=1e-4
    )


def test_it_learns_and_the_weights_extract(recipe, tmp_path, texture):
    torch.manual_seed(0)
    stage, network = recipe.stages[0], recipe.network()
    optimiser = torch.optim.AdamW(recipe.begin(network, stage), lr=3e-3)
    batches = [recipe.batch(stage, generator(0, 0, n)) for n in range(2)]
    seen = []
    for step in range(20):
        loss = recipe.losses(network, batches[step % 2], stage)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(float(loss.detach()))
    assert np.mean(seen[-2:]) < 0.7 * np.mean(seen[:2])
    file = tmp_path / "w.safetensors"
    save_weights(file, recipe.tensors(network), Record("steered", recipe.settings()))
    assert len(Steered.from_pretrained(file).extract(texture((320, 240))).features) > 20


def test_settings(folder, tmp_path):
    file = str(folder / "wide.safetensors")
    made = create_recipe("steered-narrow", {"wide_weights": file, "fields": 4, "hidden": 9})
    assert (made.settings()["fields"], made.settings()["hidden"]) == (4, 9)
    with pytest.raises(InputError, match="--set wide_weights=FILE"):
        PruningRecipe().prepare(folder, tmp_path)
    with pytest.raises(WeightsError):
        PruningRecipe(folder / "00.png").prepare(folder, tmp_path)
    for wrong in ({"crop": 100}, {"views": 0}, {"points": 2}):
        with pytest.raises(InputError, match="narrow: crop must be"):
            PruningRecipe(**wrong)
