"""Motion-only bundle adjustment: the last pixel of a pose, and how far it may be wrong.

A pose (and intrinsics that are not known) is refined on the inliers of RANSAC by Levenberg-Marquardt on
the Cauchy loss. Its covariance is that of an M-estimator whose residuals are correlated (the "sandwich",
Huber 1967; White 1980; Hayashi, Econometrics, 2000, section 2.5):

    C = H^-1 (sum of w^2 r^2 / 2 J^T J + s^2 J^T W^2 S W^2 J + L) H^-1,    H = J^T W^2 J + L

J holds the derivatives of the projections, W the weights w = 1 / (1 + r^2) of the loss (r in units of
its scale; w^2 is the derivative of the pull w r, see `PoseOptimization.covariances`), L the information
of the priors, and S the correlation of the errors. Were there none, a thousand inliers would make a pose
thirty times as precise as one; but what is wrong with a map is wrong for neighbouring points together:
they were triangulated from the same photos, through the same lens. So besides independent noise of the
keypoints, of which each residual is a witness (its own pull on the pose taken out: HC3, MacKinnon and
White 1985), there is a smooth field of errors over the photo that is a fixed ratio of it,

    S_ij = CORRELATED_RATIO^2 exp(-|x_i - x_j|^2 / (2 (CORRELATION_LENGTH width)^2))

where s is the scale of the residuals themselves, so that a map or a lens that fits badly gives larger
covariances. Intrinsics that are estimated with the pose leave a larger field. How large the ratio is
depends on the map; `pipelines.mapping.covariance_calibration` measures it on the map's own photos, and
`benchmarks/tables/localize.py` on held-out ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pycolmap

from locate.geometry.cameras import colmap_camera
from locate.geometry.rigid import center_of, cross_matrices, rotation_of, transform
from locate.types import Array

CORRELATED_RATIO = 0.25  # of the scale of the residuals, where a map does not know its own
INTRINSICS_RATIO = 0.5  # the same for intrinsics that are estimated; the squares add up
CORRELATION_LENGTH = 0.2  # of the photo's longer side
_STEP = 1e-6  # of numerical derivatives, in units of the normalized plane and of `INTRINSICS`
_ROUNDS = 50
_BLOCK = 1024
_LEAST_SPARE = 0.1  # of one less leverage
INTRINSICS = (
    "log of the factor of the focal length",
    "radial term",
    "x of the principal point",
    "y of the principal point",
    "second radial term",
    "log of the ratio of the focal lengths in x and in y",
)
_ID = pycolmap.CameraModelId
# Radial terms that may be free.
RADIAL = {_ID.SIMPLE_RADIAL: 1, _ID.OPENCV: 2, _ID.OPENCV_FISHEYE: 2}


@dataclass(frozen=True)
class IntrinsicsPrior:
    """What of the camera is refined with the pose: standard deviations, of which 0 keeps it."""

    focal: float = 0.0  # of the relative error of its focal length
    distortion: float = 0.0  # of the first radial term, of models that have it (`RADIAL`)
    principal: float = 0.0  # of each coordinate of the principal point, share of the longer side
    second: float = 0.0  # of the second radial term
    aspect: float = 0.0  # of the log of the ratio of the focal lengths in x and in y, of two


@dataclass(frozen=True, eq=False)
class Refined:
    """A pose and camera that were refined; their covariance in two 6 x 6 parts: of independent noise and
    the priors, and of a field of errors as large as that noise (a ratio of 1)."""

    cam_from_world: Array  # 3 x 4 float64
    camera: pycolmap.Camera  # with the intrinsics that were found
    independent: Array
    correlated: Array
    ratio: float  # of the field
    residuals: Array  # M x 2, seen - projected, in pixels of the photo

    @property
    def covariance(self) -> Array:
        """6 x 6, see `locate.localization.pose.Pose`."""
        return self.covariance_with(self.ratio)

    def covariance_with(self, ratio: float) -> Array:
        """6 x 6, were the correlated errors this ratio of the noise."""
        return np.asarray(self.independent + ratio**2 * self.correlated)


def refine_pose(
    points: Array,
    world_points: Array,
    camera: pycolmap.Camera,
    cam_from_world: Array,
    prior: IntrinsicsPrior | None = None,
    loss_scale: float = 1.0,
    correlated_ratio: float = CORRELATED_RATIO,
) -> Refined | None:
    """Refine a pose (3 x 4, near the solution) on its inliers, M >= 4 points (M x 2, COLMAP's
    pixels) and what they show in front of the camera (M x 3); None where they do not determine one.
    `loss_scale`: pixels at which a residual counts half; `correlated_ratio`: of the map's correlated
    errors to the noise."""
    prior = prior or IntrinsicsPrior()
    problem = PoseOptimization(points, world_points, camera, prior, loss_scale)
    solution = problem.solve(PoseState(cam_from_world, camera))
    if solution is None:
        return None
    state, independent, correlated = solution
    fit = problem.ratio(correlated_ratio), problem.residuals(state)
    return Refined(state.cam_from_world, state.camera, independent, correlated, *fit)


@dataclass(frozen=True, eq=False)
class PoseState:
    """Where the optimization is: a pose, the camera as it is now, its changes (see `INTRINSICS`)."""

    cam_from_world: Array
    camera: pycolmap.Camera
    intrinsics: Array = field(default_factory=lambda: np.zeros(len(INTRINSICS)))


class PoseOptimization:
    """What is minimized. Its parameters in order: the centre, the rotation about the world's axes, then
    what of `INTRINSICS` is free (the principal point in units of the photo's longer side)."""

    def __init__(
        self,
        points: Array,
        world: Array,
        camera: pycolmap.Camera,
        prior: IntrinsicsPrior,
        scale: float,
    ) -> None:
        self._points, self._world = points, world
        self._camera, self._scale = camera, scale
        terms, focals = RADIAL.get(camera.model, 0), len(list(camera.focal_length_idxs()))
        distortion, second = prior.distortion * (terms > 0), prior.second * (terms > 1)
        principal, aspect = prior.principal, prior.aspect * (focals > 1)
        sigmas = np.array([prior.focal, distortion, principal, principal, second, aspect])
        self._free = np.flatnonzero(sigmas > 0)
        self._set_information(sigmas[self._free] ** -2.0)

    def _set_information(self, intrinsics: Array) -> None:
        """Of the priors, by parameter: nothing is known of the pose."""
        self._information = self._prior = np.concatenate([np.zeros(6), intrinsics])

    @property
    def has_priors(self) -> bool:
        return len(self._free) > 0

    def ratio(self, of_map: float) -> float:
        """Of correlated errors to the noise, if it is `of_map` for a camera that is known."""
        return float(np.hypot(of_map, INTRINSICS_RATIO)) if self.has_priors else of_map

    def solve(self, state: PoseState) -> tuple[PoseState, Array, Array] | None:
        """The minimum near `state`, its priors weighted by the noise that shows there, and the two parts
        of its covariance (`covariances`); None if the points do not determine it."""
        for _ in range(2 if self.has_priors else 1):
            found = self._minimum(state)
            variance = None if found is None else self.prior_variance(found)
            if found is None or variance is None:
                return None
            state = found
            # The loss counts residuals in units of its own scale, not of their noise.
            self._prior = self._information * variance / self._scale**2
        parts = self.covariances(state)
        return None if parts is None else (state, *parts)

    def _minimum(self, state: PoseState) -> PoseState | None:
        """Levenberg-Marquardt from `state`."""
        damping, best = 1e-6, self.cost(state)
        for _ in range(_ROUNDS):
            gradient, hessian = self.normal_equations(state)
            try:
                step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), gradient)
            except np.linalg.LinAlgError:
                return None
            tried = self.moved(state, step)
            cost = self.cost(tried)
            if cost <= best:
                small = best - cost <= 1e-12 * best
                state, best, damping = tried, cost, max(damping / 10, 1e-12)
                if small:
                    break
            elif damping > 1e6:
                break
            else:
                damping *= 10
        return state

    def moved(self, state: PoseState, step: Array) -> PoseState:
        intrinsics = state.intrinsics.copy()
        intrinsics[self._free] += step[6:]
        camera = adjust_intrinsics(self._camera, intrinsics) if self.has_priors else self._camera
        return PoseState(moved_pose(state.cam_from_world, step), camera, intrinsics)

    def residuals(self, state: PoseState) -> Array:
        seen = transform(state.cam_from_world, self._world)
        return np.asarray(self._points - _project(state.camera, seen))

    def cost(self, state: PoseState) -> float:
        squares = (self.residuals(state) ** 2).sum(axis=1) / self._scale**2
        if not np.isfinite(squares).all():
            return np.inf
        cost = float(np.log1p(squares).sum())
        return cost + float((self._prior[6:] * state.intrinsics[self._free] ** 2).sum())

    def normal_equations(self, state: PoseState) -> tuple[Array, Array]:
        """(J^T W r - L p, J^T W J + L), in units of the loss scale."""
        residuals, jacobian = self.residuals(state), self._jacobian(state)
        weighted = jacobian * self._weights(residuals)[:, None, None]
        gradient = np.einsum("mkp,mk->p", weighted, residuals) / self._scale**2
        gradient[6:] -= self._prior[6:] * state.intrinsics[self._free]
        hessian = np.einsum("mkp,mkq->pq", weighted, jacobian) / self._scale**2
        return gradient, hessian + np.diag(self._prior)

    def variance(self, state: PoseState) -> float | None:
        """Of a coordinate of the residuals, pixels squared; None if there are too few."""
        residuals = self.residuals(state)
        weights = self._weights(residuals)
        return _mean_square(residuals, weights, len(self._information))

    def prior_variance(self, state: PoseState) -> float | None:
        """Pixels squared: what a unit of information of a prior weighs among these residuals; None
        if there are too few. Of a parameter they tell w^2 / (r^2 / 2) times their derivatives
        squared (`covariances`), and hold it by w^2 times these: this is the ratio of the two."""
        residuals = self.residuals(state)
        squares = self._weights(residuals) ** 2
        return _mean_square(residuals, squares, len(self._information) * squares.mean())

    def covariances(self, state: PoseState) -> tuple[Array, Array] | None:
        """The two parts of the covariance, see `Refined`; None if the points do not determine it.

        With psi = w r, the pull of a residual, its derivative is w (I - 2 w r r^T / scale^2), on average
        over the directions of r w^2 I (as w = 1 / (1 + r^2 / scale^2)): the Hessian that a change of the
        data meets. Where the noise is as large as the scale of the loss, w^2 is far less than w.
        """
        variance, of_prior = self.variance(state), self.prior_variance(state)
        if variance is None or of_prior is None:
            return None
        residuals = self.residuals(state)
        jacobian = self._jacobian(state).transpose(1, 0, 2)  # 2 x M x P
        squares = self._weights(residuals) ** 2
        curved = jacobian * squares[:, None]
        prior = np.diag(self._information) * of_prior
        try:
            inverse = np.linalg.inv(np.einsum("kmp,kmq->pq", curved, jacobian) + prior)
        except np.linalg.LinAlgError:
            return None
        # A point that draws the pose to itself has a small residual: its share is taken out (HC3).
        leverage = np.einsum("kmp,pq,kmq->m", curved, inverse, jacobian) / 2
        spare = np.maximum(1 - leverage, _LEAST_SPARE)
        pulls = squares * (residuals**2).sum(axis=1) / 2 / spare**2
        noise = np.einsum("kmp,m,kmq->pq", jacobian, pulls, jacobian) + prior * of_prior
        # The errors in x and in y are independent of each other.
        field = variance * sum(part.T @ self._smoothed(part) for part in curved)
        parts = [(inverse @ middle @ inverse)[:6, :6] for middle in (noise, field)]
        independent, correlated = ((part + part.T) / 2 for part in parts)
        sound = all(np.isfinite(part).all() for part in parts)
        if not sound or (np.linalg.eigvalsh(independent) <= 0).any():
            return None
        return independent, correlated

    def _smoothed(self, values: Array) -> Array:
        """M x P: the sum of all rows of `values`, M x P, by how near their points are."""
        length = CORRELATION_LENGTH * max(self._camera.width, self._camera.height)
        points = self._points / (np.sqrt(2) * length)
        lengths = (points**2).sum(axis=1)

        def smooth(some: slice) -> Array:
            squares = lengths[some, None] + lengths - 2 * points[some] @ points.T
            return np.asarray(np.exp(-np.maximum(squares, 0)) @ values)

        return in_blocks(smooth, values)

    def _weights(self, residuals: Array) -> Array:
        return np.asarray(1 / (1 + (residuals**2).sum(axis=1) / self._scale**2))

    def _jacobian(self, state: PoseState) -> Array:
        """M x 2 x P derivatives of the projections."""
        pose, camera = state.cam_from_world, state.camera
        rotation = pose[:, :3]
        rays = self._world + rotation.T @ pose[:, 3]  # from the centre to the points
        seen = rays @ rotation.T
        flat = seen[:, :2] / seen[:, 2:]
        one = np.ones((len(flat), 1))

        def image(plane: Array) -> Array:
            return _project(camera, np.c_[plane, one])

        by_plane = np.stack(
            [(image(flat + a) - image(flat - a)) / (2 * _STEP) for a in _STEP * np.eye(2)], axis=2
        )  # M x 2 x 2
        plane_by_seen = np.zeros((len(flat), 2, 3))
        plane_by_seen[:, 0, 0] = plane_by_seen[:, 1, 1] = 1 / seen[:, 2]
        plane_by_seen[:, :, 2] = -flat / seen[:, 2:]
        by_world = by_plane @ plane_by_seen @ rotation
        # Turning world_from_cam by exp(w) turns the rays by exp(-w): d ray = ray x w.
        parts = [-by_world, by_world @ cross_matrices(rays)]
        for which in self._free:
            change = np.zeros(len(INTRINSICS))
            change[which] = _STEP
            more, less = adjust_intrinsics(camera, change), adjust_intrinsics(camera, -change)
            by_change = (_project(more, seen) - _project(less, seen)) / (2 * _STEP)
            parts.append(by_change[:, :, None])
        return np.concatenate(parts, axis=2)


