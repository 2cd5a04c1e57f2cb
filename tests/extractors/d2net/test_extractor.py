"""D2-Net: each formula against loops, detections of made maps, features where they belong, weights."""

from __future__ import annotations

import logging

import cv2
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from locate.errors import InputError, UnknownNameError, WeightsError
from locate.extractors.backbones.registry import create_backbone, load_backbone
from locate.extractors.base import Extractor
from locate.extractors.blocks.soft_detection import channel_ratio, soft_local_max, soft_scores
from locate.extractors.d2net.detection import (
    describe,
    distinctness,
    hard_detections,
    keypoints,
)
from locate.extractors.d2net.extractor import D2Net
from locate.extractors.d2net.losses import (
    d2_loss,
    hardest_negative,
    margin_loss,
    positive_distance,
    weighted_mean,
)
from locate.extractors.d2net.network import PLANS, STRIDE, D2Network
from locate.extractors.weights import Record, save_weights
from locate.matching.descriptors import match_mutual
from locate.pixels import apply_homography

pytestmark = pytest.mark.usefixtures("float32")  # compared digit by digit


def random_maps(*shape, seed=0):
    """Not negative, about a third of the entries zero, as after a ReLU."""
    rng = np.random.default_rng(seed)
    return np.maximum(rng.normal(0.4, 1.0, shape), 0)


@pytest.fixture(scope="module")
def d2net():
    return D2Net.from_pretrained()


# --- detection -------------------------------------------------------------------------------------


def test_hard_detections_against_loops():
    maps = random_maps(4, 12, 15)
    maps[:, 4:7, 5:8] = 0.0  # a cell without features is no detection, though all its maxima tie
    expected = []
    for y in range(1, 11):
        for x in range(1, 14):
            k = maps[:, y, x].argmax()
            window = maps[k, y - 1 : y + 2, x - 1 : x + 2]
            if maps[k, y, x] > 0 and maps[k, y, x] == window.max():
                expected.append((k, y, x))
    found = torch.stack(hard_detections(torch.from_numpy(maps)), dim=1).tolist()
    assert [tuple(f) for f in found] == expected
    assert 10 < len(expected) < 100
    for shape in ((3, 2, 9), (3, 9, 2), (3, 0, 0)):
        assert len(hard_detections(torch.zeros(shape))[0]) == 0


def test_a_maximum_of_a_weaker_channel_is_no_detection():
    y, x = np.mgrid[:11, :13].astype(np.float64)

    def peak(cx, cy, height):
        return np.maximum(height - (x - cx) ** 2 - (y - cy) ** 2, 0)

    # Channel 1 peaks at (8, 5), but channel 0 is stronger there and rises further towards (6, 5).
    maps = np.stack((peak(6.2, 5.1, 30), peak(8, 5, 9), peak(3, 8, 0.0)))
    index, points = keypoints(torch.from_numpy(maps))
    assert [i.tolist() for i in index] == [[0], [5], [6]]
    np.testing.assert_allclose(points.numpy(), [[6.2, 5.1]], atol=1e-9)


def test_edges_and_banned_cells_are_left_out():
    y, x = np.mgrid[:15, :15].astype(np.float64)
    round_ = 9 - (x - 7) ** 2 - (y - 7) ** 2
    # Curvatures 2 and 2 r: the ratio of D2-Net's limit is 5.
    for ratio, passes in ((4.9, True), (5.1, False)):
        ridge = 9 - (x - 7) ** 2 - (y - 7) ** 2 / ratio
        assert len(keypoints(torch.from_numpy(np.maximum(ridge, 0))[None])[1]) == passes
    maps = torch.from_numpy(np.maximum(round_, 0))[None]
    banned = torch.zeros(15, 15, dtype=torch.bool)
    banned[7, 6] = True
    assert len(keypoints(maps, banned)[1]) == 1
    banned[7, 7] = True
    assert len(keypoints(maps, banned)[1]) == 0


def test_descriptors_are_interpolated_and_normalised():
    maps = random_maps(5, 6, 7)
    # x = 2.25 (between columns 2 and 3), y = 3.5 (between rows 3 and 4)
    column = (
        0.75 * 0.5 * maps[:, 3, 2]
        + 0.25 * 0.5 * maps[:, 3, 3]
        + 0.75 * 0.5 * maps[:, 4, 2]
        + 0.25 * 0.5 * maps[:, 4, 3]
    )
    found = describe(torch.from_numpy(maps), torch.tensor([[2.25, 3.5]], dtype=torch.float64))
    np.testing.assert_allclose(found[0].numpy(), column / np.linalg.norm(column), atol=1e-12)


