"""UR2KiD: group responses, detection, pyramid, geometry, the extractor's contract, weights files."""

from __future__ import annotations

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn import functional

from locate.errors import InputError, UnknownNameError, WeightsError
from locate.extractors.backbones.base import Backbone
from locate.extractors.backbones.registry import create_backbone
from locate.extractors.base import Extractor, ExtractorInfo
from locate.extractors.blocks.detection import resize_image, to_input
from locate.extractors.blocks.grids import Grid, resample, sample
from locate.extractors.ur2kid import network as network_module
from locate.extractors.ur2kid.detection import group_responses, keypoints
from locate.extractors.ur2kid.extractor import (
    UR2KiD,
    build,
    network_settings,
    start,
    trained_tensors,
)
from locate.extractors.ur2kid.network import Plan, Pyramid, UR2KiDNetwork, natural_noise
from locate.extractors.weights import Record, save_weights
from locate.matching.descriptors import match_mutual
from locate.pixels import resize_points

pytestmark = pytest.mark.usefixtures("float32")  # compared digit by digit


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- detection --------------------------------------------------------------------------------------


def test_group_responses_are_lengths_of_channel_groups_without_the_remainder():
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(11, 4, 5))
    found = group_responses(torch.from_numpy(maps), 3).numpy()
    assert found.shape == (3, 4, 5)
    for g in range(1, 4):
        for y in range(4):
            for x in range(5):
                first, last = (g - 1) * (11 // 3) + 1, g * (11 // 3)  # counted from 1
                length = math.sqrt(sum(maps[k - 1, y, x] ** 2 for k in range(first, last + 1)))
                assert found[g - 1, y, x] == pytest.approx(length)
    batch = torch.from_numpy(np.stack([maps, 2 * maps]))
    np.testing.assert_allclose(group_responses(batch, 3)[1].numpy(), 2 * found)


def hill(x, y, height=1.0, sigma=1.3, shape=(24, 32), stretch=1.0):
    rows, columns = torch.meshgrid(
        torch.arange(shape[0], dtype=torch.float64),
        torch.arange(shape[1], dtype=torch.float64),
        indexing="ij",
    )
    squared = ((columns - x) / stretch) ** 2 + (rows - y) ** 2
    return height * torch.exp(-squared / (2 * sigma**2))


def test_hills_are_found_where_they_are_and_edges_are_not():
    first = hill(8.3, 6.8) + hill(20.0, 15.0, height=0.7)
    second = hill(25.2, 4.9, height=50.0) + hill(10.0, 18.0, height=50.0, stretch=6.0)  # a ridge
    points, scores = keypoints(torch.stack((first, second)))
    found = sorted(points.tolist())
    assert len(found) == 3
    for (x, y), true in zip(found, [(8.3, 6.8), (20.0, 15.0), (25.2, 4.9)], strict=True):
        assert x == pytest.approx(true[0], abs=0.06)
        assert y == pytest.approx(true[1], abs=0.06)
    assert torch.all(scores[:-1] >= scores[1:])


def test_responses_must_stand_out_from_their_own_group():
    strong = hill(8.0, 8.0, height=1.0) + hill(22.0, 12.0, height=0.05)
    weak = 1e-3 * hill(16.0, 5.0)
    points, scores = keypoints(torch.stack((strong, weak)), strictness=1.0)
    assert sorted(points.round().tolist()) == [[8.0, 8.0], [16.0, 5.0]]
    for group, (x, y) in ((strong, (8, 8)), (weak, (16, 5))):
        expected = (group[y, x] - group.mean()) / group.std()
        assert min(abs(scores - expected)) < 1e-9
    assert len(keypoints(torch.stack((strong, weak)), strictness=-9.0)[0]) == 3


def test_of_neighbours_in_two_groups_the_one_that_stands_out_more_is_kept():
    # The second group's values are a hundred times larger, but they stand out less.
    first = hill(10.0, 10.0, sigma=1.0)
    second = 100 * (hill(10.6, 10.0, sigma=1.0) + 0.9 * hill(25.0, 18.0) + 0.9 * hill(24.0, 5.0))
    points, _ = keypoints(torch.stack((first, second)))
    assert sorted(points.round(decimals=1).tolist()) == [[10.0, 10.0], [24.0, 5.0], [25.0, 18.0]]
    apart, _ = keypoints(torch.stack((first, second)), merge=0.3)
    assert len(apart) == 4


@pytest.mark.parametrize("shape", [(2, 2), (1, 9), (3, 3), (12, 12)])
def test_nothing_is_found_on_flat_or_tiny_maps(shape):
    assert len(keypoints(torch.full((2, *shape), 3.0))[0]) == 0


# --- network ----------------------------------------------------------------------------------------


class FakeBackbone(Backbone):
    """Averages of 4 and 8 pixels, exactly on their grids, which are not the same."""

    widths: ClassVar = {"fine": 3, "coarse": 4}

    def __init__(self, shift=0.0):
        super().__init__()
        self.name = "fake"
        self.strides = {"fine": 4, "coarse": 8}
        self._shift = shift
        self.anything = torch.nn.Parameter(torch.zeros(1))

    def normalise(self, pixels):
        return pixels / 255

    def grid(self, tap):
        stride = self.strides[tap]
        return Grid(stride, (stride - 1) / 2 + self._shift * (tap == "coarse"))

    def taps(self, x, names=None):
        fine = functional.avg_pool2d(x, 4)
        coarse = functional.avg_pool2d(x, 8)
        return {"fine": fine, "coarse": torch.cat((coarse, coarse[:, :1] ** 2), dim=1)}

    def dilate(self, stride):
        raise NotImplementedError


@pytest.fixture
def fake_plan(monkeypatch):
    levels = {"fine": 1.0, "coarse": 0.5}
    plan = Plan(levels, 0, levels, {"coarse": 1.0}, 3.0)
    monkeypatch.setitem(network_module.PLANS, "fake", plan)
    return plan


@pytest.fixture(scope="module")
def lite0():
    return start()[0]


@pytest.mark.parametrize("part", ["pyramid", "fine"])
def test_the_start_keeps_the_inner_products_of_the_levels(lite0, part):
    pyramid = getattr(lite0, part)
    pixels = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        taps = lite0.taps(pixels)
        maps = pyramid(taps)[0].flatten(1).double()
        levels = []
        for k, name in enumerate(pyramid.names):
            level = taps[name] * pyramid.gains[k]
            for finer in range(k - 1, -1, -1):  # step by step, as 32 -> 16 -> 8 -> 4
                height, width = taps[pyramid.names[finer]].shape[-2:]
                grids = [lite0.backbone.grid(pyramid.names[i]) for i in (finer + 1, finer)]
                level = resample(level, *grids, (height, width))
            levels.append(level[0].flatten(1).double())
    expected = sum(level.T @ level for level in levels)
    np.testing.assert_allclose((maps.T @ maps).numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 5, 8])
