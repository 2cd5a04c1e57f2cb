"""Metrics against cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from locate.errors import InputError
from locate.metrics.common import average_precision, mean_defined, open_set, open_set_threshold


def test_average_precision_by_hand():
    # Relevant at ranks 1, 3, 6: (1/1 + 2/3 + 3/6) / 3
    assert average_precision([1, 0, 1, 0, 0, 1]) == pytest.approx((1 + 2 / 3 + 1 / 2) / 3)
    assert average_precision([1, 1, 0, 0]) == 1.0
    assert average_precision([0, 0, 1]) == pytest.approx(1 / 3)
    # One of two positives was never ranked.
    assert average_precision([1, 0], positives=2) == 0.5
    assert math.isnan(average_precision([0, 0]))


def test_mean_defined_leaves_nan_out_and_counts_infinity():
    assert mean_defined([1.0, math.nan, 3.0]) == 2.0
    assert math.isnan(mean_defined([math.nan]))
    assert math.isnan(mean_defined([]))
    assert mean_defined([1.0, math.inf]) == math.inf


def test_open_set_by_hand():
    # 200 photos of absent places reach 0, 1, ..., 199: at 1 % two may be accepted, 198 and 199.
    absent = np.arange(200.0)
    known = np.array([150.0, 197.0, 197.5, 198.0, 300.0, 400.0, -np.inf, 250.0])
    right = np.array([True, True, True, True, True, False, False, True])
    result = open_set(known, right, absent)
    assert 197 < result.threshold < 197.0001
    assert result.false_accepts == 0.01
    assert result.right == 4 / 8  # 197.5, 198, 300, 250; the rejected ones stay in the denominator
    assert result.wrong == 1 / 8
    assert open_set(known, right, absent, rate=0.0).right == 2 / 8


def test_open_set_threshold_is_the_least_that_keeps_the_rate():
    rng = np.random.default_rng(0)
    for n in (1, 7, 99, 100, 101, 250, 1000):
        absent = rng.integers(0, 40, n).astype(float)  # many ties
        threshold = open_set_threshold(absent, 0.03)
        assert np.mean(absent >= threshold) <= 0.03
        below = absent[absent < threshold].max()
        assert np.mean(absent >= below) > 0.03, "a lower threshold would have done"


def test_open_set_ties_are_rejected_together():
    absent = np.array([5.0] * 3 + [1.0] * 97)  # three reach 5, only one may
    result = open_set([5.0, 5.1], [True, True], absent)
    assert result.false_accepts == 0.0
    assert result.right == 0.5


def test_open_set_edges():
    assert math.isnan(open_set([1.0], [True], []).right)
    assert math.isnan(open_set([], [], [1.0]).right)
    # Fewer than 100: none may be accepted. Photos without any candidate have no evidence at all.
    nobody = open_set([0.0, -np.inf], [True, False], [-np.inf] * 50)
    assert (nobody.right, nobody.wrong, nobody.false_accepts) == (0.5, 0.0, 0.0)
    assert open_set_threshold([1.0], 1.0) == -math.inf
    assert open_set_threshold(np.arange(100.0), 0.29) == np.nextafter(70.0, np.inf)
    for arguments in (([1.0], [True, False], [1.0]), ([math.nan], [True], [1.0])):
        with pytest.raises(InputError):
            open_set(*arguments)
    with pytest.raises(InputError, match=r"1\.5"):
        open_set_threshold([1.0], 1.5)
