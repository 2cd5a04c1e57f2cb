"""Every invariant of a database folder: what must hold between catalogue, features and vectors, and
that the photos on disk are still those that it was made of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from index import quantization, weights_files
from index.catalog import Catalog
from index.records import ImageRow, checksum
from index.vectors.base import LocalIndex, LocalInfo, VectorIndex, VectorsInfo
from index.vectors.stores import open_store
from locate.errors import DatabaseCorruptError, DatabaseError
from locate.types import Array
from locate.util.parallel import ordered_map


@dataclass(frozen=True)
class Violation:
    """An invariant that does not hold; `image_id` is the image that must be extracted anew."""

    what: str
    image_id: int | None = None


def check(catalog: Catalog, *, global_dim: int, local_dim: int) -> list[Violation]:
    """Look for everything that could be wrong, of what the extractor gives (a dimension of 0 for
    none). Reads the whole database once."""
    quantizers = [
        Violation(what) for what in quantization.problems(catalog.folder, catalog.quantizers())
    ]
    return [
        *_sqlite(catalog),
        *_rows(catalog, global_dim, local_dim),
        *quantizers,
        *([] if quantizers else _features(catalog, local_dim)),
        *_vectors(catalog, global_dim),
        *_search_index(catalog),
        *([] if quantizers else _local_index(catalog)),
        *(Violation(what) for what in weights_files.problems(catalog)),
    ]


def _sqlite(catalog: Catalog) -> Iterator[Violation]:
    for (text,) in catalog.execute("PRAGMA integrity_check"):
        if text != "ok":
            yield Violation(f"SQLite's integrity check says: {text}")
    for table, row, parent, _ in catalog.execute("PRAGMA foreign_key_check"):
        yield Violation(f"row {row} of {table} belongs to no row of {parent}")


def _rows(catalog: Catalog, global_dim: int, local_dim: int) -> Iterator[Violation]:
    for table, dim in (("features", local_dim), ("vectors", global_dim)):
        if dim:
            lacking = catalog.execute(
                f"""SELECT id, path FROM images LEFT JOIN {table} ON image_id = id
                WHERE status = 'ok' AND image_id IS NULL"""
            )
            for image_id, path in lacking:
                yield Violation(f"{path} has no {table}", image_id)
        surplus = catalog.execute(
            f"SELECT id, path FROM images JOIN {table} ON image_id = id WHERE status <> 'ok'"
        )
        for image_id, path in surplus:
            yield Violation(f"{path} is marked as failed but has {table}", image_id)
    for image_id, path in catalog.execute(
        """SELECT id, path FROM images WHERE status = 'ok'
        AND (coalesce(width, 0) <= 0 OR coalesce(height, 0) <= 0 OR length(sha256) <> 64)"""
    ):
        yield Violation(f"{path} has no size or content hash", image_id)


def _features(catalog: Catalog, local_dim: int) -> Iterator[Violation]:
    for image_id, path in catalog.execute(
        "SELECT id, path FROM images JOIN features ON image_id = id WHERE status = 'ok'"
    ):
        try:
            found = catalog.features(image_id).descriptors.shape[1]
        except DatabaseCorruptError:
            yield Violation(f"the features of {path} are damaged", image_id)
            continue
        if found != local_dim:
            yield Violation(f"the features of {path} are {found} long, not {local_dim}", image_id)


def _vectors(catalog: Catalog, global_dim: int) -> Iterator[Violation]:
    last = -1
    while rows := catalog.execute(
        """SELECT image_id, path, vectors.dim, vector, checksum FROM vectors
        JOIN images ON images.id = image_id WHERE image_id > ? ORDER BY image_id LIMIT 4096""",
        [last],
    ):
        last = rows[-1][0]
        for image_id, path, dim, blob, stored in rows:
            if len(blob) != 4 * dim or checksum(blob) != stored:
                yield Violation(f"the global descriptor of {path} is damaged", image_id)
            elif dim != global_dim:
                yield Violation(
                    f"the global descriptor of {path} is {dim} long, not {global_dim}", image_id
                )


def _search_index(catalog: Catalog) -> Iterator[Violation]:
    if catalog.counts()["vectors"] == 0:
        return
    stored, generation = open_store(catalog.folder).vectors, catalog.generation
    load = partial(stored.load, generation, verify=True)
    yield from _derived("search index", catalog, stored.read_record(), load, _compare)


def _derived(
    name: str,
    catalog: Catalog,
    record: VectorsInfo | LocalInfo | None,
    load: Callable[[], Any],
    compare: Callable[[Catalog, Any], Iterator[Violation]],
) -> Iterator[Violation]:
    """What is wrong with a derived index."""
    if record is None:
        yield Violation(f"the {name} is missing")
    elif record.generation != catalog.generation:
        yield Violation(f"the {name} is older than the catalogue")
    elif (store := load()) is None:
        yield Violation(f"the {name} is damaged")
    else:
        try:
            yield from compare(catalog, store)
        except DatabaseError as error:
            yield Violation(f"the {name} cannot be compared with the catalogue: {error}")


def _compare(catalog: Catalog, store: VectorIndex) -> Iterator[Violation]:
    stored: list[Array] = [np.zeros(0, np.int64)]
    for ids, vectors in catalog.vectors():
        stored.append(ids)
        if store.info.factory == "Flat":
            wrong = ids[np.any(store.vectors_of(ids) != vectors, axis=1)]
            if len(wrong):
                yield Violation(f"the search index differs for {len(wrong)} images")
                return
    if not np.array_equal(np.sort(store.ids()), np.concatenate(stored)):
        yield Violation("the search index and the catalogue hold different images")


def _local_index(catalog: Catalog) -> Iterator[Violation]:
    if catalog.meta("search") not in ("local", "both") or not len(catalog.feature_counts()[0]):
        return
    stored = open_store(catalog.folder).local
    record = stored.read_record()
    yield from _derived("local search index", catalog, record, stored.load, _compare_local)


def _compare_local(catalog: Catalog, store: LocalIndex) -> Iterator[Violation]:
    image_ids, counts = catalog.feature_counts()
    order = np.argsort(store.rows.image_ids)
    stored = (store.rows.image_ids[order], store.rows.counts[order])
    if not (np.array_equal(image_ids, stored[0]) and np.array_equal(counts, stored[1])):
        yield Violation("the local search index and the catalogue hold different features")
    elif store.info.factory == "Flat":
        for ids, _, descriptors in catalog.descriptors(store.rows.image_ids):
            if not np.array_equal(store.vectors_of(store.rows.rows_of(ids)), descriptors):
                yield Violation("the local search index differs from the catalogue")
                return


@dataclass(frozen=True)
class PhotoCheck:
    """One problem for each photo whose content is another; how many photos were read, and how many
    are absent or cannot be read, which is no damage to the database."""

    problems: Sequence[Violation]
    compared: int
    absent: int


def check_photos(
    catalog: Catalog, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> PhotoCheck:
    """Hash every photo of an indexed image and compare. Reads them all: size and date, by which a
    build knows what changed, can be those of the photo before. `progress` is called from this thread."""
    roots, rows = catalog.roots(), catalog.images("ok")
    problems, absent = [], 0
    paths = (roots[row.root_id] / row.path for row in rows)
    with closing(ordered_map(_hash, paths, workers, start=None)) as hashes:
        for done, (row, found) in enumerate(zip(rows, hashes, strict=True), 1):
            if found is None:
                absent += 1
            elif found[0] != row.file.sha256:
                problems.append(Violation(_what(row, found[1]), row.id))
            if progress is not None:
                progress(done, len(rows))
    return PhotoCheck(problems, len(rows) - absent, absent)


def _hash(path: Path) -> tuple[str, tuple[int, int]] | None:
    """The sha256 of a plain file, and its (size, mtime_ns); None if it cannot be read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError):
        return None
    return digest, (status.st_size, status.st_mtime_ns)


def _what(row: ImageRow, state: tuple[int, int]) -> str:
    command = "locate build-index PHOTOS"
    if state == (row.file.bytes, row.file.mtime_ns):
        return (
            f"the photo {row.path} is another than the one that was indexed, of the same size and date; "
            f"index it again with: {command} --checksum"
        )
    return f"the photo {row.path} was changed since it was indexed; index it again with: {command}"
