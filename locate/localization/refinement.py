"""The last pixel of a pose, and how far it may be wrong.

A pose (and a focal length or a distortion that is not known) is refined on the inliers of RANSAC by
Levenberg-Marquardt on the Cauchy loss. Its covariance is that of an M-estimator whose residuals are
correlated (the "sandwich", Huber 1967; White 1980; Hayashi, Econometrics, 2000, section 2.5):

    C = H^-1 (sum of w^2 r^2 / 2 J^T J + s^2 J^T W^2 S W^2 J + L) H^-1,    H = J^T W^2 J + L

J holds the derivatives of the projections, W the weights w = 1 / (1 + r^2) of the loss (r in units of
its scale; w^2 is the derivative of the pull w r, see `Problem.covariances`), L the information of the
priors, and S the correlation of systematic errors. Were there none, a thousand inliers would make a
pose thirty times as precise as one; but what is wrong with a map is wrong for neighbouring points
together: they were triangulated from the same photos, through the same lens. So besides independent
noise of the keypoints, of which each residual is a witness (its own pull on the pose taken out: HC3,
MacKinnon and White 1985), there is a smooth field of errors over the photo that is a fixed share of it,

    S_ij = SYSTEMATIC^2 exp(-|x_i - x_j|^2 / (2 (REACH width)^2))

where s is the scale of the residuals themselves, so that a map or a lens that fits badly gives larger
covariances. A lens that is estimated with the pose leaves a larger field. How large the share is
depends on the map; `pipelines.mapping.covariance_calibration` measures it on the map's own photos, and
`benchmarks/tables/localize.py` on held-out ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap

from locate.geometry.rigid import cross_matrices, rotation_of
from locate.types import Array

SYSTEMATIC = 0.25  # of the scale of the residuals, where a map does not know its own
SYSTEMATIC_LENS = 0.5  # the same for a lens that is estimated; the squares add up
REACH = 0.2  # of the photo's longer side
_STEP = 1e-6  # of numerical derivatives, in units of the normalized plane and of `LENS`
_ROUNDS = 50
_BLOCK = 1024
_LEAST_SPARE = 0.1  # of one less leverage


@dataclass(frozen=True)
class Freedom:
    """What of the camera is refined with the pose.

    Attributes:
        focal: standard deviation of the relative error of its focal length; 0 keeps it.
        distortion: standard deviation of the first radial term; 0 keeps it. Only for models of `RADIAL`.
        principal: standard deviation of each coordinate of the principal point, as a share of the
            photo's longer side; 0 keeps it.
        second: standard deviation of the second radial term, of models that have one; 0 keeps it.
        aspect: standard deviation of the logarithm of the ratio of the focal lengths in x and in y, of
            models that have two; 0 keeps it.
    """

    focal: float = 0.0
    distortion: float = 0.0
    principal: float = 0.0
    second: float = 0.0
    aspect: float = 0.0


@dataclass(frozen=True, eq=False)
class Refined:
    """Attributes:
    cam_from_world: 3 x 4 float64.
    camera: with the focal length and distortion that were found.
    independent, systematic: 6 x 6 parts of the covariance: of independent noise and the priors, and of
        a field of errors as large as that noise (a share of 1).
    share: of the field.
    residuals: M x 2, seen - projected, in pixels of the photo.
    """

    cam_from_world: Array
    camera: pycolmap.Camera
    independent: Array
    systematic: Array
    share: float
    residuals: Array

    @property
    def covariance(self) -> Array:
        """6 x 6, see `locate.localization.pose.Pose`."""
        return self.covariance_with(self.share)

    def covariance_with(self, share: float) -> Array:
        """6 x 6, were the systematic errors this share of the noise."""
        return np.asarray(self.independent + share**2 * self.systematic)


def refine_pose(
    points: Array,
    world_points: Array,
    camera: pycolmap.Camera,
    cam_from_world: Array,
    *,
    freedom: Freedom | None = None,
    loss_scale: float = 1.0,
    systematic: float = SYSTEMATIC,
) -> Refined | None:
    """Refine a pose on its inliers.

    Args:
        points: M x 2 in COLMAP's pixels, M >= 4.
        world_points: M x 3, in front of the camera.
        camera: left as it is.
        cam_from_world: 3 x 4, near the solution.
        freedom: of the camera.
        loss_scale: pixels at which a residual counts half.
        systematic: the share of the map's systematic errors in the noise.

    Returns:
        None where the points do not determine a pose.
    """
    freedom = freedom or Freedom()
    problem = Problem(points, world_points, camera, freedom, loss_scale)
    state = solve(problem, State(cam_from_world, camera, np.zeros(len(LENS))))
    parts = None if state is None else problem.covariances(state)
    if state is None or parts is None:
        return None
    share = float(np.hypot(systematic, SYSTEMATIC_LENS)) if problem.has_priors else systematic
    return Refined(state.cam_from_world, state.camera, *parts, share, problem.residuals(state))


def solve(problem: Problem, state: State) -> State | None:
    """The minimum near `state`, its priors weighed by the noise that shows there; None if the points do
    not determine it."""
    for _ in range(2 if problem.has_priors else 1):
        found = minimize(problem, state)
        worth = None if found is None else problem.worth(found)
        if found is None or worth is None:
            return None
        state = found
        problem.weigh_priors(worth)
    return state


def minimize(problem: Problem, state: State) -> State | None:
    """Levenberg-Marquardt from `state`."""
    damping, best = 1e-6, problem.cost(state)
    for _ in range(_ROUNDS):
        gradient, hessian = problem.normal_equations(state)
        try:
            step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), gradient)
        except np.linalg.LinAlgError:
            return None
        tried = problem.moved(state, step)
        cost = problem.cost(tried)
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


@dataclass(frozen=True, eq=False)
class State:
    """Where the minimizer is: a pose, the camera as it is now, and the changes that made it."""

    cam_from_world: Array
    camera: pycolmap.Camera
    lens: Array  # changes of the camera, see LENS


LENS = (
    "log of the factor of the focal length",
    "radial term",
    "x of the principal point",
    "y of the principal point",
    "second radial term",
    "log of the ratio of the focal lengths in x and in y",
)
_ID = pycolmap.CameraModelId
RADIAL = {
    _ID.SIMPLE_RADIAL: 1,
    _ID.OPENCV: 2,
    _ID.OPENCV_FISHEYE: 2,
}  # radial terms that may be free


class Problem:
    """What is minimized. Its parameters in order: the centre, the rotation about the world's axes, then
    what of `LENS` is free (the principal point in units of the photo's longer side)."""

    def __init__(
        self, points: Array, world: Array, camera: pycolmap.Camera, freedom: Freedom, scale: float
    ) -> None:
        self._points, self._world = points, world
        self._camera, self._scale = camera, scale
        terms, focals = RADIAL.get(camera.model, 0), len(list(camera.focal_length_idxs()))
        sigmas = np.array(
            [
                freedom.focal,
                freedom.distortion if terms > 0 else 0.0,
                freedom.principal,
                freedom.principal,
                freedom.second if terms > 1 else 0.0,
                freedom.aspect if focals > 1 else 0.0,
            ]
        )
        self._free = np.flatnonzero(sigmas > 0)
        information = sigmas[self._free] ** -2.0
        # Of the priors, by parameter: nothing is known of the pose.
        self._information = np.concatenate([np.zeros(6), information])
        self._prior = self._information

    @property
    def has_priors(self) -> bool:
        return len(self._free) > 0

    def weigh_priors(self, worth: float) -> None:
        """Let the priors weigh as much as the residuals justify, see `worth`: the loss counts residuals
        in units of its own scale, not of their noise."""
        self._prior = self._information * worth / self._scale**2

    def moved(self, state: State, step: Array) -> State:
        pose = state.cam_from_world
        centre = -pose[:, :3].T @ pose[:, 3] + step[:3]
        rotation = pose[:, :3] @ rotation_of(step[3:6]).T
        lens = state.lens.copy()
        lens[self._free] += step[6:]
        camera = changed_lens(self._camera, lens) if len(self._free) else self._camera
        return State(np.c_[rotation, -rotation @ centre], camera, lens)

    def residuals(self, state: State) -> Array:
        pose = state.cam_from_world
        seen = self._world @ pose[:, :3].T + pose[:, 3]
        return np.asarray(self._points - _project(state.camera, seen))

    def cost(self, state: State) -> float:
        squares = (self.residuals(state) ** 2).sum(axis=1) / self._scale**2
        if not np.isfinite(squares).all():
            return np.inf
        cost = float(np.log1p(squares).sum())
        return cost + float((self._prior[6:] * state.lens[self._free] ** 2).sum())

    def normal_equations(self, state: State) -> tuple[Array, Array]:
        """(J^T W r - L p, J^T W J + L), in units of the loss scale."""
        residuals, jacobian = self.residuals(state), self._jacobian(state)
        weights = self._weights(residuals)
        weighted = jacobian * weights[:, None, None]
        gradient = np.einsum("mkp,mk->p", weighted, residuals) / self._scale**2
        gradient[6:] -= self._prior[6:] * state.lens[self._free]
        hessian = np.einsum("mkp,mkq->pq", weighted, jacobian) / self._scale**2
        return gradient, hessian + np.diag(self._prior)

    def variance(self, state: State) -> float | None:
        """Of a coordinate of the residuals, pixels squared; None if there are too few."""
        residuals = self.residuals(state)
        weights = self._weights(residuals)
        freedom = 2 * weights.sum() - len(self._information)
        if freedom <= 0:
            return None
        return float((weights * (residuals**2).sum(axis=1)).sum() / freedom)

    def worth(self, state: State) -> float | None:
        """Pixels squared: what a unit of information of a prior is worth among these residuals; None if
        there are too few. Of a parameter they tell w^2 / (r^2 / 2) times their derivatives squared
        (`covariances`), and hold it by w^2 times these: the worth is the ratio of the two."""
        residuals = self.residuals(state)
        squares = self._weights(residuals) ** 2
        freedom = 2 * squares.sum() - len(self._information) * squares.mean()
        if freedom <= 0:
            return None
        return float((squares * (residuals**2).sum(axis=1)).sum() / freedom)

    def covariances(self, state: State) -> tuple[Array, Array] | None:
        """The two parts of the covariance, see `Refined`; None if the points do not determine it.

        With psi = w r, the pull of a residual, its derivative is w (I - 2 w r r^T / scale^2), on average
        over the directions of r w^2 I (as w = 1 / (1 + r^2 / scale^2)): the Hessian that a change of the
        data meets. Where the noise is as large as the scale of the loss, w^2 is far less than w.
        """
        variance, worth = self.variance(state), self.worth(state)
        if variance is None or worth is None:
            return None
        residuals = self.residuals(state)
        jacobian = self._jacobian(state).transpose(1, 0, 2)  # 2 x M x P
        squares = self._weights(residuals) ** 2
        curved = jacobian * squares[:, None]
        prior = np.diag(self._information) * worth
        try:
            inverse = np.linalg.inv(np.einsum("kmp,kmq->pq", curved, jacobian) + prior)
        except np.linalg.LinAlgError:
            return None
        # A point that draws the pose to itself has a small residual: its share is taken out (HC3).
        leverage = np.einsum("kmp,pq,kmq->m", curved, inverse, jacobian) / 2
        pulls = (
            squares * (residuals**2).sum(axis=1) / 2 / np.maximum(1 - leverage, _LEAST_SPARE) ** 2
        )
        noise = np.einsum("kmp,m,kmq->pq", jacobian, pulls, jacobian) + prior * worth
        # The errors in x and in y are independent of each other.
        field = variance * sum(part.T @ self._smoothed(part) for part in curved)
        parts = [(inverse @ middle @ inverse)[:6, :6] for middle in (noise, field)]
        independent, systematic = ((part + part.T) / 2 for part in parts)
        sound = all(np.isfinite(part).all() for part in parts)
        if not sound or (np.linalg.eigvalsh(independent) <= 0).any():
            return None
        return independent, systematic

    def _smoothed(self, values: Array) -> Array:
        """M x P: the sum of all rows of `values`, M x P, by how near their points are."""
        reach = REACH * max(self._camera.width, self._camera.height)
        blocks = range(0, len(values), _BLOCK)  # thousands of points squared would not fit
        points = self._points / (np.sqrt(2) * reach)
        return np.concatenate(
            [np.exp(-_square_distances(points[i : i + _BLOCK], points)) @ values for i in blocks]
        )

    def _weights(self, residuals: Array) -> Array:
        return np.asarray(1 / (1 + (residuals**2).sum(axis=1) / self._scale**2))

    def _jacobian(self, state: State) -> Array:
        """M x 2 x P derivatives of the projections."""
        pose, camera = state.cam_from_world, state.camera
        rotation = pose[:, :3]
        arms = self._world + rotation.T @ pose[:, 3]  # from the centre to the points
        seen = arms @ rotation.T
        flat = seen[:, :2] / seen[:, 2:]
        one = np.ones((len(flat), 1))

        def image(plane: Array) -> Array:
            return _project(camera, np.c_[plane, one])

        by_plane = np.stack(
            [
                (image(flat + axis) - image(flat - axis)) / (2 * _STEP)
                for axis in (np.array([_STEP, 0.0]), np.array([0.0, _STEP]))
            ],
            axis=2,
        )  # M x 2 x 2
        plane_by_seen = np.zeros((len(flat), 2, 3))
        plane_by_seen[:, 0, 0] = plane_by_seen[:, 1, 1] = 1 / seen[:, 2]
        plane_by_seen[:, :, 2] = -flat / seen[:, 2:]
        by_world = by_plane @ plane_by_seen @ rotation
        # Turning world_from_cam by exp(w) turns the arms by exp(-w): d arm = arm x w.
        parts = [-by_world, by_world @ cross_matrices(arms)]
        for which in self._free:
            change = np.zeros(len(LENS))
            change[which] = _STEP
            more, less = changed_lens(camera, change), changed_lens(camera, -change)
            change_of_image = (_project(more, seen) - _project(less, seen)) / (2 * _STEP)
            parts.append(change_of_image[:, :, None])
        return np.concatenate(parts, axis=2)


def _square_distances(a: Array, b: Array) -> Array:
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)
    return np.asarray(np.maximum(squares - 2 * a @ b.T, 0))


def _project(camera: pycolmap.Camera, seen: Array) -> Array:
    """M x 3 in the camera -> M x 2; NaN behind it."""
    return np.asarray(camera.img_from_cam(seen), np.float64)


def changed_lens(camera: pycolmap.Camera, lens: Array) -> pycolmap.Camera:
    """The camera with changes as in `LENS`."""
    params = np.array(camera.params)
    focals = list(camera.focal_length_idxs())
    params[focals] *= np.exp(lens[0])
    for term, change in enumerate((lens[1], lens[4])):
        if change:
            params[list(camera.extra_params_idxs())[term]] += change
    params[list(camera.principal_point_idxs())] += lens[2:4] * max(camera.width, camera.height)
    if lens[5]:
        params[focals] *= np.exp(lens[5] * np.array([0.5, -0.5]))
    return pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=params
    )
