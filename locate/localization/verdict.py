"""From inliers to "localized", "uncertain" or "not localized".

RANSAC always finds some pose that a few matches agree with. How many agree by chance depends on the
number of matches, so a pose needs more inliers the more there were to choose from:

    min_inliers(M) = floor + INLIER_SHARE M

The constants lie above what photos of other places reach: `benchmarks/tables/localize.py` asks
maps for such photos and prints the most inliers of any.
Besides, the inliers must determine the pose: not lie in one spot, and not leave it unknown by its own
covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from locate.localization.pose import LOCALIZED, NOT_LOCALIZED, UNCERTAIN
from locate.types import Array

MIN_INLIERS, INLIER_SHARE = 10, 0.015  # inliers that prove nothing
SURE_FACTOR = 1.35  # times as many are sure
MIN_COVERAGE = 3 / 64  # of the cells of the grid
MAX_POSITION = 0.05  # standard deviation, share of the distance of the points
MAX_ROTATION = 2.0  # standard deviation in degrees
MAX_SECOND_BEST = 0.7  # of the inliers, for another place in the map
FIELD_OF_VIEW = (8.0, 150.0)  # degrees across the longer side; cameras beyond are not believed


@dataclass(frozen=True)
class Evidence:
    """What speaks for a pose.

    Attributes:
        matches, inliers: different features of the photo.
        spread: see `locate.localization.pose.Pose`.
        position: standard deviation of the centre, worst direction, over the distance of the points.
        rotation: standard deviation in degrees, worst axis.
        field_of_view: degrees across the photo's longer side.
        second_best: inliers of the best pose at another place of the map, 0 if there is none.
    """

    matches: int
    inliers: int
    spread: float
    position: float
    rotation: float
    field_of_view: float
    second_best: int = 0


def min_inliers(matches: int) -> float:
    """Inliers that a pose needs, of so many matches."""
    return MIN_INLIERS + INLIER_SHARE * matches


def judge(evidence: Evidence) -> tuple[str, str]:
    """(verdict, the reason in one sentence)."""
    need = min_inliers(evidence.matches)
    count = f"{evidence.inliers} of {evidence.matches} 2D-3D matches agree with one pose"
    if evidence.inliers < need:
        return NOT_LOCALIZED, f"{count}; {int(np.ceil(need))} are needed"
    low, high = FIELD_OF_VIEW
    doubts = [
        (
            evidence.inliers < SURE_FACTOR * need,
            f"{int(np.ceil(SURE_FACTOR * need))} would be sure",
        ),
        (
            evidence.spread < MIN_COVERAGE,
            f"they lie in {max(1, round(64 * evidence.spread))} of 64 parts of the photo only",
        ),
        (
            evidence.second_best > MAX_SECOND_BEST * evidence.inliers,
            f"but {evidence.second_best} agree with a pose at another place of the map",
        ),
        (
            evidence.position > MAX_POSITION,
            f"but leave the position unknown by {100 * evidence.position:.0f} % of the distance",
        ),
        (
            evidence.rotation > MAX_ROTATION,
            f"but leave the direction unknown by {evidence.rotation:.1f} degrees",
        ),
        (
            not low <= evidence.field_of_view <= high,
            f"but the camera would see {evidence.field_of_view:.0f} degrees; give it by --camera",
        ),
    ]
    for doubtful, reason in doubts:
        if doubtful:
            return UNCERTAIN, f"{count}; {reason}"
    return LOCALIZED, count


def doubted(verdict: str, reason: str, doubt: str | None) -> tuple[str, str]:
    """The same; by a map that is uncertain itself, nothing is localized."""
    if verdict != LOCALIZED or doubt is None:
        return verdict, reason
    return UNCERTAIN, f"{reason}; but the map is uncertain: {doubt}"


def coverage_of(points: Array, size: tuple[int, int]) -> float:
    """Share of the cells of an 8 x 8 grid over a photo of `size` (width, height) that hold at least one
    of the points, M x 2 in our pixels."""
    if not len(points):
        return 0.0
    cells = np.clip((points + 0.5) * 8 / np.asarray(size), 0, 7).astype(int)
    return len(np.unique(cells[:, 0] * 8 + cells[:, 1])) / 64
