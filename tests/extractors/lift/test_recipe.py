"""The recipe of LIFT: patches of the same spot, stages that leave the others alone, one command."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError
from locate.extractors.lift import recipe as module
from locate.extractors.lift import stages
from locate.extractors.lift.extractor import Lift
from locate.extractors.lift.network import CROP, PATCH, SMALL, crop
from locate.extractors.lift.recipe import LiftRecipe
from locate.extractors.weights import Record, save_weights
from locate.training.data.homographies import HomographySettings
from locate.training.data.photometric import PhotometricSettings
from locate.training.loop import train
from locate.training.options import Options
from locate.training.recipe import generator
from locate.training.steps import make_optimiser, take_step

QUIET = PhotometricSettings(
    brightness=0, contrast=0, gamma=0, color_cast=0, saturation=0, grey_chance=0, noise_chance=0,
    blur_chance=0, motion_chance=0, shadow_chance=0, jpeg_chance=0,
)  # fmt: skip
EXACT = stages.Jitter(place=0.2, shift=0, growth=0, turn=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texture):
    """Thirty single photos, and a scene of three photos that a homography joins."""
    root = tmp_path_factory.mktemp("train")
    for i in range(30):
        path = root / "photos" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), texture((260, 200), seed=i))
    place = texture((640, 480), seed=99)
    for i, shift in enumerate((0, 12, 25)):
        h = np.array([[1, 0.02 * i, -shift], [-0.01 * i, 1, shift / 2], [0, 5e-5 * i, 1]])
        path = root / "scenes" / "town" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.warpPerspective(place, h, (480, 360)))
    return root


@pytest.fixture(scope="module")
def recipe(folder, tmp_path_factory):
    made = LiftRecipe(quads=12, per_photo=6, matched=0.5)
    made.prepare(folder, tmp_path_factory.mktemp("cache"))
    return made


@pytest.fixture
def exact(recipe, monkeypatch):
    """Without light and jitter, little perspective: what matches looks the same."""
    monkeypatch.setattr(module, "LIGHT", QUIET)
    views = HomographySettings(rotation=180, scale=(0.8, 1.25), perspective=0.05, anisotropy=1.05)
    monkeypatch.setattr(module, "VIEWS", views)
    monkeypatch.setattr(recipe, "_jitter", EXACT)
    return recipe


def likeness(a, b):
    """The median correlation of N x 1 x S x S patches, within a disc."""
    middle = (a.shape[-1] - 1) / 2
    y, x = np.mgrid[: a.shape[-1], : a.shape[-1]] - middle
    a, b = (p[:, 0].numpy()[:, np.hypot(x, y) < middle] for p in (a, b))
    a, b = (p - p.mean(axis=1, keepdims=True) for p in (a, b))
    return np.median((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def direction(angles):
    return torch.stack((torch.cos(angles), torch.sin(angles)), dim=1)


def test_batches_depend_on_their_number_alone(recipe):
    shapes = {
        "descriptor": {"windows": (36, 1, 64, 64)},
        "orientation": {"patches": (24, 1, 128, 128), "turn": (12,)},
        "overlap": {"small": (48, 1, 48, 48), "place": (12, 2, 2), "turn": (12, 2)},
    }
    shapes["detector"] = shapes["overlap"] | {"patches": (24, 1, 128, 128)}
    for stage in recipe.stages:
        a, b, other = (recipe.batch(stage, generator(0, 0, n)) for n in (3, 3, 4))
        assert {name: tuple(value.shape) for name, value in a.items()} == shapes[stage.name]
        for name, value in a.items():
            assert torch.equal(value, b[name])
            assert not torch.equal(value, other[name])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_windows_are_alike_where_keypoints_are_the_same(exact, monkeypatch, share):
    monkeypatch.setattr(exact, "matched", share)
    windows = exact.batch(exact.stages[0], generator(0, 0, 0))["windows"]
    first, second, other = windows.chunk(3)
    assert likeness(first, second) > 0.85
    assert likeness(first, other) < 0.5


def test_patches_are_alike_when_turned_by_the_turn(exact):
    batch = exact.batch(exact.stages[1], generator(0, 0, 0))
    first, second = batch["patches"].chunk(2)
    here = crop(first, direction(torch.zeros(12)))
    assert likeness(here, crop(second, direction(batch["turn"]))) > 0.85
    assert likeness(here, crop(second, direction(-batch["turn"]))) < 0.6
    assert batch["turn"].abs().max() > 1.5
    upright = stages.Jitter(upright=True)
    assert (stages._angles(np.random.default_rng(0), 4, upright) == 0).all()


def test_keypoints_lie_where_the_detector_is_told(exact):
    batch = exact.batch(exact.stages[3], generator(0, 0, 0))
    angles, shift = batch["turn"].flatten(), batch["place"].flatten(0, 1) * PATCH / 24
    assert shift.abs().max() > 6
    assert shift.abs().max() <= 0.2 * 64
    windows = crop(batch["patches"], direction(angles), shift)
    assert likeness(windows[0::2], windows[1::2]) > 0.85
    beside = crop(batch["patches"], direction(angles), -shift)
    assert likeness(beside[0::2], beside[1::2]) < 0.8
    small = torch.nn.functional.interpolate(batch["patches"], size=SMALL, mode="area")
    quads = batch["small"].view(12, 4, 1, SMALL, SMALL)
    assert likeness(small, quads[:, :2].flatten(0, 1)) > 0.98
    reach = (SMALL - 24) / 2 - CROP - 0.5  # pixels of the map from its middle
    assert (batch["place"].abs() * 2 < reach).all()


def test_held_out_batches_come_from_held_out_photos(recipe, monkeypatch):
    seen = []
    read = recipe._pool.read
    monkeypatch.setattr(recipe._pool, "read", lambda i, side: seen.append(int(i)) or read(i, side))
    recipe.batch(recipe.stages[0], generator(1, 0, 0), held_out=True)
    assert set(seen) <= set(recipe._pool.held_out.tolist())
    seen.clear()
    recipe.batch(recipe.stages[0], generator(1, 0, 0))
    assert set(seen) <= set(recipe._pool.train.tolist())


def test_each_stage_trains_its_own_part_and_its_loss_falls(recipe, tmp_path, texture):
    torch.manual_seed(0)
    network = recipe.network()
    parts = ("descriptor", "orientation", "detector", "detector")
    for stage, part in zip(recipe.stages, parts, strict=True):
        before = {name: value.clone() for name, value in network.state_dict().items()}
        optimiser, _ = make_optimiser(recipe.begin(network, stage), stage)
        batch = recipe.batch(stage, generator(0, 0, 0))
        found = [
            take_step(recipe, network, optimiser, stage, [batch], (0, 0, n)).losses["loss"]
            for n in range(10)
        ]
        assert found[-1] < found[0]
        changed = {
            n for n, value in network.state_dict().items() if not torch.equal(value, before[n])
        }
        assert changed
        assert all(name.startswith(part) for name in changed)
    settings = json.loads(json.dumps(recipe.settings()))
    save_weights(tmp_path / "w.safetensors", recipe.tensors(network), Record("lift", settings))
    features = (
        Lift.from_pretrained(tmp_path / "w.safetensors").extract(texture((200, 150))).features
    )
    assert len(features) > 0


def test_pairs_are_mined_from_twice_as_many_now_and_then(recipe, monkeypatch):
    monkeypatch.setattr(recipe, "form", "pairs")
    monkeypatch.setattr(recipe, "mining_every", 10)
    first, second = recipe.stages[:2]
    network = recipe.network()
    recipe.begin(network, first)
    assert (recipe.refresh_every(first), recipe.refresh_every(second)) == (10, 0)
    sizes = []
    for step in (0, 10, 20, 30, 50):
        recipe.refresh(network, first, step)
        sizes.append(recipe.state()["ratio"])
    assert sizes == [1, 2, 4, 8, 8]
    recipe.set_state({"ratio": 2})
    assert len(recipe.batch(first, generator(0, 0, 0))["windows"]) == 2 * 36
    assert len(recipe.batch(first, generator(0, 0, 0), held_out=True)["windows"]) == 36
    assert len(recipe.batch(second, generator(0, 0, 0))["turn"]) == 12
    recipe.begin(network, first)
    assert recipe.state() == {"ratio": 1}


def test_one_command_trains_all_stages(folder, tmp_path):
    recipe = LiftRecipe(quads=8, per_photo=8, matched=0.0)
    options = Options(steps=8, threads=1, held_out_batches=1)
    run, network = train(recipe, folder, tmp_path, options)
    assert run.finished
    assert set(run.held_out) == {"descriptor", "orientation", "overlap", "detector"}
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_what_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(InputError, match="quads must be at least 2"):
        LiftRecipe(quads=1)
    for i in range(12):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((64, 64, 3), 20 * i, np.uint8))
    recipe = LiftRecipe(quads=4, matched=0.0)
    recipe.prepare(tmp_path, tmp_path / "cache")
    with pytest.raises(InputError, match="no keypoints"):
        recipe.batch(recipe.stages[0], generator(0, 0, 0))
