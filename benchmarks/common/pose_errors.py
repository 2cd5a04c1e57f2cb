"""Errors of the poses of every query of a scene."""

from __future__ import annotations

from pathlib import Path

from locate.datasets.localization import find_scenes
from locate.extractors.base import Extractor
from locate.metrics.pose import pose_errors
from locate.types import Array
from pipelines.evaluation.localization import MapMaker, splits


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
