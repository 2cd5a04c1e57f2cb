"""DELF: each formula against numpy, features where they belong, weights that come back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from locate.errors import InputError, WeightsError
from locate.extractors.backbones.registry import create_backbone
from locate.extractors.base import Extractor
from locate.extractors.blocks.corners import corners
from locate.extractors.delf.extractor import Delf, box_overlap, build, start
from locate.extractors.delf.losses import (
    attended_feature,
    classification_loss,
    fit_pca,
    pooled_feature,
)
from locate.extractors.delf.network import Attention, DelfNetwork
from locate.extractors.weights import Record, save_weights

pytestmark = pytest.mark.usefixtures("float32")  # compared digit by digit


@pytest.fixture(scope="module")
def delf():
    return Delf.from_pretrained(max_side=256)


def doubles(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_attention_against_numpy():
    module = Attention(3, hidden=5).double()
    features = doubles(2, 3, 4, 6)
    found = module(features).detach().numpy()
    w1, b1 = module.conv1.weight.detach().numpy()[..., 0, 0], module.conv1.bias.detach().numpy()
    w2, b2 = module.conv2.weight.detach().numpy()[..., 0, 0], module.conv2.bias.detach().numpy()
    for b in range(2):
        for y in range(4):
            for x in range(6):
                hidden = np.maximum(w1 @ features[b, :, y, x].numpy() + b1, 0)
                assert found[b, y, x] == pytest.approx(np.log1p(np.exp((w2 @ hidden + b2)[0])))


def test_attended_feature_against_numpy():
    """The features that are summed are normalised; the sum is divided by the number of cells."""
    features, scores = doubles(2, 5, 3, 4), doubles(2, 3, 4, seed=1).abs()
    found = attended_feature(features, scores).numpy()
    for b in range(2):
        total = np.zeros(5)
        for y in range(3):
            for x in range(4):
                f = features[b, :, y, x].numpy()
                total += scores[b, y, x].item() * f / np.linalg.norm(f)
        assert np.allclose(found[b], total / 12)
    assert np.allclose(pooled_feature(features).numpy(), features.numpy().mean(axis=(2, 3)))


def test_classification_loss_by_hand():
    logits = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    e = np.exp([1.0, 2.0, -1.0])
    expected = (-np.log(e[1] / e.sum()) + np.log(3)) / 2
    assert classification_loss(logits, torch.tensor([1, 0])).item() == pytest.approx(expected)


def test_gradients_by_finite_differences():
    features = doubles(2, 4, 2, 3).requires_grad_()
    scores = doubles(2, 2, 3, seed=1).abs().requires_grad_()
    classes = doubles(3, 4, seed=2).requires_grad_()
    labels = torch.tensor([0, 2])

    def loss(f, s, w):
        return classification_loss(attended_feature(f, s) @ w.T, labels)

    assert gradcheck(loss, (features, scores, classes))
    assert gradcheck(
        lambda f, w: classification_loss(pooled_feature(f) @ w.T, labels), (features, classes)
    )


def test_pca_against_svd():
    features = doubles(60, 8) * torch.tensor([5, 4, 3, 2, 1, 1, 1, 1], dtype=torch.float64) + 2
    mean, components, kept = fit_pca(features, 3)
    unit = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    _, values, rows = np.linalg.svd(unit - unit.mean(axis=0))
    assert np.allclose(mean.numpy(), unit.mean(axis=0))
    assert np.allclose(np.abs(components.numpy() @ rows[:3].T), np.eye(3), atol=1e-8)
    assert kept == pytest.approx((values[:3] ** 2).sum() / (values**2).sum())
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_descriptors_are_normalised_projected_normalised():
    network = DelfNetwork(create_backbone("lite0"), dim=4)
    network.mean.copy_(torch.rand(672))
    features = torch.rand(5, 672)
    found = network.shorten(features).numpy()
    for f, d in zip(features.numpy(), found, strict=True):
        p = network.components.numpy() @ (f / np.linalg.norm(f) - network.mean.numpy())
        assert np.allclose(d, p / np.linalg.norm(p), atol=1e-5)


def test_before_the_pca_is_fitted_angles_are_roughly_kept():
    network, _ = start()
    rows = network.components.double()
    assert torch.allclose(rows @ rows.T, torch.eye(40, dtype=torch.float64), atol=1e-5)


class _Pixels(DelfNetwork):
    """Cells of 16 pixels: the feature is the mean colour, the attention its red."""

    def __init__(self):
        super().__init__(create_backbone("lite0"), dim=40)

    def forward(self, pixels):
        cells = torch.nn.functional.avg_pool2d(pixels, 16) / 255
        features = torch.zeros(1, 672, *cells.shape[-2:])
        features[:, :3] = cells
        features[:, 3] = 1.0
        return features, cells[:, 0]


@pytest.mark.parametrize("factor", [1, 2])
def test_features_lie_in_the_middle_of_what_they_see(factor):
    """A red spot on one cell, x and y different; also when the image is twice as large as is
    looked at. Half a cell, x for y, or a forgotten scale would be 8 px or more."""
    extractor = Delf(_Pixels(), "x", {}, max_side=256, max_keypoints=1, at_corners=False)
    image = np.zeros((192 * factor, 256 * factor, 3), np.uint8)
    x, y = 7, 4
    image[16 * y * factor : 16 * (y + 1) * factor, 16 * x * factor : 16 * (x + 1) * factor, 0] = 255
    found = extractor.extract(image).features
    middle = np.array([16 * x + 7.5, 16 * y + 7.5])
    middle = (middle + 0.5) * factor - 0.5
    assert np.abs(found.keypoints[0] - middle).max() <= 4 * factor  # scale 2 sees a quarter of it


def test_features_move_with_the_image(delf, texture):
    """The same place in the original and in a copy shifted by two cells: mutual nearest neighbours
    agree."""
    from locate.matching.descriptors import match_mutual

    big = texture((320, 288))
    a, b = big[:224, :256], big[32:256, 32:288]
    fa, fb = delf.extract(a).features, delf.extract(b).features
    matches = match_mutual(fa.descriptors, fb.descriptors)
    moved = fa.keypoints[matches[:, 0]] - fb.keypoints[matches[:, 1]]
    assert len(matches) > 50
    near = np.abs(moved - 32).max(axis=1) <= 8
    assert near.mean() > 0.5
    assert np.abs(np.median(moved[near], axis=0) - 32).max() < 1


def test_extractor_keeps_its_contract(delf, texture):
    assert isinstance(delf, Extractor)
    image = texture((300, 200))
    features = delf.extract(image).features
    assert features.descriptors.shape == (len(features), delf.info.local_dim)
    assert 100 < len(features) <= 1000
    assert np.allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)
    assert (np.diff(features.scores) <= 0).all()
    assert (features.keypoints >= 0).all()
    assert (features.keypoints <= (299, 199)).all()
    again = delf.extract(image).features
    assert again.descriptors.tobytes() == features.descriptors.tobytes()
    large = delf.extract(image, (600, 400)).features
    assert np.allclose(large.keypoints, features.keypoints * 2 + 0.5, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 3, 3), (16, 16, 3), (40, 300, 3), (300, 2, 3)])
def test_small_and_flat_images(delf, shape):
    features = delf.extract(np.full(shape, 128, np.uint8)).features
    assert features.image_size == (shape[1], shape[0])
    assert np.isfinite(features.descriptors).all()


@pytest.mark.parametrize("most", [60, 10_000])
def test_seven_sizes_from_a_quarter_to_the_double(texture, most):
    """The paper's scales, each looked at alone: the best-attended cells of all, whatever their size."""
    network, digest = start()
    with torch.no_grad():
        for parameter in network.attention.parameters():
            parameter.add_(
                0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    image = texture((352, 272), seed=6)
    points, scores, columns = [], [], []
    for scale in (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0):
        width, height = round(352 * scale), round(272 * scale)
        level = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )
        below, beside = -height % 32, -width % 32
        level = cv2.copyMakeBorder(level, 0, below, 0, beside, cv2.BORDER_REFLECT_101)
        with torch.no_grad():
            maps, attention = network(torch.from_numpy(level).permute(2, 0, 1)[None].float())
        for y in range(attention.shape[1]):
            for x in range(attention.shape[2]):
                centre = np.array((16 * x + 7.5, 16 * y + 7.5))
                if (centre <= (width - 1, height - 1)).all():
                    points.append((centre + 0.5) * (352 / width, 272 / height) - 0.5)
                    scores.append(float(attention[0, y, x]))
                    columns.append(maps[0, :, y, x].numpy())
    points, scores, columns = np.array(points), np.array(scores), np.array(columns)
    best = np.argsort(-scores, kind="stable")[:most]
    expected = network.shorten(torch.from_numpy(columns[best])).detach().numpy()
    delf = Delf(network, digest, {}, max_keypoints=most, max_scale=2.0, at_corners=False)
    found = delf.extract(image).features
    assert len(found) == len(best)
    np.testing.assert_allclose(found.scores, scores[best], atol=1e-4)
    same = np.abs(np.diff(scores[best], append=0)) > 1e-5  # those whose place in the order is sure
    same &= np.abs(np.diff(scores[best], prepend=9)) > 1e-5
    assert same.mean() > 0.8
    np.testing.assert_allclose(found.keypoints[same], points[best][same], atol=1e-3)
    np.testing.assert_allclose(found.descriptors[same], expected[same], atol=1e-3)


