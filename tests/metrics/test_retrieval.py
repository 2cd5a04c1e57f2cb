"""Retrieval metrics against cases computed by hand and by the definitions, written as plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from locate.errors import InputError
from locate.metrics.common import average_precision, mean_defined
from locate.metrics.retrieval import (
    global_average_precision,
    google_average_precision,
    google_mean_average_precision,
    ranks_without_junk,
    recall_at,
    revisited_average_precision,
    revisited_lists,
    revisited_precision_at,
    trapezoid_average_precision,
    within_radius,
)


def test_trapezoid_by_hand():
    # Positives at zero-based ranks 0 and 2: (1 + 1/1)/2 and (1/2 + 2/3)/2, of two.
    expected = ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    assert trapezoid_average_precision([0, 2], 2) == pytest.approx(expected)
    # A positive at rank 1 only: p0 = 0/1, p1 = 1/2.
    assert trapezoid_average_precision([1], 1) == 0.25
    assert trapezoid_average_precision([0, 1, 2], 3) == 1.0
    assert trapezoid_average_precision([], 3) == 0.0
    assert trapezoid_average_precision([0], 4) == 0.25  # three were never retrieved
    assert math.isnan(trapezoid_average_precision([], 0))


def test_trapezoid_is_not_the_finite_sum():
    relevant = np.array([0, 1, 1, 0, 1], np.bool_)
    trapezoid = trapezoid_average_precision(np.flatnonzero(relevant), 3)
    assert trapezoid < average_precision(relevant) - 0.1


def area_under_curve(ranking, ok, junk):
    """Oxford's compute_ap.cpp: walk down the ranking, leaving out junk."""
    area, recall, precision, seen, found = 0.0, 0.0, 1.0, 0, 0
    for image in ranking:
        if image in junk:
            continue
        found += image in ok
        seen += 1
        new_recall, new_precision = found / len(ok), found / seen
        area += (new_recall - recall) * (precision + new_precision) / 2
        recall, precision = new_recall, new_precision
    return area


def test_revisited_agrees_with_the_area_under_the_curve():
    rng = np.random.default_rng(2)
    for _ in range(50):
        ranking = rng.permutation(60)
        ids = rng.permutation(60)
        cut = np.sort(rng.integers(1, 40, 2))
        ok, junk = ids[: cut[0]], ids[cut[0] : cut[1]]
        ap = revisited_average_precision(ranking, ok, junk)
        assert ap == pytest.approx(area_under_curve(ranking, set(ok), set(junk)))


def test_junk_is_taken_out():
    ranking = ["j1", "p1", "j2", "n1", "p2", "j3"]
    assert ranks_without_junk(ranking, ["p1", "p2"], ["j1", "j2", "j3"]).tolist() == [0, 2]
    assert ranks_without_junk(ranking, ["p1", "p2"]).tolist() == [1, 4]
    assert revisited_average_precision(["j1", "p1"], ["p1"], ["j1"]) == 1.0
    assert revisited_average_precision(["j1", "p1"], ["p1"], []) == 0.25


def test_levels_of_revisited_oxford():
    lists = {"easy": [1, 2], "hard": [3], "junk": [4]}
    assert revisited_lists(**lists, level="easy") == ([1, 2], [4, 3])
    assert revisited_lists(**lists, level="medium") == ([1, 2, 3], [4])
    assert revisited_lists(**lists, level="hard") == ([3], [4, 1, 2])
    with pytest.raises(InputError, match="extreme"):
        revisited_lists(**lists, level="extreme")
    # One ranking, three levels: 9 is a negative.
    ranking = [4, 3, 9, 1, 2]
    ap = {
        level: revisited_average_precision(ranking, *revisited_lists(**lists, level=level))
        for level in ("easy", "medium", "hard")
    }
    assert ap["easy"] == pytest.approx(trapezoid_average_precision([1, 2], 2))  # 9 1 2
    assert ap["medium"] == pytest.approx(trapezoid_average_precision([0, 2, 3], 3))  # 3 9 1 2
    assert ap["hard"] == 1.0  # 3 9


def test_revisited_query_without_positives_is_excluded():
    ap = [revisited_average_precision([1, 2], ok) for ok in ([1], [])]
    assert math.isnan(ap[1])
    assert mean_defined(ap) == 1.0
    assert np.isnan(revisited_precision_at([1, 2], [])).all()


