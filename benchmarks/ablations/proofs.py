"""How well local features tell a place from another that looks like it, by Lowe's ratio.

    python benchmarks/ablations/proofs.py --data ../shared/data --out docs/benchmarks

- foreign: photos of train/, evenly drawn over its places, each verified against its most similar ones of
  other places. What all but one of them reach (inliers beyond chance) is asked of a proof here.
- proven: of the web queries of eval/retrieval, those with more evidence for an image of their own place
  among the 30 most similar of the database and every fifth photo of train/photos.

That is the question of `locate calibrate` in little: fewer candidates, no turned photos, several ratios
at once. Half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.held_out import SHOWN
from benchmarks.tables.extractors import distractors
from locate.datasets.retrieval import only, read_retrieval
from locate.extractors import registry
from locate.extractors.base import Extractor
from locate.images.reading import read_photo
from locate.matching.descriptors import match_mutual
from locate.matching.evidence import evidence_of
from locate.matching.two_view import verify
from locate.types import Array, Features
from pipelines.cli.evaluate import print_report
from pipelines.reports.report import Report, Table
from pipelines.retrieval.query import SHORTLIST
from pipelines.retrieval.verification import reweighted

RATIOS = (0.9, 0.95, 0.98)
FOREIGN, NEAREST = 400, 8

Labelled = list[tuple[Path, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--extractor", default=registry.DEFAULT)
    parser.add_argument("--out", type=Path, help="write proofs.md and proofs.json here")
    a = parser.parse_args()
    torch.set_num_threads(2)
    rows = proofs(a.extractor, a.data)
    columns = ("ratio", "strongest foreign", "asked", "proven", "weakest right ones")
    report = Report(
        "proofs",
        {
            "extractor": a.extractor,
            "torch": torch.__version__,
            "foreign": FOREIGN,
            "nearest": NEAREST,
        },
        (Table("Proofs", columns, tuple(rows)),),
    )
    print_report(report)
    if a.out:
        (a.out / "proofs.md").write_text(report.to_markdown())
        (a.out / "proofs.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")


def proofs(name: str, data: Path) -> list[tuple[float, str, float, float, str]]:
    photos = Photos(registry.create(name))
    train = places(data / "train")
    foreign = []
    for path, place in evenly(train, FOREIGN):
        others = photos.nearest(path, [p for p, label in train if label != place], NEAREST)
        foreign.append(photos.strongest(path, others))
    labelled = only(read_retrieval(data / "eval/retrieval"), ("web",))
    stored = [*labelled.database.values(), *distractors(data)]
    known = []
    for query in labelled.queries:
        assert query.photo is not None
        shown = {i for i, landmark in labelled.landmarks.items() if landmark in query.landmarks}
        own = {path for i, path in labelled.database.items() if i in shown}
        found = photos.nearest(query.photo, stored, SHORTLIST)
        known.append(photos.strongest(query.photo, [path for path in found if path in own]))
    rows = []
    for i, ratio in enumerate(RATIOS):
        worst = sorted((e[i] for e in foreign), reverse=True)
        right = sorted(e[i] for e in known)
        proven = sum(e > worst[1] for e in right) / len(right)
        rows.append((ratio, _words(worst[:5]), worst[1], proven, _words(right[:5])))
    return rows


class Photos:
    """What an extractor sees in photos, each looked at once."""

    def __init__(self, extractor: Extractor) -> None:
        self._extractor = extractor
        self._vectors: dict[Path, Array] = {}
        self._features: dict[Path, Features] = {}

    def nearest(self, path: Path, others: Sequence[Path], count: int) -> list[Path]:
        """Those with the most similar global descriptors, best first."""
        vectors = np.stack([self._vector(other) for other in others])
        order = np.argsort(-(vectors @ self._vector(path)), kind="stable")
        return [others[i] for i in order if others[i] != path][:count]

    def strongest(self, path: Path, others: Iterable[Path]) -> list[float]:
        """The most evidence that a photo shows the place of one of the others, by ratio."""
        query, info = self._seen(path), self._extractor.info
        way = (self._extractor.max_side, info.verification, info.max_error)

        def evidence(other: Features) -> list[float]:
            a, b = query.descriptors, other.descriptors
            matches = [match_mutual(a, b, ratio) for ratio in RATIOS]
            return [evidence_of(verify(query, other, found, *way)) for found in matches]

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(evidence, [self._seen(other) for other in others]))
        return [max(0.0, *by_ratio) for by_ratio in zip(*found, strict=True)] or [0.0] * len(RATIOS)

    def _vector(self, path: Path) -> Array:
        if path not in self._vectors:
            seen = self._extractor.extract(self._pixels(path), local=False)
            assert seen.global_descriptor is not None
            self._vectors[path] = seen.global_descriptor
        return self._vectors[path]

    def _seen(self, path: Path) -> Features:
        if path not in self._features:
            seen = self._extractor.extract(self._pixels(path)).features
            assert seen is not None
            self._features[path] = reweighted(seen, self._extractor.info)
        return self._features[path]

    def _pixels(self, path: Path) -> Array:
        return read_photo(path, min_long_side=self._extractor.max_side).pixels


def places(train: Path) -> Labelled:
    """Every photo and what it shows: a scene, the house of train/indoor, or what no other does."""
    scenes = [(p, p.parent.name) for p in sorted((train / "scenes").glob("*/*.jpg"))]
    house = [(p, "indoor") for p in sorted((train / "indoor").iterdir())]
    single = [p for p in sorted((train / "photos").iterdir()) if p.name not in SHOWN]
    return scenes + house + [(p, p.name) for p in single]


def evenly(photos: Labelled, count: int) -> Labelled:
    """So many photos, places taking turns, of each place in any order."""
    rng = np.random.default_rng(0)
    by_place: dict[str, Labelled] = {}
    for i in rng.permutation(len(photos)):
        by_place.setdefault(photos[i][1], []).append(photos[i])
    turns = max(len(group) for group in by_place.values())
    in_turn = [group[k] for k in range(turns) for group in by_place.values() if k < len(group)]
    return in_turn[:count]


def _words(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:.1f}" for number in numbers)


if __name__ == "__main__":
    main()
