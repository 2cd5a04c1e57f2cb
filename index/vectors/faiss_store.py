"""FAISS files derived from the catalogue.

A folder holds `vectors.json` (a `VectorsInfo`) and the index file that it names. Both are written
beside and renamed, the record last, so at any instant there is a complete pair or none; an index
file is never changed in place. Vectors are L2-normalised: inner product is cosine similarity.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from index.vectors.base import VectorsInfo, VectorSource
from locate.errors import DatabaseError
from locate.types import Array, Shortlist

RECORD = "vectors.json"
# Exact search while the whole matrix is at most this many numbers: about 40 ms a query on one core
# (benchmarks/search.py).
EXACT_NUMBERS = 2**27
TARGET_RECALL = 0.95
_RECALL_QUERIES = 200
_MAX_NPROBE = 256


def choose_factory(count: int, dim: int) -> str:
    """The FAISS factory string for a collection; exact while that is fast.

    Beyond: inverted lists over 8-bit scalars, which loses almost nothing per vector and takes a
    quarter of the memory; 4 sqrt(n) lists is FAISS's own rule of thumb.
    """
    if count * dim <= EXACT_NUMBERS:
        return "Flat"
    lists = 2 ** round(math.log2(4 * math.sqrt(count)))
    return f"IVF{lists},SQ8"


class FaissStore:
    """A loaded index, ready to search. From `build`, `load` or `in_memory`."""

    def __init__(self, index: Any, info: VectorsInfo) -> None:
        self._index = index
        self._search_index = _to_gpu(index)
        self._info = info

    @property
    def info(self) -> VectorsInfo:
        return self._info

    def ids(self) -> Array:
        return np.asarray(faiss.vector_to_array(self._index.id_map), np.int64)

    def vectors_of(self, ids: Array) -> Array:
        """The stored vectors of some ids, n x D float32; exact for an exact index.

        An id that is not stored gives a row of NaN."""
        rows = np.full((len(ids), self._info.dim), np.nan, np.float32)
        position = {int(i): n for n, i in enumerate(self.ids())}
        inner = faiss.downcast_index(self._index.index)
        for n, image_id in enumerate(ids):
            if (at := position.get(int(image_id))) is not None:
                rows[n] = inner.reconstruct(at)
        return rows

    def search(self, vector: Array, k: int) -> Shortlist:
        k = min(k, self._info.count)
        if k <= 0:
            return Shortlist((), ())
        similarities, ids = self._search_index.search(np.ascontiguousarray(vector[None]), k)
        found = ids[0] >= 0  # FAISS fills up with -1 when the visited lists hold fewer than k
        return Shortlist(
            tuple(int(i) for i in ids[0][found]), tuple(float(s) for s in similarities[0][found])
        )


def build(
    folder: Path, source: VectorSource, generation: int, factory: str | None = None
) -> VectorsInfo:
    """Build the index file of `source`, measure its recall, and put it in the place of the old one.

    Args:
        factory: a FAISS factory string; by default `choose_factory` by size.
    """
    index, info = _make(source, generation, factory)
    previous = read_record(folder)
    name = f"vectors-{generation:08d}.faiss"
    try:
        temporary = folder / f"{name}.writing"
        faiss.write_index(index, str(temporary))
        info = dataclasses.replace(info, file=name, sha256=_sha256(temporary))
        _sync(temporary)
        temporary.replace(folder / name)
        record = folder / f"{RECORD}.writing"
        record.write_text(json.dumps(dataclasses.asdict(info), indent=1))
        _sync(record)
        record.replace(folder / RECORD)
    except (OSError, RuntimeError) as error:  # FAISS raises RuntimeError on a full disk
        raise DatabaseError(
            f"cannot write the search index in {folder} ({error}); free some space and run: "
            "locate check --repair. The catalogue is complete and queries work meanwhile"
        ) from error
    for old in folder.glob("vectors-*.faiss*"):
        if old.name not in (name, previous.file if previous else name):
            old.unlink(missing_ok=True)
    if previous is not None and previous.file != name:
        # Readers that opened the record a moment ago still find its file on POSIX (they hold it
        # open); others start again from the new record.
        (folder / previous.file).unlink(missing_ok=True)
    return info


def load(folder: Path, generation: int, verify: bool = False) -> FaissStore | None:
    """The stored index if it is complete and of this generation, else None.

    Args:
        verify: compare the file's sha256 as well (reads it twice).
    """
    info = read_record(folder)
    if info is None or info.generation != generation:
        return None
    file = folder / info.file
    try:
        if verify and _sha256(file) != info.sha256:
            return None
        index = faiss.read_index(str(file))
    except (OSError, RuntimeError):  # missing, truncated or not FAISS's
        return None
    if index.ntotal != info.count or index.d != info.dim:
        return None
    if info.nprobe:
        faiss.extract_index_ivf(index).nprobe = info.nprobe
    return FaissStore(index, info)


def in_memory(source: VectorSource, generation: int) -> FaissStore:
    """An exact index that is not written anywhere: for a reader whose stored index is stale."""
    return FaissStore(*_make(source, generation, "Flat"))


def read_record(folder: Path) -> VectorsInfo | None:
    """The record of the stored index; None if there is none or it cannot be read."""
    try:
        return VectorsInfo(**json.loads((folder / RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        return None


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

    Queries are stored vectors; each finds itself, so they are compared on the other nine."""
    queries = _sample(source, count, _RECALL_QUERIES)
    k = min(10, count)
    best = np.full((len(queries), k), -np.inf, np.float32)
    truth = np.full((len(queries), k), -1, np.int64)
    for ids, vectors in source():
        similarities, rows = faiss.knn(
            queries, vectors, min(k, len(vectors)), metric=faiss.METRIC_INNER_PRODUCT
        )
        all_similarities = np.concatenate((best, similarities), axis=1)
        all_ids = np.concatenate((truth, ids[rows]), axis=1)
        order = np.argsort(-all_similarities, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(all_similarities, order, axis=1)
        truth = np.take_along_axis(all_ids, order, axis=1)
    ivf = faiss.extract_index_ivf(index)
    nprobe, recall = 1, 0.0
    while True:
        ivf.nprobe = nprobe
        found = index.search(queries, k)[1]
        pairs = zip(found[:, 1:], truth[:, 1:], strict=True)
        recall = float(np.mean([np.isin(t, f).mean() for f, t in pairs]))
        if recall >= TARGET_RECALL or nprobe * 2 > min(_MAX_NPROBE, ivf.nlist):
            return nprobe, recall
        nprobe *= 2


def _to_gpu(index: faiss.Index) -> faiss.Index:
    """A copy on the graphics cards if FAISS was built for them and there are any."""
    if getattr(faiss, "get_num_gpus", lambda: 0)() == 0:
        return index
    return faiss.index_cpu_to_all_gpus(index)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
