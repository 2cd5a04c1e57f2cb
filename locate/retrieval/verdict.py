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

from locate.errors import InputError
from locate.matching.evidence import chance_inliers
from locate.types import FUNDAMENTAL

MATCH, UNCERTAIN, NO_MATCH, UNVERIFIED = "match", "uncertain", "no match", "unverified"
MATCH_RATE, UNCERTAIN_RATE = 0.01, 0.05
_TAIL = 0.25  # share of the photos whose evidence is kept; only the strong ones matter


@dataclass(frozen=True)
class Calibration:
    """What was measured for one extractor (its fingerprint), on photos that `data` describes.

    Attributes:
        match_evidence, uncertain_evidence: the least evidence for each verdict.
        queries: photos of places that were left out of the index.
        tail: the strongest evidence that some of them reached, descending.
        shortlist: candidates that were verified for each.
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
    """The rule from the strongest evidence that each photo of an unknown place reached;
    `InputError` if they are too few to bound the rate of false matches by 1 %."""
    reached = sorted((round(e, 2) for e in strongest), reverse=True)
    n = len(reached)
    if wilson_upper(0, n) > MATCH_RATE:
        why = f"{n} photos of unknown places cannot bound false matches by {MATCH_RATE:.0%}"
        raise InputError(f"{why}; at least 381 are needed")

    def least(rate: float) -> float:
        """Just above the strongest evidence that too many reach."""
        allowed = max(k for k in range(n) if wilson_upper(k, n) <= rate)
        return round(reached[allowed] + 0.01, 2)

    tail = tuple(reached[: math.ceil(_TAIL * n)])
    bounds = least(MATCH_RATE), least(UNCERTAIN_RATE)
    return Calibration(extractor, *bounds, n, tail, shortlist, data)


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
def bundled() -> Mapping[str, Calibration]:
    """The calibrations that come with `locate`, by the extractor's fingerprint."""
    text = resources.files("locate").joinpath("calibration.json").read_text()
    return {c["extractor"]: Calibration.from_dict(c) for c in json.loads(text)}
