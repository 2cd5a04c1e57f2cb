"""What a georeference is fitted to, and how: tables of places, clicked points, a robust similarity.

y = s R x + t by Umeyama, Least-squares estimation of transformation parameters between two point
patterns, PAMI 1991, in two or three dimensions; RANSAC over minimal sets with a truncated squared error
(MSAC: Torr and Zisserman, CVIU 2000), then refitted to what agrees.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycolmap

from locate.errors import InputError
from locate.formats.text import fault, numbers, rows
from locate.pixels import to_colmap
from locate.types import Array

Ray = tuple[Array, Array]  # the camera's centre and the direction, of length 1, in the map
Place = tuple[float, float, float | None]  # WGS84: latitude, longitude (degrees), altitude (metres)

_TRIALS = 1000  # find three of a half that agrees with a probability of 1 - 1e-58
_ROUNDS = 20  # of refitting
_ROLL, _PITCH = 3.0, 15.0  # degrees, how far photographers stray from level
_LEAST_ANGLE = 1.0  # degrees between two rays that fix a point


class Observation(NamedTuple):
    """Where a control point is seen: x, y in our pixels of the photo, upright by EXIF."""

    point: str
    image: str
    x: float
    y: float


@dataclass(frozen=True, eq=False)
class Similarity:
    """y = scale * rotation @ x + translation, in D dimensions, its N bool inliers and N residuals in
    the target's unit; `turn` is the standard error in radians of the rotation about its least
    certain axis, as the inliers' residuals tell; huge where the points lie on a line and do not fix
    it at all."""

    scale: float
    rotation: Array
    translation: Array
    inliers: Array
    residuals: Array
    turn: float

    def __call__(self, points: Array) -> Array:
        """N x D -> N x D."""
        return np.asarray(self.scale * points @ self.rotation.T + self.translation)


def umeyama(source: Array, target: Array) -> tuple[float, Array, Array] | None:
    """(scale, D x D rotation, D translation) that map `source` (N x D) to `target` with the least
    squared error; None where one of them is all at one spot. Never a reflection."""
    mean, aim = source.mean(axis=0), target.mean(axis=0)
    a, b = source - mean, target - aim
    variance = float((a**2).sum())
    left, singular, right = np.linalg.svd(b.T @ a)
    signs = np.ones(source.shape[1])
    signs[-1] = np.sign(np.linalg.det(left) * np.linalg.det(right))
    scale = float(singular @ signs) / variance if variance > 0 else 0.0
    if not (np.isfinite(scale) and scale > 0):
        return None
    rotation = (left * signs) @ right
    return scale, rotation, aim - scale * rotation @ mean


def robust_similarity(
    source: Array, target: Array, max_error: float, seed: int = 0
) -> Similarity | None:
    """The similarity that most points (N x D, D = 2 or 3, N >= D) agree with, up to a distance of
    `max_error` in the target's unit; None where none has D inliers."""
    count, dimension = source.shape
    guesses = (umeyama(source[s], target[s]) for s in _minimal_sets(count, dimension, seed))

    def cost(guess: tuple[float, Array, Array]) -> float:
        squares = np.minimum(_residuals(guess, source, target), max_error) ** 2
        return float(squares.sum())

    best = min((guess for guess in guesses if guess is not None), key=cost, default=None)
    if best is None:
        return None
    inliers = np.zeros(count, np.bool_)
    for _ in range(_ROUNDS):
        agree = _residuals(best, source, target) <= max_error
        if agree.sum() < dimension or (agree == inliers).all():
            break
        fitted = umeyama(source[agree], target[agree])
        if fitted is None:
            break
        best, inliers = fitted, agree
    residuals = _residuals(best, source, target)
    inliers = residuals <= max_error
    if inliers.sum() < dimension:
        return None
    turn = _turn(best[0], source[inliers], residuals[inliers])
    return Similarity(*best, inliers, residuals, turn)


def level(up: Array) -> Array:
    """3 x 3 rotation that takes the direction `up` to (0, 0, 1), by the smallest turn."""
    x, y, z = np.asarray(up, np.float64) / np.linalg.norm(up)
    if z < -1 + 1e-12:
        return np.diag([1.0, -1.0, -1.0])
    # Rodrigues' formula with the axis (y, -x, 0) = up x z and cosine z, reduced by hand.
    k = 1 / (1 + z)
    return np.array([[1 - k * x * x, -k * x * y, -x], [-k * x * y, 1 - k * y * y, -y], [x, y, z]])


