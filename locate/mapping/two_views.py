"""Whether two photos show depth: could all that they have in common lie in one plane, or at infinity?

The matches of a camera that turned on one spot, and of one that moved before a plane, agree with a
homography x_b ~ H x_a (Hartley and Zisserman, section 13); a lens that bends lines is allowed for by one
parameter a photo (Fitzgibbon, Simultaneous linear estimation of multiple view geometry and lens
distortion, CVPR 2001). What does not agree has moved by its depth. Where the camera turned only,
H = K_b R K_a^-1 with a rotation R.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import poselib

from locate.geometry.rigid import rotation_of
from locate.types import Array

_SAMPLE = 300  # points that a homography is fitted to
_FEW = 100  # that a rotation is
_ROUNDS = 20  # of Levenberg-Marquardt
_BEND = 0.3  # standard deviation of a lens's parameter at the corner of a photo
_CLEAR = 0.5  # share of points off the best homography, beyond which no lens explains them
_STARTS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0)  # times the focal length


@dataclass(frozen=True, eq=False)
class View:
    """M x 2 pixels, those of the other view in the same order, (width, height) of the photo, its
    focal length as believed."""

    points: Array
    size: tuple[int, int]
    focal: float

    @property
    def unit(self) -> float:
        """Half a diagonal in pixels."""
        return float(np.hypot(*self.size)) / 2

    @property
    def to_pixels(self) -> Array:
        """3 x 3, from half diagonals from the middle."""
        unit, (width, height) = self.unit, self.size
        return np.array([[unit, 0, width / 2], [0, unit, height / 2], [0, 0, 1]])

    def normalized(self) -> Array:
        """From the middle, in half diagonals."""
        return np.asarray((self.points - np.array(self.size) / 2) / self.unit)


@dataclass(frozen=True, eq=False)
class Plane:
    """The homography that fits best, from `a` to `b`, in half diagonals from the middle: M residuals in
    pixels of `b`, its 3 x 3 matrix of undistorted points, the bends of both lenses (undistorted =
    distorted / (1 + bend r^2))."""

    residuals: Array
    matrix: Array
    bends: tuple[float, float]


def fit_plane(a: View, b: View, *, tolerance: float, one_lens: bool, seed: int = 0) -> Plane:
    """What agrees does to `tolerance` pixels of `b`; `one_lens`: both photos have the same camera."""
    found, report = poselib.estimate_homography(
        np.ascontiguousarray(a.points, np.float64),
        np.ascontiguousarray(b.points, np.float64),
        {"max_reproj_error": tolerance, "max_iterations": 1000, "min_iterations": 50, "seed": seed},
    )
    matrix = np.linalg.inv(b.to_pixels) @ np.asarray(found, np.float64) @ a.to_pixels
    if not np.isfinite(matrix).all() or abs(matrix[2, 2]) < 1e-9:
        return Plane(np.full(len(a.points), np.inf), np.eye(3), (0.0, 0.0))
    start = np.append((matrix / matrix[2, 2]).ravel()[:8], [0.0, 0.0])
    points = a.normalized(), b.normalized()
    agreeing = np.asarray(report["inliers"], np.bool_)
    if agreeing.mean() < 1 - _CLEAR:
        return _as_plane(start, points, b.unit)
    some = np.unique(np.linspace(0, len(agreeing) - 1, min(_SAMPLE, len(agreeing))).astype(int))
    fitted = _refined(start, (points[0][some], points[1][some]), tolerance / b.unit, one_lens)
    return _as_plane(fitted, points, b.unit)


def turned_only(a: View, b: View, plane: Plane, *, freedom: float, one_lens: bool) -> Array:
    """M pixels of `b`: how far the points are from where a rotation alone, with focal lengths up to
    `freedom` times as long or as short as believed, would have taken them."""
    sources = _straight(a.normalized(), plane.bends[0])[0]
    targets = _straight(b.normalized(), plane.bends[1])[0]
    focals = np.array([a.focal / a.unit, b.focal / b.unit])
    starts = []
    for start in _STARTS:
        lenses = np.log(np.clip([start, start], 1 / freedom, freedom))
        own = focals * np.exp(lenses)
        k_a, k_b = (np.array([f, f, 1.0]) for f in own)
        rotation = _nearest_rotation(plane.matrix * k_a[None, :] / k_b[:, None])  # K_b^-1 H K_a
        missed = np.linalg.norm(_missed(sources, targets, rotation, own), axis=1)
        starts.append((float(np.median(missed)), rotation, lenses))
    _, rotation, lenses = min(starts, key=lambda found: found[0])
    return b.unit * _turn(sources, targets, rotation, focals, lenses, freedom, one_lens)


def _straight(points: Array, bend: float) -> tuple[Array, Array]:
    """Undistorted points, and how they change with the bend: M x 2 each."""
    squares = (points**2).sum(axis=1)[:, None]
    scale = 1 / np.maximum(1 + bend * squares, 0.05)
    return points * scale, -points * squares * scale**2


def _transfer(values: Array, points: tuple[Array, Array]) -> tuple[Array, Array]:
    """Residuals, M x 2, of the parameters (8 of the homography, 2 bends); derivatives, M x 2 x 10."""
    matrix = np.append(values[:8], 1.0).reshape(3, 3)
    (source, by_a), (target, by_b) = map(_straight, points, values[8:])
    one = np.c_[source, np.ones(len(source))]
    moved = one @ matrix.T
    depth = np.where(np.abs(moved[:, 2]) < 1e-6, 1e-6, moved[:, 2])
    flat = moved[:, :2] / depth[:, None]
    jacobian = np.zeros((len(source), 2, 10))
    for axis in (0, 1):
        jacobian[:, axis, 3 * axis : 3 * axis + 3] = one / depth[:, None]
        jacobian[:, axis, 6:8] = -flat[:, axis, None] * source / depth[:, None]
    by_source = matrix[None, :2, :2] - flat[:, :, None] * matrix[None, 2:, :2]
    by_source = by_source / depth[:, None, None]
    jacobian[:, :, 8] = np.einsum("mij,mj->mi", by_source, by_a)
    jacobian[:, :, 9] = -by_b
    return flat - target, jacobian


def _refined(values: Array, points: tuple[Array, Array], tolerance: float, one_lens: bool) -> Array:
    """The parameters of the least robust cost (Cauchy's), by Levenberg and Marquardt."""
    # 10 by the free ones
    tie = np.vstack([np.eye(9), np.eye(9)[8]]) if one_lens else np.eye(10)
    width, free = tolerance / 2, values[: tie.shape[1]].copy()

    def cost_of(parameters: Array) -> tuple[float, Array, Array]:
        residuals, jacobian = _transfer(tie @ parameters, points)
        squares = (residuals**2).sum(axis=1) / width**2
        prior = (parameters[8:] / _BEND) ** 2
        weights = 1 / (1 + squares)
        by = jacobian @ tie
        gradient = np.einsum("m,mi,mip->p", weights, residuals, by) / width**2
        normal = np.einsum("m,mip,miq->pq", weights, by, by) / width**2
        gradient[8:] += parameters[8:] / _BEND**2
        normal[range(8, len(free)), range(8, len(free))] += 1 / _BEND**2
        return float(np.log1p(squares).sum() + prior.sum()), gradient, normal

    cost, gradient, normal = cost_of(free)
    damping = 1e-3
    for _ in range(_ROUNDS):
        step = np.linalg.solve(normal + np.diag(damping * np.diag(normal) + 1e-9), gradient)
        tried = cost_of(free - step)
        if tried[0] < cost:
            done = cost - tried[0] < 1e-6 * cost
            free, (cost, gradient, normal), damping = free - step, tried, damping / 5
            if done:
                break
        else:
            damping *= 10
    return np.asarray(tie @ free)


def _as_plane(values: Array, points: tuple[Array, Array], unit: float) -> Plane:
    residuals = np.linalg.norm(_transfer(values, points)[0], axis=1) * unit
    matrix = np.append(values[:8], 1.0).reshape(3, 3)
    return Plane(residuals, matrix, (float(values[8]), float(values[9])))


def _nearest_rotation(matrix: Array) -> Array:
    left, _, right = np.linalg.svd(matrix * np.sign(np.linalg.det(matrix)))
    return np.asarray(left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right)


def _turn(
    sources: Array,
    targets: Array,
    rotation: Array,
    focals: Array,
    lenses: Array,
    freedom: float,
    one_lens: bool,
) -> Array:
    """Distances of the points from where the best rotation takes them, from a start; its parameters
    are a rotation vector and the logarithms of two factors of the focal lengths."""
    limit = np.log(freedom)

    def miss(values: Array, some: slice) -> Array:
        own = focals * np.exp([values[3], values[3 if one_lens else 4]])
        return _missed(sources[some], targets[some], rotation_of(values[:3]) @ rotation, own)

    some = slice(None, None, -(-len(sources) // _FEW))
    values = np.append(np.zeros(3), lenses)
    damping, current = 1e-3, miss(values, some)
    for _ in range(_ROUNDS):
        lengths = np.linalg.norm(current, axis=1)
        weights = 1 / (1 + (lengths / max(float(np.median(lengths)), 1e-6) / 2) ** 2)
        steps = 1e-6 * np.eye(5)
        jacobian = np.stack([(miss(values + s, some) - current) / 1e-6 for s in steps], axis=2)
        normal = np.einsum("m,mip,miq->pq", weights, jacobian, jacobian)
        gradient = np.einsum("m,mip,mi->p", weights, jacobian, current)
        normal += np.diag(damping * np.diag(normal) + 1e-12)
        tried = values - np.linalg.solve(normal, gradient)
        tried[3:] = np.clip(tried[3:], -limit, limit)
        moved = miss(tried, some)
        gain = (weights * (lengths**2 - (moved**2).sum(axis=1))).sum()
        if gain > 0:
            values, current, damping = tried, moved, damping / 5
            if gain < 1e-6 * (weights * lengths**2).sum():
                break
        else:
            damping *= 10
    return np.asarray(np.linalg.norm(miss(values, slice(None)), axis=1))


def _missed(sources: Array, targets: Array, rotation: Array, focals: Array) -> Array:
    """M x 2: how far a rotation of cameras of these focal lengths takes points from their targets."""
    rays = np.c_[sources / focals[0], np.ones(len(sources))] @ rotation.T
    return np.asarray(focals[1] * rays[:, :2] / np.maximum(rays[:, 2:], 1e-3) - targets)
