"""The pose of a rig against known truth, its derivatives and its covariance against simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from locate.errors import InputError
from locate.geometry.rigid import adjoint, compose, rotation_of
from locate.localization import refinement as pose_refine
from locate.localization import rig_solver as localize_rig_solve
from locate.localization.gravity import GravityPrior, fuse_gravity
from locate.localization.refinement import IntrinsicsPrior, refine_pose
from locate.localization.rig_solver import (
    RigView,
    estimate_rig_pose,
    inliers_of,
    refine_rig,
    solve_rig,
)
from pipelines.localization.rig_matching import RigPhoto, _second_best

LENSES = [
    ("PINHOLE", (640, 480), [520.0, 530.0, 322.0, 243.0]),
    ("SIMPLE_RADIAL", (1600, 1200), [1300.0, 805.0, 603.0, -0.06]),
    ("OPENCV", (480, 640), [410.0, 415.0, 241.0, 318.0, -0.08, 0.02, 0.001, -0.002]),
]
RIG = np.c_[rotation_of(np.array([0.3, -0.8, 0.2])), [0.4, -0.2, 0.7]]
PLACES = [  # cam_from_rig
    np.eye(4)[:3],
    np.c_[rotation_of(np.array([0.1, 1.4, -0.2])), [0.3, -0.1, 0.2]],
    np.c_[rotation_of(np.array([-0.2, -2.5, 0.3])), [-0.5, 0.2, 0.1]],
]


def projected(model, params, seen):
    """The pixel with its centre at (0, 0) of the top-left one; by hand."""
    x, y = (seen[:, :2] / seen[:, 2:]).T
    r2 = x * x + y * y
    if model == "PINHOLE":
        fx, fy, cx, cy = params
    elif model == "SIMPLE_RADIAL":
        fx, cx, cy, k = params
        fy, x, y = fx, x * (1 + k * r2), y * (1 + k * r2)
    else:
        fx, fy, cx, cy, k1, k2, p1, p2 = params
        radial = 1 + k1 * r2 + k2 * r2**2
        x, y = (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y),
        )
    return np.c_[fx * x + cx, fy * y + cy] - 0.5


def camera_of(k):
    model, (width, height), params = LENSES[k]
    return pycolmap.Camera(model=model, width=width, height=height, params=params)


def views_of(count=40, seed=0, noise=0.0, cameras=(0, 1, 2), places=PLACES):
    """Views of the rig at `RIG`."""
    rng = np.random.default_rng(seed)
    views = []
    for k in cameras:
        model, (width, height), params = LENSES[k]
        scale = max(1.0, max(width, height) / 640)
        depth = rng.uniform(4, 9, (count, 1))
        across = 0.42 * np.array([width / params[0], height / params[0]])
        seen = np.c_[rng.uniform(-across, across, (count, 2)), np.ones(count)] * depth
        in_rig = (seen - PLACES[k][:, 3]) @ PLACES[k][:, :3]
        world = (in_rig - RIG[:, 3]) @ RIG[:, :3]
        points = projected(model, params, seen) + scale * noise * rng.normal(size=(count, 2))
        views.append(RigView(points, world, camera_of(k), places[k], scale=scale))
    return views


def nudged(pose, turn=(0.01, -0.02, 0.015), shift=(0.05, 0.02, -0.04)):
    return np.c_[rotation_of(np.array(turn)) @ pose[:, :3], pose[:, 3] + shift]


def error_of(estimated, truth):
    """(d, w) with truth = (exp(w) R_wc, c + d): written out, apart from the module's own code."""
    centre = -estimated[:, :3].T @ estimated[:, 3]
    true_centre = -truth[:, :3].T @ truth[:, 3]
    turn = truth[:, :3].T @ estimated[:, :3]
    vector = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    return np.concatenate([true_centre - centre, vector / 2])


def with_outliers(views, share, seed=0):
    rng = np.random.default_rng(seed)
    out = []
    for view in views:
        world = view.world_points.copy()
        wrong = rng.permutation(len(world))[: int(share * len(world))]
        world[wrong] += rng.normal(0, 3, (len(wrong), 3))
        out.append(RigView(view.points, world, view.camera, view.cam_from_rig, scale=view.scale))
    return out


def test_exact_points_give_the_exact_pose():
    found = solve_rig(views_of())
    np.testing.assert_allclose(found.refined.rig_from_world, RIG, atol=1e-8)
    assert all(rows.all() for rows in found.inliers)
    assert max(np.abs(r).max() for r in found.refined.residuals) < 1e-5


