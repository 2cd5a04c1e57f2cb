"""Average query expansion: what is proven helps to rank what is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from index.catalog import Catalog
from locate.retrieval.ranking import ORDER, score_of
from locate.retrieval.verdict import MATCH, UNCERTAIN
from locate.types import Array, Candidate, Shortlist
from pipelines.retrieval.search import SearchResult, candidates


def expanded(
    catalog: Catalog,
    vector: Array | None,
    ordered: Sequence[Candidate],
    search: Callable[[Array], Shortlist],
) -> list[Candidate]:
    """Chum et al., "Total Recall", ICCV 2007: what is not proven is ranked by its global similarity
    to the query and its proven matches together, and images that look like these join. What is
    proven stays on top.

    Args:
        vector: the global descriptor of the query; without one nothing changes.
        ordered: candidates, matches first.
        search: the one by a global descriptor.
    """
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
