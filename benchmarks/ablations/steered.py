"""The shipped features at other settings: what docs/experiments.md says about them.

    python benchmarks/ablations/steered.py --data ../shared/data --work build/extractors --out docs/benchmarks

MMA and homography accuracy (MAGSAC, mean of five orders) on oxford-affine, 2048 keypoints, full size;
right at 3: right matches per pair, of so many; bark: its homographies at 3 px; wxbs: share of mutual
nearest neighbours that are right at 3 px; ms: of one image of 640 px, median of 20, two threads,
without a global descriptor. What is finished in --work is not done again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.tables.extractors import clicks, kept, over_all, speeds
from locate.extractors.base import Extractor
from locate.extractors.blocks.corners import CornerSettings
from locate.extractors.steered.extractor import Steered
from pipelines.cli.evaluate import print_report
from pipelines.evaluation.homographies import evaluate_matching
from pipelines.reports.report import Report, Table

Scores = dict[str, float | None]

SETTINGS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "blur 1.25": {"found_by": CornerSettings(blur=1.25)},
    "blur 2": {"found_by": CornerSettings(blur=2.0)},
    "window 1.5": {"found_by": CornerSettings(window=1.5)},
    "strongest in 5 x 5": {"found_by": CornerSettings(radius=2)},
    "strongest in 9 x 9": {"found_by": CornerSettings(radius=4)},
    "all corners of a spot": {"found_by": CornerSettings(cell=1e-6)},
    "seen at 1, .5, .25": {"seen_at": (1.0, 0.5, 0.25)},
    "upright": {"upright": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/extractors"))
    parser.add_argument("--weights", type=Path, help="instead of those that are shipped")
    parser.add_argument("--only", nargs="*", help="of the settings")
    parser.add_argument("--out", type=Path, help="write steered-settings.md here")
    a = parser.parse_args()
    torch.set_num_threads(2)
    a.work.mkdir(parents=True, exist_ok=True)
    rows = {}
    names = a.only or list(SETTINGS)
    extractors = {name: Steered.from_pretrained(a.weights, **SETTINGS[name]) for name in names}
    times = speeds(extractors, a.data)
    for name, extractor in extractors.items():
        rows[name] = kept(a.work, extractor, points, a.data)
        rows[name] |= {"wxbs": kept(a.work, extractor, clicks, a.data)["right matches"]}
        rows[name] |= {"ms": times[name]}
        print(name, json.dumps(rows[name]), flush=True)
    columns = tuple(next(iter(rows.values())))
    table = Table(
        "Steered features at other settings",
        ("settings", *columns),
        tuple((name, *scores.values()) for name, scores in rows.items()),
    )
    report = Report("steered-settings", {"torch": torch.__version__}, (table,))
    print_report(report)
    if a.out:
        (a.out / "steered-settings.md").write_text(report.to_markdown())


def points(extractor: Extractor, data: Path, work: Path) -> Scores:  # noqa: ARG001
    folder = data / "eval/matching/oxford-affine"
    report = evaluate_matching(folder, {"x": extractor}, max_keypoints=2048, estimator="magsac")
    row, tables = over_all(report), report.to_json()["tables"]
    bark = next(r for r in tables[1]["rows"] if r["sequence"] == "bark")
    return {
        **{name: row[name] for name in ("MMA@1", "MMA@3", "homography@1", "homography@3")},
        "right at 3": row["MMA@3"] * row["matches"],
        "matches": row["matches"],
        "bark": bark["homography@3"],
    }


if __name__ == "__main__":
    main()
