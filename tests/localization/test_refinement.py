"""Refinement of a pose against known truth, its derivatives and its covariance against simulation."""

from __future__ import annotations

import numpy as np
import pycolmap
import pytest

from locate.geometry.rigid import rotation_of
from locate.localization import refinement as pose_refine
from locate.localization.refinement import IntrinsicsPrior, refine_pose

SIZE = (640, 480)
CAMERAS = {
    "SIMPLE_RADIAL": [520.0, 322.0, 243.0, -0.08],
    "OPENCV": [520.0, 530.0, 322.0, 243.0, -0.08, 0.02, 0.001, -0.002],
    "OPENCV_FISHEYE": [420.0, 425.0, 322.0, 243.0, 0.01, -0.003, 0.001, 0.0],
}


def camera_of(model="SIMPLE_RADIAL", params=None):
    return pycolmap.Camera(
        model=model, width=SIZE[0], height=SIZE[1], params=params or CAMERAS[model]
    )


def scene(camera, count=80, seed=0, noise=0.0):
    """Points in COLMAP's pixels, what they show, and the true pose."""
    rng = np.random.default_rng(seed)
    rotation = rotation_of(np.array([0.3, -0.8, 0.2]))
    pose = np.c_[rotation, [0.4, -0.2, 0.7]]
    pixels = rng.uniform((20, 20), (620, 460), (count, 2))
    depth = rng.uniform(4, 9, (count, 1))
    flat = np.asarray(camera.cam_from_img(pixels))
    seen = np.c_[flat, np.ones(count)] * depth
    world = (seen - pose[:, 3]) @ rotation
    return pixels + rng.normal(0, 1, pixels.shape) * noise, world, pose


def nudged(pose, turn=(0.01, -0.02, 0.015), shift=(0.05, 0.02, -0.04)):
    return np.c_[rotation_of(np.array(turn)) @ pose[:, :3], pose[:, 3] + shift]


def error_of(estimated, truth):
    """(d, w) with truth = (exp(w) R_wc, c + d): written out, apart from the module's own code."""
    centre = -estimated[:, :3].T @ estimated[:, 3]
    true_centre = -truth[:, :3].T @ truth[:, 3]
    turn = truth[:, :3].T @ estimated[:, :3]  # R_wc_true R_wc_estimated^T
    vector = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    return np.concatenate([true_centre - centre, vector / 2])


@pytest.mark.parametrize("vector", [(0.0, 0, 0), (1e-10, 0, 0), (0.3, -2.0, 0.5), (3.1, 0.1, 0)])
def test_rotation_of_a_vector_is_colmaps(vector):
    quaternion = np.r_[
        np.sinc(np.linalg.norm(vector) / (2 * np.pi)) / 2 * np.array(vector),
        np.cos(np.linalg.norm(vector) / 2),
    ]
    expected = pycolmap.Rotation3d(quaternion).matrix()
    np.testing.assert_allclose(rotation_of(np.array(vector)), expected, atol=1e-12)


@pytest.mark.parametrize("model", list(CAMERAS))
def test_exact_points_give_the_exact_pose(model):
    camera = camera_of(model)
    pixels, world, truth = scene(camera)
    found = refine_pose(pixels, world, camera, nudged(truth))
    np.testing.assert_allclose(found.cam_from_world, truth, atol=1e-9)
    assert np.abs(found.residuals).max() < 1e-6


def test_a_wrong_lens_is_found_with_the_pose():
    true = camera_of(params=[500.0, 326.0, 237.0, -0.12])
    guess = camera_of(params=[540.0, 320.0, 240.0, 0.0])
    pixels, world, truth = scene(true, 200)
    free = IntrinsicsPrior(focal=10.0, distortion=10.0, principal=10.0)
    found = refine_pose(pixels, world, guess, nudged(truth), prior=free)
    np.testing.assert_allclose(found.camera.params, true.params, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.cam_from_world, truth, atol=1e-4)
    assert guess.params.tolist() == [540.0, 320.0, 240.0, 0.0]


def test_a_tight_prior_holds_the_lens():
    true, guess = camera_of(params=[500.0, 320, 240, 0]), camera_of(params=[540.0, 320, 240, 0])
    pixels, world, truth = scene(true)
    held = refine_pose(pixels, world, guess, nudged(truth), prior=IntrinsicsPrior(focal=1e-6))
    assert held.camera.params[0] == pytest.approx(540, abs=0.01)
    kept = refine_pose(pixels, world, guess, nudged(truth))
    assert kept.camera.params[0] == 540


def test_outliers_hardly_move_it():
    camera = camera_of()
    pixels, world, truth = scene(camera, 100, noise=0.3)
    pixels[:10] += 15
    found = refine_pose(pixels, world, camera, nudged(truth))
    assert np.linalg.norm(error_of(found.cam_from_world, truth)[:3]) < 0.01


