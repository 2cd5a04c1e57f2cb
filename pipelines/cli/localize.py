"""`locate localize` on the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from locate.errors import ImageError, InputError
from locate.util.printable import in_markup as escape
from pipelines.cli import exit_codes as exits
from pipelines.cli.arguments import add_masks
from pipelines.cli.console import console, new_table, print_left_out
from pipelines.cli.maps import at_least
from pipelines.cli.streams import say

if TYPE_CHECKING:
    from locate.georef.georef import Georef
    from locate.localization.gravity import GravityPrior
    from locate.localization.pose import Pose
    from pipelines.localization.localizer import Localizer
    from pipelines.localization.matcher import PosePrior

FORMATS = ("json", "colmap", "tum", "kitti", "hloc", "kapture", "geojson", "kml")


def add_localize_parser(command: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    """Add the command; `command` makes a parser of (name, text, example)."""
    parser = command(
        "localize",
        "say where the camera of a photo stood in a map, and how sure that is",
        "locate localize photo.jpg --map town.map --show pose.html",
    )
    parser.add_argument(
        "photos", type=Path, nargs="+", metavar="PHOTO", help="photo or folder; - is standard input"
    )
    parser.add_argument("--map", type=Path, required=True, metavar="MAP", help="folder of the map")
    parser.add_argument(
        "--camera",
        metavar="CAMERA",
        help="MODEL,PARAMS as COLMAP has them (PINHOLE,1380,1382,760,503), f=PIXELS, EQUIRECTANGULAR "
        "for a 360 degree photo, or a cameras.txt (default: EXIF, XMP of 360 degree photos, else the "
        "focal length is estimated)",
    )
    parser.add_argument(
        "--rig",
        type=Path,
        metavar="FILE",
        help="COLMAP's rig_config.json: PHOTO is a folder of photos that its cameras took together, "
        "localized together; distances in units of the map, metres if it knows its metre",
    )
    add_masks(parser)
    parser.add_argument(
        "--prior-pose",
        metavar="X,Y,Z,RADIUS",
        help="look only at photos of the map that were taken this near to this place",
    )
    parser.add_argument(
        "--gravity",
        metavar="X,Y,Z[,DEGREES]",
        help="which way is UP in the axes of the camera or rig (x right, y down, z forward), as an "
        "inertial sensor tells, to so many degrees (default 1); the map needs `locate georef`",
    )
    parser.add_argument(
        "--candidates",
        type=at_least(1),
        default=20,
        metavar="N",
        help="photos matched (default 20)",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="of RANSAC (default 0)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the poses, see --format")
    parser.add_argument(
        "--format", choices=FORMATS, help="of --out (default: by its ending, else json)"
    )
    parser.add_argument(
        "--frame",
        choices=("map", "enu"),
        default="map",
        help="of --out: the map's own, or metres East-North-Up of `locate georef` (default map)",
    )
    parser.add_argument(
        "--numbered", action="store_true", help="tum: number the photos, they have no timestamps"
    )
    parser.add_argument(
        "--uncertain", action="store_true", help="write uncertain poses to --out as well"
    )
    parser.add_argument("--show", type=Path, metavar="FILE", help="write a page to look at in 3-D")
    parser.add_argument(
        "--save-matches", type=Path, metavar="DIR", help="write pictures of what was recognised"
    )
    parser.add_argument(
        "--workers", type=at_least(1), metavar="N", help="threads (default: one a core)"
    )


def localize(a: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from locate.images.folder import LeftOut
    from locate.localization.pose import NOT_LOCALIZED, UNCERTAIN
    from pipelines.cli.named_photos import photos_below
    from pipelines.cli.progress import progress_bar
    from pipelines.localization.localizer import Localizer
    from pipelines.reports.pose_export import poses_json

    if a.rig and (len(a.photos) != 1 or not a.photos[0].is_dir() or a.camera):
        raise InputError("--rig needs one folder of photos, and its cameras instead of --camera")
    left_out = LeftOut()
    photos = photos_below(a.photos, left_out)
    prior = _prior(a.prior_pose)
    poses: list[Pose] = []
    failed: list[tuple[str, str]] = []
    with Localizer(a.map, masks=a.masks, workers=a.workers) as localizer:
        georef = _georef(localizer)
        with progress_bar("localizing") as progress:
            gravity = _gravity(a.gravity, georef)
            for done, found in enumerate(_answers(localizer, photos, a, prior, gravity), 1):
                if isinstance(found, ImageError):
                    failed.append((str(found.path), f"{found.reason}; {found.cure}"))
                else:
                    poses.append(found)
                progress(done, len(photos))
    # Before anything is written: what cannot be must not cost the answers.
    if a.json:
        values = poses_json(poses, georef=georef, units=localizer.map.record.units)
        values["failed"] = [{"photo": name, "reason": reason} for name, reason in failed]
        values |= left_out.to_json()
        print(json.dumps(values, indent=1))
    else:
        print_poses(poses, failed, georef=georef, units=localizer.map.record.units)
        print_left_out(left_out)
    for text in _write(a, localizer, poses):
        if not a.json:
            say(text)
    if not poses:
        return exits.NOTHING_DONE if len(failed) > 1 else exits.ERROR
    if failed or left_out:
        return exits.SOME_FAILED
    verdicts = {pose.verdict for pose in poses}
    if NOT_LOCALIZED in verdicts:  # of several photos the weakest answer speaks
        return exits.NO_MATCH
    return exits.UNCERTAIN if UNCERTAIN in verdicts else exits.GOOD


def _answers(
    localizer: Localizer,
    photos: list[Path],
    a: argparse.Namespace,
    prior: PosePrior | None,
    gravity: GravityPrior | None,
) -> Iterator[Pose | ImageError]:
    if a.rig:
        yield from _rig_answers(localizer, a, prior, gravity)
        return
    if len(photos) > 1:
        yield from localizer.localize_many(
            photos, a.camera, prior=prior, gravity=gravity, candidates=a.candidates, seed=a.seed
        )
        return
    try:  # a single photo has all cores to itself
        yield localizer.localize(
            photos[0], a.camera, prior=prior, gravity=gravity, candidates=a.candidates, seed=a.seed
        )
    except ImageError as error:
        yield error


def _rig_answers(
    localizer: Localizer,
    a: argparse.Namespace,
    prior: PosePrior | None,
    gravity: GravityPrior | None,
) -> Iterator[Pose | ImageError]:
    """The poses of the photos, each from the pose of its rig."""
    from locate.localization.rig import find_frames, read_rigs
    from pipelines.localization.rig_localizer import localize_frames

    georef, rigs = _georef(localizer), read_rigs(a.rig)
    if georef is not None:  # a rig is measured in metres
        rigs = [rig.scaled(1 / georef.scale) for rig in rigs]
    frames = find_frames(a.photos[0], rigs)
    for found in localize_frames(
        localizer, frames, prior=prior, gravity=gravity, candidates=a.candidates, seed=a.seed
    ):
        if isinstance(found, ImageError):
            yield found
        else:
            yield from (pose for pose in found.poses if pose.photo is not None)


def _write(a: argparse.Namespace, localizer: Localizer, poses: list[Pose]) -> list[str]:
    """Write what was asked for; a line about each."""
    from pipelines.reports.pose_export import write_poses_as

    lines = []
    if a.out:
        form = a.format or _format_of(a.out)
        count = write_poses_as(
            a.out,
            poses,
            form,
            georef=_georef(localizer),
            frame=a.frame,
            units=localizer.map.record.units,
            uncertain=a.uncertain,
            numbered=a.numbered,
        )
        lines.append(f"wrote {count} poses to {a.out} ({form})")
    if a.show:
        from pipelines.reports.map_viewer import write_pose_page

        write_pose_page(
            a.show,
            localizer.map.model,
            poses,
            title=a.map.resolve().name,
            georef=_georef(localizer),
            units=localizer.map.record.units,
        )
        lines.append(f"wrote {a.show}")
    if a.save_matches:
        from pipelines.reports.picture_io import query_name
        from pipelines.reports.pose_pictures import save_reprojections

        a.save_matches.mkdir(parents=True, exist_ok=True)
        for number, pose in enumerate(poses, 1):
            stem = query_name(pose.photo)
            save_reprojections(pose, a.save_matches / f"{number:03d}--{stem}.jpg")
        lines.append(f"wrote {a.save_matches}")
    return lines


def _georef(localizer: Localizer) -> Georef | None:
    from locate.georef.georef import Georef

    stored = localizer.map.record.georef
    return None if stored is None else Georef.from_json(stored)


def _format_of(path: Path) -> str:
    ending = path.suffix.lower().lstrip(".")
    return ending if ending in FORMATS else "json"


def _prior(text: str | None) -> PosePrior | None:
    import numpy as np

    from pipelines.localization.matcher import PosePrior

    if text is None:
        return None
    try:
        x, y, z, radius = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--prior-pose is X,Y,Z,RADIUS, not {text!r}") from None
    return PosePrior(np.array([x, y, z]), radius=radius)


def _gravity(text: str | None, georef: Georef | None) -> GravityPrior | None:
    import numpy as np

    from locate.localization.gravity import GravityPrior

    if text is None:
        return None
    if georef is None:
        raise InputError("--gravity needs to know where up is in the map; say it by: locate georef")
    try:
        x, y, z, *degrees = (float(part) for part in text.split(","))
        up = np.array([x, y, z]) / (np.linalg.norm([x, y, z]) or np.nan)
        return GravityPrior(up, georef.rotation[2], *degrees)
    except (ValueError, TypeError):
        raise InputError(f"--gravity is X,Y,Z or X,Y,Z,DEGREES, not {text!r}") from None


_COLOUR = {"localized": "green", "uncertain": "yellow", "not localized": "red"}


def print_poses(
    poses: Sequence[Pose],
    failed: Sequence[tuple[str, str]],
    *,
    georef: Georef | None = None,
    units: str = "arbitrary",
) -> None:
    """One pose in full, several as a table."""
    import numpy as np

    from locate.localization.pose import VERDICTS

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
    import numpy as np

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
