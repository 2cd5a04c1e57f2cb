"""Which database images are worth a closer look: by the global descriptor, by local ones, or both."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from threading import Lock

from index.catalog import Catalog
from index.vectors.base import LocalIndex, VectorIndex
from index.vectors.stores import open_store
from index.vectors.voting import Votes, vote
from locate.retrieval.search_mode import GLOBAL, LOCAL
from locate.retrieval.verdict import UNVERIFIED
from locate.types import Array, Candidate, Features, Shortlist

log = logging.getLogger("locate")


@dataclass(frozen=True)
class Found:
    """What the searches of one view of a query found.

    Attributes:
        similar: by the global descriptor; None if it was not asked.
        voted: by the local ones; None if they were not asked.
    """

    similar: Shortlist | None
    voted: Votes | None

    @property
    def image_ids(self) -> list[int]:
        """The images of both in turns, the local search first, each image once. Neither measure
        can be compared with the other, and each finds what the other misses."""
        similar = self.similar.image_ids if self.similar else ()
        voted = self.voted.image_ids if self.voted else ()
        turns = (i for pair in zip_longest(voted, similar) for i in pair if i is not None)
        return list(dict.fromkeys(turns))


class Searches:
    """The search indices of a database folder, loaded when they are first needed, and again when a
    writer has finished since. Safe to share between threads."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._store = open_store(catalog.folder)
        self._vectors: VectorIndex | None = None
        self._local: LocalIndex | None = None
        self._lock = Lock()

    def load(self, search: str) -> None:
        """Load what `search` needs now."""
        if search != LOCAL:
            self._vector_store()
        if search != GLOBAL:
            self._local_store()

    def near(self, vector: Array, k: int, left_out: Collection[int] = ()) -> Shortlist:
        """The `k` nearest images by the global descriptor that are not left out."""
        found = self._vector_store().search(vector, k + len(left_out))
        kept = [
            (i, s)
            for i, s in zip(found.image_ids, found.similarities, strict=True)
            if i not in left_out
        ][:k]
        return Shortlist(tuple(i for i, _ in kept), tuple(s for _, s in kept))

    def voted(
        self, features: Features | None, k: int, neighbours: int, left_out: Collection[int] = ()
    ) -> Votes:
        """The `k` images that the local descriptors of a query vote for most.

        Args:
            neighbours: database descriptors that each query descriptor votes by.
        """
        store = self._local_store()
        if features is None:
            return Votes((), ())
        ranked = vote(store.search(features.descriptors, neighbours, left_out), store.rows)
        return Votes(ranked.image_ids[:k], ranked.votes[:k])

    def _vector_store(self) -> VectorIndex:
        with self._lock:
            generation = self._catalog.generation
            if self._vectors is None or self._vectors.info.generation != generation:
                self._vectors = self._store.vectors.load(generation)
            if self._vectors is None:
                # A writer is at work, or was killed before it came to the search index.
                log.info("the search index is not up to date; searching the catalogue itself")
                self._vectors = self._store.vectors.in_memory(self._catalog.vectors, generation)
            return self._vectors

    def _local_store(self) -> LocalIndex:
        with self._lock:
            generation = self._catalog.generation
            store = self._local
            if store is not None and store.info.generation == generation:
                return store
            record = self._store.local.read_record()
            if store is None or (record is not None and record.generation == generation):
                store = self._store.local.load() or store
            if store is not None and store.info.generation != generation:
                log.info("the local search index is not up to date; what changed is read anew")
                store = store.updated(self._catalog) or self._changeable()
            if store is None:
                log.info("there is no local search index; searching the catalogue itself")
                store = self._store.local.in_memory(self._catalog)
            self._local = store
            return store

    def _changeable(self) -> LocalIndex | None:
        """The stored index was mapped into memory only; read it whole and bring it up to date."""
        stored = self._store.local.load(to_change=True)
        return stored and stored.updated(self._catalog, in_place=True)


def candidates(catalog: Catalog, found: Found, vector: Array | None) -> list[Candidate]:
    """The images that were found, in their order, not verified yet.

    Args:
        vector: the global descriptor of the query, if it has one: those that only the local search
            found get their similarity too.
    """
    similarities = (
        _by_id(found.similar.image_ids, found.similar.similarities) if found.similar else {}
    )
    votes = _by_id(found.voted.image_ids, found.voted.votes) if found.voted else {}
    ids = found.image_ids
    if vector is not None:
        lacking = [i for i in ids if i not in similarities]
        stored = catalog.vectors_of(lacking)
        similarities |= {i: float(stored[i] @ vector) for i in lacking if i in stored}
    rows = catalog.rows(ids)
    roots = catalog.roots()  # now: a writer may have added one since
    return [
        Candidate(
            rank=rank,
            verdict=UNVERIFIED,
            label=rows[i].label,
            image=rows[i].path,
            path=roots[rows[i].root_id] / rows[i].path,
            image_id=i,
            similarity=similarities.get(i),
            votes=votes.get(i),
        )
        for rank, i in enumerate(ids, 1)
        if i in rows
    ]


def _by_id(ids: Sequence[int], values: Sequence[float]) -> dict[int, float]:
    return dict(zip(ids, values, strict=True))
