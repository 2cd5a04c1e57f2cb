"""DELF's training recipe on a handful of made photos."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError
from locate.extractors.delf.extractor import Delf
from locate.extractors.delf.losses import fit_pca
from locate.extractors.delf.recipe import DelfRecipe
from locate.extractors.weights import Record, save_weights
from locate.training.recipe import generator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two scenes of three photos (one texture, turned a little) and three single photos."""
    root = tmp_path_factory.mktemp("train")
    rng = np.random.default_rng(0)

    def photo(name, seed, shift=0):
        noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
        image = cv2.resize(noise, (160, 120), interpolation=cv2.INTER_CUBIC)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.roll(image, shift, axis=1))

    for scene in range(2):
        for i in range(3):
            photo(f"scenes/s{scene}/{i}.png", scene, int(rng.integers(0, 20)))
    for i in range(3):
        photo(f"photos/{i}.png", 10 + i)
    return root


@pytest.fixture(scope="module")
def recipe(folder):
    made = DelfRecipe(batch_size=6, crop=64)
    made.prepare(folder, folder / "cache")
    return made


def test_classes_are_scenes_and_single_photos(recipe):
    assert len(recipe._train) == 5
    assert "6 photos of 2 scenes and 3 single photos" in recipe.describe()
    labels = recipe.batch(recipe.stages[0], generator(0, 0, 0))["labels"]
    assert (labels[::2] < 2).all()  # every second crop shows a scene
    assert (labels[1::2] >= 2).all()


def test_batches_follow_from_their_number(recipe):
    for stage, options in ((recipe.stages[0], {}), (recipe.stages[1], {"held_out": True})):
        a, b, c = (recipe.batch(stage, generator(0, 1, step), **options) for step in (7, 7, 8))
        assert torch.equal(a["images"], b["images"])
        assert a["side"] == b["side"]
        assert not torch.equal(a["images"], c["images"])
        assert 32 <= a["side"] <= 64
    views = [recipe.batch(recipe.stages[1], generator(0, 1, k))["views"] for k in (7, 7, 8)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_views_are_kept_by_step_and_made_again_after_a_resume(recipe, folder, monkeypatch):
    stage = recipe.stages[1]
    assert recipe.refresh_every(recipe.stages[0]) == 0
    network = recipe.network().eval()
    recipe.refresh(network, stage, 100)
    batch = recipe.batch(stage, generator(0, 1, 3))
    kept, labels = recipe._kept
    assert kept.shape[0] == len(labels) == 3 * 640  # the views of steps 0, 50 and 100
    assert kept.shape[2:] == (4, 1)  # 64 pixels, shrunk to half, at stride 16: 2 x 2 cells
    assert set(labels.tolist()) == set(range(5))
    rng = generator(0, 0)
    drawn, classes = recipe._draw(rng, 20, False, 8)
    side = recipe._some_side(rng)
    small = torch.nn.functional.interpolate(drawn, (side, side), mode="bilinear", antialias=True)
    with torch.no_grad():
        cells = network.delf.features(small).flatten(2)
    assert torch.equal(labels[:20], classes)
    difference = (kept[:20, :, :, 0].float()[..., None] - cells[:, :, None]).abs().amax(dim=1)
    assert difference.amin(dim=2).max() < 0.01 * cells.max()  # each kept cell is one of the view's
    first = recipe.losses(network, batch, stage)
    again = DelfRecipe(batch_size=6, crop=64)
    again.prepare(folder, folder / "cache")
    again.set_state(recipe.state())
    second = again.losses(network, batch, stage)
    assert first["loss"].item() == second["loss"].item()
    monkeypatch.setattr("locate.extractors.delf.recipe._BLOCKS", 2)
    recipe.refresh(network, stage, 150)
    assert len(recipe._kept[1]) == 2 * 640  # the oldest are gone
    assert torch.equal(recipe._kept[1][:640], labels[-640:])
    recipe.refresh(network, stage, 0)  # another training
    assert len(recipe._kept[1]) == 640


def test_the_first_classifier_knows_the_classes_and_training_improves_it(recipe, tmp_path):
    network = recipe.network()
    before = [p.clone() for p in network.delf.attention.parameters()]
    for stage in recipe.stages:
        groups = list(recipe.begin(network, stage))
        recipe.refresh(network, stage, 0)
        optimiser = torch.optim.AdamW(groups, lr=stage.learning_rate)
        losses = []
        for step in range(8):
            torch.manual_seed(step)
            loss = recipe.losses(network, recipe.batch(stage, generator(0, 0, step % 2)), stage)[
                "loss"
            ]
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[0] < np.log(5) + 0.5  # no worse than guessing: the classes are imprinted
        assert np.mean(losses[-2:]) < np.mean(losses[:2]), stage.name
        if stage.name == "descriptors":
            after = list(network.delf.attention.parameters())
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
            frozen = [p.clone() for p in network.delf.backbone.parameters()]
        recipe.finish(network, stage)
    now = list(network.delf.backbone.parameters())
    assert all(torch.equal(a, b) for a, b in zip(frozen, now, strict=True))
    assert network.delf.threshold > 0
    rows = network.delf.components.double()
    assert torch.allclose(rows @ rows.T, torch.eye(40, dtype=torch.float64), atol=1e-4)
    record = Record(system="delf", settings=recipe.settings())
    save_weights(tmp_path / "w.safetensors", recipe.tensors(network), record)
    delf = Delf.from_pretrained(tmp_path / "w.safetensors")
    image = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)
    assert len(delf.extract(image).features) > 10


def test_pca_needs_enough_features():
    mean, components, kept = fit_pca(torch.randn(100, 6), 6)
    assert kept == pytest.approx(1.0)
    assert components.shape == (6, 6)
    assert mean.shape == (6,)


def test_too_little_data_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="at least two scenes"):
        DelfRecipe().prepare(tmp_path, tmp_path)
