"""Localized photos as files of other programs, in the frame of the map, in metres, or on the earth.

    form      what it is                                            direction        reads it
    json      every record with its verdict, and where it is        cam_from_world   anything
    hloc      text: name qw qx qy qz tx ty tz                       cam_from_world   hloc, benchmarks
    colmap    folder: cameras.txt, images.txt                       cam_from_world   COLMAP
    kapture   folder: sensors/ (kapture 1.1)                        cam_from_world   kapture
    tum       text: timestamp tx ty tz qx qy qz qw                  world_from_cam   evo, TUM RGB-D
    kitti     text: 12 numbers of a 3 x 4 matrix                    world_from_cam   evo, KITTI odometry
    geojson   points with heading (RFC 7946: longitude first)       -                QGIS, web maps
    kml       points with view                                      -                Google Earth

Text files begin with comments that name direction, frame and unit, and the photos that were left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap

from locate.errors import InputError, UnknownNameError
from locate.formats.trajectories import FORMATS, bare_name, write_poses
from locate.geometry.cameras import SPHERICAL, Camera, colmap_camera
from locate.geometry.rigid import quaternion_of
from locate.georef.georef import Georef
from locate.localization.pose import LOCALIZED, NOT_LOCALIZED, Pose
from locate.types import Array
from locate.util.files import atomic_write
from pipelines.reports.pages import render

FORMS = ("json", "hloc", "colmap", "kapture", "tum", "kitti", "geojson", "kml")
Frame = Literal["map", "enu"]

_DIRECTIONS = {
    "cam_from_world": "cam_from_world: x_cam = R x_world + t",
    "world_from_cam": "world_from_cam: x_world = R x_cam + t, t is the camera's centre",
}
_COLUMNS = {
    "hloc": "name qw qx qy qz tx ty tz",
    "colmap": "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME",
    "kapture": "timestamp, device_id, qw, qx, qy, qz, tx, ty, tz",
    "tum": "timestamp tx ty tz qx qy qz qw",
    "kitti": "r11 r12 r13 tx r21 r22 r23 ty r31 r32 r33 tz",
}
_AXES = "camera: x right, y down, z forward"
_VIEW = 10.0  # metres, of the line that shows in KML where a camera looks


def write_poses_as(
    path: Path,
    poses: Sequence[Pose],
    form: str,
    *,
    georef: Georef | None = None,
    frame: Frame = "map",
    units: str = "arbitrary",
    names: Sequence[str] | None = None,
    uncertain: bool = False,
    numbered: bool = False,
) -> int:
    """Write what `locate localize` found; the number of poses written.

    Args:
        path: the file, replaced whole or not at all; for "colmap" and "kapture" the folder, whose files
            are replaced so one after the other.
        georef: of the map. "geojson" and "kml" need one with an origin; "json" gains by any.
        frame: "enu" writes poses in metres East-North-Up, which needs `georef`.
        units: of the map: "metre" or "arbitrary", see `MapRecord`.
        names: of the photos in the file, by default `photo_names`.
        uncertain: write poses of that verdict too. "json" has every record anyway.
        numbered: "tum" gets the positions in `poses`, 0, 1, 2, ..., for timestamps; otherwise photos
            must be named by them.

    Raises:
        InputError: the form needs what is missing, or cannot hold a name; the message has the cure.
    """
    if form not in FORMS:
        raise UnknownNameError("form of poses", form, FORMS)
    if frame == "enu" and georef is None:
        raise InputError("the map has no georeference for poses in metres; run locate georef")
    called = photo_names(poses) if names is None else list(names)
    if len(called) != len(poses):
        raise InputError(f"{len(poses)} poses need {len(poses)} names, got {len(called)}")
    kept = [
        (name, pose, number)
        for number, (name, pose) in enumerate(zip(called, poses, strict=True))
        if _is_wanted(pose, uncertain)
    ]
    if form == "json":
        _write(path, poses_json(poses, georef=georef, units=units, names=called))
        return len(poses)
    if form in ("geojson", "kml"):
        if georef is None or georef.origin is None:
            raise InputError(
                f"{'KML' if form == 'kml' else 'GeoJSON'} needs to know where on the earth the map "
                "lies; run locate georef with GPS tags or coordinates in degrees first"
            )
        features = _geojson(called, poses, georef, uncertain)
        _write(path, _kml(features) if form == "kml" else features)
        return len(kept)
    _check_names([name for name, _, _ in kept], "" if numbered else form)
    world = georef if frame == "enu" else None
    matrices = {}
    for name, pose, _ in kept:
        assert pose.cam_from_world is not None
        matrices[name] = world.enu_pose(pose.cam_from_world) if world else pose.cam_from_world
    direction = FORMATS[form].direction if form in FORMATS else "cam_from_world"
    header = [f"{_DIRECTIONS[direction]}; {_AXES}", f"world: {_frame_text(world, units)}"]
    header.append(f"columns: {_COLUMNS[form]}")
    numbered = numbered and form == "tum"
    if form == "kitti" or numbered:
        rows = [number if numbered else row for row, (_, _, number) in enumerate(kept)]
        header += [f"{row}: {_line(name)}" for row, name in zip(rows, matrices, strict=True)]
    header += [
        f"left out, {pose.verdict}: {_line(name)}: {_line(pose.reason)}"
        for name, pose in zip(called, poses, strict=True)
        if name not in matrices
    ]
    if form == "kapture":
        _write_kapture(path, kept, matrices, header)
        return len(kept)
    if numbered:
        matrices = {str(number): matrices[name] for name, _, number in kept}
    cameras = None
    if form == "colmap":
        cameras = {name: colmap_camera(_camera(name, pose)) for name, pose, _ in kept}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_poses(path, matrices, form, cameras=cameras, header=header)
    return len(kept)


def photo_names(poses: Sequence[Pose]) -> list[str]:
    """The photos' paths below the folder that they share, with forward slashes; "pixels-3" for the
    fourth if it is pixels in memory."""
    photos = [pose.photo and pose.photo.absolute() for pose in poses]
    try:
        base = os.path.commonpath([photo.parent for photo in photos if photo] or [Path.cwd()])
        photos = [photo and photo.relative_to(base) for photo in photos]
    except ValueError:  # on several drives
        photos = [pose.photo for pose in poses]
    return [photo.as_posix() if photo else f"pixels-{i}" for i, photo in enumerate(photos)]


def poses_json(
    poses: Sequence[Pose],
    *,
    georef: Georef | None = None,
    units: str = "arbitrary",
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """JSON-able: every record of a batch (`Pose.to_json`) with its `name`, and with a georeference `enu`
    (the same pose and covariance in metres, heading, pitch) and `wgs84`."""
    called = photo_names(poses) if names is None else names
    return {
        "direction": f"{_DIRECTIONS['cam_from_world']}; {_AXES}",
        "world": _frame_text(None, units),
        "georef": None if georef is None else georef.to_json(),
        "poses": [
            {"name": name, **pose.to_json(), **_placed(pose, georef)}
            for name, pose in zip(called, poses, strict=True)
        ],
    }


def _geojson(
    names: Sequence[str], poses: Sequence[Pose], georef: Georef, uncertain: bool
) -> dict[str, Any]:
    """A FeatureCollection of the centres, longitude first (RFC 7946), without unknown heights."""
    features, missing = [], []
    for name, pose in zip(names, poses, strict=True):
        if not _is_wanted(pose, uncertain):
            missing.append({"name": name, "verdict": pose.verdict, "reason": pose.reason})
            continue
        found = _placed(pose, georef)
        where = [found["wgs84"][name] for name in ("longitude", "latitude", "altitude")]
        position = [value for value in where if value is not None]
        facts = {
            "name": name,
            "verdict": pose.verdict,
            **{key: found["enu"][key] for key in ("heading_deg", "pitch_deg")},
            "inliers": pose.inliers,
            "error_px": None if np.isnan(pose.error) else pose.error,
        }
        if pose.covariance is not None:
            variances = np.diag(georef.enu_covariance(pose.covariance))
            facts["horizontal_sigma_m"] = float(np.sqrt(variances[0] + variances[1]))
            facts["vertical_sigma_m"] = float(np.sqrt(variances[2]))
        geometry = {"type": "Point", "coordinates": position}
        features.append({"type": "Feature", "geometry": geometry, "properties": facts})
    return {"type": "FeatureCollection", "features": features, "left_out": missing}


def _kml(collection: Mapping[str, Any]) -> str:
    """`_geojson` as KML 2.2: a placemark each, with a line along its optical axis and a view to fly to.
    Altitudes count from sea level; without known heights all lie on the ground."""
    marks = []
    earth = pycolmap.GPSTransform(pycolmap.GPSTransformEllipsoid.WGS84)
    for feature in collection["features"]:
        facts = feature["properties"]
        longitude, latitude, *known = feature["geometry"]["coordinates"]
        altitude = known[0] if known else 0.0
        h, p = np.radians([facts["heading_deg"], facts["pitch_deg"]])
        step = _VIEW * np.array([np.sin(h) * np.cos(p), np.cos(h) * np.cos(p), np.sin(p)])
        lat, lon, alt = earth.enu_to_ellipsoid(step[None], latitude, longitude, altitude)[0]
        mark = {
            "name": _line(facts["name"]),
            "about": ", ".join(f"{key} {value}" for key, value in facts.items() if key != "name"),
            "place": (longitude, latitude, altitude),
            "ahead": (lon, lat, alt),
            "high": bool(known),
            "heading": facts["heading_deg"],
            "tilt": np.clip(facts["pitch_deg"] + 90, 0, 180),
        }
        marks.append(mark)
    left = [(_line(one["name"]), _line(one["reason"])) for one in collection["left_out"]]
    return "".join(render("poses.kml", marks=marks, left=left))


def _is_wanted(pose: Pose, uncertain: bool) -> bool:
    return pose.verdict == LOCALIZED or (uncertain and pose.verdict != NOT_LOCALIZED)


def _placed(pose: Pose, georef: Georef | None) -> dict[str, Any]:
    """`enu` and `wgs84` of a record, both None without a pose; nothing without a georeference."""
    if georef is None:
        return {}
    if pose.cam_from_world is None or pose.center is None:
        return {"enu": None, "wgs84": None}
    matrix = georef.enu_pose(pose.cam_from_world)
    heading, pitch = georef.heading_pitch(pose.cam_from_world)
    known, quaternion = pose.covariance, quaternion_of(matrix[:, :3]).tolist()
    enu = {
        "cam_from_enu": {"quaternion_wxyz": quaternion, "translation": matrix[:, 3].tolist()},
        "center": georef.enu(pose.center)[0].tolist(),
        "covariance": None if known is None else georef.enu_covariance(known).tolist(),
        "heading_deg": heading,
        "pitch_deg": pitch,
    }
    if georef.origin is None:
        return {"enu": enu, "wgs84": None}
    place = dict(
        zip(
            ("latitude", "longitude", "altitude"),
            georef.wgs84(pose.center)[0].tolist(),
            strict=True,
        )
    )
    if georef.vertical == "none":
        place["altitude"] = None
    return {"enu": enu, "wgs84": place}


def _frame_text(georef: Georef | None, units: str) -> str:
    if georef is None:
        known = "metres" if units == "metre" else "arbitrary units (the map is not metric)"
        return f"the frame of the map, in {known}"
    if georef.origin is None:
        return "local frame of the georeference, in metres"
    latitude, longitude, altitude = georef.origin
    return (
        "metres East-North-Up about WGS84 "
        f"latitude {latitude:.9f}, longitude {longitude:.9f}, altitude {altitude:.3f}"
    )


def _line(text: str) -> str:
    """`text` on one line, without what a text file or XML cannot hold."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _check_names(names: Sequence[str], form: str) -> None:
    seen: set[str] = set()
    for name in names:
        key = bare_name(name) if form == "tum" else name
        if key in seen:
            raise InputError(f"{key} is among the photos twice; give each once")
        seen.add(key)
        if _line(name) != name or name.startswith("#") or name != name.strip():
            raise InputError(f"the name {name!r} cannot stand in a text file; rename the photo")
        if form == "kapture" and "," in name:
            raise InputError(f"kapture allows no comma in {name!r}; rename the photo")


