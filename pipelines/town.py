"""A made-up town, photographed: the demo's photo folder and an exact ground truth.

    from pipelines.town import make_town
    town = make_town(Path("runs/town"))     # about half a minute, one core

Written: landmarks/<name>/01.jpg ..., queries/*.jpg, truth.json and colmap/*.txt. The two buildings
of queries/elsewhere-*.jpg stand in no picture of their own under landmarks/; one query is turned by
90 degrees and has no EXIF orientation.

World frame: metres, x east, y north, z up, a local tangent plane (ENU) at ORIGIN on WGS84. EXIF has
the camera centre as latitude, longitude and altitude: north / (M + h) and east / ((N + h) cos lat),
M and N the radii of curvature in the meridian and the prime vertical (Torge and Mueller, "Geodesy",
section 4.1). Over this town it differs from the exact frame by less than 2 cm.

FocalLengthIn35mmFilm is the focal length where the LONG side of the picture is 36 mm, and the true
focal is chosen to make it whole, so nothing is lost by rounding.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from pipelines.town_render import F64, U8, Camera, Face, Light, Rendering, Sky, render
from pipelines.town_scene import (
    ELSEWHERE,
    LANDMARKS,
    Place,
    clutter,
    horizon,
    meadow,
    place,
    seeded,
)

ORIGIN = (48.0, 9.0, 600.0)  # latitude and longitude, degrees, and height, metres, of (0, 0, 0)
SENSOR_MM = 6.4  # long side of the "town camera"
QUALITY = 90  # of the JPEGs
CONVENTION = (
    "pixels: x right, y down, centres at integers (COLMAP's cx, cy are + 0.5); "
    "cam_from_world: X_cam = R(q) X_world + t, q = (w, x, y, z), t in metres; "
    "camera: x right, y down, z forward; world: metres, x east, y north, z up, origin at gps_origin"
)


@dataclass(frozen=True)
class Shot:
    """One picture and where it was taken from.

    file: relative to the town, with slashes; landmark: None where the building is no landmark;
    k: (3, 3) calibration, centre ((w - 1) / 2, (h - 1) / 2); cam_from_world: quaternion
    (w, x, y, z) and translation (3,) metres; centre: (3,) metres.
    """

    file: str
    landmark: str | None
    width: int
    height: int
    k: F64
    quaternion: F64
    translation: F64
    centre: F64


@dataclass(frozen=True)
class Town:
    """What make_town wrote, or found: created is False where there was nothing left to do."""

    root: Path
    created: bool
    landmarks: tuple[str, ...]
    shots: tuple[Shot, ...]


def make_town(
    out: Path,
    *,
    seed: int = 0,
    landmarks: int = 8,
    views: int = 6,
    size: tuple[int, int] = (800, 600),
) -> Town:
    """Render the town into `out`; a complete town of the same settings is left as it is.

    size: (width, height) pixels. Same settings, same bytes.
    """
    if not 1 <= landmarks <= len(LANDMARKS):
        raise ValueError(f"landmarks is {landmarks}; this town has 1 to {len(LANDMARKS)}")
    if not 1 <= views <= 99:
        raise ValueError(f"views is {views}; give 1 to 99 per landmark")
    if min(size) < 32:
        raise ValueError(f"size is {size[0]} x {size[1]}; give at least 32 x 32 pixels")
    settings = {"seed": seed, "landmarks": landmarks, "views": views, "size": list(size)}
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the town")
    if out.is_dir() and any(out.iterdir()):
        return _existing(out, settings)
    names = tuple(list(LANDMARKS)[:landmarks])
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        shots = _photograph(partial, names, seed, views, size)
        _write_colmap(partial / "colmap", shots)
        _write_truth(partial / "truth.json", shots, names, settings)
        partial.replace(out)  # an empty folder of that name gives way
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return Town(out, True, names, tuple(shots))


def _existing(out: Path, settings: dict[str, Any]) -> Town:
    """The town already at out, if it is this one."""
    truth = out / "truth.json"
    if not truth.is_file():
        raise ValueError(f"{out} is not empty and is no town (no truth.json); name another folder")
    data = json.loads(truth.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or data.get("settings") != settings:
        found = data.get("settings") if isinstance(data, dict) else None
        raise ValueError(
            f"{out} holds a town made with {found}, not {settings}; name another folder"
        )
    shots = tuple(_shot_from_json(item) for item in data["images"])
    missing = [s.file for s in shots if not (out / s.file).is_file()]
    if missing:
        raise ValueError(f"{out} lacks {missing[0]} and {len(missing) - 1} more; delete it")
    return Town(out, False, tuple(data["landmarks"]), shots)


# ------------------------------------------------------------------------ pose and light


def camera_at(eye: F64, target: F64, roll: float, focal: float, size: tuple[int, int]) -> Camera:
    """A camera at eye (3,) metres whose axis meets target (3,) metres; roll: radians."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.stack([c * right + s * down, c * down - s * right, forward])
    return Camera(size[0], size[1], focal, rotation, np.asarray(-rotation @ eye, np.float64))


