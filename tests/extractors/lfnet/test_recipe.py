"""The recipe of LF-Net: batches of true correspondences, a loss that falls, weights that extract."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError
from locate.extractors.lfnet import recipe as module
from locate.extractors.lfnet.extractor import LFNet
from locate.extractors.lfnet.recipe import LFNetRecipe, field_of
from locate.extractors.weights import Record, save_weights
from locate.training import loop
from locate.training.checkpoint import load_checkpoint
from locate.training.data.correspondences import MatchedPair, save_pairs
from locate.training.data.photometric import PhotometricSettings
from locate.training.options import Options
from locate.training.recipe import generator

NO_NOISE = PhotometricSettings(
    brightness=0,
    contrast=0,
    gamma=0,
    color_cast=0,
    saturation=0,
    grey_chance=0,
    noise_chance=0,
    blur_chance=0,
    motion_chance=0,
    shadow_chance=0,
    jpeg_chance=0,
)
AFFINE = np.array([[0.9, 0.15], [-0.1, 0.95]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texture):
    """Thirty single photos, and two of one scene with the points that they share."""
    root = tmp_path_factory.mktemp("train")
    for i in range(30):
        path = root / "photos" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), texture((192, 160), seed=i))
    (root / "scenes" / "town").mkdir(parents=True)
    place = texture((400, 300), seed=99)
    moved = np.c_[AFFINE, (5, 40)]
    files = [root / "scenes" / "town" / f"{i}.png" for i in range(2)]
    cv2.imwrite(str(files[0]), place)
    cv2.imwrite(str(files[1]), cv2.warpAffine(place, moved, (400, 300)))
    a = np.random.default_rng(0).uniform((40, 40), (340, 260), (400, 2))
    b = a @ AFFINE.T + (5, 40)
    ends = (points.astype(np.float32) for points in (a, b))
    save_pairs(root / "pairs.npz", [MatchedPair(*files, *ends, "test")], root)
    return root


@pytest.fixture(scope="module")
def recipe(folder, tmp_path_factory):
    made = LFNetRecipe(crop=96, keypoints=24, described=16, matches=folder / "pairs.npz")
    made.prepare(folder, tmp_path_factory.mktemp("cache"))
    assert "1 pairs of photos" in made.describe()
    return made


def test_batches_depend_on_their_number_alone(recipe):
    stage = recipe.stages[0]
    a, b, other = (recipe.batch(stage, generator(0, 0, n)) for n in (3, 3, 4))
    for name, value in a.items():
        assert torch.equal(value, b[name])
    assert not torch.equal(a["images"], other["images"])
    assert a["images"].shape == (4, 1, 96, 96)
    assert a["images"].min() >= 0
    assert 0.5 < a["images"].max() <= 1
    assert a["owners"].shape == a["valid"].shape == (4, 96, 96)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_pixels_are_the_same_spot_in_both_images(recipe, monkeypatch, share):
    monkeypatch.setattr(module, "_LIGHT", NO_NOISE)
    monkeypatch.setattr(recipe, "matched", share)
    right, wrong, seen = [], [], 0
    for n in range(6):
        batch = recipe.batch(recipe.stages[0], generator(0, 0, n))
        assert (batch["matched"] == (share == 1)).all()
        field = field_of(batch)
        for i in range(4):
            here, there = (batch["images"][k, 0].numpy() for k in (i, i ^ 1))
            x, y = field.where[i].numpy()
            read = cv2.remap(there, x, y, cv2.INTER_LINEAR)
            known = field.seen[i].numpy()
            seen += known.sum()
            right.append(np.abs(read - here)[known])
            wrong.append(np.abs(there - here)[known])
            assert (batch["valid"][i].numpy() | ~known).all()
    assert seen > 24 * (500 if share == 0 else 100)
    right, wrong = (np.concatenate(values).mean() for values in (right, wrong))
    assert right < 0.02
    assert wrong > 3 * right


def test_turns_and_scales_are_drawn_from_the_whole_range(recipe, monkeypatch):
    monkeypatch.setattr(recipe, "matched", 0.0)
    angles, scales = [], []
    for n in range(20):
        field = field_of(recipe.batch(recipe.stages[0], generator(0, 0, n)))
        cos, sin = field.turn()
        angles += torch.atan2(sin, cos)[:, 48, 48].tolist()
        scales += field.log_scale()[:, 48, 48].tolist()
    assert np.abs(angles).max() > 2.5
    assert 0.15 < np.std(scales) < 0.25  # log sqrt(2) / sqrt(3) = 0.2


def test_two_photos_teach_around_their_points_alone(recipe, monkeypatch):
    monkeypatch.setattr(recipe, "matched", 1.0)
    batch = recipe.batch(recipe.stages[0], generator(0, 0, 0))
    field = field_of(batch)
    for i in range(4):
        assert torch.equal(field.seen[i] & (batch["owners"][i] >= 0), field.seen[i])
        jacobian = field.jacobian[i][:, field.seen[i]]
        cut = torch.from_numpy(AFFINE if i % 2 == 0 else np.linalg.inv(AFFINE)).float()
        ratio = jacobian / cut.flatten()[:, None]  # crops are of sizes of their own
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=0.05, atol=0.01)
    assert len(recipe.losses(recipe.network(), batch, recipe.stages[0])) == 8


def test_held_out_batches_come_from_held_out_photos(recipe, monkeypatch):
    monkeypatch.setattr(recipe, "matched", 1.0)
    seen = []
    read = recipe._pool.read
    monkeypatch.setattr(recipe._pool, "read", lambda i, side: seen.append(int(i)) or read(i, side))
    for n in range(5):
        batch = recipe.batch(recipe.stages[0], generator(1, 0, n), held_out=True)
        assert not batch["matched"].any()
    assert seen
    assert set(seen) <= set(recipe._pool.held_out.tolist())


def test_negatives_follow_the_position_and_held_out_ones_are_the_last(recipe, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "losses_of", lambda *given: asked.append(given[4].hardest) or {})
    batch = recipe.batch(recipe.stages[0], generator(0, 0, 0))
    network = recipe.network()
    for position, training in ((0.0, True), (0.2, True), (1.0, True), (0.0, False)):
        monkeypatch.setattr(recipe, "position", position)
        recipe.losses(network.train(training), batch, recipe.stages[0])
    assert asked == [64, 22, 5, 5]


def test_the_loss_falls_and_the_weights_extract(recipe, tmp_path, texture):
    network, stage = recipe.network(), recipe.stages[0]
    optimiser = torch.optim.AdamW(recipe.begin(network, stage), lr=3e-3)
    assert network.training
    batch = recipe.batch(stage, generator(0, 0, 0))
    found = []
    for step in range(12):
        torch.manual_seed(step)
        losses = recipe.losses(network, batch, stage)
        found.append({name: loss.item() for name, loss in losses.items()})
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
    assert found[-1]["triplet"] < found[0]["triplet"]
    assert found[-1]["detector"] < found[0]["detector"]
    network.eval()
    with torch.no_grad():  # as on held-out batches
        assert torch.isfinite(recipe.losses(network, batch, stage)["loss"])
    settings = json.loads(json.dumps(recipe.settings()))
    save_weights(tmp_path / "w.safetensors", recipe.tensors(network), Record("lfnet", settings))
    extractor = LFNet.from_pretrained(tmp_path / "w.safetensors")
    assert extractor.info.settings["strength"] == recipe.strength
    assert len(extractor.extract(texture((160, 128))).features) > 20


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(folder, tmp_path):
    """The choice of negatives and of keypoints, and the position, included."""
    settings = {"crop": 64, "pairs": 1, "keypoints": 8, "described": 6, "matched": 0.0}
    options = Options(steps=4, threads=1, held_out_batches=1)
    ends = []
    for parts in ([None], [2, None]):
        out, checkpoint = tmp_path / str(len(parts)), None
        out.mkdir()
        for steps in parts:
            made = LFNetRecipe(**settings)
            asked = iter(range(99))

            def stop(asked=asked, steps=steps):
                return next(asked) == steps

            loop.train(made, folder, out, options, checkpoint, stop=stop)
            checkpoint = load_checkpoint(out / loop.CHECKPOINT)
        ends.append(checkpoint)
    assert [end.finished for end in ends] == [True, True]
    assert all(torch.equal(value, ends[1].network[n]) for n, value in ends[0].network.items())


def test_losses_are_finite_in_bfloat16(recipe):
    network, stage = recipe.network().train(), recipe.stages[0]
    with torch.autocast("cpu", torch.bfloat16):
        losses = recipe.losses(network, recipe.batch(stage, generator(0, 0, 1)), stage)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    losses["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_the_start_is_the_same_every_time(recipe):
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(recipe.network().state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_settings_that_make_no_sense_are_refused(tmp_path):
    for wrong in ({"crop": 100}, {"pairs": 0}, {"described": 0}, {"matched": 1.5}):
        with pytest.raises(InputError, match="lfnet: crop must be"):
            LFNetRecipe(**wrong)
    for wrong in ({"keypoints": 9}, {"hardest": 3}, {"hardest_at_last": 0}):
        with pytest.raises(InputError, match="keypoints must be at least"):
            LFNetRecipe(**wrong)
    with pytest.raises(InputError, match="rotation"):
        LFNetRecipe(rotation=200.0)
    with pytest.raises(InputError, match="no photo"):
        LFNetRecipe(matched=0).prepare(tmp_path, tmp_path)
