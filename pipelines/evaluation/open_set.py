"""How the verdicts fare when some queries show places that are not in the database (negatives)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from locate.datasets.records import ALL, Query, RetrievalData
from locate.metrics.common import OpenSet, mean_defined, open_set
from locate.retrieval.verdict import MATCH
from locate.types import Array
from pipelines.evaluation.retrieval_database import QueryResult
from pipelines.reports.report import Curves, Table

RATE = 0.01  # of false accepts that the table allows


@dataclass(frozen=True)
class OpenSetRun:
    """What one extractor answered to photos of places that are in its database (None where nothing is
    verified), to the same with the images of their landmark excluded, and to photos of places that never
    were in it; by query id."""

    name: str
    known: Mapping[str, QueryResult] | None = None
    excluded: Mapping[str, QueryResult] = field(default_factory=dict)
    negatives: Sequence[QueryResult] = ()

    def answers(
        self, queries: Sequence[Query]
    ) -> tuple[list[QueryResult], Array, list[QueryResult]]:
        """(of the known, whether their strongest candidate is right, of the negatives)."""
        known = self.known or {}
        asked = [query for query in queries if query.id in known]
        # The strongest candidate of a match is the first, whose label is the answer.
        right = [known[q.id].strongest in q.truth[""].ok for q in asked]
        excluded = [self.excluded[q.id] for q in queries if q.id in self.excluded]
        negatives = [*excluded, *self.negatives]
        return [known[q.id] for q in asked], np.array(right, np.bool_), negatives


def open_set_table(data: RetrievalData, runs: Sequence[OpenSetRun]) -> Table:
    """How the verdicts fare, and what they could reach at 1 % of false accepts."""
    rows: list[tuple[Any, ...]] = []
    for run, group in product(runs, data.groups):
        row: tuple[Any, ...] = (None,) * 8
        if run.known is not None:
            known, right, negatives = run.answers(data.in_group(group))
            match, false = (
                np.array([result.verdict == MATCH for result in results], np.bool_)
                for results in (known, negatives)
            )
            best = _at(known, right, negatives, RATE)
            row = (
                *(len(known), len(negatives)),
                *map(mean_defined, (match & right, match & ~right, false)),
                *(best.right, best.wrong, best.threshold),
            )
        rows.append((run.name, group, *row))
    columns = (
        *("extractor", "queries", "known", "absent", "right match", "wrong match"),
        *("false match", "right at 1 %", "wrong at 1 %", "least evidence"),
    )
    title = "Open set: shares of the known and of the absent queries, by verdict and by evidence"
    return Table(title, columns, tuple(rows))


def open_set_curves(data: RetrievalData, runs: Sequence[OpenSetRun]) -> Curves:
    """Right answers against false accepts, from no false accept to all, over all queries."""
    series = {}
    for run in runs:
        known, right, negatives = run.answers(data.in_group(ALL))
        rates = np.arange(len(negatives) + 1) / max(len(negatives), 1)
        points = [_at(known, right, negatives, rate) for rate in rates]
        accepted = np.array([p.false_accepts for p in points])
        series[run.name] = (accepted, np.array([p.right for p in points]))
    x_label = "share of the queries of absent places that are accepted"
    y_label = "share of the known queries answered right"
    title = "Open set: right answers against false accepts"
    return Curves("open-set", title, x_label, y_label, series)


def _at(
    known: Sequence[QueryResult], right: Array, negatives: Sequence[QueryResult], rate: float
) -> OpenSet:
    evidence = (np.array([result.evidence for result in part]) for part in (known, negatives))
    return open_set(next(evidence), right, next(evidence), rate)
