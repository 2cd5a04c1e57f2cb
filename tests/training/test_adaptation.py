"""Homographic adaptation: views are taken back to where they were, and averaged over who saw a pixel."""

from __future__ import annotations

import cv2
import numpy as np

from locate.training.data import adaptation
from locate.training.data.adaptation import adapted_heat_map


def blobs(places, shape=(96, 128), sigma=2.0):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    spots = [np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 2 / sigma**2) for x, y in places]
    return np.rint(255 * np.maximum.reduce(spots)).astype(np.uint8)


def test_what_every_view_shows_is_found_where_it_is():
    """A detector of brightness: the average is the image, where views go back to their right places."""
    places = [(30, 40), (80, 20), (100, 70)]
    image = blobs(places)
    found = adapted_heat_map(
        lambda x: x.astype(np.float32) / 255, image, np.random.default_rng(0), 40
    )
    for x, y in places:
        window = found[y - 4 : y + 5, x - 4 : x + 5]
        dy, dx = np.unravel_index(window.argmax(), window.shape)
        assert abs(dx - 4) <= 1
        assert abs(dy - 4) <= 1
        assert window.max() > 0.7
    np.testing.assert_allclose(found, image / 255.0, atol=0.25)


def test_the_identity_comes_first():
    image = np.random.default_rng(1).integers(0, 255, (64, 80)).astype(np.uint8)
    seen = []

    def detect(views):
        seen.extend(views)
        return views.astype(np.float32)

    found = adapted_heat_map(detect, image, np.random.default_rng(0), 1)
    np.testing.assert_array_equal(seen[0], image)
    np.testing.assert_allclose(found, image)


def test_a_pixel_is_divided_by_the_views_that_saw_it():
    """A detector that finds everything everywhere has the same answer everywhere."""
    image = np.full((64, 80), 128, np.uint8)
    found = adapted_heat_map(
        lambda views: np.full(views.shape, 0.5, np.float32), image, np.random.default_rng(3), 30
    )
    np.testing.assert_allclose(found[8:-8, 8:-8], 0.5, atol=1e-3)


def test_what_lies_at_the_edge_of_the_photo_is_left_out(monkeypatch):
    """Where a view is black, and near to it, nothing counts: the edge of the photo is no point."""
    image = np.full((64, 80), 255, np.uint8)

    def edges(views):
        kernel = np.ones((5, 5), np.uint8)
        return np.stack([cv2.dilate((view == 0).astype(np.float32), kernel) for view in views])

    found = adapted_heat_map(edges, image, np.random.default_rng(0), 40)
    assert found.max() < 0.05
    monkeypatch.setattr(adaptation, "_ERODED", 0)
    assert adapted_heat_map(edges, image, np.random.default_rng(0), 40).max() > 0.2


def test_edges_of_views_do_not_count():
    """What a detector sees along the edges of its image is there in the first answer alone."""
    image = np.full((64, 80), 90, np.uint8)

    def detect(views):
        found = np.zeros(views.shape, np.float32)
        found[:, :5] = found[:, -5:] = found[:, :, :5] = found[:, :, -5:] = 1
        return found

    def mean_inside(edge):
        rng = np.random.default_rng(0)
        return adapted_heat_map(detect, image, rng, 20, edge=edge)[8:-8, 8:-8].mean()

    assert mean_inside(0) > 0.01
    assert mean_inside(6) < 1e-6
