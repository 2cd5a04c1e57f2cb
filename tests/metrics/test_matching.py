"""Metrics of local features: by hand, by plain loops, on the reference detections, and against the usual
mistakes: H for its inverse, x for y, half a pixel."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest

from locate.errors import InputError
from locate.matching.descriptors import match_mutual
from locate.metrics.common import mean_defined
from locate.metrics.matching import (
    best_in_view,
    corner_error,
    homography_accuracy,
    in_view,
    localization_error,
    match_errors,
    matching_score,
    mean_matching_accuracy,
    mutual_repeatability,
    nearest_descriptors,
    nearest_distances,
    nearest_neighbor_map,
    repeatability,
)
from locate.pixels import apply_homography

SIZE = (320, 240)
SHIFT = np.array([[1, 0, 10], [0, 1, 0], [0, 0, 1.0]])  # x_b = x_a + 10
DOUBLE = np.diag((2.0, 2.0, 1.0))
TURN = np.array([[0.84, -0.32, 51.7], [0.35, 0.71, -12.7], [0.0006, -0.0003, 0.94]])
NOTHING = np.zeros((0, 2))


# --- repeatability and localization error -------------------------------------------------------


def test_in_view_by_hand():
    points = [[0, 0], [309.9, 239.9], [310, 0], [0, 240], [-10, 0], [-10.1, 0], [0, -0.1]]
    seen = [True, True, False, False, True, False, False]
    assert in_view(points, SHIFT, SIZE).tolist() == seen
    # Width and height are not exchangeable.
    assert in_view([[300, 10], [10, 300]], np.eye(3), SIZE).tolist() == [True, False]
    assert in_view(NOTHING, SHIFT, SIZE).shape == (0,)
    # The line x = 100 goes to infinity.
    horizon = np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1]])
    assert in_view([[100, 0], [0, 0], [50, 50]], horizon, SIZE).tolist() == [False, True, True]


def test_the_view_comes_before_the_strongest():
    points = [[315, 0], [10, 0], [20, 0], [30, 0]]
    # The best point leaves the view; the two best of the others are chosen, ties in their order.
    assert best_in_view(points, [9, 1, 3, 3], SHIFT, SIZE, keep=2).tolist() == [2, 3]
    assert best_in_view(points, [9, 1, 3, 2], SHIFT, SIZE, keep=None).tolist() == [2, 3, 1]
    with pytest.raises(InputError, match="scores"):
        best_in_view(points, [1, 2], SHIFT, SIZE)


def test_repeatability_by_hand():
    a = [[0, 0], [100, 0], [200, 0]]
    b = [[10, 3], [114, 0]]  # 3 px from the image of the first, 4 px from that of the second
    from_a, from_b = nearest_distances(a, b, SHIFT)
    assert from_a == pytest.approx([3, 4, 96])
    assert from_b == pytest.approx([3, 4])
    assert repeatability(from_a, from_b) == pytest.approx((1 + 1) / 5)  # 3 px still counts
    assert repeatability(from_a, from_b, 4) == pytest.approx((2 + 2) / 5)
    assert repeatability(from_a, from_b, 2.999) == 0
    assert localization_error(from_a, from_b) == pytest.approx(3)
    assert localization_error(from_a, from_b, 4) == pytest.approx(3.5)


def test_the_frames_differ_where_the_scale_does():
    # b is twice as large: 4 px in b are 2 px in a.
    a, b = [[10, 10], [50, 50]], [[24, 20], [100, 100]]
    in_b = nearest_distances(a, b, DOUBLE)
    each = nearest_distances(a, b, DOUBLE, frames="each")
    assert (in_b[0].tolist(), in_b[1].tolist()) == ([4, 0], [4, 0])
    assert (each[0].tolist(), each[1].tolist()) == ([4, 0], [2, 0])
    assert repeatability(*in_b) == 2 / 4
    assert repeatability(*each) == 3 / 4
    assert localization_error(*each) == pytest.approx((0 + 2 + 0) / 3)
    assert localization_error(*each, pooled=False) == pytest.approx((0 + 1) / 2)
    with pytest.raises(InputError, match="both"):
        nearest_distances(a, b, DOUBLE, frames="both")


def test_one_mean_for_each_view_is_not_the_pooled_one():
    from_a, from_b = np.array([1.0, 1.0, 1.0]), np.array([3.0])
    assert localization_error(from_a, from_b) == pytest.approx(1.5)
    assert localization_error(from_a, from_b, pooled=False) == pytest.approx(2.0)
    assert localization_error(from_a, np.array([9.0]), pooled=False) == pytest.approx(1.0)


def test_nearest_distances_agree_with_loops():
    rng = np.random.default_rng(3)
    a, b = rng.uniform(0, 200, (30, 2)), rng.uniform(0, 200, (25, 2))

    def image_of(h, p):
        x, y = p
        w = h[2, 0] * x + h[2, 1] * y + h[2, 2]
        return (h[0, 0] * x + h[0, 1] * y + h[0, 2]) / w, (h[1, 0] * x + h[1, 1] * y + h[1, 2]) / w

    from_a, from_b = nearest_distances(a, b, TURN)
    assert from_a == pytest.approx([min(math.dist(image_of(TURN, p), q) for q in b) for p in a])
    assert from_b == pytest.approx([min(math.dist(image_of(TURN, p), q) for p in a) for q in b])
    inverse = np.linalg.inv(TURN)
    each_a, each_b = nearest_distances(a, b, TURN, frames="each")
    assert each_a == pytest.approx(from_a)
    assert each_b == pytest.approx([min(math.dist(p, image_of(inverse, q)) for p in a) for q in b])


def test_a_point_at_infinity_spoils_no_other():
    horizon = np.array([[1, 0, -100], [0, 1, 0], [-0.01, 0, 1]])  # (100, 0) -> 0/0, (100, 5) -> 5/0
    from_a, from_b = nearest_distances([[100, 0], [100, 5], [0, 0]], [[-97, 4]], horizon)
    assert from_a.tolist() == [math.inf, math.inf, 5]
    assert from_b.tolist() == [5]
    assert match_errors([[100, 0]], [[0, 0]], horizon).tolist() == [math.inf]


def test_no_points_no_pair():
    one = [[5.0, 5.0]]
    neither = nearest_distances(NOTHING, NOTHING, SHIFT)
    assert math.isnan(repeatability(*neither))
    only_a = nearest_distances(one, NOTHING, SHIFT)
    assert repeatability(*only_a) == 0.0
    assert only_a[0].tolist() == [math.inf]
    only_b = nearest_distances(NOTHING, one, SHIFT, frames="each")
    assert repeatability(*only_b) == 0.0
    for distances in (neither, only_a, only_b, ([5.0], [5.0])):
        assert math.isnan(localization_error(*distances))
        assert math.isnan(localization_error(*distances, pooled=False))
    errors = [localization_error([1.0], [1.0]), localization_error([5.0], [5.0])]
    assert mean_defined(errors) == 1.0, "a pair without a correct point is excluded"


def test_mutual_repeatability_by_hand():
    # Under SHIFT the points of a lie at x = 10, 12, 310 in b: (10, 0) and (12, 0) both prefer b's
    # (11.5, 0), which prefers the second; the third is out of view but counts in the denominator.
    a, b = [[0, 0], [2, 0], [300, 0]], [[11.5, 0]]
    assert mutual_repeatability(a, b, SHIFT) == pytest.approx(2 / 4)
    from_a, from_b = nearest_distances(a, b, SHIFT)
    assert repeatability(from_a, from_b) == pytest.approx(3 / 4), "no cross-check: two and one"
    # Strictly less: 0.5 px is not found at 0.5.
    assert mutual_repeatability(a, b, SHIFT, 0.5) == 0
    assert mutual_repeatability(a, b, SHIFT, 0.501) == pytest.approx(2 / 4)


def test_mutual_repeatability_measures_in_the_frame_of_each_point():
    # b is twice as large: 4 px there are 2 px in a, so only the point of a is found at 3 px.
    assert mutual_repeatability([[10, 10]], [[24, 20]], DOUBLE) == pytest.approx(1 / 2)
    assert mutual_repeatability([[10, 10]], [[24, 20]], np.linalg.inv(DOUBLE)) == 0
    assert mutual_repeatability([[10, 10]], [[20, 24]], DOUBLE, 2) == 0
    assert mutual_repeatability([[10, 12]], [[24, 20]], DOUBLE, 5) == pytest.approx(1 / 2)


def test_mutual_repeatability_takes_the_nearest_in_the_frame_of_each_point():
    # b is ten times as high: (0, 20) lies 2 px from the point of a in a, but (5, 0) is nearer in b.
    tall = np.diag((1.0, 10.0, 1.0))
    assert mutual_repeatability([[0, 0]], [[5, 0], [0, 20]], tall) == pytest.approx(1 / 3)
    assert (
        mutual_repeatability([[5, 0], [0, 2]], [[0, 0]], tall) == 0
    )  # (5, 0) is the nearest, too far


def test_mutual_repeatability_agrees_with_loops():
    rng = np.random.default_rng(7)
    a, b = rng.uniform(0, 100, (40, 2)), rng.uniform(0, 100, (30, 2))

    def image_of(h, p):
        v = [sum(h[r, c] * q for c, q in enumerate((*p, 1))) for r in range(3)]
        return v[0] / v[2], v[1] / v[2]

    inverse, found = np.linalg.inv(TURN), 0
    for i, p in enumerate(a):
        j = min(range(len(b)), key=lambda j: math.dist(p, image_of(inverse, b[j])))
        if min(range(len(a)), key=lambda k: math.dist(image_of(TURN, a[k]), b[j])) == i:
            found += math.dist(p, image_of(inverse, b[j])) < 10
            found += math.dist(image_of(TURN, p), b[j]) < 10
    assert 10 < found < 70
    assert mutual_repeatability(a, b, TURN, 10) == pytest.approx(found / 70)


def test_mutual_repeatability_without_points():
    assert math.isnan(mutual_repeatability(NOTHING, NOTHING, SHIFT))
    assert mutual_repeatability([[5, 5]], NOTHING, SHIFT) == 0
    assert mutual_repeatability(NOTHING, [[5, 5]], SHIFT) == 0


# --- homography ---------------------------------------------------------------------------------


def test_corner_error_by_hand():
    assert corner_error(np.eye(3), SHIFT, SIZE) == pytest.approx(10)
    assert corner_error(7 * SHIFT, SHIFT, SIZE) == pytest.approx(0, abs=1e-9)
    # Twice as large: the corners (0,0) (319,0) (0,239) (319,239) move by their own length.
    expected = (0 + 319 + 239 + math.hypot(319, 239)) / 4
    assert corner_error(DOUBLE, np.eye(3), SIZE) == pytest.approx(expected)


def test_without_a_homography_the_pair_counts_as_wrong():
    to_infinity = np.array([[1, 0, 0], [0, 1, 0], [-1 / 319, 0, 1]])
    for bad in (None, np.full((3, 3), np.nan), np.zeros((3, 3)), to_infinity):
        assert corner_error(bad, SHIFT, SIZE) == math.inf
    errors = [corner_error(h, SHIFT, SIZE) for h in (None, SHIFT, 2 * SHIFT)]
    assert homography_accuracy(errors) == pytest.approx([2 / 3] * 3)
    assert homography_accuracy([1.0, 3.0, 3.1, 5.0]) == pytest.approx([1 / 4, 2 / 4, 1])
    assert np.isnan(homography_accuracy([])).all()


def test_corner_error_sees_inverse_and_exchanged_axes():
    exchange = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert corner_error(TURN, TURN, SIZE) == 0
    assert corner_error(np.linalg.inv(TURN), TURN, SIZE) > 100
    assert corner_error(exchange @ TURN @ exchange, TURN, SIZE) > 50
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    assert corner_error(half @ TURN, TURN, SIZE) == pytest.approx(0.5**0.5)


# --- matches ------------------------------------------------------------------------------------


def test_matching_accuracy_by_hand():
    errors = match_errors([[0, 0], [0, 0], [5, 5]], [[10, 0], [10, 3], [15, 9.5]], SHIFT)
    assert errors == pytest.approx([0, 3, 4.5])
    assert mean_matching_accuracy(errors) == pytest.approx([1 / 3] * 2 + [2 / 3] * 2 + [1.0] * 6)
    assert mean_matching_accuracy(match_errors(NOTHING, NOTHING, SHIFT)).tolist() == [0.0] * 10
    with pytest.raises(InputError, match="two ends"):
        match_errors([[0, 0]], NOTHING, SHIFT)


def one_hot(*indices):
    return np.eye(8)[list(indices)]


def test_matching_score_by_hand():
    # a: 0 and 1 find their partners, 2 is visible but finds a wrong one, 3 is out of view.
    a = [[0, 0], [50, 0], [100, 0], [315, 0]]
    b = [[10, 0], [60, 2.9], [200, 0]]
    score = matching_score(
        a, one_hot(0, 1, 2, 3), b, one_hot(0, 1, 2), SHIFT, size_a=SIZE, size_b=SIZE
    )
    assert score == pytest.approx((2 / 3 + 2 / 3) / 2)
    # Exactly 3 px is not correct, unlike in repeatability.
    b[1] = [60, 3]
    score = matching_score(
        a, one_hot(0, 1, 2, 3), b, one_hot(0, 1, 2), SHIFT, size_a=SIZE, size_b=SIZE
    )
    assert score == pytest.approx(1 / 3)


def test_matching_score_does_not_cross_check():
    # Both points of a prefer the one point of b, and both lie within 3 px of it.
    a, b = [[0, 0], [2, 0]], [[10, 0]]
    score = matching_score(a, one_hot(0, 0), b, one_hot(0), SHIFT, size_a=SIZE, size_b=SIZE)
    assert score == 1.0


def test_matching_score_divides_by_the_features_in_view():
    # b's second point lies left of image a: it is no feature of the shared view.
    a, b = [[0, 0]], [[10, 0], [4, 0]]
    score = matching_score(a, one_hot(0), b, one_hot(0, 1), SHIFT, size_a=SIZE, size_b=SIZE)
    assert score == 1.0


def test_matching_score_keeps_the_sizes_apart():
    # Only one of b's two points comes from inside the small image a.
    arguments = [[5, 5]], one_hot(0), [[5, 5], [60, 5]], one_hot(0, 1), np.eye(3)
    assert matching_score(*arguments, size_a=(20, 20), size_b=SIZE) == 1.0
    assert matching_score(*arguments, size_a=SIZE, size_b=(20, 20)) == pytest.approx(
        (1 + 1 / 2) / 2
    )


def test_average_precision_of_matches_by_hand():
    # a -> b by distance: right, wrong, right; b -> a: all right.
    a = [[0, 0], [100, 0], [200, 0]]
    b = [[10, 0], [210, 0]]
    descriptors_a = np.array([[0.0], [2.2], [1.5]])
    descriptors_b = np.array([[0.0], [1.0]])
    (nearest, distance), (back, _) = nearest_descriptors(descriptors_a, descriptors_b)
    assert (nearest.tolist(), back.tolist()) == ([0, 1, 1], [0, 2])
    assert distance == pytest.approx([0, 1.2, 0.5])
    value = nearest_neighbor_map(a, descriptors_a, b, descriptors_b, SHIFT)
    assert value == 1.0  # the wrong one is the last
    descriptors_a[1] = 1.4  # now it stands between the right ones; b's second prefers it, wrongly
    value = nearest_neighbor_map(a, descriptors_a, b, descriptors_b, SHIFT)
    assert value == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)


def test_average_precision_of_matches_excludes_the_threshold():
    # b is twice as large: what is off by 3 px there, is off by 1.5 px in a.
    for offset, expected in ((2.9, 1.0), (3.0, 0.5), (6.0, 0.0)):
        value = nearest_neighbor_map([[0, 0]], one_hot(0), [[offset, 0]], one_hot(0), DOUBLE)
        assert value == expected


def test_ties_do_not_depend_on_the_order():
    # Two matches of equal distance, one of them right: precision 1/2, whichever comes first.
    a, b = np.array([[0.0, 0], [100, 0]]), np.array([[10.0, 0], [150, 0]])
    for order in ([0, 1], [1, 0]):
        value = nearest_neighbor_map(a[order], one_hot(*order), b, one_hot(0, 1), SHIFT)
        assert value == pytest.approx(0.5)


def test_without_matches_the_pair_counts_zero():
    sizes = {"size_a": SIZE, "size_b": SIZE}
    none = np.zeros((0, 8))
    for a, da, b, db in (
        (NOTHING, none, NOTHING, none),
        ([[0, 0]], one_hot(0), NOTHING, none),
        (NOTHING, none, [[10, 0]], one_hot(0)),
        ([[0, 0]], one_hot(0), [[100, 0]], one_hot(0)),  # a match, but a wrong one
    ):
        assert matching_score(a, da, b, db, SHIFT, **sizes) == 0.0
        assert nearest_neighbor_map(a, da, b, db, SHIFT) == 0.0
    with pytest.raises(InputError, match="descriptors"):
        matching_score([[0, 0]], none, [[0, 0]], one_hot(0), SHIFT, **sizes)


@pytest.mark.parametrize(
    ("points", "matrix"),
    [
        (np.zeros((4, 3)), SHIFT),
        (np.array([[np.nan, 0]]), SHIFT),
        (np.zeros((4, 2)), np.eye(4)),
        (np.zeros((4, 2)), np.zeros((3, 3))),
    ],
)
def test_bad_input_is_refused(points, matrix):
    with pytest.raises(InputError):
        nearest_distances(points, np.zeros((2, 2)), matrix, frames="each")


# --- the usual mistakes -------------------------------------------------------------------------


def scores_of(a, b, b_from_a, descriptors, size_a=SIZE, size_b=SIZE):
    """(repeatability, localization error, MMA@1, MMA@3, M-score, NN-mAP) where row i of a belongs to
    row i of b."""
    rank = -np.arange(len(a))
    index_a = best_in_view(a, rank, b_from_a, size_b)
    index_b = best_in_view(b, rank, np.linalg.inv(b_from_a), size_a)
    distances = nearest_distances(a[index_a], b[index_b], b_from_a)
    matches = match_mutual(descriptors, descriptors)
    mma = mean_matching_accuracy(match_errors(a[matches[:, 0]], b[matches[:, 1]], b_from_a))
    arguments = a, descriptors, b, descriptors, b_from_a
    return np.array(
        [
            repeatability(*distances),
            localization_error(*distances),
            mma[0],
            mma[2],
            matching_score(*arguments, size_a=size_a, size_b=size_b),
            nearest_neighbor_map(*arguments),
        ]
    )


@pytest.fixture
def perfect():
    """200 points in both views of TURN, found without an error."""
    rng = np.random.default_rng(4)
    a = rng.uniform(0, 1, (600, 2)) * SIZE
    a = a[in_view(a, TURN, SIZE)][:200]
    descriptors = rng.normal(size=(200, 32))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    return a, apply_homography(TURN, a), descriptors


def test_perfect_points_score_one(perfect):
    a, b, descriptors = perfect
    assert scores_of(a, b, TURN, descriptors) == pytest.approx([1, 0, 1, 1, 1, 1], abs=1e-9)


def test_inverse_homography_is_caught(perfect):
    a, b, descriptors = perfect
    rep, error, mma1, mma3, score, ap = scores_of(a, b, np.linalg.inv(TURN), descriptors)
    assert rep < 0.3
    assert error > 1
    assert max(mma1, mma3, score, ap) < 0.05


@pytest.mark.parametrize("which", ["a", "b", "both"])
def test_exchanged_axes_are_caught(perfect, which):
    a, b, descriptors = perfect
    if which in ("a", "both"):
        a = a[:, ::-1]
    if which in ("b", "both"):
        b = b[:, ::-1]
    rep, error, mma1, mma3, score, ap = scores_of(a, b, TURN, descriptors)
    assert rep < 0.4
    assert error > 1
    assert max(mma1, mma3, score, ap) < 0.05


def test_exchanged_width_and_height_are_caught():
    points = np.array([[300.0, 10], [10, 10], [20, 200]])
    scores = np.arange(3)
    assert len(best_in_view(points, scores, np.eye(3), SIZE)) == 3
    assert len(best_in_view(points, scores, np.eye(3), SIZE[::-1])) == 2


def test_half_a_pixel_is_caught(perfect):
    """COLMAP's pixels for ours in one image: 0.71 px, within the loose thresholds, so it is the
    localization error, and MMA where the detector itself is off by half a pixel, that tell."""
    a, b, descriptors = perfect
    _, error, *_ = scores_of(a, b + 0.5, TURN, descriptors)
    assert error == pytest.approx(0.5**0.5, rel=0.05)
    angle = np.random.default_rng(5).uniform(0, 2 * np.pi, len(b))
    noisy = b + 0.6 * np.c_[np.cos(angle), np.sin(angle)]
    assert scores_of(a, noisy, TURN, descriptors)[2] == 1.0
    assert scores_of(a, noisy + 0.5, TURN, descriptors)[2] < 0.75
    exact = mean_matching_accuracy(match_errors(a, b, TURN), (0.5,))
    shifted = mean_matching_accuracy(match_errors(a, b + 0.5, TURN), (0.5,))
    assert (exact[0], shifted[0]) == (1.0, 0.0)


# --- reference detections -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference(data):
    folder = data.parent / "checkpoints" / "superpoint_reference"
    if not (folder / "expected_metrics.json").is_file():
        pytest.skip(f"no reference detections at {folder}")
    return folder


@pytest.mark.data
@pytest.mark.parametrize("name", ["pred_0", "pred_5"])
def test_reference_detections(reference, name):
    expected = json.loads((reference / "expected_metrics.json").read_text())[name]
    with np.load(reference / f"{name}.npz") as file:
        a, b = file["prob"], file["warped_prob"]
        desc_a, desc_b, b_from_a = file["desc"], file["warped_desc"], file["homography"]
    best_a = best_in_view(a[:, :2], a[:, 2], b_from_a, SIZE)
    best_b = best_in_view(b[:, :2], b[:, 2], np.linalg.inv(b_from_a), SIZE)
    assert (len(best_a), len(best_b)) == (expected["N1"], expected["N2"])
    distances = nearest_distances(a[best_a, :2], b[best_b, :2], b_from_a)
    assert repeatability(*distances) == pytest.approx(expected["repeatability_300_eps3"], abs=1e-12)
    assert localization_error(*distances) == pytest.approx(expected["loc_error_pooled"], abs=1e-12)
    matches = match_mutual(desc_a, desc_b)
    assert len(matches) == expected["mnn"]
    errors = match_errors(a[matches[:, 0], :2], b[matches[:, 1], :2], b_from_a)
    for threshold, value in expected["MMA"].items():
        assert mean_matching_accuracy(errors, (float(threshold),))[0] == pytest.approx(value)
    score = matching_score(a[:, :2], desc_a, b[:, :2], desc_b, b_from_a, size_a=SIZE, size_b=SIZE)
    assert score == pytest.approx(expected["matching_score_oneway_eps3"], abs=1e-12)


@pytest.mark.data
@pytest.mark.parametrize("warp", ["mild", "mid", "hard"])
@pytest.mark.parametrize("name", ["pred_0", "pred_5"])
def test_real_detections_on_known_warps(reference, name, warp):
    """SIFT on a reference image and on its warp by each homography of synthetic_warp_metrics.json: under
    the inverse it collapses as the file reports it for SEKD and SuperPoint."""
    record = json.loads((reference / "synthetic_warp_metrics.json").read_text())
    b_from_a = np.array(record["H"][warp])
    with np.load(reference / f"{name}.npz") as file:
        image = np.uint8(np.round(file["image"] * 255))
    views = image, cv2.warpPerspective(image, b_from_a, SIZE)
    (a, scores_a, desc_a), (b, scores_b, desc_b) = map(sift, views)

    def measure(matrix):
        best_a = best_in_view(a, scores_a, matrix, SIZE)
        best_b = best_in_view(b, scores_b, np.linalg.inv(matrix), SIZE)
        distances = nearest_distances(a[best_a], b[best_b], matrix)
        matches = match_mutual(desc_a[best_a], desc_b[best_b])
        errors = match_errors(a[best_a][matches[:, 0]], b[best_b][matches[:, 1]], matrix)
        return repeatability(*distances), mean_matching_accuracy(errors)[2]

    rep, mma3 = measure(b_from_a)
    inverse_rep, inverse_mma3 = measure(np.linalg.inv(b_from_a))
    results = [r for key, r in record["results"].items() if key.endswith(f"{name}/{warp}")]
    assert rep > 0.45
    assert mma3 > 0.5
    assert inverse_rep < rep / 2
    assert inverse_mma3 < 0.05
    assert all(r["rep_if_H_inverted"] < r["rep"] / 2 for r in results)


def sift(image):
    """N x 2 points, N scores, N x 128 RootSIFT float32."""
    keypoints, descriptors = cv2.SIFT_create(400).detectAndCompute(image, None)
    rooted = np.sqrt(descriptors / descriptors.sum(axis=1, keepdims=True))
    return (
        np.array([k.pt for k in keypoints]),
        np.array([k.response for k in keypoints]),
        rooted.astype(np.float32),
    )
