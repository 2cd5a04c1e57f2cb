"""Localization with exact truth: errors, how honest the covariances are, and wrong answers.

    python benchmarks/tables/localize.py --data ../shared/data --work build/localize --out docs/benchmarks

- Each scene of eval/localization in five folds: a map of the true poses of four, the fifth asked, so
  that each photo is a query once. With its true camera, and again with none (the focal length is
  estimated).
- The rendered town: a map of its landmarks, the queries asked; the same two ways. And again at half and
  quarter size, cropped, and through five other lenses (`benchmarks/common/lenses.py`).
- NEES: e^T C^-1 e over the poses, which has six degrees of freedom: mean 6, median 5.3, and 95 % below
  12.6 if the covariances are right. "Beyond 3 sigma" are positions of what is localized.
- Foreign photos: of train/, asked of each map of the first fold.

What is finished in --work is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from benchmarks.common.lenses import changed
from index.maps.folder import MapFolder
from locate.datasets.localization import find_scenes
from locate.datasets.records import PosedPhoto
from locate.formats.colmap import write_model
from locate.localization.pose import LOCALIZED, NOT_LOCALIZED, Pose
from locate.metrics.pose import pose_error, pose_errors
from locate.types import Array
from pipelines.cli.evaluate import print_report
from pipelines.evaluation.localization import splits
from pipelines.localization.localizer import Localizer
from pipelines.mapping.import_model import import_map
from pipelines.reports.report import Report, Table
from pipelines.town.files import Shot
from pipelines.town.town import make_town

FOLDS, FOREIGN = 5, 100
COLUMNS = (
    "localized",
    "uncertain",
    "median m",
    "median % of depth",
    "median degrees",
    "NEES mean",
    "NEES median",
    "below 95 %",
    "localized beyond 3 sigma",
    "s a query",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/localize"))
    parser.add_argument("--extractor", default=None, help="default: that of build-map")
    parser.add_argument("--out", type=Path, help="write localize.md and localize.json here")
    a = parser.parse_args()
    foreign = foreign_photos(a.data)
    rows, strangers = [], []
    for scene in find_scenes(a.data / "eval/localization", "auto", ("fox",)):
        answers: dict[str, list[tuple[Pose, Array]]] = {"given": [], "unknown": []}
        for fold, (queries, mapped) in enumerate(splits(scene, "folds", FOLDS)):
            folder = make_map(a.work / f"{scene.name}-{fold}", mapped, a.extractor)
            with Localizer(folder) as localizer:
                ask(localizer, queries, answers)
                if fold == 0:
                    strangers.append((scene.name, *count(localizer, foreign)))
        rows += [(scene.name, way, len(v), *scores(v)) for way, v in answers.items()]
    rows_of_town, stranger = town(a.work, foreign, a.extractor)
    report = Report(
        "localize",
        {"folds": FOLDS, "foreign": len(foreign), "extractor": a.extractor or "default"},
        (
            Table(
                "Localization",
                ("scene", "camera", "queries", *COLUMNS),
                tuple(rows + rows_of_town),
                4,
            ),
            Table(
                "Foreign photos (they must not be localized)",
                ("map", "photos", "localized", "uncertain", "most inliers"),
                (*strangers, stranger),
            ),
        ),
    )
    print_report(report)
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        (a.out / "localize.md").write_text(report.to_markdown())
        (a.out / "localize.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")


def make_map(work: Path, photos: Iterable[PosedPhoto], extractor: str | None) -> Path:
    """A map on true poses."""
    photos = list(photos)
    folder = work / "map"
    if not MapFolder(folder).exists():
        root = Path(photos[0].path.parent)
        names = {photo.path.relative_to(root).as_posix(): photo for photo in photos}
        write_model(
            work / "truth",
            {name: photo.cam_from_world for name, photo in names.items()},
            {name: photo.camera for name, photo in names.items()},
        )
        import_map(work / "truth", root, folder, extractor=extractor, metric=True)
    return folder


def ask(
    localizer: Localizer,
    queries: Iterable[PosedPhoto],
    answers: dict[str, list[tuple[Pose, Array]]],
) -> None:
    queries = list(queries)
    paths = [query.path for query in queries]
    given = [query.camera for query in queries]
    for way, cameras in (("given", given), ("unknown", None)):
        for query, pose in zip(queries, localizer.localize_many(paths, cameras), strict=True):
            assert isinstance(pose, Pose), pose
            answers[way].append((pose, query.cam_from_world))


def scores(answers: list[tuple[Pose, Array]]) -> tuple[Any, ...]:
    """The columns; errors over the poses that were given."""
    posed = [(pose, truth) for pose, truth in answers if pose.verdict != NOT_LOCALIZED]
    if not posed:
        return 0.0, 0.0, *(float("nan") for _ in COLUMNS[2:])
    sure = [(pose, truth) for pose, truth in posed if pose.verdict == LOCALIZED]
    found, truths = [pose.cam_from_world for pose, _ in posed], [truth for _, truth in posed]
    metres, degrees = pose_errors(found, truths)
    depths = [float(np.median(np.linalg.norm(p.world_points - p.center, axis=1))) for p, _ in posed]
    nees = [nees_of(pose, truth) for pose, truth in posed]
    verdicts = [pose.verdict for pose, _ in answers]
    return (
        verdicts.count(LOCALIZED) / len(answers),
        (len(answers) - verdicts.count(LOCALIZED) - verdicts.count(NOT_LOCALIZED)) / len(answers),
        float(np.median(metres)),
        float(100 * np.median(metres / np.array(depths))),
        float(np.median(degrees)),
        float(np.mean(nees)),
        float(np.median(nees)),
        float(np.mean(np.array(nees) < 12.59)),
        sum(sigmas_of(pose, truth) > 3 for pose, truth in sure),
        float(np.mean([pose.seconds["total"] for pose, _ in answers])),
    )


def nees_of(pose: Pose, truth: Array) -> float:
    assert pose.cam_from_world is not None
    assert pose.covariance is not None
    error = pose_error(pose.cam_from_world, truth)
    return float(error @ np.linalg.solve(pose.covariance, error))


def sigmas_of(pose: Pose, truth: Array) -> float:
    """The distance of the centre from the true one over its standard deviation."""
    assert pose.cam_from_world is not None
    assert pose.covariance is not None
    error = pose_error(pose.cam_from_world, truth)[:3]
    return float(np.linalg.norm(error) / np.sqrt(np.trace(pose.covariance[:3, :3])))


def town(
    work: Path, foreign: list[Path], extractor: str | None
) -> tuple[list[tuple[Any, ...]], tuple[Any, ...]]:
    folder = work / "town"
    made = make_town(folder / "photos")
    map_ = folder / "map"
    if not MapFolder(map_).exists():
        root = folder / "photos"
        import_map(root / "colmap", root / "landmarks", map_, extractor=extractor, metric=True)
    answers: dict[str, list[tuple[Pose, Array]]] = {"given": [], "unknown": []}
    shots = [s for s in made.shots if s.file.startswith("queries/") and "elsewhere" not in s.file]
    queries = [posed(folder / "photos", shot) for shot in shots]
    others: dict[str, list[PosedPhoto]] = {}
    for name, photo in changed(queries, folder / "changed"):
        others.setdefault(name, []).append(photo)
    with Localizer(map_) as localizer:
        ask(localizer, queries, answers)
        rows = [("town", way, len(v), *scores(v)) for way, v in answers.items()]
        for name, photos in others.items():
            answers = {"given": [], "unknown": []}
            ask(localizer, photos, answers)
            rows += [(f"town, {name}", way, len(v), *scores(v)) for way, v in answers.items()]
        counted = count(localizer, foreign)
    return rows, ("town", *counted)


def posed(root: Path, shot: Shot) -> PosedPhoto:
    """A photo of the town with its true camera."""
    (fx, _, cx), (_, fy, cy), _ = shot.k
    camera = pycolmap.Camera(
        model="PINHOLE", width=shot.width, height=shot.height, params=[fx, fy, cx + 0.5, cy + 0.5]
    )
    w, x, y, z = shot.quaternion
    rotation = pycolmap.Rotation3d(np.array([x, y, z, w])).matrix()
    return PosedPhoto(shot.file, root / shot.file, camera, np.c_[rotation, shot.translation])


def count(localizer: Localizer, photos: list[Path]) -> tuple[int, int, int, int]:
    """(photos, localized, uncertain, most inliers)"""
    poses = [pose for pose in localizer.localize_many(photos) if isinstance(pose, Pose)]
    verdicts = [pose.verdict for pose in poses]
    return (
        len(poses),
        verdicts.count(LOCALIZED),
        len(poses) - verdicts.count(LOCALIZED) - verdicts.count(NOT_LOCALIZED),
        max(pose.inliers for pose in poses),
    )


def foreign_photos(data: Path) -> list[Path]:
    """Single photos and photos of other scenes, every so-manieth."""
    photos = sorted((data / "train/photos").iterdir())
    scenes = sorted(p for p in (data / "train/scenes").rglob("*.jpg"))
    half = FOREIGN // 2
    return photos[:: len(photos) // half][:half] + scenes[:: len(scenes) // half][:half]


if __name__ == "__main__":
    main()
