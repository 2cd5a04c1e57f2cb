"""What the search by local descriptors is worth, and the choices behind it.

    python benchmarks/ablations/local_search.py votes --data ../shared/data --work build/local
    python benchmarks/ablations/local_search.py kinds --data ../shared/data --work build/local
    python benchmarks/ablations/local_search.py small --data ../shared/data --work build/local

`votes`: mAP and recall@30 of the shortlist for each way to count votes (`index.vectors.voting`), on
the scenes of `train/` among distractors, where the rule was chosen, and on `eval/retrieval`.
`kinds`: recall, size and time of the kinds of index among the descriptors of `eval/retrieval`;
descriptors of length 40 are the same ones after PCA. Processor seconds of one thread.
`small`: a photo of a landmark covers a tenth of a cluttered picture; who finds it, the global
descriptor or the local ones? Clutter of three degrees, by the number of corners; 1 is mostly texture
that takes all 2048 keypoints.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

import locate
from index.catalog import Catalog
from index.vectors import local_store
from index.vectors.base import NEIGHBORS
from index.vectors.local_train import make_index
from index.vectors.voting import COUNT, DEFAULT_RULE, MARGIN, SIMILARITY, VotingRule, vote
from locate.extractors.registry import create
from locate.images.reading import read_photo
from locate.metrics.common import average_precision

SHORTLIST = 30
RULES = [
    VotingRule(weight, once, length)
    for weight in (COUNT, SIMILARITY, MARGIN)
    for once in (False, True)
    for length in (0.0, 0.5, 0.75, 1.0)
]
KINDS = {
    128: ("Flat", "IVF1024,PQ32", "IVF2048,PQ32", "IVF4096,PQ32", "OPQ32,IVF2048,PQ32",
          "IVF2048,PQ16", "IVF2048,PQ64", "IVF2048,SQ8"),
    40: ("IVF2048,PQ10", "IVF2048,PQ20", "OPQ20,IVF2048,PQ20"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("votes", "kinds", "small"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, required=True, help="folder for the databases")
    a = parser.parse_args()
    faiss.omp_set_num_threads(1)
    {"votes": votes, "kinds": kinds, "small": small}[a.what](a.data, a.work)


@dataclass(frozen=True)
class Labelled:
    """A photo of a known place; `part` is "database" or "query"."""

    file: Path
    label: str
    part: str
    kind: str = ""


def eval_photos(data: Path) -> list[Labelled]:
    folder = (data / "eval/retrieval").resolve()
    with (folder / "labels.csv").open() as stream:
        return [
            Labelled(folder / r["image"], r["landmark"], r["split"], r["kind"])
            for r in csv.DictReader(stream)
        ]


def train_photos(data: Path, distractors: int) -> list[Labelled]:
    """Scenes (six photos of each ask, forty of the largest) among photos of everything."""
    found = []
    for scene in sorted((data / "train/scenes").resolve().iterdir()):
        files = sorted(p for p in scene.rglob("*") if p.is_file())
        asking = 40 if len(files) > 100 else 6
        steps = set(np.linspace(0, len(files) - 1, min(asking, len(files))).astype(int))
        for i, file in enumerate(files):
            found.append(Labelled(file, scene.name, "database"))
            if i in steps:
                found.append(Labelled(file, scene.name, "query"))
    others = sorted((data / "train/photos").resolve().iterdir())
    spread = np.linspace(0, len(others) - 1, distractors).astype(int)
    return found + [Labelled(others[i], "distractor", "database") for i in spread]


def database(photos: list[Labelled], home: Path, extractor: str, search: str) -> Path:
    for photo in photos:
        if photo.part == "database":
            link = home / "photos" / photo.label / photo.file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(photo.file)
    index = home / f"{extractor}.locate"
    report = locate.build_index(home / "photos", index, extractor=extractor, search=search)
    print(f"{index}: {report.added + report.unchanged} images, {report.local}")
    return index


# --- votes


def votes(data: Path, work: Path) -> None:
    table = Table("weight", "once", "length", *(f"{s} {m}" for s in ("train", "eval") for m in
                  ("mAP", f"R@{SHORTLIST}")))  # fmt: skip
    columns = []
    for name, photos in (("train", train_photos(data, 700)), ("eval", eval_photos(data))):
        index = database(photos, work / name, "sift", "local")
        asking = [p for p in photos if p.part == "query" and p.kind in ("", "web")]
        columns.append(score_rules(index, asking))
    for rule in RULES:
        numbers = [f"{value:.3f}" for column in columns for value in column[rule]]
        mark = "  <- in use" if rule == DEFAULT_RULE else ""
        table.add_row(rule.weight, str(rule.once), f"{rule.length}{mark}", *numbers)
    Console(width=120).print(table)


def score_rules(index: Path, asking: list[Labelled]) -> dict[VotingRule, tuple[float, float]]:
    sift = create("sift")
    values: dict[VotingRule, list[tuple[float, float]]] = defaultdict(list)
    with Catalog.open(index) as catalog:
        store = local_store.LocalFaissStore(index).load()
        assert store is not None
        roots = catalog.roots()
        rows = catalog.images("ok")
        label = {row.id: row.label for row in rows}
        own = {(roots[row.root_id] / row.path).resolve(): row.id for row in rows}
        for photo in asking:
            itself = own.get(photo.file)
            opened = read_photo(photo.file, sift.max_side)
            features = sift.extract(opened.pixels, opened.info.size).features
            near = store.search(features.descriptors, NEIGHBORS, {itself} if itself else ())
            there = sum(value == photo.label for i, value in label.items() if i != itself)
            for rule in RULES:
                right = np.array(
                    [label[i] == photo.label for i in vote(near, store.rows, rule).image_ids]
                )
                # Images of the place that got no vote count as never found.
                precision = average_precision(right) * right.sum() / there if right.any() else 0.0
                recall = right[:SHORTLIST].sum() / min(SHORTLIST, there)
                values[rule].append((precision, recall))
    return {rule: tuple(np.mean(numbers, axis=0)) for rule, numbers in values.items()}


# --- kinds


class Stored:
    """Descriptors in memory as a source of a local index."""

    generation = 1

    def __init__(self, matrix: np.ndarray, counts: np.ndarray) -> None:
        self.matrix, self.counts = matrix, counts
        self.ends = np.cumsum(counts)

    def feature_counts(self) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(len(self.counts)), self.counts

    def descriptors(self, ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for i in ids:
            start = self.ends[i] - self.counts[i]
            yield np.array([i]), self.counts[i : i + 1], self.matrix[start : self.ends[i]]


def kinds(data: Path, work: Path) -> None:
    photos = eval_photos(data)
    index = database(photos, work / "eval", "sift", "local")
    sift = create("sift")
    with Catalog.open(index) as catalog:
        ids, counts = catalog.feature_counts()
        matrix = np.concatenate([d for _, _, d in catalog.descriptors(ids)])
    asked = []
    for photo in [p for p in photos if p.part == "query" and p.kind == "web"]:
        opened = read_photo(photo.file, sift.max_side)
        asked.append(sift.extract(opened.pixels, opened.info.size).features.descriptors)
    queries = np.concatenate(asked)
    queries = queries[np.random.default_rng(0).permutation(len(queries))[:2048]]
    mean = matrix.mean(axis=0)
    axes = np.linalg.svd((matrix - mean)[::50], full_matrices=False)[2][:40].T
    table = Table("descriptors", "kind", "visited", "recall of the nearest", "query s", "train s",
                  "add s", "MB")  # fmt: skip
    for dim, factories in KINDS.items():
        base, ask = (matrix, queries) if dim == 128 else (
            unit((m - mean) @ axes) for m in (matrix, queries)
        )  # fmt: skip
        truth = faiss.knn(ask, base, 1, metric=faiss.METRIC_INNER_PRODUCT)[1]
        for factory in factories:
            for row in measure(factory, Stored(base, counts), ask, truth, work / "kind.faiss"):
                table.add_row(f"{len(base):,} x {dim}", *row)
    Console(width=130).print(table)


def measure(
    factory: str, source: Stored, queries: np.ndarray, truth: np.ndarray, file: Path
) -> Iterator[list[str]]:
    started = time.process_time()
    index = make_index(source, source.matrix.shape[1], factory)
    trained = time.process_time()
    index.add_with_ids(source.matrix, np.arange(len(source.matrix)))
    added = time.process_time()
    faiss.write_index(index, str(file))
    size = file.stat().st_size / 1e6
    for nprobe in (0,) if factory == "Flat" else (8, 16, 32, 64):
        if nprobe:
            faiss.extract_index_ivf(index).nprobe = nprobe
        before = time.process_time()
        found = index.search(queries, NEIGHBORS)[1]
        seconds = time.process_time() - before
        recall = np.mean(np.any(found == truth, axis=1))
        yield [
            factory, str(nprobe or "all"), f"{recall:.3f}", f"{seconds:.2f}",
            f"{trained - started:.1f}", f"{added - trained:.1f}", f"{size:.0f}",
        ]  # fmt: skip


def unit(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


# --- small


def small(data: Path, work: Path) -> None:
    """Two queries of each landmark, each on clutter of three degrees; nothing is picked."""
    photos = eval_photos(data)
    others = sorted((data / "train/photos").resolve().iterdir())
    distractors = [Labelled(p, "train", "database") for p in others[::4][:300]]
    index = database(photos + distractors, work / "small", "gem+sift", "both")
    asking: dict[str, list[Labelled]] = defaultdict(list)
    for photo in photos:
        if photo.part == "query" and len(asking[photo.label]) < 2:
            asking[photo.label].append(photo)
    chosen = [photo for group in asking.values() for photo in group]
    clutter = busiest([p for i, p in enumerate(others) if i % 4 == 2], 3 * len(chosen))
    table = Table(
        "query", "clutter", "global rank", "verdict", "local rank", "verdict", "inliers", "both"
    )
    console = Console(width=150)
    with locate.open(index) as db:
        for degree in range(3):
            scores = np.zeros(5, int)
            for i, photo in enumerate(chosen):
                background = clutter[degree * len(chosen) + i]
                scores += ask(db, photo, background, table)
            table.add_section()
            console.print(
                f"clutter {degree + 1}: of {len(chosen)} the global top 10 misses {scores[0]}, its "
                f"shortlist of {SHORTLIST} {scores[1]}; right matches: global {scores[2]}, "
                f"local {scores[3]}, both {scores[4]}"
            )
    console.print(table)


def ask(db: locate.Database, photo: Labelled, background: Path, table: Table) -> list[bool]:
    """Whether the global top 10 and shortlist miss the landmark, and who answers right."""
    picture = paste(read_photo(photo.file).pixels, read_photo(background).pixels)
    answers = {
        search: db.query(picture, search=search, top=len(db), rotate=False)
        for search in ("global", "local", "both")
    }
    ranks = {}
    for search, measure in (("global", "similarity"), ("local", "votes")):
        order = sorted(answers[search].candidates, key=lambda c: -getattr(c, measure))
        hits = [n for n, c in enumerate(order, 1) if c.label == photo.label]
        ranks[search] = hits[0] if hits else len(db)
    shown = {s: f"{a.verdict} {a.label or ''}".strip() for s, a in answers.items()}
    table.add_row(
        photo.label, background.name, str(ranks["global"]), shown["global"], str(ranks["local"]),
        shown["local"], str(answers["local"].best.inliers), shown["both"],
    )  # fmt: skip
    right = [answers[s].label == photo.label for s in ("global", "local", "both")]
    return [ranks["global"] > 10, ranks["global"] > SHORTLIST, *right]


def busiest(files: list[Path], count: int) -> list[Path]:
    """The photos with the most corners, among every third of `files` so that it does not take long."""

    def corners(file: Path) -> int:
        grey = cv2.cvtColor(read_photo(file).pixels, cv2.COLOR_RGB2GRAY)
        return len(cv2.FastFeatureDetector.create(30).detect(grey))

    return sorted(files[::3], key=lambda file: (-corners(file), file.name))[:count]


def paste(
    photo: np.ndarray, clutter: np.ndarray, share: float = 0.1, side: int = 1600
) -> np.ndarray:
    """`photo` in the right half of `clutter`, over `share` of its area."""
    height, width = clutter.shape[:2]
    scale = side / max(height, width)
    canvas = cv2.resize(clutter, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    small = (share * canvas.shape[0] * canvas.shape[1] / photo[..., 0].size) ** 0.5
    part = cv2.resize(photo, None, fx=small, fy=small, interpolation=cv2.INTER_AREA)
    part = part[: canvas.shape[0], : canvas.shape[1]]
    top = (canvas.shape[0] - part.shape[0]) * 2 // 3
    left = (canvas.shape[1] - part.shape[1]) * 3 // 4
    canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    return canvas


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
