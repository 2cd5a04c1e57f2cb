"""The town's files: JPEGs with EXIF, truth.json and the COLMAP text model.

World frame: metres, x east, y north, z up, a local tangent plane (ENU) at ORIGIN on WGS84. EXIF has
the camera centre as latitude, longitude and altitude: north / (M + h) and east / ((N + h) cos lat),
M and N the radii of curvature in the meridian and the prime vertical (Torge and Mueller, "Geodesy",
section 4.1). Over this town it differs from the exact frame by less than 2 cm.

FocalLengthIn35mmFilm is the focal length where the LONG side of the picture is 36 mm, and the true
focal is chosen to make it whole, so nothing is lost by rounding.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from pipelines.town.model import F64, U8, Camera

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


def save(
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


def write_truth(
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


def shot_from_json(item: dict[str, Any]) -> Shot:
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


def write_colmap(folder: Path, shots: list[Shot]) -> None:
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
