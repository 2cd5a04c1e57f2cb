"""Which kind of local index fits a collection, what it is trained on, and how well it then finds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from index.vectors.base import NEIGHBORS, DescriptorSource
from index.vectors.row_map import RowMap
from index.vectors.tuning import exact_neighbors, tune_nprobe
from locate.types import Array

# Exact search while all descriptors together are at most this many numbers (65,536 of length 128): 2,048
# of a query take half a second on one core then (benchmarks/ablations/local_search.py).
EXACT_NUMBERS = 2**23
_TRAIN_PER_LIST = 40  # FAISS warns below 39
_RECALL_QUERIES = 300


def choose_factory(count: int, dim: int) -> str:
    """The FAISS factory string for so many descriptors; exact while that is fast.

    Beyond: inverted lists, about 4 sqrt(n) as FAISS advises, over product-quantised residuals: 8 bits
    for every 4 numbers of long descriptors and every 2 of short ones (128 -> 32 bytes, 40 -> 20).
    OPQ does not raise the recall of RootSIFT and takes ten times as long to train; 64 bytes instead
    of 32 neither, since the lists not visited cost more (benchmarks/ablations/local_search.py).
    """
    if count * dim <= EXACT_NUMBERS:
        return "Flat"
    lists = 2 ** round(math.log2(4 * math.sqrt(count)))
    limit = min(dim // 2, max(32, dim // 8))
    parts = max((m for m in range(1, limit + 1) if dim % m == 0), default=1)
    return f"IVF{lists},PQ{parts}" if parts >= 8 else f"IVF{lists},SQ8"


def make_index(source: DescriptorSource, dim: int, factory: str) -> Any:
    """An empty index, trained if it is of a kind that must be, that takes ids of its own."""
    index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    if factory == "Flat":
        return faiss.IndexIDMap(index)
    ivf: Any = faiss.downcast_index(faiss.extract_index_ivf(index))
    if hasattr(ivf, "do_polysemous_training"):
        ivf.do_polysemous_training = False  # of no use here, and nine tenths of the time
    index.train(_sample(source, _TRAIN_PER_LIST * max(ivf.nlist, 256)))
    return index


def tune(index: Any, rows: RowMap, source: DescriptorSource) -> tuple[int, float]:
    """How many lists must be visited, and the recall of the true nearest among the neighbours then.

    Queries are stored descriptors; the nearest that is not itself is the one that must be found.
    """
    chosen = rows.image_ids[:: max(1, len(rows) // _RECALL_QUERIES)]
    queries, own = [], []
    for image_ids, counts, descriptors in source.descriptors(chosen):
        queries.append(descriptors[np.cumsum(counts) - counts + counts // 2])  # the middle one
        own.append(rows.first[np.searchsorted(rows.image_ids, image_ids)] + counts // 2)
    asked, itself = np.concatenate(queries), np.concatenate(own)

    def chunks() -> Iterator[tuple[Array, Array]]:
        start = 0
        for _, _, descriptors in source.descriptors(rows.image_ids):
            yield np.arange(start, start + len(descriptors)), descriptors
            start += len(descriptors)

    two = exact_neighbors(asked, chunks(), 2)
    truth = np.where(two[:, 0] == itself, two[:, 1], two[:, 0])

    def recall() -> float:
        found = index.search(asked, NEIGHBORS)[1]
        return float(np.mean(np.any(found == truth[:, None], axis=1)))

    return tune_nprobe(faiss.extract_index_ivf(index), recall)


def _sample(source: DescriptorSource, wanted: int) -> Array:
    """About `wanted` descriptors, evenly from images spread over the source. Not every image is read:
    a quarter of what is read is kept where there is enough."""
    image_ids, counts = source.feature_counts()
    step = max(1, int(counts.sum()) // (4 * wanted))
    chosen = image_ids[::step]
    keep = max(1, int(counts[::step].sum()) // wanted)
    return np.concatenate([d[::keep].copy() for _, _, d in source.descriptors(chosen)])