def plan_view(
    where: Place, seed: int, index: int, count: int, size: tuple[int, int]
) -> tuple[Camera, Light]:
    """Camera and light of picture `index` of `count`; index == count is the held-out query."""
    rng = seeded(seed, "view", where.name, index)
    query = index >= count
    # the arc in equal steps, shuffled in distance by a fixed pattern so that 01 is a fair portrait
    step = 0.0 if query or count == 1 else 2 * index / (count - 1) - 1
    turn = np.radians(rng.uniform(-24, 24) if query else 33 * step + rng.uniform(-2, 2))
    spread = (0.95, 1.25, 1.02, 1.45, 0.9, 1.15)[index % 6] if not query else rng.uniform(1.0, 1.3)
    away = where.kind.distance * (spread + rng.uniform(-0.03, 0.03))
    azimuth = where.heading - np.pi / 2 + turn
    rise = float(rng.choice([1.6, 1.7, 2.4, 4.5, 6.5])) + float(rng.uniform(0, 0.3))
    eye = np.add(where.centre, (away * np.cos(azimuth), away * np.sin(azimuth), rise))
    # pictures are rarely centred
    aim = where.target + rng.normal(0, 1, 3) * (0.8, 0.8, 0.4)
    roll = float(np.radians(np.clip(rng.normal(0, 2.0), -4.5, 4.5)))
    focal = float(rng.choice([33, 34, 35, 36])) / 36 * max(size)
    mood = ("noon", "morning", "veiled", "evening", "clear", "dusk")[(index + len(where.name)) % 6]
    if query:
        mood = str(rng.choice(["morning", "veiled", "evening", "clear"]))
    return camera_at(eye, aim, roll, focal, size), _light(rng, mood, azimuth)


def _light(rng: np.random.Generator, mood: str, towards: float) -> Light:
    """A light of that mood; towards: azimuth from the building to the camera, radians."""
    side = float(rng.choice([-1, 1]))
    # mood: sun height and side (degrees), sun, ambient, zenith, horizon, exposure, cloud cover
    table: dict[str, tuple[Any, ...]] = {
        "noon": (
            54,
            35,
            (2.5, 2.36, 2.1),
            (0.52, 0.62, 0.8),
            (0.10, 0.26, 0.62),
            (0.62, 0.76, 0.92),
            0.95,
            0.5,
        ),
        "morning": (
            28,
            55,
            (2.5, 2.0, 1.4),
            (0.42, 0.5, 0.66),
            (0.16, 0.33, 0.62),
            (0.86, 0.8, 0.72),
            1.0,
            0.42,
        ),
        "veiled": (
            48,
            40,
            (0.75, 0.75, 0.74),
            (0.95, 1.0, 1.08),
            (0.5, 0.56, 0.64),
            (0.78, 0.8, 0.83),
            1.0,
            0.85,
        ),
        "evening": (
            17,
            48,
            (2.7, 1.6, 0.8),
            (0.4, 0.44, 0.62),
            (0.2, 0.32, 0.56),
            (1.0, 0.66, 0.42),
            1.05,
            0.5,
        ),
        "clear": (
            42,
            60,
            (2.6, 2.4, 2.05),
            (0.46, 0.58, 0.82),
            (0.06, 0.2, 0.56),
            (0.5, 0.68, 0.9),
            0.95,
            0.3,
        ),
        "dusk": (
            7,
            40,
            (0.55, 0.26, 0.16),
            (0.30, 0.36, 0.58),
            (0.08, 0.12, 0.32),
            (0.86, 0.46, 0.34),
            1.3,
            0.55,
        ),
    }
    height, aside, sun, ambient, zenith, low, exposure, cover = table[mood]
    up = np.radians(height + rng.uniform(-4, 4))
    around = towards + side * np.radians(aside + rng.uniform(-15, 15))
    warmth = 1 + rng.uniform(-0.06, 0.06) * np.array([1.0, 0.0, -1.0])
    return Light(
        sun=np.array([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)]),
        sun_rgb=np.array(sun) * warmth,
        ambient_rgb=np.array(ambient) * warmth,
        zenith_rgb=np.array(zenith),
        horizon_rgb=np.array(low),
        exposure=exposure * float(rng.uniform(0.85, 1.15)),
        contrast=float(rng.uniform(0.9, 1.08)),
        haze_m=float(
            rng.uniform(260, 420) if mood in ("veiled", "evening") else rng.uniform(500, 1200)
        ),
        glow=1.5 if mood == "dusk" else 0.0,
        grain=float(rng.uniform(1.0, 3.0)),
        cloud_turn=float(rng.uniform(0, 2 * np.pi)),
        cloud_cover=float(np.clip(cover + rng.uniform(-0.08, 0.08), 0, 1)),
    )