def moved_pose(pose: Array, step: Array) -> Array:
    """A pose with its centre moved by `step[:3]`, turned about the world's axes by `step[3:6]`."""
    rotation = pose[:, :3] @ rotation_of(step[3:6]).T
    return np.asarray(np.c_[rotation, -rotation @ (center_of(pose) + step[:3])])


def in_blocks(smooth: Callable[[slice], Array], values: Array) -> Array:
    """The rows of `smooth`, some at a time: thousands of points squared would not fit."""
    starts = range(0, len(values), _BLOCK)
    return np.concatenate([smooth(slice(i, i + _BLOCK)) for i in starts])


def _mean_square(residuals: Array, weights: Array, parameters: float) -> float | None:
    freedom = 2 * weights.sum() - parameters
    if freedom <= 0:
        return None
    return float((weights * (residuals**2).sum(axis=1)).sum() / freedom)


def _project(camera: pycolmap.Camera, seen: Array) -> Array:
    """M x 3 in the camera -> M x 2; NaN behind it."""
    return np.asarray(camera.img_from_cam(seen), np.float64)


def adjust_intrinsics(camera: pycolmap.Camera, intrinsics: Array) -> pycolmap.Camera:
    """The camera with changes as in `INTRINSICS`."""
    params = np.array(camera.params)
    focals = list(camera.focal_length_idxs())
    params[focals] *= np.exp(intrinsics[0])
    for term, change in enumerate((intrinsics[1], intrinsics[4])):
        if change:
            params[list(camera.extra_params_idxs())[term]] += change
    side = max(camera.width, camera.height)
    params[list(camera.principal_point_idxs())] += intrinsics[2:4] * side
    if intrinsics[5]:
        params[focals] *= np.exp(intrinsics[5] * np.array([0.5, -0.5]))
    return colmap_camera(camera, params)
