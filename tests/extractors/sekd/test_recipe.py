"""The recipe of SEKD: its stages in turn, batches of true correspondences, training that goes on."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError, UnknownNameError
from locate.extractors.recipes import create_recipe
from locate.extractors.sekd import keypoints as finding
from locate.extractors.sekd import recipe as module
from locate.extractors.sekd.extractor import SEKD
from locate.extractors.sekd.losses import distances
from locate.extractors.sekd.recipe import SEKDRecipe
from locate.extractors.weights import Record, save_weights
from locate.training.checkpoint import load_checkpoint
from locate.training.loop import CHECKPOINT, train
from locate.training.recipe import generator
from tests.helpers.training_toys import QUICK, equal

SMALL = {"width": 80, "height": 64, "pairs": 2, "views": 2, "label_side": 128, "iterations": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texture):
    root = tmp_path_factory.mktemp("photos")
    for i in range(24):
        cv2.imwrite(str(root / f"{i:02}.png"), texture((150, 128), seed=i))
    (root / "broken.png").write_bytes(b"no photo")
    cv2.imwrite(str(root / "tiny.png"), np.full((3, 7, 3), 9, np.uint8))
    return root


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(module, "_FIRST", 8)
    monkeypatch.setattr(module, "_MORE", 2)
    monkeypatch.setattr(module, "_EVERY", 2)


@pytest.fixture
def recipe(folder, tmp_path):
    made = SEKDRecipe(**SMALL)
    made.prepare(folder, tmp_path / "cache")
    return made


def begun(recipe, number, seed=0):
    torch.manual_seed(seed)
    network = recipe.network()
    stage = recipe.stages[number]
    list(recipe.begin(network, stage))
    return network, stage


def test_stages_are_descriptor_and_detector_in_turn():
    names = [stage.name for stage in SEKDRecipe(iterations=2).stages]
    assert names == ["descriptor 1", "detector 1", "descriptor 2", "detector 2"]
    names = [stage.name for stage in SEKDRecipe(iterations=2, start="reliable").stages]
    assert names == ["detector 1", "descriptor 2", "detector 2"]
    assert len(SEKDRecipe().stages) == 10


def test_keypoints_are_random_then_reliable_then_detected(recipe, monkeypatch):
    found = []
    for name in ("detected", "reliable"):

        def find(network, grey, rng, views, name=name):
            assert not network.training
            found.append((name, views))
            return rng.random(grey.shape, np.float32)

        monkeypatch.setattr(finding, name, find)
    seen = []
    for number in range(4):
        found.clear()
        begun(recipe, number, seed=number)
        seen.append(set(found))
    assert seen == [set(), {("reliable", 2)}, {("detected", 2)}, {("reliable", 2)}]


def test_settings_that_make_no_sense_are_refused():
    for wrong in ({"width": 66}, {"height": 32}, {"pairs": 0}, {"views": 0}, {"iterations": 0}):
        with pytest.raises(InputError, match="sekd: width and height"):
            SEKDRecipe(**wrong)
    with pytest.raises(UnknownNameError, match="triplet of sekd"):
        SEKDRecipe(triplet="hard")
    with pytest.raises(UnknownNameError, match="start of sekd"):
        SEKDRecipe(start="detected")
    assert create_recipe("sekd", {"triplet": "margin"}).triplet == "margin"


def test_batches_depend_on_their_number_alone(recipe):
    for number, keys in ((0, {"ends", "counted"}), (1, {"points", "valid", "b_from_a"})):
        _, stage = begun(recipe, number)
        a, b, other = (recipe.batch(stage, generator(0, 0, n)) for n in (3, 3, 4))
        assert set(a) == keys | {"images"}
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert not torch.equal(a["images"], other["images"])
        assert a["images"].shape == (4, 1, 64, 80)
        assert 0 <= a["images"].min() < 0.5 < a["images"].max() <= 1


def test_ends_are_the_same_spot_in_both_views(recipe, monkeypatch):
    monkeypatch.setattr(module, "_LIGHT", None)
    _, stage = begun(recipe, 0)
    right, wrong = [], []
    for n in range(6):
        batch = recipe.batch(stage, generator(0, 0, n))
        for p in range(2):
            a, b = (batch["images"][2 * p + i, 0].numpy() for i in range(2))
            ends = batch["ends"][p][batch["counted"][p]].numpy()
            assert len(ends) > 10
            x, y, u, v = (ends[:, k : k + 1].copy() for k in range(4))

            def look(image, column, row):
                return cv2.remap(image, column, row, cv2.INTER_LINEAR).ravel()

            right.append(np.abs(look(a, x, y) - look(b, u, v)).mean())
            wrong.append(np.abs(look(a, y, x) - look(b, u, v)).mean())
    assert np.mean(right) < 0.02
    assert np.mean(wrong) > 3 * np.mean(right)


def test_points_of_both_views_correspond(recipe):
    """The dots of a, brought into b, lie on dots of b, wherever both are judged."""
    _, stage = begun(recipe, 1)
    on = total = 0
    for n in range(6):
        batch = recipe.batch(stage, generator(0, 0, n))
        for p in range(2):
            points, valid = (batch[key][2 * p : 2 * p + 2].numpy() for key in ("points", "valid"))
            assert not (points & ~valid).any()
            near = cv2.dilate(points[1].astype(np.uint8), np.ones((3, 3), np.uint8))
            for y, x in np.argwhere(points[0]):
                u, v, w = batch["b_from_a"][p].numpy() @ (x, y, 1)
                column, row = round(u / w), round(v / w)
                if 1 <= column < 79 and 1 <= row < 63 and valid[1, row, column]:
                    total += 1
                    on += int(near[row, column])
    assert total > 30
    assert on / total > 0.95


def test_no_pixel_is_judged_where_no_keypoint_was_looked_for():
    """Views that show the whole photo and more: the band along its edges is left out."""
    inner = np.zeros((64, 80), np.bool_)
    inner[9:55, 9:71] = True
    points = np.array([[12.0, 20], [70, 9], [75, 20]])
    dots, judged = module._dots(np.eye(3), points, (64, 80), 9, (80, 64))
    np.testing.assert_array_equal(judged, inner)
    assert sorted(np.argwhere(dots).tolist()) == [[9, 70], [20, 12]]


def test_held_out_batches_are_of_held_out_photos(recipe):
    _, stage = begun(recipe, 0)
    keypoints, seen = recipe._keypoints, []
    read = keypoints._read
    keypoints._read = lambda index: seen.append(index) or read(index)
    for held_out in (True, False):
        seen.clear()
        for n in range(8):
            recipe.batch(stage, generator(0, 0, n), held_out=held_out)
        assert {i in keypoints._aside for i in seen} == {held_out}


def test_photos_are_labelled_while_the_stage_goes_on(recipe):
    network, stage = begun(recipe, 1)
    known = recipe._keypoints._state
    assert known["tried"] == 8
    recipe.refresh(network, stage, 0)
    assert known["tried"] == 10
    recipe.refresh(network, stage, 4)
    assert known["tried"] == 14
    recipe.refresh(network, stage, 400)
    names = [recipe._keypoints._pool.names[i] for i in known["photos"]]
    assert len(names) == len(set(names))
    assert "broken.png" not in names


def test_the_network_that_labels_is_that_of_the_stages_beginning(recipe, folder, tmp_path):
    """Also after the stage has gone on and was interrupted."""
    network, stage = begun(recipe, 1)
    start = {k: v.clone() for k, v in network.state_dict().items()}
    kept = recipe.state()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    again = SEKDRecipe(**SMALL)
    again.prepare(folder, tmp_path / "cache")
    again.set_state(kept)
    again.begin(network, stage)
    assert equal(again._before.state_dict(), start)
    assert not again._before.training
    assert network.training
    assert again.state() == kept
    again.begin(network, recipe.stages[2])  # a new stage has a new one
    assert equal(again._before.state_dict(), network.state_dict())


def test_what_each_stage_teaches(recipe):
    """The detector of a random network is not kept; from then on each keeps the other."""
    for number, names in (
        (0, {"triplet", "right"}),
        (1, {"focal", "repeated", "kept", "p of points", "p of others"}),
        (2, {"triplet", "right", "kept"}),
    ):
        network, stage = begun(recipe, number)
        batch = recipe.batch(stage, generator(0, 0, 0))
        found = recipe.losses(network.eval(), batch, stage)
        assert set(found) == names | {"loss"}
        if number:
            assert found["kept"].item() == 0  # in evaluation mode nothing has changed yet
        with torch.no_grad():
            network.conv0.weight += 0.2 * torch.randn_like(network.conv0.weight)
        found = recipe.losses(network, batch, stage)
        if number:
            assert found["kept"].item() > 0
            assert not recipe._before.detector.weight.requires_grad
        weighted = {
            0: lambda f: f["triplet"],
            1: lambda f: 100 * f["focal"] + f["repeated"] + 0.1 * f["kept"],
            2: lambda f: f["triplet"] + f["kept"],
        }[number]
        assert found["loss"].item() == pytest.approx(weighted(found).item())


def test_the_descriptor_loss_of_a_batch(recipe):
    """Pairs and sides are told apart: a is every second view."""
    recipe.triplet = "ratio"
    network, stage = begun(recipe, 0)
    batch = recipe.batch(stage, generator(0, 0, 1))
    network.eval()
    with torch.no_grad():
        found = recipe.losses(network, batch, stage)
        coarse = network(batch["images"])[1]
    losses = []
    for p in range(2):
        ends = batch["ends"][p][batch["counted"][p]]
        a, b = (
            module.read(coarse[2 * p + i][None], ends[None, :, 2 * i : 2 * i + 2]) for i in range(2)
        )
        d = distances(a, b)[0].numpy()
        apart = d + 10 * np.eye(len(d)) + 10 * (d < 0.008)
        nearest = np.minimum(apart.min(axis=0), apart.min(axis=1))
        hard = np.diag(d) / nearest > 0.85
        losses.append((np.diag(d) - nearest)[hard].mean())
    assert found["triplet"].item() == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("number", [0, 1])
def test_losses_fall(recipe, number):
    network, stage = begun(recipe, number)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    batch = recipe.batch(stage, generator(0, 0, 0))
    found = []
    for _ in range(12):
        found.append(recipe.losses(network, batch, stage))
        optimiser.zero_grad()
        found[-1]["loss"].backward()
        optimiser.step()
    assert found[-1]["loss"].item() < found[0]["loss"].item()
    if number == 0:
        assert found[-1]["right"] > found[0]["right"] + 0.1
    else:
        gaps = [f["p of points"] - f["p of others"] for f in found]
        assert gaps[-1] > gaps[0] + 0.002


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(folder, tmp_path):
    """Stopped after every step, resumed by a new recipe each time, one that lost its labels too."""

    options = replace(QUICK, steps=6)

    def made():
        return SEKDRecipe(**SMALL | {"iterations": 1})

    (tmp_path / "whole").mkdir()
    _, whole = train(made(), folder, tmp_path / "whole", options)
    out = tmp_path / "parts"
    out.mkdir()
    run, checkpoint = None, None
    for part in range(20):
        asked = iter([False] * (1 + part % 2))
        run, network = train(
            made(), folder, out, options, checkpoint, stop=lambda a=asked: next(a, True)
        )
        if run.finished:
            break
        checkpoint = load_checkpoint(out / CHECKPOINT)
        if part == 2:
            for file in (out / "cache").glob("*.npy"):
                file.unlink()
    assert run.finished
    assert part > 2
    assert equal(network.state_dict(), whole.state_dict())


def test_in_the_end_the_threshold_gives_as_many_keypoints_as_were_learned(recipe):
    recipe.labels = 300
    network, stage = begun(recipe, 1)
    before = network.detector.bias.detach().clone()
    recipe.finish(network, stage)
    assert torch.equal(network.detector.bias, before)  # a later stage comes
    _, stage = begun(recipe, 3)
    recipe.finish(network, stage)
    assert network.detector.bias[0] == before[0]
    keypoints = recipe._keypoints
    photos = [keypoints._read(i) for i in keypoints._state["photos"] if i not in keypoints._aside]
    sekd = SEKD(network, "0")
    found = sum(len(sekd.extract(photo).features) for photo in photos)
    pixels = sum(photo.shape[0] * photo.shape[1] for photo in photos)
    assert found == pytest.approx(300 * pixels / (240 * 320), abs=2)


def test_trained_weights_extract(recipe, tmp_path, texture):
    network = recipe.network()
    path = tmp_path / "w.safetensors"
    save_weights(path, recipe.tensors(network), Record("sekd", recipe.settings()))
    features = SEKD.from_pretrained(path, threshold=0.0).extract(texture((160, 128))).features
    assert len(features) > 20


def test_a_folder_of_nothing_usable(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(b"no photo")
    made = SEKDRecipe(**SMALL)
    made.prepare(tmp_path, tmp_path / "cache")
    _, stage = begun(made, 0)
    with pytest.raises(InputError, match="no photo can be used"):
        made.batch(stage, generator(0, 0, 0))
