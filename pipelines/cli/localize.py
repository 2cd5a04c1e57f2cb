"""`locate localize`: where was the camera?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, Unpack, get_args

from locate.errors import ImageError, InputError
from locate.util.printable import in_markup as escape
from pipelines.cli import exit_codes
from pipelines.cli.console import (
    colored,
    console,
    failures,
    new_table,
    print_json,
    print_left_out,
)
from pipelines.cli.options import Json, Map, Masks, Photos, Workers, command, numbers_of, option
from pipelines.cli.progress import progress_bar
from pipelines.cli.streams import print_line

if TYPE_CHECKING:
    from locate.georef.georef import Georef
    from locate.localization.gravity import GravityPrior
    from locate.localization.pose import Pose
    from pipelines.localization.rig_localizer import RigPose

_PRIOR = "look only at photos of the map that were taken this near to this place"
_CAMERA = (
    "MODEL,PARAMS as COLMAP has them (PINHOLE,1380,1382,760,503), f=PIXELS, EQUIRECTANGULAR for "
    "a 360 degree photo, or a cameras.txt (default: EXIF, XMP of 360 degree photos, else the "
    "focal length is estimated)"
)
_RIG = (
    "COLMAP's rig_config.json: PHOTO is a folder of photos that its cameras took together, "
    "localized together; distances in units of the map, metres if it knows its metre"
)
_GRAVITY = (
    "which way is UP in the axes of the camera or rig (x right, y down, z forward), as an "
    "inertial sensor tells, to so many degrees (default 1); the map needs `locate georef`"
)
_FRAME = "of --out: the map's own, or metres East-North-Up of `locate georef` (default map)"
Format = Literal["json", "colmap", "tum", "kitti", "hloc", "kapture", "geojson", "kml"]


def _prior(text: str) -> Any:
    import numpy as np

    from locate.localization.pose import PosePrior

    *place, radius = numbers_of(text, (4,), "--prior-pose is X,Y,Z,RADIUS")
    return PosePrior(np.array(place), radius=radius)


class _LocalizeOptions(TypedDict):
    prior: Annotated[  # a PosePrior
        Any, option(_PRIOR, "X,Y,Z,RADIUS", name="--prior-pose", read=_prior)
    ]
    candidates: Annotated[int, option("photos matched (default 20)", "N", 20, least=1)]
    seed: Annotated[int, option("of RANSAC (default 0)", "N", 0, least=0)]
    rerank: Annotated[
        Literal["lightglue"] | None,
        option("match again, slowly, what is not localized (maps of ALIKED or DISK features)"),
    ]


@command("locate localize photo.jpg --map town.map --show pose.html")
def localize(
    photos: Photos,
    map_folder: Map,
    camera: Annotated[str | None, option(_CAMERA, "CAMERA")],
    rig: Annotated[Path | None, option(_RIG, "FILE")],
    masks: Masks,
    gravity: Annotated[str | None, option(_GRAVITY, "X,Y,Z[,DEGREES]")],
    out: Annotated[Path | None, option("write the poses, see --format", "FILE")],
    form: Annotated[
        Format | None, option("of --out (default: by its ending, else json)", name="--format")
    ],
    frame: Annotated[Literal["map", "enu"], option(_FRAME, default="map")],
    numbered: Annotated[bool, option("tum: number the photos, they have no timestamps")],
    uncertain: Annotated[bool, option("write uncertain poses to --out as well")],
    show: Annotated[Path | None, option("write a page to look at in 3-D", "FILE")],
    save_matches: Annotated[Path | None, option("write pictures of what was recognised", "DIR")],
    workers: Workers,
    as_json: Json,
    **how: Unpack[_LocalizeOptions],
) -> int:
    """Say where the camera of a photo stood in a map, and how sure that is."""
    from locate.georef.georef import Georef
    from locate.images.folder import LeftOut
    from pipelines.cli.named_photos import answers, photos_below
    from pipelines.localization.localizer import Localizer
    from pipelines.localization.rig_localizer import localize_rigs
    from pipelines.reports.map_viewer import make_scene, write_map_viewer
    from pipelines.reports.picture_io import query_name
    from pipelines.reports.pose_export import poses_json, write_poses_as
    from pipelines.reports.pose_pictures import save_reprojections

    if rig and (len(photos) != 1 or not photos[0].is_dir() or camera):
        raise InputError("--rig needs one folder of photos, and its cameras instead of --camera")
    if rig and how.pop("rerank", None):  # type: ignore[misc]
        raise InputError("--rerank is for single photos; leave it or --rig out")
    left_out = LeftOut()
    named = photos_below(photos, left_out)
    failed: list[tuple[str, str]] = []
    with Localizer(map_folder, masks=masks, workers=workers) as localizer:
        record = localizer.map.record
        georef = None if record.georef is None else Georef.from_json(record.georef)
        units, up = record.units, _gravity(gravity, georef)
        asked: dict[str, Any] = {"gravity": up, **how}
        one = None if rig else lambda photo: localizer.localize(photo, camera, **asked)

        def many(of: Sequence[Path]) -> Iterable[Pose | ImageError]:
            if rig:
                return _of_rigs(localize_rigs(localizer, rig, photos[0], **asked))
            return localizer.localize_many(of, camera, **asked)

        with progress_bar("localizing") as progress:
            poses = list(answers(named, one, many, failed, progress))
    where: dict[str, Any] = {"georef": georef, "units": units}
    # Before anything is written: what cannot be must not cost the answers.
    if as_json:
        print_json(poses_json(poses, **where) | failures(failed, left_out))
    else:
        _print_poses(poses, failed, georef, units)
        print_left_out(left_out, failed)
    wrote: list[object] = []
    if out:
        ending = out.suffix.lower().lstrip(".")
        written = form or (ending if ending in get_args(Format) else "json")
        count = write_poses_as(
            out, poses, written, frame=frame, uncertain=uncertain, numbered=numbered, **where
        )
        wrote.append(f"{count} poses to {out} ({written})")
    if show:
        scene = make_scene(localizer.map.model, poses, **where)
        write_map_viewer(show, scene, title=map_folder.resolve().name)
        wrote.append(show)
    if save_matches:
        save_matches.mkdir(parents=True, exist_ok=True)
        for number, pose in enumerate(poses, 1):
            save_reprojections(pose, save_matches / f"{number:03d}--{query_name(pose.photo)}.jpg")
        wrote.append(save_matches)
    for what in () if as_json else wrote:
        print_line(f"wrote {what}")
    return exit_codes.of_answers({p.verdict for p in poses}, len(failed), bool(left_out))


def _of_rigs(found: Iterable[RigPose | ImageError]) -> Iterator[Pose | ImageError]:
    """The pose of each photo that a rig took."""
    for one in found:
        if isinstance(one, ImageError):
            yield one
        else:
            yield from (pose for pose in one.poses if pose.photo is not None)


def _gravity(text: str | None, georef: Georef | None) -> GravityPrior | None:
    if text is None:
        return None
    import numpy as np

    from locate.localization.gravity import GravityPrior

    if georef is None:
        raise InputError("--gravity needs to know where up is in the map; say it by: locate georef")
    form = "--gravity is X,Y,Z or X,Y,Z,DEGREES"
    x, y, z, *degrees = numbers_of(text, (3, 4), form)
    try:
        up = np.array([x, y, z]) / (np.linalg.norm([x, y, z]) or np.nan)
        return GravityPrior(up, georef.rotation[2], *degrees)
    except ValueError:
        raise InputError(f"{form}, not {text!r}") from None


def _print_poses(
    poses: Sequence[Pose], failed: Sequence[tuple[str, str]], georef: Georef | None, units: str
) -> None:
    """One pose in full, several as a table."""
    from locate.localization.pose import VERDICTS

    to = console()
    if len(poses) == 1 and not failed:
        _print_one(poses[0], georef, units)
        return
    on_earth = georef is not None and georef.origin is not None
    numbers = ["x", "y", "z", "+-", "+- degrees", "inliers", "error px"]
    numbers += ["latitude", "longitude"] if on_earth else []
    rows = new_table("photo", "verdict", *numbers, right=numbers)
    for pose in poses:
        cells = [escape(pose.photo), colored(pose.verdict)]
        if pose.center is None:
            cells += ["", "", "", "", "", str(pose.inliers), ""]
        else:
            cells += [f"{value:.3f}" for value in pose.center]
            cells += [*map("{:.2g}".format, _sigmas(pose)), str(pose.inliers), f"{pose.error:.2f}"]
            if on_earth and georef is not None:
                latitude, longitude, _ = georef.wgs84(pose.center[None])[0]
                cells += [f"{latitude:.7f}", f"{longitude:.7f}"]
        rows.add_row(*cells)
    if poses:
        to.print(rows)
    counts = Counter(pose.verdict for pose in poses)
    counts["failed"] = len(failed)
    text = ", ".join(f"{counts[word]} {word}" for word in (*VERDICTS, "failed") if counts[word])
    if poses:
        text += f"; {mean(pose.seconds.get('total', 0.0) for pose in poses):.2f} s a photo"
    to.print(text)


def _sigmas(pose: Pose) -> tuple[float, float]:
    """Standard deviations of a pose: of the centre in units of the map and of the orientation in
    degrees, each the root of the sum of squares over the axes; NaN without a covariance."""
    import numpy as np

    if pose.covariance is None:
        return float("nan"), float("nan")
    place, turn = np.trace(pose.covariance[:3, :3]), np.trace(pose.covariance[3:, 3:])
    return float(np.sqrt(place)), float(np.degrees(np.sqrt(turn)))


def _print_one(pose: Pose, georef: Georef | None, units: str) -> None:
    to = console()
    what = f"{colored(pose.verdict)} {escape(pose.photo)}: {escape(pose.reason)}"
    to.print(what, soft_wrap=True)
    if pose.center is None or pose.cam_from_world is None or pose.quaternion is None:
        return
    place, turn = _sigmas(pose)
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