def test_distinctness_against_loops():
    maps = random_maps(3, 8, 9)
    cells = [(0, 0), (1, 6), (4, 4), (7, 8)]
    expected = []
    for y, x in cells:
        padded = np.pad(maps, ((0, 0), (2, 2), (2, 2)), mode="edge")
        window = padded[:, y : y + 5, x : x + 5]
        expected.append(np.linalg.norm(maps[:, y, x] - window.mean(axis=(1, 2))))
    y, x = torch.tensor(cells).T
    found = distinctness(torch.from_numpy(maps), (torch.zeros_like(y), y, x))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_soft_detection_against_loops():
    """Equations 4 to 7; D over the map's maximum, and ones beyond the border of exp(D)."""
    maps = random_maps(2, 3, 5, 6)
    maps[0] *= 70  # the scale of the features must not matter
    b, channels, height, width = maps.shape
    alpha, beta = np.zeros_like(maps), np.zeros_like(maps)
    for i in range(b):
        raised = np.exp(maps[i] / maps[i].max())
        for k in range(channels):
            for y in range(height):
                for x in range(width):
                    total = 0.0
                    for v in (y - 1, y, y + 1):
                        for u in (x - 1, x, x + 1):
                            inside = 0 <= v < height and 0 <= u < width
                            total += raised[k, v, u] if inside else 1.0
                    alpha[i, k, y, x] = raised[k, y, x] / total
                    strongest = maps[i, :, y, x].max()
                    beta[i, k, y, x] = maps[i, k, y, x] / strongest if strongest else 0.0
    gamma = (alpha * beta).max(axis=1)
    given = torch.from_numpy(maps)
    np.testing.assert_allclose(soft_local_max(given).numpy(), alpha, atol=1e-12)
    np.testing.assert_allclose(channel_ratio(given).numpy(), beta, atol=1e-12)
    expected = gamma / gamma.sum(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(soft_scores(given).numpy(), expected, atol=1e-12)


def test_maps_without_features_give_zeros_not_nan():
    maps = torch.zeros(1, 3, 4, 5, requires_grad=True)
    scores = soft_scores(maps)
    assert torch.equal(scores, torch.zeros(1, 4, 5))
    scores.sum().backward()
    assert torch.isfinite(maps.grad).all()
    points = torch.tensor([[1.0, 2.0]])
    empty = maps.detach()[0].requires_grad_()
    loss = d2_loss((empty, empty), (points, points))["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(empty.grad).all()


# --- losses ----------------------------------------------------------------------------------------


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_distances_against_loops():
    rng = np.random.default_rng(1)
    a, b = unit(rng.normal(size=(2, 6, 4)))
    expected = [np.linalg.norm(u - v) ** 2 for u, v in zip(a, b, strict=True)]
    found = positive_distance(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)

    dense = unit(rng.normal(size=(5, 8, 4)))  # h x w x D
    matches = rng.uniform((0, 0), (7, 4), (6, 2))  # (x, y)
    matches[0] = (7.0, 1.0)  # x is beyond the rows' range: swapping x and y is caught
    expected = []
    for descriptor, (mx, my) in zip(a, matches, strict=True):
        far = [
            np.linalg.norm(descriptor - dense[y, x]) ** 2
            for y in range(5)
            for x in range(8)
            if max(abs(x - mx), abs(y - my)) > 1.5
        ]
        expected.append(min(far))
    found = hardest_negative(
        torch.from_numpy(a),
        torch.from_numpy(dense.transpose(2, 0, 1).copy()),
        torch.from_numpy(matches),
        1.5,
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_without_a_cell_far_enough_there_is_no_negative():
    dense = torch.from_numpy(unit(np.ones((3, 3, 2))).transpose(2, 0, 1).copy())
    middle = torch.ones(1, 2, dtype=torch.float64)
    found = hardest_negative(dense[:, 0, 0][None], dense, middle, 1.0)
    assert found.item() > 4
    assert margin_loss(torch.tensor([4.0], dtype=torch.float64), found).item() == 0


def test_margin_and_weighted_mean_by_hand():
    positive = torch.tensor([0.5, 0.1, 1.0])
    negative = torch.tensor([0.25, 1.6, 1.0])
    found = margin_loss(positive, negative)
    np.testing.assert_allclose(found.numpy(), [1.25, 0.0, 1.0], atol=1e-6)
    loss = weighted_mean(found, torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 1.0, 1.0]))
    assert loss.item() == pytest.approx((2 * 1.25 + 0 + 3 * 1.0) / 7)


def numpy_loss(maps, points, radius, margin):
    """Section 4.1 with loops; points are whole cells."""
    scores = [soft_scores(torch.from_numpy(m[None]))[0].numpy() for m in maps]
    dense = [unit(m.transpose(1, 2, 0)) for m in maps]
    height, width = maps[0].shape[1:]
    total = weight = 0.0
    for (ax, ay), (bx, by) in zip(*points, strict=True):
        d_a, d_b = dense[0][ay, ax], dense[1][by, bx]
        positive = np.linalg.norm(d_a - d_b)
        negative = np.inf
        for y in range(height):
            for x in range(width):
                if max(abs(x - bx), abs(y - by)) > radius:
                    negative = min(negative, np.linalg.norm(d_a - dense[1][y, x]))
                if max(abs(x - ax), abs(y - ay)) > radius:
                    negative = min(negative, np.linalg.norm(d_b - dense[0][y, x]))
        s = scores[0][ay, ax] * scores[1][by, bx]
        total += s * max(0.0, margin + positive**2 - negative**2)
        weight += s
    return total / weight


def test_the_loss_against_loops():
    maps = [random_maps(4, 7, 9, seed=s) + 0.01 for s in (0, 1)]
    rng = np.random.default_rng(2)
    points = [rng.integers(0, (9, 7), (8, 2)) for _ in range(2)]
    for radius, margin in ((1, 1.0), (3, 0.3)):
        found = d2_loss(
            tuple(torch.from_numpy(m) for m in maps),
            tuple(torch.from_numpy(p.astype(np.float64)) for p in points),
            radius,
            margin,
        )
        expected = numpy_loss(maps, points, radius, margin)
        assert found["loss"].item() == pytest.approx(expected, abs=1e-10)
    swapped = numpy_loss(maps, points[::-1], 1, 1.0)
    assert abs(swapped - numpy_loss(maps, points, 1, 1.0)) > 1e-3  # the order of images matters


def test_gradients_by_finite_differences():
    rng = np.random.default_rng(3)
    maps = [torch.from_numpy(rng.uniform(0.2, 1.0, (3, 5, 6))).requires_grad_() for _ in range(2)]
    points = tuple(torch.from_numpy(rng.uniform(0.2, 3.8, (4, 2))) for _ in range(2))

    def loss(a, b):
        return d2_loss((a, b), points, 1.0)["loss"]

    assert gradcheck(loss, maps)
    assert gradcheck(lambda m: soft_scores(m[None]), maps[:1])
    a, b = (torch.from_numpy(unit(rng.normal(size=(4, 3)))).requires_grad_() for _ in range(2))
    dense = torch.from_numpy(rng.normal(size=(3, 5, 6))).requires_grad_()
    assert gradcheck(positive_distance, (a, b))
    assert gradcheck(lambda d, f: hardest_negative(d, f, points[0], 1.0), (a, dense))
    p, n, s, t = (torch.from_numpy(rng.uniform(0.1, 1, 5)).requires_grad_() for _ in range(4))
    assert gradcheck(margin_loss, (p, n))
    assert gradcheck(weighted_mean, (p, s, t))


def test_the_weights_pull_detection_towards_what_is_told_apart():
    """A descent step raises the score of the correspondence with the smaller loss."""
    rng = np.random.default_rng(5)
    maps = [torch.from_numpy(rng.uniform(0, 1, (6, 9, 9))).requires_grad_() for _ in range(2)]
    points = torch.tensor([[2.0, 2.0], [6.0, 6.0]], dtype=torch.float64)
    values = torch.tensor([0.2, 1.5], dtype=torch.float64)

    def products(a, b):
        return torch.stack([soft_scores(m[None])[0][(2, 6), (2, 6)] for m in (a, b)])

    def share(a, b):
        s = products(a, b).prod(dim=0)
        return (s[0] / s.sum()).item()

    loss = weighted_mean(values, *products(*maps))
    loss.backward()
    moved = [(m - 0.5 * m.grad).detach() for m in maps]
    assert share(*moved) > share(*maps)
    assert len(points) == 2


# --- network ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0():
    return D2Network(load_backbone("lite0")[0]).eval()


def test_the_head_starts_as_positive_and_negative_part(lite0):
    backbone, _ = load_backbone("lite0")
    pixels = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        maps = lite0(pixels)
        stage2 = backbone.taps(backbone.normalise(pixels), ["stage2"])["stage2"]
    assert maps.shape == (1, 352, 16, 24)
    assert lite0.width == 352
    assert (lite0.grid.stride, lite0.grid.offset) == (4, 1.5)
    torch.testing.assert_close(maps[:, :24], stage2.clamp(min=0))
    torch.testing.assert_close(maps[:, 176:200], (-stage2).clamp(min=0))


def test_maps_of_several_taps_are_put_where_they_belong(lite0):
    """Cell x of stage 5 (stride 16, offset 7.5) lies at cell 4 x + 1.5 of stage 2 (stride 4, 1.5): the
    mean of cells 4 x + 1 and 4 x + 2 in each direction, when interpolation is linear."""
    backbone, _ = load_backbone("lite0")
    pixels = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(1)) * 255
    with torch.inference_mode():
        fine = lite0(pixels)
        signed = (fine[:, :176] - fine[:, 176:])[0, 64:]  # the identity of the head, undone
        stage5 = backbone.taps(backbone.normalise(pixels), ["stage5"])["stage5"][0]
    near = [signed[:, 4 * 3 + i, 4 * 2 + j] for i in (1, 2) for j in (1, 2)]
    # Linear interpolation has a kink in the cell itself: 1/16 from the neighbour on each side.
    c = stage5[:, 2:5, 1:4]
    weight = torch.tensor([1 / 16, 7 / 8, 1 / 16])
    expected = torch.einsum("cij,i,j->c", c, weight, weight)
    torch.testing.assert_close(sum(near) / 4, expected, rtol=1e-4, atol=1e-3)


