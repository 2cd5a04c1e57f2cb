"""Metrics against cases computed by hand."""

from __future__ import annotations

import math

import pytest

from locate.metrics import average_precision


def test_average_precision_by_hand():
    # Relevant at ranks 1, 3, 6: (1/1 + 2/3 + 3/6) / 3
    assert average_precision([1, 0, 1, 0, 0, 1]) == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert average_precision([1, 1, 0, 0]) == 1.0
    assert average_precision([0, 0, 1]) == pytest.approx(1 / 3)
    # One of two positives was never ranked.
    assert average_precision([1, 0], positives=2) == 0.5
    assert math.isnan(average_precision([0, 0]))
