"""The steered network: what turns with the image does so exactly, folding changes nothing, and the
losses are what their formulas say, by hand."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError
from locate.extractors.blocks.corners import CornerSettings, corners, distinct, orientations
from locate.extractors.steered import losses
from locate.extractors.steered.equivariant import FieldNorm, GroupConv, steered
from locate.extractors.steered.extractor import SCALES, Steered, nearest_levels
from locate.extractors.steered.fusion import fused
from locate.extractors.steered.network import SteeredNetwork
from tests.helpers.drawings import squares


def turned(maps, fields=True):
    """The maps B x C x H x W of an image that was turned by 90 degrees, counter-clockwise as seen."""
    maps = torch.rot90(maps, 1, (2, 3))
    if not fields:
        return maps
    batch, channels, height, width = maps.shape
    return maps.view(batch, channels // 4, 4, height, width).roll(1, 2).reshape(maps.shape)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = SteeredNetwork((2, 3, 4, 5, 6), 4)
    for module in made.modules():
        if isinstance(module, FieldNorm):  # as if trained
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def image():
    return 255 * torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(1))


# --- quarter turns


@pytest.mark.parametrize(("inputs", "size", "stride"), [(0, 4, 2), (2, 3, 1), (2, 2, 2), (3, 1, 1)])
def test_a_convolution_turns_with_its_input(inputs, size, stride):
    torch.manual_seed(0)
    convolution = GroupConv(inputs, 3, size, stride)
    x = torch.rand(2, 4 * inputs or 1, 12, 16)
    there = convolution(turned(x, fields=inputs > 0))
    torch.testing.assert_close(there, turned(convolution(x)), atol=1e-5, rtol=0)


def test_a_kernel_written_out_by_hand():
    """Output o at turn r looks at input channel s with the weight of s - r, turned r times."""
    torch.manual_seed(0)
    convolution = GroupConv(2, 3, 3)
    kernel, weight = convolution.kernel().detach().numpy(), convolution.weight.detach().numpy()
    for f, r, g, s in np.ndindex(3, 4, 2, 4):
        expected = np.rot90(weight[f, g, (s - r) % 4], r)
        np.testing.assert_array_equal(kernel[4 * f + r, 4 * g + s], expected)


def test_the_network_turns_with_the_image(network, image):
    maps, there = network(image), network(torch.rot90(image, 1, (2, 3)))
    assert maps.std() > 1e-3
    torch.testing.assert_close(there, turned(maps), atol=1e-4, rtol=0)


def test_descriptors_do_not_turn(network, image):
    """A point (x, y) of an image of width W is (y, W - 1 - x) after the turn, a vector (x, y) is
    (y, -x)."""
    points = 16 + torch.rand(1, 40, 2) * torch.tensor((96.0, 64.0))
    moved = torch.stack((points[..., 1], image.shape[-1] - 1 - points[..., 0]), -1)
    facing = torch.nn.functional.normalize(torch.randn(1, 40, 2), dim=-1)
    maps, there = network(image), network(torch.rot90(image, 1, (2, 3)))
    a = network.descriptors_at(maps, points, facing)
    b = network.descriptors_at(there, moved, torch.stack((facing[..., 1], -facing[..., 0]), -1))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    c = network.descriptors_at(there, moved, facing)
    assert (a - c).norm(dim=-1).min() > 0.01  # facing elsewhere they change


def test_a_descriptor_looks_at_nine_places_turned_by_its_direction(monkeypatch):
    """Of maps that hold their own coordinates in pixels: row by row, 8 pixels apart, x along the
    direction, y to its right as one looks along it (y down)."""
    network = SteeredNetwork((2, 2, 2, 2, 2), 2)
    monkeypatch.setattr(network, "describe", torch.nn.Identity())
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    planes = [columns * 4 + 1.5] * 4 + [rows * 4 + 1.5] * 4
    maps = torch.stack(planes)[None]
    point, angle = np.array((61.0, 40.0)), 0.4
    u = np.array((math.cos(angle), math.sin(angle)))
    expected = []
    for y in (-8, 0, 8):
        for x in (-8, 0, 8):
            place = point + x * u + y * np.array((-u[1], u[0]))
            expected += [*(4 * place), *[0] * 8]  # all that does not turn, and nothing that does
    found = network.descriptors_at(
        maps, torch.tensor(point)[None, None].float(), torch.tensor(u)[None, None].float()
    )
    np.testing.assert_allclose(found[0, 0].numpy(), expected / np.linalg.norm(expected), atol=1e-5)


def test_fields_taken_apart_by_hand():
    """Channel o of a field counts along the direction o, a quarter turn counter-clockwise each."""
    ways = np.array([(1, 0), (0, -1), (-1, 0), (0, 1)])
    field = np.random.default_rng(0).normal(size=4)
    vector = field @ ways
    angle = 0.7
    u = np.array((math.cos(angle), math.sin(angle)))
    found = steered(torch.tensor(field)[None], torch.tensor(u)).numpy()
    across = np.array((-u[1], u[0]))
    twice = field @ (1, -1, 1, -1)
    expected = (
        field.sum(), vector @ u, vector @ across,
        twice * math.cos(2 * angle), twice * math.sin(2 * angle),
    )  # fmt: skip
    np.testing.assert_allclose(found, expected)
    quarter = np.array((u[1], -u[0]))
    again = steered(torch.tensor(np.roll(field, 1))[None], torch.tensor(quarter)).numpy()
    np.testing.assert_allclose(again, found)


def test_folding_changes_nothing(network, image):
    plain = fused(network)
    assert not any(isinstance(m, GroupConv | FieldNorm) for m in plain.modules())
    torch.testing.assert_close(network(image), plain(image), atol=1e-4, rtol=1e-4)


def test_upright_descriptors_are_those_of_directions_to_the_right(network, image):
    points = 16 + torch.rand(1, 40, 2) * torch.tensor((96.0, 64.0))
    plain, right = fused(network), torch.tensor((1.0, 0.0)).expand(1, 40, 2)
    expected = network.descriptors_at(network(image), points, right)
    for one in (network, plain):
        found = one.upright_at(one(image), points)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert plain.describe_upright[0].weight.shape[1] < network.describe[0].in_features


# --- losses


def test_the_contrastive_loss_by_hand():
    rng = np.random.default_rng(0)
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 7, 5)))
    apart = rng.random((7, 7)) < 0.7
    apart &= apart.T
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(7):
            rivals = [j for j in range(7) if j == i or apart[i, j]]
            terms = np.exp([x[i] @ y[j] / 0.1 for j in rivals])
            total -= math.log(terms[rivals.index(i)] / terms.sum()) / 14
    found = losses.contrastive_loss(torch.tensor(a), torch.tensor(b), 0.1, torch.tensor(apart))
    assert float(found) == pytest.approx(total)


def test_the_loss_of_nothing_is_zero():
    assert float(losses.mean(torch.zeros(0))) == 0


# --- directions


def test_a_keypoint_faces_where_it_gets_brighter():
    """Of a parabola the gradient is known, blurred or not, away from the border."""
    y, x = np.mgrid[:96, :128]
    grey = np.round(10 + 0.008 * ((x - 20) ** 2 + 1.5 * (y - 10) ** 2)).astype(np.uint8)
    points = np.random.default_rng(0).uniform((40, 35), (100, 70), (50, 2))
    expected = (points - (20, 10)) * (1, 1.5)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = orientations(grey, points)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_directions_turn_with_the_image(texture):
    grey = texture((128, 96))[..., 0]
    points = np.random.default_rng(0).uniform(-2, 130, (200, 2)) * (1, 0.75)
    before = orientations(grey, points)
    moved = np.stack((points[:, 1], 127 - points[:, 0]), axis=1)
    after = orientations(np.ascontiguousarray(np.rot90(grey)), moved)
    np.testing.assert_allclose(after, np.stack((before[:, 1], -before[:, 0]), 1), atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(before, axis=1), 1, atol=1e-5)


def test_a_flat_image_faces_to_the_right():
    flat = np.full((40, 50), 7, np.uint8)
    np.testing.assert_array_equal(orientations(flat, np.ones((3, 2))), [(1, 0)] * 3)
    assert orientations(flat, np.zeros((0, 2))).shape == (0, 2)


# --- corners


def test_corners_are_where_corners_are():
    grey, truth = squares()
    points, scales, strengths = corners(grey, (1.0,))
    assert (scales == 0).all()
    best = points[np.argsort(-strengths)[: len(truth)]]
    apart = np.linalg.norm(best[:, None] - truth, axis=2)
    assert sorted(apart.argmin(axis=1)) == list(range(len(truth)))
    # A blurred corner moves inwards; all by the same way.
    assert apart.min(axis=1).max() < 2.5
    assert np.ptp(apart.min(axis=1)) < 0.35


@pytest.mark.parametrize("shift", [(0.25, 0.5), (-0.4, 0.125), (3.5, -2.25)])
def test_corners_move_with_the_image_between_pixels(shift):
    before, after = (corners(squares(s)[0], (1.0,)) for s in ((0.0, 0.0), shift))
    a, b = (found[0][np.argsort(-found[2])[:12]] for found in (before, after))
    apart = np.linalg.norm(a[:, None] + shift - b, axis=2).min(axis=1)
    assert np.median(apart) < 0.25
    assert apart.max() < 0.4


def test_corners_of_a_level_are_in_pixels_of_the_image():
    """Of an image whose pixels are doubled, the half level is the image itself."""
    grey, _ = squares()
    doubled = np.repeat(np.repeat(grey, 2, axis=0), 2, axis=1)
    one, half = corners(grey, (1.0,)), corners(doubled, (0.5,))
    np.testing.assert_allclose(half[0] + 0.5, 2 * (one[0] + 0.5), atol=1e-6)
    np.testing.assert_allclose(half[2], one[2], rtol=1e-5)
    both = corners(doubled, (1.0, 0.5))
    assert len(both[0]) == len(corners(doubled, (1.0,))[0]) + len(half[0])
    assert np.bincount(both[1]).tolist() == [len(both[0]) - len(half[0]), len(half[0])]


def test_the_strength_is_the_geometric_mean_of_the_eigenvalues():
    """Of the Gaussian mean of g g^T, with the gradient g by Sobel's differences, by hand."""
    grey, _ = squares()
    points, _, strengths = corners(grey, (1.0,))
    image = cv2.GaussianBlur(grey.astype(np.float64) / 255, (0, 0), 1.5)
    smooth, slope = np.array((1, 2, 1)), np.array((-1, 0, 1))
    weights = np.exp(-(np.arange(-4, 5) ** 2) / 2)
    weights /= weights.sum()
    for k in np.argsort(-strengths)[:5]:
        x, y = np.round(points[k]).astype(int)
        moments = np.zeros((2, 2))
        for row in range(-4, 5):
            for column in range(-4, 5):
                j, i = y + row, x + column
                window = image[j - 1 : j + 2, i - 1 : i + 2]
                g = np.array((smooth @ window @ slope, slope @ window @ smooth)) / 8
                moments += weights[row + 4] * weights[column + 4] * np.outer(g, g)
        first, second = np.linalg.eigvalsh(moments)
        assert strengths[k] == pytest.approx(math.sqrt(first * second), rel=1e-3)