def test_threshold_drops_what_is_little_attended(texture):
    network, digest = start()
    image = texture((256, 192))
    all_ = Delf(network, digest, {}, max_side=256).extract(image).features
    network.threshold.fill_(float(np.median(all_.scores)))
    some = Delf(network, digest, {}, max_side=256).extract(image).features
    assert 0 < len(some) < len(all_)
    assert some.scores.min() >= np.median(all_.scores)


def test_boxes_overlap_by_hand():
    found = box_overlap(
        np.array([0.0, 0.0]), 2.0, np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0], [0, 0]]),
        np.array([2.0, 2.0, 2.0, 4.0]),
    )  # fmt: skip
    assert np.allclose(found, [1, 2 / 6, 0, 4 / 16])


def test_suppression_of_overlapping_boxes(texture):
    network, digest = start()
    image = texture((256, 192))
    kept = Delf(network, digest, {}, max_side=256, iou=0.8).extract(image).features
    all_ = Delf(network, digest, {}, max_side=256).extract(image).features
    assert 0 < len(kept) < len(all_)
    assert kept.scores[0] == all_.scores[0]


def test_weights_round_trip(tmp_path, texture):
    network, digest = start()
    with torch.no_grad():
        network.attention.conv2.bias += 0.5
        network.mean.uniform_(0, 0.1)
        network.threshold.fill_(0.1)
    record = Record(system="delf", settings={"backbone": "lite0", "dim": 40})
    save_weights(tmp_path / "d.safetensors", network.state_dict(), record)
    image = texture((128, 96))
    a = Delf(network, digest, {}).extract(image).features
    loaded = Delf.from_pretrained(tmp_path / "d.safetensors")
    b = loaded.extract(image).features
    assert np.array_equal(a.descriptors, b.descriptors)
    assert np.array_equal(a.keypoints, b.keypoints)
    assert loaded.info.fingerprint != Delf(network, digest, {}).info.fingerprint
    kept = sum(t.numel() for t in network.state_dict().values())
    assert kept < 0.35 * sum(t.numel() for t in create_backbone("lite0").state_dict().values())


