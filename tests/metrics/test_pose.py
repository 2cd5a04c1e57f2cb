"""Pose errors against cases computed by hand and against OpenCV's rotations."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from locate.errors import InputError
from locate.metrics.pose import (
    OUTDOOR,
    camera_center,
    median_errors,
    pose_errors,
    pose_recall,
    position_error,
    rotation_error,
)


def pose(axis_angle=(0, 0, 0), center=(0, 0, 0)):
    """3 x 4 cam_from_world of a camera that stands at `center`."""
    rotation, _ = cv2.Rodrigues(np.radians(np.array(axis_angle, np.float64)))
    return np.c_[rotation, -rotation @ np.array(center, np.float64)]


def test_center_by_hand():
    # Turned by 90 degrees about z: x_cam = (-y, x, z) + t. The camera's own origin is where
    # (-y, x, z) = -t = (-1, -2, -3), so at y = 1, x = -2, z = -3.
    cam_from_world = np.array([[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3]])
    assert camera_center(cam_from_world) == pytest.approx((-2, 1, -3))
    assert camera_center(np.vstack((cam_from_world, (0, 0, 0, 1)))) == pytest.approx((-2, 1, -3))


def test_errors_by_hand():
    assert position_error(pose((0, 30, 0), (3, 4, 0)), pose((10, 0, 0))) == pytest.approx(5)
    assert rotation_error(pose((0, 30, 0)), pose((0, -15, 0))) == pytest.approx(45)
    assert rotation_error(pose((180, 0, 0)), pose()) == pytest.approx(180)
    assert rotation_error(pose((0, 0, 1e-9)), pose()) == pytest.approx(0, abs=1e-5)


def test_the_cosine_is_clipped():
    nearly = pose((20, 30, 40))
    nearly[:, :3] *= 1 + 1e-6  # written with few digits: the trace exceeds 3
    assert rotation_error(nearly, nearly) == 0.0


def test_errors_agree_with_rodrigues():
    rng = np.random.default_rng(1)
    for _ in range(20):
        a = pose(rng.uniform(-100, 100, 3), rng.normal(size=3))
        b = pose(rng.uniform(-100, 100, 3), rng.normal(size=3))
        vector, _ = cv2.Rodrigues(a[:, :3] @ b[:, :3].T)
        assert rotation_error(a, b) == pytest.approx(np.degrees(np.linalg.norm(vector)), abs=1e-6)
        assert rotation_error(a, b) == pytest.approx(rotation_error(b, a))


def test_an_inverted_pose_or_t_for_the_centre_is_caught():
    truth = pose((0, 90, 0), (100, 0, 0))
    estimated = pose((0, 90.5, 0), (100, 0, 0.1))
    good = pose_errors([estimated], [truth])
    assert pose_recall(*good) == pytest.approx([1, 1, 1])
    world_from_cam = np.linalg.inv(np.vstack((estimated, (0, 0, 0, 1))))
    assert position_error(world_from_cam, truth) > 50
    assert rotation_error(world_from_cam, truth) > 90
    center_for_t = np.c_[estimated[:, :3], (100, 0, 0.1)]
    assert position_error(center_for_t, truth) > 50
    assert pose_recall(*pose_errors([center_for_t], [truth]))[2] == 0
    # The error of t instead of that of c: half a degree at 100 m would be almost a metre.
    assert np.linalg.norm(estimated[:, 3] - truth[:, 3]) > 0.5 > good[0][0]


def test_recall_by_hand():
    # (0.25 m, 2 deg) (0.5 m, 5 deg) (5 m, 10 deg)
    positions = [0.25, 0.1, 0.4, 4.0, np.inf]
    rotations = [2.0, 6.0, 1.0, 9.0, np.inf]
    assert pose_recall(positions, rotations, OUTDOOR) == pytest.approx([0.2, 0.4, 0.8])
    # On the threshold: hloc does not count it.
    assert pose_recall(positions, rotations, OUTDOOR, inclusive=False)[0] == 0
    # Both at once: a query that meets one threshold each is not counted.
    assert pose_recall([0.1, 9], [90, 1]) == pytest.approx([0, 0, 0])


def test_what_is_not_localized_stays_in_the_denominator():
    truth = [pose()] * 4
    broken = pose()
    broken[0, 3] = np.nan
    positions, rotations = pose_errors([pose(), None, broken, pose((0, 1, 0), (0.1, 0, 0))], truth)
    assert np.isinf(positions).tolist() == [False, True, True, False]
    assert np.isinf(rotations).tolist() == [False, True, True, False]
    assert pose_recall(positions, rotations) == pytest.approx([0.5, 0.5, 0.5])
    assert pose_recall([0.0, np.nan], [0.0, np.nan])[0] == 0.5


def test_medians():
    assert median_errors([0.1, 0.3, 0.2], [5, 1, 2]) == (0.2, 2.0)
    assert median_errors([0.1, 0.2, np.inf], [1, 2, np.inf]) == (0.2, 2.0)
    assert median_errors([0.1, np.inf, np.inf, 0.1], [1, np.inf, np.nan, 2]) == (np.inf, np.inf)
    assert median_errors([np.inf] * 2, [np.inf] * 2) == (np.inf, np.inf)


def test_no_queries():
    positions, rotations = pose_errors([], [])
    assert np.isnan(pose_recall(positions, rotations)).all()
    assert all(math.isnan(m) for m in median_errors(positions, rotations))


@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(3),
        np.vstack((pose((10, 20, 30), (1, 2, 3)), (0, 0, 0, 1))).T,
        2 * pose(),
        np.c_[np.diag((1, 1, -1)), np.zeros(3)],
        np.full((3, 4), np.nan),
    ],
    ids=["no t", "transposed", "scaled", "mirrored", "nan"],
)
def test_what_is_not_a_pose_is_refused(matrix):
    with pytest.raises(InputError):
        camera_center(matrix)
    with pytest.raises(InputError):
        pose_errors([pose()], [matrix])


def test_lists_of_different_length_are_refused():
    with pytest.raises(InputError):
        pose_errors([pose()], [])
    with pytest.raises(InputError):
        pose_recall([1.0, 2.0], [1.0])
