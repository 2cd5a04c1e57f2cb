"""From rankings and ground truth to the tables and curves of a retrieval report."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from locate.datasets.google_landmarks import RETRIEVAL, Predictions
from locate.datasets.oxford_paris import OXFORD, REVISITED
from locate.datasets.records import Query, Rankings, RetrievalData, Truth
from locate.datasets.retrieval import LABELS, PLACES
from locate.metrics.common import average_precision, mean_defined
from locate.metrics.retrieval import (
    PRECISION_AT,
    RECALL_AT,
    global_average_precision,
    google_mean_average_precision,
    recall_at,
    revisited_average_precision,
    revisited_precision_at,
)
from locate.types import Array
from pipelines.reports.report import Curves, Table

ALL = "all"
_RECALL_LEVELS = np.linspace(0, 1, 11)


@dataclass(frozen=True)
class Run:
    """Rankings of one extractor.

    Attributes:
        name: of the extractor.
        stage: "before verification", ...
        rankings: by level; None where the extractor cannot give any. A query that is not among them is
            left out of all means.
    """

    name: str
    stage: str
    rankings: Mapping[str, Rankings] | None


def ranking_tables(data: RetrievalData, runs: Sequence[Run]) -> tuple[Table, ...]:
    """The scores that the layout's own protocol asks for."""
    columns, score, title = _PROTOCOLS[data.layout]
    grouped = len(groups(data)) > 1 or groups(data)[0] != ALL
    leveled = data.levels != ("",)
    names = [
        "extractor",
        "ranking",
        *(["queries"] if grouped else []),
        *(["level"] if leveled else []),
        "count",
        *columns,
    ]
    rows = []
    for run in runs:
        for group in groups(data):
            for level in data.levels:
                # A query that could not be asked counts nowhere.
                asked = None if run.rankings is None else run.rankings[level]
                queries = [q for q in in_group(data, group) if asked is None or q.id in asked]
                values: Sequence[Any] = [None] * len(columns)
                if asked is not None:
                    values = score(queries, asked, level)
                rows.append(
                    (
                        run.name,
                        run.stage,
                        *([group] if grouped else []),
                        *([level] if leveled else []),
                        sum(bool(query.truth[level].ok) for query in queries),
                        *values,
                    )
                )
    return (Table(title, tuple(names), tuple(rows)),)


def recognition_table(
    data: RetrievalData, runs: Sequence[tuple[str, str, Predictions | None]]
) -> Table:
    """GAP, and the share of photos with a landmark whose landmark was named.

    Args:
        runs: (extractor, stage, predictions).
    """
    rows = []
    for name, stage, predictions in runs:
        for group in groups(data):
            queries = in_group(data, group)
            solution = {query.id: query.landmarks for query in queries}
            row: tuple[Any, ...] = (None, None)
            if predictions is not None:
                own = {i: p for i, p in predictions.items() if i in solution}
                right = [i in own and own[i][0] in shown for i, shown in solution.items() if shown]
                row = (global_average_precision(own, solution), mean_defined(np.array(right)))
            landmarks = sum(bool(query.landmarks) for query in queries)
            rows.append((name, stage, group, len(queries), landmarks, *row))
    columns = ("extractor", "ranking", "queries", "count", "with landmark", "GAP", "right")
    return Table("Landmark recognition (GAP)", columns, tuple(rows))


def ranking_curves(data: RetrievalData, runs: Sequence[Run]) -> tuple[Curves, ...]:
    """Precision over recall; for places, recall over the length of the list."""
    if data.layout == PLACES:
        return (_recall_curve(data, runs),)
    if data.layout not in (LABELS, OXFORD, REVISITED):
        return ()  # their rankings stop at 100
    plots = []
    for level in data.levels:
        series = {}
        for run in runs:
            if run.rankings is None:
                continue
            asked = run.rankings[level]
            rows = [
                eleven_points(_relevant(asked[q.id], q.truth[level]), len(q.truth[level].ok))
                for q in data.queries
                if q.id in asked and q.truth[level].ok
            ]
            if rows:
                series[f"{run.name}, {run.stage}"] = (_RECALL_LEVELS, np.mean(rows, axis=0))
        ending = f"-{level}" if level else ""
        plots.append(
            Curves(
                name=f"precision-recall{ending}",
                title=f"Interpolated precision, mean over the queries{level and f' ({level})'}",
                x_label="recall",
                y_label="precision",
                series=series,
            )
        )
    return tuple(plots)