def test_what_is_not_needed_is_taken_out(lite0):
    full = load_backbone("lite0")[0]
    names = set(lite0.state_dict())
    kept = {name.removeprefix("backbone.") for name in names if name.startswith("backbone.")}
    assert kept < set(full.state_dict())
    last = full.stage_ends[4]
    assert {n.split(".")[1] for n in kept if n.startswith("_blocks")} == {
        str(i) for i in range(last + 1)
    }
    assert not any(n.startswith(("_fc", "_conv_head", "_bn1")) for n in kept)
    assert "backbone._blocks.0._bn1.weight" in names


@pytest.mark.parametrize(
    ("name", "taps", "trained"),
    [
        ("lite0", None, {"head.weight", "head.bias"}),
        ("vgg16", None, {"backbone.features.21.weight", "backbone.features.21.bias"}),
    ],
)
def test_only_what_the_plan_says_is_trained(name, taps, trained):
    network = D2Network(create_backbone(name), taps)
    assert len(network.trained()) == len(trained)
    assert {n for n, p in network.named_parameters() if p.requires_grad} == trained


def test_a_single_tap_of_lite0_trains_the_layers_before_it():
    network = D2Network(create_backbone("lite0"), ["expand4"])
    network.trained()
    names = {n for n, p in network.named_parameters() if p.requires_grad}
    assert {".".join(n.split(".")[1:3]) for n in names} == {"_blocks.3", "_blocks.4", "_blocks.5"}
    assert "backbone._blocks.5._expand_conv.weight" in names
    assert network.width == 240
    assert network.grid.stride == 8


