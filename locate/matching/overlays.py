"""Overlays: captions, frames, watermarks, time stamps, a screenshot's furniture, the bonnet of a
car.

What stands at the same pixels of two photos whose rest has moved says nothing about the place, yet
its matches agree perfectly with a fundamental matrix: any [e]x has x^T [e]x x = 0 for all x.
COLMAP leaves out pairs whose matches near the border are a mere shift ("watermark detection",
Schönberger and Frahm, "Structure-from-Motion Revisited", CVPR 2016, section 4.1); here single
matches are left out, wherever they lie, and the rest may still prove the place.

Standing still is not enough: copies of a photo and photos from a tripod stand still as a whole,
and are true matches. So it is asked whether the rest stands still too. Where two photos show one
still scene, the features of both should have found each other at the same pixels nearly everywhere
(`_rest_has_moved`).

A feature has a twin where the other photo has a similar one at the same pixels. Words that repeat
over a photo are matched to another copy of themselves; their twins give them away.

Below, `places` (N x 2) are the query's keypoints, and `radius` is, in pixels of the database image;
`still` are the matches that stand still.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from locate.pixels import extraction_scale, unrotate_points
from locate.types import Array, Features

TOLERANCE = 3.0  # pixels at the working size, between features that stand at the same place
BESIDE = 10.0  # pixels at the working size, from what stands still, that belong to the overlay too
LEAST = 5  # matches or twins that are worth asking about
GRID = 12  # cells along each side of a photo, in which it is asked what stands still
MOVED = 1 / 6  # of what should have been found again, in one rectangle: the rest has moved
SUPPORTED = 0.5  # of what should have been found again, that a still scene finds at least
_CHANCE = 0.02  # of features that meet by accident, which count as similar
_SURE = 4.0  # times as many similar ones as by accident are none
_AROUND = 5  # matches nearest to one that stands still
_SMALL_MOTION = 4.0  # times the tolerance
_AS_MANY = 1.0  # times the matches that stand still, have moved so little
_PIECE = 0.4  # of the matches that are left, which a further piece of an overlay has
_MOST_PIECES = 4
# In pixels at the working size: what meets when one photo is moved by so much, meets by accident.
_ACCIDENTS = ((23.0, 11.0), (-19.0, 27.0), (31.0, -14.0), (-12.0, -33.0))


@dataclass(frozen=True)
class Alignment:
    """Where an overlay of one photo stands in another: the query is turned by `rotation` (0, 90, 180 or
    270 degrees counter-clockwise) and of `size` (width, height) then; a pixel of it is `scale` of the
    database image, `offset` (x, y) pixels of which lie between their upper left corners."""

    rotation: int
    size: tuple[int, int]
    scale: float
    offset: tuple[float, float]

    def to_database(self, points: Array) -> Array:
        """N x 2 pixels of the query -> where an overlay has them in the database image."""
        # Turning back by what is left of a full turn is turning.
        before = self.size[::-1] if self.rotation in (90, 270) else self.size
        turned = unrotate_points(points, before, (360 - self.rotation) % 360)
        return np.asarray((turned + 0.5) * self.scale - 0.5 + np.asarray(self.offset))


def alignments(query: tuple[int, int], database: tuple[int, int]) -> Iterator[Alignment]:
    """All ways in which an overlay may stand in photos of two sizes (width, height): as many
    pixels large in both, or grown with the width or with the height; held by the left, the middle
    or the right, the top, the middle or the bottom; and each with the query turned."""
    for rotation in (0, 90, 180, 270):
        size = query[::-1] if rotation in (90, 270) else query
        seen: set[tuple[float, float, float]] = set()
        for scale in (1.0, database[0] / size[0], database[1] / size[1]):
            free = [database[k] - scale * size[k] for k in (0, 1)]
            for x in (0.0, free[0] / 2, free[0]):
                for y in (0.0, free[1] / 2, free[1]):
                    key = (round(scale, 3), round(x), round(y))
                    if key not in seen:
                        seen.add(key)
                        yield Alignment(rotation, size, scale, (x, y))


def on_overlay(
    query: Features, database: Features, matches: Array, working_side: int = 1024
) -> Array:
    """Which matches (M x 2 int) of two images, shrunk to a long side of at most `working_side` pixels
    before detection, lie on an overlay: M bool; none where nothing stands still, or everything does."""
    none = np.zeros(len(matches), np.bool_)
    if len(matches) < LEAST:
        return none
    units = [extraction_scale(max(f.image_size), working_side) for f in (query, database)]
    points = database.keypoints[matches[:, 1]]
    best, still, radius = None, none, 0.0
    for one in alignments(query.image_size, database.image_size):
        reach = TOLERANCE * max(units[1], one.scale * units[0])
        moved = one.to_database(query.keypoints[matches[:, 0]]) - points
        now = (moved**2).sum(axis=1) <= reach**2
        if best is None or now.sum() > still.sum():
            best, still, radius = one, now, reach
    assert best is not None
    places = best.to_database(query.keypoints)
    if still.sum() >= LEAST and _motion_goes_on(places, database, matches, still, radius):
        return none
    a, b = _twins(query, database, places, radius)
    if still.sum() < LEAST and not len(a):
        return none
    if not _rest_has_moved(places, database, matches[still, 0]):
        return none
    on = still.copy()
    a, b = np.append(a, matches[still, 0]), np.append(b, matches[still, 1])
    for features, own, unit, column in ((query, a, units[0], 0), (database, b, units[1], 1)):
        points = features.keypoints[matches[:, column]]
        on[_Near(features.keypoints[own], BESIDE * unit)(points)[0]] = True
    return on | _pieces(places, database, matches, on, radius)


def _motion_goes_on(
    places: Array, database: Features, matches: Array, still: Array, radius: float
) -> bool:
    """Whether the matches around those that stand still have hardly moved either: then these are
    where a small motion of the camera is none, such as the middle of a zoom or what is far away."""
    others = matches[~still]
    shifts = np.linalg.norm(database.keypoints[others[:, 1]] - places[others[:, 0]], axis=1)
    # Some matches of an overlay are a little off as well.
    little = (shifts <= _SMALL_MOTION * radius).sum()
    if len(others) < _AROUND or little < _AS_MANY * still.sum():
        return False
    some = matches[still][:: max(1, int(still.sum()) // 200)]  # are enough to judge by
    apart = places[some[:, 0]][:, None] - places[others[:, 0]][None]
    nearest = np.argpartition((apart**2).sum(axis=2), _AROUND - 1, axis=1)[:, :_AROUND]
    return bool(np.median(np.median(shifts[nearest], axis=1)) <= _SMALL_MOTION * radius)


def _pieces(places: Array, database: Features, matches: Array, on: Array, radius: float) -> Array:
    """Which further matches are of pieces of an overlay that stand elsewhere in the other photo,
    such as what follows a photo on the page of a screenshot: a mere shift of much of what is left,
    while the rest has not moved by as much. `on`: M bool, which are on the overlay already."""
    found = np.zeros(len(matches), np.bool_)
    shifts = database.keypoints[matches[:, 1]] - places[matches[:, 0]]
    for _ in range(_MOST_PIECES):
        left = np.flatnonzero(~(on | found))
        if len(left) < LEAST:
            break
        first, _ = _Near(shifts[left], radius)(shifts[left])
        counts = np.bincount(first, minlength=len(left))
        shift = shifts[left[counts.argmax()]]
        piece = left[((shifts[left] - shift) ** 2).sum(axis=1) <= radius**2]
        small = len(piece) < max(LEAST, _PIECE * len(left))
        if small or not _rest_has_moved(places + shift, database, matches[piece, 0]):
            break
        found[piece] = True
    return found


def _twins(
    query: Features, database: Features, places: Array, radius: float
) -> tuple[Array, Array]:
    """Features that stand at the same pixels and are similar: indices (K of the query, K of the
    database image); none where there are not more than by accident."""
    none = np.zeros(0, np.int64)
    near = _Near(database.keypoints, radius)
    accidents = [
        _similarities(query, database, *near(places + shift))
        for shift in np.array(_ACCIDENTS) * radius / TOLERANCE
    ]
    chance = np.concatenate(accidents)
    if not len(chance):
        return none, none
    a, b = near(places)
    similar = _similarities(query, database, a, b) > np.quantile(chance, 1 - _CHANCE)
    by_accident = _CHANCE * len(chance) / len(_ACCIDENTS)
    if similar.sum() < LEAST + _SURE * by_accident:
        return none, none
    return a[similar], b[similar]


def _similarities(query: Features, database: Features, a: Array, b: Array) -> Array:
    one = np.asarray(query.descriptors[a], np.float32)
    other = np.asarray(database.descriptors[b], np.float32)
    return np.asarray(np.einsum("kd,kd->k", one, other))


class _Near:
    """Finds which of N x 2 points are at most `radius` apart from others, by cells of that size."""

    def __init__(self, points: Array, radius: float) -> None:
        self._points, self._radius = points, radius
        cells = np.floor(points / radius).astype(np.int64)
        self._low = cells.min(axis=0, initial=0) - 2
        # Two empty cells all around, where points that lie further out are looked for.
        self._width, height = (cells.max(axis=0, initial=0) - self._low + 3).tolist()
        keys = self._keys(cells)
        self._order = np.argsort(keys, kind="stable")
        counts = np.bincount(keys, minlength=self._width * height)
        self._starts = np.concatenate(([0], np.cumsum(counts)))
        self._most = np.array((self._width, height)) + self._low - 2

    def _keys(self, cells: Array) -> Array:
        return np.asarray((cells[:, 1] - self._low[1]) * self._width + cells[:, 0] - self._low[0])

    def __call__(self, others: Array) -> tuple[Array, Array]:
        """Indices (into `others`, into the points) of all pairs, `others` being M x 2."""
        cells = np.floor(others / self._radius).clip(self._low + 1, self._most).astype(np.int64)
        keys = self._keys(cells)
        found_a, found_b = [], []
        for row in (-1, 0, 1):  # three cells in a row hold keys in a row
            middle = keys + row * self._width
            first, last = self._starts[middle - 1], self._starts[middle + 2]
            counts = last - first
            found_a.append(np.repeat(np.arange(len(others)), counts))
            begin = np.repeat(first - np.cumsum(counts) + counts, counts)
            found_b.append(self._order[begin + np.arange(counts.sum())])
        a, b = np.concatenate(found_a), np.concatenate(found_b)
        close = ((others[a] - self._points[b]) ** 2).sum(axis=1) <= self._radius**2
        return a[close], b[close]


def _rest_has_moved(places: Array, database: Features, still: Array) -> bool:
    """Whether some part of the photos, beside what stands still, shows other things.

    In a still scene a cell in which both photos have n features has one that stands still with the
    probability 1 - (1 - share)^n, where `share` of all features do. By these, the rest has moved if
    one rectangle without any holds a sixth of what should have been found, or less than half was found.
    """
    size = np.asarray(database.image_size)
    a, b, found = (_histogram(p, size) for p in (places, database.keypoints, places[still]))
    both = np.minimum(a, b)
    share = min(1.0, found.sum() / max(both.sum(), 1))
    expected = 1 - (1 - share) ** both
    total = expected.sum()
    if total == 0:
        return True
    here = found > 0
    return bool(
        expected[here].sum() < SUPPORTED * total
        or _largest_rectangle(np.where(here, -np.inf, expected)) > MOVED * total
    )


def _histogram(points: Array, size: Array) -> Array:
    """GRID x GRID counts, rows from the top, of those of N x 2 pixels that are in an image of
    `size`."""
    cells = np.floor((points + 0.5) * GRID / size).astype(np.int64)
    inside = ((cells >= 0) & (cells < GRID)).all(axis=1)
    flat = cells[inside, 1] * GRID + cells[inside, 0]
    return np.bincount(flat, minlength=GRID * GRID).reshape(GRID, GRID)


def _largest_rectangle(values: Array) -> float:
    """The largest sum of a rectangle of `values`, rows x columns, none of which is negative but for
    -inf, which no rectangle may hold."""
    best = 0.0
    for top in range(len(values)):
        column = np.zeros(values.shape[1])
        for row in values[top:]:
            column = column + row
            run = 0.0
            for value in column.tolist():
                run = max(0.0, run + value)
                best = max(best, run)
    return best
