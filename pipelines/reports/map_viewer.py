"""Map viewer (3-D): a map and the cameras that were found in it, as one HTML page to walk around in.

The page needs nothing else: no network, no library; it draws on a plain canvas. Its scene is a frame
with z up and its zero in the middle of the map: East-North-Up in metres if the map has a georeference,
else the map turned so that the cameras stand upright, in its own unit.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from locate.geometry.cameras import colmap_camera, is_spherical
from locate.georef.fitting import level, up_direction
from locate.georef.georef import Georef
from locate.localization.pose import Pose
from locate.types import Array
from locate.util.printable import visible
from pipelines.reports.canvas import spread_evenly
from pipelines.reports.pages import write_page
from pipelines.reports.pose_export import photo_names

MAX_POINTS = 60_000  # of the map on the page
MAX_LINES = 300  # from a query to what it sees
CONFIDENCE = 2.7955  # sigmas that hold 95 % in three dimensions: the root of chi2's quantile
_LOW, _HIGH = np.array([70, 90, 130]), np.array([235, 215, 170])  # RGB of points without a color


@dataclass(frozen=True, eq=False)
class MapScene:
    """All that the page shows: point cloud, mapping cameras, queries, and how to look at first.

    Attributes:
        points, colors: N x 3 float64 and uint8, N at most `MAX_POINTS`.
        total: how many points the map has.
        cameras: JSON-able frusta: axes are right, down and forward; corners those of the photo on the
            plane at depth 1, clockwise from the top left.
        queries: JSON-able but for `seen`, the inliers' points, M x 3 float64, at most `MAX_LINES`; rows
            of `ellipsoid` are half axes of the center's 95 % ellipsoid; that and `camera` may be None.
        radius: of what is worth looking at; stray points lie beyond.
        depth: how far mapping cameras are from what they see, the median.
        forward: 3 float64 of length 1, where mapping cameras look on average.
        unit: "m", or "units" of the map.
    """

    points: Array
    colors: Array
    total: int
    cameras: list[dict[str, Any]]
    queries: list[dict[str, Any]]
    radius: float
    depth: float
    forward: Array
    unit: str

    @property
    def camera_size(self) -> float:
        """A good length for a camera's frustum: a part of the distance to the next camera."""
        centers = np.array([camera["center"] for camera in self.cameras]).reshape(-1, 3)
        if len(centers) < 2:
            return 0.06 * self.radius
        some = centers[spread_evenly(centers, 200)]
        gaps = np.linalg.norm(some[:, None] - some[None], axis=2)
        np.fill_diagonal(gaps, np.inf)
        gap = 0.6 * float(np.median(gaps.min(axis=1)))
        return float(np.clip(gap, 0.02 * self.radius, 0.08 * self.radius))

    @property
    def exaggeration(self) -> float:
        """By how much to blow ellipsoids up so that most can be seen: 1, 2, 5, 10, ..., 1000."""
        ellipsoids = [query["ellipsoid"] for query in self.queries if query["ellipsoid"]]
        sizes = [np.linalg.norm(axes, axis=1).max() for axes in ellipsoids]
        if not sizes or np.median(sizes) <= 0:
            return 1.0
        wanted = 0.03 * self.radius / float(np.median(sizes))
        steps = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
        return max((step for step in steps if step <= wanted), default=1.0)


def write_map_viewer(
    path: Path, scene: MapScene, *, title: str = "Where were these photos taken?"
) -> None:
    """Write the page, which is replaced when it is complete; its folder is made if need be."""
    write_page(path, "map_viewer.html", title=title, scene=_scene_json(scene))