def up_direction(model: pycolmap.Reconstruction) -> Array:
    """Which way is up, as the photographers held their cameras: 3 float64 of length 1.

    People hold a camera level to a few degrees but tilt it up at a building. So up is the direction at
    right angles to the images' x axes (Brown and Lowe, Automatic panoramic image stitching using
    invariant features, IJCV 2007, section 5), and where all x axes are parallel, at right angles to the
    viewing directions, which count less: the least eigenvector of both, weighted by how far each
    usually strays. It points to where the tops of the images are.
    """
    poses = np.array(
        [model.images[i].cam_from_world().matrix()[:, :3] for i in sorted(model.reg_image_ids())]
    ).reshape(-1, 3, 3)
    if not len(poses):
        return np.array([0.0, 0.0, 1.0])
    right, down, forward = poses[:, 0], poses[:, 1], poses[:, 2]
    weighted = right.T @ right / _ROLL**2 + forward.T @ forward / _PITCH**2
    up = np.linalg.eigh(weighted)[1][:, 0]
    return np.asarray(-up if (down @ up).sum() > 0 else up)


def camera_centers(model: pycolmap.Reconstruction) -> dict[str, Array]:
    """-R^T t of each registered image by name."""
    images = (model.images[i] for i in sorted(model.reg_image_ids()))
    return {image.name: np.asarray(image.projection_center()) for image in images}


def ray_to(model: pycolmap.Reconstruction, image: pycolmap.Image, seen: Observation) -> Ray:
    camera = model.cameras[image.camera_id]
    pixel = to_colmap(np.array([[seen.x, seen.y]], np.float64))
    plane = camera.cam_from_img(pixel)[0]
    inside = 0 <= pixel[0, 0] <= camera.width and 0 <= pixel[0, 1] <= camera.height
    if not (inside and np.isfinite(plane).all()):
        raise InputError(
            f"{seen.point!r} at ({seen.x:g}, {seen.y:g}) lies outside of {seen.image}, "
            f"{camera.width} x {camera.height} px; give pixels of the photo as it was mapped"
        )
    direction = image.cam_from_world().matrix()[:, :3].T @ np.append(plane, 1.0)
    return np.asarray(image.projection_center()), direction / np.linalg.norm(direction)


def intersect(name: str, rays: Sequence[Ray]) -> Array:
    """The point nearest to all rays, in the least squares of the angles: distances from the rays are
    weighted by one over the distance from the camera, which takes a few rounds to settle."""
    centers, directions = (np.array(part) for part in zip(*rays, strict=True))
    cosines = np.abs(directions @ directions.T)
    if len(rays) < 2 or cosines.min() > np.cos(np.radians(_LEAST_ANGLE)):
        raise InputError(
            f"control point {name!r} is seen {len(rays)} times, from as good as one direction; click "
            f"it in at least two photos whose views differ by more than {_LEAST_ANGLE:g} degree"
        )
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    weights = np.ones(len(rays))
    for _ in range(10):
        matrix = np.einsum("n,nij->ij", weights, across)
        point = np.linalg.solve(matrix, np.einsum("n,nij,nj->i", weights, across, centers))
        distances = np.linalg.norm(point - centers, axis=1)
        weights = (distances.max() / np.maximum(distances, 1e-9 * distances.max())) ** 2
    if (((point - centers) * directions).sum(axis=1) <= 0).any():
        raise InputError(
            f"the rays to control point {name!r} meet behind a camera; check the clicks"
        )
    return np.asarray(point)


_LOCAL = ("x", "y", "z")
_GEOGRAPHIC = ("latitude", "longitude", "altitude")


def read_places(path: Path) -> dict[str, Place]:
    """A CSV file `name,latitude,longitude[,altitude]` -> places by name; altitudes may be empty."""
    places: dict[str, Place] = {}
    for number, row in _read_table(path, [("name", *_GEOGRAPHIC[:2])], "altitude"):
        latitude, longitude = numbers(path, number, [row["latitude"], row["longitude"]])
        text = row.get("altitude", "")
        place = (latitude, longitude, numbers(path, number, [text])[0] if text else None)
        check_place(f"{path}, line {number}: {row['name']}", place)
        places[row["name"]] = place
    return places


def read_centers(path: Path) -> dict[str, tuple[float, float, float]]:
    """A CSV file `name,x,y,z` in metres -> centres by name."""
    return _read_points(path, _LOCAL)[0]


def read_control_points(path: Path) -> tuple[dict[str, tuple[float, float, float]], bool]:
    """A CSV file `name,x,y,z` in metres or `name,latitude,longitude,altitude` -> the points by name, and
    whether they are geographic."""
    return _read_points(path, _LOCAL, _GEOGRAPHIC)


