"""Backbones: published parameter names, where their cells lie in the image, dilation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locate.errors import UnknownNameError, WeightsError
from locate.extractors.backbones.base import take_out_unused
from locate.extractors.backbones.registry import (
    BACKBONES,
    create_backbone,
    efficientnet,
    load_backbone,
)
from locate.extractors.blocks.grids import Grid, resample, sample

# The first and the last entries of torchvision's published state dicts, and how many there are.
PUBLISHED = {
    "resnet50": (
        {
            "conv1.weight": (64, 3, 7, 7),
            "layer1.0.downsample.0.weight": (256, 64, 1, 1),
            "layer1.0.downsample.1.running_mean": (256,),
            "layer2.0.conv2.weight": (128, 128, 3, 3),
            "layer3.5.conv3.weight": (1024, 256, 1, 1),
            "layer4.2.bn3.bias": (2048,),
            "fc.weight": (1000, 2048),
        },
        320,
        25_557_032,
    ),
    "resnet101": (
        {"layer3.22.conv3.weight": (1024, 256, 1, 1), "layer4.2.bn3.bias": (2048,)},
        626,
        44_549_160,
    ),
    "vgg16": (
        {
            "features.0.weight": (64, 3, 3, 3),
            "features.21.weight": (512, 512, 3, 3),
            "features.28.bias": (512,),
        },
        26,
        14_714_688,
    ),
}


@pytest.fixture(scope="module")
def lite0():
    return efficientnet.load_imagenet(efficientnet.imagenet_weights_path())


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_have_torchvisions_names_and_shapes(name):
    shapes, entries, parameters = PUBLISHED[name]
    network = create_backbone(name)
    state = network.state_dict()
    for key, shape in shapes.items():
        assert tuple(state[key].shape) == shape
    assert len(state) == entries
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("name", BACKBONES)
def test_taps_have_the_widths_and_strides_they_say(name):
    network = create_backbone(name).eval()
    with torch.inference_mode():
        maps = network.taps(network.normalise(torch.full((1, 3, 64, 96), 127.0)))
    assert list(maps) == list(network.widths)
    for tap, found in maps.items():
        stride = network.strides[tap]
        assert found.shape == (1, network.widths[tap], 64 // stride, 96 // stride)


def test_nothing_beyond_the_last_tap_is_computed(lite0):
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        some, all_ = lite0.taps(x, ["stage3", "stage2"]), lite0.taps(x)
    assert list(some) == ["stage1", "stage2", "stage3"]
    assert torch.equal(some["stage3"], all_["stage3"])
    with pytest.raises(UnknownNameError, match=r"stage9.*expand4"):
        lite0.taps(x, ["stage9"])


@pytest.mark.parametrize("name", BACKBONES)
def test_a_folded_network_gives_the_same_maps(name):
    """Also one of which only a part is left."""
    torch.manual_seed(0)
    network = create_backbone(name).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as if trained
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    x = network.normalise(torch.rand(1, 3, 64, 96) * 255)
    last = list(network.widths)[2]
    with torch.no_grad():
        expected = network.taps(x)
        take_out_unused(network, [last])
        part = network.taps(x, [last])[last]
        network.fuse()
        network.fuse()  # there is nothing left to do
        found = network.taps(x, [last])[last]
        whole = create_backbone(name).eval()
        whole.fuse()
    assert torch.equal(part, expected[last])
    torch.testing.assert_close(found, part, atol=1e-5 * float(part.abs().max()), rtol=1e-4)
    for one in (network, whole):
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in one.modules())


def centroid(network, tap, side):
    """Where in the image the response of the middle cell comes from: the centroid of the energy of its
    gradient, and where `grid` says the cell lies."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, side, side, requires_grad=True)
    found = network.taps(x, [tap])[tap]
    row, column = found.shape[-2] // 2, found.shape[-1] // 2
    found[:, :, row, column].pow(2).sum().backward()
    energy = x.grad.pow(2).sum((0, 1))
    pixels = torch.arange(side, dtype=torch.float32)
    measured = torch.stack(
        (
            (energy.sum(0) * pixels).sum() / energy.sum(),
            (energy.sum(1) * pixels).sum() / energy.sum(),
        )
    )
    said = network.grid(tap).to_image(torch.tensor([float(column), float(row)]))
    return measured, said