@pytest.mark.parametrize(
    ("name", "width", "offset"),
    [("vgg16", 512, 3.5), ("resnet50", 512, 0.0), ("resnet101", 512, 0.0)],
)
def test_other_backbones(name, width, offset, texture):
    """Random weights: finer cells in use, the same parameters in training and use."""
    torch.manual_seed(0)
    training = D2Network(create_backbone(name)).eval()
    network = D2Network(create_backbone(name), stride=STRIDE)
    assert (training.grid.stride, network.grid.stride) == (8, 4)
    assert network.grid.offset == offset
    network.load_state_dict(training.state_dict())
    extractor = D2Net(network, "0" * 64)
    features = extractor.extract(texture((160, 120))).features
    assert features.descriptors.shape == (len(features), width)
    assert len(features) > 10
    trained = {n for n, p in training.named_parameters() if p.requires_grad}
    assert trained  # before `trained` everything is


def test_a_checkpoint_with_torchvisions_names_loads(tmp_path, texture):
    torch.manual_seed(0)
    tensors = create_backbone("vgg16").state_dict()
    tensors |= {"classifier.0.weight": torch.zeros(2, 2)}
    torch.save(tensors, tmp_path / "vgg16.pth")
    extractor = D2Net.from_pretrained(backbone="vgg16", backbone_weights=tmp_path / "vgg16.pth")
    assert extractor.info.local_dim == 512
    assert extractor.info.settings["taps"] == ["conv4_3"]
    assert len(extractor.extract(texture((128, 96))).features) > 5
    with pytest.raises(WeightsError, match="vgg16 comes without weights"):
        D2Net.from_pretrained(backbone="vgg16")