def eleven_points(relevant: Array, positives: int) -> Array:
    """The interpolated precision of one ranking at the recalls 0, .1, ... 1 (TREC, PASCAL VOC 2007).

    p(r) is the highest precision at any rank whose recall is at least r; 0 if no rank's is.

    Args:
        relevant: bool in the order of the ranking, junk taken out.
        positives: how many exist, ranked or not; at least 1.

    Returns:
        11 numbers.
    """
    relevant = np.asarray(relevant, np.bool_)
    hits = np.flatnonzero(relevant)
    found = np.arange(1, len(hits) + 1)
    precision = found / (hits + 1)
    # found / positives >= r in whole numbers: 3 / 10 is less than .3 in some roundings.
    reached = 10 * found[None] >= np.arange(11)[:, None] * positives
    return np.asarray(np.where(reached, precision[None], 0.0).max(axis=1, initial=0.0))


def groups(data: RetrievalData) -> list[str]:
    """The kinds of queries in the order of the alphabet, then all of them if there are several."""
    kinds = sorted({query.group for query in data.queries})
    if kinds == [""]:
        return [ALL]
    return kinds if len(kinds) == 1 else [*kinds, ALL]


def in_group(data: RetrievalData, group: str) -> list[Query]:
    return [query for query in data.queries if group in (ALL, query.group)]


def _relevant(ranking: Sequence[str], truth: Truth) -> Array:
    return np.array([i in truth.ok for i in ranking if i not in truth.junk], np.bool_)


def _score_labels(queries: Sequence[Query], rankings: Rankings, level: str) -> list[float]:
    rows = [_relevant(rankings[query.id], query.truth[level]) for query in queries]
    positives = [len(query.truth[level].ok) for query in queries]
    precisions = [average_precision(r, n) for r, n in zip(rows, positives, strict=True)]
    return [mean_defined(np.array(precisions)), *recall_at(rows, np.array(positives) > 0).tolist()]


def _score_oxford(queries: Sequence[Query], rankings: Rankings, level: str) -> list[float]:
    asked = [(rankings[q.id], q.truth[level].ok, q.truth[level].junk) for q in queries]
    precisions = [revisited_average_precision(*lists) for lists in asked]
    at = np.array([revisited_precision_at(*lists) for lists in asked]).reshape(-1, 3)
    return [mean_defined(np.array(precisions)), *(mean_defined(column) for column in at.T)]


def _score_google(queries: Sequence[Query], rankings: Rankings, level: str) -> list[float]:
    solution: dict[Hashable, frozenset[str]] = {q.id: q.truth[level].ok for q in queries}
    return [google_mean_average_precision({q.id: rankings[q.id] for q in queries}, solution)]


def _score_places(queries: Sequence[Query], rankings: Rankings, level: str) -> list[float]:
    return _score_labels(queries, rankings, level)[1:]


_PROTOCOLS: Mapping[str, tuple[tuple[str, ...], Any, str]] = {
    LABELS: (("mAP", *(f"R@{n}" for n in RECALL_AT)), _score_labels, "Retrieval"),
    OXFORD: (
        ("mAP", *(f"mP@{n}" for n in PRECISION_AT)),
        _score_oxford,
        "Retrieval on Oxford5k or Paris6k",
    ),
    REVISITED: (
        ("mAP", *(f"mP@{n}" for n in PRECISION_AT)),
        _score_oxford,
        "Retrieval on ROxford5k or RParis6k",
    ),
    RETRIEVAL: (("mAP@100",), _score_google, "Retrieval on Google Landmarks"),
    PLACES: (
        tuple(f"R@{n}" for n in RECALL_AT),
        _score_places,
        "Place recognition within 25 m",
    ),
}


def _recall_curve(data: RetrievalData, runs: Sequence[Run]) -> Curves:
    at = range(1, max(RECALL_AT) + 1)
    series = {}
    for run in runs:
        if run.rankings is None:
            continue
        (asked,) = run.rankings.values()
        queries = [query for query in data.queries if query.id in asked]
        rows = [_relevant(asked[query.id], query.truth[""]) for query in queries]
        has_positive = np.array([bool(query.truth[""].ok) for query in queries])
        series[f"{run.name}, {run.stage}"] = (np.array(at), recall_at(rows, has_positive, at))
    return Curves(
        name="recall",
        title="Queries with a photo of their place among the first N",
        x_label="N",
        y_label="recall@N",
        series=series,
    )