def test_ransac_alone_is_exact_and_in_our_pixels():
    np.testing.assert_allclose(estimate_rig_pose(views_of()), RIG, atol=1e-7)


@pytest.mark.parametrize("shift", [(7.9, 0), (-7.9, 0), (0, 7.9), (0, -7.9)])
def test_inliers_lie_within_eight_pixels_that_the_extractor_looks_at(shift):
    for factor, agree in ((1, True), (8.1 / 7.9, False)):
        moved = [
            RigView(
                v.points + v.scale * factor * np.array(shift),
                v.world_points,
                v.camera,
                v.cam_from_rig,
                scale=v.scale,
            )
            for v in views_of()
        ]
        found = inliers_of(moved, [v.camera for v in moved], RIG)
        assert all((rows == agree).all() for rows in found)


def test_a_rival_is_what_another_pose_makes_of_the_rest():
    """60 matches of the rig's pose, and half or most as many of another place, each feature once."""
    other = nudged(RIG, (0.5, -0.3, 0.2), (3.0, 1.0, -2.0))
    inliers = (np.arange(55) < 30, np.arange(55) < 30)
    for count, expected in ((15, 0), (25, 50)):
        views, seen = [], []
        for view in views_of(55, cameras=(0, 1)):
            world = view.world_points.copy()
            in_rig = world @ RIG[:, :3].T + RIG[:, 3]
            world[30:] = ((in_rig - other[:, 3]) @ other[:, :3])[30:]
            kept = np.arange(30 + count)
            views.append(
                RigView(view.points, world, view.camera, view.cam_from_rig, scale=view.scale).part(
                    kept
                )
            )
            seen.append(RigPhoto(Path("a"), None, features=kept, rows=kept))
        chosen = [rows[: 30 + count] for rows in inliers]
        assert _second_best(seen, views, chosen, 60, 0) == expected


def test_outliers_are_left_out():
    views = with_outliers(views_of(100, noise=0.5), 0.7)
    found = solve_rig(views)
    assert np.linalg.norm(error_of(found.refined.rig_from_world, RIG)[:3]) < 0.02
    for rows in found.inliers:
        assert 28 <= rows.sum() <= 34
    again = solve_rig(views)
    np.testing.assert_allclose(
        again.refined.rig_from_world, found.refined.rig_from_world, atol=1e-11
    )


def test_three_matches_each_are_enough_together():
    views = views_of(3)
    for view in views:
        assert solve_rig([view]) is None
    found = solve_rig(views)
    np.testing.assert_allclose(found.refined.rig_from_world, RIG, atol=1e-7)


def test_a_rig_without_distances_is_solved_as_well():
    """All optical centres in one point, as in cameras that take panoramas."""
    places = [np.c_[place[:, :3], np.zeros(3)] for place in PLACES]
    views = []
    for view, place, central in zip(views_of(), PLACES, places, strict=True):
        seen = view.world_points @ RIG[:, :3].T + RIG[:, 3]
        moved = seen @ place[:, :3].T + place[:, 3]
        world = (moved @ central[:, :3] - RIG[:, 3]) @ RIG[:, :3]
        views.append(RigView(view.points, world, view.camera, central, scale=view.scale))
    found = solve_rig(views)
    np.testing.assert_allclose(found.refined.rig_from_world, RIG, atol=1e-8)


def test_cameras_that_are_turned_the_other_way_round_do_not_agree():
    def inverse(pose):
        return np.c_[pose[:, :3].T, -pose[:, :3].T @ pose[:, 3]]

    views = views_of(40, places=[inverse(place) for place in PLACES])
    found = solve_rig(views)
    shares = [rows.mean() for rows in found.inliers]
    assert max(shares) == 1
    assert sorted(shares)[1] < 0.2


def test_views_without_matches_and_none_at_all():
    none = [RigView(v.points[:0], v.world_points[:0], v.camera, v.cam_from_rig) for v in views_of()]
    assert solve_rig(none) is None
    assert estimate_rig_pose(none) is None
    assert refine_rig(none, RIG) is None
    mixed = [views_of()[0], none[1], none[2]]
    found = solve_rig(mixed)
    np.testing.assert_allclose(found.refined.rig_from_world, RIG, atol=1e-8)
    assert [len(r) for r in found.refined.residuals] == [40, 0, 0]


def test_a_start_by_one_photo_wins_where_ransac_finds_nothing(monkeypatch):
    monkeypatch.setattr(localize_rig_solve, "estimate_rig_pose", lambda *_, **__: None)
    assert solve_rig(views_of()) is None
    found = solve_rig(views_of(), starts=[nudged(RIG, (0.3, 0, 0)), nudged(RIG, (1e-3, 0, 0), 0)])
    np.testing.assert_allclose(found.refined.rig_from_world, RIG, atol=1e-8)


