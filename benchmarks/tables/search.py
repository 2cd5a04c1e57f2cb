"""Search among 100 thousand and a million vectors, against bare FAISS: part of `make bench`.

    python benchmarks/tables/search.py [--counts 100000 1000000] [--dim 512]

Vectors are clustered, as descriptors of photographs are. For each collection: the factory that
`index.vectors` chooses by itself, its recall@10 as measured when it was built and as measured here on
queries that are not in it, its latency, that of the same FAISS index called bare, and of exact search.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

import faiss
import numpy as np
from rich.console import Console
from rich.table import Table

from index.vectors import faiss_store

CHUNK = 50_000
QUERIES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=512)
    a = parser.parse_args()
    table = Table(
        "vectors", "factory", "build s", "recall@10 stored", "recall@10 here",
        "ours ms", "bare FAISS ms", "ours / bare", "exact ms",
    )  # fmt: skip
    for count in a.counts:
        table.add_row(*measure(count, a.dim))
    Console(width=140).print(table)


def measure(count: int, dim: int) -> list[str]:
    queries = make(count, dim, QUERIES, seed=10**6)

    def source() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, count, CHUNK):
            n = min(CHUNK, count - start)
            yield np.arange(start, start + n, dtype=np.int64), make(count, dim, n, seed=start)

    exact = faiss.IndexFlatIP(dim)
    for _, vectors in source():
        exact.add(vectors)
    truth = exact.search(queries, 10)[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        info = faiss_store.FaissStore(folder).build(source, 1)
        seconds = time.perf_counter() - started
        store = faiss_store.FaissStore(folder).load(1)
        assert store is not None
        bare = faiss.read_index(str(folder / info.file))
    if info.nprobe:
        faiss.extract_index_ivf(bare).nprobe = info.nprobe
    found = [store.search(query, 10).image_ids for query in queries]
    recall = np.mean([len(set(f) & set(t)) / 10 for f, t in zip(found, truth, strict=True)])
    ours, plain, flat = (
        [timed(search, query) for query in queries]
        for search in (
            lambda q: store.search(q, 10),
            lambda q: bare.search(q[None], 10),
            lambda q: exact.search(q[None], 10),
        )
    )
    ratio = median(ours) / median(plain)
    return [
        f"{count:,} x {dim}",
        info.factory + (f" nprobe {info.nprobe}" if info.nprobe else ""),
        f"{seconds:.0f}",
        f"{info.recall_at_10:.3f}",
        f"{recall:.3f}",
        *(f"{1000 * median(times):.2f}" for times in (ours, plain)),
        f"{ratio:.3f}",
        f"{1000 * median(flat):.2f}",
    ]


def make(count: int, dim: int, n: int, seed: int) -> np.ndarray:
    """n unit vectors around count / 20 centres, with noise about as large as their distance."""
    rng = np.random.default_rng(seed + 1)
    centres = make_centres(max(10, count // 20), dim)
    vectors = centres[rng.integers(len(centres), size=n)]
    vectors += 0.7 * rng.standard_normal((n, dim), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@cache
def make_centres(count: int, dim: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, dim), np.float32)


def timed(search, query: np.ndarray) -> float:
    started = time.perf_counter()
    search(query)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
