"""How well the photos of a map determine their focal lengths, where EXIF does not say them.

Cameras that move without turning, or see far things only, leave the focal length open: a scene that is
twice as deep fits as well. It shows in the covariance of the bundle adjustment: the normal equations
J^T J of all reprojection errors, the points eliminated (Triggs et al., Bundle adjustment - a modern
synthesis, 1999, section 6.1), inverted for the focal lengths. The seven freedoms of the world's frame do
not touch these.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pycolmap

from locate.geometry.cameras import colmap_camera
from locate.geometry.rigid import cross_matrices
from locate.types import Array

# Of a focal length, beyond which a map is uncertain: so much a distance is unknown, and as much of it
# may the position of a photo be (`locate.localization.verdict.MAX_POSITION`).
MAX_SIGMA = 0.05
_MOST_PHOTOS = 200  # of a map that is looked at
_POINTS = 5000  # that are looked at, and
_TRACK = 8  # observations of each: what is left out makes the answer a little too large
_WIDE, _BENT = 1.0, 0.1  # standard deviations of log f and of a lens's parameter, before any photo
_RIDGE = 1e-12  # share of the diagonal: holds the frame of the world


def focal_doubt(model: pycolmap.Reconstruction, calibrated: Collection[int] = ()) -> str | None:
    """Why the focal lengths of a map, but for those of `calibrated` cameras (ids), are uncertain;
    None if they are not, or it is not known."""
    images = [model.images[i] for i in model.reg_image_ids()]
    own = [image for image in images if image.camera_id not in calibrated]
    if 2 * len(own) <= len(images) or len(images) > _MOST_PHOTOS:
        return None
    with np.errstate(all="ignore"):  # of points behind a camera
        found = focal_sigmas(model)
    sigma = float(np.median([found[image.camera_id] for image in own]))
    if not sigma > MAX_SIGMA:  # or cannot be computed
        return None
    open_ = f"are known to {100 * sigma:.0f} % only" if sigma < 0.5 else "are not determined"
    return (
        f"the focal lengths {open_} (median of {len(own)} photos that do not say theirs): the cameras "
        "hardly turned, or stood close together against the distance, so that depths are as uncertain; "
        "take photos from around the scene, or that have their focal length in EXIF"
    )


def focal_sigmas(model: pycolmap.Reconstruction) -> dict[int, float]:
    """Relative standard error of each camera's focal length, by its id, all else being free."""
    images = [model.images[i] for i in sorted(model.reg_image_ids())]
    columns, size = dict[int, Array](), 6 * len(images)
    for camera_id in sorted({image.camera_id for image in images}):
        count = 1 + len(model.cameras[camera_id].extra_params_idxs())
        columns[camera_id] = np.arange(size, size + count)
        size += count
    wanted = _observed(model, images)
    if not wanted:
        return dict.fromkeys(columns, np.inf)
    information, whole = np.zeros((size, size)), np.zeros(size)
    errors, weights, free = 0.0, 0.0, 0
    for length, tracks in wanted.items():
        blocks = [_linear(model, images, columns, tracks[:, k]) for k in range(length)]
        by_point = sum(np.einsum("t,tia,tib->tab", w, p, p) for _, _, p, _, w in blocks)
        ridge = (_RIDGE * np.trace(by_point, axis1=1, axis2=2) + 1e-100)[:, None, None] * np.eye(3)
        inverse = np.linalg.inv(by_point + ridge)
        cross = [np.einsum("t,tia,tib->tab", w, c, p) for _, c, p, _, w in blocks]
        for i, (at, own, _, residuals, weight) in enumerate(blocks):
            _add(information, at, at, np.einsum("t,tia,tib->tab", weight, own, own))
            squares = np.einsum("t,tia->ta", weight, own**2)
            whole += np.bincount(at.ravel(), squares.ravel(), size)
            for j, (other, *_) in enumerate(blocks):
                _add(information, at, other, -cross[i] @ inverse @ cross[j].transpose(0, 2, 1))
            errors += float((weight * (residuals**2).sum(axis=1)).sum())
            weights += float(weight.sum())
        free += 3 * len(tracks)
    variance = errors / max(2 * weights - free - 6 * len(images), 1.0)
    prior = np.zeros(size)
    for own_columns in columns.values():
        prior[own_columns[0]], prior[own_columns[1:]] = _WIDE**-2, _BENT**-2
    variance = max(variance, 1e-12)
    information = information / variance + np.diag(prior)
    scale = 1 / np.sqrt(whole / variance + prior + 1e-100)  # before points take their part of it
    scaled = information * scale[:, None] * scale[None, :] + _RIDGE * np.eye(size)
    covariance = np.linalg.inv(scaled)
    firsts = {camera_id: int(own[0]) for camera_id, own in columns.items()}
    return {c: float(np.sqrt(covariance[k, k]) * scale[k]) for c, k in firsts.items()}


