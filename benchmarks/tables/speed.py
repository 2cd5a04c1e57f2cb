"""Where the time goes, and what our own code adds to the libraries: `make bench`.

    python benchmarks/tables/speed.py --work build/bench [--photos DIR] [--count 150]

Builds an index and queries it, split by part; then does the same with bare library calls (Pillow,
OpenCV, torch, sqlite3, FAISS, numpy, PoseLib) in the plainest loop there is, on as many threads, in the
same run. With gem+sift the ratio is what all the rest costs: bookkeeping, checksums, records, catalogue,
verdict. The default, whose features no library has, stands beside the same bare calls.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import faiss
import numpy as np
import poselib
import torch
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch.nn import functional

import locate
from locate.extractors.backbones.efficientnet import load_imagenet
from locate.extractors.bundled import imagenet_weights_path
from locate.extractors.registry import DEFAULT, create

THREADS = os.cpu_count() or 1
BARE = "gem+sift"  # which has a counterpart of library calls
EXTRACTORS = (BARE, DEFAULT)
SHORTLIST = 30
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("build/bench"))
    parser.add_argument("--photos", type=Path, help="folder of photos (default: a rendered town)")
    parser.add_argument("--count", type=int, default=150)
    a = parser.parse_args()
    photos = a.photos
    if photos is None:
        from pipelines.town.town import make_town

        make_town(a.work / "town")
        photos = a.work / "town/landmarks"
    files = sorted(p for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))[: a.count]
    links = a.work / "speed-photos"
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir(parents=True)
    for i, file in enumerate(files):
        (links / f"{i:05}.jpg").symlink_to(file.resolve())
    Bare.warm_up(files[0])
    for name in EXTRACTORS:
        create(name).extract(np.zeros((480, 640, 3), np.uint8))

    # Ours and bare by turns, so that a busy machine slows both.
    ours: dict[str, list[float]] = {name: [] for name in EXTRACTORS}
    reports: dict[str, list[locate.BuildReport]] = {name: [] for name in EXTRACTORS}
    bare = []
    for _ in range(ROUNDS):
        for name in EXTRACTORS:
            index = a.work / f"speed-{name}.locate"
            shutil.rmtree(index, ignore_errors=True)
            started = time.perf_counter()
            reports[name].append(locate.build_index(links, index, extractor=name))
            ours[name].append(time.perf_counter() - started)
        started = time.perf_counter()
        store = Bare.build(files, a.work)
        bare.append(time.perf_counter() - started)
    fastest = {name: reports[name][int(np.argmin(ours[name]))] for name in EXTRACTORS}
    show_build(fastest, ours, bare, len(files))

    queries = files[:: max(1, len(files) // 20)]
    asked: dict[str, Asked] = {}
    for name in EXTRACTORS:
        with locate.open(a.work / f"speed-{name}.locate") as db:
            db.query(queries[0])
            parts, times, again = [], [], []
            for file in queries:
                started = time.perf_counter()
                parts.append(db.query(file, rotate=False).seconds)
                times.append(time.perf_counter() - started)
                again.append(_timed(lambda file=file: Bare.query(file, store)))
            started = time.perf_counter()
            list(db.query_many(files, rotate=False))
            many = (time.perf_counter() - started) / len(files)
            asked[name] = Asked(parts, times, again, many)
    show_query(asked)


@dataclass
class Asked:
    """Single queries: seconds by part, in all, and of the bare ones in between; and of one of many."""

    parts: list[dict[str, float]]
    times: list[float]
    bare: list[float]
    many: float


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class Bare:
    """The same work by library calls alone."""

    network = load_imagenet(imagenet_weights_path()).to(memory_format=torch.channels_last)

    @classmethod
    def warm_up(cls, file: Path) -> None:
        cls.see(file)

    @classmethod
    def see(cls, file: Path) -> tuple[np.ndarray, ...]:
        with Image.open(file) as image:
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        found, descriptors = cv2.SIFT.create(nfeatures=2048).detectAndCompute(grey, None)
        points = np.array([k.pt for k in found], np.float32)
        descriptors = np.sqrt(descriptors / descriptors.sum(axis=1, keepdims=True))
        scale = min(1.0, 448 / max(pixels.shape))
        small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        with torch.inference_mode():
            x = (torch.from_numpy(small).permute(2, 0, 1)[None].float() - 127) / 128
            head = cls.network.taps(x)["head"].clamp(min=1e-6)
            vector = functional.normalize(head.pow(2).mean((-1, -2)).sqrt(), dim=1)[0].numpy()
        return points, descriptors.astype(np.float16), vector

    @classmethod
    def build(cls, files: list[Path], work: Path) -> tuple[sqlite3.Connection, faiss.Index]:
        path = work / "bare.sqlite"
        path.unlink(missing_ok=True)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE features (id INTEGER PRIMARY KEY, p BLOB, d BLOB, v BLOB)")
        index = faiss.IndexFlatIP(1280)
        one = (lambda: torch.set_num_threads(1),)
        with ThreadPoolExecutor(THREADS, initializer=one[0]) as pool:
            for i, (p, d, v) in enumerate(pool.map(cls.see, files)):
                row = (i, p.tobytes(), d.tobytes(), v.tobytes())
                connection.execute("INSERT INTO features VALUES (?, ?, ?, ?)", row)
                index.add(v[None])
        connection.commit()
        return connection, index

    @classmethod
    def query(cls, file: Path, store: tuple[sqlite3.Connection, faiss.Index]) -> None:
        connection, index = store
        points, descriptors, vector = cls.see(file)
        descriptors = descriptors.astype(np.float32)
        ids = index.search(vector[None], SHORTLIST)[1][0]
        rows = [
            connection.execute("SELECT p, d FROM features WHERE id = ?", (int(i),)).fetchone()
            for i in ids
            if i >= 0
        ]

        def match(row: tuple[bytes, bytes]) -> None:
            other = np.frombuffer(row[0], np.float32).reshape(-1, 2)
            similarity = (
                descriptors
                @ np.frombuffer(row[1], np.float16).reshape(-1, 128).astype(np.float32).T
            )
            rows_, best = np.arange(len(descriptors)), similarity.argmax(axis=1)
            first = similarity[rows_, best]
            mutual = first == similarity.max(axis=0)[best]
            similarity[rows_, best] = -2
            mutual &= (2 - 2 * first) < 0.64 * (2 - 2 * similarity.max(axis=1))
            a, b = points[mutual].astype(np.float64), other[best[mutual]].astype(np.float64)
            if len(a) >= 8:
                poselib.estimate_fundamental(
                    a,
                    b,
                    {"max_epipolar_error": 2.0, "max_iterations": 2000, "min_iterations": 100},
                )

        with threadpool_limits(1, "blas"), ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(match, rows))


def show_build(
    reports: dict[str, locate.BuildReport],
    ours: dict[str, list[float]],
    bare: list[float],
    count: int,
) -> None:
    title = f"ms per image (thread), {count} photos, {THREADS} threads"
    table = Table("build", *reports, title=title)
    parts = dict.fromkeys(part for report in reports.values() for part in report.seconds)
    for part in parts:
        if part != "total":
            cells = (1000 * r.seconds.get(part, 0.0) / count for r in reports.values())
            table.add_row(part, *(f"{cell:.1f}" for cell in cells))
    out = Console(width=100)
    out.print(table)
    for name, times in ours.items():
        ratio = median(o / b for o, b in zip(times, bare, strict=True))
        out.print(
            f"build, {name}: {count / min(times):.1f} images/s; bare library calls of {BARE} "
            f"{count / min(bare):.1f}; ours / bare {ratio:.3f}"
        )


def show_query(asked: dict[str, Asked]) -> None:
    count = len(next(iter(asked.values())).times)
    title = f"median ms of {count} single queries, shortlist {SHORTLIST}"
    table = Table("query", *asked, title=title)
    for part in dict.fromkeys(p for one in asked.values() for p in one.parts[0]):
        cells = (1000 * median(p.get(part, 0.0) for p in one.parts) for one in asked.values())
        table.add_row(part, *(f"{cell:.1f}" for cell in cells))
    out = Console(width=100)
    out.print(table)
    for name, one in asked.items():
        ratio = median(o / b for o, b in zip(one.times, one.bare, strict=True))
        slowest = np.quantile(one.times, 0.9)
        out.print(
            f"query, {name}: {1000 * median(one.times):.0f} ms, nine in ten {1000 * slowest:.0f}; bare "
            f"library calls of {BARE} {1000 * median(one.bare):.0f} ms; ours / bare {ratio:.3f}; in a "
            f"batch {1000 * one.many:.0f} ms"
        )


if __name__ == "__main__":
    main()