def read_observations(path: Path) -> list[Observation]:
    """A CSV file `point,image,x,y`, pixels with (0, 0) at the centre of the top-left one."""
    table = _read_table(path, [("point", "image", "x", "y")], unique=False)
    each = ((row, numbers(path, number, [row["x"], row["y"]])) for number, row in table)
    return [Observation(row["point"], row["image"], x, y) for row, (x, y) in each]


def check_place(name: str, place: Sequence[float | None]) -> None:
    """InputError if (latitude, longitude, altitude or None) cannot be one."""
    latitude, longitude, altitude = place
    fine = latitude is not None and longitude is not None and abs(latitude) <= 90
    fine = fine and abs(longitude or 0) <= 180 and (altitude is None or np.isfinite(altitude))
    if not fine:
        raise InputError(
            f"{name}: ({latitude}, {longitude}, {altitude}) is no place on the earth; latitude "
            "(-90 to 90) comes first, then longitude (-180 to 180), in degrees"
        )


def _read_points(
    path: Path, *kinds: tuple[str, ...]
) -> tuple[dict[str, tuple[float, float, float]], bool]:
    points: dict[str, tuple[float, float, float]] = {}
    geographic = False
    for number, row in _read_table(path, [("name", *kind) for kind in kinds]):
        geographic = "latitude" in row
        columns = _GEOGRAPHIC if geographic else _LOCAL
        x, y, z = numbers(path, number, [row[column] for column in columns])
        if geographic:
            check_place(f"{path}, line {number}: {row['name']}", (x, y, z))
        points[row["name"]] = (x, y, z)
    return points, geographic


def _read_table(
    path: Path, kinds: Sequence[tuple[str, ...]], optional: str = "", *, unique: bool = True
) -> list[tuple[int, dict[str, str]]]:
    """(line, fields by column) of a CSV file whose first line names the columns of one of `kinds`, in
    any order. Commas or semicolons part the fields, "" hold names with such, `#` begins a comment."""
    lines = rows(path)
    wanted = " or ".join(",".join(kind) for kind in kinds) + (f"[,{optional}]" if optional else "")
    if not lines:
        raise InputError(f"{path} is empty; its first line must be {wanted}")
    first, header = lines[0]
    header = header.removeprefix("\ufeff")
    comma = next((c for c in ",;" if c in header), ",")
    columns = [name.strip().lower() for name in next(csv.reader([header], delimiter=comma))]
    if not any(set(kind) <= set(columns) for kind in kinds):
        raise fault(path, first, f"expected the names of the columns, {wanted}", header)
    table, known = [], set()
    for number, line in lines[1:]:
        fields = [field.strip() for field in next(csv.reader([line], delimiter=comma))]
        if len(fields) != len(columns):
            wanted = f"expected {len(columns)} fields, {comma.join(columns)}"
            raise fault(path, number, wanted, line)
        row = dict(zip(columns, fields, strict=True))
        if unique and row["name"] in known:
            raise fault(path, number, "expected each name once", line)
        known.add(row.get("name"))
        table.append((number, row))
    return table


def _minimal_sets(count: int, size: int, seed: int) -> Iterator[Array]:
    if comb(count, size) <= _TRIALS:
        yield from (np.array(chosen) for chosen in combinations(range(count), size))
        return
    rng = np.random.default_rng(seed)
    for _ in range(_TRIALS):
        yield rng.choice(count, size, replace=False)


def _residuals(fitted: tuple[float, Array, Array], source: Array, target: Array) -> Array:
    scale, rotation, translation = fitted
    return np.asarray(np.linalg.norm(scale * source @ rotation.T + translation - target, axis=1))


def _turn(scale: float, source: Array, residuals: Array) -> float:
    """A turn by a small angle w about an axis moves a point at the distance r from it by w r, so the
    standard error of w is that of a coordinate over the root of the sum of r^2."""
    count, dimension = source.shape
    extents = np.linalg.svd(scale * (source - source.mean(axis=0)), compute_uv=False)
    # In space, points lie closest to their first principal axis; in the plane, all turn about a point.
    lever = float(np.linalg.norm(extents[1:] if dimension == 3 else extents))
    free = dimension * count - (7 if dimension == 3 else 4)
    sigma = np.sqrt((residuals**2).sum() / max(free, 1))
    sigma = max(float(sigma), 1e-6 * float(np.linalg.norm(extents)))  # exact points on a line
    return sigma / max(lever, 1e-300)
