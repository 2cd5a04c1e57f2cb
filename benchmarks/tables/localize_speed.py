"""Seconds per localization by part, warm and cold, one query and a hundred; memory per mapped image.

    python benchmarks/tables/localize_speed.py --work build/localize --out docs/benchmarks

On the rendered town (48 photos of 800 x 600 in the map), no camera given, `gem+sift`, all cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from index.maps.folder import MapFolder
from locate.localization.pose import Pose
from pipelines.cli.evaluate import print_report
from pipelines.localization.localizer import Localizer
from pipelines.localization.reference_map import ReferenceMap
from pipelines.mapping.import_model import import_map
from pipelines.reports.report import Report, Table
from pipelines.town.town import make_town

HUNDRED = 100
PARTS = ("decode", "extract", "search", "match", "pose", "total")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("build/localize"))
    parser.add_argument("--out", type=Path, help="write localize-speed.md and .json here")
    a = parser.parse_args()
    photos, map_ = a.work / "town/photos", a.work / "town/map-sift"
    make_town(photos)
    if not MapFolder(map_).exists():
        import_map(photos / "colmap", photos / "landmarks", map_, extractor="gem+sift", metric=True)
    queries = sorted(p for p in (photos / "queries").glob("*.jpg") if "else" not in p.name)
    begin = time.perf_counter()
    with Localizer(map_) as localizer:
        localizer.localize(queries[0])
        cold = time.perf_counter() - begin
        one = [localizer.localize(query) for query in queries]
        begin = time.perf_counter()
        many = list(localizer.localize_many(itertools.islice(itertools.cycle(queries), HUNDRED)))
        batch = (time.perf_counter() - begin) / HUNDRED
    assert all(isinstance(pose, Pose) for pose in many)
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "locate", "localize", str(queries[0]), "--map", str(map_)],
        check=True,
        capture_output=True,
    )
    command = time.perf_counter() - begin
    seconds = {part: float(np.median([pose.seconds[part] for pose in one])) for part in PARTS}
    report = Report(
        "localize-speed",
        {"cores": os.cpu_count(), "photos of the map": 48, "queries": len(queries)},
        (
            Table(
                "Seconds of one warm query by part (median)",
                PARTS,
                (tuple(seconds[part] for part in PARTS),),
            ),
            Table(
                "Seconds a query",
                ("warm, one at a time", "warm, a hundred", "first in Python", "the whole command"),
                ((seconds["total"], batch, cold, command),),
            ),
            Table(
                "Memory and disk of a mapped image",
                ("kB in memory", "kB on disk"),
                ((memory(map_), disk(map_)),),
                0,
            ),
        ),
    )
    print_report(report)
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        (a.out / "localize-speed.md").write_text(report.to_markdown())
        (a.out / "localize-speed.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")


def memory(map_: Path) -> float:
    """kB of the arrays that a loaded map holds, per image (COLMAP's model beside them not counted)."""
    loaded = ReferenceMap(map_)
    arrays = [loaded.points, loaded.track_lengths, loaded.centers, loaded.directions]
    arrays += [] if loaded.vectors is None else [loaded.vectors]
    arrays += [array for image in loaded.images for array in (image.descriptors, image.point_rows)]
    return float(sum(array.nbytes for array in arrays) / len(loaded.images) / 1e3)


def disk(map_: Path) -> float:
    files = [file for file in map_.rglob("*") if file.is_file()]
    total = sum(file.stat().st_size for file in files)
    return float(total / len(ReferenceMap(map_).images) / 1e3)


if __name__ == "__main__":
    main()
