"""What an extractor finds in the pairs of `benchmarks.common.warps`: scores of every pair by the code of
`locate evaluate matching` (2,048 keypoints, MAGSAC) and `repeatability` (300, within 3 pixels)."""

from __future__ import annotations

from pathlib import Path

from benchmarks.common.differences import Row
from benchmarks.common.warps import QUICK, write_warps
from locate.datasets.matching import HomographyPair, read_matching_data
from locate.extractors.base import Extractor
from locate.metrics.matching import MMA_THRESHOLDS, homography_accuracy
from pipelines.evaluation.common import View, score_pairs
from pipelines.evaluation.homographies import HomographyScores, score_homography
from pipelines.evaluation.repeatability import RepeatabilityScores, score_repeatability

MEASURES = (
    *("MMA@1", "MMA@3", "MMA@5", "homography@1", "homography@3", "homography@5"),
    *("repeatability", "error", "M-score"),
)
_KEYPOINTS, _REPEATED, _WITHIN = 2048, 300, 3.0


class _Both:
    """Of one pair."""

    def __init__(self, matched: HomographyScores, found: RepeatabilityScores) -> None:
        self.pair, self.matched, self.found = matched.pair, matched, found

    def row(self, kind: str) -> Row:
        _, step, photo = self.pair.sequence.split("_", 2)
        shares = [float(self.matched.mma[MMA_THRESHOLDS.index(t)]) for t in (1, 3, 5)]
        homographies = homography_accuracy(self.matched.corner_errors).tolist()
        rest = self.found.in_b, self.found.error_in_b, self.matched.matching_score
        values = dict(zip(MEASURES, (*shares, *homographies, *rest), strict=True))
        name = f"{kind}/{self.pair.sequence}"
        return Row((kind, f"{kind} {step}"), name, photo, values)


def warp_scores(extractor: Extractor, data: Path, work: Path, *, quick: bool = False) -> list[Row]:
    """A row a pair, none without local features; `quick` looks at the first few of a kind."""
    rows: list[Row] = []
    if not extractor.info.local_dim:
        return rows
    for kind, folder in write_warps(data, work).items():
        pairs = read_matching_data(folder).homographies[: QUICK if quick else None]
        scores, _ = score_pairs(pairs, {"": extractor}, _score)
        rows += [both.row(kind) for both in scores[""]]
    return rows


def _score(_: Extractor, number: int, pair: HomographyPair, a: View, b: View) -> dict[str, _Both]:
    matched = score_homography(
        pair, a, b, max_keypoints=_KEYPOINTS, estimator="magsac", seed=(0, number)
    )
    return {"": _Both(matched, score_repeatability(pair, a, b, _REPEATED, _WITHIN))}
