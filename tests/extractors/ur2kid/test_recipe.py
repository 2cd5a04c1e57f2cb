"""UR2KiD's training: every formula against loops, gradients against differences, batches, fits,
the loss."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from locate.errors import InputError, UnknownNameError
from locate.extractors.blocks.discriminative import discriminative
from locate.extractors.blocks.grids import sample
from locate.extractors.ur2kid import losses as loss
from locate.extractors.ur2kid import recipe as recipe_module
from locate.extractors.ur2kid.extractor import UR2KiD, build, network_settings
from locate.extractors.ur2kid.objective import (
    Correspondences,
    DenseFeatures,
    Objective,
    dense_features,
    joint_losses,
    matching_losses,
)
from locate.extractors.ur2kid.recipe import UR2KiDRecipe, set_aside
from locate.extractors.ur2kid.whitening import whitening
from locate.training.data.correspondences import MatchedPair, save_pairs
from locate.training.recipe import generator


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random(*shape, seed=0, unit=None):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values if unit is None else functional.normalize(values, dim=unit)


def same_gradient(function, *inputs):
    inputs = tuple(value.clone().requires_grad_(True) for value in inputs)
    return torch.autograd.gradcheck(function, inputs)


# --- losses
# -----------------------------------------------------------------------------------------


def test_matching_score_and_loss():
    a, b = random(5, 4, unit=1), random(7, 4, seed=1, unit=1)
    m = a @ b.T
    for i in range(5):
        for j in range(7):
            assert m[i, j] == pytest.approx(float(sum(a[i, k] * b[j, k] for k in range(4))))
    rows = [max(float(m[i, j]) for j in range(7)) for i in range(5)]
    columns = [max(float(m[i, j]) for i in range(5)) for j in range(7)]
    score = (sum(rows) / 5 + sum(columns) / 7) / 2
    assert loss.matching_score(m, m.T) == pytest.approx(score)
    positive, negatives = torch.tensor(0.6), [torch.tensor(v) for v in (0.55, 0.2, 0.9)]
    found = loss.matching_loss(positive, negatives, margin=0.1)
    assert float(found) == pytest.approx(0.05 + 0.0 + 0.4)
    assert same_gradient(
        lambda p, n: loss.matching_loss(p.amax(), [n.amax(), n.mean()], 3.0),
        random(4, 4),
        random(4, 3, seed=1),
    )


def test_one_cell_that_is_like_everything_does_not_make_a_match():
    """Rows alone would give such a pair the full score."""
    a = random(20, 8, unit=1).abs()
    a = functional.normalize(a, dim=1)
    b = functional.normalize(torch.cat((a.mean(dim=0, keepdim=True), -a[:10])), dim=1)
    m = a @ b.T
    assert loss.matching_score(m, m.T) < float(m.amax(dim=1).mean()) - 0.3


def test_found_again_and_runner_up_by_loops():
    height, width, radius = 4, 6, 1.0
    dense_a, dense_b = random(5, height, width, unit=0), random(5, height, width, seed=1, unit=0)
    flat_a, flat_b = dense_a.flatten(1).T, dense_b.flatten(1).T
    index = torch.tensor([0, 3, 8, 13, 17, 23])
    positions = torch.stack((index % width, index // width), dim=1).double() + 0.25
    rows = flat_a[index] @ flat_b.T
    best = rows.argmax(dim=1)
    again = loss.found_again(best, dense_a, dense_b, positions, radius)
    second = loss.runner_up(rows, best, width, radius)
    for i in range(len(index)):
        similar = [float(flat_b[best[i]] @ flat_a[j]) for j in range(height * width)]
        home = int(np.argmax(similar))
        x, y = positions[i].tolist()
        near = abs(home % width - x) <= radius and abs(home // width - y) <= radius
        assert bool(again[i]) == near
        x, y = int(best[i]) % width, int(best[i]) // width
        far = [
            float(rows[i, j])
            for j in range(height * width)
            if max(abs(j % width - x), abs(j // width - y)) > radius
        ]
        assert second[i] == pytest.approx(max(far))
    assert again.any()
    assert not again.all()
    assert torch.all(loss.runner_up(rows, best, width, 99.0) == -2)


def test_found_again_tells_x_from_y():
    """A map on which the match of every cell is itself, of unequal sides."""
    dense = functional.normalize(torch.eye(24, dtype=torch.float64).reshape(24, 3, 8), dim=0)
    index = torch.arange(24)
    positions = torch.stack((index % 8, index // 8), dim=1).double()
    assert loss.found_again(index, dense, dense, positions, 0.5).all()
    assert not loss.found_again(index, dense, dense, positions.flip(1), 0.5).all()


def test_position_loss():
    best = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    negative = torch.tensor([0.8, 0.1, 0.9], dtype=torch.float64)
    runner = torch.tensor([0.6, 0.45, 0.9], dtype=torch.float64)
    counts = torch.tensor([True, True, False])
    found = loss.position_loss(best, (negative, runner), counts, margin=0.2)
    assert float(found) == pytest.approx(((0.1 + 0.0) + (0.0 + 0.15)) / 2)
    assert float(loss.position_loss(best, (negative,), torch.zeros(3, dtype=torch.bool))) == 0
    assert same_gradient(lambda b, n: loss.position_loss(b, (n,), counts, 0.2), best, negative)


def test_distillation():
    scores_a, scores_p = random(3).abs(), random(4, seed=1).abs()
    weights = loss.detection_weights(scores_a, scores_p)
    mean = np.mean([float(x) * float(y) for x in scores_a for y in scores_p])
    high, low = random(3, 4, seed=2), random(3, 4, seed=3)
    total = 0.0
    for i in range(3):
        for j in range(4):
            weight = float(scores_a[i]) * float(scores_p[j]) / mean
            assert weights[i, j] == pytest.approx(weight)
            total += (float(high[i, j]) * weight - float(low[i, j])) ** 2
    assert float(loss.distillation_loss(high, low, weights)) == pytest.approx(total / 12)
    assert same_gradient(lambda m: loss.distillation_loss(high, m, weights), low)
    teacher, student, detection = (
        value.clone().requires_grad_(True) for value in (high, low, weights)
    )
    loss.distillation_loss(teacher, student, detection).backward()
    assert teacher.grad is None
    assert detection.grad is None
    assert student.grad is not None


@pytest.mark.parametrize("margin", [0.85, 1.3])
def test_retrieval_loss(margin):
    a, p = random(3, 5, unit=1), random(3, 5, seed=1, unit=1)
    n = random(3, 2, 5, seed=2, unit=2)
    contrastive = 0.0
    for i in range(3):
        near = float(((a[i] - p[i]) ** 2).sum())
        contrastive += near / 2
        for k in range(2):
            far = float(((a[i] - n[i, k]) ** 2).sum())
            contrastive += max(0.0, margin - math.sqrt(far)) ** 2 / 2
    assert float(loss.contrastive_loss(a, p, n, margin)) == pytest.approx(contrastive / 3)
    assert same_gradient(lambda *x: loss.contrastive_loss(*x, margin), a, p, n)
    double = a[:, None].clone().requires_grad_(True)
    loss.contrastive_loss(a, p, double, margin).backward()
    assert torch.isfinite(double.grad).all()


def made_look(seed, dense=None):
    dense = random(6, 5, 7, seed=seed, unit=0) if dense is None else dense
    cells = torch.tensor([[1.0, 1.0], [3.0, 2.0], [5.0, 3.0], [2.0, 4.0]], dtype=torch.float64)
    index = (cells[:, 1] * 7 + cells[:, 0]).long()
    low = dense.flatten(1)[:, index].T
    return DenseFeatures(dense, cells, low, low, torch.full((4,), 0.1, dtype=torch.float64))


def test_matching_losses_of_an_image_with_itself_and_with_others():
    a, other = made_look(0), made_look(1)
    own, found = matching_losses(a, made_look(0), other, Objective(margin=0.2))
    wrong, lost = matching_losses(a, other, made_look(0), Objective(margin=0.2))
    assert float(found) == 1.0
    assert float(lost) < 1.0
    assert float(own) < float(wrong)
    images = Objective(margin=0.2, matching="images")
    own, _ = matching_losses(a, made_look(0), other, images)
    wrong, _ = matching_losses(a, other, made_look(0), images)
    m_ap, m_an = (a.low @ x.columns.T for x in (other, made_look(0)))
    m_pa, m_na = (x.low @ a.columns.T for x in (other, made_look(0)))
    expected = 0.2 - loss.matching_score(m_ap, m_pa) + loss.matching_score(m_an, m_na)
    assert float(wrong) == pytest.approx(float(expected))
    assert float(own) == pytest.approx(max(0.0, 0.4 - float(expected)))


@pytest.mark.parametrize("matching", ["positions", "images"])
def test_gradient_of_the_matching_losses(matching):
    objective = Objective(margin=0.5, matching=matching)

    def of(*maps):
        looks = [made_look(0, functional.normalize(m, dim=0)) for m in maps]
        return matching_losses(*looks, objective)[0]

    assert same_gradient(of, random(6, 5, 7), random(6, 5, 7, seed=1), random(6, 5, 7, seed=2))


def test_objectives_that_make_no_sense():
    with pytest.raises(UnknownNameError, match=r"pixels.*positions"):
        Objective(matching="pixels")
    with pytest.raises(InputError, match="weights"):
        Objective(weights=(1.0, -1.0, 1.0))


# --- fits in closed form
# ----------------------------------------------------------------------------


def test_the_projection_drops_what_differs_between_matches():
    """Ten numbers that stay and ten large ones that light changes: only the first ten are kept."""
    rng = np.random.default_rng(0)
    mixing = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    stays = 3 * rng.normal(size=(1200, 10))
    a, b = (
        torch.from_numpy(np.c_[stays, rng.normal(size=(1200, 10)) * 2.0] @ mixing) for _ in range(2)
    )
    weight = discriminative(torch.cat((a, b)), a - b, 10, 0.1).numpy()
    assert weight.shape == (10, 20)
    by_cause = np.abs(weight @ mixing.T)  # columns: what stays, what changes
    assert by_cause[:, 10:].max() < 0.2 * np.linalg.norm(by_cause[:, :10], axis=1).min()


def test_the_projection_is_the_formula():
    a, b = random(30, 6), random(30, 6, seed=1) * 0.1
    b = a + b
    weight = discriminative(torch.cat((a, b)), a - b, 3, 0.5).numpy()
    delta = a.numpy() - b.numpy()
    within = sum(np.outer(d, d) for d in delta) / (2 * len(delta))
    values, vectors = np.linalg.eigh(within)
    shrink = vectors @ np.diag((values + 0.5 * values.mean()) ** -0.5)
    spread = np.cov((np.r_[a.numpy(), b.numpy()] @ shrink).T)
    order = np.argsort(-np.linalg.eigvalsh(spread))
    directions = np.linalg.eigh(spread)[1][:, order[:3]]
    expected = (shrink @ directions).T
    signs = np.sign((weight * expected).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(weight, signs * expected, atol=1e-8)


def test_whitening():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 5)) @ np.diag((9.0, 4.0, 1.0, 0.5, 0.1)) + 3.0
    weight, bias = (t.numpy() for t in whitening(torch.from_numpy(vectors), 3, ridge=0.0))
    white = vectors @ weight.T + bias
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(white.T @ white / 400, np.eye(3), atol=1e-9)
    weight, bias = (t.numpy() for t in whitening(torch.from_numpy(vectors), 3, ridge=0.4))
    white = vectors @ weight.T + bias
    variances = np.sort(np.linalg.eigvalsh(np.cov(vectors.T, bias=True)))[::-1][:3]
    expected = variances / (variances + 0.4 * variances.mean())
    np.testing.assert_allclose(np.diag(white.T @ white / 400), expected, atol=1e-9)
    few, _ = whitening(torch.from_numpy(vectors[:3]), 4)
    assert torch.isfinite(few).all()
    assert torch.all(few[2:] == 0)  # three points less their mean span a plane


# --- recipe
# -----------------------------------------------------------------------------------------

STAGE = SimpleNamespace(learning_rate=3e-4)
SMALL = {"crop": 64, "tuples": 2, "positions": 64, "global_dim": 16, "steps": 3, "mine_every": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, texture):
    """12 single photos, and 5 scenes of three shifted views each."""
    root = tmp_path_factory.mktemp("data")
    (root / "photos").mkdir()
    for k in range(12):
        Image.fromarray(texture((120, 96), seed=k)).save(root / "photos" / f"{k:02}.png")
    for s in range(5):
        place = root / "scenes" / f"place{s}"
        place.mkdir(parents=True)
        big = texture((160, 128), seed=100 + s)
        for v in range(3):
            Image.fromarray(big[8 * v : 8 * v + 96, 12 * v : 12 * v + 120]).save(place / f"{v}.png")
    return root


@pytest.fixture
def recipe(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe_module, "_FIT_PAIRS", 3)
    monkeypatch.setattr(recipe_module, "_WHITENED_BY", 12)
    monkeypatch.setattr(recipe_module, "_MINED_FROM", 4)
    made = UR2KiDRecipe(**SMALL)
    made.prepare(folder, tmp_path)
    return made


def test_names_that_are_set_aside_stay_so_when_others_come():
    names = [f"photo {k}" for k in range(400)]
    aside = set_aside(names, 0.1, 2)
    assert 20 < len(aside) < 60
    more = set_aside([*names, *(f"new {k}" for k in range(400))], 0.1, 2)
    assert aside == {name for name in more if name in names}
    assert len(set_aside(names[:6], 0.0, 2)) == 2
    assert not set_aside(names[:5], 0.0, 2)


def test_batches_follow_from_the_generator_alone(recipe):
    one = recipe.batch(STAGE, generator(0, 0, 5))
    again = recipe.batch(STAGE, generator(0, 0, 5))
    other = recipe.batch(STAGE, generator(0, 0, 6))
    images = ("anchors", "positives", "negatives")
    assert set(one) == {*images, "points_a", "points_b", "counted"}
    for name in images:
        assert one[name].shape == (2, 3, 64, 64)
        assert torch.equal(one[name], again[name])
        assert not torch.equal(one[name], other[name])
    for name in ("points_a", "points_b", "counted"):
        assert torch.equal(one[name], again[name])


def test_held_out_photos_are_in_no_training_batch(recipe):
    seen = {False: set(), True: set()}
    for held_out in seen:
        miner = recipe._miners[held_out]
        for k in range(200):
            drawn = miner.draw(generator(k), 1)
            seen[held_out] |= {drawn.anchor, drawn.positive, *drawn.negatives}
    assert seen[True]
    assert not seen[True] & seen[False]
    assert "12 single photos (2 held out)" in recipe.describe()
    assert "15 photos of 5 scenes" in recipe.describe()


def test_mined_negatives_are_other_scenes_and_reach_the_batches(recipe, monkeypatch):
    network = recipe.network()
    recipe.refresh(network, STAGE, 2)
    state = recipe.state()
    assert json.loads(json.dumps(state)) == state
    scene_of = recipe._scene_of
    assert set(recipe._mined) == set(recipe._scenes)
    for name, paths in recipe._mined.items():
        assert paths
        assert all(scene_of.get(path) != name for path in paths)
    monkeypatch.setattr(recipe_module, "_MINED_CHANCE", 1.0)
    before = [recipe.batch(STAGE, generator(7, k))["negatives"] for k in range(4)]
    recipe.set_state({"mined": {}})
    assert recipe.state() == {"mined": {}}
    without = [recipe.batch(STAGE, generator(7, k))["negatives"] for k in range(4)]
    assert not all(torch.equal(a, b) for a, b in zip(before, without, strict=True))
    recipe.set_state(state)
    after = [recipe.batch(STAGE, generator(7, k))["negatives"] for k in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert recipe.refresh_every(STAGE) == 2


def test_the_projection_of_weights_to_start_from_is_kept(recipe):
    """Also in a training that was killed before its first step."""
    network = recipe.network()
    recipe.start_from(network, dict(recipe.tensors(network)))
    before = network.reduce.weight.clone()
    recipe.refresh(network, STAGE, 0)
    assert torch.equal(network.reduce.weight, before)
    state = recipe.state()
    recipe._fitted = False
    recipe.set_state(state)
    recipe.refresh(network, STAGE, 0)
    assert torch.equal(network.reduce.weight, before)


def test_the_first_refresh_fits_the_projection(recipe):
    network = recipe.network()
    before = network.reduce.weight.detach().clone()
    recipe.refresh(network, STAGE, 2)
    assert torch.equal(network.reduce.weight, before)
    recipe.refresh(network, STAGE, 0)
    fitted = network.reduce.weight.detach().clone()
    assert not torch.allclose(fitted, before)
    assert float(fitted.norm()) == pytest.approx(float(before.norm()), rel=1e-4)
    again = recipe.network()
    recipe.refresh(again, STAGE, 0)
    assert torch.equal(again.reduce.weight, fitted)


def test_begin_trains_what_losses_look_through_and_keeps_statistics(recipe):
    network = recipe.network()
    groups = recipe.begin(network, STAGE)
    assert [group["lr"] for group in groups] == pytest.approx([3e-4, 1.5e-5, 3e-3])
    assert network.training
    assert not any(m.training for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    trained = {id(p) for group in groups for p in group["params"] if p.requires_grad}
    torch.manual_seed(0)
    recipe.losses(network, recipe.batch(STAGE, generator(0)), STAGE)["loss"].backward()
    moved = {name for name, p in network.named_parameters() if p.grad is not None}
    assert all(id(p) in trained for name, p in network.named_parameters() if name in moved)
    assert {"reduce.weight", "pyramid.laterals.0.weight", "pools.head.p"} <= moved
    assert any(name.startswith("backbone._blocks.14.") for name in moved)
    assert not any(name.startswith(("fine.", "whiten.")) for name in moved)


def test_the_losses_are_those_of_anchor_positive_and_negative(folder, tmp_path):
    """By their names, with the weights and the margin that were asked for."""
    settings = {
        "margin": 0.3,
        "retrieval_weight": 2.0,
        "matching_weight": 3.0,
        "distillation_weight": 5.0,
        "correspondence_weight": 7.0,
        "dropout": 0.25,
    }
    made = UR2KiDRecipe(**SMALL, **settings)
    made.prepare(folder, tmp_path)
    network, batch = made.network(), made.batch(STAGE, generator(4))
    assert network.dropout == 0.25
    made.begin(network, STAGE)
    images = tuple(batch[name] for name in ("anchors", "positives", "negatives"))
    torch.manual_seed(1)
    with torch.no_grad():
        found = made.losses(network, batch, STAGE)
    torch.manual_seed(1)
    with torch.no_grad():
        objective = Objective(64, "positions", 0.3, (2.0, 3.0, 5.0), 7.0)
        known = Correspondences(batch["points_a"], batch["points_b"], batch["counted"])
        expected = joint_losses(network, images, objective, known)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}
    )
    parts = ("retrieval", "matching", "distillation", "correspondence")
    total = sum(w * float(found[name]) for w, name in zip((2, 3, 5, 7), parts, strict=True))
    assert float(found["loss"]) == pytest.approx(total)
    without = UR2KiDRecipe(**SMALL, **settings | {"correspondence_weight": 0.0})
    torch.manual_seed(1)
    with torch.no_grad():
        papers = without.losses(network, batch, STAGE)
    assert "correspondence" not in papers
    assert float(papers["loss"]) == pytest.approx(total - 7 * float(found["correspondence"]))


def test_points_of_two_views_show_the_same_of_a_photo(folder, tmp_path, monkeypatch):
    """On a photo of two ramps, whose colour is the place: red is x and green is y."""
    made = UR2KiDRecipe(**{**SMALL, "single_share": 1.0})
    made.prepare(folder, tmp_path)
    ramps = np.zeros((120, 96, 3), np.float32)
    ramps[..., 0], ramps[..., 1] = np.meshgrid(2 * np.arange(96), 2 * np.arange(120))
    monkeypatch.setattr(made, "_read", lambda _: ramps.astype(np.uint8))
    monkeypatch.setattr(recipe_module, "_LIGHT", None)
    rng = np.random.default_rng(0)
    everywhere = rng.uniform(8, 56, (200, 2))
    monkeypatch.setattr(recipe_module, "corners", lambda *_: (everywhere, None, None))
    batch = made.batch(STAGE, generator(2))
    assert int(batch["counted"].sum()) > 40
    for k in range(2):
        n = int(batch["counted"][k].sum())
        shown = []
        for images, points in (("anchors", "points_a"), ("positives", "points_b")):
            assert not batch[points][k, n:].any()
            shown.append(sample(batch[images][k : k + 1], batch[points][k : k + 1, :n])[0, :, :2])
        assert float((shown[0] - shown[1]).abs().median()) < 2
        assert float(shown[0].std(dim=0).min()) > 5


def test_a_triple_shows_one_place_twice_and_another_once(recipe, monkeypatch):
    """Images here are the number of their photo."""
    paths = list(recipe._pool.index)

    def numbered(path):
        return np.full((64, 64, 3), recipe._pool.index[path], np.uint8)

    monkeypatch.setattr(recipe, "_view", lambda path, _: numbered(path))
    none = np.zeros((0, 2), np.float32)
    monkeypatch.setattr(recipe, "_views", lambda a, b, _: (numbered(a), numbered(b), (none, none)))
    differ = 0
    for k in range(20):
        batch = recipe.batch(STAGE, generator(k))
        for t in range(2):
            a, p, n = (
                paths[int(batch[name][t, 0, 0, 0])]
                for name in ("anchors", "positives", "negatives")
            )
            place, other, foreign = (recipe._scene_of.get(path, path) for path in (a, p, n))
            assert place == other != foreign
            differ += a != p
    assert differ > 5  # photos of a scene; a single photo is its own positive


def test_the_projection_is_fitted_to_what_two_views_share(recipe, monkeypatch):
    """To F at corners of photos that are not held out, and its differences."""
    network, seen = recipe.network(), []
    views = [recipe._two_views(generator(0, 1, k)) for k in range(3)]
    fit = recipe_module.discriminative

    def noted(features, differences, dim, ridge):
        seen.append((features, differences))
        return fit(features, differences, dim, ridge)

    monkeypatch.setattr(recipe_module, "discriminative", noted)
    held_out = [recipe._pool.index[path] for path in recipe._pool.index]
    held_out = set(held_out) - {
        recipe._pool.index[p]
        for p in (*recipe._singles, *(p for group in recipe._scenes.values() for p in group))
    }
    reads = []
    read = recipe._pool.read
    monkeypatch.setattr(recipe._pool, "read", lambda i, side: reads.append(i) or read(i, side))
    recipe.refresh(network, STAGE, 0)
    assert held_out
    assert not held_out & set(reads[:3])
    network, columns = recipe.network(), []
    for *images, points in views:
        for image, at in zip(images, points, strict=True):
            with torch.no_grad():
                taps = network.taps(torch.from_numpy(image).permute(2, 0, 1)[None].float())
                # Cell X of F lies at pixel 4 X + 1.5.
                cells = (torch.from_numpy(at) - 1.5) / 4
                columns.append(sample(network.pyramid(taps), cells[None])[0].double())
    features, differences = seen[0]
    assert torch.allclose(features, torch.cat(columns), atol=1e-4)
    ends = [a - b for a, b in zip(columns[::2], columns[1::2], strict=True)]
    assert torch.allclose(differences, torch.cat(ends), atol=1e-4)


def test_all_images_of_a_step_lose_the_same_concepts(recipe):
    """The same image three times: with the same concepts anchor and positive are one."""
    network = recipe.network()
    recipe.begin(network, STAGE)
    image = recipe.batch(STAGE, generator(0))["anchors"][:1]
    torch.manual_seed(0)
    taps = network.taps(torch.cat((image, image)))
    one, other = dense_features(network, taps, network.concepts(), 10_000)
    assert torch.allclose(one.dense, other.dense, atol=1e-5)
    full = dense_features(network, taps, None, 10_000)[0]
    assert not torch.allclose(one.dense, full.dense, atol=1e-2)
    assert len(dense_features(network, taps, None, 5)[0].at) == 5


def test_positions_are_where_the_fine_map_has_maxima(recipe):
    network = recipe.network()
    taps = network.taps(recipe.batch(STAGE, generator(0))["anchors"])
    seen = dense_features(network, taps, None, 10_000)[1]
    with torch.no_grad():
        fine = network.fine(taps)[1]
    size = fine.shape[0] // 8
    lengths = fine.reshape(8, size, *fine.shape[-2:]).norm(dim=1)
    expected = set()
    for g in range(8):
        for y in range(1, fine.shape[1] - 1):
            for x in range(1, fine.shape[2] - 1):
                if lengths[g, y, x] == lengths[g, y - 1 : y + 2, x - 1 : x + 2].max():
                    expected.add((x, y))
    # Fine cell x lies at pixel 2 x + 0.5, cell X of F at 4 X + 1.5.
    found = {(round((4 * x + 1) / 2), round((4 * y + 1) / 2)) for x, y in seen.at.tolist()}
    assert found == expected


def test_losses_fall_on_a_fixed_batch(recipe):
    network = recipe.network()
    optimiser = torch.optim.AdamW(recipe.begin(network, STAGE), lr=1e-3)
    batch = recipe.batch(STAGE, generator(3))
    history = []
    for _ in range(12):
        torch.manual_seed(0)
        values = recipe.losses(network, batch, STAGE)
        optimiser.zero_grad()
        values["loss"].backward()
        optimiser.step()
        history.append({name: float(value.detach()) for name, value in values.items()})
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert history[-1]["matching"] < history[0]["matching"]
    assert history[-1]["retrieval"] < history[0]["retrieval"]
    weights = Objective().weights
    for values in history:
        parts = (values["retrieval"], values["matching"], values["distillation"])
        total = sum(w * v for w, v in zip(weights, parts, strict=True))
        total += Objective().correspondence_weight * values["correspondence"]
        assert values["loss"] == pytest.approx(total, rel=1e-5)


def test_the_end_whitens_and_the_result_is_an_extractor(recipe, texture):
    network = recipe.network()
    recipe.finish(network, STAGE)
    assert torch.isfinite(network.whiten.weight).all()
    order = generator(0, 3).permutation(25)[:12]  # 2 of 12 photos and no scene are held out
    paths = [*recipe._singles, *(p for photos in recipe._scenes.values() for p in photos)]
    if len(paths) == 25:
        seen = recipe._vectors(network, [paths[i] for i in order], 352)
        vectors = torch.from_numpy(np.stack([vector for _, vector in seen]))
        white = network.whiten(vectors).detach()
        assert white.mean(dim=0).abs().max() < 1e-3 * white.abs().max()
    tensors = recipe.tensors(network)
    again = build(recipe.settings())
    assert network_settings(again) == recipe.settings()
    again.load_state_dict(again.state_dict() | tensors)
    pixels = texture((96, 64))
    a, b = (UR2KiD(net, "-").extract(pixels) for net in (network, again))
    assert a.global_descriptor.tobytes() == b.global_descriptor.tobytes()
    assert a.global_descriptor.shape == (16,)
    assert a.features.descriptors.tobytes() == b.features.descriptors.tobytes()


def test_verified_pairs_alone_are_positives(folder, tmp_path):
    a, b = folder / "scenes" / "place0" / "0.png", folder / "scenes" / "place0" / "2.png"
    none = np.zeros((0, 2), np.float32)
    save_pairs(tmp_path / "pairs.npz", [MatchedPair(a, b, none, none, "test")], folder)
    made = UR2KiDRecipe(**SMALL, pairs=tmp_path / "pairs.npz", single_share=0.0)
    made.prepare(folder, tmp_path)
    for held_out, miner in made._miners.items():
        for k in range(20):
            drawn = miner.draw(generator(k), 1)
            if drawn.anchor != drawn.positive:
                assert {drawn.anchor, drawn.positive} == {a, b}
                assert held_out == ("place0" not in made._scenes)


def test_points_of_matches_are_learned_from(folder, tmp_path):
    """They come in views of a pair, where the photos are not held out, and the projection is fitted to
    them too."""
    rng = np.random.default_rng(0)
    pairs = []
    for k in range(5):
        a, b = (folder / "scenes" / f"place{k}" / f"{n}.png" for n in (0, 2))
        points = rng.uniform((25, 17), (119, 95), (300, 2)).astype(np.float32)
        pairs.append(MatchedPair(a, b, points, points - np.float32((24, 16)), "test"))
    save_pairs(tmp_path / "matches.npz", pairs, folder)
    made = UR2KiDRecipe(**SMALL, matches=tmp_path / "matches.npz", single_share=0.0)
    made.prepare(folder, tmp_path)
    known = {made._scene_of[pair.image_a] for pair in made._matched.pairs}
    assert known
    assert known <= set(made._scenes)  # of those that are held out there is none
    assert f"matches of {len(made._matched)} pairs" in made.data_words
    (stage,) = made.stages
    batches = [made.batch(stage, generator(k)) for k in range(20)]
    counted = np.concatenate([batch["counted"].sum(dim=1).numpy() for batch in batches])
    assert 0.2 < (counted > 0).mean() < 0.8
    for batch in batches:
        for a, b, rows in zip(batch["points_a"], batch["points_b"], batch["counted"], strict=True):
            if rows.sum() > 4:  # windows of both are shifted and enlarged
                there, here = b[rows].double(), a[rows].double()
                fit = torch.cat((here, torch.ones(len(here), 1)), dim=1)
                moved = fit @ torch.linalg.lstsq(fit, there).solution
                assert (moved - there).abs().max() < 1e-3
    without = UR2KiDRecipe(**SMALL, single_share=0.0)
    without.prepare(folder, tmp_path)
    assert not without.batch(stage, generator(0))["counted"].any()
    weights = []
    for recipe in (made, without):
        network = recipe.network()
        recipe.refresh(network, stage, 0)
        weights.append(network.reduce.weight.detach().clone())
    assert not torch.allclose(*weights)


def test_a_damaged_photo_is_left_out(folder, tmp_path, texture, caplog):
    for k in range(8):
        cv2.imwrite(str(tmp_path / f"{k}.png"), texture((80, 80), seed=k))
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    made = UR2KiDRecipe(**SMALL)
    made.prepare(tmp_path, tmp_path)
    for k in range(10):
        assert torch.isfinite(made.batch(STAGE, generator(k))["anchors"]).all()


def test_data_and_settings_that_do_not_suffice(tmp_path):
    made = UR2KiDRecipe(**SMALL)
    with pytest.raises(InputError):
        made.prepare(tmp_path, tmp_path)
    with pytest.raises(InputError, match="multiple of 32"):
        UR2KiDRecipe(crop=100)
    with pytest.raises(UnknownNameError, match="positions"):
        UR2KiDRecipe(matching="points")