def _camera(name: str, pose: Pose) -> Camera:
    if pose.camera is None:
        raise InputError(f"the camera of {name} is not known, which this form needs; give it")
    return pose.camera


def _write_kapture(
    folder: Path,
    kept: Sequence[tuple[str, Pose, int]],
    matrices: Mapping[str, Array],
    header: Sequence[str],
) -> None:
    """Format: https://github.com/naver/kapture/blob/main/kapture_format.adoc. Timestamps are positions
    in the batch; equal cameras are one sensor."""
    sensors: dict[tuple[object, ...], str] = {}
    records, trajectory = [], []
    for name, pose, number in kept:
        camera, matrix = _camera(name, pose), matrices[name]
        key = (camera.model, camera.width, camera.height, *map(float, camera.params))
        device = sensors.setdefault(key, f"camera{len(sensors)}")
        records.append(f"{number}, {device}, {name}")
        values = [*quaternion_of(matrix[:, :3]), *matrix[:, 3]]
        trajectory.append(", ".join([str(number), device, *(repr(float(v)) for v in values)]))
    cameras = []
    for (model, *rest), device in sensors.items():
        # The only model of kapture's that a sphere may be: its size, and nothing else.
        key = ("UNKNOWN_CAMERA", *rest[:2]) if model == SPHERICAL else (model, *rest)
        cameras.append(", ".join([device, "", "camera", *map(str, key)]))
    place = folder / "sensors"
    for file, columns, lines in (
        ("records_camera.txt", ["timestamp, device_id, image_path"], records),
        ("trajectories.txt", header, trajectory),
        ("sensors.txt", ["sensor_id, name, sensor_type, [sensor_params]+"], cameras),
    ):
        comments = [f"# {line}" for line in ("kapture format: 1.1", *columns)]
        _write(place / file, "\n".join([*comments, *lines]) + "\n")


def _write(path: Path, content: str | dict[str, Any]) -> None:
    """Text, or values as JSON."""
    text = content
    if not isinstance(text, str):
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "replace"))  # file names may hold broken characters
