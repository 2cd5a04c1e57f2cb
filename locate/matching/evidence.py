"""Excess inliers: how many more matches agree with one motion than by chance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from locate.types import AFFINE, FUNDAMENTAL, Verification

# By model, matches and the mean inliers of `locate.matching.two_view.verify` on so many uniformly
# random ones; tests/retrieval/test_verdict.py measures them again. Fundamental matrices within 2 px of
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
    """How many of `matches` random ones agree with the best motion of a model, on average."""
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
