"""Two-view verification on scenes whose geometry is known."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from locate.errors import UnknownNameError
from locate.matching.two_view import (
    MIN_AFFINE_MATCHES,
    MIN_MATCHES,
    distinct_matches,
    epipolar_distances,
    transfer_errors,
    verify,
)
from locate.types import AFFINE, Features


class Scene:
    """Points before two pinhole cameras: X_d = R X_q + t, x ~ K X, focal length one image width."""

    def __init__(self, size_q=(1000, 750), size_d=(1000, 750), n=200, seed=0, depth=(3.0, 9.0)):
        self.sizes = size_q, size_d
        rng = np.random.default_rng(seed)
        self.kq, self.kd = (
            np.array([[w, 0, (w - 1) / 2], [0, w, (h - 1) / 2], [0, 0, 1.0]]) for w, h in self.sizes
        )
        self.r = cv2.Rodrigues(np.array([0.05, -0.2, 0.1]))[0]
        self.t = np.array([0.9, 0.2, -0.15])
        kept = np.zeros((0, 3))
        while len(kept) < n:  # those that both cameras see
            x = rng.uniform(0, 1, (n, 2)) * (np.array(size_q) - 1)
            rays = np.c_[x, np.ones(n)] @ np.linalg.inv(self.kq).T
            points = rays * rng.uniform(*depth, (n, 1))
            there = self.project_d(points)
            seen = ((there > 0) & (there < np.array(size_d) - 1)).all(axis=1)
            kept = np.r_[kept, points[seen]]
        self.points = kept[:n]
        self.xq, self.xd = self.project_q(self.points), self.project_d(self.points)

    def project_q(self, points):
        x = points @ self.kq.T
        return x[:, :2] / x[:, 2:]

    def project_d(self, points):
        x = (points @ self.r.T + self.t) @ self.kd.T
        return x[:, :2] / x[:, 2:]

    @property
    def fundamental(self):
        """x_d^T F x_q = 0 (Hartley and Zisserman, eq. 9.12)."""
        x, y, z = self.t
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        return np.linalg.inv(self.kd).T @ cross @ self.r @ np.linalg.inv(self.kq)


def features(points, size):
    n = len(points)
    return Features(
        keypoints=np.asarray(points, np.float32).reshape(-1, 2),
        scores=np.ones(n, np.float32),
        descriptors=np.ones((n, 4), np.float32) / 2,
        image_size=size,
    )


def pair(xq, xd, sizes=((1000, 750), (1000, 750)), **options):
    """Verify points that match in order."""
    matches = np.repeat(np.arange(len(xq), dtype=np.int32)[:, None], 2, axis=1)
    return verify(features(xq, sizes[0]), features(xd, sizes[1]), matches, **options)


def with_outliers(scene, count, noise, seed=1):
    """Noisy matches, then `count` that join random places; noise in pixels of (query, database)."""
    rng = np.random.default_rng(seed)
    n = len(scene.xq)
    far_q, far_d = (rng.uniform(0, 1, (count, 2)) * (np.array(s) - 1) for s in scene.sizes)
    xq = np.r_[scene.xq + rng.normal(0, noise[0], (n, 2)), far_q]
    xd = np.r_[scene.xd + rng.normal(0, noise[1], (n, 2)), far_d]
    truth = np.arange(n + count) < n
    order = rng.permutation(n + count)
    return xq[order], xd[order], truth[order]


def true_flags(scene_truth, verification):
    """Which of the kept matches are true; matches are (i, i) here."""
    return scene_truth[verification.matches[:, 0]]


def test_the_scene_itself():
    scene = Scene()
    homogeneous = np.c_[scene.xd, np.ones(200)], np.c_[scene.xq, np.ones(200)]
    residual = np.sum((homogeneous[0] @ scene.fundamental) * homogeneous[1], axis=1)
    np.testing.assert_allclose(residual, 0, atol=1e-12)


def test_clean_scene_with_half_outliers():
    scene = Scene()
    xq, xd, truth = with_outliers(scene, 200, (0.3, 0.3))
    found = pair(xq, xd)

    assert found.kind == "fundamental"
    assert epipolar_distances(found.matrix, scene.xq, scene.xd).max() < 0.5
    real = true_flags(truth, found)
    assert found.inliers[real].mean() > 0.98  # recall
    assert real[found.inliers].mean() > 0.97  # precision
    assert found.inlier_count == found.inliers.sum()


def test_matrix_maps_query_to_database():
    """x_d^T F x_q = 0; neither the transposed matrix nor exchanged points fit."""
    scene = Scene()
    found = pair(scene.xq, scene.xd)
    a, b = np.c_[scene.xq, np.ones(200)], np.c_[scene.xd, np.ones(200)]
    matrix = found.matrix / np.linalg.norm(found.matrix)
    expected = scene.fundamental / np.linalg.norm(scene.fundamental)
    assert min(np.abs(matrix - expected).max(), np.abs(matrix + expected).max()) < 1e-3
    assert epipolar_distances(found.matrix, scene.xq, scene.xd).max() < 0.1
    assert np.median(epipolar_distances(found.matrix.T, scene.xq, scene.xd)) > 5
    assert np.median(epipolar_distances(found.matrix, scene.xd, scene.xq)) > 5
    # The epipolar line of a query point in the database image is F x_q.
    lines = a @ found.matrix.T
    distance = np.abs(np.sum(lines * b, axis=1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert distance.max() < 0.2


@pytest.mark.parametrize(
    ("size_q", "size_d"),
    [((4000, 3000), (800, 600)), ((640, 480), (3000, 4000)), ((4000, 3000), (4000, 3000))],
)
def test_images_of_different_size_and_beyond_the_working_side(size_q, size_d):
    """The matrix is of original pixels, the tolerance of the working size."""
    scene = Scene(size_q, size_d)
    shrink = [max(1.0, max(size) / 1024) for size in (size_q, size_d)]
    xq, xd, truth = with_outliers(scene, 100, [0.7 * s for s in shrink])
    found = pair(xq, xd, scene.sizes)

    real = true_flags(truth, found)
    assert found.inliers[real].mean() > 0.96
    assert real[found.inliers].mean() > 0.97
    to_original = [np.diag((s, s, 1.0)) for s in shrink]
    at_working_size = to_original[1] @ found.matrix @ to_original[0]
    clean = epipolar_distances(at_working_size, scene.xq / shrink[0], scene.xd / shrink[1])
    assert clean.max() < 1.0
    np.testing.assert_array_equal(found.query_points, np.float32(xq)[found.matches[:, 0]])
    np.testing.assert_array_equal(found.database_points, np.float32(xd)[found.matches[:, 1]])


def test_working_side_sets_the_tolerance():
    """3 pixels of noise in 4000 are 0.8 at a working side of 1024 but 3 at 4000."""
    scene = Scene((4000, 3000), (4000, 3000))
    xq, xd, _ = with_outliers(scene, 0, (3, 3))
    at_1024 = pair(xq, xd, scene.sizes).inlier_count
    at_4000 = pair(xq, xd, scene.sizes, working_side=4000).inlier_count
    assert at_1024 > 190
    assert at_4000 < 160


def test_small_images_are_not_blown_up():
    """Off by 2.4 pixels (Sampson: 1.7) is within the tolerance of 2; with either image at twice its
    size (2.1) it would not be."""
    scene = Scene((500, 375), (500, 375))
    lines = np.c_[scene.xq, np.ones(200)] @ scene.fundamental.T
    normal = lines[:, :2] / np.linalg.norm(lines[:, :2], axis=1, keepdims=True)
    xd = scene.xd.copy()
    xd[:40] += 2.4 * normal[:40] * np.where(np.arange(40) % 2, 1, -1)[:, None]
    found = pair(scene.xq, xd, scene.sizes)
    off = np.isin(found.matches[:, 0], np.arange(40))
    assert found.inliers[off].mean() > 0.9


def test_a_wall_is_enough():
    """Facades are planes; a fundamental matrix fits them too, though not only one."""
    scene = Scene(depth=(5.0, 5.0))
    xq, xd, truth = with_outliers(scene, 100, (0.3, 0.3))
    found = pair(xq, xd)
    assert found.inliers[true_flags(truth, found)].mean() > 0.95


def test_chance_gives_few_inliers():
    rng = np.random.default_rng(4)
    found = pair(rng.uniform(0, 740, (150, 2)), rng.uniform(0, 740, (150, 2)))
    assert found.inlier_count < 20


def test_the_same_answer_every_time():
    scene = Scene()
    xq, xd, _ = with_outliers(scene, 300, (0.5, 0.5))
    first, second = pair(xq, xd), pair(xq, xd)
    np.testing.assert_array_equal(first.inliers, second.inliers)
    np.testing.assert_array_equal(first.matrix, second.matrix)


@pytest.mark.parametrize("n", [0, 1, MIN_MATCHES - 1])
def test_too_few_matches(n):
    scene = Scene()
    found = pair(scene.xq[:n], scene.xd[:n])
    assert (found.kind, found.matrix, found.inlier_count) == ("none", None, 0)
    assert len(found.matches) == len(found.inliers) == n


def test_no_features_at_all():
    nothing = features(np.zeros((0, 2)), (640, 480))
    assert verify(nothing, nothing, np.zeros((0, 2), np.int32)).kind == "none"


def test_eight_matches_are_enough():
    scene = Scene()
    assert pair(scene.xq[:8], scene.xd[:8]).inlier_count == 8


def test_repeated_matches_count_once():
    """Eight matches of which two are one spot are seven pieces of evidence."""
    scene = Scene()
    index = [0, 1, 2, 3, 4, 5, 6, 6]
    found = pair(scene.xq[index], scene.xd[index])
    assert found.kind == "none"
    np.testing.assert_array_equal(found.matches[:, 0], np.arange(7))


@pytest.mark.parametrize(
    "points",
    [np.tile([[100.0, 50.0]], (20, 1)), np.c_[np.arange(20) * 30.0, np.full(20, 7.0)]],
    ids=["one spot", "one line"],
)
def test_degenerate_points_are_no_crash(points):
    assert pair(points, points).inlier_count in range(21)


def test_distinct_matches_by_hand():
    a = np.array([[10, 10], [10.4, 9.6], [30, 30], [50, 50], [10, 10], [70, 70]], float)
    b = np.array([[20, 20], [90, 90], [20.3, 20.3], [60, 60], [95, 95], [61, 60]], float)
    # 1 and 4 share a pixel of a with 0; 2 shares a pixel of b with 0; 5 is a pixel beside 3.
    np.testing.assert_array_equal(distinct_matches(a, b), [0, 3, 5])
    np.testing.assert_array_equal(distinct_matches(b, a), [0, 3, 5])


def test_distinct_matches_of_those_that_are():
    rng = np.random.default_rng(5)
    a, b = np.arange(50)[:, None] * [3.0, 5.0], rng.permutation(50)[:, None] * [7.0, 3.0]
    np.testing.assert_array_equal(distinct_matches(a, b), np.arange(50))
    assert distinct_matches(np.zeros((0, 2)), np.zeros((0, 2))).shape == (0,)


def line_distance(point, p, q):
    """Of `point` to the line through p and q."""
    along = (q - p) / np.linalg.norm(q - p)
    away = point - p
    return abs(along[0] * away[1] - along[1] * away[0])


def test_epipolar_distances_against_lines_drawn_by_projection():
    """Sampson's distance s is 1 / s^2 = 1 / d_a^2 + 1 / d_b^2, with d the distances of each point to
    the epipolar line of the other. Here the lines are drawn through two points of a ray."""
    scene = Scene()
    rng = np.random.default_rng(6)
    xq, xd = (x[:20] + rng.normal(0, 4, (20, 2)) for x in (scene.xq, scene.xd))
    got = epipolar_distances(scene.fundamental, xq, xd)
    for i in range(20):
        ray = np.linalg.inv(scene.kq) @ (*xq[i], 1)
        in_d = scene.project_d(np.array([2.0 * ray, 20.0 * ray]))
        ray = np.linalg.inv(scene.kd) @ (*xd[i], 1)
        back = (np.array([2.0 * ray, 20.0 * ray]) - scene.t) @ scene.r  # X_q = R^T (X_d - t)
        in_q = scene.project_q(back)
        d_d, d_q = line_distance(xd[i], *in_d), line_distance(xq[i], *in_q)
        assert got[i] == pytest.approx((d_d**-2 + d_q**-2) ** -0.5, rel=1e-6)


def test_epipolar_distance_is_the_way_to_the_nearest_fit():
    """To first order: the least movement of both points together that makes them agree."""
    scene = Scene()
    xq, xd = scene.xq[:5] + 0.3, scene.xd[:5] - 0.4
    for i in range(5):
        moved = np.r_[xq[i], xd[i]]
        for _ in range(20):  # Newton steps to the surface, each along its normal
            a, b = np.r_[moved[:2], 1], np.r_[moved[2:], 1]
            value = b @ scene.fundamental @ a
            normal = np.r_[(b @ scene.fundamental)[:2], (scene.fundamental @ a)[:2]]
            moved = moved - value * normal / (normal @ normal)
        way = np.linalg.norm(moved - np.r_[xq[i], xd[i]])
        (got,) = epipolar_distances(scene.fundamental, xq[i : i + 1], xd[i : i + 1])
        assert got == pytest.approx(way, rel=0.02)


def test_epipolar_distances_do_not_depend_on_the_scale_of_the_matrix():
    scene = Scene()
    shifted = scene.xd + 3
    np.testing.assert_allclose(
        epipolar_distances(scene.fundamental, scene.xq, shifted),
        epipolar_distances(-1e4 * scene.fundamental, scene.xq, shifted),
    )


# --- affine motions -----------------------------------------------------------------------------------

MOTION = np.array([[0.9, -0.35, 180.0], [0.2, 1.15, -60.0], [0.0, 0.0, 1.0]])  # original pixels


def moved_by(matrix, points):
    return np.array([(matrix @ (x, y, 1.0))[:2] for x, y in points])


def affine_pair(count=120, outliers=120, noise=4.0, size=(1000, 750), seed=0):
    """Points that an affine motion joins to within `noise`, and random ones."""
    rng = np.random.default_rng(seed)
    xq = rng.uniform((0, 0), size, (count + outliers, 2))
    xd = moved_by(MOTION, xq) + rng.normal(0, noise, xq.shape)
    xd[count:] = rng.uniform((0, 0), size, (outliers, 2))
    order = rng.permutation(count + outliers)
    return xq[order], xd[order], order < count


def test_an_affine_motion_is_found_among_outliers():
    """The matrix carries points of the query to points of the database, x to x and y to y."""
    xq, xd, truth = affine_pair()
    found = pair(xq, xd, model=AFFINE, max_error=15.0)
    assert (found.kind, found.model) == ("affine", "affine")
    real = true_flags(truth, found)
    assert found.inliers[real].mean() > 0.97
    assert real[found.inliers].mean() > 0.9
    np.testing.assert_array_equal(found.matrix[2], (0, 0, 1))
    there = moved_by(found.matrix, xq[truth])
    assert np.abs(there - moved_by(MOTION, xq[truth])).max() < 4
    back = moved_by(np.linalg.inv(found.matrix), xd[truth])
    assert np.median(np.abs(back - xq[truth])) < 8
    assert np.abs(moved_by(found.matrix, xd[truth]) - xq[truth]).max() > 100


@pytest.mark.parametrize("sizes", [((4000, 3000), (1000, 750)), ((500, 375), (4000, 3000))])
def test_the_affine_tolerance_is_of_the_working_size(sizes):
    """13 px at a working side of 500, whatever the sizes of the files are; 17 px are too far."""
    rng = np.random.default_rng(1)
    scale_q, scale_d = (max(size) / 500 for size in sizes)
    xq = rng.uniform((0, 0), (500, 375), (60, 2))
    xd = moved_by(np.diag((0.8, 0.8, 1.0)), xq)
    xd[:4] += (0, 12.0)
    xd[4:8] += (17.5, 0)
    found = pair(xq * scale_q, xd * scale_d, sizes, working_side=500, model=AFFINE, max_error=15.0)
    inliers = np.zeros(60, bool)
    inliers[found.matches[found.inliers, 0]] = True
    assert inliers[:4].all()
    assert not inliers[4:8].any()
    assert inliers[8:].all()
    errors = transfer_errors(found.matrix, xq * scale_q, xd * scale_d) / scale_d
    np.testing.assert_array_equal(errors <= 15.0, inliers)


def test_max_error_is_that_of_either_model():
    xq, xd, _ = affine_pair(outliers=0)
    counts = [pair(xq, xd, model=AFFINE, max_error=e).inlier_count for e in (2.0, 6.0, 20.0)]
    assert counts[0] < counts[1] < counts[2] == len(pair(xq, xd).matches)
    scene = Scene()
    xq, xd, _ = with_outliers(scene, 0, (2, 2))
    assert pair(xq, xd).inlier_count < pair(xq, xd, max_error=6.0).inlier_count
    plain = pair(xq, xd)
    np.testing.assert_array_equal(plain.inliers, pair(xq, xd, max_error=2.0).inliers)
    assert (plain.kind, plain.model) == ("fundamental", "fundamental")


def test_transfer_errors_by_hand():
    a, b = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[185.0, -60.0], [180.0, -57.0]])
    expected = [np.hypot(0.9 - 0.7 + 180 - 185, 0.2 + 2.3), 3.0]
    np.testing.assert_allclose(transfer_errors(MOTION, a, b), expected)


def test_affine_answers_are_the_same_every_time_and_from_every_thread():
    pairs_ = [affine_pair(count=30, outliers=200, noise=6.0, seed=s)[:2] for s in range(6)]

    def look(points):
        found = pair(*points, model=AFFINE, max_error=10.0)
        return found.inliers.tobytes() + found.matrix.tobytes()

    alone = [look(points) for points in pairs_]
    cv2.setRNGSeed(7)  # nobody else's numbers count
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(look, pairs_ * 5)) == alone * 5


@pytest.mark.parametrize("n", [0, 1, MIN_AFFINE_MATCHES - 1])
def test_too_few_matches_for_an_affine_motion(n):
    xq, xd, _ = affine_pair()
    found = pair(xq[:n], xd[:n], model=AFFINE)
    assert (found.kind, found.model, found.matrix, found.inlier_count) == ("none", AFFINE, None, 0)
    assert len(found.matches) == n


@pytest.mark.parametrize(
    "points",
    [np.tile([[100.0, 50.0]], (20, 1)), np.c_[np.arange(20) * 30.0, np.full(20, 7.0)]],
    ids=["one spot", "one line"],
)
def test_degenerate_points_are_no_affine_crash(points):
    found = pair(points, points, model=AFFINE, max_error=15.0)
    assert found.inlier_count <= len(found.matches)
    assert found.matrix is None or np.isfinite(found.matrix).all()


def test_unknown_models_are_refused():
    with pytest.raises(UnknownNameError, match=r"projective.*known: affine, fundamental"):
        pair(np.zeros((9, 2)), np.zeros((9, 2)), model="projective")
