"""A second, slower look at the few candidates that stay uncertain: LightGlue on ALIKED features.

The photos of the candidates are read again, so that any database can be asked so; a photo that is gone,
or of which a mask hides something, stays as it was judged. LightGlue's matches are so few where two
photos show different places that a rule of its own judges them (`KEY` in `locate/calibration.json`;
until there is one, `CAUTIOUS`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from locate.errors import ImageError
from locate.extractors import registry
from locate.extractors.rotated import extract_rotated
from locate.images.masks import Mask
from locate.images.reading import read_photo
from locate.matching.evidence import evidence_of
from locate.matching.lightglue import LightGlue
from locate.matching.two_view import verify
from locate.pixels import unrotate_points
from locate.retrieval.ranking import score_of
from locate.retrieval.verdict import MATCH, UNCERTAIN, bundled, uncalibrated
from locate.types import Candidate, Features, Photo, Verification

LIGHTGLUE = "lightglue"
KEY = "aliked-n16 lightglue"  # of the rule; changes with what is found or how it is judged
KEYPOINTS = 1024  # of a photo: LightGlue's time goes with their square
# Evidence of a match until the rule is measured: of 98 held-out photos of other places two reached 22,
# the right ones 37 to 483 (benchmarks/ablations/rerank.py).
CAUTIOUS = 60.0
MOST = 3  # candidates that are looked at again, those with the most evidence

log = logging.getLogger("locate")


class Reranker:
    """Safe to share between threads. `MissingExtraError` if the package that it needs is not there."""

    def __init__(self) -> None:
        self._extractor = registry.create("aliked", {"max_keypoints": KEYPOINTS})
        self._matcher = LightGlue("aliked")
        cautious = replace(uncalibrated(KEY), match_evidence=CAUTIOUS)
        self.calibration = bundled().get(KEY) or cautious

    def look_again(
        self,
        photo: Photo,
        mask: Mask | None,
        rotation: int,
        candidates: Sequence[Candidate],
        masked: frozenset[int],
    ) -> list[Candidate]:
        """The candidates, and those of the uncertain that are proven now with this proof.

        Args:
            rotation: degrees counter-clockwise by which the photo was turned when they were found.
            masked: ids of database images that have a mask.
        """
        uncertain = [c for c in candidates if c.verdict == UNCERTAIN and c.image_id not in masked]
        chosen = sorted(uncertain, key=score_of, reverse=True)[:MOST]
        seen: dict[int, Features | None] = {}  # by rotation
        found = {}
        for candidate in chosen:
            turned = _rotation_of(candidate, rotation)
            if turned not in seen:
                seen[turned] = self._features(photo, mask, turned)
            if (query := seen[turned]) is not None:
                found[candidate.image_id] = self._judged(candidate, query, turned)
        return [found.get(c.image_id, c) for c in candidates]

    def _features(self, photo: Photo, mask: Mask | None, rotation: int) -> Features | None:
        size = photo.info.size
        return extract_rotated(
            self._extractor, photo.pixels, size, rotation, local=True, mask=mask
        ).features

    def _judged(self, candidate: Candidate, query: Features, rotation: int) -> Candidate:
        other = self._of_file(candidate.path)
        if other is None:
            return candidate
        proof = self._verified(query, rotation, other)
        evidence = evidence_of(proof)
        if self.calibration.verdict(evidence) != MATCH:
            return candidate
        return replace(
            candidate,
            verdict=MATCH,
            inliers=proof.inlier_count,
            evidence=evidence,
            false_accept=self.calibration.false_accept_rate(evidence),
            verification=proof,
            matched_by=LIGHTGLUE,
        )

    def _of_file(self, path: Path) -> Features | None:
        try:
            photo = read_photo(path, self._extractor.max_side)
        except ImageError as error:
            log.warning("not looked at again: %s", error)
            return None
        return self._features(photo, None, 0)

    def _verified(self, query: Features, rotation: int, other: Features) -> Verification:
        seen = query
        if rotation:  # LightGlue looks at where features lie; it knows upright photos
            size = query.image_size
            turned = unrotate_points(query.keypoints, size, (360 - rotation) % 360)
            shape = size[::-1] if rotation % 180 else size
            seen = replace(query, keypoints=turned, image_size=shape)
        return verify(query, other, self._matcher.match(seen, other), self._extractor.max_side)


def _rotation_of(candidate: Candidate, rotation: int) -> int:
    """By how many degrees, 0, 90, 180 or 270, counter-clockwise, the query has to be turned to stand as
    the database image does, by the similarity that fits the inliers best; `rotation` without any."""
    proof = candidate.verification
    if proof is None or proof.inlier_count < 2:
        return rotation
    a, b = (
        points[proof.inliers] - points[proof.inliers].mean(axis=0)
        for points in (proof.query_points, proof.database_points)
    )
    # y points down, so that this angle is clockwise.
    angle = np.arctan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum())
    return round(-float(np.degrees(angle)) / 90) * 90 % 360
