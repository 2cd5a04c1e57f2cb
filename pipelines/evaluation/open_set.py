"""How the verdicts fare when some queries show places that are not in the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from locate.datasets.records import RetrievalData
from locate.metrics.common import mean_defined, open_set
from locate.retrieval.verdict import MATCH
from locate.types import Array
from pipelines.evaluation.retrieval_database import QueryResult
from pipelines.evaluation.retrieval_scores import ALL, groups, in_group
from pipelines.reports.report import Curves, Table

RATE = 0.01  # of false accepts that the table allows


@dataclass(frozen=True)
class OpenSetRun:
    """What one extractor answered to photos of places that are in its database, and of others.

    Attributes:
        known: by query id, those of landmarks that are in the database.
        absent: by query id, with the images of their landmark left out.
        foreign: to photos of places that never were in it.
    """

    name: str
    known: Mapping[str, QueryResult]
    absent: Mapping[str, QueryResult]
    foreign: Sequence[QueryResult] = ()


def open_set_table(data: RetrievalData, runs: Sequence[OpenSetRun | tuple[str, None]]) -> Table:
    """How the verdicts fare, and what they could reach at 1 % of false accepts."""
    columns = (
        "extractor",
        "queries",
        "known",
        "absent",
        "right match",
        "wrong match",
        "false match",
        "right at 1 %",
        "wrong at 1 %",
        "least evidence",
    )
    rows: list[tuple[Any, ...]] = []
    for run in runs:
        for group in groups(data):
            if not isinstance(run, OpenSetRun):
                rows.append((run[0], group, *[None] * 8))
                continue
            known, right, absent = _evidence(data, run, group)
            match = _is_match(_results(data, run.known, group))
            false = _is_match([*_results(data, run.absent, group), *run.foreign])
            best = open_set(known, right, absent, RATE)
            rows.append(
                (
                    run.name,
                    group,
                    len(known),
                    len(absent),
                    mean_defined(match & right),
                    mean_defined(match & ~right),
                    mean_defined(false),
                    best.right,
                    best.wrong,
                    best.threshold,
                )
            )
    title = "Open set: shares of the known and of the absent queries, by verdict and by evidence"
    return Table(title, columns, tuple(rows))


def open_set_curves(data: RetrievalData, runs: Sequence[OpenSetRun]) -> Curves:
    """Right answers against false accepts, from no false accept to all, over all queries."""
    series = {}
    for run in runs:
        known, right, absent = _evidence(data, run, ALL)
        rates = np.arange(len(absent) + 1) / max(len(absent), 1)
        points = [open_set(known, right, absent, rate) for rate in rates]
        series[run.name] = (
            np.array([p.false_accepts for p in points]),
            np.array([p.right for p in points]),
        )
    return Curves(
        name="open-set",
        title="Open set: right answers against false accepts",
        x_label="share of the queries of absent places that are accepted",
        y_label="share of the known queries answered right",
        series=series,
    )


def _results(
    data: RetrievalData, results: Mapping[str, QueryResult], group: str
) -> list[QueryResult]:
    return [results[query.id] for query in in_group(data, group) if query.id in results]


def _evidence(data: RetrievalData, run: OpenSetRun, group: str) -> tuple[Array, Array, Array]:
    """(evidence of the known, whether their strongest candidate is right, evidence of the absent)."""
    asked = [query for query in in_group(data, group) if query.id in run.known]
    results = [run.known[query.id] for query in asked]
    # The strongest candidate of a match is the first, whose label is the answer.
    right = [r.strongest in q.truth[""].ok for q, r in zip(asked, results, strict=True)]
    absent = [*_results(data, run.absent, group), *run.foreign]
    return (
        np.array([result.evidence for result in results], np.float64),
        np.array(right, np.bool_),
        np.array([result.evidence for result in absent], np.float64),
    )


def _is_match(results: Sequence[QueryResult]) -> Array:
    return np.array([result.verdict == MATCH for result in results], np.bool_)
