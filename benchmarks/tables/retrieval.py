"""Accuracy of `locate query` on labelled photos: `make bench-retrieval`.

    python benchmarks/tables/retrieval.py --data ../shared/data --work /tmp/bench

Layout of the data: `eval/retrieval/labels.csv` (image, landmark, split, kind) and `train/photos`, whose
photos are distractors. Prints mAP and R@1 before and after verification, as the folder is and with the
distractors in, and the open-set rates: how often a photo whose landmark was left out of the index gets
the verdict "match", and how often a photo whose landmark is in it gets a right one.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import locate
from locate.metrics.common import average_precision
from locate.retrieval.verdict import MATCH, UNCERTAIN

RULES = {"web": lambda kind: kind == "web", "all": lambda _: True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, required=True, help="folder for the two databases")
    parser.add_argument("--extractor", default=None)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    a = parser.parse_args()
    with (a.data / "eval/retrieval/labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    images = (a.data / "eval/retrieval").resolve()
    database = [r for r in rows if r["split"] == "database"]
    queries = [r for r in rows if r["split"] == "query"]
    results = {}
    for name, distractors in (
        ("as is", []),
        ("distractors", sorted((a.data / "train/photos").iterdir())),
    ):
        photos = a.work / name.replace(" ", "-")
        for r in database:
            _link(images / r["image"], photos / r["landmark"] / Path(r["image"]).name)
        for photo in distractors:
            _link(photo.resolve(), photos / "train-photos" / photo.name)
        index = a.work / f"{name.replace(' ', '-')}.locate"
        report = locate.build_index(photos, index, extractor=a.extractor)
        print(f"{name}: {report.added + report.unchanged} images, {len(report.failed)} failed")
        with locate.open(index) as db:
            results[name] = evaluate(db, images, queries)
    show(results)
    if a.json:
        a.json.write_text(json.dumps(results, indent=1))


def evaluate(db: locate.Database, images: Path, queries: list[dict[str, str]]) -> dict[str, float]:
    """All numbers of one database, by name; names end in the kind of queries they hold for."""
    values: dict[str, list[float]] = defaultdict(list)
    photos = [images / query["image"] for query in queries]
    before = db.query_many(photos, top=len(db), verify=False)
    after = db.query_many(photos, top=len(db))
    absent = db.query_each((images / q["image"], _label_is(q["landmark"])) for q in queries)
    for query, *answers in zip(queries, before, after, absent, strict=True):
        landmark = query["landmark"]
        for kind in (name for name, holds in RULES.items() if holds(query["kind"])):
            for name, answer in zip(("before", "after"), answers, strict=False):
                right = np.array([c.label == landmark for c in answer.candidates])
                values[f"mAP {name} {kind}"].append(average_precision(right))
                values[f"R@1 {name} {kind}"].append(float(right[0]))
            _, ranked, foreign = answers
            match = ranked.verdict == MATCH
            values[f"right match {kind}"].append(float(match and ranked.label == landmark))
            values[f"wrong match {kind}"].append(float(match and ranked.label != landmark))
            values[f"uncertain {kind}"].append(float(ranked.verdict == UNCERTAIN))
            values[f"false match, place absent {kind}"].append(float(foreign.verdict == MATCH))
            values[f"CPU seconds, place known {kind}"].append(ranked.seconds["total"])
            values[f"CPU seconds, place absent {kind}"].append(foreign.seconds["total"])
        if foreign.verdict == MATCH:
            print(f"false match: {query['image']} {foreign.best.image} {foreign.best.inliers}")
    return {name: float(np.mean(numbers)) for name, numbers in values.items()}


def show(results: dict[str, dict[str, float]]) -> None:
    table = Table("measure", *results)
    for name in next(iter(results.values())):
        table.add_row(name, *(f"{numbers[name]:.4f}" for numbers in results.values()))
    Console(width=120).print(table)


def _label_is(label: str):
    return lambda row: row.label == label


def _link(source: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(source)


if __name__ == "__main__":
    main()