def test_every_level_is_dealt_out_to_all_groups(groups):
    backbone = create_backbone("lite0")
    pyramid = Pyramid(backbone, {"stage1": 1.0, "stage3": 1.0, "stage5": 1.0}, 0, groups)
    size = pyramid.width // groups
    taken = sum((lateral.weight[:, :, 0, 0] != 0).sum(dim=1) for lateral in pyramid.laterals)
    assert torch.all(taken == 1)  # no channel is shared
    for lateral in pyramid.laterals:
        used = (lateral.weight != 0).sum(dim=(1, 2, 3))
        per_group = used[: size * groups].reshape(groups, size).sum(dim=1)
        assert per_group.max() - per_group.min() <= 1


def test_the_short_descriptor_starts_as_a_projection(lite0):
    weight = lite0.reduce.weight.detach()[:, :, 0, 0].double()
    np.testing.assert_allclose((weight @ weight.T).numpy(), np.eye(lite0.dim), atol=1e-5)


def test_balance_gives_every_level_its_length(lite0):
    plan = network_module.PLANS["lite0"]
    with torch.no_grad():
        taps = lite0.taps(natural_noise())
    for pyramid, lengths in ((lite0.pyramid, plan.levels), (lite0.fine, plan.fine)):
        for (name, length), gain in zip(lengths.items(), pyramid.gains, strict=True):
            assert float((taps[name] * gain).norm(dim=1).mean()) == pytest.approx(length, rel=1e-4)


