"""From rankings and ground truth to the tables and curves of a retrieval report."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from locate.datasets.google_landmarks import RETRIEVAL, Predictions
from locate.datasets.oxford_paris import OXFORD, REVISITED
from locate.datasets.records import ALL, Query, Rankings, RetrievalData
from locate.datasets.retrieval import LABELS, PLACES
from locate.metrics.common import OpenSet, average_precision, mean_defined, open_set
from locate.metrics.retrieval import (
    PRECISION_AT,
    RECALL_AT,
    global_average_precision,
    google_mean_average_precision,
    recall_at,
    revisited_average_precision,
    revisited_precision_at,
)
from locate.retrieval.verdict import MATCH
from locate.types import Array
from pipelines.evaluation.retrieval_database import QueryResult
from pipelines.reports.report import Curves, Report, Table

RATE = 0.01  # of false accepts that the table allows
_RECALL_LEVELS = np.linspace(0, 1, 11)


@dataclass(frozen=True)
class Run:
    """Rankings of one extractor before or after verification (`stage`), by level; None where it
    cannot give any. A query that is not among them is left out of all means."""

    name: str
    stage: str
    rankings: Mapping[str, Rankings] | None


def ranking_table(data: RetrievalData, runs: Sequence[Run]) -> Table:
    """The scores that the layout's own protocol asks for."""
    columns, score, title = _PROTOCOLS[data.layout]
    grouped, leveled = data.groups != [ALL], data.levels != ("",)
    rows = []
    for run, group, level in product(runs, data.groups, data.levels):
        # A query that could not be asked counts nowhere.
        asked = None if run.rankings is None else run.rankings[level]
        queries = [q for q in data.in_group(group) if asked is None or q.id in asked]
        values = [None] * len(columns) if asked is None else score(queries, asked, level)
        key = (run.name, run.stage, *[group] * grouped, *[level] * leveled)
        rows.append((*key, sum(bool(q.truth[level].ok) for q in queries), *values))
    names = ("extractor", "ranking", *["queries"] * grouped, *["level"] * leveled, "count")
    return Table(title, (*names, *columns), tuple(rows))


def recognition_table(
    data: RetrievalData, runs: Sequence[tuple[str, str, Predictions | None]]
) -> Table:
    """GAP, and the share of photos with a landmark whose landmark was named, of (extractor, stage,
    predictions)."""
    rows = []
    for (name, stage, predictions), group in product(runs, data.groups):
        solution = {query.id: query.landmarks for query in data.in_group(group)}
        row: tuple[Any, ...] = (None, None)
        if predictions is not None:
            own = {i: p for i, p in predictions.items() if i in solution}
            right = [i in own and own[i][0] in shown for i, shown in solution.items() if shown]
            row = (global_average_precision(own, solution), mean_defined(np.array(right)))
        rows.append((name, stage, group, len(solution), sum(map(bool, solution.values())), *row))
    columns = ("extractor", "ranking", "queries", "count", "with landmark", "GAP", "right")
    return Table("Landmark recognition (GAP)", columns, tuple(rows))


def ranking_curves(data: RetrievalData, runs: Sequence[Run]) -> tuple[Curves, ...]:
    """Precision over recall; for places, recall over the length of the list."""
    places = data.layout == PLACES
    if data.layout not in (PLACES, LABELS, OXFORD, REVISITED):
        return ()  # their rankings stop at 100
    at = range(1, max(RECALL_AT) + 1)
    plots = []
    for level in data.levels:
        series = {}
        for run in runs:
            if run.rankings is None:
                continue
            asked, label = run.rankings[level], f"{run.name}, {run.stage}"
            queries = [query for query in data.queries if query.id in asked]
            relevant, positives = _judged(queries, asked, level)
            if places:
                series[label] = (np.array(at), recall_at(relevant, np.array(positives) > 0, at))
                continue
            rows = [eleven_points(r, n) for r, n in zip(relevant, positives, strict=True) if n]
            if rows:
                series[label] = (_RECALL_LEVELS, np.mean(rows, axis=0))
        if places:
            title = "Queries with a photo of their place among the first N"
            plots.append(Curves("recall", title, "N", "recall@N", series))
            continue
        name = f"precision-recall-{level}" if level else "precision-recall"
        title = f"Interpolated precision, mean over the queries{level and f' ({level})'}"
        plots.append(Curves(name, title, "recall", "precision", series))
    return tuple(plots)


def eleven_points(relevant: Array, positives: int) -> Array:
    """The interpolated precision of one ranking (bool, junk taken out) at the recalls 0, .1, ... 1
    (TREC, PASCAL VOC 2007): p(r) is the highest precision at any rank whose recall is at least r; 0
    if no rank's is. At least one of the `positives` exists, ranked or not."""
    relevant = np.asarray(relevant, np.bool_)
    hits = np.flatnonzero(relevant)
    found = np.arange(1, len(hits) + 1)
    precision = found / (hits + 1)
    # found / positives >= r in whole numbers: 3 / 10 is less than .3 in some roundings.
    reached = 10 * found[None] >= np.arange(11)[:, None] * positives
    return np.asarray(np.where(reached, precision[None], 0.0).max(axis=1, initial=0.0))


def _judged(
    queries: Sequence[Query], rankings: Rankings, level: str
) -> tuple[list[Array], list[int]]:
    """(what is relevant in the ranking of each query, how many positives it has)."""
    asked = [(rankings[query.id], query.truth[level]) for query in queries]
    return (
        [np.array([i in t.ok for i in found if i not in t.junk], np.bool_) for found, t in asked],
        [len(truth.ok) for _, truth in asked],
    )


def _score_labels(queries: Sequence[Query], rankings: Rankings, level: str) -> list[float]:
    rows, positives = _judged(queries, rankings, level)
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


_PRECISIONS = ("mAP", *(f"mP@{n}" for n in PRECISION_AT))
_RECALLS = tuple(f"R@{n}" for n in RECALL_AT)
# by layout: columns, what scores them, title
_PROTOCOLS: Mapping[str, tuple[tuple[str, ...], Any, str]] = {
    LABELS: (("mAP", *_RECALLS), _score_labels, "Retrieval"),
    OXFORD: (_PRECISIONS, _score_oxford, "Retrieval on Oxford5k or Paris6k"),
    REVISITED: (_PRECISIONS, _score_oxford, "Retrieval on ROxford5k or RParis6k"),
    RETRIEVAL: (("mAP@100",), _score_google, "Retrieval on Google Landmarks"),
    PLACES: (_RECALLS, lambda *asked: _score_labels(*asked)[1:], "Place recognition within 25 m"),
}


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


@dataclass
class RetrievalResults:
    """What was asked of all extractors so far."""

    runs: list[Run] = field(default_factory=list)
    open_set: list[OpenSetRun] = field(default_factory=list)
    recognition: list[tuple[str, str, Predictions | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def report(self, data: RetrievalData, settings: Mapping[str, Any]) -> Report:
        tables: list[Table] = []
        curves: list[Curves] = []
        if self.runs:
            tables.append(ranking_table(data, self.runs))
            curves += ranking_curves(data, self.runs)
        if self.recognition:
            tables.append(recognition_table(data, self.recognition))
        if self.open_set:
            tables.append(open_set_table(data, self.open_set))
        if answered := [run for run in self.open_set if run.known is not None]:
            curves.append(open_set_curves(data, answered))
        notes = tuple(dict.fromkeys(self.notes))  # two extractors fail on the same photo
        return Report("retrieval", settings, tuple(tables), tuple(curves), notes)
