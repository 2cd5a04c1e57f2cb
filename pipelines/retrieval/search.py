"""Which database images are worth a closer look: by the global descriptor, by local ones, or both;
and average query expansion: what is proven helps to rank what is not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from threading import Lock

import numpy as np

from index.catalog import Catalog
from index.vectors.base import LocalIndex, VectorIndex
from index.vectors.stores import open_store
from index.vectors.voting import vote
from locate.retrieval.ranking import ORDER, score_of
from locate.retrieval.search_mode import GLOBAL, LOCAL
from locate.retrieval.verdict import MATCH, UNCERTAIN, UNVERIFIED
from locate.types import Array, Candidate, Features, Shortlist

log = logging.getLogger("locate")


@dataclass(frozen=True)
class SearchResult:
    """What a search of one view of a query gave: by its global descriptor and by the votes of its local
    ones; None for a search that was not made."""

    by_global: Shortlist | None
    by_local: Shortlist | None

    @property
    def image_ids(self) -> list[int]:
        """The images of both in turns, the local search first, each image once. Neither measure
        can be compared with the other, and each finds what the other misses."""
        lists = (found.image_ids if found else () for found in (self.by_local, self.by_global))
        turns = (i for pair in zip_longest(*lists) for i in pair if i is not None)
        return list(dict.fromkeys(turns))


class Retriever:
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

    def search_global(self, vector: Array, k: int, exclude: Collection[int] = ()) -> Shortlist:
        """The `k` nearest images by the global descriptor that are not excluded."""
        found = self._vector_store().search(vector, k + len(exclude)).by_id()
        kept = {i: score for i, score in found.items() if i not in exclude}
        return Shortlist(tuple(kept), tuple(kept.values())).best(k)

    def search_local(
        self, features: Features | None, k: int, neighbors: int, exclude: Collection[int] = ()
    ) -> Shortlist:
        """The `k` images that the local descriptors of a query vote for most, each by its nearest
        `neighbors`."""
        store = self._local_store()
        if features is None:
            return Shortlist((), ())
        return vote(store.search(features.descriptors, neighbors, exclude), store.rows).best(k)

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
                store = store.updated(self._catalog)
                # One that was mapped into memory only is read whole to be changed.
                if store is None and (stored := self._store.local.load(to_change=True)):
                    store = stored.updated(self._catalog, in_place=True)
            if store is None:
                log.info("there is no local search index; searching the catalogue itself")
                store = self._store.local.in_memory(self._catalog)
            self._local = store
            return store


def candidates(catalog: Catalog, found: SearchResult, vector: Array | None) -> list[Candidate]:
    """The images that were found, in their order, not verified yet. With the global descriptor of
    the query those that only the local search found get their similarity too."""
    similarities = found.by_global.by_id() if found.by_global else {}
    votes = found.by_local.by_id() if found.by_local else {}
    ids = found.image_ids
    if vector is not None:
        stored = catalog.vectors_of([i for i in ids if i not in similarities])
        similarities |= {i: float(other @ vector) for i, other in stored.items()}
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


def expanded(
    catalog: Catalog,
    vector: Array | None,
    ordered: Sequence[Candidate],
    search: Callable[[Array], Shortlist],
) -> list[Candidate]:
    """Average query expansion (Chum et al., "Total Recall", ICCV 2007): the candidates (`ordered`,
    matches first) that are not proven are ranked by their similarity to the global descriptor of the
    query (without one nothing changes) and those of its matches together; images that look like these
    join."""
    if vector is None:
        return list(ordered)
    matches = [c for c in ordered if c.verdict == MATCH]
    rest = {c.image_id: c for c in ordered[len(matches) :]}
    proven = {c.image_id for c in matches}
    vectors = catalog.vectors_of([*proven])
    together = np.sum([vector, *vectors.values()], axis=0)
    together /= np.linalg.norm(together)
    found = candidates(catalog, SearchResult(search(together), None), None)
    new = [c for c in found if c.image_id not in proven | rest.keys()]
    seen = catalog.vectors_of([c.image_id for c in (*rest.values(), *new)])

    def key(c: Candidate) -> tuple[int, float, float]:
        hinted = -score_of(c) if c.verdict == UNCERTAIN else 0.0
        return ORDER[c.verdict], hinted, -float(seen[c.image_id] @ together)

    # The similarity that is shown is that to the query itself, as for all others.
    new = [
        replace(c, similarity=float(seen[c.image_id] @ vector)) for c in new if c.image_id in seen
    ]
    return matches + sorted([*(c for c in rest.values() if c.image_id in seen), *new], key=key)
