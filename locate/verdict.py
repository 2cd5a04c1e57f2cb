"""From inliers to "match", "uncertain" or "no match": a rule calibrated on photos of unknown places.

A calibration is measured by `locate calibrate`: photos whose place was left out of the index are
asked for, and the most inliers that any candidate reached by chance is noted for each. The inliers
that at most 1 % of such photos reach (by the upper end of a 95 % confidence interval, not by the bare
share) make a "match", those that at most 10 % reach make "uncertain".
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

MATCH, UNCERTAIN, NO_MATCH, UNVERIFIED = "match", "uncertain", "no match", "unverified"
MATCH_RATE, UNCERTAIN_RATE = 0.01, 0.10


@dataclass(frozen=True)
class Calibration:
    """What was measured for one extractor.

    Attributes:
        extractor: `ExtractorInfo.fingerprint`.
        match_inliers, uncertain_inliers: the least inliers for each verdict.
        queries: photos of places that were left out of the index.
        chance: chance[k] of them reached k inliers or more with some candidate.
        shortlist: candidates that were verified for each.
        data: what the photos were, in words.
    """

    extractor: str
    match_inliers: int
    uncertain_inliers: int
    queries: int
    chance: tuple[int, ...]
    shortlist: int
    data: str

    def verdict(self, inliers: int) -> str:
        """The verdict on one candidate."""
        if inliers >= self.match_inliers:
            return MATCH
        return UNCERTAIN if inliers >= self.uncertain_inliers else NO_MATCH

    def false_accept_rate(self, inliers: int) -> float | None:
        """An upper estimate of the share of photos of unknown places that reach `inliers`; None if
        nothing was measured."""
        if not self.queries:
            return None
        reached = self.chance[inliers] if inliers < len(self.chance) else 0
        return wilson_upper(reached, self.queries)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        return cls(**{**values, "chance": tuple(values["chance"])})


def calibrate(
    best_inliers: Iterable[int], *, extractor: str, shortlist: int, data: str
) -> Calibration:
    """The rule from the most inliers that each photo of an unknown place reached.

    Raises:
        InputError: too few photos to bound the rate of false matches by 1 %.
    """
    reached = sorted(best_inliers)
    n = len(reached)
    if wilson_upper(0, n) > MATCH_RATE:
        raise InputError(
            f"{n} photos of unknown places cannot bound false matches by {MATCH_RATE:.0%}; "
            "at least 381 are needed"
        )
    chance = tuple(sum(r >= k for r in reached) for k in range(reached[-1] + 2))

    def least(rate: float) -> int:
        return next(k for k, count in enumerate(chance) if wilson_upper(count, n) <= rate)

    return Calibration(
        extractor=extractor,
        match_inliers=least(MATCH_RATE),
        uncertain_inliers=least(UNCERTAIN_RATE),
        queries=n,
        chance=chance,
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
    return Calibration(extractor, 30, 20, 0, (), 0, "not calibrated")


@cache
def shipped() -> Mapping[str, Calibration]:
    """The calibrations that come with `locate`, by the extractor's fingerprint."""
    text = resources.files("locate").joinpath("calibration.json").read_text()
    return {c["extractor"]: Calibration.from_dict(c) for c in json.loads(text)}
