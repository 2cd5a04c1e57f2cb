"""What the stores share: exact neighbours out of a stream, and how many lists a search must visit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import faiss
import numpy as np

from locate.types import Array

TARGET_RECALL = 0.95
MAX_NPROBE = 256


def exact_neighbors(queries: Array, chunks: Iterable[tuple[Array, Array]], k: int) -> Array:
    """The ids of the `k` nearest of a stream (ids (n,) int64, vectors n x D float32) to Q x D
    float32 queries by inner product, Q x k int64, best first, -1 where there are fewer. Holds one
    chunk at a time."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    nearest = np.full((len(queries), k), -1, np.int64)
    for ids, vectors in chunks:
        similarities, rows = faiss.knn(
            queries, vectors, min(k, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT
        )
        all_similarities = np.concatenate((best, similarities), axis=1)
        all_ids = np.concatenate((nearest, ids[rows]), axis=1)
        order = np.argsort(-all_similarities, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(all_similarities, order, axis=1)
        nearest = np.take_along_axis(all_ids, order, axis=1)
    return nearest


def tune_nprobe(ivf: Any, recall: Callable[[], float]) -> tuple[int, float]:
    """The smallest power of two of visited lists that reaches the target, and the recall there,
    which `recall` measures as the FAISS index of inverted lists is set."""
    nprobe = 1
    while True:
        ivf.nprobe = nprobe
        reached = recall()
        if reached >= TARGET_RECALL or nprobe * 2 > min(MAX_NPROBE, ivf.nlist):
            return nprobe, reached
        nprobe *= 2


def one_thread_search() -> None:
    """From now on the searches of the calling thread use no other threads."""
    faiss.omp_set_num_threads(1)
