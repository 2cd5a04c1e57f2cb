"""`locate evaluate localization`: how precisely the localizer that users run finds cameras.

A map is made from photos with their true poses (`locate import-map`), and every query is localized
against it with its true camera (`locate localize`). By "folds" the photos of a scene, sorted by name,
are dealt out to five folds in turn, and each fold is asked against a map of the others. By "queries" the
scene's own list is asked against a map of all other photos.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pycolmap

from locate.datasets.localization import UNSCALED, find_scenes
from locate.datasets.records import PosedPhoto, Scene
from locate.errors import ImageError, InputError, NoMapError, UnknownNameError
from locate.extractors.base import Extractor, ExtractorInfo
from locate.extractors.sift import Sift
from locate.formats.colmap import write_model
from locate.images.reading import read_photo
from locate.localization.pose import LOCALIZED, Pose
from locate.mapping.triangulation import choose_pairs, scene_depth, triangulate
from locate.matching.descriptors import match_mutual, ratio_for
from locate.metrics.common import mean_defined
from locate.metrics.pose import Thresholds, pose_errors
from locate.types import Array, Extraction, Features
from pipelines.evaluation.common import (
    Progress,
    Steps,
    extractor_settings,
    folder_name,
    require_local,
    steps_of_part,
)
from pipelines.evaluation.pose_tables import THRESHOLDS, Outcome, pose_curves, pose_tables
from pipelines.localization.localizer import Localizer
from pipelines.localization.matcher import CANDIDATES, Request
from pipelines.mapping.import_model import import_map
from pipelines.reports.report import Report, Table

PROTOCOLS = ("folds", "queries")
_DEPTH_PHOTOS = 10
_DEPTH_PARTNERS = 5

Split = tuple[tuple[PosedPhoto, ...], tuple[PosedPhoto, ...]]  # (queries, the photos of the map)
# A query photo and its camera -> 3 x 4 `cam_from_world`, or None: not localized.
Localize = Callable[[Path, pycolmap.Camera], Array | None]
# Makes a map of a scene's photos, those that are not asked; the rest of the scene is there to be looked
# at in advance, not to be learned from.
MakeLocalizer = Callable[[Scene, Sequence[PosedPhoto]], Localize]


def evaluate_localization(
    folder: Path,
    extractors: Mapping[str, Extractor],
    *,
    protocol: str = "folds",
    folds: int = 5,
    layout: str = "auto",
    unscaled: Collection[str] = UNSCALED,
    thresholds: Thresholds = THRESHOLDS,
    ratio: float | None = None,
    solver: str = "poselib",
    candidates: int = CANDIDATES,
    workers: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Judge local features by the poses that they give.

    Args:
        folder: a scene or a folder of scenes, see `locate.datasets.localization`, as is `layout`.
        extractors: by the name in the tables; each must give local features.
        protocol: "folds" (as many as `folds`) or "queries".
        unscaled: names of the scenes whose unit is not the metre.
        thresholds: (metres, degrees) of the recall.
        ratio: of Lowe's test, in maps and of queries; None for the extractor's own.
        solver: a name of `locate.localization.absolute_pose.SOLVERS`.
        candidates: map images that a query is matched with.
        seed: of everything random. The same seed gives the same tables.
        progress: called with (done, in all) photos of maps and queries.
    """
    require_local(extractors)
    if ratio is not None and not 0 < ratio <= 1:
        raise InputError(f"the ratio test needs a number above 0, at most 1, got {ratio}")
    request = Request(candidates=candidates, seed=seed, solver=solver)
    scenes = find_scenes(folder, layout, unscaled)
    total = sum(len(a) + len(b) for scene in scenes for a, b in splits(scene, protocol, folds))
    steps = Steps(progress, total * len(extractors))
    with ExitStack() as stack:
        makers = {
            name: stack.enter_context(MapMaker(extractor, request, ratio, workers, steps))
            for name, extractor in extractors.items()
        }
        report = evaluate_localizers(
            scenes,
            makers,
            protocol=protocol,
            folds=folds,
            thresholds=thresholds,
            settings={
                "data": folder_name(folder),
                "ratio": {name: maker.ratio for name, maker in makers.items()},
                "solver": solver,
                "candidates": candidates,
                "seed": seed,
                "extractors": extractor_settings(extractors),
            },
            on_query=steps,
        )
    notes = dict.fromkeys(text for maker in makers.values() for text in maker.notes)
    tables = (*report.tables, _map_table(makers))
    return replace(report, tables=tables, notes=(*report.notes, *notes))


