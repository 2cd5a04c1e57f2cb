"""Corners that place what another detector chose, against a loop."""

from __future__ import annotations

import cv2
import numpy as np

from locate.extractors.blocks.corners import corners, to_corners


def by_loop(points, there, distance):
    found = {}
    for i, point in enumerate(points):
        away = np.hypot(*(there - point).T)
        nearest = int(away.argmin())
        if away[nearest] <= distance and nearest not in found:
            found[nearest] = i
    return list(found.values()), there[list(found)]


def test_each_point_moves_to_its_nearest_corner_and_the_best_keeps_it(texture):
    image = texture((160, 120))
    there, _, _ = corners(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (1.0,))
    assert len(there) > 40
    rng = np.random.default_rng(0)
    points = rng.uniform(0, (159, 119), (400, 2))
    for distance in (1.5, 5.0):
        kept, moved = to_corners(points, image, distance)
        by_hand, places = by_loop(points, there, distance)
        assert kept.tolist() == by_hand
        np.testing.assert_array_equal(moved, places)
        assert (np.hypot(*(points[kept] - moved).T) <= distance).all()
        assert 0 < len(kept) < len(there) + 1


def test_nothing_moves_on_a_flat_image_or_without_points():
    flat = np.full((60, 80, 3), 120, np.uint8)
    for points in (np.array([[20.0, 30.0]]), np.zeros((0, 2))):
        kept, moved = to_corners(points, flat, 5.0)
        assert kept.shape == (0,)
        assert moved.shape == (0, 2)
