"""Whether photos prove the structure of a map: only what moved by its depth says where cameras stood.

Photos from one spot, and photos of a plane by a camera of unknown focal length, agree with models whose
centres and focal lengths are invented: a mapper that has to guess the focal length takes the turn of a
camera for a step before a plane. So each pair of photos is held against a homography
(`locate.mapping.two_views`), which explains both without any depth:

    proven   its points leave the homography by their depth; or the focal lengths are known, the points
             lie in a plane, and a turn does not explain them
    weak     they leave it, but by so little that a lens might do it
    flat     they do not

A photo is proven by one pair that is, or by points that other such photos fix. The thresholds part
turned photos from those of `train/scenes` and of the rendered town: there a pair from one spot has at
most .2 % of its points off the homography, the pairs of a photo that moved 5 to 80 %.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycolmap

from locate.geometry.rigid import transform
from locate.mapping.two_views import View, fit_plane, turned_only
from locate.types import Array

Pair = tuple[int, int]

JUDGED = 1  # how; grows when maps that are there have to be judged again
PROVEN, WEAK, FLAT = "proven", "weak", "flat"
DEPTH_ERROR = 4.0  # pixels at the size that the extractor looks at, which no lens explains
_WEAK_ERROR = 1.0  # the same, beyond the precision of keypoints
_NOISES = 3.0  # times the median reprojection error, where that is larger
_SHARE, _WEAK_SHARE = 0.05, 0.1  # of the points of a pair, off the homography
_LEAST = 6  # of them
MIN_POINTS = 15  # of a pair, for it to tell anything; of a photo, to be fixed by points of others
_ANGLE = 1.5  # degrees between two rays that fix a point, as COLMAP has it
_FREEDOM = 2.0  # times as long or as short a known focal length may be
_ANY_FOCAL = 4.0  # the same of one that is a guess
UNMOVED = (
    "its matches are explained by turning the camera on the spot of another photo, or lie in a plane, "
    "and it sees no points whose depth others prove; take it from another place"
)


@dataclass(frozen=True, eq=False)
class Structure:
    """Ids of the photos that are proven (or whose pairs have too few points to tell), weak and flat;
    and the share of the flat pairs that a turn of the camera explains."""

    proven: frozenset[int]
    weak: frozenset[int]
    flat: frozenset[int]
    turned: float

    @property
    def nothing(self) -> bool:
        """Whether nothing at all is determined."""
        return not self.proven and len(self.weak) <= len(self.flat)

    @property
    def doubt(self) -> str | None:
        """Why the map is uncertain as a whole; None if it is not."""
        if len(self.proven) >= len(self.weak):
            return None
        count = len(self.proven | self.weak | self.flat)
        return (
            f"{count - len(self.proven)} of its {count} photos show hardly any depth (a scene that is "
            "nearly flat, or steps that are small against its distance) and do not say their focal "
            "length, so centres and focal lengths are not certain"
        )

    @property
    def left_out(self) -> dict[int, str]:
        """Why photos should be left out, by id: the flat ones, if the others prove something."""
        return {} if self.doubt or self.nothing else dict.fromkeys(self.flat, UNMOVED)


def nothing_moved(count: int, turned: float, *, alone: bool = True) -> str:
    """Why `count` photos, which are all that there are if `alone`, make no map, and the cure.
    `turned`: see `Structure`."""
    those = f"{count} photos"
    if alone:
        those = "both photos" if count == 2 else f"all {those}"
    if turned > 0.5:
        return (
            f"{those} seem to be taken from one spot: what they have in common is explained by turning "
            "the camera alone, so that nothing says how far anything is; move sideways between photos, "
            "by a tenth of the distance to the scene"
        )
    return (
        f"what {those} have in common is flat, and their focal lengths are not known, so that neither "
        "these nor the places of the cameras are determined; take photos that show depth as well, or "
        "that have their focal length in EXIF, or give poses by locate import-map"
    )


class _Observations(NamedTuple):
    """The points that a photo sees: ids, ascending, and M x 2 pixels."""

    ids: Array
    pixels: Array


def examine(
    model: pycolmap.Reconstruction,
    pairs: Iterable[Pair],
    *,
    scale: float,
    calibrated: Collection[int] = (),
    fixed: Collection[int] = (),
) -> Structure:
    """Which photos of a model have a structure that the matches of `pairs` prove. `scale`:
    `extraction_scale` of the photos; `calibrated`: ids of the cameras whose focal lengths are known,
    not guessed; `fixed`: ids of photos that need no proof any more."""
    images = {i: model.images[i] for i in model.reg_image_ids()}
    seen = {i: _observations(image) for i, image in images.items()}
    centres = {i: np.asarray(image.projection_center()) for i, image in images.items()}
    kept = [(i, j) for i, j in pairs if i in images and j in images]
    # Photos that are far from each other show depth best; the others need not be looked at then.
    kept.sort(key=lambda pair: -float(np.linalg.norm(centres[pair[0]] - centres[pair[1]])))
    proven, weak, turned = set(fixed) & images.keys(), set[int](), list[bool]()
    told = set[int]()
    for i, j in kept:
        if i in proven and j in proven:
            continue
        kind, by_turning = _classify(model, images[i], images[j], seen, scale, calibrated)
        if kind is not None:
            told |= {i, j}
        if kind == PROVEN:
            proven |= {i, j}
        elif kind == WEAK:
            weak |= {i, j}
        elif by_turning is not None:
            turned.append(by_turning)
    proven |= images.keys() - told  # nothing speaks against them
    _propagate(model, proven, seen, centres)
    both = proven | weak
    _propagate(model, both, seen, centres)
    share = float(np.mean(turned)) if turned else 0.0
    flat = frozenset(images.keys() - both)
    return Structure(frozenset(proven), frozenset(both - proven), flat, share)


def known_cameras(database: Path) -> set[int]:
    """Ids of the cameras of a database of matches whose focal lengths are not guessed."""
    with closing(pycolmap.Database.open(database)) as opened:
        cameras = opened.read_all_cameras()
    return {camera.camera_id for camera in cameras if camera.has_prior_focal_length}


def leave_out(model: pycolmap.Reconstruction, photos: Iterable[int]) -> None:
    """Take photos out of a model, and the points that fewer than two others see."""
    for i in photos:
        model.deregister_frame(model.images[i].frame_id)


def examine_matches(
    database: pycolmap.Database, pairs: Mapping[Pair, int], *, scale: float
) -> float | None:
    """Share of the pairs that a turn explains, by their verified matches (whose counts are given)
    alone, where a homography explains all of them; None if some show depth or there are no pairs."""
    cameras = {image.image_id: image.camera_id for image in database.read_all_images()}
    turned = []
    for (i, j), count in pairs.items():
        if count < MIN_POINTS:
            continue
        geometry = database.read_two_view_geometry(i, j)
        matches = np.asarray(geometry.inlier_matches, np.int64).reshape(-1, 2)
        keypoints = [np.asarray(database.read_keypoints(k), np.float64) for k in (i, j)]
        pixels = [keypoints[side][matches[:, side], :2] for side in (0, 1)]
        own = [database.read_camera(cameras[k]) for k in (i, j)]
        residuals, by_turning = _fit(own, pixels, DEPTH_ERROR * scale)
        if _many(residuals, DEPTH_ERROR * scale):
            return None
        turned.append(by_turning(_ANY_FOCAL))
    return float(np.mean(turned)) if turned else None


def _classify(
    model: pycolmap.Reconstruction,
    a: pycolmap.Image,
    b: pycolmap.Image,
    seen: Mapping[int, _Observations],
    scale: float,
    calibrated: Collection[int],
) -> tuple[str | None, bool | None]:
    """What a pair proves, None of too few points; and of a flat one, whether a turn explains it."""
    common, in_a, in_b = np.intersect1d(
        seen[a.image_id].ids, seen[b.image_id].ids, assume_unique=True, return_indices=True
    )
    if len(common) < MIN_POINTS:
        return None, None
    pixels = [seen[a.image_id].pixels[in_a], seen[b.image_id].pixels[in_b]]
    tolerance = DEPTH_ERROR * scale
    residuals, by_turning = _fit([a.camera, b.camera], pixels, tolerance)
    if _many(residuals, tolerance):
        return PROVEN, None
    known = a.camera_id in calibrated and b.camera_id in calibrated
    if known and not by_turning(_FREEDOM):
        return PROVEN, None
    points = np.array([model.points3D[int(i)].xyz for i in common])
    noise = np.hypot(_errors(a, points, pixels[0]), _errors(b, points, pixels[1]))
    least = max(_WEAK_ERROR * scale, _NOISES * float(np.median(noise)))
    # By the model; the tails of keypoints' errors are long.
    explained = residuals[noise <= least]
    if _many(explained, min(least, tolerance), _WEAK_SHARE):
        return WEAK, None
    return FLAT, known or by_turning(_ANY_FOCAL)


def _fit(
    cameras: list[pycolmap.Camera], pixels: list[Array], tolerance: float
) -> tuple[Array, Callable[[float], bool]]:
    """Residuals of the plane that fits two views best, and whether a turn with so free focal lengths
    explains them."""
    each = zip(cameras, pixels, strict=True)
    a, b = (View(xy, (c.width, c.height), c.mean_focal_length()) for c, xy in each)
    one = cameras[0].camera_id == cameras[1].camera_id
    plane = fit_plane(a, b, tolerance=tolerance, one_lens=one)

    def by_turning(freedom: float) -> bool:
        missed = turned_only(a, b, plane, freedom=freedom, one_lens=one)
        return not _many(missed, tolerance)

    return plane.residuals, by_turning


def _many(residuals: Array, tolerance: float, share: float = _SHARE) -> bool:
    """Whether more points are off than stray matches are."""
    off = int((residuals > tolerance).sum())
    return off >= _LEAST and off >= share * len(residuals)


def _propagate(
    model: pycolmap.Reconstruction,
    fixed: set[int],
    seen: Mapping[int, _Observations],
    centres: Mapping[int, Array],
) -> None:
    """Add the photos that see enough points which two fixed ones see from different places: their poses
    are determined, wherever they were taken from."""
    grown = True
    while grown and fixed:
        grown = False
        for i in seen.keys() - fixed:
            held = sum(_held(model.points3D[int(p)], fixed, centres) for p in seen[i].ids)
            if held >= MIN_POINTS:
                fixed.add(i)
                grown = True


def _held(point: pycolmap.Point3D, fixed: Collection[int], centres: Mapping[int, Array]) -> bool:
    """Whether rays of fixed photos meet in a point at an angle."""
    ids = {element.image_id for element in point.track.elements} & set(fixed)
    if len(ids) < 2:
        return False
    rays = np.array([centres[i] for i in ids]) - point.xyz
    rays /= np.linalg.norm(rays, axis=1)[:, None]
    return bool((rays @ rays.T).min() < np.cos(np.radians(_ANGLE)))


def _observations(image: pycolmap.Image) -> _Observations:
    points = [image.points2D[int(k)] for k in image.get_observation_point2D_idxs()]
    ids = np.array([point.point3D_id for point in points], np.int64)
    pixels = np.array([point.xy for point in points], np.float64).reshape(-1, 2)
    ids, first = np.unique(ids, return_index=True)
    return _Observations(ids, pixels[first])


def _errors(image: pycolmap.Image, points: Array, pixels: Array) -> Array:
    projected = image.camera.img_from_cam(transform(image.cam_from_world().matrix(), points))
    return np.asarray(np.linalg.norm(np.asarray(projected) - pixels, axis=1))
