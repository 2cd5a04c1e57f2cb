"""How far a number hangs on which photos or queries happened to be asked: 95 % intervals by the bootstrap
(Efron 1979), percentiles 2.5 and 97.5 of what resamples give."""

from __future__ import annotations

import numpy as np

from locate.types import Array

RESAMPLES = 2000
_ENDS = (2.5, 97.5)


def interval(values: Array) -> tuple[float, float, float]:
    """The median, and the percentiles of those of resamples."""
    medians = np.median(values[_drawn(len(values))], axis=1)
    return float(np.median(values)), *np.percentile(medians, _ENDS).tolist()


def ratio_interval(values: Array, others: Array) -> tuple[float, float, float]:
    """The median of `values` divided by that of `others`, which belong to the same queries, and the
    percentiles as above, both of the same resamples."""
    drawn = _drawn(len(values))
    ratios = np.median(values[drawn], axis=1) / np.median(others[drawn], axis=1)
    ratio = float(np.median(values) / np.median(others))
    return ratio, *np.percentile(ratios, _ENDS).tolist()


def geometric_ratio(values: Array, others: Array) -> tuple[float, float, float]:
    """The geometric mean of `values` divided by `others`, which belong to the same queries, and the
    percentiles as above."""
    logs = np.log(values / others)
    means = logs[_drawn(len(logs))].mean(axis=1)
    return float(np.exp(logs.mean())), *np.exp(np.percentile(means, _ENDS)).tolist()


def mean_interval(values: Array, units: Array) -> tuple[float, float, float]:
    """The mean of N values and the percentiles as above, where what is resampled is not the values but
    the `units` (N labels) that they belong to, such as the photo that several of them are of. Of
    differences of two extractors on the same pairs it is the paired interval. NaN for no value."""
    if not len(values):
        return (float("nan"),) * 3
    _, unit = np.unique(units, return_inverse=True)
    sums, counts = np.bincount(unit, values), np.bincount(unit)
    drawn = _drawn(len(sums))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return float(values.mean()), *np.percentile(means, _ENDS).tolist()


def _drawn(count: int) -> Array:
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
