"""Steered features with their context: the linear algebra, and what the extractor makes of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from locate.errors import InputError, WeightsError
from locate.extractors.backbones import efficientnet
from locate.extractors.bundled import BUNDLED
from locate.extractors.context.extractor import SIDE, BackboneMaps, Context, weight_of
from locate.extractors.context.projection import Projection, fit_context, strongest
from locate.extractors.context.upright import Upright, fit_upright, layout
from locate.extractors.gem import Gem
from locate.extractors.steered.extractor import Steered
from locate.extractors.weights import load_weights, save_weights
from locate.images.reading import read_photo
from locate.matching.descriptors import match_mutual
from locate.precision import VARIABLE
from pipelines.retrieval.verification import reweighted
from tests.helpers.drawings import squares


@pytest.fixture(scope="module", autouse=True)
def exact():
    """In float32, as numbers by hand are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "float32")
        yield


@pytest.fixture(scope="module")
def context(exact):
    return Context.from_pretrained(max_keypoints=400)


@pytest.fixture(scope="module")
def deep(exact):
    return BackboneMaps(efficientnet.load_imagenet(efficientnet.imagenet_weights_path()))


# --- the fit


def matches(count=4000, seed=0):
    """Six numbers: the first two tell spots apart, the next two differ as much but change from look to
    look, the last two are all but constant."""
    rng = np.random.default_rng(seed)
    spots = rng.normal(size=(count, 6)) * (3, 2, 0.1, 0.1, 0.01, 0.01) + 5
    ends = [spots + rng.normal(size=(count, 6)) * (0.1, 0.2, 3, 3, 0.01, 0.01) for _ in range(2)]
    mix = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    return [torch.from_numpy(end @ mix) for end in ends], mix


def test_the_context_keeps_what_tells_spots_apart():
    (a, b), mix = matches()
    mean, projection = fit_context(a, b, 2, ridge=0.0)
    torch.testing.assert_close(mean, (a.mean(0) + b.mean(0)) / 2)
    # By hand: differences of a match have unit variance in all that is kept ...
    within = np.cov(((a - b) @ projection.T).numpy().T) / 2
    np.testing.assert_allclose(within, np.eye(2), atol=0.03)
    # ... what is kept varies most, and in no order but this: 3 / .1 and 2 / .2, squared.
    spread = np.cov((torch.cat((a, b)) @ projection.T).numpy().T)
    np.testing.assert_allclose(spread, np.diag(np.diag(spread)), atol=1e-6 * spread[0, 0])
    np.testing.assert_allclose(np.diag(spread), (901, 101), rtol=0.1)
    directions = (projection.numpy() @ mix.T).__abs__()
    assert directions[0].argmax() == 0
    assert directions[1].argmax() == 1


def test_a_ridge_takes_nothing_for_certain():
    (a, b), _ = matches()
    small = fit_context(a, b, 6, ridge=0.0)[1].norm(dim=1).max()
    assert fit_context(a, b, 6, ridge=0.5)[1].norm(dim=1).max() < 0.05 * small


def test_too_few_matches():
    with pytest.raises(InputError, match="3 matches are too few for a context of 4"):
        fit_context(torch.zeros(3, 8), torch.zeros(3, 8), 4, 0.1)


@pytest.mark.parametrize(
    ("weights", "share"),
    [((0.3, 0.8), 0.4), ((0.0, 0.6), 0.5), ((0.5, 0.5), 0.0), ((0.9, 0.0), 1.0)],
)
def test_a_cosine_is_that_of_its_parts(weights, share):
    """Turned descriptors of two photos count as much as both are taken to be turned."""
    rng = np.random.default_rng(1)

    def look():
        made = [rng.normal(size=(50, width)) for width in (5, 5, 3)]
        return [part / np.linalg.norm(part, axis=1, keepdims=True) for part in made]

    whole, three = torch.eye(5, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    projection = Projection(torch.zeros(3, dtype=torch.float64), three, whole, whole)
    assert projection.parts == (5, 5, 3)
    looks = [look(), look()]
    a, b = (
        projection.descriptors(
            torch.from_numpy(turned),
            torch.from_numpy(upright) if weight else None,
            torch.from_numpy(7 * context),
            weight,
            share,
        ).numpy()
        for (turned, upright, context), weight in zip(looks, weights, strict=True)
    )
    (v, w), cosines = weights, [x @ y.T for x, y in zip(*looks, strict=True)]
    expected = (1 - share) * ((1 - v) * (1 - w)) ** 0.5 * cosines[0]
    expected += (1 - share) * (v * w) ** 0.5 * cosines[1] + share * cosines[2]
    np.testing.assert_allclose(a @ b.T, expected, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-9)


def test_the_dimensions_that_hold_most_are_kept():
    rng = np.random.default_rng(2)
    plane = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6))
    kept = strongest(torch.from_numpy(plane), 2)
    np.testing.assert_allclose(kept @ kept.T, np.eye(2), atol=1e-9)
    found = plane @ kept.numpy().T
    np.testing.assert_allclose(found @ found.T, plane @ plane.T, atol=1e-9)
    largest = np.abs(kept.numpy()).argmax(axis=1)
    assert (kept.numpy()[[0, 1], largest] > 0).all()


