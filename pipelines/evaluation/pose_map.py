"""A localizer that any extractor makes: a map of 3-D points on true poses, and queries against it.

Mapping photos are matched with each other and triangulated (`locate.mapping.triangulation`); a
query is matched with them one by one, each match to a feature that sees a point is a 2D-3D match,
and RANSAC says where the camera stood (`locate.localization.absolute_pose`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from locate.datasets.records import PosedPhoto, Scene
from locate.errors import ImageError, InputError, UnknownNameError
from locate.extractors.base import Extractor
from locate.images.reading import read_photo
from locate.localization.absolute_pose import LOSS_SCALE, MAX_ERROR, SOLVERS, estimate_pose
from locate.mapping.triangulation import Triangulation, triangulate
from locate.matching.descriptors import match_mutual
from locate.types import Array, Extraction, Features
from locate.util.parallel import one_thread_each

RATIO = 0.85  # of Lowe's test, if the extractor has none of its own

# A query photo and its camera -> 3 x 4 `cam_from_world`, or None: not localized.
Localize = Callable[[Path, pycolmap.Camera], Array | None]


@dataclass(frozen=True)
class MapOptions:
    """How a map is made and asked. Pixels are those of the size that the extractor looks at, as the
    precision of keypoints is.

    Attributes:
        ratio: Lowe's, of map to map (in the order of names) and of query to map; None for the
            extractor's own, or .85 if it has none.
        solver: a name of `pose_estimate.SOLVERS`.
        max_error: pixels, of a query's inliers.
        map_error: pixels, of the points of the map.
        candidates: a query is matched with this many mapping photos, the most similar by global
            descriptor; with all where there are no more or the extractor gives no such descriptor.
        min_inliers: different features of a query that must agree with its pose.
        seed: of every RANSAC.
    """

    ratio: float | None = None
    solver: str = "poselib"
    max_error: float = MAX_ERROR
    map_error: float = 4.0
    candidates: int = 20
    min_inliers: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise InputError(f"the ratio test needs a number above 0, at most 1, got {self.ratio}")
        if self.solver not in SOLVERS:
            raise UnknownNameError("pose solver", self.solver, SOLVERS)
        if not (self.max_error > 0 and self.map_error > 0):
            raise InputError(f"errors must be positive, got {self.max_error}, {self.map_error} px")
        if self.candidates < 1 or self.min_inliers < 4:
            raise InputError(
                "at least 1 candidate and 4 inliers are needed, "
                f"got {self.candidates} and {self.min_inliers}"
            )


def ratio_of(extractor: Extractor, options: MapOptions) -> float:
    """Of Lowe's test for the matches of `extractor`."""
    return options.ratio or extractor.info.ratio or RATIO


class Sight:
    """What an extractor sees in the photos of one scene, looked at once, and their matches likewise.

    Args:
        workers: threads that extract; None for Python's choice.
        on_photo: called after each photo that was looked at.
    """

    def __init__(
        self,
        extractor: Extractor,
        ratio: float | None = None,
        *,
        workers: int | None = None,
        on_photo: Callable[[], None] = lambda: None,
    ) -> None:
        if not extractor.info.local_dim:
            raise InputError(
                f"{extractor.info.name} gives no local features, which a pose needs; "
                f"pair it with some, such as {extractor.info.name}+sift"
            )
        self._extractor, self._ratio = extractor, ratio
        self._workers, self._on_photo = workers, on_photo
        self._seen: dict[Path, Extraction | ImageError] = {}
        self._matches: dict[tuple[Path, Path], Array] = {}

    def look(self, photos: Iterable[Path]) -> None:
        """Extract from photos on a pool of threads."""
        new = [path for path in photos if path not in self._seen]
        with ThreadPoolExecutor(self._workers, "locate-evaluate", one_thread_each) as pool:
            for path, seen in zip(new, pool.map(self._extract, new), strict=True):
                self._seen[path] = seen
                self._on_photo()

    def forget(self) -> None:
        """Let go of all photos, before another scene."""
        self._seen.clear()
        self._matches.clear()

    @property
    def unreadable(self) -> tuple[ImageError, ...]:
        """The errors of photos that could not be read."""
        return tuple(seen for seen in self._seen.values() if isinstance(seen, ImageError))

    def features(self, path: Path) -> Features | None:
        """None of a photo that cannot be read."""
        extraction = self._extraction(path)
        return None if extraction is None else extraction.features

    def global_descriptor(self, path: Path) -> Array | None:
        """D float32, or None from an extractor that has none and of a photo that cannot be read."""
        extraction = self._extraction(path)
        return None if extraction is None else extraction.global_descriptor

    def match(self, a: Path, b: Path) -> Array:
        """M x 2 int32, mutual nearest neighbours of a and b that pass the ratio test from a to b."""
        if (a, b) not in self._matches:
            found = [self.features(path) for path in (a, b)]
            first, second = (np.zeros((0, 1)) if f is None else f.descriptors for f in found)
            self._matches[a, b] = match_mutual(first, second, self._ratio)
        return self._matches[a, b]

    def scale(self, size: tuple[int, int]) -> float:
        """How many pixels of a photo of that size one pixel is that the extractor looks at."""
        return max(1.0, max(size) / self._extractor.max_side)

    def _extraction(self, path: Path) -> Extraction | None:
        if path not in self._seen:
            self._seen[path] = self._extract(path)
        seen = self._seen[path]
        return None if isinstance(seen, ImageError) else seen

    def _extract(self, path: Path) -> Extraction | ImageError:
        try:
            photo = read_photo(path)
        except ImageError as error:
            return error
        return self._extractor.extract(photo.pixels, photo.info.size)