def test_distinct_points_by_hand():
    points = np.array([(0.2, 0.2), (2.9, 2.9), (3.1, 3.1), (9.0, 0.1), (8.9, 0.1), (4.0, 4.0)])
    # 1 shares the cell of 0, 5 that of 2; 3 and 4 that of the second grid.
    assert distinct(points, 3.0).tolist() == [0, 2, 3]
    assert distinct(np.zeros((0, 2)), 3.0).tolist() == []
    rng = np.random.default_rng(0)
    many = rng.uniform(0, 100, (3000, 2))
    kept = distinct(many, 3.0)
    assert kept[0] == 0
    assert (np.diff(kept) > 0).all()
    cells = np.floor(many[kept] / 3.0).astype(int)
    assert len(np.unique(cells, axis=0)) == len(kept)
    near = np.linalg.norm(many[:, None] - many[kept], axis=2).min(axis=1)
    assert near.max() < 2 * 3.0 * math.sqrt(2)


def test_flat_and_small_images_have_no_corners():
    for shape in ((64, 64), (1, 1), (9, 200), (8, 8)):
        points, scales, strengths = corners(np.full(shape, 90, np.uint8), (1.0, 0.5, 0.1))
        assert len(points) == len(scales) == len(strengths) == 0


# --- extractor


