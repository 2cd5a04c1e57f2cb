"""Where a 360 degree photo was taken: cut into a rig of perspective views, one answer.

The views see what the map's photos see; their features, each in the view that looks closest at it, are
put back on the sphere and matched and judged as those of one photo, whose camera sees the whole sphere
(`locate.localization.sphere`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from locate.extractors.base import Extractor
from locate.extractors.rotated import extract_rotated
from locate.geometry import panorama as geometry
from locate.images.masks import Mask, hidden
from locate.images.reading import MIN_SIDE, read_photo
from locate.localization.sphere import solve_sphere
from locate.localization.verdict import coverage_of
from locate.types import Array, Features, Photo
from pipelines.localization.matcher import Attempt, Map, MapMatcher, Query

# Times as large as the photo is sharp: small things in it resemble the map's photos more, which have
# more pixels per degree (the town at 2000 pixels: 136 matches at 1, 293 at 1.5, 347 at 2).
_ENLARGED = 2.0
_RIM = 8  # pixels of a view beside where the photo ends, in which features see that end
_CELLS = (32, 16)  # over the sphere: about as large as those of a photo


def match_panorama(matcher: MapMatcher, photo: Photo, query: Query) -> Iterator[Attempt]:
    """What it has in common with the map, by more and more views; it is read again if these need
    more pixels than a photo of its size. The camera's axes are those of `locate.geometry.panorama`."""
    extractor, clock = matcher.extractor(), query.clock
    panorama = geometry.panorama_of(photo.info) if query.camera.source == "xmp" else None
    panorama = panorama or geometry.Panorama.whole(photo.info.size)
    if photo.path is not None:
        photo = read_photo(photo.path, decoded_side(panorama, extractor.max_side))
    photo, mask = hidden(photo, matcher.masks)
    views = PanoramaViews(photo.pixels, panorama, extractor)
    clock.lap("decode")
    solve = partial(solve_sphere, resolved=views.resolved)
    query = replace(query, scale=views.scale, solve=solve, coverage=coverage_of_views)
    turns = (0, 90, 180, 270)
    # (how many views, turned by): the next is tried where the last one did not tell.
    ways: list[tuple[int, tuple[int, ...]]] = [(geometry.ROWS[0][1], (0,)), (len(views), (0,))]
    if not extractor.info.rotation_invariant:
        ways += [(len(views), (turn,)) for turn in turns[1:]]
    elif len(query.allowed) > query.request.candidates:  # the same features, but other candidates
        ways.append((len(views), turns))
    for number, degrees in ways:
        features = views.features(number, degrees[0], query.map_)
        if features is not None and mask is not None:
            points = panorama.to_photo(features.keypoints, photo.info.size)
            features = _outside(mask, features, points, photo.info.size)
        vectors = views.vectors(number, degrees, query.map_)
        clock.lap("extract")
        if features is not None and len(features):
            yield matcher.attempt(query, features, vectors)


def decoded_side(panorama: geometry.Panorama, max_side: int) -> int:
    """How long the longer side of a panorama has to be at least, so that the middle of a view has all
    pixels that an extractor of `max_side` looks at."""
    focal = max_side / 2 / np.tan(np.radians(geometry.FIELD_OF_VIEW) / 2)
    shown = max(panorama.crop[2], panorama.crop[3]) / panorama.full_size[0]
    return int(np.ceil(2 * np.pi * focal * shown))


def _outside(mask: Mask, features: Features, points: Array, size: tuple[int, int]) -> Features:
    """Without those that a mask ignores at their points in the photo, (width, height) pixels large."""
    number = np.arange(len(features), dtype=np.float32)
    numbered = Features(points.astype(np.float32), number, features.descriptors, size)
    return features.take(mask.outside(numbered).scores.astype(np.int64))