def test_their_sign_does_not_depend_on_the_solver(monkeypatch):
    x = torch.from_numpy(np.random.default_rng(4).normal(size=(50, 6)))
    kept, solve = strongest(x, 4), torch.linalg.eigh

    def other(matrix):
        values, vectors = solve(matrix)
        return values, vectors * torch.tensor([1, -1, -1, 1, 1, -1])

    monkeypatch.setattr(torch.linalg, "eigh", other)
    assert torch.equal(strongest(x, 4), kept)


# --- the right way up


def test_the_layout_by_hand():
    rng = np.random.default_rng(3)
    vector, cells = rng.normal(size=4), rng.normal(size=(2, 3, 4))
    found = layout(torch.from_numpy(vector), torch.from_numpy(cells)).numpy()
    length = np.linalg.norm(cells.mean(axis=(1, 2)))
    upper, lower = cells[:, :2].mean(axis=(1, 2)), cells[:, 1:].mean(axis=(1, 2))
    left, right = cells[:, :, :2].mean(axis=(1, 2)), cells[:, :, 2:].mean(axis=(1, 2))
    expected = np.concatenate((vector, (upper - lower) / length, (left - right) / length))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_what_tells_upright_photos_is_the_logistic_regression():
    """At the minimum the penalty's slope is that of the likelihood, by hand."""
    rng = np.random.default_rng(4)
    seen = rng.normal(size=(300, 5)) * (1, 10, 0.1, 2, 1) + (0, 50, 3, 0, 1)
    truth = (seen[:, 0] + 0.1 * seen[:, 1] - 5 + rng.normal(size=300) > 0).astype(float)
    found = fit_upright(torch.from_numpy(seen), torch.from_numpy(truth), 0.05)
    likely = np.array([found.likelihood(one) for one in torch.from_numpy(seen)])
    assert ((likely > 0.5) == truth).mean() > 0.8
    deviation = seen.std(axis=0, ddof=1)
    weight = found.weight.numpy() * deviation  # of standardised numbers
    slope = ((seen - seen.mean(axis=0)) / deviation).T @ (likely - truth) / len(seen)
    np.testing.assert_allclose(slope, -2 * 0.05 * weight, atol=1e-3)
    assert (likely - truth).mean() == pytest.approx(0, abs=1e-4)


@pytest.mark.data
def test_photos_of_places_are_told_from_turned_ones(data, context):
    upright, turned = [], []
    for path in sorted((data / "eval/matching/wxbs").rglob("01.*"))[:12]:
        pixels = read_photo(path, min_long_side=512).pixels
        for found, turns in ((upright, 0), (turned, 1), (turned, 2), (turned, 3)):
            view = np.ascontiguousarray(np.rot90(pixels, turns))
            maps, size = context._deep.feature_maps(view)
            vector = context._deep.global_vector(maps, size)
            seen = context._deep.layout(vector, maps, size)
            found.append(context._upright.likelihood(seen))
    assert np.median(upright) > 0.9
    assert np.median(turned) < 0.5
    assert (np.repeat(upright, 3) > turned).mean() > 0.9


@pytest.mark.parametrize(
    ("likelihood", "weight"),
    [
        (0.6, 0.5),  # both alike
        (0.5, 8 / 35),  # odds of 1, by those of .6: 2 / 3, cubed 8 / 27
        (0.75, 8 / 9),  # odds of 3: 2, cubed 8
        (0.2, 0.0),
        (0.0, 0.0),
        (0.95, 0.98),
        (1.0, 0.98),
    ],
)
def test_the_weight_of_upright_descriptors(likelihood, weight):
    assert weight_of(likelihood) == pytest.approx(weight)