def test_revisited_precision_by_hand():
    # Positives at ranks 1, 3, 4 (from 1); the last is at 4, so k' = 1, 4, 4 for k = 1, 5, 10.
    ranking = [1, 9, 2, 3, 8, 7]
    assert revisited_precision_at(ranking, [1, 2, 3]) == pytest.approx([1, 3 / 4, 3 / 4])
    assert revisited_precision_at(ranking, [1, 2, 3], at=(2, 3)) == pytest.approx([1 / 2, 2 / 3])
    assert revisited_precision_at([5, 1, 2], [1, 2], [5]) == pytest.approx([1, 1, 1])
    # 4 exists but is not ranked, so there is no last positive.
    assert revisited_precision_at(ranking, [1, 4], at=(5,)) == pytest.approx([1 / 5])
    assert revisited_precision_at(ranking, [4], at=(1, 5)) == pytest.approx([0, 0])


def test_revisited_refuses_what_has_no_answer():
    with pytest.raises(InputError, match="once"):
        revisited_average_precision([1, 1, 2], [1])
    with pytest.raises(InputError, match="junk"):
        revisited_average_precision([1, 2], [1], [1])


def test_google_average_precision_by_hand():
    # Relevant at ranks 1 and 4 of three that exist.
    assert google_average_precision("axyb", {"a", "b", "c"}) == pytest.approx((1 + 2 / 4) / 3)
    # A duplicate is skipped but keeps its rank: b stands at rank 3.
    assert google_average_precision("aab", {"a", "b"}) == pytest.approx((1 + 2 / 3) / 2)
    assert google_average_precision("", {"a"}) == 0.0
    assert math.isnan(google_average_precision("ab", set()))


def test_google_average_precision_divides_by_what_exists_up_to_100():
    relevant = list(range(250))
    assert google_average_precision(relevant, relevant) == pytest.approx(1.0)
    assert google_average_precision(relevant[:50], relevant) == pytest.approx(0.5)
    assert google_average_precision([-1] * 100 + relevant, relevant) == 0.0  # beyond rank 100


def test_google_mean_counts_missing_predictions_as_zero():
    solution = {"q1": ["a"], "q2": ["b"], "q3": ["c"], "q4": ["d"]}
    predictions = {"q1": ["a"], "q2": ["x", "b"], "q3": []}
    assert google_mean_average_precision(predictions, solution) == pytest.approx((1 + 0.5) / 4)
    with pytest.raises(InputError, match="q9"):
        google_mean_average_precision({"q9": ["a"]}, solution)


def test_global_average_precision_by_hand():
    solution = {1: ["eiffel"], 2: ["louvre"], 3: [], 4: ["eiffel", "tower"], 5: ["louvre"]}
    predictions = {
        1: ("eiffel", 0.9),  # right, P = 1/1
        3: ("louvre", 0.8),  # no landmark: wrong
        4: ("tower", 0.7),  # right, P = 2/3
        2: ("eiffel", 0.6),  # wrong
    }  # 5 has a landmark and no prediction: it stays in Q = 4
    assert global_average_precision(predictions, solution) == pytest.approx((1 + 2 / 3) / 4)
    del predictions[3]  # abstaining from it helps
    assert global_average_precision(predictions, solution) == pytest.approx((1 + 1) / 4)


def test_global_average_precision_breaks_ties_by_image():
    solution = {"a": ["x"], "b": ["x"]}
    tied = {"b": ("x", 0.5), "a": ("y", 0.5)}  # a comes first and is wrong
    assert global_average_precision(tied, solution) == pytest.approx((1 / 2) / 2)
    assert global_average_precision(dict(reversed(tied.items())), solution) == pytest.approx(1 / 4)
    tied = {"b": ("y", 0.5), "a": ("x", 0.5)}
    assert global_average_precision(tied, solution) == pytest.approx(1 / 2)


def test_global_average_precision_edges():
    assert global_average_precision({}, {"a": ["x"]}) == 0.0
    assert math.isnan(global_average_precision({"a": ("x", 1.0)}, {"a": []}))
    with pytest.raises(InputError, match="b"):
        global_average_precision({"b": ("x", 1.0)}, {"a": ["x"]})
    with pytest.raises(InputError, match="NaN"):
        global_average_precision({"a": ("x", math.nan)}, {"a": ["x"]})


def test_recall_at_by_hand():
    relevant = [
        [True] + [False] * 19,
        [False] * 5 + [True] * 2,  # the first at rank 6
        [False] * 20,  # has a positive, never found
        [False] * 20,  # has none: dropped
    ]
    recall = recall_at(relevant, [True, True, True, False])
    assert recall == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert np.all(np.diff(recall) >= 0)
    assert np.isnan(recall_at([[False]], [False])).all()
    assert recall_at([[]], [True]) == pytest.approx([0, 0, 0, 0])
    with pytest.raises(InputError):
        recall_at([[True]], [False])
    with pytest.raises(InputError):
        recall_at([[True]], [True, True])


def test_within_radius():
    right = within_radius([[0, 0], [100, 0]], [[15, 20], [15.1, 20], [100, 0]])
    assert right.tolist() == [[True, False, False], [False, False, True]]  # 25 m exactly counts