def test_wrong_networks_are_refused():
    with pytest.raises(UnknownNameError, match=r"stage9.*expand4"):
        D2Network(create_backbone("lite0"), ["stage2", "stage9"])
    for taps, stride in (((), 4), (("stage2",), 3), (("stage2",), 0)):
        with pytest.raises(InputError, match="needs taps and a stride"):
            D2Network(create_backbone("lite0"), taps, stride)
    with pytest.raises(InputError, match="max_keypoints and max_side"):
        D2Net(D2Network(create_backbone("lite0")), "", max_keypoints=0)
    assert set(PLANS) == {"lite0", "resnet50", "resnet101", "vgg16"}


# --- extractor -------------------------------------------------------------------------------------


def test_contract(d2net, texture):
    assert isinstance(d2net, Extractor)
    pixels = texture((300, 200), seed=3)
    features = d2net.extract(pixels, (600, 400)).features
    assert features.image_size == (600, 400)
    assert features.descriptors.shape == (len(features), 352)
    assert np.all(np.diff(features.scores) <= 0)
    assert features.keypoints.max(axis=0)[0] > 450
    again = d2net.extract(pixels, (600, 400)).features
    for name in ("keypoints", "scores", "descriptors"):
        assert getattr(features, name).tobytes() == getattr(again, name).tobytes()
    few = D2Net(d2net._network, "", max_keypoints=17).extract(pixels, (600, 400)).features
    np.testing.assert_array_equal(few.keypoints, features.keypoints[:17])


@pytest.mark.parametrize("multiscale", [False, True])
def test_tiny_and_flat_images(d2net, multiscale):
    extractor = D2Net(d2net._network, "", multiscale=multiscale)
    rng = np.random.default_rng(0)
    for shape in ((1, 3), (3, 1), (16, 16), (5, 300), (33, 65)):
        extractor.extract(rng.integers(0, 256, (*shape, 3), np.uint8))
    for shape in ((32, 32), (120, 160), (33, 700)):
        assert len(extractor.extract(np.full((*shape, 3), 90, np.uint8)).features) == 0
    # Noise of one grey level is flat too.
    noise = rng.integers(90, 92, (120, 160, 3)).astype(np.uint8)
    assert len(extractor.extract(noise).features) == 0