class PanoramaViews:
    """A panorama (H x W x 3 uint8, maybe smaller than it says of itself) cut into views, as large as the
    extractor looks at, but not much larger than the photo is sharp; what was seen in each is kept."""

    def __init__(self, pixels: Array, panorama: geometry.Panorama, extractor: Extractor) -> None:
        self.panorama = panorama
        self._extractor = extractor
        self._dense = pixels.shape[1] * panorama.full_size[0] / panorama.crop[2] / (2 * np.pi)
        side = int(_ENLARGED * 2 * self._dense * np.tan(np.radians(geometry.FIELD_OF_VIEW) / 2))
        side = min(max(side, MIN_SIDE), extractor.max_side)
        self._cutter = geometry.ViewCutter(pixels, panorama, side)
        self._rotations = geometry.view_rotations()
        self._seen: dict[tuple[int, int], _View] = {}

    def __len__(self) -> int:
        return len(self._rotations)

    @property
    def resolved(self) -> float:
        """Pixels per radian that the photo has and the extractor looks at."""
        return float(min(self._dense, self._cutter.focal))

    @property
    def scale(self) -> float:
        """How many pixels of the panorama one pixel of a view is."""
        return float(self.panorama.full_size[0] / (2 * np.pi) / self._cutter.focal)

    def features(self, count: int, degrees: int, map_: Map) -> Features | None:
        """Features of the first `count` views, turned by `degrees` counter-clockwise, each of the
        view that looks closest at it, best first; keypoints in pixels of the whole sphere. None
        without any."""
        parts = []
        for number, seen in self._views(count, degrees, map_):
            if seen.features is None:
                continue
            own = geometry.owners_of(seen.rays, self._rotations[:count]) == number
            points = geometry.pixels_of(seen.rays[own], self.panorama.full_size).astype(np.float32)
            parts.append((points, seen.features.scores[own], seen.features.descriptors[own]))
        if not sum(len(points) for points, _, _ in parts):
            return None
        points, scores, descriptors = map(np.concatenate, zip(*parts, strict=True))
        order = np.argsort(-scores, kind="stable")
        return Features(points[order], scores[order], descriptors[order], self.panorama.full_size)

    def vectors(self, count: int, degrees: Iterable[int], map_: Map) -> Array | None:
        """V x G: global descriptors of the first views, turned by each of `degrees`; None without
        any."""
        seen = [view for turn in degrees for _, view in self._views(count, turn, map_)]
        vectors = [view.vector for view in seen if view.vector is not None]
        return np.stack(vectors) if vectors else None

    def _views(self, count: int, degrees: int, map_: Map) -> list[tuple[int, _View]]:
        new = [k for k in range(count) if (k, degrees) not in self._seen]
        for k, view in zip(new, map_(lambda k: self._extract(k, degrees), new), strict=True):
            self._seen[k, degrees] = view
        return [(k, self._seen[k, degrees]) for k in range(count)]

    def _extract(self, number: int, degrees: int) -> _View:
        pixels, inside = self._cutter.cut(self._rotations[number])
        if not inside.any():
            return _View()
        size = (self._cutter.side, self._cutter.side)
        local = degrees == 0 or not self._extractor.info.rotation_invariant
        seen = extract_rotated(self._extractor, pixels, size, degrees, local=local)
        features = seen.features
        if not local or features is None or not len(features):
            return _View(vector=seen.global_descriptor)
        features = features.take(_within(features.keypoints, inside))
        rays = self._cutter.rays(features.keypoints, self._rotations[number])
        return _View(features, rays, seen.global_descriptor)


@dataclass(frozen=True, eq=False)
class _View:
    """Features seen in one view, M x 3 rays to them in the panorama's frame, the global descriptor."""

    features: Features | None = None
    rays: Array = field(default_factory=lambda: np.zeros((0, 3)))
    vector: Array | None = None


# In the views of a sphere, summed.
coverage_of_views = partial(coverage_of, grid=_CELLS)


def _within(points: Array, inside: Array) -> Array:
    """N bool: whether all within `_RIM` pixels around a point (our pixels) is inside of the photo."""
    if inside.all():
        return np.ones(len(points), np.bool_)
    height, width = inside.shape
    sums = np.pad(np.cumsum(np.cumsum(~inside, axis=0), axis=1), ((1, 0), (1, 0)))
    middle = np.rint(points).astype(int)
    low = np.clip(middle - _RIM, 0, (width - 1, height - 1))
    high = np.clip(middle + _RIM + 1, 1, (width, height))
    count = sums[high[:, 1], high[:, 0]] - sums[low[:, 1], high[:, 0]]
    count += sums[low[:, 1], low[:, 0]] - sums[high[:, 1], low[:, 0]]
    return np.asarray(count == 0)
