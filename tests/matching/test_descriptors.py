"""Mutual nearest neighbours against brute force."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from locate.extractors.base import ExtractorInfo
from locate.matching.descriptors import match_mutual, ratio_for, weighted


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def two_images(n=60, m=45, shared=25, dim=32, noise=0.35, dtype=np.float32, seed=0):
    """Descriptors of which the first `shared` are noisy copies, shuffled in b."""
    rng = np.random.default_rng(seed)
    common = unit(rng.normal(size=(shared, dim)))
    a = np.r_[common, unit(rng.normal(size=(n - shared, dim)))]
    b = np.r_[
        common + noise * unit(rng.normal(size=(shared, dim))), rng.normal(size=(m - shared, dim))
    ]
    return unit(a).astype(dtype), unit(b)[rng.permutation(m)].astype(dtype)


def brute_force(a, b, ratio=None):
    """By the definition, one pair at a time, in Euclidean distances of float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    matches = []
    for i in range(len(a)):
        distances = [np.linalg.norm(a[i] - b[j]) for j in range(len(b))]
        order = np.argsort(distances)
        j = order[0]
        back = np.argmin([np.linalg.norm(a[k] - b[j]) for k in range(len(a))])
        if back != i:
            continue
        if ratio is not None and len(b) > 1 and distances[j] >= ratio * distances[order[1]]:
            continue
        matches.append((i, j))
    return np.array(matches).reshape(-1, 2)


@pytest.mark.parametrize("ratio", [None, 0.95, 0.8, 0.5])
@pytest.mark.parametrize("shape", [(60, 45), (45, 60), (30, 30)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_against_brute_force(shape, ratio, dtype):
    a, b = two_images(*shape, dtype=dtype)
    found = match_mutual(a, b, ratio)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, brute_force(a, b, ratio))
    assert len(found) >= 10  # not an agreement about nothing


def test_ratios_differ_on_this_data():
    """Else the tests above would not see a wrong ratio test."""
    a, b = two_images()
    counts = [len(match_mutual(a, b, ratio)) for ratio in (None, 0.95, 0.8, 0.5, 0.3)]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) >= 4


def test_ratio_is_of_the_direction_a_to_b():
    """b's two rows are alike, so seen from a the match is ambiguous, and not the other way."""
    a = np.eye(3, dtype=np.float32)[:1]
    b = unit(np.array([[1, 0.1, 0], [1, 0, 0.11]])).astype(np.float32)
    assert len(match_mutual(a, b)) == 1
    assert len(match_mutual(a, b, 0.8)) == 0
    assert len(match_mutual(b, a, 0.8)) == 1


@pytest.mark.parametrize("shape", [(60, 45), (45, 60)])
def test_against_opencv(shape):
    a, b = two_images(*shape)
    matches = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(a, b)
    expected = sorted((m.queryIdx, m.trainIdx) for m in matches)
    assert [tuple(pair) for pair in match_mutual(a, b)] == expected


def test_ratio_against_opencv():
    a, b = two_images()
    there = cv2.BFMatcher(cv2.NORM_L2).knnMatch(a, b, k=2)
    good = {(m.queryIdx, m.trainIdx) for m, second in there if m.distance < 0.8 * second.distance}
    mutual = {tuple(pair) for pair in match_mutual(a, b)}
    assert {tuple(pair) for pair in match_mutual(a, b, 0.8)} == good & mutual


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 5), (5, 0)])
def test_empty(n, m):
    found = match_mutual(np.zeros((n, 8), np.float16), np.zeros((m, 8), np.float32), 0.9)
    assert found.shape == (0, 2)
    assert found.dtype == np.int32


@pytest.mark.parametrize("ratio", [None, 0.8])
def test_single(ratio):
    a, b = two_images(5, 5, shared=3)
    np.testing.assert_array_equal(match_mutual(a[:1], b[:1], ratio), [[0, 0]])  # no second nearest
    np.testing.assert_array_equal(match_mutual(a, b[:1], ratio), brute_force(a, b[:1]))


def test_identical_images_match_themselves():
    a, _ = two_images()
    np.testing.assert_array_equal(match_mutual(a, a, 0.9), np.repeat(np.arange(60)[:, None], 2, 1))


def test_float16_beside_float32():
    """A query in float32 against stored float16."""
    a, b = two_images()
    half = b.astype(np.float16)
    np.testing.assert_array_equal(match_mutual(a, half, 0.9), brute_force(a, half, 0.9))


def test_inputs_are_left_alone():
    a, b = two_images()
    before = a.copy(), b.copy()
    match_mutual(a, b, 0.8)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_shares_of_parts_by_hand(dtype):
    """However much a part had before, it has its share of a cosine now; one without any is gone."""
    rng = np.random.default_rng(7)
    parts = [unit(rng.normal(size=(20, width))) for width in (5, 3, 4)]
    lengths = rng.uniform(0.05, 1, size=(3, 20, 1))
    stored = unit(np.hstack([part * length for part, length in zip(parts, lengths, strict=True)]))
    found = weighted(stored.astype(dtype), (5, 3, 4), (0.3, 0.0, 0.7))
    assert found.dtype == np.float32
    assert found.shape == (20, 9)
    expected = 0.3 * parts[0] @ parts[0].T + 0.7 * parts[2] @ parts[2].T
    atol = 1e-6 if dtype is np.float32 else 3e-3
    np.testing.assert_allclose(found @ found.T, expected, atol=atol)


def test_a_part_that_is_zero_stays_so():
    found = weighted(np.array([[0, 0, 1]], np.float32), (2, 1), (0.5, 0.5))
    np.testing.assert_allclose(found, [[0, 0, 0.5**0.5]], atol=1e-6)
    assert weighted(np.zeros((0, 3), np.float32), (2, 1), (0.5, 0.5)).shape == (0, 3)


@pytest.mark.parametrize(
    ("own", "query", "map_"),
    [((None, None), 0.8, 0.85), ((0.9, None), 0.9, 0.9), ((0.98, 0.94), 0.94, 0.98)],
)
def test_the_ratio_is_the_extractors_own_or_that_of_the_purpose(own, query, map_):
    info = ExtractorInfo(
        name="x",
        weights=None,
        settings={},
        global_dim=0,
        local_dim=4,
        ratio=own[0],
        query_ratio=own[1],
    )
    assert (ratio_for("query", info), ratio_for("map", info)) == (query, map_)