def test_the_short_map_is_the_projection_of_the_long_one_with_and_without_dropout(lite0):
    """Projecting at each level's own resolution is the same, as all is linear; the bias counts once."""
    torch.manual_seed(0)
    network = build(network_settings(lite0))
    network.load_state_dict(lite0.state_dict())
    network.reduce.bias.data.normal_()
    for lateral in network.pyramid.laterals:
        lateral.bias.data.normal_()
        lateral.weight.data += 0.02 * torch.randn_like(lateral.weight)
    pixels = torch.rand(2, 3, 64, 64) * 255
    with torch.no_grad():
        taps = network.taps(pixels)
        long = network.pyramid(taps)
        kept = network.concepts()
        for factor in (None, kept):
            scaled = long if factor is None else long * factor[:, None, None]
            expected = network.reduce(scaled)
            np.testing.assert_allclose(
                network.low(taps, factor).numpy(), expected.numpy(), atol=2e-4
            )


@pytest.mark.parametrize("backbone", ["lite0", "resnet50"])
@pytest.mark.parametrize("stride", [4, 8])
def test_descriptors_at_points_are_those_of_the_whole_map(backbone, stride):
    """Also beyond the first and the last cells, where the border's value counts."""
    torch.manual_seed(0)
    network = UR2KiDNetwork(create_backbone(backbone), stride=stride).eval()
    network.reduce.bias.data.normal_(std=0.01)
    for lateral in network.pyramid.laterals:
        lateral.bias.data.normal_(std=0.01)
    points = torch.rand(200, 2) * torch.tensor([110.0, 78.0]) - 7
    with torch.no_grad():
        network.balance()
        taps = network.taps(natural_noise(96)[:, :, :64])
        dense = network.pyramid(taps).double()
        at = network.pyramid.grid.to_map(points).double()
        weight = network.reduce.weight[:, :, 0, 0].double()
        columns = sample(dense, at[None])[0] @ weight.T + network.reduce.bias.double()
        expected = functional.normalize(columns, dim=1)
        found = network.describe(taps, points)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=2e-6)


def test_concepts_are_dropped_by_chance_and_the_mean_stays(lite0):
    torch.manual_seed(0)
    kept = torch.stack([lite0.concepts() for _ in range(40)])
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.05)
    assert not torch.equal(kept[0], kept[1])
    torch.manual_seed(0)
    assert torch.equal(kept[0], lite0.concepts())


def test_the_global_vector_joins_weighted_means(lite0):
    pixels = natural_noise(64)
    with torch.no_grad():
        taps = lite0.taps(pixels)
        found = lite0.global_vector(lite0.to_pool(taps))[0].double().numpy()
    parts = []
    for tap, share in network_module.PLANS["lite0"].pooled.items():
        values = np.maximum(taps[tap][0].double().numpy(), 1e-6)
        pooled = (values**2).mean(axis=(1, 2)) ** 0.5
        parts.append(share * pooled / np.linalg.norm(pooled))
    joined = np.concatenate(parts)
    np.testing.assert_allclose(found, joined / np.linalg.norm(joined), atol=1e-6)
    assert len(found) == lite0.global_dim == lite0.pooled_width


def test_the_local_map_can_be_pooled_too():
    network = UR2KiDNetwork(create_backbone("lite0"), local_share=0.3, global_dim=32).eval()
    assert network.pooled_width == 1280 + 320 + 112 + 40 + network.pyramid.width
    with torch.no_grad():
        maps = network.to_pool(network.taps(natural_noise(64)))
        assert torch.equal(maps["local"], network.pyramid(network.taps(natural_noise(64))))
        vector = network.global_vector(maps)
    assert vector.shape == (1, 32)
    assert float(vector.norm()) == pytest.approx(1.0, abs=1e-5)


def test_settings_that_make_no_sense():
    with pytest.raises(UnknownNameError, match="vgg16"):
        UR2KiDNetwork(create_backbone("vgg16"))
    for bad in ({"stride": 2}, {"dropout": 1.0}, {"groups": 0}, {"dim": 10_000}, {"groups": 41}):
        with pytest.raises(InputError):
            UR2KiDNetwork(create_backbone("lite0"), **bad)


# --- geometry ---------------------------------------------------------------------------------------


