"""Whether every recipe really learns: trained against its own start, three seeds, photos never
trained on.

    python benchmarks/tables/learning.py --data ../shared/data --work build/learning --out docs/benchmarks

Trains each system with `locate train` from `train/`, once a seed, on one thread, so that two run
side by side on two cores; then measures start and trained model on photos that no training sees:

- all: repeatability (300 keypoints) and MMA@3 (2,048) of 126 pairs of warps, `validation.py --quick`;
- ur2kid: mAP of its global descriptor, places among others, `validation.py --only global`;
- delf: keypoint precision of its attention (`benchmarks/ablations/attention.py`, on `eval/`).

What is finished in --work is not done again, and a training that was interrupted goes on. With --system the rows
of other systems stay in --out as they are, since all of them take hours: of a training DELF spends three and a half
minutes before its first step, and LIFT takes twelve to be measured. A network that finds no keypoints at all, as
SEKD's random one, has a repeatability of 0.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.ablations.attention import START, TRAINED
from benchmarks.ablations.attention import measure as measure_attention
from benchmarks.common.differences import Row
from benchmarks.common.held_out_retrieval import global_scores
from benchmarks.common.warp_scores import warp_scores
from locate.extractors import registry
from locate.extractors.base import Extractor
from locate.extractors.recipes import create_recipe
from locate.extractors.weights import Record, save_weights
from pipelines.reports.report import Report, Table

REPEATABILITY, MMA = "repeatability", "MMA@3"
MAP, PRECISION = "mAP with distractors", "keypoint precision"
WITH_BACKBONE = ("ur2kid", "delf", "d2net")  # start from ImageNet, the others from random weights
SYSTEMS = (*WITH_BACKBONE, "superpoint", "unsuperpoint", "sekd", "lift", "lfnet")
EXTRA: Mapping[str, tuple[str, ...]] = {"ur2kid": (MAP,), "delf": (PRECISION,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/learning"))
    parser.add_argument("--out", type=Path, help="write learning.md and learning.json here")
    parser.add_argument("--system", action="append", choices=SYSTEMS, default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--time-budget", default="20m")
    parser.add_argument("--parallel", type=int, default=2, help="trainings side by side")
    a = parser.parse_args()
    systems = a.system or list(SYSTEMS)
    runs = [(system, seed) for seed in a.seeds for system in systems]
    with ThreadPoolExecutor(a.parallel) as pool:
        list(pool.map(lambda run: train(*run, a.data, a.work, a.time_budget), runs))
    found = {s: {seed: scores(s, seed, a.data, a.work) for seed in a.seeds} for s in systems}
    records = {s: [record(s, seed, a.work) for seed in a.seeds] for s in systems}
    before = a.out / "learning.json" if a.out else None
    kept = json.loads(before.read_text()) if before and before.is_file() else None
    report = make_report(found, records, kept)
    print(report.to_markdown())
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        (a.out / "learning.md").write_text(report.to_markdown())
        (a.out / "learning.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")


def weights_of(system: str, seed: int, work: Path) -> Path:
    return work / f"{system}-{seed}" / "weights.safetensors"


def record(system: str, seed: int, work: Path) -> dict:
    return json.loads((work / f"{system}-{seed}" / "record.json").read_text())


def train(system: str, seed: int, data: Path, work: Path, budget: str) -> None:
    weights = weights_of(system, seed, work)
    if weights.exists():
        return
    command = [sys.executable, "-m", "pipelines.cli.main", "train", system]
    command += ["--data", str(data / "train"), "--out", str(weights.parent), "--seed", str(seed)]
    command += ["--time-budget", budget, "--threads", "1"]
    if (weights.parent / "checkpoint.pt").exists():
        command.append("--resume")
    work.mkdir(parents=True, exist_ok=True)
    with (work / f"{system}-{seed}.log").open("a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)


def scores(system: str, seed: int, data: Path, work: Path) -> dict[str, tuple[float, float]]:
    """By measure: (at the start, trained)."""
    file = work / f"{system}-{seed}.json"
    if not file.exists():
        weights = weights_of(system, seed, work)
        first = work / f"{system}-start.json"
        if not first.exists():
            first.write_text(json.dumps(measure(start(system, work), data, work)))
        before = json.loads(first.read_text())
        after = measure(registry.create(system, weights={system: weights}), data, work)
        found = {name: (before[name], after[name]) for name in before}
        if PRECISION in EXTRA.get(system, ()):
            ways = measure_attention(data, weights)
            found[PRECISION] = tuple(float(np.mean([*ways[w].values()])) for w in (START, TRAINED))
        file.write_text(json.dumps(found))
    return {name: tuple(pair) for name, pair in json.loads(file.read_text()).items()}


def start(system: str, work: Path) -> Extractor:
    """A system as its training begins."""
    if system in WITH_BACKBONE:
        return registry.create(system, {"backbone": "lite0"})
    recipe = create_recipe(system)
    weights = work / f"{system}-start.safetensors"
    save_weights(
        weights,
        recipe.tensors(recipe.network()),
        Record(system, settings=recipe.settings(), command="the start of a training"),
    )
    return registry.create(system, weights={system: weights})


def measure(extractor: Extractor, data: Path, work: Path) -> dict[str, float]:
    rows = warp_scores(extractor, data, work, quick=True)
    found = {name: _mean(rows, name) for name in (REPEATABILITY, MMA)}
    if MAP in EXTRA.get(extractor.info.name, ()):
        found[MAP] = _mean(global_scores(extractor, data, work), "mAP before")
    return found


def _mean(rows: list[Row], name: str) -> float:
    values = np.array([row.values[name] for row in rows])
    return 0.0 if np.isnan(values).all() else float(np.nanmean(values))


def make_report(
    found: dict[str, dict[int, dict[str, tuple[float, float]]]],
    records: dict[str, list[dict]],
    before: dict | None = None,
) -> Report:
    """With the rows that a report has of other systems `before`, as JSON."""
    rows = []
    for system, by_seed in found.items():
        minutes = np.mean([r["seconds"] / 60 for r in records[system]])
        for name in (REPEATABILITY, MMA, *EXTRA.get(system, ())):
            start = float(np.mean([s[name][0] for s in by_seed.values()]))
            trained = np.array([s[name][1] for s in by_seed.values()])
            gains = np.array([s[name][1] - s[name][0] for s in by_seed.values()])
            each = ", ".join(f"{value:.3f}" for value in trained)
            mean, least = float(trained.mean()), float(gains.min())
            rows.append((system, name, f"{minutes:.1f}", start, each, mean, least))
    others = before["tables"][0]["rows"] if before else []
    rows += [tuple(row.values()) for row in others if row["system"] not in found]
    rows.sort(key=lambda row: SYSTEMS.index(row[0]))
    columns = ("system", "measure", "minutes", "start", "trained, by seed", "mean", "smallest gain")
    table = Table("Trained against its own start", columns, tuple(rows))
    by_command = {}  # commits
    if before:
        by_command = dict(
            zip(before["settings"]["commands"], before["settings"]["commits"], strict=True)
        )
    by_command = {c: commit for c, commit in by_command.items() if c.split()[2] not in found}
    by_command |= {r["command"]: r["commit"] for each in records.values() for r in each}
    settings = {
        "torch": torch.__version__,
        "commands": [*by_command],
        "commits": [*by_command.values()],
    }
    note = (
        "trained from train/, measured on photos of it that no training sees (keypoint precision: on "
        "eval/); minutes are of one thread, two trainings side by side on two cores"
    )
    return Report("learning", settings, (table,), notes=(note,))


if __name__ == "__main__":
    main()
