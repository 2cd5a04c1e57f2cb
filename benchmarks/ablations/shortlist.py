"""What verifying only what is promising costs and saves, against verifying the whole shortlist.

    python benchmarks/ablations/shortlist.py --data ../shared/data --work build/shortlist [--extractor d2net] [--out docs/benchmarks]

Places of `train/` that no training sees (`benchmarks/common/held_out_retrieval.py`), in a database with
photos of other things, are asked for twice, each photo left out of its own answer: as `locate query` does,
and with `--exhaustive`; and so are photos of places that are not there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from benchmarks.common.held_out_retrieval import write_places
from locate.datasets.retrieval import read_retrieval
from locate.extractors import registry
from locate.retrieval.verdict import MATCH, UNCERTAIN
from locate.types import Answer
from pipelines.cli.evaluate import print_report
from pipelines.indexing.build import build_index
from pipelines.reports.report import Report, Table
from pipelines.retrieval.database import Database
from pipelines.retrieval.query import SHORTLIST

KNOWN, ABSENT = "in the database", "not in it"
Asked = list[tuple[Answer, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/shortlist"))
    parser.add_argument("--extractor", default=registry.DEFAULT)
    parser.add_argument("--absent", type=int, default=60, help="photos of other places")
    parser.add_argument("--out", type=Path, help="write shortlist.md and shortlist.json here")
    a = parser.parse_args()
    folder = write_places(a.data, a.work)
    index = a.work / f"{a.extractor}.locate"
    build_index(folder / "places", index, extractor=a.extractor)
    known = [query.photo for query in read_retrieval(folder / "places").queries if query.photo]
    absent = sorted((folder / "foreign").iterdir())[: a.absent]
    rows = []
    with Database(index) as db:
        size = len(db)
        db.query(known[0])  # loads the networks
        for group, photos in ((KNOWN, known), (ABSENT, absent)):
            pruned, full = ask(db, photos, exhaustive=False), ask(db, photos, exhaustive=True)
            rows += [(group, *compared(pruned, full))]
    columns = ("photos", "count", "same verdict", "same first", "proven, of all that are")
    costs = ("verified", "of", "p50, s", "of", "p90, s", "of")
    report = Report(
        "shortlist",
        {"extractor": a.extractor, "shortlist": SHORTLIST, "photos in the database": size},
        (Table("As `locate query` does, and (of) exhaustively", (*columns, *costs), tuple(rows)),),
    )
    print_report(report)
    if a.out:
        a.out.mkdir(parents=True, exist_ok=True)
        (a.out / "shortlist.md").write_text(report.to_markdown())
        (a.out / "shortlist.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")


def ask(db: Database, photos: list[Path], *, exhaustive: bool) -> Asked:
    """The answers, and the seconds that each took."""
    found = []
    for photo in photos:
        start = time.perf_counter()
        answer = db.query(
            photo,
            top=SHORTLIST,
            exhaustive=exhaustive,
            exclude=lambda row, name=photo.name: Path(row.path).name == name,
        )
        found.append((answer, time.perf_counter() - start))
    return found


def compared(pruned: Asked, full: Asked) -> tuple[float, ...]:
    """A row of the table."""
    pairs = [(a, b) for (a, _), (b, _) in zip(pruned, full, strict=True)]
    proven = [proofs(a).keys() & proofs(b).keys() for a, b in pairs]
    seconds = [np.array([s for _, s in found]) for found in (pruned, full)]
    counts = [np.mean([verified(answer) for answer, _ in found]) for found in (pruned, full)]
    all_proven = sum(len(proofs(b)) for _, b in pairs)
    return (
        len(pairs),
        float(np.mean([a.verdict == b.verdict for a, b in pairs])),
        float(np.mean([first(a) == first(b) for a, b in pairs])),
        sum(map(len, proven)) / all_proven if all_proven else float("nan"),
        *map(float, counts),
        *(float(np.quantile(s, q)) for q in (0.5, 0.9) for s in seconds),
    )


def proofs(answer: Answer) -> dict[int, str]:
    """Verdicts of the candidates that are proven, or nearly so, by their ids."""
    return {c.image_id: c.verdict for c in answer.candidates if c.verdict in (MATCH, UNCERTAIN)}


def verified(answer: Answer) -> int:
    """Candidates of the view that was answered by, that were verified."""
    return sum(c.verification is not None for c in answer.candidates)


def first(answer: Answer) -> int | None:
    return answer.candidates[0].image_id if answer.candidates else None


if __name__ == "__main__":
    main()
