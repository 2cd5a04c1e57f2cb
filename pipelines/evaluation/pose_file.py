"""Poses in a file, judged by those of a scene."""

from __future__ import annotations

from pathlib import Path

from locate.errors import InputError
from locate.formats.text import read_lines
from locate.formats.trajectories import guess_format, pair_names, read_poses
from locate.metrics.pose import Thresholds, pose_errors
from pipelines.evaluation.pose_tables import THRESHOLDS, Outcome, pose_curves, pose_tables
from pipelines.reports.report import Report


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
        truth: the folder of a COLMAP model (text or binary) or a file of poses.
        thresholds: (metres, degrees).
        queries: a text file whose lines begin with the names of the queries; None for all of the truth.
        result_format, truth_format: a name of `FORMATS`, or "auto".
        metric: the unit of the truth is the metre.
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
