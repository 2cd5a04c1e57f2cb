"""Errors of camera poses as tables and curves.

A query that was not localized has infinite errors and stays in every denominator. Positions are told in
metres and centimetres where a scene is metric, and relative to its depth where that is known; the unit
of a scene that is not metric cancels out there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from locate.metrics.common import mean_defined
from locate.metrics.pose import OUTDOOR, SEVEN_SCENES, Thresholds, median_errors
from locate.metrics.pose import pose_recall as share_within
from locate.types import Array
from pipelines.reports.report import Curves, Table

# (metres, degrees): finer ones for small scenes of good cameras, then those of the benchmarks
FINE: Thresholds = ((0.005, 0.05), (0.01, 0.1), (0.02, 0.2), (0.05, 0.5))
THRESHOLDS: Thresholds = (*FINE, *SEVEN_SCENES, *OUTDOOR)
# (share of the scene's depth, degrees)
RELATIVE: Thresholds = ((0.0005, 0.05), (0.001, 0.1), (0.002, 0.2), (0.005, 0.5), (0.05, 5.0))

_POSITIONS = np.geomspace(1e-4, 10.0, 201)  # metres
_SHARES = np.geomspace(1e-5, 1.0, 201)  # of the depth
_ANGLES = np.geomspace(1e-3, 180.0, 201)  # degrees


@dataclass(frozen=True, eq=False)
class Outcome:
    """How one system fared in one scene.

    Attributes:
        system: the name of the extractor, localizer or file.
        scene: its name.
        positions: Q errors in the unit of the scene; infinite for a query that was not localized.
        rotations: Q errors in degrees likewise.
        metric: the unit of the scene is the metre.
        depth: how far from the cameras the scene lies, in its unit; NaN where that is not known.
    """

    system: str
    scene: str
    positions: Array
    rotations: Array
    metric: bool = True
    depth: float = float("nan")

    @property
    def metres(self) -> Array:
        """Q errors in metres; NaN in a scene that is not metric."""
        return self.positions if self.metric else np.full(len(self.positions), np.nan)

    @property
    def shares(self) -> Array:
        """Q errors as shares of the scene's depth; NaN where that is not known."""
        known = self.depth > 0
        return self.positions / self.depth if known else np.full(len(self.positions), np.nan)


@dataclass(frozen=True, eq=False)
class _Row:
    system: str
    scene: str
    metres: Array
    shares: Array
    rotations: Array
    depth: float


def pose_tables(outcomes: Sequence[Outcome], thresholds: Thresholds = THRESHOLDS) -> list[Table]:
    """Errors, recall in metres, and recall relative to depth where one is known.

    Rows are by system and scene; where there are several scenes, "all metric" pools the queries of the
    metric ones, and "all" those of all if some are not metric.
    """
    rows = _rows(outcomes)
    tables = [_errors(rows)]
    if any(outcome.metric for outcome in outcomes):
        names = [f"{_length(x)} {_number(y)}°" for x, y in thresholds]
        tables.append(
            _recall(
                "Share of the queries within both a distance and an angle",
                rows,
                thresholds,
                names,
                lambda r: r.metres,
            )
        )
    if any(outcome.depth > 0 for outcome in outcomes):
        names = [f"{_number(100 * x)} % {_number(y)}°" for x, y in RELATIVE]
        title = "Share of the queries within % of the scene's depth and degrees"
        tables.append(_recall(title, rows, RELATIVE, names, lambda r: r.shares))
    return tables


def pose_curves(outcomes: Sequence[Outcome]) -> list[Curves]:
    """Cumulative share of the queries over position error (in metres, and relative to depth where one is
    known) and over rotation error; one series a system, all scenes pooled."""
    kinds: tuple[tuple[str, str, Array, Callable[[Outcome], Array]], ...] = (
        ("position", "position error [m]", _POSITIONS, lambda o: o.metres),
        ("relative", "position error / depth of the scene", _SHARES, lambda o: o.shares),
        ("rotation", "rotation error [degrees]", _ANGLES, lambda o: o.rotations),
    )
    plots = []
    for kind, label, grid, errors_of in kinds:
        series = {}
        for system in dict.fromkeys(outcome.system for outcome in outcomes):
            errors = np.concatenate([errors_of(o) for o in outcomes if o.system == system])
            errors = errors[~np.isnan(errors)]
            if len(errors):
                series[system] = (grid, (errors[:, None] <= grid).mean(axis=0))
        if series:
            name, title = f"localization-{kind}", f"Queries by {label.split(' [')[0]}"
            plots.append(Curves(name, title, label, "share of the queries", series, x_log=True))
    return plots


def _rows(outcomes: Sequence[Outcome]) -> list[_Row]:
    by_system: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_system.setdefault(outcome.system, []).append(outcome)
    rows: list[_Row] = []
    for system, own in by_system.items():
        rows += [_pool(system, o.scene, [o]) for o in own]
        metric = [o for o in own if o.metric]
        if len(metric) > 1:
            rows.append(_pool(system, "all metric", metric))
        if len(metric) < len(own) > 1:
            rows.append(_pool(system, "all", own))
    return rows


def _pool(system: str, scene: str, outcomes: Sequence[Outcome]) -> _Row:
    def join(errors_of: Callable[[Outcome], Array]) -> Array:
        return np.concatenate([errors_of(outcome) for outcome in outcomes])

    return _Row(
        system,
        scene,
        join(lambda o: o.metres),
        join(lambda o: o.shares),
        join(lambda o: o.rotations),
        outcomes[0].depth if len(outcomes) == 1 else float("nan"),
    )


def _errors(rows: Sequence[_Row]) -> Table:
    columns: Mapping[str, Callable[[_Row], Any]] = {
        "queries": lambda r: len(r.rotations),
        "localized": lambda r: mean_defined(np.isfinite(r.rotations)),
        "median m": lambda r: _median(r.metres),
        "median cm": lambda r: 100 * _median(r.metres),
        "median % of depth": lambda r: 100 * _median(r.shares),
        "median degrees": lambda r: median_errors(r.rotations, r.rotations)[1],
        "depth": lambda r: r.depth,
    }
    return Table(
        "Errors of position and rotation (medians over all queries; depth in the unit of the scene)",
        ("system", "scene", *columns),
        tuple((r.system, r.scene, *(value(r) for value in columns.values())) for r in rows),
        digits=4,
    )


def _recall(
    title: str,
    rows: Sequence[_Row],
    thresholds: Thresholds,
    names: Sequence[str],
    errors_of: Callable[[_Row], Array],
) -> Table:
    body = tuple(
        (row.system, row.scene, *share_within(errors_of(row), row.rotations, thresholds).tolist())
        for row in rows
        if not np.isnan(errors_of(row)).any()
    )
    return Table(title, ("system", "scene", *names), body)


def _median(errors: Array) -> float:
    """Of Q errors that may be infinite; NaN if any is not defined: of scenes some of which have no such
    errors there is no honest median."""
    return float("nan") if np.isnan(errors).any() else median_errors(errors, errors)[0]


def _length(metres: float) -> str:
    return f"{_number(metres)} m" if metres >= 0.2 else f"{_number(100 * metres)} cm"


def _number(value: float) -> str:
    return f"{value:.6g}"
