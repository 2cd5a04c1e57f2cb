"""What a vector store is: where search indices derived from a catalogue are kept.

`index.vectors.stores.open_store` opens one; `tests/index/test_vectors.py` runs over every one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

from index.vectors.row_map import RowMap
from locate.types import Array, Shortlist

NEIGHBORS = 60  # of each query descriptor; DELF's K
# Chunks of (ids int64 (n,), vectors float32 (n, D)); may be asked for several times.
VectorSource = Callable[[], Iterator[tuple[Array, Array]]]


@dataclass(frozen=True)
class VectorsInfo:
    """The record of a derived index, whose file lies beside it.

    Attributes:
        generation: that of the catalogue that it was built from.
        count, dim: vectors in it, and their length.
        factory: FAISS factory string; "Flat" is exact.
        nprobe: inverted lists visited by a search; 0 for an exact index.
        recall_at_10: measured against exact search when it was built; 1.0 for an exact index.
    """

    generation: int
    count: int
    dim: int
    factory: str
    nprobe: int
    recall_at_10: float
    file: str
    sha256: str


@dataclass(frozen=True)
class LocalInfo:
    """The record of the local index: `VectorsInfo`, and

    Attributes:
        images: with at least one descriptor in it.
        recall: share of descriptors whose true nearest other one is among the `NEIGHBORS` found, as
            measured when the index was trained; 1.0 for an exact index.
        trained_count: descriptors that it held then; the lists fit a collection of about that size.
    """

    generation: int
    images: int
    count: int
    dim: int
    factory: str
    nprobe: int
    recall: float
    trained_count: int
    file: str = ""
    sha256: str = ""
    rows_file: str = ""
    rows_sha256: str = ""


class DescriptorSource(Protocol):
    """What a local index is derived from; a `Catalog` is one."""

    @property
    def generation(self) -> int: ...

    def feature_counts(self) -> tuple[Array, Array]:
        """As of `index.catalog.Catalog`, and so are the `descriptors`."""
        ...

    def descriptors(self, image_ids: Array) -> Iterator[tuple[Array, Array, Array]]: ...


@dataclass(frozen=True, eq=False)
class Neighbors:
    """The nearest database descriptors of each query descriptor, best first: their rows, Q x K
    int64 (-1 where fewer were found), and cosine similarities, Q x K float32 (-inf)."""

    rows: Array
    similarities: Array


class VectorIndex(Protocol):
    """Global descriptors, ready for a search by cosine similarity."""

    @property
    def info(self) -> VectorsInfo: ...

    def ids(self) -> Array:
        """The ids of all vectors, int64, any order."""
        ...

    def vectors_of(self, ids: Array) -> Array:
        """The stored vectors of some ids, n x D float32, a row of NaN for one that is not stored; exact
        where `info.factory` is "Flat"."""
        ...

    def search(self, vector: Array, k: int) -> Shortlist:
        """The `k` nearest (fewer if there are not as many) of a vector, D float32, L2-normalised."""
        ...


class VectorStore(Protocol):
    """One index of global descriptors at a time: at any instant a complete one or none."""

    def read_record(self) -> VectorsInfo | None:
        """Of the stored index; None if there is none or it cannot be read."""
        ...

    def load(self, generation: int, *, verify: bool = False) -> VectorIndex | None:
        """The stored index if it is complete (with `verify`, to the last byte) and of this
        generation of the catalogue, else None."""
        ...

    def build(
        self, source: VectorSource, generation: int, factory: str | None = None
    ) -> VectorsInfo:
        """Put an index of `source` in the place of the old one; `DatabaseError` if it cannot be
        written. `factory`, a FAISS factory string, says how to search; by default by size."""
        ...

    def in_memory(self, source: VectorSource, generation: int) -> VectorIndex:
        """An exact index that is not written anywhere: for a reader whose stored index is stale."""
        ...


class LocalIndex(Protocol):
    """Local descriptors of all images, ready for a search by those of a query; `rows` says whose each
    is."""

    @property
    def info(self) -> LocalInfo: ...

    @property
    def rows(self) -> RowMap: ...

    def search(
        self, descriptors: Array, k: int = NEIGHBORS, exclude: Collection[int] = ()
    ) -> Neighbors:
        """The `k` nearest of each query descriptor (Q x D float16 or float32, L2-normalised rows),
        those of some images (ids) excluded."""
        ...

    def vectors_of(self, rows: Array) -> Array:
        """The stored descriptors of some rows, n x D float32; of an exact index only."""
        ...

    def updated(self, source: DescriptorSource, *, in_place: bool = False) -> Self | None:
        """An index of the source as it is now; None if this one can be no start for it. It may be
        spoilt if `in_place`; otherwise a copy is changed, since others search it."""
        ...


class LocalStore(Protocol):
    """The same of local descriptors."""

    def read_record(self) -> LocalInfo | None: ...

    def load(self, *, to_change: bool = False) -> LocalIndex | None:
        """The stored index, whatever its generation, if it is intact, else None; `to_change` so
        that it can be brought up to date."""
        ...

    def refresh(self, source: DescriptorSource, *, force: bool = False) -> LocalInfo | None:
        """Bring the stored index up to date, or make it anew with `force`; None if there is no
        descriptor."""
        ...

    def in_memory(self, source: DescriptorSource) -> LocalIndex: ...

    def forget(self) -> None:
        """Delete the stored index."""
        ...


@dataclass(frozen=True)
class Store:
    """Both, in one place."""

    vectors: VectorStore
    local: LocalStore