@pytest.mark.parametrize(("tap", "within"), [("stage2", 1.2), ("expand4", 0.7), ("stage5", 4.0)])
def test_cells_lie_where_the_trained_lite0_looks(lite0, tap, within):
    """Its kernels alone would put stage 5 at + 15 instead of + 7.5: far outside the tolerance."""
    measured, said = centroid(lite0, tap, 256)
    assert (measured - said).abs().max() < within


@pytest.mark.parametrize(
    ("name", "tap"), [("vgg16", "conv3_3"), ("vgg16", "conv4_3"), ("resnet50", "layer2")]
)
def test_cells_lie_where_random_networks_look(name, tap):
    torch.manual_seed(1)
    measured, said = centroid(create_backbone(name).eval(), tap, 128)
    assert (measured - said).abs().max() < 0.8


def test_dilated_vgg_keeps_its_cells_in_place():
    torch.manual_seed(1)
    network = create_backbone("vgg16").eval()
    before = network.grid("conv4_3")
    network.dilate(4)
    after = network.grid("conv4_3")
    assert (before, after) == (Grid(8, 3.5), Grid(4, 3.5))
    measured, said = centroid(network, "conv4_3", 128)
    assert (measured - said).abs().max() < 0.8


@pytest.mark.parametrize(
    ("name", "taps"),
    [("lite0", ("stage3", "expand4", "stage5")), ("resnet50", ("layer3", "layer4"))],
)
def test_dilation_computes_the_same_cells_and_those_between(name, taps, lite0):
    """Every k-th cell of the dilated map is a cell of the plain one, exactly (a trous algorithm)."""
    torch.manual_seed(0)
    plain, dilated = create_backbone(name).eval(), create_backbone(name).eval()
    start = lite0.state_dict() if name == "lite0" else plain.state_dict()
    plain.load_state_dict(start)
    dilated.load_state_dict(start)
    dilated.dilate(4 if name == "lite0" else 8)
    x = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        a, b = plain.taps(x, taps), dilated.taps(x, taps)
    for tap in taps:
        k = plain.strides[tap] // dilated.strides[tap]
        assert k >= 2
        assert torch.allclose(a[tap], b[tap][..., ::k, ::k], atol=1e-4)
        assert plain.grid(tap).offset == dilated.grid(tap).offset


def test_a_checkpoint_of_torchvision_loads(tmp_path):
    source = create_backbone("vgg16")
    state = source.state_dict() | {"classifier.0.weight": torch.zeros(2, 2)}
    torch.save(state, tmp_path / "vgg16.pth")
    network, digest = load_backbone("vgg16", tmp_path / "vgg16.pth")
    assert torch.equal(network.features[28].weight, source.features[28].weight)
    assert len(digest) == 64
    assert not network.training


def test_checkpoints_without_batch_counters_load(tmp_path):
    state = create_backbone("resnet50").state_dict()
    old = {key: value for key, value in state.items() if "num_batches" not in key}
    torch.save(old, tmp_path / "old.pth")
    load_backbone("resnet50", tmp_path / "old.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv1.weight"), "lacks conv1.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "also holds extra"),
        (lambda s: s.update({"fc.weight": torch.zeros(10, 2048)}), r"fc.weight is \(10, 2048\)"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, change, message):
    state = dict(create_backbone("resnet50").state_dict())
    change(state)
    torch.save(state, tmp_path / "r.pth")
    with pytest.raises(WeightsError, match=message):
        load_backbone("resnet50", tmp_path / "r.pth")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half a zip"])
def test_files_that_are_no_checkpoint(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"x.pth is no PyTorch checkpoint"):
        load_backbone("vgg16", tmp_path / "x.pth")


