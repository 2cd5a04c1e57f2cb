"""`locate localize`: where was the camera of a photo?

Shortlist by the global descriptor -> groups of map images that see the same points -> 2D-3D matches
with each -> RANSAC -> refinement with covariance -> verdict. Everything is held in memory; nothing is
written.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
from threadpoolctl import ThreadpoolController

from index.catalog import Catalog
from index.maps.folder import MapFolder
from locate.errors import DatabaseMismatchError, ImageError, InputError
from locate.extractors.base import Extractor
from locate.extractors.rotated import extract_turned
from locate.geometry.cameras import field_of_view
from locate.geometry.panorama import is_whole
from locate.images.masks import Masks, hidden
from locate.images.reading import as_photo, read_photo
from locate.localization.pose import LOCALIZED, NOT_LOCALIZED, VERDICTS, Pose
from locate.localization.query_camera import AnyCamera, QueryCamera, choose_camera, plain_camera
from locate.localization.solver import Solution, solve_pose
from locate.localization.verdict import Evidence, doubted, judge, needed, spread_of
from locate.matching.descriptors import match_mutual
from locate.retrieval.search_mode import LOCAL
from locate.types import Array, Features
from locate.util.parallel import one_thread_each
from locate.util.timing import Clock
from pipelines.indexing.provenance import load_extractor
from pipelines.localization.reference_map import LoadedMap, MapImage
from pipelines.retrieval.search import Searches

RATIO = 0.85  # of Lowe's test, query to map
CANDIDATES = 20
_CLUSTERS = 3  # that are tried
_ALL = (
    2  # times the candidates: maps up to this size are searched whole without a global descriptor
)


@dataclass(frozen=True, eq=False)
class PriorPose:
    """Where the camera is already believed to be: only map images near it are candidates.

    Attributes:
        center: 3, in the map.
        direction: 3, unit vector along the optical axis, or None for any.
        radius: in units of the map.
        angle: degrees between the directions.
    """

    center: Array
    direction: Array | None = None
    radius: float = float("inf")
    angle: float = 60.0

    def __post_init__(self) -> None:
        if np.shape(self.center) != (3,) or not np.isfinite(self.center).all():
            raise InputError(f"a prior position is 3 finite numbers, got {self.center}")
        if not (self.radius > 0 and 0 < self.angle <= 180):
            raise InputError(
                "a prior needs a positive radius and an angle of at most 180 degrees, got "
                f"{self.radius}, {self.angle}"
            )
        if self.direction is not None and not (
            np.shape(self.direction) == (3,) and abs(np.linalg.norm(self.direction) - 1) < 1e-3
        ):
            raise InputError(f"a prior direction is a unit vector, 3 numbers, got {self.direction}")


@dataclass(frozen=True, eq=False)
class Matches:
    """2D-3D matches of a query with a group of map images: features (M), rows of points (M)."""

    features: Array
    points: Array


@dataclass(frozen=True, eq=False)
class Try:
    matches: Matches
    solution: Solution | None
    count: int  # different features that agree


class Localizer:
    """A map that answers where cameras stood. Safe to share between threads.

    Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        map_: Path | str,
        *,
        extractor: Extractor | None = None,
        masks: Path | str | None = None,
        workers: int | None = None,
    ) -> None:
        """
        Args:
            map_: made by `locate build-map` or `locate import-map`.
            extractor: the one that made the map, where it is loaded already.
            masks: a folder of masks of the photos that will be asked (see `locate.images.masks`), or one
                for all.
            workers: threads that match; by default one a core.

        Raises:
            DatabaseMissingError, DatabaseCorruptError, DatabaseMismatchError
            InputError: workers is not positive.
        """
        if workers is not None and workers < 1:
            raise InputError(f"at least 1 worker is needed, got {workers}")
        self.masks = None if masks is None else Masks(masks)
        self.map = LoadedMap(Path(map_))
        info = self.map.extractor_info
        if extractor is not None and extractor.info.fingerprint != info.fingerprint:
            raise DatabaseMismatchError(
                f"{map_} was made with another {info.name} than the one given; leave it out"
            )
        self._catalog = Catalog.open(MapFolder(Path(map_)).features)
        self._extractor = extractor
        self._searches = Searches(self._catalog)
        self._workers = workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers, "locate-localize", one_thread_each)
        self._blas = ThreadpoolController()
        self._lock = Lock()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._catalog.close()

    def __enter__(self) -> Localizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def localize(
        self,
        photo: Path | str | Array,
        camera: AnyCamera = None,
        *,
        prior: PriorPose | None = None,
        candidates: int = CANDIDATES,
        exclude: Callable[[str], bool] | None = None,
        seed: int = 0,
    ) -> Pose:
        """Where was the camera?

        Args:
            photo: a file, or H x W x 3 uint8 RGB pixels.
            camera: see `localize_camera.choose_camera`; by default from EXIF, else estimated.
            prior: narrows the candidates.
            candidates: map images that are matched.
            exclude: names of map images that must not be used (evaluation leaves some out).
            seed: of RANSAC. The same photo and seed give the same pose.

        Raises:
            ImageError: the photo cannot be used.
            InputError: the camera does not fit the photo.
        """
        with self._blas.limit(limits=1, user_api="blas"):
            return self._localize(photo, camera, prior, candidates, exclude, seed, self._pool.map)

    def localize_many(
        self,
        photos: Iterable[Path | str | Array],
        cameras: AnyCamera | Sequence[AnyCamera] = None,
        *,
        prior: PriorPose | None = None,
        candidates: int = CANDIDATES,
        seed: int = 0,
    ) -> Iterator[Pose | ImageError]:
        """`localize` for many photos, one a core, in their order; a photo that cannot be used gives its
        error in place of a pose.

        Args:
            cameras: one for all, or one for each photo.
        """

        def ask(photo: Path | str | Array, camera: AnyCamera) -> Pose | ImageError:
            try:
                return self._localize(photo, camera, prior, candidates, None, seed, map)
            except ImageError as error:
                return error

        each = list(cameras) if isinstance(cameras, list | tuple) else None
        waiting: deque[Future[Pose | ImageError]] = deque()
        with self._blas.limit(limits=1, user_api="blas"):
            for i, photo in enumerate(photos):
                if each is not None and i >= len(each):
                    raise InputError(f"{len(each)} cameras for more photos; give one for each")
                camera = each[i] if each is not None else cameras
                waiting.append(self._pool.submit(ask, photo, camera))
                if len(waiting) > 2 * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _localize(
        self,
        photo: Path | str | Array,
        given: AnyCamera,
        prior: PriorPose | None,
        count: int,
        exclude: Callable[[str], bool] | None,
        seed: int,
        map_: Callable[..., Iterable[Array]],
    ) -> Pose:
        if count < 1:
            raise InputError(f"candidates must be at least 1, got {count}")
        if seed < 0:
            raise InputError(f"a seed is a whole number of at least 0, got {seed}")
        clock = Clock()
        extractor = self._load()
        clock.lap("load")
        path = None if isinstance(photo, np.ndarray) else Path(photo)
        opened = as_photo(photo) if path is None else read_photo(path, extractor.max_side)
        opened, mask = hidden(opened, self.masks)
        camera = choose_camera(
            opened.info, given, name=str(path or "the photo"), known=self.map.devices
        )
        allowed = self._allowed(prior, exclude)
        if camera.spherical and len(allowed):
            # Not at the top: that file needs this one.
            from pipelines.localization.panorama import localize_panorama

            found = localize_panorama(self, opened, camera, allowed, count, seed, map_, clock)
            return _timed(found, clock)
        clock.lap("decode")
        size = opened.info.size
        scale = self.map.scale_of(size)
        best: Pose | None = None
        upright: Features | None = None
        for rotation in (0, 90, 180, 270):
            invariant = upright is not None and extractor.info.rotation_invariant
            if rotation and invariant and len(allowed) <= count:
                break  # the same features and the same candidates again
            seen = extract_turned(
                extractor, opened.pixels, size, rotation, local=not invariant, mask=mask
            )
            features = upright if invariant else seen.features
            upright = upright or features
            clock.lap("extract")
            if features is None or not len(features) or not len(allowed):
                break
            rows = self._shortlist(seen.global_descriptor, features, allowed, count)
            clock.lap("search")
            tries = self._tries(features, rows, camera, scale, seed, map_, clock)
            pose = self._judged(path, features, tries, clock)
            if best is None or rank_of(pose) > rank_of(best):
                best = pose
            if best.verdict == LOCALIZED:
                break
        if best is None:
            if len(allowed):
                reason = "no features were found: a plain, dark or blurred photo"
            elif prior is not None and not len(self._allowed(prior, None)):
                reason = "no image of the map is near the prior pose"
            else:
                reason = "all images of the map that might be candidates are excluded"
            best = Pose(path, NOT_LOCALIZED, reason, camera=None)
        return _timed(best if given else _maybe_panorama(best, size), clock)

    def _allowed(self, prior: PriorPose | None, exclude: Callable[[str], bool] | None) -> Array:
        """Rows of the images that may be candidates."""
        rows = np.arange(len(self.map.images))
        if prior is not None:
            rows = self.map.near(
                np.asarray(prior.center), prior.direction, prior.radius, prior.angle
            )
        if exclude is not None:
            rows = np.array([r for r in rows if not exclude(self.map.images[r].name)], np.int64)
        return rows

    def _shortlist(
        self, vector: Array | None, features: Features, allowed: Array, count: int
    ) -> list[int]:
        if len(allowed) <= count:
            return [int(row) for row in allowed]
        if vector is not None and self.map.vectors is not None:
            similar = self.map.vectors[allowed] @ vector
            best = np.argsort(-similar, kind="stable")[:count]
            return [int(row) for row in allowed[best]]
        if len(allowed) <= _ALL * count:
            return [int(row) for row in allowed]
        by_id = {self.map.images[row].id: int(row) for row in allowed}
        left_out = [r.id for r in self._catalog.images("ok") if r.id not in by_id]
        self._searches.load(LOCAL)
        votes = self._searches.voted(features, count, 10, left_out)
        return [by_id[i] for i in votes.image_ids if i in by_id]

    def _tries(
        self,
        features: Features,
        rows: list[int],
        camera: QueryCamera,
        scale: float,
        seed: int,
        map_: Callable[..., Iterable[Array]],
        clock: Clock,
        solve: Callable[..., Solution | None] = solve_pose,
    ) -> list[Try]:
        """A pose by each group of candidates that see the same points, the best first."""

        def match(row: int) -> Array:
            return match_points(features, self.map.images[row], self.map.extractor_info.ratio)

        found = dict(zip(rows, map_(match, rows), strict=True))
        clock.lap("match")
        groups = [
            np.unique(np.concatenate([found[row] for row in group]), axis=0)
            for group in self.map.clusters(rows)
        ]
        groups.sort(key=lambda pairs: -len(np.unique(pairs[:, 0])))
        tries = []
        for pairs in groups[:_CLUSTERS]:
            matches = Matches(pairs[:, 0], pairs[:, 1])
            solution = None
            if len(np.unique(matches.features)) >= needed(0):
                solution = solve(
                    features.keypoints[matches.features],
                    self.map.points[matches.points],
                    camera,
                    scale=scale,
                    systematic=self.map.systematic,
                    resolution=self.map.resolution,
                    seed=seed,
                )
            agreeing = 0
            if solution is not None:
                agreeing = len(np.unique(matches.features[solution.inliers]))
            tries.append(Try(matches, solution, agreeing))
        clock.lap("pose")
        return sorted(tries, key=lambda t: -t.count)

    def _judged(
        self,
        path: Path | None,
        features: Features,
        tries: list[Try],
        clock: Clock,
        patches: Callable[[Array, tuple[int, int]], float] = spread_of,
    ) -> Pose:
        """
        Args:
            patches: how far points are spread, as the verdict counts it.
        """
        best = tries[0]
        matched = len(np.unique(best.matches.features))
        solution = best.solution
        if solution is None:
            reason = (
                f"{matched} 2D-3D matches with the map; {int(np.ceil(needed(matched)))} must agree "
                "with one pose"
            )
            return Pose(path, NOT_LOCALIZED, reason, matches=matched)
        refined, inliers = solution.refined, solution.inliers
        seen = features.keypoints[best.matches.features[inliers]].astype(np.float64)
        rows = best.matches.points[inliers]
        world = self.map.points[rows]
        pose = refined.cam_from_world
        centre = -pose[:, :3].T @ pose[:, 3]
        depth = float(np.median(np.linalg.norm(world - centre, axis=1)))
        spread = spread_of(seen, features.image_size)
        evidence = Evidence(
            matches=matched,
            inliers=best.count,
            spread=patches(seen, features.image_size),
            position=float(np.sqrt(np.linalg.eigvalsh(refined.covariance[:3, :3])[-1])) / depth,
            rotation=float(np.degrees(np.sqrt(np.linalg.eigvalsh(refined.covariance[3:, 3:])[-1]))),
            field_of_view=field_of_view(refined.camera),
            rival=tries[1].count if len(tries) > 1 else 0,
        )
        verdict, reason = doubted(*judge(evidence), self.map.record.doubt)
        if solution.camera.doubt:
            reason += f" (EXIF in doubt: {solution.camera.doubt})"
        error = float(np.sqrt((refined.residuals**2).sum(axis=1).mean()))
        common = Pose(
            path,
            NOT_LOCALIZED,
            reason,
            matches=matched,
            inliers=best.count,
            spread=spread,
            error=error,
        )
        clock.lap("pose")
        if verdict == NOT_LOCALIZED:
            return common
        return replace(
            common,
            verdict=verdict,
            cam_from_world=pose,
            covariance=refined.covariance,
            camera=plain_camera(refined.camera, solution.camera.source),
            images=self._agreeing_images(rows),
            points=seen,
            world_points=world,
        )

    def _agreeing_images(self, rows: Array) -> tuple[str, ...]:
        counts = {
            image.name: int(np.isin(image.point_rows, rows).sum()) for image in self.map.images
        }
        ranked = sorted((name for name in counts if counts[name]), key=lambda n: -counts[n])
        return tuple(ranked[:10])

    def _load(self) -> Extractor:
        with self._lock:
            if self._extractor is None:
                self._extractor = load_extractor(self._catalog)
            return self._extractor


def match_points(features: Features, image: MapImage, ratio: float | None = None) -> Array:
    """M x 2 int64: which feature of a query may see which row of the map's points, by one image.

    Args:
        ratio: the extractor's own of Lowe's test, or None.
    """
    pairs = match_mutual(features.descriptors, image.descriptors, ratio or RATIO)
    points = image.point_rows[pairs[:, 1]]
    return np.stack((pairs[:, 0], points), axis=1)[points >= 0]


def rank_of(pose: Pose) -> tuple[int, int]:
    """Which of two answers to take: the higher one."""
    return -VERDICTS.index(pose.verdict), pose.inliers


def _maybe_panorama(pose: Pose, size: tuple[int, int]) -> Pose:
    """With a hint, where the photo has the shape of a 360 degree one, but nobody says that it is one."""
    if pose.verdict == LOCALIZED or not is_whole(size):
        return pose
    hint = "if it is a (stitched) 360 degree photo, say --camera EQUIRECTANGULAR"
    return replace(pose, reason=f"{pose.reason}; {hint}")


def _timed(pose: Pose, clock: Clock) -> Pose:
    seconds = clock.seconds
    seconds["total"] = sum(v for part, v in seconds.items() if part != "load")
    return replace(pose, seconds=seconds)