@dataclass
class MapFacts:
    """What `pipelines.mapping.summary.MapReport` says about a map (0 and NaN without one), and the
    answers to its queries so far."""

    scene: str
    points: int = 0
    track_length: float = float("nan")
    error: float = float("nan")
    poses: list[Pose] = field(default_factory=list)


class MapMaker(AbstractContextManager["MapMaker"]):
    """Makes a map of each scene and fold by `import_map`; `maker(scene, photos)` localizes in it.
    `ratio` is of Lowe's test in maps, `facts` are about the maps so far, `notes` holds a sentence about
    each photo that cannot be read and each reason why there is no map."""

    def __init__(
        self,
        extractor: Extractor,
        request: Request | None = None,
        ratio: float | None = None,
        workers: int | None = None,
        on_photo: Callable[[], None] = lambda: None,
    ) -> None:
        info = replace(extractor.info, ratio=ratio) if ratio else extractor.info
        self._new_cache = partial(_CachedExtractor, extractor, info)
        self._extractor = self._new_cache()
        self._request, self._workers, self._on_photo = request or Request(), workers, on_photo
        self._scene: Scene | None = None
        self._open = ExitStack()  # the map that is asked
        self.ratio = ratio_for("map", info)
        self.facts: list[MapFacts] = []
        self.notes: dict[str, None] = {}

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __call__(self, scene: Scene, photos: Sequence[PosedPhoto]) -> Localize:
        self._open.close()
        if scene is not self._scene:
            self._scene = scene
            self._extractor = self._new_cache()
        folder = Path(self._open.enter_context(TemporaryDirectory(prefix="locate-evaluate-")))
        root = Path(os.path.commonpath([photo.path.parent for photo in photos]))
        named = {photo.path.relative_to(root).as_posix(): photo for photo in photos}
        write_model(
            folder / "truth",
            {name: photo.cam_from_world for name, photo in named.items()},
            {name: photo.camera for name, photo in named.items()},
        )
        advance = steps_of_part(self._on_photo)
        facts = MapFacts(scene.name)
        self.facts.append(facts)
        try:
            made = import_map(
                folder / "truth",
                root,
                folder / "map",
                extractor=self._extractor,
                metric=scene.metric,
                workers=self._workers,
                seed=self._request.seed,
                progress=lambda stage, done, _: advance(done * (stage == "features")),
            )
        except NoMapError as error:
            name = f"{scene.name}: no map by {self._extractor.info.name}"
            self.notes[f"{name} for some queries, which count as not localized: {error}"] = None
            return lambda _photo, _camera: None
        finally:
            advance(len(photos))
        facts.points, facts.track_length, facts.error = made.points, made.track_length, made.error
        localizer = self._open.enter_context(
            Localizer(folder / "map", extractor=self._extractor, workers=self._workers)
        )

        def localize(photo: Path, camera: pycolmap.Camera) -> Array | None:
            try:
                pose = localizer.match(photo, camera, self._request).pose
            except ImageError as error:
                note = f"{error.path.name} {error.reason}: it is on no map, and not localized as a query"
                self.notes[f"{note}; {error.cure}"] = None
                return None
            facts.poses.append(pose)
            return pose.cam_from_world

        return localize


class _CachedExtractor:
    """An extractor with a cache: a photo is on the maps of several folds."""

    def __init__(self, extractor: Extractor, info: ExtractorInfo) -> None:
        self._extractor, self.info, self.max_side = extractor, info, extractor.max_side
        self._cache: dict[tuple[object, ...], Extraction] = {}

    def extract(
        self, pixels: Array, size: tuple[int, int] | None = None, *, local: bool = True
    ) -> Extraction:
        key = (hashlib.sha256(pixels.tobytes()).digest(), pixels.shape, size, local)
        if key not in self._cache:
            self._cache[key] = self._extractor.extract(pixels, size, local=local)
        return self._cache[key]


