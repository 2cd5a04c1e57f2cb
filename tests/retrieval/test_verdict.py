"""From inliers to a verdict."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from locate.errors import InputError
from locate.matching.evidence import chance_inliers, evidence_of
from locate.matching.two_view import verify
from locate.retrieval.verdict import (
    MATCH,
    MATCH_RATE,
    NO_MATCH,
    UNCERTAIN,
    UNCERTAIN_RATE,
    Calibration,
    calibrate,
    uncalibrated,
    wilson_upper,
)
from locate.types import AFFINE, FUNDAMENTAL, MODELS, Features, Verification


@pytest.mark.parametrize(
    ("successes", "trials", "upper"),
    [(81, 263, 0.3662), (15, 148, 0.1605), (0, 20, 0.1611), (1, 29, 0.1718)],
)
def test_wilson_against_newcombe(successes, trials, upper):
    """Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine
    1998, table I, method 3 (score)."""
    assert wilson_upper(successes, trials) == pytest.approx(upper, abs=5e-5)


def score_test_upper(successes, trials, z=1.959964):
    """The largest share that the score test does not reject, by bisection."""
    low, high = successes / trials, 1.0
    for _ in range(200):
        p = (low + high) / 2
        deviation = (p - successes / trials) / math.sqrt(p * (1 - p) / trials)
        low, high = (p, high) if deviation < z else (low, p)
    return low


@pytest.mark.parametrize("trials", [1, 7, 100, 5000])
def test_wilson_against_the_score_test(trials):
    for successes in sorted({0, min(1, trials - 1), trials // 3, trials // 2, trials - 1}):
        assert wilson_upper(successes, trials) == pytest.approx(
            score_test_upper(successes, trials), abs=1e-9
        )


def test_wilson_at_the_ends():
    assert wilson_upper(0, 0) == 1.0  # nothing was measured
    assert wilson_upper(10, 10) == pytest.approx(1.0)
    assert wilson_upper(0, 10**9) < 1e-8


def test_wilson_covers_the_truth():
    """A share of 3 % lies below the upper end in about 97.5 % of samples."""
    rng = np.random.default_rng(0)
    samples = rng.binomial(400, 0.03, 4000)
    covered = np.mean([wilson_upper(int(s), 400) >= 0.03 for s in samples])
    assert 0.95 < covered <= 1.0


def made(strongest):
    return calibrate(strongest, extractor="abc", shortlist=100, data="made up")


def test_calibrate_on_made_counts():
    # Of 2000: 1700 reach 7 inliers, 290 reach 11, 10 reach 25.
    counts = [7] * 1700 + [11] * 290 + [25] * 10
    rule = made(counts[::-1])
    assert rule.queries == 2000
    assert rule.tail == (25.0,) * 10 + (11.0,) * 290 + (7.0,) * 200  # the strongest quarter
    # 10 of 2000 are at most 0.92 % (upper end), 300 are at most 16.6 %.
    assert score_test_upper(10, 2000) < MATCH_RATE < UNCERTAIN_RATE < score_test_upper(300, 2000)
    assert rule.match_evidence == 11.01
    assert rule.uncertain_evidence == 11.01
    assert (rule.extractor, rule.shortlist, rule.data) == ("abc", 100, "made up")


def test_calibrate_with_room_between_the_verdicts():
    # 4.0 % (upper end 4.95 %) reach 9, 0.6 % (upper end 1.05 %) reach 20, 0.4 % reach 21.
    rule = made([6] * 1920 + [9] * 68 + [20] * 4 + [21] * 8)
    assert score_test_upper(80, 2000) < UNCERTAIN_RATE
    assert score_test_upper(12, 2000) > MATCH_RATE > score_test_upper(8, 2000)
    assert (rule.uncertain_evidence, rule.match_evidence) == (6.01, 20.01)
    assert [rule.verdict(k) for k in (0, 6, 7, 20, 21, 500)] == [
        NO_MATCH, NO_MATCH, UNCERTAIN, UNCERTAIN, MATCH, MATCH,
    ]  # fmt: skip


def test_the_bare_share_is_not_enough():
    """20 of 2000 are 1 %, but may be 1.5 % in truth."""
    rule = made([5] * 1980 + [30] * 20)
    assert rule.match_evidence == 30.01


def test_calibrate_where_nothing_was_reached():
    rule = made([0] * 500)
    assert (rule.uncertain_evidence, rule.match_evidence) == (0.01, 0.01)
    assert rule.verdict(0) == NO_MATCH


def test_calibrated_rule_is_monotone():
    rng = np.random.default_rng(1)
    rule = made(rng.poisson(9, 1500).tolist())
    rates = [rule.false_accept_rate(k) for k in range(60)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1.0
    assert all(rate > 0 for rate in rates)  # never certain
    for threshold, rate in (
        (rule.match_evidence, MATCH_RATE),
        (rule.uncertain_evidence, UNCERTAIN_RATE),
    ):
        assert rule.false_accept_rate(threshold) <= rate < rule.false_accept_rate(threshold - 0.02)
    order = [NO_MATCH, UNCERTAIN, MATCH]
    ranks = [order.index(rule.verdict(k)) for k in range(60)]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 2}


def test_rate_beyond_what_was_ever_reached():
    rule = made([5] * 1000)
    assert rule.false_accept_rate(6) == rule.false_accept_rate(10**6) == wilson_upper(0, 1000)


def test_the_rule_keeps_its_promise_on_new_photos():
    """Calibrated on one sample of chance, at most 1 % of another reach a match."""
    rng = np.random.default_rng(2)
    rule = made(rng.poisson(9, 3000).tolist())
    fresh = rng.poisson(9, 100_000)
    assert np.mean(fresh >= rule.match_evidence) < MATCH_RATE
    assert np.mean(fresh >= rule.uncertain_evidence) < UNCERTAIN_RATE


def test_too_few_photos():
    with pytest.raises(InputError, match=r"380 photos .* at least 381 are needed"):
        made([3] * 380)
    assert made([3] * 381).match_evidence == 3.01
    with pytest.raises(InputError, match="0 photos"):
        made([])


def test_json_round_trip():
    rule = made([5] * 400 + [9] * 3)
    assert Calibration.from_json(rule.to_json()) == rule


def test_uncalibrated_promises_nothing():
    rule = uncalibrated("abc")
    assert rule.queries == 0
    assert rule.false_accept_rate(1000) is None  # nothing was measured
    assert [rule.verdict(e) for e in (-1, 9.9, 10, 19.9, 20)] == [
        NO_MATCH, NO_MATCH, UNCERTAIN, UNCERTAIN, MATCH,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "max_error", "size"), [(FUNDAMENTAL, 2.0, (640, 480)), (AFFINE, 15.0, (512, 384))]
)
@pytest.mark.parametrize("matches", [8, 18, 40, 100, 300])
def test_chance_is_what_random_matches_give(matches, model, max_error, size):
    """The table of the module against the verifier itself on uniformly random matches."""
    rng = np.random.default_rng(matches)

    def random_features():
        points = (rng.random((matches, 2)) * size).astype(np.float32)
        ones = np.ones((matches, 1), np.float32)
        return Features(points, ones[:, 0], ones, size)

    pairs = np.repeat(np.arange(matches, dtype=np.int32)[:, None], 2, axis=1)
    found = [
        verify(random_features(), random_features(), pairs, 1024, model, max_error)
        for _ in range(60)
    ]
    evidence = np.array([evidence_of(v) for v in found])
    assert abs(evidence.mean()) < 0.5
    assert evidence.max() < 7


@pytest.mark.parametrize("model", MODELS)
def test_chance_grows_with_the_matches(model):
    values = [chance_inliers(m, model) for m in range(3000)]
    assert values[0] == 0
    assert all(a <= b for a, b in itertools.pairwise(values))
    assert all(chance_inliers(m, model) <= m for m in range(3000))


def test_nothing_found_is_no_evidence_of_either_model():
    points = np.zeros((3, 2), np.float32)
    matches, none = np.zeros((3, 2), np.int32), np.zeros(3, np.bool_)
    for model in MODELS:
        verification = Verification(matches, points, points, none, None, "none", model)
        assert evidence_of(verification) == -chance_inliers(3, model) < 0
    assert Verification(matches, points, points, none, None, "none").model == FUNDAMENTAL


def test_inliers_for_a_match():
    rule = made([5.0] * 990 + [6.5] * 10)
    for model, matches in itertools.product(MODELS, (20, 60, 250)):
        needed = rule.inliers_for_match(matches, model)
        assert rule.verdict(needed - chance_inliers(matches, model)) == MATCH
        assert rule.verdict(needed - 1 - chance_inliers(matches, model)) != MATCH
    assert rule.inliers_for_match(60) == rule.inliers_for_match(60, FUNDAMENTAL)
