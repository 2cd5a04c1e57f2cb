"""FAISS files derived from the catalogue.

A folder holds `vectors.json` (a `VectorsInfo`) and the index file that it names, written as
`index.vectors.files` says. Vectors are L2-normalised: inner product is cosine similarity.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from index.vectors import files
from index.vectors.base import VectorsInfo, VectorSource
from index.vectors.tuning import exact_neighbors, tune_nprobe
from locate.types import Array, Shortlist
from locate.util.files import is_intact

STEM = "vectors"
RECORD = f"{STEM}.json"
# Exact search while the whole matrix is at most this many numbers: about 40 ms a query on one core
# (benchmarks/tables/search.py).
EXACT_NUMBERS = 2**27
_RECALL_QUERIES = 200


def choose_factory(count: int, dim: int) -> str:
    """The FAISS factory string for a collection; exact while that is fast.

    Beyond: inverted lists over 8-bit scalars, which loses almost nothing per vector and takes a
    quarter of the memory; 4 sqrt(n) lists is FAISS's own rule of thumb.
    """
    if count * dim <= EXACT_NUMBERS:
        return "Flat"
    return f"IVF{2 ** round(math.log2(4 * math.sqrt(count)))},SQ8"


class FaissIndex:
    """A loaded `VectorIndex`; from `FaissStore`."""

    def __init__(self, index: Any, info: VectorsInfo) -> None:
        self._index = index
        self._search_index = _to_gpu(index)
        self.info = info

    def ids(self) -> Array:
        return np.asarray(faiss.vector_to_array(self._index.id_map), np.int64)

    def vectors_of(self, ids: Array) -> Array:
        rows = np.full((len(ids), self.info.dim), np.nan, np.float32)
        position = {int(i): n for n, i in enumerate(self.ids())}
        inner = faiss.downcast_index(self._index.index)
        for n, image_id in enumerate(ids):
            if (at := position.get(int(image_id))) is not None:
                rows[n] = inner.reconstruct(at)
        return rows

    def search(self, vector: Array, k: int) -> Shortlist:
        k = min(k, self.info.count)
        if k <= 0:
            return Shortlist((), ())
        similarities, ids = self._search_index.search(np.ascontiguousarray(vector[None]), k)
        found = ids[0] >= 0  # FAISS fills up with -1 when the visited lists hold fewer than k
        return Shortlist(tuple(ids[0][found].tolist()), tuple(similarities[0][found].tolist()))


class FaissStore:
    """The `VectorStore` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read_record(self) -> VectorsInfo | None:
        return files.read_record(self.folder, STEM, VectorsInfo)

    def load(self, generation: int, *, verify: bool = False) -> FaissIndex | None:
        info = self.read_record()
        if info is None or info.generation != generation:
            return None
        file = self.folder / info.file
        try:
            if verify and not is_intact(file, info.sha256):
                return None
            index = faiss.read_index(str(file))
        except (OSError, RuntimeError):  # missing, truncated or not FAISS's
            return None
        if index.ntotal != info.count or index.d != info.dim:
            return None
        if info.nprobe:
            faiss.extract_index_ivf(index).nprobe = info.nprobe
        return FaissIndex(index, info)

    def build(
        self, source: VectorSource, generation: int, factory: str | None = None
    ) -> VectorsInfo:
        """Measures the recall of the new index, too; the kind is `choose_factory`'s by default."""
        index, info = _make(source, generation, factory)
        writers = {"": (".faiss", lambda path: faiss.write_index(index, str(path)))}
        return files.publish(self.folder, STEM, writers, info)

    def in_memory(self, source: VectorSource, generation: int) -> FaissIndex:
        return FaissIndex(*_make(source, generation, "Flat"))


def _make(
    source: VectorSource, generation: int, factory: str | None
) -> tuple[faiss.Index, VectorsInfo]:
    count, dim = 0, 1
    for ids, vectors in source():
        count, dim = count + len(ids), vectors.shape[1]
    factory = factory or choose_factory(count, dim)
    inner = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    if not inner.is_trained:
        inner.train(_sample(source, count, 64 * faiss.extract_index_ivf(inner).nlist))
    index = faiss.IndexIDMap2(inner)
    for ids, vectors in source():
        index.add_with_ids(vectors, ids)
    nprobe, recall = (0, 1.0) if factory == "Flat" else _tune(index, source, count)
    return index, VectorsInfo(generation, count, dim, factory, nprobe, recall, "", "")


def _sample(source: VectorSource, count: int, wanted: int) -> Array:
    """About `wanted` vectors spread evenly over the source."""
    step = max(1, count // wanted)
    parts, start = [], 0
    for _, vectors in source():
        parts.append(vectors[(-start) % step :: step])
        start += len(vectors)
    return np.concatenate(parts)


def _tune(index: faiss.Index, source: VectorSource, count: int) -> tuple[int, float]:
    """The smallest power of two of visited lists that reaches the target recall@10, and that recall.

    Queries are stored vectors; each finds itself, so they are compared on the other nine.
    """
    queries = _sample(source, count, _RECALL_QUERIES)
    k = min(10, count)
    truth = exact_neighbors(queries, source(), k)

    def recall() -> float:
        pairs = zip(index.search(queries, k)[1][:, 1:], truth[:, 1:], strict=True)
        return float(np.mean([np.isin(t, f).mean() for f, t in pairs]))

    return tune_nprobe(faiss.extract_index_ivf(index), recall)


def _to_gpu(index: faiss.Index) -> faiss.Index:
    """A copy on the graphics cards if FAISS was built for them and there are any."""
    has_gpu = getattr(faiss, "get_num_gpus", lambda: 0)() > 0
    return faiss.index_cpu_to_all_gpus(index) if has_gpu else index