def test_what_is_extracted_turns_with_the_image(network, texture):
    """Of sides that are multiples of 32 at every level, so that nothing is padded."""
    pixels = texture((256, 192))
    made = Steered(network, "none", scales=(1.0, 0.5), seen_at=(1.0, 0.5))
    a = made.extract(pixels).features
    b = made.extract(np.ascontiguousarray(np.rot90(pixels))).features
    assert len(a) > 50
    moved = np.stack((a.keypoints[:, 1], 255 - a.keypoints[:, 0]), axis=1)
    apart = np.linalg.norm(moved[:, None] - b.keypoints, axis=2)
    same = apart.min(axis=1) < 1e-2
    assert same.mean() > 0.95
    cosines = (a.descriptors * b.descriptors[apart.argmin(axis=1)]).sum(axis=1)
    assert np.percentile(cosines[same], 5) > 0.999
    upright = Steered(network, "none", scales=(1.0,), seen_at=(1.0,), upright=True)
    assert not upright.info.rotation_invariant
    a, b = (upright.extract(p).features for p in (pixels, np.rot90(pixels).copy()))
    moved = np.stack((a.keypoints[:, 1], 255 - a.keypoints[:, 0]), axis=1)
    apart = np.linalg.norm(moved[:, None] - b.keypoints, axis=2)
    cosines = (a.descriptors * b.descriptors[apart.argmin(axis=1)]).sum(axis=1)
    assert np.median(cosines) < 0.99