def test_a_pickle_with_code_in_it_does_not_run(tmp_path):
    import pickle

    class Bad:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"a": Bad()}))
    with pytest.raises(WeightsError):
        load_backbone("vgg16", tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


def test_no_weights_and_unknown_names():
    with pytest.raises(WeightsError, match="--backbone-weights"):
        load_backbone("resnet101")
    with pytest.raises(UnknownNameError, match=r"resnet50"):
        create_backbone("resnet18")


def test_sample_is_bilinear_by_hand():
    maps = torch.arange(12.0).reshape(1, 1, 3, 4)  # value = 4 y + x
    points = torch.tensor([[[0.0, 0.0], [3.0, 2.0], [1.25, 0.5], [9.0, -4.0]]])
    found = sample(maps, points)[0, :, 0]
    assert torch.allclose(found, torch.tensor([0.0, 11.0, 4 * 0.5 + 1.25, 3.0]), atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 9), (1, 5), (6, 1), (1, 1)])
def test_sample_of_one_map_for_use_is_that_for_training(shape):
    """There are two ways to it; points on the last row and column, and beyond, are the hard ones."""
    maps = torch.randn(1, 5, *shape, generator=torch.Generator().manual_seed(0))
    height, width = shape
    points = torch.rand(1, 40, 2, generator=torch.Generator().manual_seed(1)) * 12 - 2
    edges = [(0, 0), (width - 1, height - 1), (width - 1, 0.5), (width - 0.5, -3), (0.25, height)]
    points = torch.cat((points, torch.tensor([edges], dtype=torch.float32)), dim=1)
    for one in (maps, maps.contiguous(memory_format=torch.channels_last)):
        slow = sample(one, points)
        with torch.no_grad():
            found = sample(one, points)
            assert sample(one, points[:, :0]).shape == (1, 0, 5)
        torch.testing.assert_close(found, slow, atol=1e-5, rtol=1e-5)
    for k in (3, 40, 41, 42, 43, 44):
        x, y = np.clip(points[0, k].double().numpy(), 0, (width - 1, height - 1))
        expected = np.zeros(5)
        for j, i in (
            (int(x), int(y)),
            (int(x) + 1, int(y)),
            (int(x), int(y) + 1),
            (int(x) + 1, int(y) + 1),
        ):
            weight = (1 - abs(x - j)) * (1 - abs(y - i))
            if weight > 0:
                expected += weight * maps[0, :, i, j].double().numpy()
        np.testing.assert_allclose(found[0, k].numpy(), expected, atol=1e-5)


def test_resample_puts_values_back_in_their_place():
    """A map that holds the image coordinate of its cells still does so on another grid."""
    coarse, fine = Grid(16, 7.5), Grid(4, 1.5)
    where = coarse.to_image(torch.arange(8.0))
    maps = torch.stack(torch.meshgrid(where, where, indexing="xy"))[None]  # channels x, y
    found = resample(maps, coarse, fine, (30, 28))
    x = fine.to_image(torch.arange(28.0)).clamp(where[0], where[-1])
    y = fine.to_image(torch.arange(30.0)).clamp(where[0], where[-1])
    assert torch.allclose(found[0, 0], x.expand(30, 28), atol=1e-4)
    assert torch.allclose(found[0, 1], y[:, None].expand(30, 28), atol=1e-4)


def test_frozen_normalisation_keeps_its_statistics(lite0):
    network = create_backbone("lite0").train()
    network.freeze_normalisation()
    before = network._bn0.running_mean.clone()
    network(torch.rand(2, 3, 32, 32))
    assert torch.equal(network._bn0.running_mean, before)
    assert network._blocks[0].training


@pytest.mark.parametrize("stride", [2.0, 4.0, 16.0])
@pytest.mark.parametrize("offset", [0.0, 0.5, 7.5])
def test_cells_are_those_whose_centre_lies_in_the_image(stride, offset):
    for width, height in ((1, 40), (33, 32), (64, 7)):
        expected = tuple(
            sum(offset + stride * k <= side - 0.5 for k in range(100)) for side in (width, height)
        )
        assert Grid(stride, offset).cells((width, height)) == expected