def dots(places, size=(160, 128), sigma=5.0):
    """Soft white dots on black, H x W x 3 uint8."""
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    image = np.zeros((size[1], size[0]))
    for x, y in places:
        image += np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat(np.clip(255 * image, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


PLACES = [(40.0, 37.0), (101.0, 38.0), (66.0, 90.0), (123.0, 91.0)]


def offset_of(extractor, size=None):
    """The median of (found - true) over the dots, along x and y."""
    image = dots(PLACES)
    features = extractor.extract(image, size).features
    true = np.array(PLACES)
    if size is not None:
        true = resize_points(true, (160, 128), size)
    errors = []
    for place in true:
        distance = np.linalg.norm(features.keypoints - place, axis=1)
        errors.append(features.keypoints[distance.argmin()] - place)
    return np.median(errors, axis=0)


def test_places_are_exact_whatever_the_grids_are(fake_plan):
    extractor = UR2KiD(UR2KiDNetwork(FakeBackbone(), dim=7, groups=2), "-", corner_distance=0)
    assert np.abs(offset_of(extractor)).max() < 0.15
    twice = offset_of(extractor, (320, 256))  # pixels are a copy reduced by two
    assert np.abs(twice).max() < 0.3
    wrong = UR2KiD(UR2KiDNetwork(FakeBackbone(shift=4.0), dim=7, groups=2), "-", corner_distance=0)
    assert np.abs(offset_of(wrong)).max() > 0.3  # half a coarse cell is noticed


@pytest.mark.parametrize("wrong", [-1.5, 0.0, 1.5])
def test_the_trained_backbone_finds_the_same_places_in_a_mirror(lite0, texture, wrong):
    """Places that are b too far right come out 2 b apart when the image is mirrored: 1.5 px, less than
    half a cell of F, are noticed."""
    image = texture((224, 160), seed=8)
    extractor = UR2KiD(lite0, "-")
    a = extractor.extract(image).features.keypoints + np.float32(wrong)
    b = extractor.extract(np.ascontiguousarray(image[:, ::-1])).features.keypoints
    b = b + np.float32(wrong)
    b[:, 0] = 223 - b[:, 0]
    apart = (a[:, None] - b[None]).reshape(-1, 2)
    apart = apart[np.abs(apart[:, 1]) < 1.5, 0]
    shifts = np.arange(-6, 6.1, 0.5)
    coincide = [(np.abs(apart - shift) < 1.5).sum() for shift in shifts]
    bias = shifts[np.argmax(coincide)] / 2
    assert (abs(bias) < 0.75) == (wrong == 0)


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0)])
def test_features_follow_the_image(lite0, texture, scales):
    """A window moved by (dx, dy): the same features, moved by as much."""
    big = texture((288, 256), seed=5)
    extractor = UR2KiD(lite0, "-", scales=scales, max_keypoints=300)
    dx, dy = 13, 6
    a = extractor.extract(big[:192, :224]).features
    b = extractor.extract(big[dy : dy + 192, dx : dx + 224]).features
    matches = match_mutual(a.descriptors, b.descriptors)
    moved = b.keypoints[matches[:, 1]] - a.keypoints[matches[:, 0]]
    errors = np.linalg.norm(moved - (-dx, -dy), axis=1)
    assert np.median(errors) < 1.5
    assert (errors < 3).sum() > 40


def test_every_scale_of_the_pyramid_is_what_it_is_alone(lite0, texture):
    """Half, full and double size together are three looks at one size each, brought to one image and
    merged; and each of the three finds something in all four quarters of it."""
    width, height = 208, 150
    pixels = texture((width, height), seed=9)
    together = UR2KiD(lite0, "-", scales=(0.5, 1.0, 2.0), max_keypoints=10_000)
    together = together.extract(pixels).features
    alone = UR2KiD(lite0, "-", scales=(1.0,), max_keypoints=10_000)
    points, scores, descriptors, scales = [], [], [], []
    for scale in (0.5, 1.0, 2.0):
        level = (round(scale * width), round(scale * height))
        seen = alone.extract(resize_image(pixels, level)).features
        points.append((seen.keypoints.astype(np.float64) + 0.5) / scale - 0.5)
        scores.append(seen.scores)
        descriptors.append(seen.descriptors)
        scales.append(np.full(len(seen), scale))
    points, scores, descriptors, scales = map(np.concatenate, (points, scores, descriptors, scales))
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if all(np.hypot(*(points[i] - points[j])) > lite0.pyramid.grid.stride for j in kept):
            kept.append(i)
    np.testing.assert_allclose(together.keypoints, points[kept], atol=1e-3)
    np.testing.assert_allclose(together.scores, scores[kept], atol=1e-4)
    np.testing.assert_allclose(together.descriptors, descriptors[kept], atol=1e-4)
    for scale in (0.5, 1.0, 2.0):
        quarters = {(x > width / 2, y > height / 2) for x, y in points[kept][scales[kept] == scale]}
        assert len(quarters) == 4, scale