def test_weights_that_lack_a_part_are_refused(tmp_path):
    network, _ = start()
    tensors = dict(network.state_dict())
    tensors.pop("attention.conv1.weight")
    record = Record(system="delf", settings={"backbone": "lite0", "dim": 40})
    save_weights(tmp_path / "d.safetensors", tensors, record)
    with pytest.raises(WeightsError, match=r"Missing.*attention\.conv1\.weight"):
        Delf.from_pretrained(tmp_path / "d.safetensors")


def test_the_papers_backbone_runs(tmp_path):
    torch.manual_seed(0)
    source = create_backbone("resnet50")
    torch.save(source.state_dict(), tmp_path / "resnet50.pth")
    extractor = Delf.from_pretrained(
        backbone="resnet50", backbone_weights=tmp_path / "resnet50.pth", max_side=64
    )
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert extractor.extract(image).features.descriptors.shape[1] == 40
    network = build({"backbone": "resnet50", "dim": 40})
    assert network.tap == "layer3"
    assert (network.grid.stride, network.grid.offset) == (16, 0)


@pytest.mark.parametrize("wrong", [{"max_keypoints": 0}, {"max_side": 0}])
def test_limits_that_make_no_sense(wrong):
    with pytest.raises(InputError, match="must be at least 1"):
        Delf(start()[0], "-", {}, **wrong)


def test_the_strongest_corner_of_a_cell_places_its_feature(texture):
    image = texture((160, 128), seed=2)
    network, digest = start()
    middle, placed = (
        Delf(network, digest, {}, at_corners=at).extract(image).features for at in (False, True)
    )
    assert np.array_equal(middle.descriptors, placed.descriptors)
    assert np.array_equal(middle.scores, placed.scores)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    points, _, strengths = corners(grey, (1.0,))
    seen = 0
    for was, now in zip(middle.keypoints, placed.keypoints, strict=True):
        if not np.allclose((was - 7.5) % 16, 0, atol=1e-3):  # of another level
            continue
        inside = (np.abs(points - was) <= 8).all(axis=1)
        if inside.any():
            best = points[inside][strengths[inside].argmax()]
            seen += np.allclose(now, best, atol=1e-3)
    assert seen > 30