class PointMap:
    """Localizes queries against the 3-D points of mapping photos; call it with a photo and its camera.

    Attributes:
        triangulation: the points.
        inliers: of each query so far, the features that agree with its pose; 0 if it has none.
    """

    def __init__(self, sight: Sight, photos: Sequence[PosedPhoto], options: MapOptions) -> None:
        self._sight, self._options = sight, options
        seen = [(photo, sight.features(photo.path)) for photo in photos]
        usable = [(photo, features) for photo, features in seen if features is not None]
        self._photos = [photo for photo, _ in usable]
        for photo, features in usable:
            check_size(photo.path, photo.camera, features)
        sizes = [max(features.image_size) for _, features in usable]
        scale = sight.scale((int(np.median(sizes)), 1)) if sizes else 1.0
        self.inliers: list[int] = []
        self.triangulation: Triangulation = triangulate(
            self._photos,
            [features for _, features in usable],
            lambda i, j: sight.match(self._photos[i].path, self._photos[j].path),
            max_error=options.map_error * scale,
            seed=options.seed,
        )

    def __call__(self, photo: Path, camera: pycolmap.Camera) -> Array | None:
        features = self._sight.features(photo)
        self.inliers.append(0)
        if features is None:
            return None
        check_size(photo, camera, features)
        pairs = self._pairs(photo)
        scale = self._sight.scale(features.image_size)
        found = estimate_pose(
            features.keypoints[pairs[:, 0]],
            self.triangulation.points[pairs[:, 1]],
            camera,
            solver=self._options.solver,
            max_error=self._options.max_error * scale,
            loss_scale=LOSS_SCALE * scale,
            seed=self._options.seed,
        )
        if found is None:
            return None
        agreeing = len(np.unique(pairs[found.inliers, 0]))
        if agreeing < self._options.min_inliers:
            return None
        self.inliers[-1] = agreeing
        return found.cam_from_world

    def _pairs(self, query: Path) -> Array:
        """M x 2: which feature of the query may see which point, each pair once."""
        pairs = [np.zeros((0, 2), np.int64)]
        for photo in self._candidates(query):
            matches = self._sight.match(query, photo.path)
            ids = self.triangulation.point_ids[photo.name][matches[:, 1]]
            pairs.append(np.stack((matches[:, 0], ids), axis=1)[ids >= 0])
        return np.unique(np.concatenate(pairs), axis=0)

    def _candidates(self, query: Path) -> Sequence[PosedPhoto]:
        vector, count = self._sight.global_descriptor(query), self._options.candidates
        if vector is None or len(self._photos) <= count:
            return self._photos
        known = [self._sight.global_descriptor(photo.path) for photo in self._photos]
        similar = [-2.0 if other is None else float(other @ vector) for other in known]
        return [self._photos[i] for i in np.argsort(-np.array(similar), kind="stable")[:count]]


@dataclass(frozen=True, eq=False)
class MapFacts:
    """Attributes:
    scene: its name.
    points, track_length, error: see `Triangulation`; the latter two NaN of a map without points.
    inliers: see `PointMap`; grows as queries are asked.
    """

    scene: str
    points: int
    track_length: float
    error: float
    inliers: list[int]


class MapMaker:
    """Makes the map of each scene and fold: `maker(scene, photos)` gives the localizer.

    Attributes:
        facts: about the maps made so far.
        unreadable: the errors of photos that could not be read.
    """

    def __init__(
        self,
        extractor: Extractor,
        options: MapOptions,
        *,
        workers: int | None = None,
        on_photo: Callable[[], None] = lambda: None,
    ) -> None:
        self._sight = Sight(
            extractor,
            ratio_of(extractor, options),
            workers=workers,
            on_photo=on_photo,
        )
        self._options = options
        self._scene: Scene | None = None
        self.facts: list[MapFacts] = []
        self.unreadable: list[ImageError] = []

    def __call__(self, scene: Scene, photos: Sequence[PosedPhoto]) -> Localize:
        if scene is not self._scene:
            self._sight.forget()
            self._scene = scene
            self._sight.look(photo.path for photo in scene.photos)
            self.unreadable += self._sight.unreadable
        made = PointMap(self._sight, photos, self._options)
        points = made.triangulation
        self.facts.append(
            MapFacts(
                scene.name, len(points.points), points.track_length, points.error, made.inliers
            )
        )
        return made


def check_size(path: Path, camera: pycolmap.Camera, features: Features) -> None:
    """InputError if a photo is not of the size that its camera was calibrated for."""
    if features.image_size != (camera.width, camera.height):
        raise InputError(
            f"{path}: {features.image_size[0]} x {features.image_size[1]} px, but its camera is "
            f"{camera.width} x {camera.height}; give the photos as they were calibrated, not turned "
            "or resized"
        )
