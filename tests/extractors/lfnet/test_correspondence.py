"""Where pixels lie in the other image: homographies and the surroundings of known points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locate.extractors.lfnet.correspondence import (
    around_points,
    by_homography,
    joined,
    local_affine,
    owners_of,
)
from locate.pixels import apply_homography

H = np.array([[0.9, 0.3, 3], [-0.25, 1.1, -2], [0.001, -0.0005, 1]])


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def similarity(angle, scale, shift=(0.0, 0.0)):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s, shift[0]], [s, c, shift[1]], [0, 0, 1]])


def test_a_homography_and_its_jacobian_by_differences():
    field = by_homography(torch.from_numpy(H), (20, 30))
    assert field.seen.all()
    for y, x in [(0, 0), (19, 29), (7, 22)]:
        here = np.array([[x, y]], np.float64)
        np.testing.assert_allclose(field.where[0, :, y, x], apply_homography(H, here)[0])
        step = 1e-5
        columns = [
            (apply_homography(H, here + d)[0] - apply_homography(H, here - d)[0]) / (2 * step)
            for d in step * np.eye(2)
        ]
        expected = np.stack(columns, axis=1)
        np.testing.assert_allclose(field.jacobian[0, :, y, x].view(2, 2), expected, rtol=1e-6)
        log_scale = np.log(np.sqrt(abs(np.linalg.det(expected))))
        assert field.log_scale()[0, y, x].item() == pytest.approx(log_scale)
        u, _, v = np.linalg.svd(expected)
        nearest = u @ v  # the polar decomposition's rotation
        cos, sin = field.turn()
        found = cos[0, y, x].item(), sin[0, y, x].item()
        assert found == pytest.approx((nearest[0, 0], nearest[1, 0]))
    behind = by_homography(torch.tensor([[1.0, 0, 0], [0, 1, 0], [-0.1, 0, 1]]), (4, 20))
    assert behind.seen[0, 0].tolist() == [x < 10 for x in range(20)]
    assert torch.isfinite(behind.where).all()


@pytest.mark.parametrize("angle", [0.4, -2.9])
def test_the_turn_and_scale_of_a_similarity(angle):
    field = by_homography(torch.from_numpy(similarity(angle, 1.3)), (3, 4))
    cos, sin = field.turn()
    torch.testing.assert_close(cos, torch.full_like(cos, np.cos(angle)))
    torch.testing.assert_close(sin, torch.full_like(sin, np.sin(angle)))
    torch.testing.assert_close(field.log_scale(), torch.full_like(cos, np.log(1.3)))


def test_points_between_pixels_are_brought_over():
    field = by_homography(torch.from_numpy(H), (20, 30))
    points = torch.tensor([[[12.3, 7.6], [4.0, 18.2]]], dtype=torch.float64)
    pixels = torch.tensor([[8 * 30 + 12, 18 * 30 + 4]])
    found = field.bring(points, pixels)[0].numpy()
    np.testing.assert_allclose(found, apply_homography(H, points[0].numpy()), atol=2e-3)


def test_around_known_points_an_affine_map_holds(rng):
    affine = np.array([[0.8, -0.5], [0.6, 0.9]])
    here = rng.uniform(5, 45, (20, 2))
    there = here @ affine.T + (3, 9)
    found, good = local_affine(here, there)
    assert good.all()
    np.testing.assert_allclose(found, np.broadcast_to(affine, found.shape), atol=1e-4)
    owners = owners_of(here, (50, 50))
    field = around_points(
        *(torch.from_numpy(x) for x in (owners, here, there, found.reshape(-1, 4)))
    )
    middles = np.rint(here)
    for y, x in np.ndindex(50, 50):
        steps = np.abs(middles - (x, y))
        near = (steps <= 3).all(axis=1)
        assert field.seen[0, y, x] == near.any()
        if near.any():
            squared = (steps**2).sum(axis=1)
            assert squared[owners[y, x]] == squared[near].min()  # the nearest has it
            expected = affine @ (x, y) + (3, 9)
            np.testing.assert_allclose(field.where[0, :, y, x], expected, atol=1e-2)
            np.testing.assert_allclose(field.jacobian[0, :, y, x], affine.ravel(), atol=1e-4)


def test_what_no_affine_map_explains_is_left_out(rng):
    here = rng.uniform(5, 45, (40, 2))
    there = here + rng.normal(scale=0.3, size=(40, 2))
    assert local_affine(here, there)[1].mean() > 0.9
    assert not local_affine(here, rng.uniform(5, 45, (40, 2)))[1].any()
    assert not local_affine(here, here * (-1, 1))[1].any()  # mirrored
    assert not local_affine(here, here * (1, 0.2))[1].any()  # stretched
    assert not local_affine(here, here * 5)[1].any()
    line = np.stack((here[:, 0], 20 + 0 * here[:, 1]), axis=1)
    assert not local_affine(line, line)[1].any()  # says nothing of the other direction
    assert not local_affine(here[:3], here[:3])[1].any()
    assert local_affine(here[:0], here[:0])[0].shape == (0, 2, 2)


def test_what_is_seen_by_hand(rng):
    """Both pixels on what the images show, and none at a border."""
    shape = (50, 60)
    homographies = [similarity(0.5, 1.2, (8, -6)), similarity(np.pi, 0.8, (58, 50))]
    valid, there = rng.random((2, 2, *shape)) < 0.8
    field = joined(
        [by_homography(torch.from_numpy(h), shape) for h in homographies],
        torch.from_numpy(valid),
        torch.from_numpy(there),
    )
    assert field.where.shape == (2, 2, *shape)
    seen = 0
    for b, y, x in np.ndindex(2, *shape):
        (u, v), *_ = np.rint(apply_homography(homographies[b], np.array([[x, y]]))).astype(int)
        expected = 16 <= x < 44 and 16 <= y < 34 and 16 <= u < 44 and 16 <= v < 34
        expected = expected and valid[b, y, x] and there[b, v, u]
        assert field.seen[b, y, x] == expected
        seen += bool(expected)
    assert seen > 100
