"""Steered features with their context: the linear algebra, and what the extractor makes of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_steered import squares

from locate.errors import InputError, WeightsError
from locate.extractors import efficientnet
from locate.extractors.context.extractor import PLAIN, STYLES, WIDE, Context, DeepMaps
from locate.extractors.context.projection import Projection, fit_context, fit_joint
from locate.extractors.context.upright import Upright, fit_upright, layout
from locate.extractors.gem import Gem
from locate.extractors.precision import VARIABLE
from locate.extractors.shipped import SHIPPED
from locate.extractors.steered.extractor import Steered
from locate.extractors.weights import load_weights, save_weights
from locate.images import read_photo
from locate.matching import match_mutual


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
def wide(exact):
    return Context.from_pretrained(style=WIDE, max_keypoints=400)


@pytest.fixture(scope="module", params=STYLES)
def deep(request, exact):
    imagenet = efficientnet.load_imagenet(efficientnet.imagenet_weights_path())
    return DeepMaps(imagenet, STYLES[request.param].taps)


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


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_cosine_is_the_contexts(share):
    rng = np.random.default_rng(1)
    parts = [rng.normal(size=(50, width)) for width in (5, 3)]
    parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    local, context = map(torch.from_numpy, parts)
    identity = torch.eye(3, dtype=torch.float64)
    joint = fit_joint(torch.cat((local, context), dim=1), 8)
    projection = Projection(torch.zeros(3, dtype=torch.float64), identity, joint)
    found = projection.descriptors(local, 7 * context, share).numpy()
    expected = (1 - share) * parts[0] @ parts[0].T + share * parts[1] @ parts[1].T
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-9)


def test_of_the_whole_the_dimensions_that_hold_most_are_kept():
    rng = np.random.default_rng(2)
    plane = rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6))
    joint = fit_joint(torch.from_numpy(plane), 2)
    found = plane @ joint.numpy().T
    np.testing.assert_allclose(found @ found.T, plane @ plane.T, atol=1e-9)


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
def test_photos_of_places_are_told_from_turned_ones(data, wide):
    upright, turned = [], []
    for path in sorted((data / "eval/matching/wxbs").rglob("01.*"))[:12]:
        pixels = read_photo(path, min_long_side=512).pixels
        for found, turns in ((upright, 0), (turned, 1), (turned, 2), (turned, 3)):
            view = np.ascontiguousarray(np.rot90(pixels, turns))
            seen = wide._deep.layout(*wide._deep.look(view))
            found.append(wide._upright.likelihood(seen))
    assert np.median(upright) > 0.9
    assert np.median(turned) < 0.5
    assert (np.repeat(upright, 3) > turned).mean() > 0.9


# --- the extractor


STRIDES = {"stage3": 8, "stage5": 16, "stage6": 32, "stage7": 32}
CASES = [  # style, likelihood that the photo is upright, what comes of it
    (PLAIN, None, False, 0.5),
    (WIDE, 0.7, True, 0.85),
    (WIDE, 0.5, False, 0.5),
]


@pytest.mark.parametrize(("style", "likelihood", "upright", "share"), CASES)
def test_descriptors_by_hand(style, likelihood, upright, share, texture, monkeypatch):
    pixels, asked = texture((300, 260)), []
    context = Context.from_pretrained(style=style, max_keypoints=400)
    monkeypatch.setattr(Upright, "likelihood", lambda _, seen: asked.append(seen) or likelihood)
    made = context.extract(pixels)
    network = efficientnet.load_imagenet(efficientnet.imagenet_weights_path()).eval()
    padded = np.pad(pixels, ((0, 28), (0, 20), (0, 0)), mode="reflect")  # to multiples of 32
    with torch.inference_mode():
        x = torch.from_numpy(padded).permute(2, 0, 1)[None].float()
        maps = network.taps((x - 127) / 128)
    assert len(asked) == style.judges
    if asked:
        cells = maps["stage7"][0, :, :8, :9]  # those of the photo
        seen = layout(torch.from_numpy(made.global_descriptor), cells)
        torch.testing.assert_close(asked[0], seen, atol=1e-4, rtol=1e-4)
    own = Steered.from_pretrained(max_keypoints=400, upright=upright).extract(pixels).features
    np.testing.assert_array_equal(made.features.keypoints, own.keypoints)
    np.testing.assert_array_equal(made.features.scores, own.scores)
    tensors = load_weights(SHIPPED[style.system])[0]
    for k in (0, 7, 100):
        x, y = own.keypoints[k].astype(float)
        seen = []
        for tap in style.taps:
            stride = STRIDES[tap]
            cells = maps[tap][0].numpy()
            j, i = ((v - (stride - 1) / 2) / stride for v in (x, y))
            j, i = np.clip(j, 0, cells.shape[2] - 1), np.clip(i, 0, cells.shape[1] - 1)
            left, top = min(int(j), cells.shape[2] - 2), min(int(i), cells.shape[1] - 2)
            u, v = j - left, i - top
            square = cells[:, top : top + 2, left : left + 2]
            seen.append(np.einsum("cyx,y,x->c", square, (1 - v, v), (1 - u, u)))
        around = tensors["context"].numpy() @ (np.concatenate(seen) - tensors["mean"].numpy())
        around *= share**0.5 / np.linalg.norm(around)
        both = np.concatenate(((1 - share) ** 0.5 * own.descriptors[k], around))
        expected = tensors["joint"].numpy() @ both
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(made.features.descriptors[k], expected, atol=2e-4)


def test_the_global_descriptor_is_gems(context, texture):
    """Exactly where nothing has to be padded; nearly elsewhere."""
    gem = Gem.from_pretrained()
    for size, least in (((448, 320), 1 - 1e-6), ((640, 480), 0.98)):
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
    pixels, spots = texture((448, 448)), np.array([(100.0, 90.0), (150.0, 160.0), (60.0, 200.0)])
    whole = deep.around(deep.look(pixels)[0], spots)
    for width, height in ((431, 448), (448, 417), (421, 409)):
        maps, size = deep.look(np.ascontiguousarray(pixels[:height, :width]))
        # The same pixels at the same scale: the long side is 448 or less, nothing is shrunk.
        assert size == (width, height)
        cosines = torch.cosine_similarity(deep.around(maps, spots), whole)
        moved = torch.cosine_similarity(deep.around(maps, spots + 16), whole)
        assert cosines.min() > 0.95
        assert cosines.min() > moved.max()


def test_projecting_cells_is_projecting_points(deep, texture):
    maps, _ = deep.look(texture((256, 224)))
    spots = np.array([(0.0, 0.0), (100.3, 90.1), (255.0, 223.0)])
    seen = deep.around(maps, spots)
    projection = torch.randn(5, seen.shape[1], generator=torch.Generator().manual_seed(0))
    found = deep.around(maps, spots, projection)
    torch.testing.assert_close(found, seen @ projection.T, atol=1e-3, rtol=1e-4)


def test_keypoints_of_a_photo_that_was_larger(context, texture):
    pixels = texture((320, 256))
    plain, scaled = (context.extract(pixels, size).features for size in (None, (640, 512)))
    np.testing.assert_allclose(scaled.keypoints + 0.5, 2 * (plain.keypoints + 0.5), atol=1e-3)
    np.testing.assert_allclose(scaled.descriptors, plain.descriptors, atol=1e-4)


@pytest.mark.parametrize("style", STYLES)
def test_a_turned_photo_is_still_matched(style, texture, monkeypatch):
    """With `WIDE` where photos of its kind have no right way up."""
    monkeypatch.setattr(Upright, "likelihood", lambda *_: 0.5)
    context = Context.from_pretrained(style=STYLES[style], max_keypoints=400)
    pixels = texture((416, 320), seed=3)
    a = context.extract(pixels).features
    for turns in (1, 2, 3):
        b = context.extract(np.ascontiguousarray(np.rot90(pixels, turns))).features
        points = a.keypoints
        for width in (416, 320, 416)[:turns]:
            points = np.stack((points[:, 1], width - 1 - points[:, 0]), axis=1)
        found = match_mutual(a.descriptors, b.descriptors, context.info.ratio)
        right = np.linalg.norm(points[found[:, 0]] - b.keypoints[found[:, 1]], axis=1) < 3
        assert right.sum() > 60
        assert right.mean() > 0.8


def test_flat_photos_have_a_global_descriptor_and_no_keypoints(context):
    made = context.extract(np.full((200, 300, 3), 90, np.uint8))
    assert len(made.features.keypoints) == 0
    assert made.features.descriptors.shape == (0, context.info.local_dim)
    assert np.linalg.norm(made.global_descriptor) == pytest.approx(1, abs=1e-5)
    drawn = np.repeat(squares()[0][..., None], 3, axis=2)
    assert len(context.extract(drawn).features.keypoints) > 0


def test_only_where_nothing_is_judged_to_be_upright_a_turn_is_promised_to_change_nothing(
    context, wide
):
    assert context.info.rotation_invariant
    assert not wide.info.rotation_invariant


@pytest.mark.parametrize("style", STYLES)
def test_weights_of_other_parts_are_refused(style, tmp_path):
    style = STYLES[style]
    tensors, record = load_weights(SHIPPED[style.system])
    other = tmp_path / "other.safetensors"
    save_weights(other, tensors, replace(record, settings={"steered": "none"}))
    with pytest.raises(WeightsError, match=r"other\.safetensors was fitted to other weights"):
        Context.from_pretrained(other, style=style)
    save_weights(other, {"mean": tensors["mean"]}, record)
    with pytest.raises(WeightsError, match="does not fit"):
        Context.from_pretrained(other, style=style)
    another = next(one for one in STYLES.values() if one is not style)
    with pytest.raises(
        WeightsError, match=f"holds weights of {style.system}, not of {another.system}"
    ):
        Context.from_pretrained(SHIPPED[style.system], style=another)