def test_one_camera_is_refined_as_a_photo_is():
    (view,) = views_of(60, noise=0.7, cameras=(1,))
    for prior in (IntrinsicsPrior(), IntrinsicsPrior(0.05, 0.1, 0.01)):
        free = RigView(
            view.points, view.world_points, view.camera, view.cam_from_rig, prior, view.scale
        )
        # PLACES[1] is not the identity: the same pose, seen from the rig and from the camera.
        ours = refine_rig([free], nudged(RIG))
        single = refine_pose(
            view.points + 0.5,
            view.world_points,
            view.camera,
            compose(PLACES[1], nudged(RIG)),
            prior=prior,
            loss_scale=view.scale,
        )
        transport = adjoint(PLACES[1], ours.rig_from_world)
        pose = compose(PLACES[1], ours.rig_from_world)
        np.testing.assert_allclose(pose, single.cam_from_world, atol=1e-6)
        np.testing.assert_allclose(
            transport @ ours.covariance @ transport.T, single.covariance, rtol=1e-3, atol=1e-10
        )
        np.testing.assert_allclose(ours.cameras[0].params, single.camera.params, rtol=1e-5)
        np.testing.assert_allclose(ours.residuals[0], single.residuals, atol=1e-3)


def test_errors_of_the_rig_are_carried_to_its_cameras():
    rng = np.random.default_rng(0)
    for place in PLACES:
        d, w = rng.normal(0, 1e-5, (2, 3))
        centre = -RIG[:, :3].T @ RIG[:, 3]
        rotation = RIG[:, :3] @ rotation_of(w).T  # of exp(w) R_wr
        moved = np.c_[rotation, -rotation @ (centre + d)]

        def four(pose):
            return np.r_[pose, [[0, 0, 0, 1]]]

        before, after = (four(place) @ four(pose) for pose in (RIG, moved))
        expected = error_of(before[:3], after[:3])
        np.testing.assert_allclose(adjoint(place, RIG) @ np.r_[d, w], expected, atol=1e-9)
        np.testing.assert_allclose(compose(place, RIG), before[:3], atol=1e-14)


def test_derivatives_against_finite_differences():
    frees = [IntrinsicsPrior(0.1, 0, 0.1), IntrinsicsPrior(0.1, 0.1, 0.0), IntrinsicsPrior()]
    views = [
        RigView(v.points, v.world_points, v.camera, v.cam_from_rig, free, v.scale)
        for v, free in zip(views_of(9, noise=2.0), frees, strict=True)
    ]
    problem = localize_rig_solve.RigOptimization(views)
    state = pose_refine.PoseState(
        nudged(RIG), views[0].camera, np.zeros(3 * len(pose_refine.INTRINSICS))
    )
    analytic = problem._jacobian(state)
    assert analytic.shape == (27, 2, 6 + 3 + 2)
    for k in range(analytic.shape[2]):
        step = np.zeros(analytic.shape[2])
        step[k] = 1e-5
        more = problem.residuals(problem.moved(state, step))
        less = problem.residuals(problem.moved(state, -step))
        numeric = -(more - less) / 2e-5
        np.testing.assert_allclose(analytic[:, :, k], numeric, rtol=1e-4, atol=2e-3)


