"""Synthetic shapes: their corners are where the image has them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from locate.errors import InputError
from locate.training.data.shapes import SHAPES, _Canvas, draw_shape

SIZE = (160, 120)


@pytest.mark.parametrize("kind", SHAPES)
def test_every_kind(kind):
    counts = []
    for seed in range(12):
        image, corners = draw_shape(kind, np.random.default_rng(seed), SIZE)
        assert (image.shape, image.dtype) == ((120, 160), np.uint8)
        assert image.std() > 1
        assert np.all((corners >= 0) & (corners <= (159, 119)))
        counts.append(len(corners))
        again = draw_shape(kind, np.random.default_rng(seed), SIZE)
        np.testing.assert_array_equal(again.image, image)
        np.testing.assert_array_equal(again.corners, corners)
    assert (max(counts) == 0) == (kind in ("ellipses", "noise"))


def test_a_corner_lies_where_its_edges_meet():
    """An independent look: OpenCV's refinement of corners, by gradients, moves a corner of a polygon by
    a fraction of a pixel alone; half a pixel off would show."""
    moves = []
    for seed in range(60):
        image, corners = draw_shape("checkerboard", np.random.default_rng(seed), SIZE)
        inner = corners[np.all((corners > 8) & (corners < (151, 111)), axis=1)]
        if len(inner) == 0:
            continue
        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 40, 1e-3)
        start = inner.astype(np.float32)[:, None]
        found = cv2.cornerSubPix(image, start.copy(), (3, 3), (-1, -1), stop)[:, 0]
        moves.append(found - inner)
    moves = np.concatenate(moves)
    near = np.linalg.norm(moves, axis=1) < 1.5  # where several corners are near, it finds another
    assert near.mean() > 0.6
    assert np.abs(np.median(moves[near], axis=0)).max() < 0.05
    assert np.median(np.linalg.norm(moves[near], axis=1)) < 0.45


def test_a_square_covers_the_pixels_that_it_should():
    canvas = _Canvas(np.random.default_rng(0), (64, 64))
    canvas._fine[:] = 0
    # From the left edge of pixel 10 to the middle of pixel 20; y alike.
    canvas.polygon(np.array([(9.5, 9.5), (20, 9.5), (20, 20), (9.5, 20)]), 200.0)
    image = cv2.resize(canvas._fine, (64, 64), interpolation=cv2.INTER_AREA)
    row = image[15]
    assert row[9] == pytest.approx(0, abs=30)
    assert row[11:20] == pytest.approx(np.full(9, 200))
    assert row[20] == pytest.approx(100, abs=60)
    assert row[22] == 0


def test_what_cannot_be_drawn():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="'heart'"):
        draw_shape("heart", rng, SIZE)
    with pytest.raises(InputError, match="32 pixels"):
        draw_shape("star", rng, (160, 16))
