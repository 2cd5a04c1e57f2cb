"""Scores of pairs or queries by several extractors, and what of their differences may be chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common.bootstrap import geometric_ratio, interval, mean_interval
from locate.metrics.common import mean_defined
from locate.types import Array
from pipelines.reports.report import Table

ALL = "all"


@dataclass(frozen=True)
class Row:
    """The scores of one pair or query, called `name`, by measure, NaN where there is none; `groups` that
    it belongs to, first a coarse one; and the `unit`, such as a photo, that may be drawn or not: rows of
    one unit do not tell more than one does."""

    groups: tuple[str, ...]
    name: str
    unit: str
    values: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        values = {key: None if math.isnan(x) else x for key, x in self.values.items()}
        return {"groups": list(self.groups), "name": self.name, "unit": self.unit, "values": values}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Row:
        known = {key: math.nan if x is None else float(x) for key, x in value["values"].items()}
        return Row(tuple(value["groups"]), value["name"], value["unit"], known)


Found = Mapping[str, Sequence[Row]]  # by extractor


def mean_table(title: str, found: Found, *, fine: bool = False) -> Table:
    """The means over all rows and over those of each group, the coarse ones unless `fine`."""
    measures = _measures(found)
    rows = []
    for group in _groups(found, fine):
        for name, all_rows in found.items():
            chosen = _in_group(all_rows, group)
            means = (mean_defined(_column(chosen, measure)) for measure in measures)
            rows.append((group, name, len(chosen), *means))
    return Table(title, ("group", "extractor", "count", *measures), tuple(rows))


def difference_table(title: str, found: Found, reference: str, main: Sequence[str]) -> Table:
    """How much better or worse than `reference` the others are, on the same rows, with 95 % intervals:
    of all rows in every measure, of the coarse groups in those that are `main`."""
    rows = []
    for group in _groups(found, fine=False):
        for measure in _measures(found):
            if group != ALL and measure not in main:
                continue
            for name in found:
                values, units = _paired(found, name, reference, group, measure)
                if name != reference and len(values):
                    rows.append((group, measure, name, len(values), *mean_interval(values, units)))
    columns = ("group", "measure", "extractor", "count", "difference", "from", "to")
    return Table(f"{title}: differences to {reference}, 95 % intervals", columns, tuple(rows))


def error_table(title: str, found: Found, reference: str) -> Table:
    """Medians of errors, by group, and their ratio to those of `reference` in the geometric mean over the
    same queries, with 95 % intervals over the queries; errors must be above 0."""
    rows = []
    for group in _groups(found, fine=False):
        for measure in _measures(found):
            theirs = _by_name(found[reference], measure)
            for name, all_rows in found.items():
                own = _by_name(_in_group(all_rows, group), measure)
                values = np.array(list(own.values()))
                both = [key for key in own if key in theirs]
                ends = (np.array([side[key] for key in both]) for side in (own, theirs))
                ratio = (None,) * 3 if name == reference else geometric_ratio(*ends)
                rows.append((group, measure, name, len(values), *interval(values), *ratio))
    columns = ("group", "error", "extractor", "count", "median", "from", "to")
    ratios = (f"of {reference}'s", "ratio from", "ratio to")
    return Table(f"{title}: medians, 95 % intervals", (*columns, *ratios), tuple(rows))


def _by_name(rows: Sequence[Row], measure: str) -> dict[str, float]:
    return {row.name: row.values[measure] for row in rows}


def noise(title: str, found: Found, reference: str) -> str:
    """A sentence: how far chance goes, half of the width of intervals over all rows; of differences to
    `reference` (the median of the extractors), or of its own means where it is alone."""
    others = [name for name in found if name != reference]
    what = f"a difference to {reference}" if others else f"what {reference} has"
    parts = []
    for measure in _measures(found):
        widths = []
        for name in others or [reference]:
            base = reference if others else None
            _, low, high = mean_interval(*_paired(found, name, base, ALL, measure))
            widths.append((high - low) / 2)
        parts.append(f"{measure} {median(widths):.3f}")
    return f"{title}: {what} is known to +- {', '.join(parts)} (95 %); what is less is noise."


def _paired(
    found: Found, name: str, reference: str | None, group: str, measure: str
) -> tuple[Array, Array]:
    """N differences, of the rows where both are defined, and their units; None for the values."""
    rows = _in_group(found[name], group)
    values = _column(rows, measure)
    if reference is not None:
        others = {row.name: row.values.get(measure, math.nan) for row in found[reference]}
        values = values - np.array([others.get(row.name, math.nan) for row in rows], np.float64)
    defined = np.isfinite(values)
    return values[defined], np.array([row.unit for row in rows])[defined]


def _column(rows: Sequence[Row], measure: str) -> Array:
    return np.array([row.values.get(measure, math.nan) for row in rows], np.float64)


def _in_group(rows: Sequence[Row], group: str) -> list[Row]:
    return [row for row in rows if group == ALL or group in row.groups]


def _groups(found: Found, fine: bool) -> list[str]:
    rows = [row for some in found.values() for row in some]
    if fine:
        return list(dict.fromkeys(group for row in rows for group in row.groups[1:]))
    coarse = list(dict.fromkeys(row.groups[0] for row in rows))
    return [ALL, *coarse] if len(coarse) > 1 else [ALL]


def _measures(found: Found) -> list[str]:
    rows = (row for some in found.values() for row in some)
    return list(dict.fromkeys(measure for row in rows for measure in row.values))