def dots(places, size=(320, 256)):
    """A grey image with soft white dots at known places (x, y)."""
    y, x = np.mgrid[: size[1], : size[0]]
    grey = np.full((size[1], size[0]), 60.0)
    for px, py in places:
        grey += 150 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 4.0**2))
    return np.repeat(np.clip(np.rint(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def shifted_error(extractor, texture, shift):
    """Median of (where features of a shifted image were found - where they belong), matched by
    descriptor, those within 8 pixels."""
    pixels = texture((480, 400), seed=4)
    dx, dy = shift
    a = extractor.extract(pixels[20:340, 20:420]).features
    b = extractor.extract(pixels[20 - dy : 340 - dy, 20 - dx : 420 - dx]).features
    pairs = match_mutual(a.descriptors, b.descriptors)
    error = b.keypoints[pairs[:, 1]] - a.keypoints[pairs[:, 0]] - (dx, dy)
    near = np.linalg.norm(error, axis=1) < 8
    return (
        np.median(error[near], axis=0),
        np.median(np.linalg.norm(error[near], axis=1)),
        near.sum(),
    )


@pytest.mark.parametrize("shift", [(8, 4), (3, -5)])
def test_features_move_with_the_image(d2net, texture, shift):
    bias, error, count = shifted_error(d2net, texture, shift)
    assert count > 100
    assert np.abs(bias).max() < 0.6
    assert error < 2.0
    assert error < 0.01 or shift == (3, -5)  # by whole cells of stage 2 nothing else changes much


@pytest.mark.parametrize("degrees", [1, 2])
def test_features_turn_with_the_image(d2net, degrees):
    """Dots at known places, seen upright and turned by 180 degrees (an offset that is wrong by half a
    cell shows twice)."""
    rng = np.random.default_rng(1)
    places = np.array([(x, y) for x in range(40, 300, 48) for y in range(40, 230, 48)], np.float64)
    places += rng.uniform(-6, 6, places.shape)
    plain = D2Net(d2net._network, "", corner_distance=0)  # a dot is no corner
    upright = dots(places)
    turned = np.rot90(upright, degrees).copy()
    errors = []
    for pixels, image in ((upright, 0), (turned, degrees)):
        found = plain.extract(pixels).features.keypoints
        width, height = upright.shape[1], upright.shape[0]
        back = found
        if image == 1:  # counter-clockwise: (x, y) of the turned image is (width - 1 - y, x)
            back = np.c_[width - 1 - found[:, 1], found[:, 0]]
        elif image == 2:
            back = (width - 1, height - 1) - found
        distance = np.linalg.norm(places[:, None] - back[None], axis=2)
        near = distance.argmin(axis=1)
        ok = distance.min(axis=1) < 8
        assert ok.mean() > 0.8
        errors.append(np.median((back[near] - places)[ok], axis=0))
    assert np.abs(errors).max() < 2.0


def test_features_keep_their_place_when_the_image_is_shrunk(d2net, texture):
    pixels = cv2.GaussianBlur(texture((800, 640), seed=5), (0, 0), 2)
    full = D2Net(d2net._network, "", max_side=800).extract(pixels).features
    small = D2Net(d2net._network, "", max_side=400).extract(pixels).features
    pairs = match_mutual(full.descriptors, small.descriptors)
    shift = small.keypoints[pairs[:, 1]] - full.keypoints[pairs[:, 0]]
    near = np.linalg.norm(shift, axis=1) < 12
    assert near.sum() > 50
    assert np.abs(np.median(shift[near], axis=0)).max() < 1.0


def test_a_known_homography_is_found_again(d2net, texture):
    pixels = texture((480, 400), seed=6)
    b_from_a = np.array([[0.95, 0.08, 12.0], [-0.06, 1.02, 9.0], [1e-4, -5e-5, 1.0]])
    warped = cv2.warpPerspective(pixels, b_from_a, (480, 400), borderMode=cv2.BORDER_REFLECT)
    a, b = d2net.extract(pixels).features, d2net.extract(warped).features
    pairs = match_mutual(a.descriptors, b.descriptors)
    there = apply_homography(b_from_a, a.keypoints[pairs[:, 0]])
    error = np.linalg.norm(there - b.keypoints[pairs[:, 1]], axis=1)
    backwards = apply_homography(np.linalg.inv(b_from_a), a.keypoints[pairs[:, 0]])
    wrong = np.linalg.norm(backwards - b.keypoints[pairs[:, 1]], axis=1)
    assert np.mean(error < 4) > 0.5
    assert np.mean(wrong < 4) < 0.1


@pytest.mark.parametrize("size", [(320, 256), (322, 250), (334, 262)])
def test_the_pyramid_begins_with_half_the_size_and_bans_its_cells(d2net, texture, size):
    """Also where a level has not twice the cells of the one before."""
    pixels = texture(size, seed=7)
    half = cv2.resize(pixels, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA)
    plain = D2Net(d2net._network, "", corner_distance=0)
    first = plain.extract(half, size).features
    many = D2Net(d2net._network, "", multiscale=True, corner_distance=0, max_keypoints=10_000)
    assert many.info.settings["multiscale"] is True
    found = many.extract(pixels).features
    place = {tuple(p): i for i, p in enumerate(found.keypoints.round(3))}
    here = [place.get(tuple(p)) for p in first.keypoints.round(3)]
    assert len(first) > 100
    assert None not in here
    np.testing.assert_array_equal(found.scores[here], first.scores)
    np.testing.assert_array_equal(found.descriptors[here], first.descriptors)
    # Cells of the coarsest level are 8 pixels wide; everyone has its cell, by rounding, to itself.
    taken = {tuple(c) for c in np.floor((first.keypoints + 0.5) / 8).astype(int)}
    others = np.delete(found.keypoints, here, axis=0)
    assert len(others) > 100
    for point in others:
        cells = {
            tuple(np.floor((np.floor((point + 0.5) / s) + 0.5) * s / 8).astype(int)) for s in (2, 4)
        }
        assert not cells <= taken


def test_the_second_level_is_the_sum_of_both(d2net, texture):
    """Cell x of full size lies at cell x / 2 - 1/4 of half size: OpenCV's resize by two."""
    pixels = texture((320, 256), seed=8)
    half = cv2.resize(pixels, (160, 128), interpolation=cv2.INTER_AREA)
    network = d2net._network
    with torch.inference_mode():
        coarse, fine = (
            network(torch.from_numpy(p).permute(2, 0, 1)[None].float())[0] for p in (half, pixels)
        )
    raised = np.stack([cv2.resize(m, (80, 64)) for m in coarse.numpy()])
    first = D2Net(network, "", corner_distance=0).extract(half, (320, 256)).features
    both = D2Net(network, "", multiscale=True, corner_distance=0, max_keypoints=10_000)
    both._scales = (0.5, 1.0)
    found = both.extract(pixels).features
    old = {tuple(p) for p in first.keypoints.round(3)}
    new = [i for i, p in enumerate(found.keypoints.round(3)) if tuple(p) not in old]
    assert len(new) > 100
    total = fine + torch.from_numpy(raised)
    places = torch.from_numpy((found.keypoints[new] - 1.5) / 4)
    expected = describe(total, places).numpy()
    np.testing.assert_allclose(found.descriptors[new], expected, atol=2e-3)
    x, y = places.round().long().T
    scores = distinctness(total, (torch.zeros_like(x), y, x)) / 2
    np.testing.assert_allclose(found.scores[new], scores.numpy(), rtol=2e-3)


def test_the_pyramid_has_no_offset(d2net, texture):
    many = D2Net(d2net._network, "", multiscale=True, corner_distance=0, max_keypoints=3000)
    bias, error, count = shifted_error(many, texture, (8, 16))
    assert count > 100
    assert np.abs(bias).max() < 0.5
    assert error < 1.5


def test_weights_come_back(tmp_path, texture, caplog):
    torch.manual_seed(0)
    network = D2Network(create_backbone("lite0"), ["expand4"])
    record = Record("d2net", {"backbone": "lite0", "taps": ["expand4"]})
    digest = save_weights(tmp_path / "w.safetensors", network.state_dict(), record)
    pixels = texture((160, 128))
    with caplog.at_level(logging.WARNING, "locate"):
        loaded = D2Net.from_pretrained(tmp_path / "w.safetensors")
    assert not caplog.records
    assert loaded.info.weights == digest
    assert loaded.info.settings["taps"] == ["expand4"]
    same = D2Network(create_backbone("lite0"), ["expand4"], STRIDE)
    same.load_state_dict(network.state_dict())
    expected = D2Net(same, digest).extract(pixels).features
    found = loaded.extract(pixels).features
    assert len(found) > 0
    np.testing.assert_array_equal(found.keypoints, expected.keypoints)
    np.testing.assert_array_equal(found.descriptors, expected.descriptors)

    other = Record("d2net", {"backbone": "lite0", "taps": ["stage2", "stage5"]})
    save_weights(tmp_path / "o.safetensors", network.state_dict(), other)
    with pytest.raises(WeightsError, match="does not fit its network"):
        D2Net.from_pretrained(tmp_path / "o.safetensors")
    save_weights(tmp_path / "x.safetensors", network.state_dict(), Record("delf"))
    with pytest.raises(WeightsError, match="weights of delf, not of d2net"):
        D2Net.from_pretrained(tmp_path / "x.safetensors")


def test_the_untrained_start_says_so(caplog):
    with caplog.at_level(logging.WARNING, "locate"):
        D2Net.from_pretrained(backbone="lite0")
    assert "locate train d2net" in caplog.text
