"""Every invariant of a database folder: what must hold between catalogue, features and vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from index import weights_files
from index.catalog import Catalog
from index.records import checksum
from index.vectors.base import LocalIndex, VectorIndex
from index.vectors.stores import open_store
from locate.errors import DatabaseCorruptError, DatabaseError
from locate.types import Array


@dataclass(frozen=True)
class Problem:
    """One invariant that does not hold.

    Attributes:
        what: one sentence.
        image_id: the image that must be looked at again, or None.
        derived: True if rebuilding the search index mends it.
    """

    what: str
    image_id: int | None = None
    derived: bool = False


def check(catalog: Catalog, *, global_dim: int, local_dim: int) -> list[Problem]:
    """Look for everything that could be wrong. Reads the whole database once.

    Args:
        global_dim, local_dim: what the extractor gives; 0 for none.
    """
    return [
        *_sqlite(catalog),
        *_rows(catalog, global_dim, local_dim),
        *_features(catalog, local_dim),
        *_vectors(catalog, global_dim),
        *_search_index(catalog),
        *_local_index(catalog),
        *(Problem(what) for what in weights_files.problems(catalog)),
    ]


def _sqlite(catalog: Catalog) -> Iterator[Problem]:
    for (text,) in catalog.execute("PRAGMA integrity_check"):
        if text != "ok":
            yield Problem(f"SQLite's integrity check says: {text}")
    for table, row, parent, _ in catalog.execute("PRAGMA foreign_key_check"):
        yield Problem(f"row {row} of {table} belongs to no row of {parent}")


def _rows(catalog: Catalog, global_dim: int, local_dim: int) -> Iterator[Problem]:
    for table, dim in (("features", local_dim), ("vectors", global_dim)):
        if dim:
            lacking = catalog.execute(
                f"""SELECT id, path FROM images LEFT JOIN {table} ON image_id = id
                WHERE status = 'ok' AND image_id IS NULL"""
            )
            for image_id, path in lacking:
                yield Problem(f"{path} has no {table}", image_id)
        surplus = catalog.execute(
            f"SELECT id, path FROM images JOIN {table} ON image_id = id WHERE status <> 'ok'"
        )
        for image_id, path in surplus:
            yield Problem(f"{path} is marked as failed but has {table}", image_id)
    for image_id, path in catalog.execute(
        """SELECT id, path FROM images WHERE status = 'ok'
        AND (coalesce(width, 0) <= 0 OR coalesce(height, 0) <= 0 OR length(sha256) <> 64)"""
    ):
        yield Problem(f"{path} has no size or content hash", image_id)


def _features(catalog: Catalog, local_dim: int) -> Iterator[Problem]:
    for image_id, path in catalog.execute(
        "SELECT id, path FROM images JOIN features ON image_id = id WHERE status = 'ok'"
    ):
        try:
            found = catalog.features(image_id).descriptors.shape[1]
        except DatabaseCorruptError:
            yield Problem(f"the features of {path} are damaged", image_id)
            continue
        if found != local_dim:
            yield Problem(f"the features of {path} are {found} long, not {local_dim}", image_id)


def _vectors(catalog: Catalog, global_dim: int) -> Iterator[Problem]:
    last = -1
    while rows := catalog.execute(
        """SELECT image_id, path, vectors.dim, vector, checksum FROM vectors
        JOIN images ON images.id = image_id WHERE image_id > ? ORDER BY image_id LIMIT 4096""",
        [last],
    ):
        last = rows[-1][0]
        for image_id, path, dim, blob, stored in rows:
            if len(blob) != 4 * dim or checksum(blob) != stored:
                yield Problem(f"the global descriptor of {path} is damaged", image_id)
            elif dim != global_dim:
                yield Problem(
                    f"the global descriptor of {path} is {dim} long, not {global_dim}", image_id
                )


def _search_index(catalog: Catalog) -> Iterator[Problem]:
    if catalog.counts()["vectors"] == 0:
        return
    stored = open_store(catalog.folder).vectors
    record = stored.read_record()
    if record is None:
        yield Problem("the search index is missing", derived=True)
        return
    if record.generation != catalog.generation:
        yield Problem("the search index is older than the catalogue", derived=True)
        return
    store = stored.load(catalog.generation, verify=True)
    if store is None:
        yield Problem("the search index is damaged", derived=True)
        return
    try:
        yield from _compare(catalog, store)
    except DatabaseError as error:
        yield Problem(f"the search index cannot be compared with the catalogue: {error}")


def _compare(catalog: Catalog, store: VectorIndex) -> Iterator[Problem]:
    stored: list[Array] = [np.zeros(0, np.int64)]
    for ids, vectors in catalog.vectors():
        stored.append(ids)
        if store.info.factory == "Flat":
            wrong = ids[np.any(store.vectors_of(ids) != vectors, axis=1)]
            if len(wrong):
                yield Problem(f"the search index differs for {len(wrong)} images", derived=True)
                return
    if not np.array_equal(np.sort(store.ids()), np.concatenate(stored)):
        yield Problem("the search index and the catalogue hold different images", derived=True)


def _local_index(catalog: Catalog) -> Iterator[Problem]:
    if catalog.meta("search") not in ("local", "both") or not len(catalog.feature_counts()[0]):
        return
    stored = open_store(catalog.folder).local
    record = stored.read_record()
    if record is None:
        yield Problem("the local search index is missing", derived=True)
    elif record.generation != catalog.generation:
        yield Problem("the local search index is older than the catalogue", derived=True)
    elif (store := stored.load()) is None:
        yield Problem("the local search index is damaged", derived=True)
    else:
        try:
            yield from _compare_local(catalog, store)
        except DatabaseError as error:
            yield Problem(f"the local search index cannot be compared with the catalogue: {error}")


def _compare_local(catalog: Catalog, store: LocalIndex) -> Iterator[Problem]:
    image_ids, counts = catalog.feature_counts()
    order = np.argsort(store.rows.image_ids)
    stored = (store.rows.image_ids[order], store.rows.counts[order])
    if not (np.array_equal(image_ids, stored[0]) and np.array_equal(counts, stored[1])):
        yield Problem(
            "the local search index and the catalogue hold different features", derived=True
        )
    elif store.info.factory == "Flat":
        for ids, _, descriptors in catalog.descriptors(store.rows.image_ids):
            if not np.array_equal(store.vectors_of(store.rows.rows_of(ids)), descriptors):
                yield Problem("the local search index differs from the catalogue", derived=True)
                return
