"""The recipe of SuperPoint: shapes, labels by the detector of the stage before, views that agree."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError, UnknownNameError
from locate.extractors.recipes import create_recipe
from locate.extractors.superpoint import recipe as module
from locate.extractors.superpoint.extractor import SuperPoint
from locate.extractors.superpoint.network import SuperPointNetwork
from locate.extractors.superpoint.recipe import SuperPointRecipe
from locate.extractors.weights import Record, load_weights, save_weights
from locate.pixels import apply_homography
from locate.training import loop
from locate.training.options import Options
from locate.training.recipe import generator

SMALL = {
    "width": 96,
    "height": 80,
    "batch_size": 4,
    "rounds": 1,
    "homographies": 3,
    "label_side": 160,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texture):
    """Thirty photos, one of them broken."""
    root = tmp_path_factory.mktemp("train")
    for i in range(30):
        cv2.imwrite(str(root / f"{i:02}.png"), texture((192, 160), seed=i))
    (root / "30.jpg").write_text("no photo")
    return root


@pytest.fixture
def recipe(folder, tmp_path):
    made = SuperPointRecipe(**SMALL)
    made.prepare(folder, tmp_path / "cache")
    return made


def corner_detector(_):
    """Stands in for a trained detector: the corners of OpenCV, found again in every view."""

    def detect(images):
        heats = np.zeros(images.shape, np.float32)
        for heat, image in zip(heats, images, strict=True):
            found = cv2.goodFeaturesToTrack(image, 60, 0.05, 6)
            for x, y in [] if found is None else found[:, 0].astype(int):
                heat[y, x] = 0.9
        return heats

    return detect


def test_batches_of_shapes_depend_on_their_number_alone(recipe):
    stage = recipe.stages[0]
    a, b, other = (recipe.batch(stage, generator(0, 0, n)) for n in (3, 3, 4))
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    assert not torch.equal(a["images"], other["images"])
    assert a["images"].shape == (4, 1, 80, 96)
    assert 0 <= a["images"].min() < a["images"].max() <= 1
    assert a["points"].shape == a["valid"].shape == (4, 80, 96)
    assert "b_from_a" not in a


def test_labels_of_both_views_are_the_same_spots(recipe, monkeypatch):
    monkeypatch.setattr(module, "_detector", corner_detector)
    monkeypatch.setattr(module, "_LABEL_THRESHOLD", 0.3)  # found in a third of the views
    stage = recipe.stages[-1]
    recipe.begin(recipe.network(), stage)
    counts, near, far = 0, [], []
    for n in range(6):
        batch = recipe.batch(stage, generator(0, 2, n))
        for p, b_from_a in enumerate(batch["b_from_a"].double().numpy()):
            a, b = (np.argwhere(batch["points"][2 * p + i].numpy())[:, ::-1] for i in (0, 1))
            there = apply_homography(b_from_a, a.astype(np.float64))
            x, y = np.rint(there).astype(int).T
            inside = (x >= 2) & (x < 94) & (y >= 2) & (y < 78)
            inside[inside] &= batch["valid"][2 * p + 1].numpy()[y[inside], x[inside]]
            counts += inside.sum()
            for points, found in ((there, near), (a.astype(np.float64), far)):
                away = np.linalg.norm(points[inside, None] - b[None], axis=2).min(axis=1)
                found.extend(away)
    assert counts > 40
    assert np.quantile(near, 0.95) < 2  # both were rounded to pixels, and b may be magnified
    assert np.median(far) > 2


def test_a_photo_is_labelled_once(recipe, monkeypatch):
    made = []
    monkeypatch.setattr(
        module, "_detector", lambda path: made.append(path) or corner_detector(path)
    )
    stage = recipe.stages[1]
    network = recipe.network()
    recipe.begin(network, stage)
    assert len(made) == 1
    some = list(recipe._labelled)
    aside = set(recipe._pool.held_out.tolist())
    assert aside & set(some)
    assert set(some) - aside
    recipe.refresh(network, stage, 0)  # as many as `begin` made
    assert recipe._labelled == some
    recipe.refresh(network, stage, 150)
    assert len(recipe._labelled) == min(len(some) + 9, len(recipe._order))
    state = json.loads(json.dumps(recipe.state()))
    recipe.begin(network, stage)  # after a kill: from the files
    recipe.set_state(state)
    assert len(made) == 2
    batch = recipe.batch(stage, generator(0, 1, 0))
    recipe.set_state(state)
    again = recipe.batch(stage, generator(0, 1, 0))
    assert all(torch.equal(value, again[name]) for name, value in batch.items())


def test_held_out_batches_show_photos_that_no_training_sees(recipe, monkeypatch):
    monkeypatch.setattr(module, "_detector", corner_detector)
    stage = recipe.stages[-1]
    recipe.begin(recipe.network(), stage)
    seen = []
    read = recipe._read
    monkeypatch.setattr(recipe, "_read", lambda index: seen.append(index) or read(index))
    recipe.batch(stage, generator(0, 0, 0), held_out=True)
    assert set(seen) <= set(recipe._pool.held_out.tolist())
    seen.clear()
    recipe.batch(stage, generator(0, 0, 0))
    assert set(seen) <= set(recipe._pool.train.tolist())


def test_the_descriptor_head_is_trained_in_the_last_stage_alone(recipe, monkeypatch):
    monkeypatch.setattr(module, "_detector", corner_detector)
    for stage in recipe.stages:
        torch.manual_seed(0)
        network = recipe.network()
        parameters = list(recipe.begin(network, stage))
        losses = recipe.losses(network, recipe.batch(stage, generator(0, 0, 0)), stage)
        losses["loss"].backward()
        last = stage is recipe.stages[-1]
        assert ("descriptor" in losses) == last
        head = [p for name, p in network.named_parameters() if "D" in name]
        assert all((p.grad is not None) == last for p in head)
        assert all(any(p is q for q in parameters) == last for p in head)
        weighed = 2 * losses["detector"] + losses.get("descriptor", 0)
        assert losses["loss"].item() == pytest.approx(weighed.item(), rel=1e-6)


def test_the_papers_hinge_is_a_setting(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_detector", corner_detector)
    found = {}
    for name in ("softmax", "hinge"):
        made = SuperPointRecipe(**SMALL, descriptor_loss=name)
        made.prepare(folder, tmp_path / "cache")
        torch.manual_seed(0)
        network = made.network()
        stage = made.stages[-1]
        made.begin(network, stage)
        losses = made.losses(network, made.batch(stage, generator(0, 0, 0)), stage)
        losses["descriptor"].backward()
        assert network.convDb.weight.grad.abs().sum() > 0
        found[name] = losses["descriptor"].item()
    assert found["hinge"] != found["softmax"]


def test_masked_cells_do_not_teach(recipe):
    stage = recipe.stages[0]
    network = recipe.network().eval()
    batch = dict(recipe.batch(stage, generator(0, 0, 0)))
    batch["valid"] = batch["valid"].clone()
    batch["valid"][:, :40] = False
    torch.manual_seed(0)
    before = recipe.losses(network, batch, stage)["loss"].item()
    batch["points"] = batch["points"].clone()
    batch["points"][:, 3:37:8, 3::8] = True
    torch.manual_seed(0)
    assert recipe.losses(network, batch, stage)["loss"].item() == before


@pytest.mark.parametrize("how", [{"steps": 12}, {"seconds": 6.0}])
def test_all_stages_run_and_the_weights_extract(folder, tmp_path, texture, how):
    recipe = SuperPointRecipe(**SMALL)
    options = Options(threads=1, held_out_batches=1, **how)
    run, network = loop.train(recipe, folder, tmp_path, options)
    assert run.finished
    file = tmp_path / "w.safetensors"
    save_weights(file, recipe.tensors(network), Record("superpoint", recipe.settings()))
    tensors, _ = load_weights(file, "superpoint")
    assert sum(t.numel() for t in tensors.values()) == 1_300_865
    features = SuperPoint.from_pretrained(file).extract(texture((160, 128))).features
    assert len(features) > 20


def test_it_starts_from_the_weights_of_before(recipe, texture):
    """Though these are fused."""
    torch.manual_seed(0)
    plain, network = SuperPointNetwork().eval(), recipe.network()
    recipe.start_from(network, plain.state_dict())
    grey = texture((160, 120)).mean(axis=2)
    images = torch.from_numpy(grey / 255)[None, None].float()
    with torch.no_grad():
        for ours, theirs in zip(network.eval()(images), plain(images), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"width": 100}, {"batch_size": 3}, {"rounds": 0}, {"labels": 0}):
        with pytest.raises(InputError, match="superpoint"):
            create_recipe("superpoint", wrong)
    with pytest.raises(UnknownNameError, match="descriptor_loss"):
        create_recipe("superpoint", {"descriptor_loss": "triplet"})
