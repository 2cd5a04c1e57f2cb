"""From inliers to "localized", "uncertain" or "not localized".

RANSAC always finds some pose that a few matches agree with. How many agree by chance depends on the
number of matches, so a pose needs more inliers the more there were to choose from:

    min_inliers(M) = MIN_INLIERS + INLIER_SHARE M

The constants lie above what photos of other places reach: `benchmarks/tables/localize.py` asks
maps for such photos and prints the most inliers of any. Besides, the inliers must determine the pose:
not lie in one spot, and not leave it unknown by its own covariance.
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
class PoseQuality:
    """What speaks for a pose: matches and inliers are different features of the photo."""

    matches: int
    inliers: int
    coverage: float  # share of the photo, see `coverage_of`
    position: float  # standard deviation of the centre, worst axis, over the distance of the points
    rotation: float  # standard deviation in degrees, worst axis
    field_of_view: float  # degrees across the photo's longer side
    second_best: int = 0  # inliers of the best pose at another place of the map

    @property
    def count(self) -> str:
        return f"{self.inliers} of {self.matches} 2D-3D matches agree with one pose"


def min_inliers(matches: int) -> float:
    """Inliers that a pose needs, of so many matches."""
    return MIN_INLIERS + INLIER_SHARE * matches


def too_few(matches: int) -> str:
    """The reason where no pose is found."""
    need = int(np.ceil(min_inliers(matches)))
    return f"{matches} 2D-3D matches with the map; {need} must agree with one pose"


def judge(quality: PoseQuality, map_doubt: str | None = None) -> tuple[str, str]:
    """(verdict, the reason in one sentence). By a map that is uncertain itself, nothing is localized."""
    need, count = min_inliers(quality.matches), quality.count
    if quality.inliers < need:
        return NOT_LOCALIZED, f"{count}; {int(np.ceil(need))} are needed"
    low, high = FIELD_OF_VIEW
    cells, fov = max(1, round(64 * quality.coverage)), quality.field_of_view
    doubts = {
        f"{int(np.ceil(SURE_FACTOR * need))} would be sure": quality.inliers < SURE_FACTOR * need,
        f"they lie in {cells} of 64 parts of the photo only": quality.coverage < MIN_COVERAGE,
        f"but {quality.second_best} agree with a pose at another place of the map": (
            quality.second_best > MAX_SECOND_BEST * quality.inliers
        ),
        f"but leave the position unknown by {100 * quality.position:.0f} % of the distance": (
            quality.position > MAX_POSITION
        ),
        f"but leave the direction unknown by {quality.rotation:.1f} degrees": (
            quality.rotation > MAX_ROTATION
        ),
        f"but the camera would see {fov:.0f} degrees; give it by --camera": not low <= fov <= high,
        f"but the map is uncertain: {map_doubt}": map_doubt is not None,
    }
    reason = next((reason for reason, holds in doubts.items() if holds), None)
    return (LOCALIZED, count) if reason is None else (UNCERTAIN, f"{count}; {reason}")


def worst_deviations(covariance: Array) -> tuple[float, float]:
    """Standard deviations along the worst axes: of the position, and of the rotation in degrees."""
    parts = covariance[:3, :3], covariance[3:, 3:]
    position, rotation = (float(np.sqrt(np.linalg.eigvalsh(part)[-1])) for part in parts)
    return position, float(np.degrees(rotation))


def coverage_of(points: Array, size: tuple[int, int], grid: tuple[int, int] = (8, 8)) -> float:
    """How many cells of a grid over a photo of `size` (width, height) hold at least one of the points,
    M x 2 in our pixels; as a share of 64, at most 1."""
    cells = np.clip((points + 0.5) * grid / np.asarray(size), 0, np.array(grid) - 1).astype(int)
    return min(1.0, len(np.unique(cells, axis=0)) / 64)
