"""`locate evaluate localization`: how precisely cameras are localized.

Protocol: a map is made from photos with their true poses, and every query is localized against it. By
"folds" the photos of a scene, sorted by name, are dealt out to five folds in turn; each fold is asked
against a map of the others, so that each photo is a query once. By "queries" the scene's own list is
asked against a map of all other photos.

Any localizer can be judged: `evaluate_localizers` takes functions that make one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from locate.datasets.localization import UNSCALED, find_scenes
from locate.datasets.records import PosedPhoto, Scene
from locate.errors import InputError, UnknownNameError
from locate.extractors.base import Extractor
from locate.extractors.sift import Sift
from locate.localization.absolute_pose import MAX_ERROR
from locate.mapping.triangulation import choose_pairs, scene_depth, triangulate
from locate.metrics.common import mean_defined
from locate.metrics.pose import Thresholds, pose_errors
from pipelines.evaluation.common import (
    Progress,
    Steps,
    extractor_settings,
    folder_name,
    require_local,
)
from pipelines.evaluation.pose_map import RATIO, Localize, MapMaker, MapOptions, Sight, ratio_of
from pipelines.evaluation.pose_tables import THRESHOLDS, Outcome, pose_curves, pose_tables
from pipelines.reports.report import Report, Table

PROTOCOLS = ("folds", "queries")
_DEPTH_PHOTOS = 10
_DEPTH_PARTNERS = 5

Split = tuple[tuple[PosedPhoto, ...], tuple[PosedPhoto, ...]]  # (queries, the photos of the map)


class MakeLocalizer(Protocol):
    """Makes a map of a scene's photos, those that are not asked; the rest of the scene is there to be
    looked at in advance, not to be learned from."""

    def __call__(self, scene: Scene, photos: Sequence[PosedPhoto]) -> Localize: ...


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
    max_error: float = MAX_ERROR,
    candidates: int = 20,
    workers: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Judge local features by the poses that they give.

    Args:
        folder: a scene or a folder of scenes, see `locate.datasets.localization`.
        extractors: by the name in the tables; each must give local features.
        protocol: "folds" or "queries".
        folds: how many.
        layout: of the folder; "auto" recognises it.
        unscaled: names of the scenes whose unit is not the metre.
        thresholds: (metres, degrees) of the recall.
        ratio, solver, max_error, candidates: see `MapOptions`.
        workers: threads that extract.
        seed: of every RANSAC. The same seed gives the same tables.
        progress: called with (done, in all) photos looked at and queries asked.
    """
    require_local(extractors)
    options = MapOptions(ratio, solver, max_error, candidates=candidates, seed=seed)
    scenes = find_scenes(folder, layout, unscaled)
    asked = sum(len(q) for scene in scenes for q, _ in splits(scene, protocol, folds))
    looked = sum(len(scene.photos) for scene in scenes)
    steps = Steps(progress, (asked + looked) * len(extractors))
    makers = {
        name: MapMaker(extractor, options, workers=workers, on_photo=steps)
        for name, extractor in extractors.items()
    }
    settings = {
        "data": folder_name(folder),
        **asdict(options),
        "ratio": {name: ratio_of(extractor, options) for name, extractor in extractors.items()},
        "extractors": extractor_settings(extractors),
    }
    report = evaluate_localizers(
        scenes,
        makers,
        protocol=protocol,
        folds=folds,
        thresholds=thresholds,
        settings=settings,
        on_query=steps,
    )
    unreadable = {str(error): error for maker in makers.values() for error in maker.unreadable}
    notes = [
        f"{error.path.name} {error.reason}: it is on no map, and not localized as a query; {error.cure}"
        for error in unreadable.values()
    ]
    return Report(
        report.name,
        report.settings,
        (*report.tables, _map_table(makers)),
        report.curves,
        (*report.notes, *notes),
    )


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
    """Judge localizers.

    Args:
        scenes: with true poses.
        makers: by the name in the tables.
        protocol, folds, thresholds: see `evaluate_localization`.
        settings: what else the numbers depend on, for the report.
        on_query: called after each query.
    """
    depths = {scene.name: reference_depth(scene) for scene in scenes}
    outcomes = []
    for name, make in makers.items():
        for scene in scenes:
            found, truth = [], []
            for queries, mapped in splits(scene, protocol, folds):
                localize = make(scene, mapped)
                for query in queries:
                    found.append(localize(query.path, query.camera))
                    truth.append(query.cam_from_world)
                    on_query()
            positions, rotations = pose_errors(found, truth)
            outcomes.append(
                Outcome(name, scene.name, positions, rotations, scene.metric, depths[scene.name])
            )
    notes = [note for scene in scenes for note in scene.notes]
    notes += [
        f"{scene.name} is not metric: its errors are told relative to its depth only"
        for scene in scenes
        if not scene.metric
    ]
    shown = {
        "protocol": protocol,
        **({"folds": folds} if protocol == "folds" else {}),
        "scenes": {scene.name: _scene_settings(scene) for scene in scenes},
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
    made: list[Split] = [
        (
            tuple(photo for photo in scene.photos if photo.name in names),
            tuple(photo for photo in scene.photos if photo.name not in names),
        )
        for names in asked
    ]
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
    used = sorted({i for pair in pairs for i in pair})
    sight = Sight(Sift(), RATIO)
    sight.look(scene.photos[i].path for i in used)
    seen = [(scene.photos[i], sight.features(scene.photos[i].path)) for i in used]
    photos = [photo for photo, features in seen if features is not None]
    place = {photo.name: i for i, photo in enumerate(photos)}
    names = [(scene.photos[i].name, scene.photos[j].name) for i, j in pairs]
    made = triangulate(
        photos,
        [features for _, features in seen if features is not None],
        lambda i, j: sight.match(photos[i].path, photos[j].path),
        pairs=[(place[a], place[b]) for a, b in names if a in place and b in place],
    )
    return scene_depth(made)


def _scene_settings(scene: Scene) -> dict[str, Any]:
    return {"layout": scene.layout, "photos": len(scene.photos), "metric": scene.metric}


def _map_table(makers: Mapping[str, MapMaker]) -> Table:
    rows = []
    for name, maker in makers.items():
        for scene in dict.fromkeys(fact.scene for fact in maker.facts):
            facts = [fact for fact in maker.facts if fact.scene == scene]
            rows.append(
                (
                    name,
                    scene,
                    float(np.mean([fact.points for fact in facts])),
                    mean_defined(np.array([fact.track_length for fact in facts])),
                    mean_defined(np.array([fact.error for fact in facts])),
                    float(np.median([count for fact in facts for count in fact.inliers])),
                )
            )
    return Table(
        "The maps (means over the folds) and the inliers of a query (median)",
        ("system", "scene", "points", "photos a point", "error px", "inliers"),
        tuple(rows),
        digits=2,
    )