def photograph_one(
    faces: list[Face],
    where: Place,
    sky: Sky,
    seed: int,
    index: int,
    count: int,
    size: tuple[int, int],
) -> tuple[Camera, Rendering]:
    """Picture `index` of a place among the standing `faces` of the town, with its own clutter."""
    camera, light = plan_view(where, seed, index, count, size)
    rng = seeded(seed, "clutter", where.name, index)
    extra = clutter(rng, where, camera.centre, 11 if index >= count else 7)
    picture = render([*faces, *extra], camera, light, sky, rng, focus=where.centre)
    return camera, picture


def _photograph(
    root: Path, names: tuple[str, ...], seed: int, views: int, size: tuple[int, int]
) -> list[Shot]:
    """Render and save every picture of the town."""
    places = [place(seed, name) for name in (*names, *ELSEWHERE)]
    faces = [meadow(seed), *(f for p in places for f in p.faces)]
    sky = horizon(seed)
    turned = names[seeded(seed, "turned").integers(len(names))]
    shots: list[Shot] = []
    (root / "queries").mkdir()
    for p in places:
        landmark = p.name if p.name in names else None
        if landmark is not None:
            (root / "landmarks" / p.name).mkdir(parents=True)
        for i in range(views + 1) if landmark is not None else (views,):
            camera, picture = photograph_one(faces, p, sky, seed, i, views, size)
            file = f"landmarks/{p.name}/{i + 1:02d}.jpg" if i < views else f"queries/{p.name}.jpg"
            shots.append(_save(root, file, landmark, camera, picture.image, len(shots)))
        if landmark == turned:
            camera, picture = photograph_one(faces, p, sky, seed, views + 1, views, size)
            camera, image = _turned(camera, picture.image)
            file = f"queries/{p.name}-turned.jpg"
            shots.append(_save(root, file, landmark, camera, image, len(shots)))
    return shots


def _turned(camera: Camera, image: U8) -> tuple[Camera, U8]:
    """The picture turned by 90 degrees to the left, and the camera that would have taken it.

    Pixel (x, y) goes to (y, w - 1 - x): the camera's x axis becomes its old y, its y the old -x.
    """
    turn = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    moved = replace(
        camera,
        width=camera.height,
        height=camera.width,
        rotation=turn @ camera.rotation,
        translation=turn @ camera.translation,
    )
    return moved, np.ascontiguousarray(np.rot90(image))


# --------------------------------------------------------------------------- writing


def geodetic(point: F64) -> tuple[float, float, float]:
    """World (3,) metres to WGS84 latitude, longitude (degrees) and height (metres)."""
    a, e2 = 6378137.0, 6.69437999014e-3  # WGS84 equatorial radius, metres, and eccentricity squared
    lat0, lon0, h0 = ORIGIN
    s = 1 - e2 * np.sin(np.radians(lat0)) ** 2
    meridian, vertical = a * (1 - e2) / s**1.5, a / np.sqrt(s)
    lat = lat0 + np.degrees(point[1] / (meridian + h0))
    lon = lon0 + np.degrees(point[0] / ((vertical + h0) * np.cos(np.radians(lat0))))
    return float(lat), float(lon), float(h0 + point[2])


def _exif(camera: Camera, number: int) -> Image.Exif:
    """EXIF of a picture; number counts the pictures, one every seven minutes of one day or more."""
    long_side = max(camera.width, camera.height)
    minute = 9 * 60 + 7 * number
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "locate", "town camera"  # Make, Model
    detail = exif.get_ifd(0x8769)
    detail[0x9003] = (  # DateTimeOriginal
        f"2024:06:{1 + minute // 1440:02d} {minute // 60 % 24:02d}:{minute % 60:02d}:00"
    )
    # FocalLength, mm: focal / long side is a whole number of 36ths
    film = round(camera.focal / long_side * 36)
    detail[0x920A] = IFDRational(round(film * SENSOR_MM * 1000 / 36), 1000)
    detail[0xA405] = film  # FocalLengthIn35mmFilm
    lat, lon, height = geodetic(camera.centre)
    gps = exif.get_ifd(0x8825)
    gps[0] = b"\x02\x03\x00\x00"
    gps[1], gps[2] = "N" if lat >= 0 else "S", _sexagesimal(abs(lat))
    gps[3], gps[4] = "E" if lon >= 0 else "W", _sexagesimal(abs(lon))
    gps[5], gps[6] = (
        b"\x00" if height >= 0 else b"\x01",
        IFDRational(round(abs(height) * 1000), 1000),
    )
    return exif