# --- extractor --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def extractor(lite0):
    return UR2KiD(lite0, "-")


def test_contract(extractor, texture):
    assert isinstance(extractor, Extractor)
    info = extractor.info
    assert ExtractorInfo.from_json(info.to_json()) == info
    pixels = texture((300, 200), seed=3)
    seen = extractor.extract(pixels, (600, 400))
    features = seen.features
    assert len(features) > 50
    assert features.image_size == (600, 400)
    assert features.descriptors.shape == (len(features), info.local_dim)
    assert features.descriptors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)
    assert np.all(np.diff(features.scores) <= 0)
    assert np.all(features.keypoints > -0.5)
    assert np.all(features.keypoints < (599.5, 399.5))
    assert features.keypoints[:, 0].max() > 500
    assert seen.global_descriptor.shape == (info.global_dim,)
    assert np.linalg.norm(seen.global_descriptor) == pytest.approx(1, abs=1e-5)
    with ThreadPoolExecutor(3) as pool:
        for again in pool.map(lambda _: extractor.extract(pixels, (600, 400)), range(3)):
            assert again.features.keypoints.tobytes() == features.keypoints.tobytes()
            assert again.features.descriptors.tobytes() == features.descriptors.tobytes()
            assert again.global_descriptor.tobytes() == seen.global_descriptor.tobytes()
    alone = extractor.extract(pixels, (600, 400), local=False)
    assert alone.features is None
    assert alone.global_descriptor.tobytes() == seen.global_descriptor.tobytes()


def test_the_global_vector_does_not_see_what_fills_the_last_cells(lite0, extractor, texture):
    """202 px are 6.3 cells of 32: the seventh has its centre on what was added."""
    image = texture((202, 192), seed=4)
    with torch.no_grad():
        maps = lite0.to_pool(lite0.taps(to_input(image, torch.device("cpu"))))
        seen = {"stage3": 25, "stage5": 13, "stage7": 6, "head": 6}  # columns
        cropped = {name: maps[name][..., : seen[name]] for name in maps}
        right = lite0.global_vector(cropped)[0].numpy()
        all_ = lite0.global_vector(maps)[0].numpy()
    found = extractor.extract(image, local=False).global_descriptor
    np.testing.assert_allclose(found, right, atol=1e-6)
    assert np.abs(found - all_).max() > 1e-4


def test_the_best_are_kept(lite0, texture):
    pixels = texture((200, 160), seed=1)
    many = UR2KiD(lite0, "-").extract(pixels).features
    few = UR2KiD(lite0, "-", max_keypoints=30).extract(pixels).features
    assert len(few) == 30 < len(many)
    np.testing.assert_array_equal(few.keypoints, many.keypoints[:30])
    np.testing.assert_allclose(few.descriptors, many.descriptors[:30], atol=1e-6)
    strict = UR2KiD(lite0, "-", strictness=2.0).extract(pixels).features
    assert len(strict) < len(many)
    assert strict.scores.min() > 2 > many.scores.min() > 1
    with pytest.raises(InputError, match="max_keypoints"):
        UR2KiD(lite0, "-", max_keypoints=0)


def test_large_images_are_shrunk(lite0, texture):
    extractor = UR2KiD(lite0, "-", max_side=160)
    features = extractor.extract(texture((320, 240), seed=2)).features
    assert features.image_size == (320, 240)
    assert features.keypoints[:, 0].max() > 280


@pytest.mark.parametrize("size", [(1, 3), (16, 16), (33, 5), (300, 1)])
def test_tiny_images(extractor, size):
    width, height = size
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    seen = extractor.extract(pixels)
    assert len(seen.features) < 40
    assert seen.features.descriptors.shape[1] == extractor.info.local_dim
    assert np.isfinite(seen.global_descriptor).all()


def test_flat_images_give_few_features(extractor):
    assert len(extractor.extract(np.full((200, 240, 3), 128, np.uint8)).features) < 60