@pytest.mark.parametrize("model", list(CAMERAS))
def test_derivatives_against_finite_differences(model):
    camera = camera_of(model)
    pixels, world, truth = scene(camera, 12, noise=2.0)
    free = IntrinsicsPrior(0.1, 0.1 if model == "SIMPLE_RADIAL" else 0.0, 0.1)
    problem = pose_refine.PoseOptimization(pixels, world, camera, free, 1.0)
    state = pose_refine.PoseState(nudged(truth), camera, np.zeros(len(pose_refine.INTRINSICS)))
    analytic = problem._jacobian(state)
    assert analytic.shape[2] == (10 if model == "SIMPLE_RADIAL" else 9)
    for k in range(analytic.shape[2]):
        step = np.zeros(analytic.shape[2])
        step[k] = 1e-5
        more = problem.residuals(problem.moved(state, step))
        less = problem.residuals(problem.moved(state, -step))
        numeric = -(more - less) / 2e-5  # of the projections
        np.testing.assert_allclose(analytic[:, :, k], numeric, rtol=1e-4, atol=1e-3)


def normalized_errors(make_pixels, correlated_ratio, runs=300, count=60, loss_scale=5.0):
    """NEES of many simulations of one scene."""
    camera = camera_of()
    clean, world, truth = scene(camera, count)
    values = []
    for run in range(runs):
        rng = np.random.default_rng(run)
        found = refine_pose(
            make_pixels(clean, rng),
            world,
            camera,
            truth,
            loss_scale=loss_scale,
            correlated_ratio=correlated_ratio,
        )
        error = error_of(found.cam_from_world, truth)
        values.append(error @ np.linalg.solve(found.covariance, error))
    return np.array(values)


def test_covariance_of_independent_noise_is_calibrated():
    """Six degrees of freedom: the mean of NEES is 6, and 95 % lie below 12.6 (chi-squared)."""
    values = normalized_errors(
        lambda clean, rng: clean + rng.normal(0, 0.7, clean.shape), correlated_ratio=0.0
    )
    assert values.mean() == pytest.approx(6, abs=0.7)
    assert np.mean(values < 12.59) == pytest.approx(0.95, abs=0.035)


@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_covariance_where_the_loss_flattens(noise):
    """Residuals as large as the loss's scale pull less, and tell less."""
    values = normalized_errors(
        lambda clean, rng: clean + rng.normal(0, noise, clean.shape),
        correlated_ratio=0.0,
        runs=150,
        count=120,
        loss_scale=1.0,
    )
    assert values.mean() == pytest.approx(6, abs=1.2)
    assert np.mean(values < 12.59) == pytest.approx(0.95, abs=0.05)


def test_covariance_of_few_points():
    """Each of twelve draws the pose to itself, so that its residual tells too little of its noise."""
    values = normalized_errors(
        lambda clean, rng: clean + rng.normal(0, 0.5, clean.shape), correlated_ratio=0.0, count=12
    )
    assert np.median(values) < 7  # 5.3 if the noise were known
    assert np.mean(values < 12.59) > 0.85


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
def test_covariance_of_correlated_errors_is_calibrated(share):
    """Errors drawn from the very field that the module docstring describes."""
    reach = pose_refine.CORRELATION_LENGTH * max(SIZE)

    def pixels(clean, rng):
        distance = np.linalg.norm(clean[:, None] - clean, axis=2)
        field = share**2 * np.exp(-(distance**2) / (2 * reach**2))
        root = np.linalg.cholesky(field + np.eye(len(clean)))
        return clean + 0.7 * root @ rng.normal(0, 1, clean.shape)

    values = normalized_errors(pixels, correlated_ratio=share)
    assert values.mean() == pytest.approx(6, abs=1.0)


def test_covariance_knows_what_is_not_known_of_the_lens(monkeypatch):
    """The lens is drawn from its prior, as the query's is unknown."""
    monkeypatch.setattr(pose_refine, "INTRINSICS_RATIO", 0.0)
    free = IntrinsicsPrior(focal=0.03, distortion=0.05, principal=0.01)
    guess = camera_of(params=[520.0, 320.0, 240.0, 0.0])
    values, unaware = [], []
    for run in range(200):
        rng = np.random.default_rng(run)
        focal, radial, *middle = rng.normal(0, (0.03, 0.05, 6.4, 6.4))
        true = camera_of(params=[520 * np.exp(focal), 320 + middle[0], 240 + middle[1], radial])
        pixels, world, truth = scene(true, 60, seed=run, noise=0.5)
        for prior, into in ((free, values), (IntrinsicsPrior(), unaware)):
            found = refine_pose(
                pixels, world, guess, truth, prior=prior, loss_scale=5.0, correlated_ratio=0.0
            )
            error = error_of(found.cam_from_world, truth)
            into.append(error @ np.linalg.solve(found.covariance, error))
    assert np.mean(values) == pytest.approx(6, abs=1.2)
    assert np.median(unaware) > 30


def test_many_points_do_not_make_it_infinitely_sure():
    """The field of errors leaves a floor that independent noise does not."""
    camera = camera_of()
    sigmas = []
    for count in (100, 1600):
        pixels, world, truth = scene(camera, count, noise=0.7)
        found = refine_pose(pixels, world, camera, truth)
        sigmas.append(np.sqrt(np.trace(found.covariance[:3, :3])))
    assert sigmas[1] > 0.4 * sigmas[0]  # a quarter if they were independent


def test_points_in_one_line_of_sight_determine_nothing():
    camera = camera_of()
    pixels, world, truth = scene(camera, 6)
    same = np.repeat(world[:1], 6, axis=0)
    assert refine_pose(np.repeat(pixels[:1], 6, axis=0), same, camera, truth) is None
