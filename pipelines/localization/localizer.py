"""Visual localization of single photos against a map: where was the camera, 6-DoF?

Shortlist by the global descriptor -> groups of map images that see the same points -> 2D-3D matches
with each -> RANSAC -> refinement with covariance -> verdict. Everything is held in memory; nothing is
written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController

from locate.errors import ImageError, InputError
from locate.extractors.base import Extractor
from locate.extractors.rotated import extract_rotations
from locate.geometry.panorama import is_whole
from locate.images.masks import Mask, Masks, hidden
from locate.images.reading import as_photo, read_photo
from locate.localization.gravity import CONTRADICTED, GravityPrior, fuse_gravity
from locate.localization.pose import LOCALIZED, NOT_LOCALIZED, UNCERTAIN, Pose, PosePrior
from locate.localization.query_camera import AnyCamera, QueryCamera, choose_camera
from locate.localization.solver import solve_pose
from locate.types import Array, Photo
from locate.util.parallel import one_thread_each, ordered_map
from locate.util.timing import Clock
from pipelines.localization.matcher import CANDIDATES, Attempt, Map, MapMatcher, Query, Request
from pipelines.localization.panorama import match_panorama
from pipelines.localization.reference_map import ReferenceMap

AnyPhoto = Path | str | Array


@dataclass(frozen=True, eq=False)
class MatchedPhoto:
    """A photo (its path, None of pixels, and (width, height)), the camera chosen for it, its
    `extraction_scale`, the attempt, of those with the photo turned, that tells most, and the
    answer."""

    path: Path | None
    size: tuple[int, int]
    camera: QueryCamera
    scale: float
    best: Attempt
    pose: Pose


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
        """`map_` was made by `locate build-map` or `import-map`; InputError, DatabaseMissingError,
        DatabaseCorruptError or DatabaseMismatchError if it cannot be used.

        Args:
            extractor: the one that made the map, where it is loaded already.
            masks: a folder of masks of the photos that will be asked (see `locate.images.masks`), or one
                for all.
            workers: threads that match; by default one a core.
        """
        if workers is not None and workers < 1:
            raise InputError(f"at least 1 worker is needed, got {workers}")
        self._matcher = MapMatcher(Path(map_), extractor, None if masks is None else Masks(masks))
        self._workers = workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers, "locate-localize", one_thread_each)
        self._blas = ThreadpoolController()

    @property
    def map(self) -> ReferenceMap:
        """What is localized against."""
        return self._matcher.map

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._matcher.close()

    def __enter__(self) -> Localizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def localize(
        self,
        photo: AnyPhoto,
        camera: AnyCamera = None,
        *,
        prior: PosePrior | None = None,
        gravity: GravityPrior | None = None,
        candidates: int = CANDIDATES,
        exclude: Callable[[str], bool] | None = None,
        seed: int = 0,
        rerank: str | None = None,
    ) -> Pose:
        """Where was the camera?

        Args:
            photo: a file, or H x W x 3 uint8 RGB pixels.
            camera: see `locate.localization.query_camera.choose_camera`; by default from EXIF, else
                estimated.
            prior: narrows the candidates.
            gravity: which way is up in the camera's axes, of an inertial sensor; fused with the pose.
            candidates: map images that are matched.
            exclude: names of map images that must not be used (evaluation leaves some out).
            seed: of RANSAC. The same photo and seed give the same pose.
            rerank: "lightglue" matches what is not localized again, slowly, by LightGlue; for maps of
                ALIKED or DISK features.

        Raises:
            ImageError: the photo cannot be used.
            InputError: the camera does not fit the photo, or a number is out of its range.
        """
        request = Request(prior, candidates, exclude, seed, rerank=rerank)
        return _with_gravity(self.match(photo, camera, request).pose, gravity)

    def localize_many(
        self,
        photos: Iterable[AnyPhoto],
        cameras: AnyCamera | Sequence[AnyCamera] = None,
        *,
        prior: PosePrior | None = None,
        gravity: GravityPrior | None = None,
        candidates: int = CANDIDATES,
        exclude: Callable[[str], bool] | None = None,
        seed: int = 0,
        rerank: str | None = None,
    ) -> Iterator[Pose | ImageError]:
        """`localize` for many photos, one a core, in their order, with one camera for all or one for
        each; a photo that cannot be used gives its error in place of a pose."""
        request = Request(prior, candidates, exclude, seed, rerank=rerank)
        for found in self.match_many(photos, cameras, request):
            yield found if isinstance(found, ImageError) else _with_gravity(found.pose, gravity)

    def match(
        self, photo: AnyPhoto, camera: AnyCamera = None, request: Request | None = None
    ) -> MatchedPhoto:
        """The 2D-3D matches of a photo with the map and its own pose; see `localize`."""
        with self._blas.limit(limits=1, user_api="blas"):
            return self._match(photo, camera, request or Request(), self._pool.map)

    def match_many(
        self,
        photos: Iterable[AnyPhoto],
        cameras: AnyCamera | Sequence[AnyCamera] = None,
        request: Request | None = None,
    ) -> Iterator[MatchedPhoto | ImageError]:
        """`match` for many photos, one a core, in their order; see `localize_many`."""

        def ask(photo: AnyPhoto, camera: AnyCamera) -> MatchedPhoto | ImageError:
            try:
                return self._match(photo, camera, request or Request(), map)
            except ImageError as error:
                return error

        each = list(cameras) if isinstance(cameras, list | tuple) else None

        def asked() -> Iterator[tuple[AnyPhoto, AnyCamera]]:
            for i, photo in enumerate(photos):
                if each is not None and i >= len(each):
                    raise InputError(f"{len(each)} cameras for more photos; give one for each")
                yield photo, each[i] if each is not None else cameras

        with (
            self._blas.limit(limits=1, user_api="blas"),
            closing(ordered_map(lambda one: ask(*one), asked(), self._workers)) as found,
        ):
            yield from found

    def agreeing_images(self, rows: Array) -> tuple[str, ...]:
        """Names of the map's images that see points of these rows, most first, ten at most."""
        return self._matcher.agreeing_images(rows)

    def _match(
        self, photo: AnyPhoto, given: AnyCamera, request: Request, map_: Map
    ) -> MatchedPhoto:
        clock, matcher = Clock(), self._matcher
        if request.rerank:
            matcher.lightglue()
        extractor = matcher.extractor()
        clock.lap("load")
        path = None if isinstance(photo, np.ndarray) else Path(photo)
        opened = as_photo(photo) if path is None else read_photo(path, extractor.max_side)
        opened, mask = hidden(opened, matcher.masks)
        size, name = opened.info.size, str(path or "the photo")
        camera = choose_camera(opened.info, given, name=name, known=self.map.devices)
        scale, solve = self.map.extraction_scale(size), partial(solve_pose, solver=request.solver)
        query = Query(path, camera, request, matcher.allowed(request), map_, clock, scale, solve)
        reason = "no features were found: a plain, dark or blurred photo"
        attempts: Iterable[Attempt] = ()
        if not len(query.allowed):
            reason = matcher.nothing_allowed(request)
        elif camera.spherical:
            attempts = match_panorama(matcher, opened, query)
        else:
            clock.lap("decode")
            attempts = self._attempts(opened, mask, query)
        best = Attempt(None, (), Pose(path, NOT_LOCALIZED, reason, camera=None))
        for attempt in attempts:
            if best.features is None or attempt.rank > best.rank:
                best = attempt
            if attempt.pose.verdict == LOCALIZED:
                break
        if request.rerank and best.pose.verdict != LOCALIZED and not camera.spherical:
            again = matcher.attempt_again(query, best)
            best = again if again.rank > best.rank else best
        reason, seconds = best.pose.reason, clock.seconds
        if not given and best.pose.verdict != LOCALIZED and is_whole(size):  # but nobody says so
            reason += "; if it is a (stitched) 360 degree photo, say --camera EQUIRECTANGULAR"
        seconds["total"] = sum(v for part, v in seconds.items() if part != "load")
        pose = replace(best.pose, reason=reason, seconds=seconds)
        return MatchedPhoto(path, size, camera, scale, best, pose)

    def _attempts(self, photo: Photo, mask: Mask | None, query: Query) -> Iterator[Attempt]:
        """What the photo has in common with the map, turned by 0, 90, 180 and 270 degrees."""
        several = len(query.allowed) > query.request.candidates
        shown = self._matcher.extractor(), photo.pixels, photo.info.size
        for _, seen in extract_rotations(*shown, vectors=several, mask=mask):
            query.clock.lap("extract")
            if seen.features is None or not len(seen.features):
                break
            vector = seen.global_descriptor
            vectors = None if vector is None else vector[None]
            yield self._matcher.attempt(query, seen.features, vectors)


def _with_gravity(pose: Pose, gravity: GravityPrior | None) -> Pose:
    """The pose fused with the direction of up."""
    if gravity is None or pose.cam_from_world is None or pose.covariance is None:
        return pose
    fused = fuse_gravity(pose.cam_from_world, pose.covariance, gravity)
    if fused is None:
        return replace(pose, verdict=UNCERTAIN, reason=f"{pose.reason}; {CONTRADICTED}")
    return replace(pose, cam_from_world=fused[0], covariance=fused[1])
