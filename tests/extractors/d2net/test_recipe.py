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
from locate.extractors.d2net.losses import d2_loss
from locate.extractors.d2net.network import D2Network
from locate.extractors.d2net.recipe import D2NetRecipe
from locate.extractors.recipes import create_recipe
from locate.extractors.weights import Record, save_weights
from locate.images.reading import read_photo
from locate.training.data.correspondences import MatchedPair, save_pairs
from locate.training.data.photometric import PhotometricSettings
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
    monkeypatch.setattr(module, "_LIGHT", NO_NOISE)
    monkeypatch.setattr(recipe, "matched", share)
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

    monkeypatch.setattr("locate.training.data.scenes.pseudo_pairs", never)
    again.prepare(folder, tmp_path)
    aside = again._matched.pairs[0].image_a
    monkeypatch.setattr(module.PhotoPool, "scan", scan_with_held_out(aside, folder))
    again.prepare(folder, tmp_path)
    assert len(again._matched) == 1
    assert aside not in (again._matched.pairs[0].image_a, again._matched.pairs[0].image_b)
    assert file.exists()
    pair = again._matched.pairs[0]
    foreign = tmp_path / "elsewhere.png"
    foreign.write_bytes(pair.image_a.read_bytes())
    points = pair.points_a
    pairs = [pair, MatchedPair(pair.image_a, foreign, points, points, "test")]
    save_pairs(tmp_path / "mine.npz", pairs, folder)
    named = D2NetRecipe(crop=96, matched=0.5, matches=tmp_path / "mine.npz")
    named.prepare(folder, tmp_path)
    assert [p.image_b for p in named._matched.pairs] == [
        pair.image_b
    ]  # the other is not of the data
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
    assert made.radius == 4.0
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
    monkeypatch.setattr(module, "_LIGHT", NO_NOISE)
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


# --- the loss of a batch, against numpy ----------------------------------------------------------------


def bilinear(maps, at):
    """C x h x w (or h x w) at N x 2 (x, y) in cells: N x C (or N)."""
    found = []
    for x, y in np.clip(at, 0, (maps.shape[-1] - 1, maps.shape[-2] - 1)):
        left, top = int(min(x, maps.shape[-1] - 2)), int(min(y, maps.shape[-2] - 2))
        u, v = x - left, y - top
        above = (1 - u) * maps[..., top, left] + u * maps[..., top, left + 1]
        below = (1 - u) * maps[..., top + 1, left] + u * maps[..., top + 1, left + 1]
        found.append((1 - v) * above + v * below)
    return np.array(found)


def soft(maps):
    """Equations 4 to 7 of the paper; beyond the border exp(D) is 1."""
    raised = np.exp(maps / maps.max())
    padded = np.pad(raised, ((0, 0), (1, 1), (1, 1)), constant_values=1.0)
    height, width = maps.shape[1:]
    around = sum(padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3))
    gamma = (raised / around * maps / np.maximum(maps.max(axis=0), 1e-8)).max(axis=0)
    return gamma / gamma.sum()


def unit(values, axis):
    return values / np.maximum(np.linalg.norm(values, axis=axis, keepdims=True), 1e-12)


def loss_of_pair(maps, points, radius, margin):
    """Section 4.1, with maps and points in cells of both images; also the means of p^2 and n^2, and the
    share with p < n."""
    dense = [unit(m, 0) for m in maps]
    scores = [bilinear(soft(m), at) for m, at in zip(maps, points, strict=True)]
    own = [unit(bilinear(m, at), 1) for m, at in zip(maps, points, strict=True)]
    positive = ((own[0] - own[1]) ** 2).sum(axis=1)
    negative = np.full(len(positive), np.inf)
    rows, columns = np.mgrid[: maps[0].shape[1], : maps[0].shape[2]]
    for one, other in ((0, 1), (1, 0)):
        for c, (x, y) in enumerate(points[other]):
            far = np.maximum(np.abs(columns - x), np.abs(rows - y)) > radius
            apart = ((dense[other] - own[one][c][:, None, None]) ** 2).sum(axis=0)
            negative[c] = min(negative[c], apart[far].min())
    weights = scores[0] * scores[1]
    hinge = np.maximum(0.0, margin + positive - negative)
    return {
        "loss": (weights * hinge).sum() / weights.sum(),
        "positive": positive.mean(),
        "negative": negative.mean(),
        "right": (positive < negative).mean(),
    }


@pytest.mark.parametrize(
    ("settings", "radius"), [({"margin": 0.7}, 1.5), ({"margin": 0.4, "radius": 3.0}, 3.0)]
)
def test_the_loss_of_a_batch_by_hand(folder, tmp_path, settings, radius):
    made = D2NetRecipe(crop=96, points=48, matched=0.0, **settings)
    made.prepare(folder, tmp_path)
    stage, network = made.stages[0], made.network()
    made.begin(network, stage)
    batch = dict(made.batch(stage, generator(0, 0, 5)))
    batch["counts"] = [31, 48]  # what comes after them is no point
    batch["points"] = batch["points"].clone()
    batch["points"][:2, 31:] = 0.0
    with torch.no_grad():
        maps = network(batch["images"]).double().numpy()
        found = made.losses(network, batch, stage)
    pairs = []
    for p, count in enumerate(batch["counts"]):
        # Cells of stage 2 are centred on pixels 4 i + 1.5.
        points = [(batch["points"][2 * p + i, :count].double().numpy() - 1.5) / 4 for i in range(2)]
        pairs.append(loss_of_pair(maps[2 * p : 2 * p + 2], points, radius, settings["margin"]))
    assert set(found) == set(pairs[0])
    assert abs(pairs[0]["loss"] - pairs[1]["loss"]) > 1e-3
    for name in found:
        by_hand = (pairs[0][name] + pairs[1][name]) / 2
        assert found[name].item() == pytest.approx(by_hand, rel=2e-4, abs=1e-6), name


def test_both_descriptors_and_detection_learn():
    """Through scores, positives and negatives of both images: no part of the loss is cut off."""
    rng = np.random.default_rng(0)
    maps = [torch.from_numpy(rng.uniform(0.2, 1, (6, 9, 9))).requires_grad_() for _ in range(2)]
    points = tuple(torch.from_numpy(rng.uniform(1, 7, (5, 2))) for _ in range(2))
    d2_loss(maps, points, 1.5)["loss"].backward()
    for side in range(2):
        for y, x in ((0, 0), (4, 4)):
            step = 1e-6
            moved = [m.detach().clone() for m in maps]
            values = []
            for sign in (1, -1):
                moved[side][2, y, x] = maps[side][2, y, x].detach() + sign * step
                values.append(d2_loss(tuple(moved), points, 1.5)["loss"].item())
            slope = (values[0] - values[1]) / (2 * step)
            assert maps[side].grad[2, y, x].item() == pytest.approx(slope, abs=1e-6)
