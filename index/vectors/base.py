"""What a store of global descriptors is; `tests/index/test_vectors.py` runs over every one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from locate.types import Array, Shortlist

# Chunks of (ids int64 (n,), vectors float32 (n, D)); may be asked for several times.
VectorSource = Callable[[], Iterator[tuple[Array, Array]]]


@dataclass(frozen=True)
class VectorsInfo:
    """What is remembered about a derived index file.

    Attributes:
        generation: that of the catalogue that it was built from.
        count: vectors in it.
        dim: their length.
        factory: FAISS factory string; "Flat" is exact.
        nprobe: inverted lists visited by a search; 0 for an exact index.
        recall_at_10: measured against exact search when it was built; 1.0 for an exact index.
        file: name of the index file beside this record.
        sha256: of that file.
    """

    generation: int
    count: int
    dim: int
    factory: str
    nprobe: int
    recall_at_10: float
    file: str
    sha256: str


class VectorStore(Protocol):
    """Cosine similarity search."""

    @property
    def info(self) -> VectorsInfo: ...

    def ids(self) -> Array:
        """The ids of all vectors, int64, any order."""
        ...

    def search(self, vector: Array, k: int) -> Shortlist:
        """The `k` nearest (fewer if there are not as many), best first.

        Args:
            vector: D float32, L2-normalised.
        """
        ...