# --- the extractor


STRIDES = {"stage3": 8, "stage5": 16, "stage6": 32, "stage7": 32}


@pytest.mark.parametrize(
    ("likelihood", "weight"), [(0.95, 0.98), (0.75, 8 / 9), (0.5, 8 / 35), (0.1, 0)]
)
def test_descriptors_by_hand(likelihood, weight, context, texture, monkeypatch):
    pixels, asked = texture((300, 260)), []
    monkeypatch.setattr(Upright, "likelihood", lambda _, seen: asked.append(seen) or likelihood)
    made = context.extract(pixels)
    network = efficientnet.load_imagenet(efficientnet.imagenet_weights_path()).eval()
    padded = np.pad(pixels, ((0, 28), (0, 20), (0, 0)), mode="reflect")  # to multiples of 32
    with torch.inference_mode():
        x = torch.from_numpy(padded).permute(2, 0, 1)[None].float()
        maps = network.taps((x - 127) / 128)
    cells = maps["stage7"][0, :, :8, :9]  # those of the photo
    seen = layout(torch.from_numpy(made.global_descriptor), cells)
    torch.testing.assert_close(asked[0], seen, atol=1e-4, rtol=1e-4)
    turned, upright = (
        Steered.from_pretrained(max_keypoints=400, upright=way).extract(pixels).features
        for way in (False, True)
    )
    np.testing.assert_array_equal(made.features.keypoints, turned.keypoints)
    np.testing.assert_array_equal(made.features.scores, turned.scores)
    tensors = {name: part.numpy() for name, part in load_weights(BUNDLED["context"])[0].items()}
    share = 0.5 + 0.35 * weight
    for k in (0, 7, 100):
        x, y = turned.keypoints[k].astype(float)
        seen = []
        for tap in ("stage3", "stage5", "stage6", "stage7"):
            stride = STRIDES[tap]
            cells = maps[tap][0].numpy()
            j, i = ((v - (stride - 1) / 2) / stride for v in (x, y))
            j, i = np.clip(j, 0, cells.shape[2] - 1), np.clip(i, 0, cells.shape[1] - 1)
            left, top = min(int(j), cells.shape[2] - 2), min(int(i), cells.shape[1] - 2)
            u, v = j - left, i - top
            square = cells[:, top : top + 2, left : left + 2]
            seen.append(np.einsum("cyx,y,x->c", square, (1 - v, v), (1 - u, u)))
        parts = (
            tensors["own_turned"] @ turned.descriptors[k],
            tensors["own_upright"] @ upright.descriptors[k],
            tensors["context"] @ (np.concatenate(seen) - tensors["mean"]),
        )
        shares = (1 - share) * (1 - weight), (1 - share) * weight, share
        expected = [
            part / np.linalg.norm(part) * of**0.5 for part, of in zip(parts, shares, strict=True)
        ]
        np.testing.assert_allclose(
            made.features.descriptors[k], np.concatenate(expected), atol=2e-4
        )
    assert context.info.parts == tuple(len(part) for part in parts)


def test_the_global_descriptor_is_gems(context, texture):
    """Exactly where nothing has to be padded; nearly elsewhere."""
    network = efficientnet.load_imagenet(efficientnet.imagenet_weights_path())
    gem = Gem(network, "", max_side=SIDE)
    for size, least in (((384, 288), 1 - 1e-6), ((640, 500), 0.95)):
        pixels = texture(size)
        a, b = (e.extract(pixels, local=False).global_descriptor for e in (context, gem))
        assert a @ b > least


def test_what_a_photo_was_padded_with_is_not_in_its_global_descriptor(context, texture):
    """By hand: the root of the mean square over the cells whose centres lie in the photo."""
    pixels = texture((300, 260))
    network = efficientnet.load_imagenet(efficientnet.imagenet_weights_path()).eval()
    padded = np.pad(pixels, ((0, 28), (0, 20), (0, 0)), mode="reflect")
    with torch.inference_mode():
        x = torch.from_numpy(padded).permute(2, 0, 1)[None].float()
        cells = network.taps((x - 127) / 128)["head"][0].numpy()
    assert cells.shape[1:] == (9, 10)
    expected = np.sqrt((cells[:, :8, :9] ** 2).mean(axis=(1, 2)))  # centres at 15.5, 47.5, ...
    found = context.extract(pixels, local=False).global_descriptor
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-5)


