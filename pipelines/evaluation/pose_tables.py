"""Errors of camera poses as tables and curves, and poses in a file judged by those of a scene.

A query that was not localized has infinite errors and stays in every denominator. Positions are told in
metres and centimetres where a scene is metric, and relative to its depth where that is known; the unit
of a scene that is not metric cancels out there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from locate.errors import InputError
from locate.formats.text import read_lines
from locate.formats.trajectories import guess_format, pair_names, read_poses
from locate.metrics.common import mean_defined
from locate.metrics.pose import (
    OUTDOOR,
    SEVEN_SCENES,
    Thresholds,
    median_errors,
    pose_errors,
    pose_recall,
)
from locate.types import Array
from pipelines.reports.report import Curves, Report, Table

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
    """How one system (extractor, localizer or file) fared in one scene: Q errors of `positions` in the
    unit of the scene, which is the metre if `metric`, and of `rotations` in degrees; infinite where
    not localized. `depth` is how far from the cameras the scene lies; NaN where that is not known."""

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


_Row = tuple[str, str, list[Outcome]]  # system, scene, the outcomes that are pooled


def pose_tables(outcomes: Sequence[Outcome], thresholds: Thresholds = THRESHOLDS) -> list[Table]:
    """Errors, recall in metres, and recall relative to depth where one is known.

    Rows are by system and scene; where there are several scenes, "all metric" pools the queries of the
    metric ones, and "all" those of all if some are not metric.
    """
    rows = _rows(outcomes)
    tables = [_errors(rows)]
    if any(outcome.metric for outcome in outcomes):
        lengths = [f"{x:.6g} m" if x >= 0.2 else f"{100 * x:.6g} cm" for x, _ in thresholds]
        names = [f"{x} {y:.6g}°" for x, (_, y) in zip(lengths, thresholds, strict=True)]
        title = "Share of the queries within both a distance and an angle"
        tables.append(_recall(title, rows, thresholds, names, "metres"))
    if any(outcome.depth > 0 for outcome in outcomes):
        names = [f"{100 * x:.6g} % {y:.6g}°" for x, y in RELATIVE]
        title = "Share of the queries within % of the scene's depth and degrees"
        tables.append(_recall(title, rows, RELATIVE, names, "shares"))
    return tables


def pose_curves(outcomes: Sequence[Outcome]) -> list[Curves]:
    """Cumulative share of the queries over position error (in metres, and relative to depth where one is
    known) and over rotation error; one series a system, all scenes pooled."""
    plots = []
    for kind, label, grid, of in (
        ("position", "position error [m]", _POSITIONS, "metres"),
        ("relative", "position error / depth of the scene", _SHARES, "shares"),
        ("rotation", "rotation error [degrees]", _ANGLES, "rotations"),
    ):
        series = {}
        for system in dict.fromkeys(outcome.system for outcome in outcomes):
            errors = _pooled([o for o in outcomes if o.system == system], of)
            errors = errors[~np.isnan(errors)]
            if len(errors):
                series[system] = (grid, (errors[:, None] <= grid).mean(axis=0))
        if series:
            name, title = f"localization-{kind}", f"Queries by {label.split(' [')[0]}"
            plots.append(Curves(name, title, label, "share of the queries", series, x_log=True))
    return plots


def _rows(outcomes: Sequence[Outcome]) -> list[_Row]:
    rows: list[_Row] = []
    for system in dict.fromkeys(outcome.system for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.system == system]
        rows += [(system, o.scene, [o]) for o in own]
        metric = [o for o in own if o.metric]
        if len(metric) > 1:
            rows.append((system, "all metric", metric))
        if len(metric) < len(own) > 1:
            rows.append((system, "all", own))
    return rows


def _pooled(outcomes: Sequence[Outcome], of: str) -> Array:
    """The errors of all queries; `of` names an attribute of the outcomes."""
    return np.concatenate([getattr(outcome, of) for outcome in outcomes])


def _errors(rows: Sequence[_Row]) -> Table:
    columns = ("queries", "localized", "median m", "median cm", "median % of depth")
    body = []
    for system, scene, own in rows:
        metres, shares, rotations = (_pooled(own, of) for of in ("metres", "shares", "rotations"))
        median = _median(metres)
        body.append(
            (
                *(system, scene, len(rotations), mean_defined(np.isfinite(rotations))),
                *(median, 100 * median, 100 * _median(shares)),
                median_errors(rotations, rotations)[1],
                own[0].depth if len(own) == 1 else float("nan"),
            )
        )
    return Table(
        "Errors of position and rotation (medians over all queries; depth in the unit of the scene)",
        ("system", "scene", *columns, "median degrees", "depth"),
        tuple(body),
        digits=4,
    )


def _recall(
    title: str, rows: Sequence[_Row], thresholds: Thresholds, names: Sequence[str], of: str
) -> Table:
    body = []
    for system, scene, own in rows:
        errors = _pooled(own, of)
        if not np.isnan(errors).any():
            recall = pose_recall(errors, _pooled(own, "rotations"), thresholds)
            body.append((system, scene, *recall.tolist()))
    return Table(title, ("system", "scene", *names), tuple(body))


def _median(errors: Array) -> float:
    """Of Q errors that may be infinite; NaN if any is not defined: of scenes some of which have no such
    errors there is no honest median."""
    return float("nan") if np.isnan(errors).any() else median_errors(errors, errors)[0]


def evaluate_pose_file(
    result: Path,
    truth: Path,
    *,
    thresholds: Thresholds = THRESHOLDS,
    queries: Path | None = None,
    result_format: str = "auto",
    truth_format: str = "auto",
    metric: bool = True,
) -> Report:
    """Judge a file of poses against the true ones. A query that has no pose in it counts as not
    localized; a pose of no query is noted and left out. Names may lack folders, see `pair_names`.

    Args:
        truth: the folder of a COLMAP model (text or binary) or a file of poses, in metres if `metric`.
        thresholds: (metres, degrees).
        queries: a text file whose lines begin with the names of the queries; None for all of the truth.
        result_format, truth_format: a name of `FORMATS`, or "auto".
    """
    true = read_poses(truth, truth_format)
    names = list(true) if queries is None else read_names(queries)
    missing = [name for name in names if name not in true]
    if missing or not names:
        named = ", ".join(missing[:5]) or "none"
        raise InputError(f"{truth} lacks the true pose of queries: {named}; check the names")
    found = read_poses(result, result_format)
    pairs = pair_names(list(found), names)
    if not pairs:
        example = next(iter(found), "nothing")
        raise InputError(f"{result}: no name is that of a query ({example}, {names[0]})")
    poses = {full: found[name] for name, full in pairs.items()}
    positions, rotations = pose_errors([poses.get(n) for n in names], [true[n] for n in names])
    outcome = Outcome(result.name, truth.name, positions, rotations, metric)
    notes = []
    if len(poses) < len(names):
        cure = "" if queries else "; if some of them are images of the map, give a list of queries"
        notes.append(f"{len(names) - len(poses)} of {len(names)} queries have no pose{cure}")
    if len(found) > len(pairs):
        notes.append(f"{len(found) - len(pairs)} poses of {result.name} are of no query")
    files = ((result, result_format), (truth, truth_format))
    settings = {
        "result": result.name,
        "truth": truth.name,
        "formats": [guess_format(path) if form == "auto" else form for path, form in files],
        "queries": queries.name if queries else "all",
    }
    tables, curves = pose_tables([outcome], thresholds), pose_curves([outcome])
    return Report("localization", settings, tuple(tables), tuple(curves), tuple(notes))


def read_names(path: Path) -> list[str]:
    """The first words of the lines of a list of images, each once; `#` begins a comment."""
    lines = [line for line in read_lines(path) if line and not line.startswith("#")]
    return list(dict.fromkeys(line.split()[0] for line in lines))
