"""The intervals by which docs/benchmarks/accuracy.md says what is chance in poses."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from benchmarks.common.bootstrap import geometric_ratio, interval, mean_interval, ratio_interval


def quantile_of_medians(n: int, share: float) -> int:
    """The rank that the median of a resample of n values (n odd) is at most with this probability,
    exactly: it is at most k if more than half of n draws are, each with the probability k / n."""
    half = (n + 1) // 2
    for k in range(1, n + 1):
        p = k / n
        if sum(comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(half, n + 1)) >= share:
            return k
    raise AssertionError


@pytest.mark.parametrize("n", [11, 25, 71])
def test_the_interval_of_a_median_is_that_of_all_resamples(n):
    values = np.random.default_rng(3).permutation(np.arange(1.0, n + 1))
    median, low, high = interval(values)
    assert median == (n + 1) / 2
    assert abs(low - quantile_of_medians(n, 0.025)) <= 1
    assert abs(high - quantile_of_medians(n, 0.975)) <= 1


def test_ratios_are_of_the_same_queries():
    """What is twice as large for every query is so for sure, however much the queries differ."""
    others = np.random.default_rng(4).lognormal(size=25)
    assert ratio_interval(2 * others, others) == pytest.approx((2, 2, 2))
    assert geometric_ratio(2 * others, others) == pytest.approx((2, 2, 2))
    ratio, low, high = ratio_interval(2 * others[::-1], others)
    assert ratio == pytest.approx(2)
    assert low < 1.9
    assert high > 2.1


def test_the_interval_of_a_geometric_mean_by_its_standard_error():
    """Of many queries it is 1.96 standard errors of the mean logarithm to either side."""
    rng = np.random.default_rng(5)
    others = rng.lognormal(size=1000)
    values = others * rng.lognormal(0.3, 0.5, size=1000)
    logs = np.log(values / others)
    error = 1.96 * logs.std() / np.sqrt(1000)
    ratio, low, high = geometric_ratio(values, others)
    assert ratio == pytest.approx(np.prod((values / others) ** 0.001))
    assert np.log([low, high]) == pytest.approx(
        [logs.mean() - error, logs.mean() + error], abs=0.004
    )


def test_rows_of_one_photo_are_drawn_together():
    values = np.random.default_rng(5).normal(size=100)
    photos = np.arange(100)
    mean, low, high = mean_interval(values, photos)
    assert mean == pytest.approx(values.mean())
    half = 1.96 * values.std() / 10
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)
    again = mean_interval(np.tile(values, 7), np.tile(photos, 7))
    assert again == pytest.approx((mean, low, high))
    assert all(np.isnan(mean_interval(np.zeros(0), np.zeros(0))))