def make_scene(
    model: pycolmap.Reconstruction,
    poses: Sequence[Pose],
    *,
    georef: Georef | None = None,
    units: str = "arbitrary",
    names: Sequence[str] | None = None,
    max_points: int = MAX_POINTS,
) -> MapScene:
    """The points of `model`, its cameras and those of `poses`, in the frame of the scene.

    Of many points those that most photos see are kept; the middle and the radius are robust to points
    and cameras that lie far away.

    Args:
        georef, units: of the map, see `MapRecord`.
        names: of the photos, by default `photo_names`.
    """
    scale, rotation, move = 1.0, level(up_direction(model)), np.zeros(3)
    if georef is not None:
        scale, rotation, move = georef.scale, georef.rotation, georef.translation
    raw, colors = _points(model, max_points)
    images = [model.images[image_id] for image_id in sorted(model.reg_image_ids())]
    views = [
        (image.name, np.asarray(image.cam_from_world().matrix()), model.cameras[image.camera_id])
        for image in images
    ]
    points = scale * raw @ rotation.T + move
    centers = np.array([-pose[:, :3].T @ pose[:, 3] for _, pose, _ in views]).reshape(-1, 3)
    centers = scale * centers @ rotation.T + move
    basis = points if len(points) else centers
    middle = np.median(basis, axis=0) if len(basis) else np.zeros(3)
    shares = ((points, 75), (centers, 95))  # per cent that must be in sight at first
    away = [(np.linalg.norm(part - middle, axis=1), share) for part, share in shares if len(part)]
    radius = max([float(np.percentile(part, share)) for part, share in away], default=0.0) or 1.0
    move = move - middle
    unit = "m" if georef is not None or units == "metre" else "units"

    def shown(name: str, pose: Array, camera: pycolmap.Camera | None) -> dict[str, Any]:
        center = scale * rotation @ (-pose[:, :3].T @ pose[:, 3]) + move
        arrays = {"center": center, "axes": pose[:, :3] @ rotation.T, "corners": _corners(camera)}
        return {"name": visible(name), **{key: array.tolist() for key, array in arrays.items()}}

    cameras = [shown(*view) for view in views]
    queries = []
    for name, pose in zip(photo_names(poses) if names is None else names, poses, strict=True):
        camera = pose.camera and colmap_camera(pose.camera)
        matrix = pose.cam_from_world
        chosen = pose.world_points[spread_evenly(pose.points, MAX_LINES)]
        axes = _ellipsoid(pose.covariance, scale * rotation)
        facts = _facts(pose, georef, axes, unit)
        query = {
            "name": visible(name),
            "verdict": pose.verdict,
            "inliers": pose.inliers,
            "error": None if np.isnan(pose.error) else pose.error,
            "facts": [[fact, visible(value)] for fact, value in facts],
            "camera": None if matrix is None else shown(name, matrix, camera),
            "ellipsoid": None if axes is None else axes.tolist(),
            "seen": scale * chosen.reshape(-1, 3) @ rotation.T + move,
        }
        queries.append(query)
    forwards = np.array([camera["axes"][2] for camera in cameras]).reshape(-1, 3).sum(axis=0)
    length = float(np.linalg.norm(forwards))
    points, total = points - middle, model.num_points3D()
    depth = _depth(points, cameras, radius)
    forward = forwards / length if length > 1e-6 else np.array([0.0, 1.0, 0.0])
    return MapScene(points, colors, total, cameras, queries, radius, depth, forward, unit)


def _points(model: pycolmap.Reconstruction, limit: int) -> tuple[Array, Array]:
    """N x 3 float64 and N x 3 uint8; a ramp by height where the model has no colors."""
    ids = sorted(model.points3D)
    if len(ids) > limit:
        tracks = np.array([model.points3D[i].track.length() for i in ids])
        # Ties in a random order: ids follow the photos, and whole walls would go.
        ties = np.random.default_rng(0).permutation(len(ids))
        ids = [ids[k] for k in np.sort(np.lexsort((ties, -tracks))[:limit])]
    points = np.array([model.points3D[i].xyz for i in ids], np.float64).reshape(-1, 3)
    colors = np.array([model.points3D[i].color for i in ids], np.uint8).reshape(-1, 3)
    if ids and not colors.any():
        heights = points @ up_direction(model)
        low, high = np.percentile(heights, (5, 95))
        part = np.clip((heights - low) / max(high - low, 1e-12), 0, 1)[:, None]
        colors = np.rint(_LOW + part * (_HIGH - _LOW)).astype(np.uint8)
    return points, colors


