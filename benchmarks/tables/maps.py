"""Maps from photos alone, and photos held out of them.

    python benchmarks/tables/maps.py --data ../shared/data --work build/maps --out docs/benchmarks

- From photos only: eval/localization's Strecha scenes, whose true poses are only used to judge: the
  map's cameras are aligned to the true ones by a similarity (Umeyama), and what is left is the error.
  And sacre_coeur, ten web photos, which have no truth: how many register.
- Held out: a map of nine of the ten web photos, the tenth localized in it without any camera, for each
  of them. The truth is its pose in the map of all ten, after the map of nine is aligned to that one.
- With --peer PYTHON (an environment with ALIKED and LightGlue) and --peer-tool, the same photos go
  through that in the same run, for the ratio of time a query: features of one photo and nine matches.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from index.maps.folder import MapFolder
from locate.formats.colmap import read_model
from locate.georef.fitting import umeyama
from locate.localization.pose import Pose
from locate.metrics.pose import camera_center, rotation_error
from locate.types import Array
from pipelines.cli.evaluate import print_report
from pipelines.localization.localizer import Localizer
from pipelines.mapping.build import build_map
from pipelines.mapping.summary import MapReport
from pipelines.reports.report import Report, Table

STRECHA = ("fountain-P11", "Herz-Jesus-P25")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/maps"))
    parser.add_argument("--extractor", help="default: that of build-map")
    parser.add_argument("--peer", type=Path, help="Python of an environment with ALIKED, LightGlue")
    parser.add_argument("--peer-tool", type=Path, help="the script that runs them")
    parser.add_argument("--out", type=Path, help="write maps.md and maps.json here")
    a = parser.parse_args()
    web = a.data / "eval/retrieval/images/sacre_coeur"
    rows = [strecha(a.data / "eval/localization" / name, a.work, a.extractor) for name in STRECHA]
    rows.append(
        ("sacre_coeur", *counts(make(web, a.work / "sacre_coeur", a.extractor)), *[None] * 3)
    )
    held, ours = hold_out(web, a.work, a.extractor)
    tables = [
        Table(
            "From photos only",
            (
                *("scene", "photos", "registered", "points", "track length", "error px"),
                *("median position % of depth", "worst", "median degrees"),
            ),
            tuple(rows),
        ),
        Table(
            "Each of ten web photos held out (cameras unknown)",
            (
                *("extractor", "localized", "uncertain", "degrees median", "worst"),
                *("position % of depth median", "% worst", "focal % median", "CPU s a query"),
            ),
            (held,),
        ),
    ]
    if a.peer and a.peer_tool:
        theirs = peer(a.peer, a.peer_tool, sorted(web.iterdir()), a.work / "peer")
        tables.append(
            Table(
                "CPU seconds a query, one thread, nine photos in the map",
                ("ours", "ALIKED and LightGlue", "ratio"),
                ((ours, theirs, theirs / ours),),
                2,
            )
        )
    report = Report("maps", {"extractor": a.extractor or "default"}, tuple(tables))
    print_report(report)
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        (a.out / "maps.md").write_text(report.to_markdown())
        (a.out / "maps.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")


def make(photos: Path, out: Path, extractor: str | None) -> MapReport:
    return build_map(out, images=photos, extractor=extractor)


def counts(report: MapReport) -> tuple[Any, ...]:
    return (
        report.images,
        report.registered,
        report.points,
        report.track_length,
        report.error,
    )


def strecha(scene: Path, work: Path, extractor: str | None) -> tuple[Any, ...]:
    report = make(scene / "images", work / scene.name, extractor)
    truth = read_model(scene / "colmap_gt").poses
    model = MapFolder(work / scene.name).read_model()
    short = {Path(name).name: pose for name, pose in truth.items()}
    positions, rotations = aligned_errors(poses_of(model), short)
    depth = median_depth(model) * scale_of(poses_of(model), short)
    return (
        scene.name,
        *counts(report),
        100 * float(np.median(positions)) / depth,
        100 * float(positions.max()) / depth,
        float(np.median(rotations)),
    )


def poses_of(model: pycolmap.Reconstruction) -> dict[str, Array]:
    return {
        Path(model.images[i].name).name: model.images[i].cam_from_world().matrix()
        for i in model.reg_image_ids()
    }


def similarity(source: dict[str, Array], target: dict[str, Array]) -> tuple[float, Array, Array]:
    """x_target = s R x_source + t by the camera centres that both have."""
    names = sorted(source.keys() & target.keys())
    found = umeyama(
        *(np.array([camera_center(side[n]) for n in names]) for side in (source, target))
    )
    assert found is not None
    return found


def scale_of(source: dict[str, Array], target: dict[str, Array]) -> float:
    return similarity(source, target)[0]


def moved(pose: Array, by: tuple[float, Array, Array]) -> Array:
    """A pose in the frame that the similarity leads to."""
    scale, rotation, translation = by
    center = scale * rotation @ camera_center(pose) + translation
    turned = pose[:, :3] @ rotation.T
    return np.asarray(np.c_[turned, -turned @ center])


def aligned_errors(found: dict[str, Array], truth: dict[str, Array]) -> tuple[Array, Array]:
    """Position errors in units of the truth, rotation errors in degrees."""
    by = similarity(found, truth)
    poses = {name: moved(pose, by) for name, pose in found.items()}
    positions = [
        np.linalg.norm(camera_center(p) - camera_center(truth[n])) for n, p in poses.items()
    ]
    rotations = [rotation_error(pose, truth[name]) for name, pose in poses.items()]
    return np.array(positions), np.array(rotations)


def median_depth(model: pycolmap.Reconstruction) -> float:
    depths = []
    for i in model.reg_image_ids():
        image = model.images[i]
        ids = [p.point3D_id for p in image.points2D if p.has_point3D()]
        seen = np.array([model.point3D(k).xyz for k in ids])
        pose = image.cam_from_world().matrix()
        depths.append(np.median(seen @ pose[2, :3] + pose[2, 3]))
    return float(np.median(depths))


def hold_out(photos: Path, work: Path, extractor: str | None) -> tuple[tuple[Any, ...], float]:
    """The row of the table, and CPU seconds a query."""
    whole = MapFolder(work / "sacre_coeur").read_model()
    truth, depth = poses_of(whole), median_depth(whole)
    focal = {
        Path(whole.images[i].name).name: whole.images[i].camera.mean_focal_length()
        for i in whole.reg_image_ids()
    }
    found: list[tuple[Pose, float, float, float]] = []
    answers, spent = [], []
    for held in sorted(photos.iterdir()):
        folder = work / "held-out" / held.stem
        rest = folder / "photos"
        if not MapFolder(folder / "map").exists():
            shutil.rmtree(folder, ignore_errors=True)
            rest.mkdir(parents=True)
            for other in photos.iterdir():
                if other != held:
                    (rest / other.name).symlink_to(other.resolve())
        make(rest, folder / "map", extractor)
        by = similarity(poses_of(MapFolder(folder / "map").read_model()), truth)
        with Localizer(folder / "map", workers=1) as localizer:
            localizer.localize(held)  # loading the network belongs to no query
            begin = time.process_time()
            pose = localizer.localize(held)
            spent.append(time.process_time() - begin)
        answers.append(pose.verdict)
        if pose.cam_from_world is None or pose.camera is None:
            continue
        there = moved(pose.cam_from_world, by)
        true = truth[held.name]
        found.append(
            (
                pose,
                rotation_error(there, true),
                100 * float(np.linalg.norm(camera_center(there) - camera_center(true))) / depth,
                100 * abs(pose.camera.params[0] / focal[held.name] - 1),
            )
        )
    turns, places, focals = (np.array([row[k] for row in found]) for k in (1, 2, 3))
    row = (
        extractor or "default",
        f"{answers.count('localized')}/{len(answers)}",
        answers.count("uncertain"),
        float(np.median(turns)),
        float(turns.max()),
        float(np.median(places)),
        float(places.max()),
        float(np.median(focals)),
        float(np.mean(spent)),
    )
    return row, float(np.mean(spent))


def peer(python: Path, tool: Path, photos: list[Path], work: Path) -> float:
    """CPU seconds of one query against nine photos: features of one, nine matches, without loading."""
    work.mkdir(parents=True, exist_ok=True)

    def run(*arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
        subprocess.run(
            [str(python), str(tool), *arguments], check=True, capture_output=True, env=environment
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    names = [str(photo.resolve()) for photo in photos]
    one, ten = work / "one.npz", work / "ten.npz"
    # Loading is the same in both: the difference is that of nine photos, or of nine matches.
    features = (run("features", str(ten), *names) - run("features", str(one), names[0])) / (
        len(names) - 1
    )
    pairs, pair = work / "nine.txt", work / "one.txt"
    pairs.write_text("".join(f"0 {k}\n" for k in range(1, len(names))))
    pair.write_text("0 1\n")
    out = str(work / "matches.npz")
    nine = run("match", out, str(ten), "--pairs", str(pairs))
    single = run("match", out, str(ten), "--pairs", str(pair))
    return features + (nine - single) * (len(names) - 1) / (len(names) - 2)


if __name__ == "__main__":
    main()
