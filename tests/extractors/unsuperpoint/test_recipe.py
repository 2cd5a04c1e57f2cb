"""The recipe of UnsuperPoint: views of one photo, both balances of the losses, weights that extract."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError, UnknownNameError
from locate.extractors.blocks.corners import corners
from locate.extractors.recipes import create_recipe
from locate.extractors.unsuperpoint.extractor import UnsuperPoint
from locate.extractors.unsuperpoint.recipe import KP2D, PAPER, UnsuperPointRecipe, strongest_corners
from locate.extractors.weights import Record, save_weights
from locate.training import loop
from locate.training.options import Options
from locate.training.recipe import generator
from tests.helpers.training_toys import metrics

SMALL = {"width": 96, "height": 80, "pairs": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texture):
    root = tmp_path_factory.mktemp("train")
    for i in range(30):
        cv2.imwrite(str(root / f"{i:02}.png"), texture((192, 160), seed=i))
    return root


@pytest.fixture(params=[KP2D, PAPER])
def recipe(folder, tmp_path, request):
    made = UnsuperPointRecipe(variant=request.param, **SMALL)
    made.prepare(folder, tmp_path)
    return made


def test_batches_depend_on_their_number_alone(recipe):
    stage = recipe.stages[-1]
    a, b, other = (recipe.batch(stage, generator(0, 0, n)) for n in (3, 3, 4))
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(a["images"], other["images"])
    assert a["images"].shape == (4, 3, 80, 96)
    assert a["valid"].shape == (4, 80, 96)
    assert a["b_from_a"].shape == (2, 3, 3)


def test_views_agree_by_their_homography(recipe):
    right, wrong = [], []
    for n in range(6):
        batch = recipe.batch(recipe.stages[-1], generator(0, 0, n))
        for p, b_from_a in enumerate(batch["b_from_a"].double().numpy()):
            a, b = (batch["images"][2 * p + i].mean(dim=0).numpy() for i in (0, 1))
            inside = batch["valid"][2 * p + 1].numpy().astype(np.float32)
            for h, found in ((b_from_a, right), (np.linalg.inv(b_from_a), wrong)):
                back = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP  # b at h x, over all x of a
                warped, seen = (
                    cv2.warpPerspective(i, h, (96, 80), flags=back) for i in (b, inside)
                )
                some = seen > 0.99
                found.append(np.corrcoef(a[some], warped[some])[0, 1] if some.sum() > 500 else 0)
    assert np.mean(right) > 0.7  # light and noise differ
    assert np.mean(wrong) < np.mean(right) - 0.3


def test_losses_are_weighed_by_their_names(recipe):
    torch.manual_seed(0)
    network = recipe.network()
    stage = recipe.stages[-1]
    recipe.begin(network, stage)
    losses = recipe.losses(network, recipe.batch(stage, generator(0, 0, 0)), stage)
    names = {"position", "score", "usp", "descriptor"}
    if recipe.variant == PAPER:
        names |= {"uniform", "decorrelation"}
    corners = {"corner", "rank"} if recipe.variant == KP2D else set()
    assert set(losses) == names | corners | {"loss", "pixels apart", "spread of scores"}
    weighed = sum(getattr(recipe, name) * losses[name] for name in names)
    weighed += recipe.corner * sum(losses[name] for name in corners)
    torch.testing.assert_close(losses["loss"], weighed)
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_the_papers_sums_are_the_default_means_times_their_terms(folder, tmp_path):
    made = {}
    for sums in (False, True):
        recipe = UnsuperPointRecipe(variant=PAPER, sums=sums, width=96, height=80, pairs=1)
        recipe.prepare(folder, tmp_path)
        torch.manual_seed(0)
        batch = recipe.batch(recipe.stages[0], generator(0, 0, 0))
        made[sums] = recipe.losses(recipe.network().eval(), batch, recipe.stages[0])
    points = 12 * 10
    assert made[True]["uniform"].item() == pytest.approx(
        2 * points * made[False]["uniform"].item(), rel=1e-4
    )
    assert made[True]["decorrelation"].item() == pytest.approx(
        2 * 256 * 255 * made[False]["decorrelation"].item(), rel=1e-4
    )
    assert made[True]["pixels apart"].item() == pytest.approx(made[False]["pixels apart"].item())


def test_points_on_nothing_do_not_count(recipe):
    stage = recipe.stages[-1]
    batch = dict(recipe.batch(stage, generator(0, 0, 0)))
    batch["valid"] = torch.zeros_like(batch["valid"])
    losses = recipe.losses(recipe.network().eval(), batch, stage)
    for name in ("position", "score", "usp", "descriptor"):
        assert losses[name].item() == 0


def test_the_strongest_corner_of_each_cell_against_a_loop(texture):
    image = texture((96, 80), seed=3)
    points, _, strengths = corners(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (1.0,))
    places, ranks = strongest_corners(image)
    assert places.shape == (120, 2)
    held, chosen = 0, {}
    for row in range(10):
        for column in range(12):
            low = np.array((column, row)) * 8 - 0.5  # the corner of the cell, in pixels
            inside = ((points >= low) & (points < low + 8)).all(axis=1)
            cell = 12 * row + column
            if not inside.any():
                assert np.isnan(places[cell]).all()
                assert ranks[cell] == 0
                continue
            held += 1
            best = np.flatnonzero(inside)[strengths[inside].argmax()]
            np.testing.assert_allclose(places[cell], (points[best] - low) / 8, atol=1e-5)
            chosen[cell] = strengths[best]
    assert held > 15
    for cell, strength in chosen.items():
        assert ranks[cell] == pytest.approx(np.mean([s <= strength for s in chosen.values()]))
    flat_places, flat_ranks = strongest_corners(np.full((16, 16, 3), 9, np.uint8))
    assert np.isnan(flat_places).all()
    assert not flat_ranks.any()


def test_the_first_stage_of_kp2d_learns_corners(folder, tmp_path):
    recipe = UnsuperPointRecipe(variant=KP2D, **SMALL)
    recipe.prepare(folder, tmp_path)
    assert [stage.name for stage in recipe.stages] == ["corners", "siamese"]
    assert [s.name for s in UnsuperPointRecipe(variant=PAPER).stages] == ["siamese"]
    torch.manual_seed(0)
    network = recipe.network()
    stage = recipe.stages[0]
    optimiser = torch.optim.AdamW(recipe.begin(network, stage), lr=2e-3)
    batch = recipe.batch(stage, generator(0, 0, 0))
    seen = []
    for _ in range(12):
        losses = recipe.losses(network, batch, stage)
        weighed = losses["corner"] + losses["rank"] + recipe.descriptor * losses["descriptor"]
        torch.testing.assert_close(losses["loss"], weighed)
        seen.append((losses["corner"].item(), losses["rank"].item()))
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
    assert seen[-1][0] < seen[0][0] - 0.3
    assert seen[-1][1] < seen[0][1] - 0.05


def test_a_short_training_brings_points_together_and_extracts(folder, tmp_path, texture):
    recipe = UnsuperPointRecipe(**SMALL)
    _, network = loop.train(recipe, folder, tmp_path, Options(steps=60, threads=1))
    apart = [line["losses"]["pixels apart"] for line in metrics(tmp_path, kind="held-out")]
    assert apart[-1] < apart[0] - 0.02
    file = tmp_path / "w.safetensors"
    save_weights(file, recipe.tensors(network), Record("unsuperpoint", recipe.settings()))
    extractor = UnsuperPoint.from_pretrained(file)
    features = extractor.extract(texture((160, 128))).features
    assert len(features) > 50
    assert (features.keypoints >= -0.5).all()
    assert (features.keypoints <= np.array((159.5, 127.5))).all()


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"width": 100}, {"pairs": 0}):
        with pytest.raises(InputError, match="unsuperpoint"):
            create_recipe("unsuperpoint", wrong)
    with pytest.raises(UnknownNameError, match="variant"):
        create_recipe("unsuperpoint", {"variant": "r2d2"})