def test_a_wrong_lens_is_found_with_the_pose():
    views = views_of(200)
    wrong = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=1600, height=1200, params=[1340.0, 800.0, 600.0, 0.0]
    )
    views[1] = RigView(
        views[1].points,
        views[1].world_points,
        wrong,
        PLACES[1],
        IntrinsicsPrior(focal=10.0, distortion=10.0, principal=10.0),
        views[1].scale,
    )
    found = refine_rig(views, nudged(RIG))
    np.testing.assert_allclose(found.cameras[1].params, LENSES[1][2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.rig_from_world, RIG, atol=1e-5)
    assert found.cameras[0].params.tolist() == LENSES[0][2]


def normalized_errors(spoil, correlated_ratio, runs=250):
    clean = views_of(25)
    values = []
    for run in range(runs):
        rng = np.random.default_rng(run)
        views = [
            RigView(spoil(v, rng), v.world_points, v.camera, v.cam_from_rig, scale=v.scale)
            for v in clean
        ]
        found = refine_rig(views, RIG, correlated_ratio=correlated_ratio)
        error = error_of(found.rig_from_world, RIG)
        values.append(error @ np.linalg.solve(found.covariance, error))
    return np.array(values)


def test_covariance_of_independent_noise_is_calibrated():
    """Six degrees of freedom: the mean of NEES is 6 (its standard error here 0.22), and 95 % lie below
    12.6. The noise is the same in pixels that the extractor looks at."""
    values = normalized_errors(
        lambda view, rng: view.points + view.scale * rng.normal(0, 0.15, view.points.shape), 0.0
    )
    assert values.mean() == pytest.approx(6, abs=0.7)
    assert np.mean(values < 12.59) == pytest.approx(0.95, abs=0.04)


def test_covariance_of_a_field_of_errors_in_each_photo_is_calibrated():
    share = 0.5

    def spoil(view, rng):
        reach = pose_refine.CORRELATION_LENGTH * max(view.camera.width, view.camera.height)
        distance = np.linalg.norm(view.points[:, None] - view.points, axis=2)
        together = share**2 * np.exp(-(distance**2) / (2 * reach**2)) + np.eye(len(distance))
        noise = np.linalg.cholesky(together) @ rng.normal(0, 1, view.points.shape)
        return view.points + 0.1 * view.scale * noise

    # A little below 6: the scale of the residuals holds part of the field too.
    assert normalized_errors(spoil, share).mean() == pytest.approx(5.6, abs=0.9)
    assert normalized_errors(spoil, 0.0).mean() > 10


# --- up


UP = np.array([0.0, 0.6, 0.8])


def test_a_tilt_is_taken_back_and_the_heading_kept():
    loose = np.diag([1e-6] * 3 + [1e-2] * 3)
    sensor = GravityPrior(RIG[:, :3] @ UP, UP, 0.01)
    tilt = np.cross(UP, [1.0, 0, 0])
    for w, left in ((0.05 * tilt / np.linalg.norm(tilt), 0.0), (0.05 * UP, 0.05)):
        wrong = RIG[:, :3] @ rotation_of(w)  # R_cw exp(w): the truth is exp(w) R_wc of it
        pose, covariance = fuse_gravity(np.c_[wrong, RIG[:, 3]], loose, sensor)
        assert np.linalg.norm(error_of(pose, RIG)[3:]) == pytest.approx(left, abs=2e-3)
        heading = UP @ covariance[3:, 3:] @ UP
        assert heading == pytest.approx(1e-2, rel=1e-3)
        assert np.trace(covariance[3:, 3:]) == pytest.approx(1e-2, rel=1e-3)


def test_what_is_known_by_both_is_calibrated():
    """Errors of pose and sensor drawn from what they claim: NEES of the outcome is 6, and smaller than
    that of either alone would be with its covariance."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 6)) * 0.004
    claimed = root @ root.T + 1e-6 * np.eye(6)
    values, before, after = [], [], []
    centre = -RIG[:, :3].T @ RIG[:, 3]
    for _ in range(400):
        d, w = np.split(rng.multivariate_normal(np.zeros(6), claimed), 2)
        rotation = RIG[:, :3] @ rotation_of(w)
        seen = np.c_[rotation, -rotation @ (centre - d)]
        sensor = GravityPrior(
            rotation_of(rng.normal(0, np.radians(0.2), 3)) @ RIG[:, :3] @ UP, UP, 0.2
        )
        pose, covariance = fuse_gravity(seen, claimed, sensor)
        error = error_of(pose, RIG)
        values.append(error @ np.linalg.solve(covariance, error))
        before.append((error_of(seen, RIG) ** 2)[:3].sum())
        after.append((error**2)[:3].sum())
    assert np.mean(values) == pytest.approx(6, abs=0.7)
    assert np.mean(after) < 0.9 * np.mean(before)


def test_a_sensor_with_other_axes_is_not_believed():
    covariance = np.eye(6) * 1e-4
    assert fuse_gravity(RIG, covariance, GravityPrior(RIG[:, :3] @ UP, UP)) is not None
    assert fuse_gravity(RIG, covariance, GravityPrior(-RIG[:, :3] @ UP, UP)) is None


@pytest.mark.parametrize(
    ("camera", "world", "degrees"),
    [
        ([0, 0, 2], [0, 0, 1], 1),
        ([0, 0, 1], [0, 0, np.nan], 1),
        ([0, 1], [0, 0, 1], 1),
        ([0, 0, 1], [0, 0, 1], 0),
        ([0, 0, 1], [0, 0, 1], np.nan),
    ],
)
def test_directions_of_up_that_are_none(camera, world, degrees):
    with pytest.raises(InputError, match="up"):
        GravityPrior(np.array(camera, float), np.array(world, float), degrees)
