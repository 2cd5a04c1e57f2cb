"""DELF's training recipe on a handful of made photos."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError, UnknownNameError
from locate.extractors.blocks.detection import to_input
from locate.extractors.delf.extractor import Delf
from locate.extractors.delf.losses import fit_pca
from locate.extractors.delf.network import fixed_rotation
from locate.extractors.delf.recipe import DelfRecipe, _shrunk_features
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
    made = DelfRecipe(batch_size=6, crop=64, dim=40, projection="pca")
    made.prepare(folder, folder / "cache")
    return made


def test_classes_are_scenes_and_single_photos(recipe):
    assert len(recipe._train) == 5
    assert "6 photos of 2 scenes and 3 single photos" in recipe.describe()
    labels = recipe.batch(recipe.stages[0], generator(0, 0, 0))["labels"]
    assert (labels[::2] < 2).all()  # every second crop shows a scene
    assert (labels[1::2] >= 2).all()


def test_it_starts_from_the_weights_of_before_with_classifiers_of_its_own(recipe):
    network = recipe.network()
    tensors = {n: t.clone() for n, t in recipe.tensors(network).items()}
    name = "components"
    tensors[name] += 1.0
    classes = network.classifier(recipe.stages[0]).weight.clone()
    recipe.start_from(network, tensors)
    assert torch.equal(network.delf.components, tensors[name])
    assert torch.equal(network.classifier(recipe.stages[0]).weight, classes)


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
    drawn, classes = recipe._draw(rng, 20, False, 2)
    side = recipe._some_side(rng)
    small = torch.nn.functional.interpolate(drawn, (side, side), mode="bilinear", antialias=True)
    with torch.no_grad():
        cells = network.delf.features(small).flatten(2)
    assert torch.equal(labels[:20], classes)
    difference = (kept[:20, :, :, 0].float()[..., None] - cells[:, :, None]).abs().amax(dim=1)
    assert difference.amin(dim=2).max() < 0.01 * cells.max()  # each kept cell is one of the view's
    first = recipe.losses(network, batch, stage)
    again = DelfRecipe(batch_size=6, crop=64, dim=40, projection="pca")
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


# --- the losses and fits put together, against numpy -------------------------------------------------


def unit(values, axis=-1):
    return values / np.linalg.norm(values, axis=axis, keepdims=True)


def cross_entropy(logits, labels):
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels]
    return (np.log(np.exp(shifted).sum(axis=1)) - chosen).mean()


@pytest.fixture
def trained(recipe):
    """The network with attention that is not the same everywhere, and classifiers of its own."""
    network = recipe.network()
    generator_ = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.delf.attention.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator_))
        for classes in network.classes.values():
            classes.weight.copy_(torch.randn(classes.weight.shape, generator=generator_))
    return network.eval()


def attention_of(network, features):
    """C x N features -> N scores, softplus(w2 relu(w1 f + b1) + b2) of the features as they are."""
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in network.delf.attention.parameters())
    hidden = np.maximum(w1[:, :, 0, 0] @ features + b1[:, None], 0)
    return np.log1p(np.exp((w2[:, :, 0, 0] @ hidden + b2[:, None])[0]))


def features_of(network, pixels):
    with torch.no_grad():
        return network.delf.features(pixels).double().numpy()


def test_the_descriptors_learn_by_cosines_of_the_plain_mean(recipe, trained):
    """16 cos(mean f, w_k) through the softmax; attention has no part in it."""
    stage = recipe.stages[0]
    batch = recipe.batch(stage, generator(0, 0, 1))
    pooled = unit(features_of(trained, batch["images"]).mean(axis=(2, 3)))
    weight = unit(trained.classes["descriptors"].weight.detach().double().numpy())
    logits, labels = 16.0 * pooled @ weight.T, batch["labels"].numpy()
    found = recipe.losses(trained, batch, stage)
    assert found["loss"].item() == pytest.approx(cross_entropy(logits, labels), rel=1e-4)
    assert found["accuracy"].item() == pytest.approx((logits.argmax(axis=1) == labels).mean())
    trained.requires_grad_(False)
    groups = list(recipe.begin(trained, stage))
    recipe.losses(trained, batch, stage)["loss"].backward()
    moved = {name for name, p in trained.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in moved} == {
        "delf.backbone",
        "classes.descriptors",
    }
    assert [group["lr"] for group in groups] == pytest.approx([1e-4, 1e-3])


def attended_logits(network, features):
    """W sum_n alpha(f_n) f_n / |f_n| / N, with features N x C x n."""
    weight = network.classes["attention"].weight.detach().double().numpy()
    rows = [(attention_of(network, cells) * unit(cells, axis=0)).mean(axis=1) for cells in features]
    return np.array(rows) @ weight.T


@pytest.mark.parametrize("held_out", [False, True])
def test_attention_learns_by_the_attended_sum_of_unit_features(
    recipe, trained, held_out, monkeypatch
):
    """alpha sees the features as they are, W gets the sum of those of length 1; no cosine, no scale."""
    monkeypatch.setattr("locate.extractors.delf.recipe._VIEWS", 40)
    stage = recipe.stages[1]
    recipe.refresh(trained, stage, 50)
    batch = recipe.batch(stage, generator(0, 1, 2), held_out=held_out)
    if held_out:
        small = torch.nn.functional.interpolate(
            batch["images"], (batch["side"],) * 2, mode="bilinear", antialias=True
        )
        cells, labels = features_of(trained, small), batch["labels"].numpy()
    else:
        kept, known = recipe._kept
        cells = kept[batch["views"]].double().numpy()
        labels = known[batch["views"]].numpy()
    logits = attended_logits(trained, cells.reshape(*cells.shape[:2], -1))
    groups = list(recipe.begin(trained, stage))
    found = recipe.losses(trained, batch, stage)
    assert found["loss"].item() == pytest.approx(cross_entropy(logits, labels), rel=1e-4)
    assert found["accuracy"].item() == pytest.approx((logits.argmax(axis=1) == labels).mean())
    found["loss"].backward()
    moved = {name for name, p in trained.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] + "." + name.split(".")[1] for name in moved} == {
        "delf.attention",
        "classes.attention",
    }
    assert moved == {name for name, p in trained.named_parameters() if p.requires_grad}
    given = {id(p) for group in groups for p in group["params"]}
    assert given == {id(p) for p in trained.parameters() if p.requires_grad}
    assert [group["lr"] for group in groups] == pytest.approx([1e-3, 1e-3])
    trained.requires_grad_(True)
    images = torch.zeros(1, 3, 64, 64)
    assert not _shrunk_features(trained.delf, images, 32).requires_grad  # nothing before it learns


def whole(recipe, index):
    """A photo as the network gets it, mirrored to whole cells."""
    return to_input(recipe._read(index), torch.device("cpu"))


def test_classifiers_begin_with_the_mean_features_of_their_classes(recipe, trained, monkeypatch):
    monkeypatch.setattr("locate.extractors.delf.recipe._VIEWS", 40)
    for stage in recipe.stages:
        recipe.refresh(trained, stage, 0)
        rows = []
        for photos in recipe._train:
            means = []
            for index in photos[:6]:
                small = cv2.resize(recipe._read(index), (64, 48), interpolation=cv2.INTER_AREA)
                cells = features_of(trained, to_input(small, torch.device("cpu")))[0].reshape(
                    672, -1
                )
                means.append(
                    (unit(cells, axis=0) if stage is recipe.stages[1] else cells).mean(axis=1)
                )
            rows.append(unit(np.mean(means, axis=0)))
        expected = np.array(rows)
        if stage is recipe.stages[1]:
            expected -= expected.mean(axis=0)
            expected *= 16.0 / np.linalg.norm(expected, axis=1).mean()
        found = trained.classes[stage.name].weight.detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
        with torch.no_grad():
            trained.classes[stage.name].weight.add_(1.0)
        learned = trained.classes[stage.name].weight.detach().clone()
        recipe.refresh(trained, stage, 50)  # later the classes are what was learned
        assert torch.equal(trained.classes[stage.name].weight, learned)


def test_the_pca_and_the_threshold_are_of_what_attention_chooses(recipe, trained, monkeypatch):
    monkeypatch.setattr("locate.extractors.delf.recipe._PCA_FEATURES", 12)  # of 80 cells a photo
    recipe.finish(trained, recipe.stages[0])
    assert trained.delf.threshold == 0  # after the descriptors alone there is nothing to fit
    recipe.finish(trained, recipe.stages[1])
    chosen, scores = [], []
    for index in [i for photos in recipe._train for i in photos]:
        cells = features_of(trained, whole(recipe, index))[0].reshape(672, -1)
        attention = attention_of(trained, cells)
        chosen.append(unit(cells[:, np.argsort(-attention)[:12]], axis=0).T)
        scores.append(attention)
    features = np.concatenate(chosen)
    np.testing.assert_allclose(trained.delf.mean.numpy(), features.mean(axis=0), atol=1e-6)
    _, values, rows = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)
    found = trained.delf.components.double().numpy()
    kept = ((features - features.mean(axis=0)) @ found.T).var(axis=0).sum()
    assert kept == pytest.approx((values[:40] ** 2).sum() / len(features), rel=1e-4)
    assert np.abs(np.abs(found[:5] @ rows[:5].T) - np.eye(5)).max() < 0.02
    median = np.median(np.concatenate(scores))
    assert float(trained.delf.threshold) == pytest.approx(median, rel=1e-4)


def test_pca_needs_enough_features():
    mean, components, kept = fit_pca(torch.randn(100, 6), 6)
    assert kept == pytest.approx(1.0)
    assert components.shape == (6, 6)
    assert mean.shape == (6,)


def test_too_little_data_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="at least two scenes"):
        DelfRecipe().prepare(tmp_path, tmp_path)
    with pytest.raises(UnknownNameError, match="whitened"):
        DelfRecipe(projection="lda")


def test_descriptors_are_whitened_by_default(recipe, trained, monkeypatch):
    """As PCA is tested, but that every direction of the features is made to vary nearly alike, and a
    fixed rotation mixes them."""
    monkeypatch.setattr("locate.extractors.delf.recipe._PCA_FEATURES", 12)
    recipe.projection = "whitened"
    recipe.finish(trained, recipe.stages[1])
    chosen = []
    for index in [i for photos in recipe._train for i in photos]:
        cells = features_of(trained, whole(recipe, index))[0].reshape(672, -1)
        best = np.argsort(-attention_of(trained, cells))[:12]
        chosen.append(unit(cells[:, best], axis=0).T)
    features = np.concatenate(chosen)
    centred = features - features.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / (len(features) - 1))
    white = centred @ vectors / np.sqrt(values.clip(0) + 0.3 * values.mean())
    expected = white @ fixed_rotation(672).double().numpy()[:40].T
    np.testing.assert_allclose(trained.delf.mean.numpy(), features.mean(axis=0), atol=1e-6)
    found = centred @ trained.delf.components.double().numpy().T
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())