def test_the_context_of_a_spot_does_not_hang_on_the_size_of_the_photo(deep, texture):
    """Cells lie where they are said to lie also where sides are no multiples of the strides."""
    pixels, spots = texture((384, 384)), np.array([(100.0, 90.0), (150.0, 160.0), (60.0, 200.0)])
    whole = deep.sample_context(deep.feature_maps(pixels)[0], spots)
    for width, height in ((367, 384), (384, 353), (357, 345)):
        maps, size = deep.feature_maps(np.ascontiguousarray(pixels[:height, :width]))
        # The same pixels at the same scale: the long side is 384 or less, nothing is shrunk.
        assert size == (width, height)
        cosines = torch.cosine_similarity(deep.sample_context(maps, spots), whole)
        moved = torch.cosine_similarity(deep.sample_context(maps, spots + 16), whole)
        assert cosines.min() > 0.95
        assert cosines.min() > moved.max()


def test_projecting_cells_is_projecting_points(deep, texture):
    maps, _ = deep.feature_maps(texture((256, 224)))
    spots = np.array([(0.0, 0.0), (100.3, 90.1), (255.0, 223.0)])
    seen = deep.sample_context(maps, spots)
    projection = torch.randn(5, seen.shape[1], generator=torch.Generator().manual_seed(0))
    found = deep.sample_context(maps, spots, projection)
    torch.testing.assert_close(found, seen @ projection.T, atol=1e-3, rtol=1e-4)


def test_keypoints_of_a_photo_that_was_larger(context, texture):
    pixels = texture((320, 256))
    plain, scaled = (context.extract(pixels, size).features for size in (None, (640, 512)))
    np.testing.assert_allclose(scaled.keypoints + 0.5, 2 * (plain.keypoints + 0.5), atol=1e-3)
    np.testing.assert_allclose(scaled.descriptors, plain.descriptors, atol=1e-4)


@pytest.mark.parametrize("likelihoods", [(0.1, 0.1), (0.5, 0.7), (0.99, 0.1)])
def test_a_turned_photo_is_still_matched(likelihoods, context, texture, monkeypatch):
    """In queries always, though photos were judged differently; in maps where its kind has no right way
    up."""
    judged = iter((likelihoods[0], *(likelihoods[1] for _ in range(3))))
    monkeypatch.setattr(Upright, "likelihood", lambda *_: next(judged))
    pixels = texture((416, 320), seed=3)
    a = context.extract(pixels).features
    for turns in (1, 2, 3):
        b = context.extract(np.ascontiguousarray(np.rot90(pixels, turns))).features
        points = a.keypoints
        for width in (416, 320, 416)[:turns]:
            points = np.stack((points[:, 1], width - 1 - points[:, 0]), axis=1)
        for look in (reweighted, lambda features, _: features)[
            : 2 if max(likelihoods) < 0.2 else 1
        ]:
            first, second = (look(seen, context.info).descriptors for seen in (a, b))
            found = match_mutual(first, second, context.info.ratio)
            right = np.linalg.norm(points[found[:, 0]] - b.keypoints[found[:, 1]], axis=1) < 3
            assert right.sum() > 60
            assert right.mean() > 0.7


def test_flat_photos_have_a_global_descriptor_and_no_keypoints(context):
    made = context.extract(np.full((200, 300, 3), 90, np.uint8))
    assert len(made.features.keypoints) == 0
    assert made.features.descriptors.shape == (0, context.info.local_dim)
    assert np.linalg.norm(made.global_descriptor) == pytest.approx(1, abs=1e-5)
    drawn = np.repeat(squares()[0][..., None], 3, axis=2)
    assert len(context.extract(drawn).features.keypoints) > 0


def test_a_turn_changes_what_is_judged(context):
    assert not context.info.rotation_invariant


def test_weights_of_other_parts_are_refused(tmp_path):
    tensors, record = load_weights(BUNDLED["context"])
    other = tmp_path / "other.safetensors"
    save_weights(other, tensors, replace(record, settings={"steered": "none"}))
    with pytest.raises(WeightsError, match=r"other\.safetensors was fitted to other weights"):
        Context.from_pretrained(other)
    save_weights(other, {"mean": tensors["mean"]}, record)
    with pytest.raises(WeightsError, match="does not fit"):
        Context.from_pretrained(other)
    with pytest.raises(WeightsError, match="holds weights of steered, not of context"):
        Context.from_pretrained(BUNDLED["steered"])