def evaluate_localizers(
    scenes: Sequence[Scene],
    makers: Mapping[str, MakeLocalizer],
    *,
    protocol: str = "folds",
    folds: int = 5,
    thresholds: Thresholds = THRESHOLDS,
    settings: Mapping[str, Any] | None = None,
    on_query: Callable[[], None] = lambda: None,
) -> Report:
    """Judge any localizers, made by `makers` (by the name in the tables), on scenes with true poses.
    `settings` is what else the numbers depend on; `on_query` is called after each query."""
    depths = [reference_depth(scene) for scene in scenes]
    outcomes = []
    for name, make in makers.items():
        for scene, depth in zip(scenes, depths, strict=True):
            found, truth = [], []
            for queries, mapped in splits(scene, protocol, folds):
                localize = make(scene, mapped)
                for query in queries:
                    found.append(localize(query.path, query.camera))
                    truth.append(query.cam_from_world)
                    on_query()
            errors = pose_errors(found, truth)
            outcomes.append(Outcome(name, scene.name, *errors, scene.metric, depth))
    notes = [note for scene in scenes for note in scene.notes]
    told = "is not metric: its errors are told relative to its depth only"
    notes += [f"{scene.name} {told}" for scene in scenes if not scene.metric]
    shown = {
        "protocol": protocol,
        **({"folds": folds} if protocol == "folds" else {}),
        "scenes": {
            s.name: {"layout": s.layout, "photos": len(s.photos), "metric": s.metric}
            for s in scenes
        },
        **(settings or {}),
    }
    tables, curves = pose_tables(outcomes, thresholds), pose_curves(outcomes)
    return Report("localization", shown, tuple(tables), tuple(curves), tuple(notes))


def splits(scene: Scene, protocol: str = "folds", folds: int = 5) -> list[Split]:
    """The queries and the mapping photos of each map of a scene; nothing is drawn at random."""
    if protocol not in PROTOCOLS:
        raise UnknownNameError("protocol", protocol, PROTOCOLS)
    n = len(scene.photos)
    if protocol == "folds":
        if folds < 2:
            raise InputError(f"at least 2 folds are needed, got {folds}")
        asked = [{p.name for p in scene.photos[k::folds]} for k in range(min(folds, n))]
    elif not scene.queries:
        raise InputError(f"{scene.name} has no list of queries; use the protocol 'folds'")
    else:
        asked = [set(scene.queries)]
    made: list[Split] = []
    for names in asked:
        queries = tuple(photo for photo in scene.photos if photo.name in names)
        made.append((queries, tuple(photo for photo in scene.photos if photo.name not in names)))
    if min(len(mapped) for _, mapped in made) < 2:
        raise InputError(f"{scene.name}: a map needs at least 2 photos, {n} in all are too few")
    return made


def reference_depth(scene: Scene) -> float:
    """How far a scene lies from its cameras, in its unit; NaN if RootSIFT finds no points in it.

    By RootSIFT at its defaults on ten photos and their neighbours, whatever is being judged, so that
    errors relative to it can be compared between extractors and runs.
    """
    count = len(scene.photos)
    anchors = np.unique(np.linspace(0, count - 1, min(count, _DEPTH_PHOTOS)).astype(int))
    pairs = choose_pairs(scene.photos, anchors.tolist(), _DEPTH_PARTNERS)
    seen: dict[int, Features] = {}
    for i in sorted({i for pair in pairs for i in pair}):
        with suppress(ImageError):
            opened = read_photo(scene.photos[i].path)
            found = Sift().extract(opened.pixels, opened.info.size).features
            if found is not None:
                seen[i] = found
    kept, features = list(seen), list(seen.values())
    ratio = ratio_for("map", Sift().info)
    made = triangulate(
        [scene.photos[i] for i in kept],
        features,
        lambda a, b: match_mutual(features[a].descriptors, features[b].descriptors, ratio),
        pairs=[(kept.index(i), kept.index(j)) for i, j in pairs if i in kept and j in kept],
    )
    return scene_depth(made)


def _map_table(makers: Mapping[str, MapMaker]) -> Table:
    rows = []
    for name, maker in makers.items():
        for scene in dict.fromkeys(fact.scene for fact in maker.facts):
            facts = [fact for fact in maker.facts if fact.scene == scene]
            poses = [pose for fact in facts for pose in fact.poses]
            track, error = (
                mean_defined(np.array([getattr(fact, of) for fact in facts]))
                for of in ("track_length", "error")
            )
            points = float(np.mean([fact.points for fact in facts]))
            inliers = float(np.median([pose.inliers for pose in poses] or [0]))
            sure = float(np.mean([float(pose.verdict == LOCALIZED) for pose in poses] or [0.0]))
            rows.append((name, scene, points, track, error, inliers, sure))
    return Table(
        "The maps (means over the folds), the inliers of a query (median), the share of sure poses",
        ("system", "scene", "points", "photos a point", "error px", "inliers", "sure"),
        tuple(rows),
        digits=2,
    )
