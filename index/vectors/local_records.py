"""The records around the local index; `index.vectors.local_store` has the index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from locate.types import Array

NEIGHBOURS = 60  # of each query descriptor; DELF's K


@dataclass(frozen=True)
class LocalInfo:
    """What is remembered about the local index.

    Attributes:
        generation: that of the catalogue that it was built from.
        images: with at least one descriptor in it.
        count: descriptors in it.
        dim: their length.
        factory: FAISS factory string; "Flat" is exact.
        nprobe: inverted lists visited by a search; 0 for an exact index.
        recall: share of descriptors whose true nearest other one is among the `NEIGHBOURS` found;
            1.0 for an exact index. As measured when the index was trained.
        trained_count: descriptors that it held then; the lists fit a collection of about that size.
        file, sha256: the index file beside this record.
        rows_file, rows_sha256: the map of its rows.
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
        """Ids of the images that have local features, ascending, and how many: both int64."""
        ...

    def descriptors(self, image_ids: Array) -> Iterator[tuple[Array, Array, Array]]:
        """Of some images in chunks: ids (n,) and counts (n,) int64, and the descriptors of one after
        the other, float32. Images that have none (any more) or damaged ones are left out."""
        ...


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest database descriptors of each query descriptor, best first.

    Attributes:
        rows: Q x K int64, which descriptor; -1 where fewer were found.
        similarities: Q x K float32, cosine; -inf where none was found.
    """

    rows: Array
    similarities: Array
