"""Errors of the poses of every query of a scene, and how far their medians hang on chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from locate.datasets.localization import find_scenes
from locate.extractors.base import Extractor
from locate.metrics.pose import pose_errors
from locate.types import Array
from pipelines.evaluation.localization import MapMaker, splits

RESAMPLES = 2000


def errors_of(extractor: Extractor, folder: Path) -> tuple[Array, Array]:
    """N millimetres and N degrees, infinite where there is no pose, by the folds and at the defaults of
    `locate evaluate localization`. Queries come in the same order for every extractor."""
    (scene,) = find_scenes(folder)
    found, truth = [], []
    with MapMaker(extractor) as make:
        for queries, mapped in splits(scene):
            localize = make(scene, mapped)
            found += [localize(query.path, query.camera) for query in queries]
            truth += [query.cam_from_world for query in queries]
    positions, rotations = pose_errors(found, truth)
    return 1000 * positions, rotations


def interval(values: Array) -> tuple[float, float, float]:
    """The median, and the percentiles 2.5 and 97.5 of those of resamples (Efron 1979)."""
    medians = np.median(values[_drawn(len(values))], axis=1)
    return float(np.median(values)), *np.percentile(medians, (2.5, 97.5)).tolist()


def ratio_interval(values: Array, others: Array) -> tuple[float, float, float]:
    """The median of `values` divided by that of `others`, which belong to the same queries, and the
    percentiles as above, both of the same resamples."""
    drawn = _drawn(len(values))
    ratios = np.median(values[drawn], axis=1) / np.median(others[drawn], axis=1)
    ratio = float(np.median(values) / np.median(others))
    return ratio, *np.percentile(ratios, (2.5, 97.5)).tolist()


def geometric_ratio(values: Array, others: Array) -> tuple[float, float, float]:
    """The geometric mean of `values` divided by `others`, which belong to the same queries, and the
    percentiles as above."""
    logs = np.log(values / others)
    means = logs[_drawn(len(logs))].mean(axis=1)
    return float(np.exp(logs.mean())), *np.exp(np.percentile(means, (2.5, 97.5))).tolist()


def _drawn(count: int) -> Array:
    return np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
