"""Where a map lies on the earth: a similarity from the map to metres East-North-Up, and WGS84.

    x_enu = scale * R x_map + t        from GPS tags, known camera centres or control points

East-North-Up is Cartesian with its zero at `origin`: x to the east, y to the north, z up along the
normal of the WGS84 ellipsoid there. Where only local metres are known there is no origin, and the axes
are those of whoever measured. Altitudes are passed through in the datum in which they came: those of
EXIF are commonly above sea level, which changes distances along the ground by some millionths only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pycolmap

from locate.errors import DatabaseCorruptError, InputError
from locate.formats.trajectories import pair_names
from locate.georef import fitting
from locate.types import Array

GPS_ERROR, CENTER_ERROR, CONTROL_ERROR = 10.0, 1.0, 0.5  # metres, of an inlier, by default
_LEVEL_BY_CAMERAS = 3.0  # degrees; places that tell the tilt worse leave it to the cameras
_METRIC = 0.05  # of the scale, that a metric map may be off
_earth = partial(pycolmap.GPSTransform, pycolmap.GPSTransformEllipsoid.WGS84)
_UNDETERMINED = 20.0  # degrees of standard error, beyond which a rotation is no answer


@dataclass(frozen=True, eq=False)
class Georef:
    """The similarity, and how it was found. `vertical` says what tells which way is up and the heights:
    "places"; "cameras" (up as the cameras were held, the height by the places' median altitude); "none"
    (up by the cameras; heights are above the median camera, altitudes mean nothing)."""

    scale: float  # metres per unit of the map
    rotation: Array  # 3 x 3 float64, from the axes of the map to East-North-Up
    translation: Array  # 3 float64, metres
    origin: tuple[float, float, float] | None  # WGS84 (latitude, longitude, altitude) of (0, 0, 0)
    used: int  # places that it was fitted to
    inliers: int  # of them
    error: float  # median distance of the inliers from where the map says, in metres
    turn: float  # standard error in degrees of the least certain rotation, by their residuals
    outliers: tuple[str, ...] = ()  # names of the places that do not agree
    source: str = "places"  # "gps", "centers" or "control points"
    vertical: str = "places"

    def __post_init__(self) -> None:
        r = self.rotation
        orthonormal = r.shape == (3, 3) and np.allclose(r @ r.T, np.eye(3), atol=1e-6)
        if not (orthonormal and np.linalg.det(r) > 0 and self.translation.shape == (3,)):
            raise InputError(f"a georeference needs a rotation and a translation, got {r}")
        if not (np.isfinite(self.translation).all() and 0 < self.scale < np.inf):
            raise InputError(f"a georeference needs a positive scale, got {self.scale}")
        if self.origin is not None:
            fitting.check_place("the origin", self.origin)

    def enu(self, points: Array) -> Array:
        """Points of the map, N x 3 -> metres East-North-Up, N x 3 float64."""
        points = np.asarray(points, np.float64).reshape(-1, 3)
        return np.asarray(self.scale * points @ self.rotation.T + self.translation)

    def wgs84(self, points: Array) -> Array:
        """Points of the map, N x 3 -> N x 3 float64 of latitude, longitude (degrees), altitude
        (metres); `InputError` if only local metres are known."""
        if self.origin is None:
            raise InputError(
                "the map has metres but no place on the earth; run locate georef with GPS tags, "
                "coordinates in degrees or an origin"
            )
        return np.asarray(_earth().enu_to_ellipsoid(self.enu(points), *self.origin))

    def enu_pose(self, cam_from_world: Array) -> Array:
        """3 x 4 `cam_from_world` -> 3 x 4 `cam_from_enu`, in metres.

        x_cam = R_c x_map + t_c with x_map = R^T (x_enu - t) / s; times s, so that the camera is metric.
        """
        turned = cam_from_world[:, :3] @ self.rotation.T
        moved = self.scale * cam_from_world[:, 3] - turned @ self.translation
        return np.asarray(np.c_[turned, moved])

    def enu_covariance(self, covariance: Array) -> Array:
        """A pose's covariance (6 x 6, see `locate.localization.pose.Pose`) in metres and radians
        about East-North-Up, 6 x 6; how well the map itself is placed is not in it."""
        turn = np.zeros((6, 6))
        turn[:3, :3], turn[3:, 3:] = self.scale * self.rotation, self.rotation
        return np.asarray(turn @ covariance @ turn.T)

    def heading_pitch(self, cam_from_world: Array) -> tuple[float, float]:
        """Where the optical axis points: degrees clockwise from north, 0 to 360, and degrees above the
        horizon. The heading of a camera that looks straight up or down is arbitrary."""
        east, north, up = self.rotation @ cam_from_world[2, :3]
        heading = np.degrees(np.arctan2(east, north)) % 360
        return float(heading), float(np.degrees(np.arcsin(np.clip(up, -1, 1))))

    def to_json(self) -> dict[str, Any]:
        """JSON-able values, for `map.json`."""
        values = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Georef:
        """`DatabaseCorruptError` if they are not what `to_json` gives."""
        try:
            origin, outliers = values["origin"], tuple(values["outliers"])
            origin = None if origin is None else tuple(float(v) for v in origin)
            arrays = {k: np.array(values[k], np.float64) for k in ("rotation", "translation")}
            return Georef(**{**values, **arrays, "origin": origin, "outliers": outliers})
        except (KeyError, TypeError, ValueError) as error:  # an InputError is a ValueError
            raise DatabaseCorruptError(
                f"the map's georeference is damaged ({error}); run locate georef again"
            ) from error


def fit_georef(
    map_points: Mapping[str, Array],
    targets: Mapping[str, Array],
    max_error: float,
    *,
    origin: tuple[float, float, float] | None = None,
    up: Array | None = None,
    heights: bool = True,
    source: str = "places",
    seed: int = 0,
) -> Georef:
    """The similarity that most places agree with.

    Args:
        map_points, targets: 3 coordinates in the map and metres East-North-Up, by names in both.
        max_error: metres up to which a place agrees.
        up: direction of up in the map. If given, only the heading, the scale and the position are
            fitted, horizontally, and the height is the median one.
        heights: with `up`, whether the targets' heights mean something.

    Raises:
        InputError: fewer than three places; at one spot; on one line, so that the rotation about it is
            unknown; too close together for their errors; or fewer than half of them agree.
    """
    names = sorted(set(map_points) & set(targets))
    if not max_error > 0:
        raise InputError(f"the greatest error of a place must be positive, got {max_error} m")
    if len(names) < 3:
        raise InputError(
            f"{len(names)} places are known both in the map and on the earth ({', '.join(names)}); "
            "at least 3 are needed, better 10: give more, or check that the names are those of the map"
        )
    a = np.array([map_points[name] for name in names], np.float64)
    b = np.array([targets[name] for name in names], np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("the coordinates of places must be finite numbers")
    if up is None:
        fitted = fitting.robust_similarity(a, b, max_error, seed)
    else:
        a = a @ fitting.level(up).T
        fitted = fitting.robust_similarity(a[:, :2], b[:, :2], max_error, seed)
    _check_fit(fitted, a, b, max_error, flat=up is not None)
    assert fitted is not None
    scale, rotation, translation = fitted.scale, fitted.rotation, fitted.translation
    if up is not None:
        above = b[:, 2] - scale * a[:, 2] if heights else -scale * a[:, 2]
        rotation = np.block([[rotation, np.zeros((2, 1))], [np.zeros(2), 1.0]]) @ fitting.level(up)
        translation = np.append(translation, np.median(above[fitted.inliers]))
    agree, vertical = fitted.inliers, "places" if up is None else ("cameras" if heights else "none")
    outliers = tuple(name for name, good in zip(names, agree, strict=True) if not good)
    error, turn = float(np.median(fitted.residuals[agree])), float(np.degrees(fitted.turn))
    how = len(names), int(agree.sum()), error, turn, outliers, source, vertical
    return Georef(scale, rotation, translation, origin, *how)


def georef_from_gps(
    model: pycolmap.Reconstruction,
    places: Mapping[str, fitting.Place],
    *,
    max_error: float = GPS_ERROR,
    seed: int = 0,
) -> Georef:
    """From where the mapping photos were taken, as GPS says.

    Altitudes of phones are off by tens of metres, and photos are often taken along a street: where the
    places tell the tilt of the map with a standard error of more than 3 degrees, or have no altitudes,
    up is taken from the cameras (`up_direction`) and the places give heading, scale and position.

    Args:
        places: (latitude, longitude, altitude or None) by the image's name, which may lack folders. If
            half of them or more have an altitude, the others are left out; else no altitude is used.
    """
    centers = fitting.camera_centers(model)
    known = _by_image(places, centers)
    for name, place in known.items():
        fitting.check_place(name, place)
    high = {name: place for name, place in known.items() if place[2] is not None}
    heights = len(high) >= max(3, len(known) / 2)
    targets, origin = _to_enu(high if heights else {n: (*p[:2], 0.0) for n, p in known.items()})
    fit = partial(fit_georef, centers, targets, max_error, origin=origin, source="gps", seed=seed)
    if heights:
        with suppress(InputError):
            found = fit()
            if found.turn <= _LEVEL_BY_CAMERAS:
                return found
    return fit(up=fitting.up_direction(model), heights=heights)


def georef_from_centers(
    model: pycolmap.Reconstruction,
    centers: Mapping[str, Sequence[float]],
    *,
    origin: tuple[float, float, float] | None = None,
    max_error: float = CENTER_ERROR,
    seed: int = 0,
) -> Georef:
    """From known centres of cameras (x, y, z), by the image's name, which may lack folders, in local
    metres: east, north, up if the WGS84 `origin` of their (0, 0, 0) is given."""
    mapped = fitting.camera_centers(model)
    targets = {n: np.asarray(c, np.float64) for n, c in _by_image(centers, mapped).items()}
    return fit_georef(mapped, targets, max_error, origin=origin, source="centers", seed=seed)


def georef_from_control_points(
    model: pycolmap.Reconstruction,
    points: Mapping[str, Sequence[float]],
    observations: Sequence[fitting.Observation],
    *,
    geographic: bool = False,
    max_error: float = CONTROL_ERROR,
    seed: int = 0,
) -> Georef:
    """From surveyed points, by name: metres (x, y, z) or, if `geographic`, (latitude, longitude,
    altitude), each clicked in at least two mapping photos from different directions; `InputError`
    for an observation of another point, and see `fit_georef`."""
    images = {model.images[i].name: model.images[i] for i in model.reg_image_ids()}
    full = pair_names(list(dict.fromkeys(o.image for o in observations)), list(images))
    rays: dict[str, list[fitting.Ray]] = {}
    for seen in observations:
        if seen.point not in points:
            raise InputError(f"{seen.point!r} was clicked in {seen.image} but is no control point")
        if seen.image not in full:
            raise InputError(f"{seen.point!r} was clicked in {seen.image}, which is not in the map")
        ray = fitting.ray_to(model, images[full[seen.image]], seen)
        rays.setdefault(seen.point, []).append(ray)
    mapped = {name: fitting.intersect(name, found) for name, found in rays.items()}
    origin, targets = None, {n: np.asarray(points[n], np.float64) for n in mapped}
    if geographic:
        for name in mapped:
            fitting.check_place(name, points[name])
        targets, origin = _to_enu({n: tuple(points[n]) for n in mapped})
    return fit_georef(mapped, targets, max_error, origin=origin, source="control points", seed=seed)


def metric_contradiction(found: Georef) -> str | None:
    """How a georeference contradicts a map said to be in metres, by more than its own error or a few
    per cent; None if it does not."""
    # The error of the scale, share of it, is at most that of the least certain rotation in radians.
    if abs(np.log(found.scale)) <= max(_METRIC, 3 * np.radians(found.turn)):
        return None
    source = {"gps": "GPS", "centers": "the centres"}.get(found.source, f"the {found.source}")
    return (
        f"the map was imported as metric (--metric), but by {source} 1 unit of it is "
        f"{found.scale:.4g} m: one of the two is wrong; check {source}, or import the map again "
        "without --metric"
    )


def metric_by_gps(model: pycolmap.Reconstruction, places: Mapping[str, fitting.Place]) -> list[str]:
    """How GPS contradicts a model said to be in metres; empty if it does not, or tells nothing."""
    contradiction = None
    if len(places) >= 3:
        with suppress(InputError):
            contradiction = metric_contradiction(georef_from_gps(model, places))
    return [contradiction] if contradiction else []


def _check_fit(
    fitted: fitting.Similarity | None, a: Array, b: Array, max_error: float, *, flat: bool
) -> None:
    """InputError if `fitted` is no answer."""
    dimension = 2 if flat else 3
    for points, where in ((a[:, :dimension], "in the map"), (b[:, :dimension], "on the earth")):
        extent = np.ptp(points, axis=0).max()
        if extent <= 1e-9 * (1 + np.abs(points).max()):
            raise InputError(
                f"all {len(a)} places are at one spot {where}; give places some metres apart"
            )
    agreeing = 0 if fitted is None else int(fitted.inliers.sum())
    if fitted is None or agreeing < 3 or 2 * agreeing < len(a):
        raise InputError(
            f"only {agreeing} of {len(a)} places agree within {max_error:g} m; check their "
            "coordinates (latitude first? metres?), or allow a greater error"
        )
    turn = float(np.degrees(fitted.turn))
    if turn <= _UNDETERMINED:
        return
    if flat:
        raise InputError(
            f"the {agreeing} places are too close together for their errors of some "
            f"{np.median(fitted.residuals[fitted.inliers]):.2g} m: the heading would be known to "
            f"{min(turn, 180):.0f} degrees only; give places farther apart or measured better"
        )
    raise InputError(
        f"the {agreeing} places that agree lie on a line (or as good as, for their errors), so the "
        "rotation about it is unknown; give a place aside from it"
    )


def _by_image(values: Mapping[str, Any], images: Mapping[str, Array]) -> dict[str, Any]:
    """Values by the full name of the image that each key means."""
    pairs = pair_names(list(values), list(images))
    if values and not pairs:
        raise InputError(
            f"none of the {len(values)} names is an image of the map ({next(iter(values))}, "
            f"{next(iter(images), 'no image')}); check the names"
        )
    return {full: values[name] for name, full in pairs.items()}


def _to_enu(
    places: Mapping[str, Sequence[float | None]],
) -> tuple[dict[str, Array], tuple[float, float, float] | None]:
    """Metres East-North-Up by name, about the median place, and that origin."""
    if not places:
        return {}, None
    earth, lla = _earth(), np.array(list(places.values()), np.float64)
    # Of Cartesian coordinates, which do not jump at 180 degrees as the longitude does.
    middle = np.median(earth.ellipsoid_to_ecef(lla), axis=0)
    latitude, longitude, _ = earth.ecef_to_ellipsoid(middle[None])[0]
    origin = (float(latitude), float(longitude), float(np.median(lla[:, 2])))
    return dict(zip(places, earth.ellipsoid_to_enu(lla, *origin), strict=True)), origin
