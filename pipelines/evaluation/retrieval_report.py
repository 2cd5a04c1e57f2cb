"""What an evaluation of retrieval found out so far, and the report that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from locate.datasets.google_landmarks import Predictions
from locate.datasets.records import RetrievalData
from pipelines.evaluation.open_set import OpenSetRun, open_set_curves, open_set_table
from pipelines.evaluation.retrieval_scores import (
    Run,
    ranking_curves,
    ranking_tables,
    recognition_table,
)
from pipelines.reports.report import Curves, Report, Table


@dataclass
class RetrievalResults:
    """What was asked of all extractors so far."""

    runs: list[Run] = field(default_factory=list)
    open_set: list[OpenSetRun | tuple[str, None]] = field(default_factory=list)
    recognition: list[tuple[str, str, Predictions | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def report(data: RetrievalData, measured: RetrievalResults, settings: Mapping[str, Any]) -> Report:
    tables: tuple[Table, ...] = ()
    curves: tuple[Curves, ...] = ()
    if measured.runs:
        tables += ranking_tables(data, measured.runs)
        curves += ranking_curves(data, measured.runs)
    if measured.recognition:
        tables += (recognition_table(data, measured.recognition),)
    if measured.open_set:
        tables += (open_set_table(data, measured.open_set),)
        answered = [run for run in measured.open_set if isinstance(run, OpenSetRun)]
        curves += (open_set_curves(data, answered),) if answered else ()
    notes = tuple(dict.fromkeys(measured.notes))  # two extractors fail on the same photo
    return Report("retrieval", settings, tables, curves, notes)
