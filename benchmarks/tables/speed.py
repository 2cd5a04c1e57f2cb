"""Where the time goes, and what our own code adds to the libraries: `make bench`.

    python benchmarks/tables/speed.py --work build/bench [--photos DIR] [--count 150]

Builds an index and queries it, split by part; then does the same with bare library calls (Pillow,
OpenCV, torch, sqlite3, FAISS, numpy, PoseLib) in the plainest loop there is, on as many threads, in the
same run. The ratio is what all the rest costs: bookkeeping, checksums, records, catalogue, verdict.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
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
from locate.extractors.registry import create

THREADS = os.cpu_count() or 1
EXTRACTOR = "gem+sift"  # which has a bare counterpart of library calls
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
    create(EXTRACTOR).extract(np.zeros((480, 640, 3), np.uint8))

    # Ours and bare by turns, so that a busy machine slows both.
    ours, bare, reports = [], [], []
    for _ in range(ROUNDS):
        index = a.work / "speed.locate"
        shutil.rmtree(index, ignore_errors=True)
        started = time.perf_counter()
        reports.append(locate.build_index(links, index, extractor=EXTRACTOR))
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        store = Bare.build(files, a.work)
        bare.append(time.perf_counter() - started)
    show_build(reports[int(np.argmin(ours))], ours, bare, len(files))

    queries = files[:: max(1, len(files) // 20)]
    ours, bare, parts = [], [], []
    with locate.open(index) as db:
        db.query(queries[0])
        for file in queries:
            started = time.perf_counter()
            answer = db.query(file, rotate=False)
            ours.append(time.perf_counter() - started)
            parts.append(answer.seconds)
            started = time.perf_counter()
            Bare.query(file, store)
            bare.append(time.perf_counter() - started)
        started = time.perf_counter()
        list(db.query_many(files, rotate=False))
        many = (time.perf_counter() - started) / len(files)
    show_query(parts, ours, bare, many)


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
    report: locate.BuildReport, ours: list[float], bare: list[float], count: int
) -> None:
    table = Table("build", "ms per image (thread)", title=f"{count} photos, {THREADS} threads")
    for part, seconds in report.seconds.items():
        if part != "total":
            table.add_row(part, f"{1000 * seconds / count:.1f}")
    out = Console(width=100)
    out.print(table)
    out.print(
        f"build: {count / min(ours):.1f} images/s; bare library calls {count / min(bare):.1f}; "
        f"ours / bare {median(o / b for o, b in zip(ours, bare, strict=True)):.3f}"
    )


def show_query(
    parts: list[dict[str, float]], ours: list[float], bare: list[float], many: float
) -> None:
    table = Table("query", "median ms", title=f"{len(ours)} single queries, shortlist {SHORTLIST}")
    for part in parts[0]:
        table.add_row(part, f"{1000 * median(p.get(part, 0.0) for p in parts):.1f}")
    out = Console(width=100)
    out.print(table)
    out.print(
        f"query: {1000 * median(ours):.0f} ms; bare library calls {1000 * median(bare):.0f} ms; "
        f"ours / bare {median(o / b for o, b in zip(ours, bare, strict=True)):.3f}; "
        f"in a batch {1000 * many:.0f} ms"
    )


if __name__ == "__main__":
    main()
