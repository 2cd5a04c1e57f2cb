"""Whether every recipe really learns: trained against its own start, three seeds, photos never
trained on.

    python benchmarks/tables/learning.py --data ../shared/data --work build/learning --out docs/benchmarks

Trains each system with `locate train` from `train/`, once a seed, on one thread, so that two run
side by side on two cores; then measures start and trained model on `eval/`:

- d2net, ur2kid: MMA@3 on oxford-affine, 2048 keypoints, mutual nearest neighbours;
- ur2kid: mAP of its global descriptor, web queries of eval/retrieval, with all of train/photos as
  distractors;
- delf: keypoint precision of its attention (`benchmarks/ablations/attention.py`).

What is finished in --work is not done again, and a training that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.ablations.attention import START, TRAINED
from benchmarks.ablations.attention import measure as measure_attention
from locate.extractors import registry
from locate.images.reading import read_photo
from locate.metrics.common import average_precision
from locate.pixels import fit_size
from locate.util.parallel import one_thread_each
from pipelines.evaluation.homographies import evaluate_matching
from pipelines.reports.report import Report, Table

MMA, MAP, PRECISION = "MMA@3", "mAP with distractors", "keypoint precision"
MEASURES = {"d2net": (MMA,), "ur2kid": (MMA, MAP), "delf": (PRECISION,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/learning"))
    parser.add_argument("--out", type=Path, help="write learning.md and learning.json here")
    parser.add_argument("--system", action="append", choices=MEASURES, default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--time-budget", default="8m")
    parser.add_argument("--parallel", type=int, default=2, help="trainings side by side")
    a = parser.parse_args()
    systems = a.system or list(MEASURES)
    runs = [(system, seed) for seed in a.seeds for system in systems]
    with ThreadPoolExecutor(a.parallel) as pool:
        list(pool.map(lambda run: train(*run, a.data, a.work, a.time_budget), runs))
    found = {s: {seed: scores(s, seed, a.data, a.work) for seed in a.seeds} for s in systems}
    report = make_report(found, {s: [record(s, seed, a.work) for seed in a.seeds] for s in systems})
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
        found = {}
        for name in MEASURES[system]:
            if name == PRECISION:
                ways = measure_attention(data, weights)
                found[name] = tuple(np.mean([*ways[w].values()]) for w in (START, TRAINED))
            else:
                start = work / f"{system}-start-{name.split()[0]}.json"
                if not start.exists():
                    start.write_text(json.dumps(SCORE[name](registry.create(system), data)))
                trained = registry.create(system, weights={system: weights})
                found[name] = (json.loads(start.read_text()), SCORE[name](trained, data))
        file.write_text(json.dumps(found))
    return {name: tuple(pair) for name, pair in json.loads(file.read_text()).items()}


def mma(extractor, data: Path) -> float:
    folder = data / "eval/matching/oxford-affine"
    report = evaluate_matching(folder, {"x": extractor}, max_keypoints=2048).to_json()
    rows = report["tables"][0]["rows"]
    return float(next(row["MMA@3"] for row in rows if "all" in row.values()))


def mean_average_precision(extractor, data: Path) -> float:
    """Of the web queries, by the global descriptor alone."""
    folder = data / "eval/retrieval"
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    database = [(folder / r["image"], r["landmark"]) for r in rows if r["split"] == "database"]
    database += [(path, "") for path in sorted((data / "train/photos").iterdir())]
    queries = [
        (folder / r["image"], r["landmark"])
        for r in rows
        if r["split"] == "query" and r["kind"] == "web"
    ]

    def look(path: Path):
        pixels = read_photo(path, min_long_side=extractor.max_side).pixels
        height, width = pixels.shape[:2]
        size = fit_size((width, height), extractor.max_side)
        if size != (width, height):
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        return extractor.extract(pixels, local=False).global_descriptor

    with ThreadPoolExecutor(2, initializer=one_thread_each) as pool:
        vectors = np.stack(list(pool.map(look, [path for path, _ in (*database, *queries)])))
    stored, asked = vectors[: len(database)], vectors[len(database) :]
    labels = np.array([label for _, label in database])
    found = []
    for vector, (_, label) in zip(asked, queries, strict=True):
        order = np.argsort(-(stored @ vector), kind="stable")
        found.append(average_precision(labels[order] == label))
    return float(np.mean(found))


SCORE = {MMA: mma, MAP: mean_average_precision}


def make_report(
    found: dict[str, dict[int, dict[str, tuple[float, float]]]], records: dict[str, list[dict]]
) -> Report:
    rows = []
    for system, by_seed in found.items():
        minutes = np.mean([r["seconds"] / 60 for r in records[system]])
        for name in MEASURES[system]:
            start = float(np.mean([s[name][0] for s in by_seed.values()]))
            trained = np.array([s[name][1] for s in by_seed.values()])
            gains = np.array([s[name][1] - s[name][0] for s in by_seed.values()])
            each = ", ".join(f"{value:.3f}" for value in trained)
            mean, least = float(trained.mean()), float(gains.min())
            rows.append((system, name, f"{minutes:.1f}", start, each, mean, least))
    columns = ("system", "measure", "minutes", "start", "trained, by seed", "mean", "smallest gain")
    table = Table("Trained against its own start", columns, tuple(rows))
    commands = [r["command"] for each in records.values() for r in each]
    commits = [r["commit"] for each in records.values() for r in each]
    settings = {"torch": torch.__version__, "commands": commands, "commits": commits}
    note = (
        "trained from train/, measured on eval/; minutes are of one thread, two or three trainings "
        "side by side on two cores"
    )
    return Report("learning", settings, (table,), notes=(note,))


if __name__ == "__main__":
    main()
