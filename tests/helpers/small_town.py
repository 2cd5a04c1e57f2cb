"""A town of two landmarks and its map, and how far a pose is from the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from index.maps.folder import MapFolder
from pipelines.mapping.import_model import import_map
from pipelines.town.town import make_town


@dataclass(frozen=True)
class Query:
    """A photo of the town, its COLMAP camera and its true 3 x 4 `cam_from_world`."""

    path: Path
    camera: pycolmap.Camera
    truth: np.ndarray


def small_town(tmp_path_factory):
    """(the town, its map): two landmarks, whose poses are in metres. Made once a session, whichever test
    file asks first."""
    base = tmp_path_factory.getbasetemp() / "small-town"
    base.mkdir(exist_ok=True)
    town = make_town(base / "town", landmarks=2, views=5, size=(640, 480))
    folder = base / "map"
    if not MapFolder(folder).exists():
        root = town.root
        import_map(
            root / "colmap",
            root / "landmarks",
            folder,
            extractor="gem+sift",  # whose poses are the most precise here
            metric=True,
            workers=1,
        )
    return town, folder


def queries_of(town):
    """The queries that show a landmark, by name; the truth read from truth.json."""
    found = {}
    for shot in town.shots:
        name = Path(shot.file).stem
        if shot.file.startswith("queries/") and shot.landmark:
            f, cx, cy = shot.k[0, 0], shot.k[0, 2] + 0.5, shot.k[1, 2] + 0.5
            camera = pycolmap.Camera(
                model="SIMPLE_PINHOLE", width=shot.width, height=shot.height, params=[f, cx, cy]
            )
            w, x, y, z = shot.quaternion
            rotation = np.array(
                [
                    [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                    [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
                ]
            )
            found[name] = Query(town.root / shot.file, camera, np.c_[rotation, shot.translation])
    return found


def errors(pose, truth):
    """(distance of the centres as a share of the median distance of the points, degrees)"""
    true_centre = -truth[:, :3].T @ truth[:, 3]
    centre = -pose.cam_from_world[:, :3].T @ pose.cam_from_world[:, 3]
    depth = np.median(np.linalg.norm(pose.world_points - true_centre, axis=1))
    turn = pose.cam_from_world[:, :3] @ truth[:, :3].T
    degrees = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
    return np.linalg.norm(centre - true_centre) / depth, degrees


def nees(pose, truth):
    """e^T C^-1 e with e = (d, w): the true pose is (exp(w) R_wc, c + d)."""
    r, t = pose.cam_from_world[:, :3], pose.cam_from_world[:, 3]
    moved = -truth[:, :3].T @ truth[:, 3] + r.T @ t
    e = np.concatenate([moved, _log(truth[:, :3].T @ r)])
    return float(e @ np.linalg.solve(pose.covariance, e))


def _log(rotation):
    """The rotation vector, by the eigenvector of eigenvalue 1."""
    values, vectors = np.linalg.eig(rotation)
    axis = np.real(vectors[:, np.argmin(np.abs(values - 1))])
    skew = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0],
                     rotation[1, 0] - rotation[0, 1]])  # fmt: skip
    angle = np.arctan2(np.linalg.norm(skew), np.trace(rotation) - 1)
    return axis * angle * (1 if axis @ skew > 0 else -1)


def same(a, b):
    """Whether two records are the same bit by bit, but for the file and the time."""
    values = [{**p.to_json(), "photo": None, "seconds": None} for p in (a, b)]
    return values[0] == values[1] and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("cam_from_world", "covariance", "points", "world_points")
    )