def test_settings_change_the_fingerprint(lite0):
    infos = [
        UR2KiD(lite0, "-").info,
        UR2KiD(lite0, "x").info,
        UR2KiD(lite0, "-", scales=(1.0,)).info,
        UR2KiD(lite0, "-", strictness=0.5).info,
    ]
    assert len({info.fingerprint for info in infos}) == len(infos)


def test_weights_round_trip(tmp_path, texture):
    network, _ = start(dim=32, global_dim=48)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape) * parameter.abs().mean())
    file = tmp_path / "ur2kid.safetensors"
    record = Record(system="ur2kid", settings=network_settings(network))
    digest = save_weights(file, trained_tensors(network), record)
    pixels = texture((160, 128))
    before = UR2KiD(network, digest).extract(pixels)
    again = UR2KiD.from_pretrained(file)
    assert again.info == UR2KiD(network, digest).info
    after = again.extract(pixels)
    assert after.features.keypoints.tobytes() == before.features.keypoints.tobytes()
    assert after.features.descriptors.tobytes() == before.features.descriptors.tobytes()
    assert after.global_descriptor.tobytes() == before.global_descriptor.tobytes()
    assert not any("_fc" in name for name in trained_tensors(network))


def test_weights_that_do_not_fit(tmp_path):
    network = UR2KiDNetwork(create_backbone("lite0"), dim=32)
    tensors = trained_tensors(network)
    file = tmp_path / "w"
    settings = network_settings(network)
    save_weights(file, tensors, Record(system="d2net", settings=settings))
    with pytest.raises(WeightsError, match="d2net"):
        UR2KiD.from_pretrained(file)
    save_weights(file, tensors, Record(system="ur2kid", settings={**settings, "dim": 64}))
    with pytest.raises(WeightsError, match=r"reduce\.weight"):
        UR2KiD.from_pretrained(file)
    tensors.pop("fine.gains")
    save_weights(file, tensors, Record(system="ur2kid", settings=settings))
    with pytest.raises(WeightsError, match=r"fine\.gains"):
        UR2KiD.from_pretrained(file)


def test_the_untrained_start_says_so_and_is_the_same_every_time(caplog, lite0):
    with caplog.at_level(logging.WARNING, "locate"):
        extractor = UR2KiD.from_pretrained(backbone="lite0", max_keypoints=10)
    assert "untrained" in caplog.text
    assert len(extractor.info.weights) == 64
    state = extractor._network.state_dict()  # less the normalisations, which are fused in
    kept = {name: value for name, value in lite0.state_dict().items() if "backbone" not in name}
    assert len(kept) > 10
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    assert extractor.info == UR2KiD(lite0, extractor.info.weights, max_keypoints=10).info


def test_resnet_builds_loads_torchvisions_names_and_runs(tmp_path, texture):
    torch.manual_seed(0)
    published = tmp_path / "resnet50-fake.pth"
    torch.save(create_backbone("resnet50").state_dict(), published)
    with pytest.raises(WeightsError, match="--backbone-weights"):
        UR2KiD.from_pretrained(backbone="resnet50")
    extractor = UR2KiD.from_pretrained(backbone="resnet50", backbone_weights=published)
    seen = extractor.extract(texture((96, 64)))
    assert seen.global_descriptor.shape == (512 + 1024 + 2048,)
    assert seen.features.descriptors.shape[1] == 128
    assert extractor.info.settings["backbone"] == "resnet50"
    lateral = extractor._network.pyramid.laterals[3].weight[:, :, 0, 0].double()  # 1024 x 2048
    np.testing.assert_allclose((lateral @ lateral.T).numpy(), np.eye(1024), atol=1e-5)
    level = (
        extractor._network.pyramid.laterals[1].weight[:, :, 0, 0].double()
    )  # 1024 x 512: an isometry
    np.testing.assert_allclose((level.T @ level).numpy(), np.eye(512), atol=1e-5)


def test_stride_8_leaves_the_finest_level_out():
    network = UR2KiDNetwork(create_backbone("lite0"), stride=8).eval()
    with torch.no_grad():
        maps, _ = network(natural_noise(64))
    assert maps.shape == (1, 128, 8, 8)
    assert network.pyramid.width == 40 + 112 + 320
    assert network.pyramid.grid == network.backbone.grid("stage3")
