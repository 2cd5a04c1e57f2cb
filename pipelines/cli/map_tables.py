"""Maps and poses as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from locate.localization.pose import LOCALIZED, NOT_LOCALIZED, UNCERTAIN, VERDICTS, Pose
from locate.util.printable import in_markup as escape
from pipelines.cli.tables import console, new_table

if TYPE_CHECKING:
    from locate.georef.georef import Georef
    from pipelines.mapping.summary import MapReport

_COLOUR = {LOCALIZED: "green", UNCERTAIN: "yellow", NOT_LOCALIZED: "red"}
_SHOWN = 20


def print_map(report: MapReport, out: Path) -> None:
    to = console()
    seconds = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in report.seconds.items())
    to.print(
        f"{escape(str(out))}: {report.registered} of {report.images} photos registered, "
        f"{report.points} points" + (f" ({seconds})" if seconds else " (nothing to do)")
    )
    if report.points:
        to.print(
            f"a point is seen by {report.track_length:.1f} photos, reprojection error "
            f"{report.error:.2f} px, {report.observations:.0f} observations a photo"
        )
    if report.separate:
        parts = ", ".join(map(str, report.separate))
        to.print(f"further models that do not hang together with it, photos: {parts}; left out")
    _print_warnings(report.warnings)
    for name, count in report.verified.items():
        to.print(f"{escape(name)}: verified with {count} photos of the map")
    for name, reason in report.unregistered[:_SHOWN]:
        to.print(f"[yellow]not registered[/] {escape(name)}: {escape(reason)}")
    if len(report.unregistered) > _SHOWN:
        to.print(f"... and {len(report.unregistered) - _SHOWN} more; --json lists all")


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        console().print(f"[yellow]warning[/] {escape(warning)}", soft_wrap=True)


def print_georef(found: Georef, out: Path, warnings: Sequence[str] = ()) -> None:
    to = console()
    where = (
        "metres, north and up; no place on the earth"
        if found.origin is None
        else "origin {:.7f}, {:.7f}, {:.2f} m (WGS84)".format(*found.origin)
    )
    to.print(
        f"{escape(str(out))}: 1 unit of the map is {found.scale:.6g} m; {where}; by "
        f"{found.source}: {found.inliers} of {found.used} agree, median error "
        f"{found.error:.3g} m"
    )
    if found.outliers:
        to.print(f"left out: {escape(', '.join(found.outliers[:_SHOWN]))}")
    _print_warnings(warnings)


def print_poses(
    poses: Sequence[Pose],
    failed: Sequence[tuple[str, str]],
    *,
    georef: Georef | None = None,
    units: str = "arbitrary",
) -> None:
    """One pose in full, several as a table."""
    to = console()
    if len(poses) == 1 and not failed:
        _print_one(poses[0], georef, units)
        return
    on_earth = georef is not None and georef.origin is not None
    rows = new_table(
        "photo",
        "verdict",
        "x",
        "y",
        "z",
        "+-",
        "+- degrees",
        "inliers",
        "error px",
        *(("latitude", "longitude") if on_earth else ()),
        right=("x", "y", "z", "+-", "+- degrees", "inliers", "error px", "latitude", "longitude"),
    )
    for pose in poses:
        cells = [
            escape(str(pose.photo)),
            f"[{_COLOUR[pose.verdict]}]{pose.verdict}[/]",
        ]
        if pose.center is None:
            cells += ["", "", "", "", "", str(pose.inliers), ""]
        else:
            place, turn = sigmas(pose)
            cells += [f"{value:.3f}" for value in pose.center]
            cells += [f"{place:.2g}", f"{turn:.2g}", str(pose.inliers), f"{pose.error:.2f}"]
            if on_earth and georef is not None:
                latitude, longitude, _ = georef.wgs84(pose.center[None])[0]
                cells += [f"{latitude:.7f}", f"{longitude:.7f}"]
        rows.add_row(*cells)
    if poses:
        to.print(rows)
    for name, reason in failed:
        to.print(f"[red]failed[/] {escape(name)}: {escape(reason)}")
    counts = [(sum(p.verdict == verdict for p in poses), verdict) for verdict in VERDICTS]
    spent = [pose.seconds.get("total", 0.0) for pose in poses]
    to.print(
        ", ".join(f"{count} {verdict}" for count, verdict in counts if count)
        + (f", {len(failed)} failed" if failed else "")
        + (f"; {np.mean(spent):.2f} s a photo" if spent else "")
    )


def sigmas(pose: Pose) -> tuple[float, float]:
    """Standard deviations of a pose: of the centre in units of the map and of the orientation in
    degrees, each the root of the sum of squares over the axes; NaN without a covariance."""
    if pose.covariance is None:
        return float("nan"), float("nan")
    place, turn = np.trace(pose.covariance[:3, :3]), np.trace(pose.covariance[3:, 3:])
    return float(np.sqrt(place)), float(np.degrees(np.sqrt(turn)))


def _print_one(pose: Pose, georef: Georef | None, units: str) -> None:
    to = console()
    name = escape(str(pose.photo))
    to.print(
        f"[{_COLOUR[pose.verdict]}]{pose.verdict}[/] {name}: {escape(pose.reason)}",
        soft_wrap=True,
    )
    if pose.center is None or pose.cam_from_world is None or pose.quaternion is None:
        return
    place, turn = sigmas(pose)
    unit = " m" if units == "metre" else ""
    center = ", ".join(f"{value:.4f}" for value in pose.center)
    to.print(f"centre          {center} (+- {place:.2g}{unit}, +- {turn:.2g} degrees)")
    rotation = ", ".join(f"{value:.6f}" for value in pose.quaternion)
    translation = ", ".join(f"{value:.4f}" for value in pose.cam_from_world[:, 3])
    to.print(f"cam_from_world  quaternion wxyz {rotation}; translation {translation}")
    if pose.camera is not None:
        params = ", ".join(f"{value:.6g}" for value in pose.camera.params)
        to.print(f"camera          {pose.camera.model} {params} ({pose.camera.source})")
    to.print(
        f"evidence        {pose.inliers} of {pose.matches} matches, over "
        f"{100 * pose.spread:.0f} % of the photo, {pose.error:.2f} px"
    )
    if georef is not None and georef.origin is not None:
        latitude, longitude, altitude = georef.wgs84(pose.center[None])[0]
        heading, pitch = georef.heading_pitch(pose.cam_from_world)
        height = "" if georef.vertical == "none" else f", {altitude:.2f} m"
        to.print(
            f"on earth        {latitude:.7f}, {longitude:.7f}{height}; looks to "
            f"{heading:.1f} degrees from north, {pitch:+.1f} up"
        )