def _sexagesimal(degrees: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    """Degrees, minutes and seconds; seconds to 1 / 100 000, which is 0.3 mm on the ground."""
    ticks = round(degrees * 3600 * 100_000)
    whole, rest = divmod(ticks, 3600 * 100_000)
    minutes, seconds = divmod(rest, 60 * 100_000)
    return IFDRational(whole, 1), IFDRational(minutes, 1), IFDRational(seconds, 100_000)


def quaternion(rotation: F64) -> F64:
    """Rotation (3, 3) to a unit quaternion (w, x, y, z), w >= 0, by its largest component.

    Shepperd, "Quaternion from rotation matrix", 1978.
    """
    m = rotation
    squares = np.array(
        [
            1 + m[0, 0] + m[1, 1] + m[2, 2],
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
        ]
    )
    # 4 q_i q_j, and 4 q_i^2 on the diagonal
    products = np.diag(squares)
    wx, wy, wz = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    xy, xz, yz = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    for (i, j), v in {
        (0, 1): wx,
        (0, 2): wy,
        (0, 3): wz,
        (1, 2): xy,
        (1, 3): xz,
        (2, 3): yz,
    }.items():
        products[i, j] = products[j, i] = v
    q = products[int(np.argmax(squares))]
    q = q / np.linalg.norm(q)
    return np.asarray(-q if q[0] < 0 else q, np.float64)


def _save(
    root: Path, file: str, landmark: str | None, camera: Camera, image: U8, number: int
) -> Shot:
    """Write one JPEG with its EXIF and return its record."""
    Image.fromarray(image).save(
        root / file, quality=QUALITY, subsampling=0, exif=_exif(camera, number)
    )
    return Shot(
        file,
        landmark,
        camera.width,
        camera.height,
        camera.matrix,
        quaternion(camera.rotation),
        camera.translation,
        camera.centre,
    )


def _write_truth(
    path: Path, shots: list[Shot], names: tuple[str, ...], settings: dict[str, Any]
) -> None:
    """truth.json: the header, then one entry per picture."""
    lat, lon, height = ORIGIN
    images = [
        {
            "file": s.file,
            "landmark": s.landmark,
            "width": s.width,
            "height": s.height,
            "K": {"fx": s.k[0, 0], "fy": s.k[1, 1], "cx": s.k[0, 2], "cy": s.k[1, 2]},
            "cam_from_world": {
                "quaternion": s.quaternion.tolist(),
                "translation": s.translation.tolist(),
            },
            "centre": s.centre.tolist(),
        }
        for s in shots
    ]
    data = {
        "convention": CONVENTION,
        "gps_origin": {"latitude": lat, "longitude": lon, "height": height},
        "settings": settings,
        "landmarks": list(names),
        "images": images,
    }
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _shot_from_json(item: dict[str, Any]) -> Shot:
    """The inverse of one entry of truth.json."""
    k, pose = item["K"], item["cam_from_world"]
    return Shot(
        item["file"],
        item["landmark"],
        item["width"],
        item["height"],
        np.array([[k["fx"], 0.0, k["cx"]], [0.0, k["fy"], k["cy"]], [0.0, 0.0, 1.0]]),
        np.array(pose["quaternion"]),
        np.array(pose["translation"]),
        np.array(item["centre"]),
    )


def _write_colmap(folder: Path, shots: list[Shot]) -> None:
    """The landmarks' pictures as a COLMAP text model, names relative to landmarks/.

    https://colmap.github.io/format.html; COLMAP's upper left pixel CENTRE is (0.5, 0.5).
    """
    folder.mkdir()
    cameras: dict[tuple[int, int, float], int] = {}
    camera_lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, f, cx, cy"]
    image_lines = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "# POINTS2D (none)"]
    mapped = [s for s in shots if s.file.startswith("landmarks/")]
    for number, s in enumerate(mapped, start=1):
        key = (s.width, s.height, float(s.k[0, 0]))
        if key not in cameras:
            cameras[key] = len(cameras) + 1
            cx, cy = float(s.k[0, 2]) + 0.5, float(s.k[1, 2]) + 0.5
            camera_lines.append(
                f"{cameras[key]} SIMPLE_PINHOLE {s.width} {s.height} {key[2]!r} {cx!r} {cy!r}"
            )
        pose = " ".join(repr(float(v)) for v in (*s.quaternion, *s.translation))
        image_lines += [f"{number} {pose} {cameras[key]} {s.file.removeprefix('landmarks/')}", ""]
    texts = {
        "cameras.txt": camera_lines,
        "images.txt": image_lines,
        "points3D.txt": ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] (none)"],
    }
    for name, lines in texts.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
