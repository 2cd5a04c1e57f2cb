"""2D-3D matches of a query's features with a map, and the pose hypotheses that they give: shortlist by
global descriptor -> groups of map images that see the same points -> matching -> RANSAC."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from index.catalog import Catalog
from index.maps.folder import MapFolder
from locate.errors import DatabaseMismatchError, InputError, UnknownNameError
from locate.extractors.base import Extractor
from locate.geometry.cameras import field_of_view
from locate.geometry.rigid import center_of
from locate.images.masks import Masks
from locate.localization import verdict as verdicts
from locate.localization.absolute_pose import SOLVERS
from locate.localization.pose import NOT_LOCALIZED, VERDICTS, Pose, PosePrior
from locate.localization.query_camera import QueryCamera, plain_camera
from locate.localization.solver import Solution
from locate.matching.descriptors import match_mutual, ratio_for
from locate.matching.lightglue import FEATURES, LightGlue
from locate.retrieval.search_mode import LOCAL
from locate.types import Array, Features
from locate.util.timing import Clock
from pipelines.indexing.provenance import load_extractor
from pipelines.localization.reference_map import MapImage, ReferenceMap
from pipelines.retrieval.rerank import LIGHTGLUE
from pipelines.retrieval.search import Retriever

CANDIDATES = 20
_CLUSTERS = 3  # that are tried
_ALL = 2  # times the candidates: so large a map is searched whole without a global descriptor
_AGAIN, _KEYPOINTS = 5, 1024  # map images that LightGlue looks at, and features of each
_VOTES = 10  # nearest descriptors that each of a query votes by

Map = Callable[..., Iterable[Any]]  # as the built-in `map`, maybe on several threads


@dataclass(frozen=True)
class Request:
    """What is asked of a map beside the photo, see `Localizer.localize`; `solver` is a name of
    `locate.localization.absolute_pose.SOLVERS`; `rerank` "lightglue" or None."""

    prior: PosePrior | None = None
    candidates: int = CANDIDATES
    exclude: Callable[[str], bool] | None = None
    seed: int = 0
    solver: str = "poselib"
    rerank: str | None = None

    def __post_init__(self) -> None:
        if self.rerank not in (None, LIGHTGLUE):
            raise UnknownNameError("way to rerank", str(self.rerank), [LIGHTGLUE])
        if self.solver not in SOLVERS:
            raise UnknownNameError("pose solver", self.solver, SOLVERS)
        if self.candidates < 1:
            raise InputError(f"candidates must be at least 1, got {self.candidates}")
        if self.seed < 0:
            raise InputError(f"a seed is a whole number of at least 0, got {self.seed}")


@dataclass(frozen=True, eq=False)
class Query:
    """A photo to be matched: `allowed` are rows of the map's images that may be candidates, `map_` is
    as the built-in one, maybe on several threads, `scale` its `extraction_scale`; how its pose is
    solved, and how the verdict counts which part of it the inliers cover."""

    path: Path | None
    camera: QueryCamera
    request: Request
    allowed: Array
    map_: Map
    clock: Clock
    scale: float
    solve: Callable[..., Solution | None]
    coverage: Callable[[Array, tuple[int, int]], float] = verdicts.coverage_of


@dataclass(frozen=True, eq=False)
class PoseHypothesis:
    """A pose by the 2D-3D matches with one group of map images (M features of the query, M rows of
    the map's points), None if too few agree with any, and how many different features agree."""

    features: Array
    points: Array
    solution: Solution | None
    num_inliers: int


@dataclass(frozen=True, eq=False)
class Attempt:
    """A query matched in one way: its features, the pose hypotheses by them (the best first; none
    without candidates), the best one judged, and rows of the map images that it was matched with, those
    with most matches first."""

    features: Features | None
    hypotheses: tuple[PoseHypothesis, ...]
    pose: Pose
    rows: tuple[int, ...] = ()

    @property
    def rank(self) -> tuple[int, int]:
        """Of two answers the higher one is taken."""
        return -VERDICTS.index(self.pose.verdict), self.pose.inliers

    @property
    def second_best(self) -> int:
        """Inliers of the best pose at another place of the map."""
        return self.hypotheses[1].num_inliers if len(self.hypotheses) > 1 else 0


class MapMatcher:
    """A map in memory and the extractor that made it. Safe to share between threads."""

    def __init__(self, folder: Path, extractor: Extractor | None, masks: Masks | None) -> None:
        self.map = ReferenceMap(folder)
        self.masks = masks
        info = self.map.extractor_info
        if extractor is not None and extractor.info.fingerprint != info.fingerprint:
            raise DatabaseMismatchError(
                f"{folder} was made with another {info.name} than the one given; leave it out"
            )
        self._catalog = Catalog.open(MapFolder(folder).features)
        self._extractor = extractor
        self._retriever = Retriever(self._catalog)
        self._lightglue: LightGlue | None = None
        self._lock = Lock()

    def close(self) -> None:
        self._catalog.close()

    def extractor(self) -> Extractor:
        """Loaded when it is first needed."""
        with self._lock:
            if self._extractor is None:
                self._extractor = load_extractor(self._catalog)
            return self._extractor

    def allowed(self, request: Request) -> Array:
        """Rows of the images that may be candidates."""
        prior, rows = request.prior, np.arange(len(self.map.images))
        if prior is not None:
            center = np.asarray(prior.center)
            rows = self.map.near(center, prior.direction, prior.radius, prior.angle)
        if request.exclude is not None:
            kept = [r for r in rows if not request.exclude(self.map.images[r].name)]
            rows = np.array(kept, np.int64)
        return rows

    def nothing_allowed(self, request: Request) -> str:
        """Why there is no candidate."""
        if request.prior is not None and not len(self.allowed(replace(request, exclude=None))):
            return "no image of the map is near the prior pose"
        return "all images of the map that might be candidates are excluded"

    def attempt(self, query: Query, features: Features, vectors: Array | None) -> Attempt:
        """The poses by features of a query, and the best one judged; `vectors`: V x G, global
        descriptors of the query's views, of which the most similar counts."""
        rows = self._shortlist(query, features, vectors)
        query.clock.lap("search")
        ratio = ratio_for("map", self.map.extractor_info)

        def match(row: int) -> Array:
            return match_points(features, self.map.images[row], ratio)

        hypotheses, ordered = self._hypotheses(query, features, rows, match)
        attempt = Attempt(features, hypotheses, Pose(query.path, NOT_LOCALIZED, ""), ordered)
        attempt = replace(attempt, pose=self._judged(query, features, attempt))
        query.clock.lap("pose")
        return attempt

    def attempt_again(self, query: Query, first: Attempt) -> Attempt:
        """The same with the matches of LightGlue, with the few map images that had most matches.
        `InputError` if it does not know the map's features."""
        features, matcher = first.features, self.lightglue()
        if features is None or not first.rows:
            return first
        few = features.take(slice(_KEYPOINTS))

        def match(row: int) -> Array:
            image = self.map.images[row]
            other = self._catalog.features(image.id).take(slice(_KEYPOINTS))
            return points_of(matcher.match(few, other), image)

        hypotheses, rows = self._hypotheses(query, features, list(first.rows[:_AGAIN]), match)
        attempt = Attempt(features, hypotheses, Pose(query.path, NOT_LOCALIZED, ""), rows)
        pose = self._judged(query, features, attempt)
        query.clock.lap("rerank")
        return replace(attempt, pose=replace(pose, reason=f"{pose.reason}; matched by LightGlue"))

    def lightglue(self) -> LightGlue:
        """Made when it is first needed; `InputError` if the map has other features than it knows."""
        with self._lock:
            if self._lightglue is None:
                name = self.map.extractor_info.name
                if name.split("+")[-1] not in FEATURES:
                    raise InputError(
                        f"LightGlue matches features of {' and '.join(FEATURES)}, and this map has "
                        f"those of {name}; make it with --extractor gem+{FEATURES[0]}"
                    )
                self._lightglue = LightGlue(name.split("+")[-1])
            return self._lightglue

    def _shortlist(self, query: Query, features: Features, vectors: Array | None) -> list[int]:
        """Rows of the map images that resemble the query most."""
        allowed, count = query.allowed, query.request.candidates
        if len(allowed) > count and vectors is not None and self.map.vectors is not None:
            similar = (self.map.vectors[allowed] @ vectors.T).max(axis=1)
            allowed = allowed[np.argsort(-similar, kind="stable")[:count]]
        elif len(allowed) > _ALL * count:
            by_id = {self.map.images[row].id: int(row) for row in allowed}
            excluded = [r.id for r in self._catalog.images("ok") if r.id not in by_id]
            self._retriever.load(LOCAL)
            votes = self._retriever.search_local(features, count, _VOTES, excluded)
            return [by_id[i] for i in votes.image_ids if i in by_id]
        return [int(row) for row in allowed]

    def _hypotheses(
        self,
        query: Query,
        features: Features,
        rows: Sequence[int],
        match: Callable[[int], Array],
    ) -> tuple[tuple[PoseHypothesis, ...], tuple[int, ...]]:
        """A pose by each group of candidates that see the same points, the best first; and the
        candidates, those with most matches first. `match`: see `points_of`, by row of a map image."""
        found = dict(zip(rows, query.map_(match, rows), strict=True))
        query.clock.lap("match")
        parts = ([found[row] for row in group] for group in self.map.clusters(rows))
        groups = [np.unique(np.concatenate(part), axis=0) for part in parts]
        groups.sort(key=lambda pairs: -len(np.unique(pairs[:, 0])))
        made = []
        for which, points in (pairs.T for pairs in groups[:_CLUSTERS]):
            solution, agreeing = None, 0
            if len(np.unique(which)) >= verdicts.min_inliers(0):
                solution = query.solve(
                    features.keypoints[which],
                    self.map.points[points],
                    query.camera,
                    scale=query.scale,
                    correlated_ratio=self.map.correlated_ratio,
                    resolution=self.map.resolution,
                    seed=query.request.seed,
                )
            if solution is not None:
                agreeing = len(np.unique(which[solution.inliers]))
            made.append(PoseHypothesis(which, points, solution, agreeing))
        ordered = sorted(rows, key=lambda row: -len(found[row]))
        return tuple(sorted(made, key=lambda one: -one.num_inliers)), tuple(ordered)

    def _judged(self, query: Query, features: Features, attempt: Attempt) -> Pose:
        """The best hypothesis as an answer, with its verdict."""
        path, best = query.path, attempt.hypotheses[0]
        matched, solution = len(np.unique(best.features)), best.solution
        if solution is None:
            return Pose(path, NOT_LOCALIZED, verdicts.too_few(matched), matches=matched)
        refined, inliers = solution.refined, solution.inliers
        seen = features.keypoints[best.features[inliers]].astype(np.float64)
        rows = best.points[inliers]
        world, pose = self.map.points[rows], refined.cam_from_world
        depth = float(np.median(np.linalg.norm(world - center_of(pose), axis=1)))
        position, rotation = verdicts.worst_deviations(refined.covariance)
        quality = verdicts.PoseQuality(
            matches=matched,
            inliers=best.num_inliers,
            coverage=query.coverage(seen, features.image_size),
            position=position / depth,
            rotation=rotation,
            field_of_view=field_of_view(refined.camera),
            second_best=attempt.second_best,
        )
        verdict, reason = verdicts.judge(quality, self.map.record.doubt)
        if solution.camera.doubt:
            reason += f" (EXIF in doubt: {solution.camera.doubt})"
        answer = Pose(
            path,
            NOT_LOCALIZED,
            reason,
            matches=matched,
            inliers=best.num_inliers,
            spread=verdicts.coverage_of(seen, features.image_size),
            error=float(np.sqrt((refined.residuals**2).sum(axis=1).mean())),
        )
        if verdict == NOT_LOCALIZED:
            return answer
        return replace(
            answer,
            verdict=verdict,
            cam_from_world=pose,
            covariance=refined.covariance,
            camera=plain_camera(refined.camera, solution.camera.source),
            images=self.agreeing_images(rows),
            points=seen,
            world_points=world,
        )

    def agreeing_images(self, rows: Array) -> tuple[str, ...]:
        """Names of the map's images that see points of these rows, most first, ten at most."""
        counts = {i.name: int(np.isin(i.point_rows, rows).sum()) for i in self.map.images}
        ranked = sorted((name for name in counts if counts[name]), key=lambda n: -counts[n])
        return tuple(ranked[:10])


def match_points(features: Features, image: MapImage, ratio: float) -> Array:
    """`points_of` mutual nearest neighbours that pass Lowe's test."""
    return points_of(match_mutual(features.descriptors, image.descriptors, ratio), image)


def points_of(pairs: Array, image: MapImage) -> Array:
    """M x 2 int64: which feature of a query may see which row of the map's points, of its matches with
    one image (indices of features)."""
    points = image.point_rows[pairs[:, 1]]
    return np.stack((pairs[:, 0], points), axis=1)[points >= 0]