def _corners(camera: pycolmap.Camera | None) -> Array:
    if camera is None or is_spherical(camera):  # a sphere has no corners: where its middle is
        return np.array([[-0.5, -0.4], [0.5, -0.4], [0.5, 0.4], [-0.5, 0.4]])
    w, h, f = camera.width, camera.height, camera.mean_focal_length()
    pixels = np.array([[0, 0], [w, 0], [w, h], [0, h]], np.float64)
    plane = np.asarray(camera.cam_from_img(pixels), np.float64)
    # Far outside of its calibration a model of distortion may give anything.
    fine = np.isfinite(plane).all() and np.abs(plane).max() < 20
    return plane if fine else (pixels - (w / 2, h / 2)) / f


def _ellipsoid(covariance: Array | None, turn: Array) -> Array | None:
    """Rows: half axes of the 95 % ellipsoid of the center, after `turn` (3 x 3, with the scale)."""
    if covariance is None:
        return None
    values, vectors = np.linalg.eigh(turn @ covariance[:3, :3] @ turn.T)
    return np.asarray((CONFIDENCE * np.sqrt(np.maximum(values, 0)) * vectors).T)


def _depth(points: Array, cameras: Sequence[Mapping[str, Any]], radius: float) -> float:
    """The median over cameras of the median depth of the points in their view."""
    depths = []
    for camera in cameras:
        x, y, z = np.array(camera["axes"]) @ (points - camera["center"]).T
        low, high = np.min(camera["corners"], axis=0), np.max(camera["corners"], axis=0)
        ahead = z > 0
        x, y, z = x[ahead], y[ahead], z[ahead]
        inside = (x > low[0] * z) & (x < high[0] * z) & (y > low[1] * z) & (y < high[1] * z)
        if inside.any():
            depths.append(np.median(z[inside]))
    return float(np.median(depths)) if depths else radius


def _facts(
    pose: Pose, georef: Georef | None, axes: Array | None, unit: str
) -> list[tuple[str, str]]:
    """(name, value) pairs for people."""
    inliers = f"{pose.inliers} of {pose.matches} matches"
    facts = [("verdict", pose.verdict), ("reason", pose.reason), ("inliers", inliers)]
    if np.isfinite(pose.error):
        facts.append(("error", f"{pose.error:.2f} px"))
    if axes is not None:
        half = float(np.linalg.norm(axes, axis=1).max())
        facts.append(("95 % within", f"{half:.3g} {unit}"))
    if pose.center is not None:
        facts.append(("centre in the map", ", ".join(f"{v:.4g}" for v in pose.center)))
        if georef is not None and pose.cam_from_world is not None:
            heading, pitch = georef.heading_pitch(pose.cam_from_world)
            facts.append(("heading, pitch", f"{heading:.1f}°, {pitch:.1f}°"))
            if georef.origin is not None:
                latitude, longitude, _ = georef.wgs84(pose.center)[0]
                facts.append(("latitude, longitude", f"{latitude:.7f}, {longitude:.7f}"))
    if pose.images:
        facts.append(("seen in", ", ".join(pose.images[:3])))
    return facts


def _scene_json(scene: MapScene) -> dict[str, Any]:
    def packed(values: Array, kind: str) -> str:
        return base64.b64encode(np.ascontiguousarray(values, kind).tobytes()).decode()

    return {
        "points": packed(scene.points, "<f4"),
        "colors": packed(scene.colors, "u1"),
        "total": scene.total,
        "cameras": scene.cameras,
        "queries": [{**query, "seen": packed(query["seen"], "<f4")} for query in scene.queries],
        "radius": scene.radius,
        "depth": scene.depth,
        "forward": scene.forward.tolist(),
        "unit": scene.unit,
        "cameraSize": scene.camera_size,
        "exaggeration": scene.exaggeration,
    }
