"""What overlays prove, and what leaving them out costs: `make bench-overlays`.

    python benchmarks/tables/overlays.py --data ../shared/data --out docs/benchmarks

- strangers: pairs of photos of different places (train/photos), both under the same caption, time
  stamp, watermark, ... (`overlay_kinds`, every pair another variant), in several sizes. None may be a
  "match".
- still: a photo and itself a moment later (brighter, noisy, compressed, somebody walking by), bare or
  both under an overlay. All should be a "match", as if they were from a tripod.
- paired: the queries of eval/retrieval against the most similar images of its database; how many are
  proven with and without leaving overlays out, in the same run.

The rule for "match" is that which comes with `locate`; 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.common.overlay_kinds import KINDS, overlaid
from locate.extractors import registry
from locate.extractors.base import Extractor
from locate.images.reading import read_photo
from locate.matching.descriptors import match_mutual, ratio_for
from locate.matching.evidence import evidence_of
from locate.matching.two_view import verify
from locate.retrieval.verdict import MATCH, Calibration, bundled, wilson_upper
from locate.types import Array, Features, Verification
from pipelines.cli.evaluate import print_report
from pipelines.reports.report import Report, Table
from pipelines.retrieval.query import SHORTLIST
from pipelines.retrieval.verification import reweighted

SIZES = ((800, 600), (1024, 768), (640, 480), (600, 800), (1200, 800))
STRANGERS = 100  # pairs of each kind
STILL = 10  # of each kind


@dataclass(frozen=True)
class Judge:
    extractor: Extractor
    rule: Calibration

    def see(self, pixels: Array) -> Features:
        found = self.extractor.extract(np.ascontiguousarray(pixels)).features
        assert found is not None
        return reweighted(found, self.extractor.info)

    def verify(self, a: Features, b: Features, *, overlays: bool = True) -> Verification:
        info, side = self.extractor.info, self.extractor.max_side
        ratio = ratio_for("query", info)
        matches = match_mutual(a.descriptors, b.descriptors, ratio)
        model = info.verification, info.max_error
        return verify(a, b, matches, side, *model, overlays=overlays)

    def is_match(self, a: Features, b: Features, *, overlays: bool = True) -> bool:
        evidence = evidence_of(self.verify(a, b, overlays=overlays))
        return self.rule.verdict(evidence) == MATCH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--extractor", default=registry.DEFAULT)
    parser.add_argument("--pairs", type=int, default=STRANGERS, help="of strangers, of each kind")
    parser.add_argument("--out", type=Path, help="write overlays.md and overlays.json here")
    a = parser.parse_args()
    torch.set_num_threads(1)
    extractor = registry.create(a.extractor)
    judge = Judge(extractor, bundled()[extractor.info.fingerprint])
    photos = sorted((a.data / "train/photos").glob("*.jpg"))
    report = Report(
        "overlays",
        {"extractor": a.extractor, "torch": torch.__version__, "photos": "train/photos"},
        (
            strangers(judge, photos, a.pairs),
            still(judge, photos),
            paired(judge, a.data / "eval/retrieval"),
        ),
    )
    print_report(report)
    if a.out:
        (a.out / "overlays.md").write_text(report.to_markdown())
        (a.out / "overlays.json").write_text(json.dumps(report.to_json(), indent=1) + "\n")


def strangers(judge: Judge, photos: list[Path], count: int) -> Table:
    rng = np.random.default_rng(0)
    pairs = [
        (kind, k, rng.choice(len(photos), 2, replace=False)) for k in range(count) for kind in KINDS
    ]

    def ask(pair: tuple[str, int, Array]) -> tuple[str, bool, bool, int]:
        kind, k, (i, j) = pair
        size = SIZES[k % len(SIZES)]
        a, b = (judge.see(overlaid(_resized(photos[n], size), kind, k)) for n in (i, j))
        found = judge.verify(a, b)
        plain = judge.is_match(a, b, overlays=False)
        return kind, judge.rule.verdict(evidence_of(found)) == MATCH, plain, found.on_overlay

    found = list(_mapped(ask, pairs))
    rows = []
    for kind in (*KINDS, "all"):
        own = [row for row in found if kind in (row[0], "all")]
        false = sum(row[1] for row in own)
        left_out = float(np.median([row[3] for row in own]))
        rows.append(
            (
                kind,
                len(own),
                sum(row[2] for row in own),
                false,
                wilson_upper(false, len(own)),
                left_out,
            )
        )
    columns = (
        "overlay", "pairs", "match without leaving out", "match", "upper end, 95 %", "left out, median",
    )  # fmt: skip
    return Table("Photos of different places under one overlay", columns, tuple(rows))


def still(judge: Judge, photos: list[Path]) -> Table:
    rng = np.random.default_rng(1)
    kinds = ("bare", *KINDS)
    chosen = [(kind, k, int(rng.integers(len(photos)))) for k in range(STILL) for kind in kinds]

    def ask(item: tuple[str, int, int]) -> tuple[str, bool]:
        kind, k, n = item
        first = _resized(photos[n], SIZES[k % len(SIZES)])
        later = _later(first, np.random.default_rng([2, k, n]))
        if kind != "bare":
            first, later = (overlaid(one, kind, k) for one in (first, later))
        return kind, judge.is_match(judge.see(first), judge.see(later))

    found = list(_mapped(ask, chosen))
    rows = [(kind, STILL, sum(match for own, match in found if own == kind)) for kind in kinds]
    return Table("A photo and itself a moment later", ("overlay", "pairs", "match"), tuple(rows))


def paired(judge: Judge, folder: Path) -> Table:
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    read = [read_photo(folder / row["image"], judge.extractor.max_side) for row in rows]
    seen = list(_mapped(lambda p: judge.extractor.extract(p.pixels, p.info.size), read))
    vectors = np.stack([one.global_descriptor for one in seen])
    local = [reweighted(one.features, judge.extractor.info) for one in seen]
    database = [i for i, row in enumerate(rows) if row["split"] == "database"]
    queries = [i for i, row in enumerate(rows) if row["split"] == "query"]

    def ask(i: int) -> list[tuple[bool, bool, bool]]:
        order = np.argsort(-(vectors[database] @ vectors[i]), kind="stable")[:SHORTLIST]
        near = [database[k] for k in order]
        return [
            (
                rows[j]["landmark"] == rows[i]["landmark"],
                judge.is_match(local[i], local[j], overlays=False),
                judge.is_match(local[i], local[j]),
            )
            for j in near
        ]

    table = []
    for kind in ("web", "seq"):
        answers = list(_mapped(ask, [i for i in queries if rows[i]["kind"] == kind]))
        pairs = [pair for found in answers for pair in found]
        right = [pair for pair in pairs if pair[0]]
        table.append(
            (
                kind,
                len(answers),
                sum(any(p[0] and p[1] for p in found) for found in answers),
                sum(any(p[0] and p[2] for p in found) for found in answers),
                sum(p[1] for p in right),
                sum(p[2] for p in right),
                sum(p[1] for p in pairs) - sum(p[1] for p in right),
                sum(p[2] for p in pairs) - sum(p[2] for p in right),
            )
        )
    columns = (
        "queries of eval/retrieval", "asked", "proven, all counted", "proven, overlays left out",
        "right pairs, all counted", "right pairs, left out", "wrong pairs, all counted",
        "wrong pairs, left out",
    )  # fmt: skip
    return Table("What it costs, paired", columns, tuple(table))


def _resized(path: Path, size: tuple[int, int]) -> Array:
    return cv2.resize(read_photo(path).pixels, size, interpolation=cv2.INTER_CUBIC)


def _later(pixels: Array, rng: np.random.Generator) -> Array:
    height, width = pixels.shape[:2]
    scene = pixels.copy()
    at = (int(rng.uniform(0.1, 0.9) * width), int(rng.uniform(0.4, 0.9) * height))
    tall = int(rng.uniform(0.1, 0.25) * height)
    cv2.ellipse(scene, at, (tall // 3, tall), 0, 0, 360, rng.integers(0, 256, 3).tolist(), -1)
    light = 255 * rng.uniform(0.7, 1.1) * (scene / 255) ** rng.uniform(0.7, 1.5)
    noisy = np.clip(light + rng.normal(0, 4, scene.shape), 0, 255).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 95))]
    return cv2.imdecode(cv2.imencode(".jpg", noisy, quality)[1], cv2.IMREAD_COLOR)


def _mapped(function: Callable, items: list) -> Iterator:
    with ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for done, result in enumerate(pool.map(function, items), 1):
            if done % 50 == 0:
                print(f"{done} of {len(items)}", flush=True)
            yield result


if __name__ == "__main__":
    main()
