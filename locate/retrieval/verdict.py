"""From inliers to "match", "uncertain" or "no match": a rule calibrated on photos of unknown places.

A fundamental matrix always finds some matches that agree with it, more of them the more there are to
choose from: of 30 random ones 10.5 on average, of 200 random ones 17. An affine motion finds fewer. So
the evidence of a verification is its inliers less those that as many random matches would give
(`chance_inliers`); the idea is that of a-contrario RANSAC (Moisan and Stival, IJCV 2004), with the
chance measured instead of bounded.

How much evidence proves a match is measured by `locate calibrate`: photos whose place was left out of
the index are asked for, and the strongest evidence that any candidate reached is noted for each. What
at most 1 % of such photos reach (by the upper end of a 95 % confidence interval, not by the bare share)
makes a "match", what at most 5 % reach makes "uncertain".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from locate.errors import InputError
from locate.types import AFFINE, FUNDAMENTAL, Verification

MATCH, UNCERTAIN, NO_MATCH, UNVERIFIED = "match", "uncertain", "no match", "unverified"
MATCH_RATE, UNCERTAIN_RATE = 0.01, 0.05
_TAIL = 0.25  # share of the photos whose evidence is kept; only the strong ones matter

# By model, matches and the mean inliers of `locate.matching.two_view.verify` on so many uniformly
# random ones; tests/test_verdict.py measures them again. Fundamental matrices within 2 px of
# images of 640 x 480 px, affine motions within 15 px of images of 512 x 384 px, the size that DELF
# looks at.
_RANDOM: Mapping[str, tuple[tuple[int, ...], tuple[float, ...]]] = {
    FUNDAMENTAL: (
        (0, 8, 10, 14, 18, 22, 26, 30, 40, 50, 65, 80, 100, 150, 200, 400, 800),
        (
            0.0, 7.1, 7.9, 8.9, 9.5, 9.9, 10.2, 10.5, 11.2, 11.7, 12.4, 13.1, 13.9, 15.6, 16.9, 22.3,
            32.5,
        ),
    ),
    AFFINE: (
        (0, 4, 8, 10, 14, 18, 22, 26, 30, 40, 50, 65, 80, 100, 150, 200, 400, 800),
        (
            0.0, 3.0, 3.15, 3.4, 3.85, 4.1, 4.25, 4.4, 4.6, 4.9, 5.15, 5.4, 5.65, 6.0, 6.5, 7.1, 8.8,
            11.6,
        ),
    ),
}  # fmt: skip


def chance_inliers(matches: int, model: str = FUNDAMENTAL) -> float:
    """How many of `matches` random ones agree with the best motion, on average.

    Args:
        model: of `locate.types.MODELS`.
    """
    counts, inliers = _RANDOM[model]
    if matches <= counts[-1]:
        return float(np.interp(matches, counts, inliers))
    # Far out the share of matches that a band or a circle catches by chance is constant.
    slope = (inliers[-1] - inliers[-2]) / (counts[-1] - counts[-2])
    return inliers[-1] + slope * (matches - counts[-1])


def evidence_of(verification: Verification) -> float:
    """Inliers beyond those that as many random matches would give."""
    chance = chance_inliers(len(verification.matches), verification.model)
    return verification.inlier_count - chance


@dataclass(frozen=True)
class Calibration:
    """What was measured for one extractor.

    Attributes:
        extractor: `ExtractorInfo.fingerprint`.
        match_evidence, uncertain_evidence: the least evidence for each verdict.
        queries: photos of places that were left out of the index.
        tail: the strongest evidence that some of them reached, descending.
        shortlist: candidates that were verified for each.
        data: what the photos were, in words.
    """

    extractor: str
    match_evidence: float
    uncertain_evidence: float
    queries: int
    tail: tuple[float, ...]
    shortlist: int
    data: str

    def verdict(self, evidence: float) -> str:
        """The verdict on one candidate."""
        if evidence >= self.match_evidence:
            return MATCH
        return UNCERTAIN if evidence >= self.uncertain_evidence else NO_MATCH

    def inliers_for_match(self, matches: int, model: str = FUNDAMENTAL) -> int:
        """How many of `matches` must agree with a motion of this model to prove a match."""
        return math.ceil(self.match_evidence + chance_inliers(matches, model))

    def false_accept_rate(self, evidence: float) -> float | None:
        """An upper estimate of the share of photos of unknown places that reach `evidence`; None if
        nothing was measured."""
        if not self.queries:
            return None
        if evidence < self.tail[-1]:
            return 1.0
        return wilson_upper(sum(e >= evidence for e in self.tail), self.queries)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        return cls(**{**values, "tail": tuple(values["tail"])})


def calibrate(
    strongest: Iterable[float], *, extractor: str, shortlist: int, data: str
) -> Calibration:
    """The rule from the strongest evidence that each photo of an unknown place reached.

    Raises:
        InputError: too few photos to bound the rate of false matches by 1 %.
    """
    reached = sorted((round(e, 2) for e in strongest), reverse=True)
    n = len(reached)
    if wilson_upper(0, n) > MATCH_RATE:
        raise InputError(
            f"{n} photos of unknown places cannot bound false matches by {MATCH_RATE:.0%}; "
            "at least 381 are needed"
        )

    def least(rate: float) -> float:
        """Just above the strongest evidence that too many reach."""
        allowed = max(k for k in range(n) if wilson_upper(k, n) <= rate)
        return round(reached[allowed] + 0.01, 2)

    return Calibration(
        extractor=extractor,
        match_evidence=least(MATCH_RATE),
        uncertain_evidence=least(UNCERTAIN_RATE),
        queries=n,
        tail=tuple(reached[: math.ceil(_TAIL * n)]),
        shortlist=shortlist,
        data=data,
    )


def wilson_upper(successes: int, trials: int, z: float = 1.959964) -> float:
    """Upper end of the Wilson score interval of a share (Wilson, JASA 1927), 95 % two-sided."""
    if trials == 0:
        return 1.0
    p = successes / trials
    centre = p + z * z / (2 * trials)
    spread = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return min(1.0, (centre + spread) / (1 + z * z / trials))


def uncalibrated(extractor: str) -> Calibration:
    """A cautious rule for an extractor that nobody calibrated; `queries` is 0."""
    return Calibration(extractor, 20.0, 10.0, 0, (), 0, "not calibrated")


@cache
def shipped() -> Mapping[str, Calibration]:
    """The calibrations that come with `locate`, by the extractor's fingerprint."""
    text = resources.files("locate").joinpath("calibration.json").read_text()
    return {c["extractor"]: Calibration.from_dict(c) for c in json.loads(text)}
