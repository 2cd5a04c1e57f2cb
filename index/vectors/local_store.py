"""Every local descriptor of the database in one FAISS index, to be searched by those of a query:
DELF (Noh, Araujo, Sim, Weyand, Han, ICCV 2017), sections 4.3 and 4.4.

A set of files as `index.vectors.files` says: `local.json` (a `LocalInfo`), the index, and the map of its
rows to images. Descriptors are L2-normalised: inner product is cosine similarity. What an image shows
never changes under its id, and ids are never used again. So an index of an earlier generation is brought
up to date by taking the rows of images that are gone out and putting new ones in, by the writer on its
file and by a reader in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from index.vectors import files
from index.vectors.base import NEIGHBORS, DescriptorSource, LocalInfo, Neighbors
from index.vectors.local_train import choose_factory, make_index, tune
from index.vectors.row_map import RowMap
from locate.errors import DatabaseCorruptError
from locate.types import Array
from locate.util.files import is_intact

STEM = "local"
MMAP_BYTES = 2**30  # larger index files are mapped, not read: only visited lists come from disk
_faiss: Any = faiss  # its stubs do not know the keywords of its own search parameters


class LocalFaissIndex:
    """A loaded `LocalIndex`; from `LocalFaissStore` or `updated`."""

    def __init__(self, index: Any, rows: RowMap, info: LocalInfo, *, mapped: bool = False) -> None:
        self._index = index
        self.rows = rows
        self.info = info
        self._mapped = mapped

    def search(
        self, descriptors: Array, k: int = NEIGHBORS, exclude: Collection[int] = ()
    ) -> Neighbors:
        k = min(k, self.info.count)
        if k <= 0 or len(descriptors) == 0:
            nothing = (len(descriptors), 0)
            return Neighbors(np.zeros(nothing, np.int64), np.zeros(nothing, np.float32))
        selector = None
        if exclude:
            mask = np.ones(self.rows.end, np.bool_)
            mask[self.rows.rows_of(np.array([*exclude], np.int64))] = False
            selector = _faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        if self.info.nprobe:
            options = _faiss.SearchParametersIVF(sel=selector, nprobe=self.info.nprobe)
        else:
            options = _faiss.SearchParameters(sel=selector)
        queries = np.ascontiguousarray(descriptors, np.float32)
        similarities, rows = self._index.search(queries, k, params=options)
        similarities[rows < 0] = -np.inf
        return Neighbors(rows, similarities)

    def vectors_of(self, rows: Array) -> Array:
        stored = faiss.vector_to_array(self._index.id_map)
        order = np.argsort(stored)
        at = order[np.searchsorted(stored, rows, sorter=order)]
        return np.asarray(faiss.downcast_index(self._index.index).reconstruct_batch(at))

    def updated(
        self, source: DescriptorSource, *, in_place: bool = False
    ) -> LocalFaissIndex | None:
        if self._mapped:
            return None
        generation = source.generation
        image_ids, _ = source.feature_counts()
        gone = np.setdiff1d(self.rows.image_ids, image_ids)
        new = np.setdiff1d(image_ids, self.rows.image_ids)
        index = self._index if in_place else faiss.clone_index(self._index)
        if len(gone):
            index.remove_ids(faiss.IDSelectorBatch(self.rows.rows_of(gone)))
        rows = _add(index, self.rows.without(gone), self.rows.end, source.descriptors(new))
        info = dataclasses.replace(
            self.info, generation=generation, images=len(rows), count=int(rows.counts.sum())
        )
        return LocalFaissIndex(index, rows, info)


class LocalFaissStore:
    """The `LocalStore` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read_record(self) -> LocalInfo | None:
        return files.read_record(self.folder, STEM, LocalInfo)

    def load(self, *, to_change: bool = False) -> LocalFaissIndex | None:
        """One that is to be changed is read into memory however large it is."""
        info = self.read_record()
        if info is None:
            return None
        file, rows_file = self.folder / info.file, self.folder / info.rows_file
        if not (is_intact(file, info.sha256) and is_intact(rows_file, info.rows_sha256)):
            return None
        try:
            mapped = not to_change and file.stat().st_size > MMAP_BYTES
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP if mapped else 0)
            rows = RowMap.load(rows_file)
        except (OSError, RuntimeError, ValueError, DatabaseCorruptError):
            return None
        if (index.ntotal, index.d, int(rows.counts.sum())) != (info.count, info.dim, info.count):
            return None
        return LocalFaissIndex(index, rows, info, mapped=mapped)

    def refresh(self, source: DescriptorSource, *, force: bool = False) -> LocalInfo | None:
        record = self.read_record()
        stale = record is None or record.generation != source.generation
        stored = None if force else self.load(to_change=stale)
        if stored is not None and not stale:
            return stored.info
        return self.build(source, stored)

    def build(
        self,
        source: DescriptorSource,
        old: LocalFaissIndex | None = None,
        factory: str | None = None,
    ) -> LocalInfo | None:
        """Put an index of `source` in the place of the stored one; None if it has no descriptor.

        Args:
            old: the index as it was, which is spoilt; what did not change since is taken over,
                unless the collection has grown or shrunk so much that its lists do not fit any more.
            factory: a FAISS factory string; by default by size.
        """
        total = int(source.feature_counts()[1].sum())
        if total == 0:
            self.forget()
            return None
        fits = old is not None and factory is None and _fits(old.info, total)
        made = old.updated(source, in_place=True) if old is not None and fits else None
        store = made or _make(source, factory)
        writers: dict[str, tuple[str, files.Writer]] = {
            "": (".faiss", lambda path: faiss.write_index(store._index, str(path))),
            "rows_": (".rows.npy", store.rows.save),
        }
        return files.publish(self.folder, STEM, writers, store.info)

    def in_memory(self, source: DescriptorSource) -> LocalFaissIndex:
        """Takes four bytes a number."""
        return _make(source, "Flat")

    def forget(self) -> None:
        files.forget(self.folder, STEM)


def _fits(info: LocalInfo, count: int) -> bool:
    if info.factory == "Flat":
        return choose_factory(count, info.dim) == "Flat"
    return info.trained_count <= 2 * count and count <= 2 * info.trained_count


def _make(source: DescriptorSource, factory: str | None) -> LocalFaissIndex:
    generation = source.generation
    image_ids, counts = source.feature_counts()
    count = int(counts.sum())
    dim = next((d.shape[1] for _, _, d in source.descriptors(image_ids)), 1)
    factory = factory or choose_factory(count, dim)
    index = make_index(source, dim, factory)
    rows = _add(index, RowMap.empty(), 0, source.descriptors(image_ids))
    nprobe, recall = (0, 1.0) if factory == "Flat" else tune(index, rows, source)
    found = int(rows.counts.sum())
    info = LocalInfo(generation, len(rows), found, dim, factory, nprobe, recall, found)
    return LocalFaissIndex(index, rows, info)


def _add(
    index: Any, rows: RowMap, start: int, chunks: Iterator[tuple[Array, Array, Array]]
) -> RowMap:
    """Put descriptors into the index from row `start` on; the map with them."""
    ids, each, row = [], [], start
    for image_ids, counts, descriptors in chunks:
        if descriptors.shape[1] != index.d:
            raise DatabaseCorruptError(
                f"stored local descriptors differ in length ({descriptors.shape[1]} and "
                f"{index.d}); run: locate check --repair"
            )
        index.add_with_ids(descriptors, np.arange(row, row + len(descriptors)))
        row += len(descriptors)
        ids.append(image_ids)
        each.append(counts)
    return rows.extended(np.concatenate(ids), np.concatenate(each), start) if ids else rows
