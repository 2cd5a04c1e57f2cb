"""Correspondences without ground truth: matches of a known extractor that one rigid motion explains.

What survives mutual nearest neighbours, the ratio test and RANSAC between two photos of one scene is
nearly always right, and it is there for any folder of photos. A network that learns from it can only
learn what the teacher finds; a better matcher may write a file of pairs
(`locate.training.data.correspondences`)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from locate.errors import ImageError, InputError
from locate.images.reading import read_photo
from locate.matching.descriptors import match_mutual
from locate.matching.two_view import verify
from locate.training.data.correspondences import MatchedPair
from locate.types import Array, Extraction, Features, Verification

log = logging.getLogger("locate")


class Teacher(Protocol):
    """What of an extractor (`locate.extractors.base.Extractor`, a floor above) is used here."""

    @property
    def info(self) -> Any: ...

    @property
    def max_side(self) -> int: ...

    def extract(self, pixels: Array, size: tuple[int, int]) -> Extraction: ...


_RATIO = 0.8  # of Lowe's test
_MIN_SPREAD = 0.02  # share of the image that the inliers must cover
_INNER = 0.75  # share of the inliers that this is judged by
_MIN_MOTION = 1.5  # pixels at the working size: less, and the photos teach nothing about viewpoint


def pseudo_pairs(
    scenes: Mapping[str, Sequence[Path]],
    extractor: Teacher,
    *,
    rng: np.random.Generator,
    min_inliers: int = 30,
    max_pairs_per_scene: int = 200,
    match: Callable[[Features, Features], Array] | None = None,
) -> list[MatchedPair]:
    """Verified matches between photos of the same scene (scene name -> photos): pairs with their
    inliers only, scene by scene in the order of names. `rng` draws the pairs that are tried where a
    scene has more than `max_pairs_per_scene`; `match` gives M x 2 indices (by default mutual nearest
    neighbours that pass Lowe's test).

    Pairs are left out whose inliers are less than `min_inliers` or cover less than 2 % of either image,
    and those in which they lie at the same place in both: a watermark, a date, or the same shot twice.
    """
    if min_inliers < 1 or max_pairs_per_scene < 1:
        given = f"{min_inliers} and {max_pairs_per_scene}"
        raise InputError(f"min_inliers and max_pairs_per_scene must be at least 1, got {given}")
    drawn = {name: _draw(len(scenes[name]), max_pairs_per_scene, rng) for name in sorted(scenes)}
    found = []
    for name, pairs in drawn.items():
        for a, b, (one, other) in _features_of(scenes[name], pairs, extractor):
            if one is None or other is None:
                continue
            matches = (match or _match)(one, other)
            points = verified(one, other, matches, extractor.max_side, min_inliers)
            if points is not None:
                paths = scenes[name][a], scenes[name][b]
                found.append(MatchedPair(*paths, *points, source=extractor.info.name))
    return found


def _match(one: Features, other: Features) -> Array:
    return match_mutual(one.descriptors, other.descriptors, _RATIO)


def _draw(count: int, budget: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """At most `budget` of the pairs (a, b), a < b, of `count` photos, ascending."""
    if math.comb(count, 2) <= budget:
        return list(combinations(range(count), 2))
    # Pair k of those in the order (0, 1), (0, 2), (1, 2), (0, 3), ...: b is the largest with
    # b (b - 1) / 2 <= k.
    chosen = rng.choice(math.comb(count, 2), budget, replace=False).tolist()
    ends = ((k, (1 + math.isqrt(1 + 8 * k)) // 2) for k in chosen)
    return sorted((k - b * (b - 1) // 2, b) for k, b in ends)


def _features_of(
    photos: Sequence[Path], pairs: Sequence[tuple[int, int]], extractor: Teacher
) -> Iterator[tuple[int, int, tuple[Features | None, Features | None]]]:
    """Each pair with the features of both, None of what cannot be read. A photo is read once, and
    forgotten after its last pair."""
    last = {index: k for k, pair in enumerate(pairs) for index in pair}
    kept: dict[int, Features | None] = {}
    for k, (a, b) in enumerate(pairs):
        for index in (a, b):
            if index not in kept:
                kept[index] = _extract(photos[index], extractor)
        yield a, b, (kept[a], kept[b])
        for index in (a, b):
            if last[index] == k:
                del kept[index]


def _extract(path: Path, extractor: Teacher) -> Features | None:
    try:
        photo = read_photo(path, min_long_side=extractor.max_side)
    except ImageError as error:
        log.warning("left out of training: %s", error)
        return None
    features = extractor.extract(photo.pixels, photo.info.size).features
    if features is None:
        raise InputError(
            f"the extractor {extractor.info.name!r} has no local features; name one that has, as sift"
        )
    # Half the memory; the same matches but for ties.
    return replace(features, descriptors=features.descriptors.astype(np.float16))


def verified(
    a: Features, b: Features, matches: Array, working_side: int, min_inliers: int
) -> tuple[Array, Array] | None:
    """The points in both images of the matches that one fundamental matrix explains, or None if the pair
    proves nothing."""
    found = verify(a, b, matches, working_side)
    if found.inlier_count < min_inliers or is_degenerate(
        found, a.image_size, b.image_size, working_side
    ):
        return None
    return found.query_points[found.inliers], found.database_points[found.inliers]


def is_degenerate(
    found: Verification, size_a: tuple[int, int], size_b: tuple[int, int], working_side: int = 1024
) -> bool:
    """Whether the inliers lie on one spot or one line of an image, or at the same place in both."""
    a = found.query_points[found.inliers].astype(np.float64)
    b = found.database_points[found.inliers].astype(np.float64)
    if min(spread(a, size_a), spread(b, size_b)) < _MIN_SPREAD:
        return True
    # In shares of the long side, so that one shot in two resolutions counts as the same place.
    moved = np.linalg.norm((a + 0.5) / max(size_a) - (b + 0.5) / max(size_b), axis=1)
    side = min(working_side, max(*size_a, *size_b))
    return bool(np.median(moved) * side < _MIN_MOTION)


def spread(points: Array, size: tuple[int, int]) -> float:
    """About the share of an image of `size` (width, height) that N points cover: 1 if they fill it
    evenly, 0 if they lie on a line.

    Only the 3/4 of them that lie nearest to their median count, since some wrong matches always agree
    with a fundamental matrix and lie anywhere."""
    if len(points) < 4:
        return 0.0
    shares = np.asarray(points, np.float64) / size
    far = np.linalg.norm(shares - np.median(shares, axis=0), axis=1)
    inner = shares[np.argsort(far, kind="stable")[: math.ceil(_INNER * len(shares))]]
    determinant = float(np.linalg.det(np.cov(inner, rowvar=False, bias=True)))
    # A disc that is evenly filled has the variance r^2 / 4 along each axis.
    return 4 * math.pi * math.sqrt(max(determinant, 0.0)) / _INNER
