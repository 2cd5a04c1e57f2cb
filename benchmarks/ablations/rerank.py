"""What a second look by LightGlue adds to the default, on places that no training has seen.

    python benchmarks/ablations/rerank.py --data ../shared/data --work build/rerank

The queries of `benchmarks/common/held_out_retrieval.py`: photos of places that are in the database, of places that
are not, and photos of other things. For each how it is judged as it is and with `--rerank lightglue`, and by which
evidence. Until its rule is measured, on other photos
(`calibration.py --rerank`), the cautious one judges. Needs the extra lightglue."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch

from benchmarks.common.held_out_retrieval import write_places
from locate.datasets.retrieval import read_retrieval
from locate.extractors import registry
from locate.images.folder import photos_in
from locate.retrieval.verdict import MATCH, UNCERTAIN
from locate.types import Answer
from pipelines.cli.evaluate import print_report
from pipelines.indexing.build import build_index
from pipelines.reports.report import Report, Table
from pipelines.retrieval.database import Database
from pipelines.retrieval.rerank import LIGHTGLUE

RIGHT, WRONG = "right", "wrong"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/rerank"))
    parser.add_argument("--extractor", default=registry.DEFAULT)
    a = parser.parse_args()
    torch.set_num_threads(1)
    folder = write_places(a.data, a.work)
    data = read_retrieval(folder / "places")
    index = a.work / f"{a.extractor}.locate"
    stored = a.work / "stored"
    for name, path in data.database.items():
        link = stored / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(path.resolve())
    print(build_index(stored, index, extractor=a.extractor), flush=True)
    asked = [  # group, photo, what would be right
        (query.group, query.photo, set(query.truth[""].ok))
        for query in data.queries
        if query.photo is not None
    ]
    asked += [("foreign", path, set()) for path in photos_in(folder / "foreign").values()]
    rows = []
    with Database(index) as db:
        for number, (group, photo, ok) in enumerate(asked):
            answers = [db.query(photo), db.query(photo, rerank=LIGHTGLUE)]
            rows.append((group if ok else "absent", *(judged(one, ok) for one in answers)))
            seconds = answers[1].seconds.get("rerank")
            print(
                number, photo.name, json.dumps(rows[-1]), seconds and round(seconds, 2), flush=True
            )
    print_report(report(rows))


def judged(answer: Answer, ok: set[str]) -> tuple[str, str, float]:
    """The verdict; whether the first image is right; the most evidence."""
    best = answer.best
    right = RIGHT if best is not None and best.image in ok else WRONG
    return answer.verdict, right, (best.evidence if best is not None else None) or 0.0


def report(rows: Sequence[tuple[str, tuple[str, str, float], tuple[str, str, float]]]) -> Report:
    table = []
    for group in sorted({row[0] for row in rows}):
        of_group = [row for row in rows if row[0] == group]
        for name, column in (("as it is", 1), ("with LightGlue", 2)):
            found = [row[column] for row in of_group]
            shares = (
                mean(verdict == MATCH and right == RIGHT for verdict, right, _ in found),
                mean(verdict == MATCH and right == WRONG for verdict, right, _ in found),
                mean(verdict == UNCERTAIN for verdict, _, _ in found),
            )
            table.append((group, name, len(found), *shares))
    columns = ("group", "judged", "queries", "right match", "wrong match", "uncertain")
    return Report("rerank", {}, (Table("A second look", columns, tuple(table)),))


if __name__ == "__main__":
    main()
