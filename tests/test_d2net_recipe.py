"""The recipe of D2-Net: batches of true correspondences, a loss that falls, weights that extract."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError
from locate.extractors.d2net import recipe as module
from locate.extractors.d2net.extractor import D2Net
from locate.extractors.d2net.network import D2Network
from locate.extractors.d2net.recipe import D2NetRecipe
from locate.extractors.weights import Record, save_weights
from locate.images import read_photo
from locate.training.correspondences import MatchedPair, save_pairs
from locate.training.photometric import PhotometricSettings
from locate.training.recipe import generator
from locate.training.recipes import create_recipe

NO_NOISE = PhotometricSettings(
    brightness=0,
    contrast=0,
    gamma=0,
    colour_cast=0,
    saturation=0,
    grey_chance=0,
    noise_chance=0,
    blur_chance=0,
    motion_chance=0,
    shadow_chance=0,
    jpeg_chance=0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texture):
    """Thirty single photos, and a scene of three photos that a homography joins."""
    root = tmp_path_factory.mktemp("train")
    for i in range(30):
        path = root / "photos" / f"{i:02}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), texture((192, 160), seed=i))
    place = texture((640, 480), seed=99)
    for i, shift in enumerate((0, 12, 25)):
        h = np.array([[1, 0.02 * i, -shift], [-0.01 * i, 1, shift / 2], [0, 5e-5 * i, 1]])
        path = root / "scenes" / "town" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), cv2.warpPerspective(place, h, (480, 360)))
    return root


@pytest.fixture(scope="module")
def recipe(folder, tmp_path_factory):
    made = D2NetRecipe(crop=96, points=64, matched=0.5)
    made.prepare(folder, tmp_path_factory.mktemp("cache"))
    return made


def test_batches_depend_on_their_number_alone(recipe):
    stage = recipe.stages[0]
    a, b, other = (recipe.batch(stage, generator(0, 0, n)) for n in (3, 3, 4))
    assert torch.equal(a["images"], b["images"])
    assert torch.equal(a["points"], b["points"])
    assert not torch.equal(a["images"], other["images"])
    assert a["images"].shape == (4, 3, 96, 96)
    assert a["points"].shape == (4, 64, 2)
    assert all(16 < count <= 64 for count in a["counts"])


def difference(batch):
    """Mean difference of the grey value at matched points, and with a and b exchanged."""
    images = batch["images"].mean(dim=1).numpy()
    right, wrong = [], []
    for p, count in enumerate(batch["counts"]):
        points = [batch["points"][2 * p + i, :count].numpy() for i in range(2)]

        def look(image, at):
            return cv2.remap(image, at[:, 0].copy(), at[:, 1].copy(), cv2.INTER_LINEAR).ravel()

        right.append(np.abs(look(images[2 * p], points[0]) - look(images[2 * p + 1], points[1])))
        wrong.append(np.abs(look(images[2 * p], points[1]) - look(images[2 * p + 1], points[0])))
    return np.concatenate(right).mean(), np.concatenate(wrong).mean()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_points_are_the_same_spot_in_both_views(recipe, monkeypatch, share):
    monkeypatch.setattr(recipe, "_light", NO_NOISE)
    monkeypatch.setattr(recipe, "_share", share)
    found = [difference(recipe.batch(recipe.stages[0], generator(0, 0, n))) for n in range(4)]
    right, wrong = np.mean(found, axis=0)
    assert right < 5
    assert wrong > 2.5 * right


def test_verified_pairs_are_found_once_and_never_held_out(recipe, folder, tmp_path, monkeypatch):
    assert "3 pairs of photos" in recipe.describe()
    again = D2NetRecipe(crop=96, matched=0.5)
    again.prepare(folder, tmp_path)
    (file,) = tmp_path.glob("pairs-*.npz")

    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr("locate.training.pairs.pseudo_pairs", never)
    again.prepare(folder, tmp_path)
    aside = again._matched[0].image_a
    monkeypatch.setattr(module.PhotoPool, "scan", scan_with_held_out(aside, folder))
    again.prepare(folder, tmp_path)
    assert len(again._matched) == 1
    assert aside not in (again._matched[0].image_a, again._matched[0].image_b)
    assert file.exists()
    pair = again._matched[0]
    foreign = tmp_path / "elsewhere.png"
    foreign.write_bytes(pair.image_a.read_bytes())
    points = pair.points_a
    pairs = [pair, MatchedPair(pair.image_a, foreign, points, points, "test")]
    save_pairs(tmp_path / "mine.npz", pairs, folder)
    named = D2NetRecipe(crop=96, matched=0.5, matches=tmp_path / "mine.npz")
    named.prepare(folder, tmp_path)
    assert [p.image_b for p in named._matched] == [pair.image_b]  # the other is not of the data
    without = D2NetRecipe(crop=96, matched=0.0)
    without.prepare(folder, tmp_path / "empty")
    assert "0 pairs of photos" in without.describe()
    assert not (tmp_path / "empty").exists()


def scan_with_held_out(path, folder):
    scan = module.PhotoPool.scan

    def scanned(data, **_):
        pool = scan(data)
        index = pool.paths.index(path)
        pool.held_out = np.array([index])
        pool.train = np.setdiff1d(np.arange(len(pool)), pool.held_out)
        return pool

    return scanned


def test_held_out_batches_come_from_held_out_photos(recipe, monkeypatch):
    assert len(recipe._pool.held_out) > 0  # of 33 photos 5 % by chance may be none; then more are
    seen = []
    read = recipe._pool.read
    monkeypatch.setattr(recipe._pool, "read", lambda i, side: seen.append(int(i)) or read(i, side))
    for n in range(5):
        recipe.batch(recipe.stages[0], generator(1, 0, n), held_out=True)
    assert set(seen) <= set(recipe._pool.held_out.tolist())
    seen.clear()
    for n in range(5):
        recipe.batch(recipe.stages[0], generator(1, 0, n))
    assert set(seen) <= set(recipe._pool.train.tolist())


def test_the_loss_falls_and_the_weights_extract(recipe, tmp_path, texture):
    network = recipe.network()
    stage = recipe.stages[0]
    optimiser = torch.optim.AdamW(recipe.begin(network, stage), lr=3e-3)
    assert not network.training
    frozen = {n: v.clone() for n, v in network.state_dict().items() if n.startswith("backbone")}
    batches = [recipe.batch(stage, generator(0, 0, n)) for n in range(2)]
    means = []
    for _ in range(10):
        found = [recipe.losses(network, batch, stage) for batch in batches]
        loss = torch.stack([f["loss"] for f in found]).mean()
        means.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert means[-1] < means[0] - 0.05
    assert set(found[0]) == {"loss", "positive", "negative", "right"}
    state = network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in frozen.items())
    settings = json.loads(json.dumps(recipe.settings()))
    save_weights(tmp_path / "w.safetensors", recipe.tensors(network), Record("d2net", settings))
    extractor = D2Net.from_pretrained(tmp_path / "w.safetensors")
    features = extractor.extract(texture((160, 128))).features
    assert len(features) > 50
    start = D2Net.from_pretrained().extract(texture((160, 128))).features
    assert features.descriptors[:1].tobytes() != start.descriptors[:1].tobytes()


def test_the_start_is_the_same_every_time(recipe):
    a, b = recipe.network().state_dict(), recipe.network().state_dict()
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_a_single_tap_is_trained_as_in_the_paper(folder, tmp_path):
    made = create_recipe("d2net", {"taps": "expand4", "crop": 96, "matched": 0})
    made.prepare(folder, tmp_path)
    assert made.settings() == {"backbone": "lite0", "taps": ["expand4"]}
    assert made._radius == 4.0
    network = made.network()
    assert isinstance(network, D2Network)
    assert network.grid.stride == 8
    batch = made.batch(made.stages[0], generator(0, 0, 0))
    points = batch["points"][0, : batch["counts"][0]]
    cells = network.grid.to_map(points)
    torch.testing.assert_close(cells, cells.round())  # a's points are its cells
    parameters = list(made.begin(network, made.stages[0]))
    made.losses(network, batch, made.stages[0])["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)


def test_a_reduced_photo_keeps_its_points(folder, tmp_path, monkeypatch):
    """Photos are kept at a smaller size than their pairs were found at."""
    monkeypatch.setattr(module, "_READ_SIDE", 240)
    made = D2NetRecipe(crop=96, points=64, matched=1.0)
    made.prepare(folder, tmp_path)
    monkeypatch.setattr(made, "_light", NO_NOISE)
    photo = read_photo(folder / "scenes" / "town" / "0.png")
    assert max(photo.info.size) == 480
    right, wrong = difference(made.batch(made.stages[0], generator(0, 0, 0)))
    assert right < 6
    assert wrong > 2 * right


def test_settings_that_make_no_sense_are_refused(tmp_path):
    for wrong in ({"crop": 100}, {"pairs": 0}, {"points": 0}, {"matched": 1.5}):
        with pytest.raises(InputError, match="d2net: crop must be"):
            D2NetRecipe(**wrong)
    with pytest.raises(InputError, match="no photo"):
        D2NetRecipe().prepare(tmp_path, tmp_path)
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(InputError, match="only 1 photos"):
        D2NetRecipe().prepare(tmp_path, tmp_path)
