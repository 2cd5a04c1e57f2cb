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

from locate.types import Array
from pipelines.town.model import Camera

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
    k: (3, 3) calibration, centre ((w - 1) / 2, (h - 1) / 2); quaternion (w, x, y, z) and
    translation (3,) metres: cam_from_world; centre: (3,) metres.
    """

    file: str
    landmark: str | None
    width: int
    height: int
    k: Array
    quaternion: Array
    translation: Array
    centre: Array

    def to_json(self) -> dict[str, Any]:
        """Its entry in truth.json."""
        k, pose = self.k, {"quaternion": self.quaternion, "translation": self.translation}
        return {
            **{name: getattr(self, name) for name in ("file", "landmark", "width", "height")},
            "K": {"fx": k[0, 0], "fy": k[1, 1], "cx": k[0, 2], "cy": k[1, 2]},
            "cam_from_world": {name: values.tolist() for name, values in pose.items()},
            "centre": self.centre.tolist(),
        }

    @classmethod
    def from_json(cls, item: dict[str, Any]) -> Shot:
        k, pose = item["K"], item["cam_from_world"]
        matrix = np.array([[k["fx"], 0.0, k["cx"]], [0.0, k["fy"], k["cy"]], [0.0, 0.0, 1.0]])
        own = item["file"], item["landmark"], item["width"], item["height"]
        pose_arrays = np.array(pose["quaternion"]), np.array(pose["translation"])
        return cls(*own, matrix, *pose_arrays, np.array(item["centre"]))


def geodetic(point: Array) -> tuple[float, float, float]:
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
    minute = 9 * 60 + 7 * number
    # focal / long side is a whole number of 36ths
    film = round(camera.focal / max(camera.width, camera.height) * 36)
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "locate", "town camera"  # Make, Model
    detail = exif.get_ifd(0x8769)
    clock = f"{minute // 60 % 24:02d}:{minute % 60:02d}:00"
    detail[0x9003] = f"2024:06:{1 + minute // 1440:02d} {clock}"  # DateTimeOriginal
    detail[0x920A] = IFDRational(round(film * SENSOR_MM * 1000 / 36), 1000)  # FocalLength, mm
    detail[0xA405] = film  # FocalLengthIn35mmFilm
    lat, lon, height = geodetic(camera.centre)
    gps = exif.get_ifd(0x8825)
    # The town lies north, east and above the sea.
    gps[0], gps[1], gps[2] = b"\x02\x03\x00\x00", "N", _sexagesimal(lat)
    gps[3], gps[4] = "E", _sexagesimal(lon)
    gps[5], gps[6] = b"\x00", IFDRational(round(height * 1000), 1000)
    return exif


def _sexagesimal(degrees: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    """Degrees, minutes and seconds; seconds to 1 / 100 000, which is 0.3 mm on the ground."""
    whole, rest = divmod(round(degrees * 3600 * 100_000), 3600 * 100_000)
    minutes, seconds = divmod(rest, 60 * 100_000)
    return IFDRational(whole, 1), IFDRational(minutes, 1), IFDRational(seconds, 100_000)


def quaternion(rotation: Array) -> Array:
    """Rotation (3, 3) to a unit quaternion (w, x, y, z), w >= 0, by its largest component.

    Shepperd, "Quaternion from rotation matrix", 1978. `locate.geometry.rigid.quaternion_of` rounds
    otherwise in the last bit, and truth.json must not change.
    """
    m = rotation
    a, b, c = np.diag(m)
    squares = np.diag([1 + a + b + c, 1 + a - b - c, 1 - a + b - c, 1 - a - b + c])
    rest = np.zeros((4, 4))  # 4 q_i q_j above the diagonal
    rest[0, 1:] = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    rest[1, 2:] = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]
    rest[2, 3] = m[1, 2] + m[2, 1]
    q = (squares + rest + rest.T)[int(np.argmax(np.diag(squares)))]
    q /= np.linalg.norm(q)
    return np.asarray(-q if q[0] < 0 else q)


def save(
    root: Path, file: str, landmark: str | None, camera: Camera, image: Array, number: int
) -> Shot:
    """Write one JPEG with its EXIF and return its record."""
    exif = _exif(camera, number)
    Image.fromarray(image).save(root / file, quality=QUALITY, subsampling=0, exif=exif)
    pose = quaternion(camera.rotation), camera.translation, camera.centre
    return Shot(file, landmark, camera.width, camera.height, camera.matrix, *pose)


def write_truth(
    path: Path, shots: list[Shot], names: tuple[str, ...], settings: dict[str, Any]
) -> None:
    """truth.json: the header, then one entry per picture."""
    data = {
        "convention": CONVENTION,
        "gps_origin": dict(zip(("latitude", "longitude", "height"), ORIGIN, strict=True)),
        "settings": settings,
        "landmarks": names,
        "images": [shot.to_json() for shot in shots],
    }
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def write_colmap(folder: Path, shots: list[Shot]) -> None:
    """The landmarks' pictures as a COLMAP text model, names relative to landmarks/.

    https://colmap.github.io/format.html; COLMAP's upper left pixel CENTRE is (0.5, 0.5).
    """
    folder.mkdir()
    cameras: dict[str, int] = {}  # numbers by model, size and parameters
    images = ["# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME", "# POINTS2D (none)"]
    for shot in shots:
        if not shot.file.startswith("landmarks/"):
            continue
        f, cx, cy = shot.k[0, 0], shot.k[0, 2] + 0.5, shot.k[1, 2] + 0.5
        camera = f"SIMPLE_PINHOLE {shot.width} {shot.height} {float(f)} {float(cx)} {float(cy)}"
        camera_id = cameras.setdefault(camera, len(cameras) + 1)
        pose = " ".join(map(str, (*shot.quaternion.tolist(), *shot.translation.tolist())))
        name = shot.file.removeprefix("landmarks/")
        images += [f"{len(images) // 2} {pose} {camera_id} {name}", ""]
    numbered = [f"{number} {camera}" for camera, number in cameras.items()]
    texts = {
        "cameras": ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, f, cx, cy", *numbered],
        "images": images,
        "points3D": ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] (none)"],
    }
    for name, lines in texts.items():
        (folder / f"{name}.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