def _observed(model: pycolmap.Reconstruction, images: list[pycolmap.Image]) -> dict[int, Array]:
    """By the length of their tracks, points as T x length x 3: (place of the image, keypoint, point)."""
    place = {image.image_id: k for k, image in enumerate(images)}
    ids = sorted(model.point3D_ids())
    tracks: dict[int, list[list[tuple[int, int, int]]]] = {}
    for point_id in ids[:: -(-len(ids) // _POINTS) or 1]:
        elements = model.point3D(point_id).track.elements
        seen = sorted({e.image_id: e.point2D_idx for e in elements if e.image_id in place}.items())
        chosen = seen[:: -(-len(seen) // _TRACK) or 1]
        if len(chosen) > 1:
            rows = [(place[image_id], index, point_id) for image_id, index in chosen]
            tracks.setdefault(len(rows), []).append(rows)
    return {length: np.array(rows, np.int64) for length, rows in tracks.items()}


def _linear(
    model: pycolmap.Reconstruction,
    images: list[pycolmap.Image],
    columns: dict[int, Array],
    rows: Array,
) -> tuple[Array, Array, Array, Array, Array]:
    """Of T observations: columns of the parameters (T x C), derivatives by these (T x 2 x C; 0 where
    a camera lacks one) and by the point (T x 2 x 3), residuals (T x 2), robust weights (T)."""
    most = 6 + max(len(own) for own in columns.values())
    at = np.zeros((len(rows), most), np.int64)
    by_own, by_point = np.zeros((len(rows), 2, most)), np.zeros((len(rows), 2, 3))
    residuals = np.zeros((len(rows), 2))
    for k in np.unique(rows[:, 0]):
        some, image = np.flatnonzero(rows[:, 0] == k), images[k]
        camera, pose = image.camera, image.cam_from_world().matrix()
        points = np.array([model.point3D(int(p)).xyz for p in rows[some, 2]])
        pixels = np.array([image.point2D(int(i)).xy for i in rows[some, 1]])
        turned = points @ pose[:, :3].T
        seen = turned + pose[:, 3]
        residuals[some] = np.asarray(camera.img_from_cam(seen)) - pixels
        step = 1e-6 * np.abs(seen[:, 2:])
        sides = ((seen + step * axis, seen - step * axis) for axis in np.eye(3))
        changes = (np.asarray(camera.img_from_cam(a)) - camera.img_from_cam(b) for a, b in sides)
        by_seen = np.stack([change / (2 * step) for change in changes], axis=2)
        by_turn = -cross_matrices(turned)
        by_lens = [_by_parameter(camera, seen, camera.focal_length_idxs(), relative=True)]
        extras = camera.extra_params_idxs()
        by_lens += [_by_parameter(camera, seen, [i], relative=False) for i in extras]
        own = columns[image.camera_id]
        at[some, :6], at[some, 6 : 6 + len(own)] = 6 * k + np.arange(6), own
        by_own[some, :, :6] = np.concatenate([by_seen @ by_turn, by_seen], axis=2)
        by_own[some, :, 6 : 6 + len(own)] = np.stack(by_lens, axis=2)
        by_point[some] = by_seen @ pose[:, :3]
    broken = ~(np.isfinite(residuals).all(axis=1) & np.isfinite(by_own).all(axis=(1, 2)))
    residuals[broken], by_own[broken], by_point[broken] = 0.0, 0.0, 0.0  # behind a camera
    lengths = np.linalg.norm(residuals, axis=1)
    width = max(3 * float(np.median(lengths)), 1e-6)
    return at, by_own, by_point, residuals, 1 / (1 + (lengths / width) ** 2)


def _by_parameter(
    camera: pycolmap.Camera, seen: Array, indices: Collection[int], *, relative: bool
) -> Array:
    """M x 2: how pixels change with parameters that grow together, absolutely or by their share."""
    sides = []
    for sign in (1, -1):
        params = np.array(camera.params)
        for i in indices:
            params[i] += sign * 1e-6 * (params[i] if relative else 1.0)
        sides.append(np.asarray(colmap_camera(camera, params).img_from_cam(seen)))
    return np.asarray((sides[0] - sides[1]) / 2e-6)


def _add(matrix: Array, rows: Array, columns: Array, blocks: Array) -> None:
    """Add T blocks of R x C at their rows (T x R) and columns (T x C)."""
    size = len(matrix)
    places = (rows[:, :, None] * size + columns[:, None, :]).ravel()
    matrix += np.bincount(places, blocks.ravel(), size * size).reshape(size, size)