def test_a_corner_is_described_at_the_nearest_level_and_of_two_at_the_smaller():
    """Half an octave from two levels it is as near to both: the last bit must not decide."""
    assert nearest_levels(SCALES, SCALES[1::2]).tolist() == [0, 0, 1, 1, 2, 2]
    for off in (1 - 1e-12, 1 + 1e-12):
        assert nearest_levels([off * s for s in SCALES], SCALES[1::2]).tolist() == [
            0,
            0,
            1,
            1,
            2,
            2,
        ]
    assert nearest_levels(SCALES, (1.0, 0.5, 0.25)).tolist() == [0, 1, 1, 2, 2, 2]
    assert nearest_levels((0.6, 0.1), (0.25, 1.0, 0.5)).tolist() == [2, 0]


def test_levels_see_the_same(network, texture):
    """A doubled image at half its size is the image: the same descriptors, edges on edges."""
    every = CornerSettings(cell=1e-6)
    pixels = texture((128, 96))
    doubled = np.repeat(np.repeat(pixels, 2, axis=0), 2, axis=1)
    one, half = (
        Steered(network, "none", scales=(s,), seen_at=(s,), found_by=every).extract(image).features
        for s, image in ((1.0, pixels), (0.5, doubled))
    )
    np.testing.assert_allclose((half.keypoints + 0.5) / 2, one.keypoints + 0.5, atol=1e-3)
    np.testing.assert_allclose(half.descriptors, one.descriptors, atol=1e-4)


@pytest.mark.parametrize(
    "settings", [{"scales": ()}, {"scales": (2.0,)}, {"seen_at": (0.0,)}, {"max_keypoints": 0}]
)
def test_settings_that_make_no_sense(network, settings):
    with pytest.raises(InputError, match="must be a"):
        Steered(network, "none", **settings)
