"""LIFT on whole images: dots at known places, maxima by loops, and what every extractor promises."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

from locate.errors import InputError
from locate.extractors.base import Extractor, ExtractorInfo
from locate.extractors.lift import detection
from locate.extractors.lift.detection import Level, Search, find_frames, quadratic_steps
from locate.extractors.lift.extractor import Lift
from locate.extractors.lift.network import Detector, LiftNetwork

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    made = LiftNetwork()
    with torch.no_grad():
        made.detector.filters.weight.mul_(20)  # as clear as after training
    return made


@pytest.fixture(scope="module")
def lift(network):
    return Lift(network, "none")


@pytest.fixture(scope="module")
def dots():
    """A detector of bright dots: the Laplacian of a Gaussian of 3.2 pixels."""
    detector = Detector().requires_grad_(False)
    y, x = np.mgrid[:25, :25] - 12
    r = (x**2 + y**2) / (2 * 3.2**2)
    template = (1 - r) * np.exp(-r)
    template -= template.mean()
    with torch.no_grad():
        detector.filters.weight.zero_()
        detector.filters.bias.zero_()
        detector.filters.weight[:4, 0] = torch.from_numpy(template / 20).float()
    return detector


def dot(centre, sigma, size=(130, 120)):
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    bell = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * sigma**2))
    return np.rint(30 + 200 * bell).astype(np.uint8)


def test_dots_are_found_at_their_places_and_scales(dots):
    rng = np.random.default_rng(1)
    errors, ratios = [], []
    for sigma in (2.2, 3.3, 5.0):
        for _ in range(3):
            centre = rng.uniform(55, 65, 2)
            frames, scores = find_frames(dots, dot(centre, sigma), Search(), 10, CPU)
            assert scores[0] == scores.max()
            errors.append(frames[0, :2] - centre)
            ratios.append(frames[0, 2] / sigma)
    assert np.abs(errors).max() < 0.25
    assert np.abs(np.mean(errors, axis=0)).max() < 0.06
    # A pixel is half a scale, and the template answers best to a dot of its own deviation.
    assert np.std(np.log2(ratios)) < 0.05
    assert np.mean(ratios) == pytest.approx(2 / 3.2, rel=0.1)


def test_edges_are_no_keypoints(dots):
    bar = np.full((160, 160), 40, np.uint8)
    cv2.line(bar, (20, 30), (140, 110), 220, 5, cv2.LINE_AA)
    frames, _ = find_frames(dots, bar, Search(), 50, CPU)
    every, _ = find_frames(dots, bar, Search(edge_ratio=1e6), 50, CPU)
    ends = np.array([(20, 30), (140, 110)])

    def along(found):  # strong ones, far from both ends
        far = np.linalg.norm(found[:, None, :2] - ends, axis=2).min(axis=1)
        return int((far > 30).sum())

    assert along(frames) < along(every)
    for end in ends:
        assert np.linalg.norm(frames[:, :2] - end, axis=1).min() < 5


def test_scales_and_levels(dots):
    assert detection.scales_of((1700, 1601), 5) == pytest.approx(2 ** np.linspace(1, 4, 16))
    assert detection.scales_of((640, 480), 5) == pytest.approx(2 ** np.linspace(0, 4, 21))
    levels = detection.score_levels(dots, np.zeros((100, 200), np.uint8), 5, CPU)
    for level in levels:
        height, width = level.scores.shape
        assert (width + 24) / 200 == pytest.approx(2 / level.scale, abs=0.01)
        assert min(width, height) >= 3
    assert levels[-1].scale < 16  # the filter does not fit any more


def test_points_of_levels_lie_in_the_image():
    """Corners on corners: an image of 100 pixels is one of 50."""
    level = Level(torch.zeros(9, 26), 4.0, (0.5, 0.25))
    found = level.to_image(torch.tensor([[0.0, 0.0], [3.0, 1.0]]))
    assert found.tolist() == [[24.5, 49.5], [30.5, 53.5]]  # (12 + 0.5) / 0.5 - 0.5, ...
    assert level.from_image(found).tolist() == [[0, 0], [3, 1]]


def test_maxima_among_places_and_levels_by_loops():
    rng = np.random.default_rng(0)
    levels = [
        Level(torch.from_numpy(rng.normal(size=(h, w))), s, (w / 60, h / 45))
        for h, w, s in ((45, 60, 1.0), (38, 50, 1.2), (31, 42, 1.4), (27, 36, 1.7))
    ]
    search = Search(radius=2, edge_ratio=1e9)
    highest = [detection._highest(level.scores, 2) for level in levels]
    for number, level in enumerate(levels):
        scores = level.scores.numpy()
        expected = set()
        for i, j in np.ndindex(scores.shape):
            window = scores[max(0, i - 2) : i + 3, max(0, j - 2) : j + 3]
            inner = 0 < i < scores.shape[0] - 1 and 0 < j < scores.shape[1] - 1
            if not inner or scores[i, j] < window.max():
                continue
            c = scores[i - 1 : i + 2, j - 1 : j + 2]
            xx, yy = c[1, 0] + c[1, 2] - 2 * c[1, 1], c[0, 1] + c[2, 1] - 2 * c[1, 1]
            xy = (c[0, 0] + c[2, 2] - c[0, 2] - c[2, 0]) / 4
            best = xx * yy - xy**2 > 0
            for other in range(max(0, number - 2), min(len(levels), number + 3)):
                there, (zx, zy) = levels[other].scores.numpy(), levels[other].zoom
                x = round(((j + 12.5) / level.zoom[0]) * zx - 12.5)
                y = round(((i + 12.5) / level.zoom[1]) * zy - 12.5)
                if 0 <= x < there.shape[1] and 0 <= y < there.shape[0]:
                    near = there[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
                    best &= other == number or near.max() <= scores[i, j]
            if best:
                expected.add((j, i))
        found = detection._maxima(levels, highest, number, search)
        assert {tuple(p) for p in found.tolist()} == expected
        assert expected


def test_the_step_goes_to_the_top_of_a_quadratic():
    """Levels of one size, on which bilinear interpolation is exact."""
    top = np.array((20.3, 14.6, 1.2))
    curve = np.array(((-0.5, 0.1, 0.05), (0.1, -0.4, -0.08), (0.05, -0.08, -0.3)))
    levels = []
    for k in range(3):
        x, y = np.meshgrid(np.arange(40.0), np.arange(30.0))
        away = np.stack((x - top[0], y - top[1], np.full(x.shape, k - top[2])), axis=-1)
        value = np.einsum("...i,ij,...j->...", away, curve, away)
        levels.append(Level(torch.from_numpy(value), 2.0**k, (1.0, 1.0)))
    points = torch.tensor([[20, 15], [10, 15]])
    found = quadratic_steps(levels, 1, points)
    np.testing.assert_allclose(found[0].numpy(), top - (20, 15, 1), atol=1e-9)
    assert found[1].tolist() == [0, 0, 0]  # too far away to be known
    assert quadratic_steps(levels, 0, points).tolist() == [[0, 0, 0]] * 2


def test_windows_are_turned_by_what_the_orientation_says(network, monkeypatch, texture):
    """An estimator that says where it is bright; the photo and its copy turned by 90 degrees."""
    lift = Lift(network, "none")

    def brightest(windows):
        y, x = np.mgrid[:64, :64] - 31.5
        rows = windows[:, 0].numpy() - windows[:, 0].numpy().mean(axis=(1, 2), keepdims=True)
        inside = np.hypot(x, y) < 31
        found = np.stack([(rows * inside * axis).sum(axis=(1, 2)) for axis in (x, y)], axis=1)
        return torch.from_numpy(found / np.linalg.norm(found, axis=1, keepdims=True))

    monkeypatch.setattr(lift._network.orientation, "forward", brightest)
    grey = texture((200, 160), seed=4).mean(axis=2).astype(np.uint8)
    turned = np.ascontiguousarray(np.rot90(grey))
    frames = np.c_[
        np.random.default_rng(0).uniform(50, 110, (30, 2)), np.full(30, 3.0), np.zeros(30)
    ]
    there = np.c_[frames[:, 1], 199 - frames[:, 0], frames[:, 2:]]
    from locate.training.data.patches import pyramid

    here, other = pyramid(grey), pyramid(turned)
    angles, angles_there = lift.orient(here, frames), lift.orient(other, there)
    error = (angles_there - angles + np.pi / 2 + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(error).max() < 0.1
    shown = frames.copy()
    shown[:, 3] = 1.0  # however the window is turned when it is shown
    error = (lift.orient(here, shown) - angles + np.pi) % (2 * np.pi) - np.pi
    assert np.median(np.abs(error)) < 0.1
    frames[:, 3], there[:, 3] = angles, angles_there
    same = (lift.describe(here, frames) * lift.describe(other, there)).sum(axis=1)
    assert np.median(same) > 0.98
    frames[:, 3] += 1
    wrong = (lift.describe(here, frames) * lift.describe(other, there)).sum(axis=1)
    assert np.median(wrong) < np.median(same) - 0.005


def test_contract(lift, texture):
    assert isinstance(lift, Extractor)
    assert ExtractorInfo.from_json(lift.info.to_json()) == lift.info
    pixels = texture((300, 200), seed=3)
    seen = lift.extract(pixels, (600, 400))
    assert seen.global_descriptor is None
    features = seen.features
    assert len(features) > 20
    assert features.image_size == (600, 400)
    assert features.descriptors.shape == (len(features), 128)
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-3)
    assert np.all(np.diff(features.scores) <= 0)
    assert np.all((features.keypoints > 0) & (features.keypoints < (600, 400)))
    assert features.keypoints[:, 0].max() > 450
    with ThreadPoolExecutor(3) as pool:
        for again in pool.map(lambda _: lift.extract(pixels, (600, 400)), range(3)):
            np.testing.assert_allclose(again.features.keypoints, features.keypoints, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1), (24, 90), (32, 32), (33, 700), (400, 40)])
def test_empty_and_odd_images_are_no_error(lift, shape):
    assert len(lift.extract(np.full((*shape, 3), 90, np.uint8)).features) == 0
    lift.extract(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))


def test_settings(network, texture):
    pixels = texture((240, 180), seed=1)
    few = Lift(network, "none", max_keypoints=7)
    assert len(few.extract(pixels).features) == 7
    upright = Lift(network, "none", upright=True)
    a, b = few.extract(pixels).features, upright.extract(pixels).features
    np.testing.assert_array_equal(a.keypoints, b.keypoints[:7])
    assert not np.allclose(a.descriptors, b.descriptors[:7])
    assert (few.info.rotation_invariant, upright.info.rotation_invariant) == (True, False)
    prints = {
        Lift(network, "none", **s).info.fingerprint for s in ({}, {"levels": 3}, {"radius": 2})
    }
    assert len(prints) == 3
    with pytest.raises(InputError, match="max_keypoints"):
        Lift(network, "none", max_keypoints=0)
