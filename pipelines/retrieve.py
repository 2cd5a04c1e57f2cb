"""`locate query`: shortlist by the global descriptor, verify by local matches, judge, rank."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
from threadpoolctl import ThreadpoolController

from index.catalog import Catalog
from index.records import ImageRow
from index.vectors import faiss_store
from index.vectors.base import VectorStore
from locate.errors import DatabaseCorruptError, DatabaseMissingError, InputError
from locate.extractors.base import Extractor, ExtractorInfo
from locate.geometry import verify
from locate.images import read_photo
from locate.matching import match_mutual
from locate.pixels import unrotate_points
from locate.types import (
    Answer,
    Array,
    Candidate,
    Extraction,
    Features,
    PhotoInfo,
    Shortlist,
    Verification,
)
from locate.verdict import (
    MATCH,
    NO_MATCH,
    UNCERTAIN,
    UNVERIFIED,
    Calibration,
    shipped,
    uncalibrated,
)
from pipelines.build import load_extractor
from pipelines.extraction import Clock

RATIO = 0.8  # Lowe's test; benchmarks/verifiers.py
SHORTLIST = 30
TOP = 10
_TURNED_SHORTLIST = 10  # a turned photo's own shortlist is short: it is one of three guesses
_ORDER = {MATCH: 0, UNCERTAIN: 1, NO_MATCH: 2, UNVERIFIED: 2}

log = logging.getLogger("locate")


@dataclass(frozen=True, eq=False)
class _View:
    """The query as it was turned for one attempt."""

    rotation: int
    extraction: Extraction
    shortlist: Shortlist


class Database:
    """A database folder opened for queries. It changes nothing on disk.

    Safe to share between threads; queries then take turns. Use it as a context manager, or call
    `close`.
    """

    def __init__(self, folder: Path | str, *, workers: int | None = None) -> None:
        """
        Args:
            folder: made by `locate build-index`.
            workers: threads that match and verify; by default one a core.

        Raises:
            DatabaseMissingError, DatabaseMismatchError, DatabaseCorruptError
        """
        self.folder = Path(folder)
        self._catalog = Catalog.open(self.folder)
        try:
            stored = self._catalog.meta("extractor")
            if stored is None or self._catalog.counts()["ok"] == 0:
                raise DatabaseMissingError(
                    f"{self.folder} holds no images yet; add some with: locate build-index PHOTOS"
                )
            self.extractor_info = ExtractorInfo.from_json(stored)
            self._extractor: Extractor | None = None
            self._stored_extractor = stored
            self._store: VectorStore | None = None
            self._roots = self._catalog.roots()
            self.calibration = self._find_calibration()
        except BaseException:
            self._catalog.close()
            raise
        self._pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, "locate-verify")
        self._blas = ThreadpoolController()
        self._lock = Lock()

    def close(self) -> None:
        self._pool.shutdown()
        self._catalog.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Images that can be found."""
        return self._catalog.counts()["ok"]

    def query(
        self,
        photo: Path | str | Array,
        *,
        top: int = TOP,
        shortlist: int = SHORTLIST,
        verify: bool = True,
        rotate: bool = True,
        exclude: Callable[[ImageRow], bool] | None = None,
    ) -> Answer:
        """Which images show the same place?

        Args:
            photo: a file, or H x W x 3 uint8 RGB pixels.
            top: candidates in the answer.
            shortlist: the best by global similarity that are matched and verified.
            verify: False ranks by global similarity alone and gives no verdict.
            rotate: try the photo turned by 90, 180 and 270 degrees if it does not match upright.
            exclude: database images that must not be found (evaluation leaves some out).

        Raises:
            ImageError: the photo cannot be used.
        """
        for name, value in (("top", top), ("shortlist", shortlist)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        with self._lock:
            return self._query(photo, top, shortlist, verify, rotate, exclude)

    def _query(
        self,
        photo: Path | str | Array,
        top: int,
        shortlist: int,
        verify: bool,
        rotate: bool,
        exclude: Callable[[ImageRow], bool] | None,
    ) -> Answer:
        clock = Clock()
        extractor = self._load_extractor()
        store = self._load_store()
        clock.lap("load")
        path = None if isinstance(photo, np.ndarray) else Path(photo)
        if isinstance(photo, np.ndarray):
            pixels, info = photo, PhotoInfo(size=(photo.shape[1], photo.shape[0]))
        else:
            opened = read_photo(photo, extractor.max_side)
            pixels, info = opened.pixels, opened.info
        clock.lap("decode")
        left_out = {r.id for r in self._catalog.images("ok") if exclude(r)} if exclude else set()
        depth = max(shortlist, top)

        def look(rotation: int) -> _View:
            extraction = _extract_turned(extractor, pixels, info.size, rotation)
            clock.lap("extract")
            found = self._search(store, extraction.global_descriptor, depth, left_out)
            clock.lap("search")
            return _View(rotation, extraction, found)

        view = look(0)
        found = self._candidates(view, shortlist if verify else 0, clock)
        if verify and rotate and not any(c.verdict == MATCH for c in found):
            for rotation in (90, 180, 270):
                turned = look(rotation)
                others = self._candidates(turned, min(shortlist, _TURNED_SHORTLIST), clock)
                if _strength(others) > max(_strength(found), (1, 0)):
                    view, found = turned, others
                if _strength(found)[0] == 2:
                    break
        found = sorted(found, key=_rank_key)[:top]
        ranked = tuple(replace(c, rank=i) for i, c in enumerate(found, 1))
        features = view.extraction.features
        clock.seconds["total"] = sum(clock.seconds.values())
        best = ranked[0] if ranked else None
        verdict = best.verdict if best and verify else (UNVERIFIED if best else NO_MATCH)
        return Answer(
            photo=path,
            verdict=verdict,
            label=best.label if best and verdict == MATCH else None,
            reason=self._reason(verdict, ranked, 0 if features is None else len(features)),
            candidates=ranked,
            rotation=view.rotation,
            query_features=0 if features is None else len(features),
            seconds=clock.seconds,
        )

    def _search(
        self, store: VectorStore, vector: Array | None, k: int, left_out: Collection[int]
    ) -> Shortlist:
        if vector is None:
            raise InputError(
                f"{self.extractor_info.name} gives no global descriptor, so there is no shortlist; "
                "build the index with an extractor that has one, such as gem+sift"
            )
        found = store.search(vector, k + len(left_out))
        kept = [
            (i, s)
            for i, s in zip(found.image_ids, found.similarities, strict=True)
            if i not in left_out
        ][:k]
        return Shortlist(tuple(i for i, _ in kept), tuple(s for _, s in kept))

    def _candidates(self, view: _View, verified: int, clock: Clock) -> list[Candidate]:
        """The shortlist as candidates, the first `verified` of them with their evidence."""
        rows = [self._catalog.image(i) for i in view.shortlist.image_ids]
        candidates = [
            Candidate(
                rank=0,
                verdict=UNVERIFIED,
                label=row.label,
                image=row.path,
                path=self._roots[row.root_id] / row.path,
                image_id=row.id,
                similarity=similarity,
            )
            for row, similarity in zip(rows, view.shortlist.similarities, strict=True)
        ]
        query = view.extraction.features
        clock.lap("search")
        if query is None or not verified:
            return candidates
        stored = [self._features(c) for c in candidates[:verified]]
        clock.lap("read")
        side = self._load_extractor().max_side
        # One core a candidate: the threads of BLAS would fight with those of the pool.
        with self._blas.limit(limits=1, user_api="blas"):
            results = list(self._pool.map(lambda f: _verify(query, f, side), stored))
        clock.lap("match and verify")
        judged = [
            self._judged(c, v) if v is not None else c
            for c, v in zip(candidates[:verified], results, strict=True)
        ]
        return judged + candidates[verified:]

    def _features(self, candidate: Candidate) -> Features | None:
        """None, and a warning in the log, if they are damaged: the other candidates still count."""
        try:
            return self._catalog.features(candidate.image_id)
        except DatabaseCorruptError as error:
            log.warning("%s", error)
            return None

    def _judged(self, candidate: Candidate, verification: Verification) -> Candidate:
        inliers = verification.inlier_count
        return replace(
            candidate,
            verdict=self.calibration.verdict(inliers),
            inliers=inliers,
            false_accept=self.calibration.false_accept_rate(inliers),
            verification=verification,
        )

    def _reason(self, verdict: str, ranked: Sequence[Candidate], features: int) -> str:
        rule = self.calibration
        warning = "" if rule.queries else " (this extractor is not calibrated: locate calibrate)"
        best = max(ranked, key=lambda c: c.inliers or 0, default=None)
        if best is None:
            return "the index holds no image to compare with"
        if verdict == UNVERIFIED:
            return "ranked by global similarity only, not verified"
        if verdict == MATCH and best.verification is not None:
            return (
                f"{best.inliers} of {len(best.verification.matches)} local matches agree with one "
                f"camera motion; {rule.match_inliers} prove a match{warning}"
            )
        if features < 50:
            return f"the photo shows only {features} local features: too dark, blurred or empty?"
        return (
            f"at best {best.inliers or 0} local matches agree with one camera motion ({best.image});"
            f" {rule.match_inliers} prove a match, {rule.uncertain_inliers} hint at one{warning}"
        )

    def _find_calibration(self) -> Calibration:
        own = self._catalog.meta("calibration")
        fingerprint = self.extractor_info.fingerprint
        if own is not None:
            return Calibration.from_json(own)
        return shipped().get(fingerprint) or uncalibrated(fingerprint)

    def _load_extractor(self) -> Extractor:
        if self._extractor is None:
            self._extractor = load_extractor(self.folder, self._stored_extractor)
        return self._extractor

    def _load_store(self) -> VectorStore:
        generation = self._catalog.generation
        if self._store is None or self._store.info.generation != generation:
            self._store = faiss_store.load(self.folder, generation)
            if self._store is None:
                # A writer is at work, or was killed before it came to the search index.
                log.info("the search index is not up to date; searching the catalogue itself")
                self._store = faiss_store.in_memory(self._catalog.vectors, generation)
        return self._store


def _verify(query: Features, database: Features | None, side: int) -> Verification | None:
    if database is None:
        return None
    matches = match_mutual(query.descriptors, database.descriptors, RATIO)
    return verify(query, database, matches, side)


def _rank_key(candidate: Candidate) -> tuple[int, int, float]:
    """Proof first, by inliers; everything else stays in the order of global similarity.

    Plain sorting by inliers makes the ranking worse, since the few inliers of unproven candidates
    are chance, and chance knows less than the global descriptor."""
    proven = candidate.verdict in (MATCH, UNCERTAIN)
    return (
        _ORDER[candidate.verdict],
        -(candidate.inliers or 0) if proven else 0,
        -(candidate.similarity or 0.0),
    )


def _strength(candidates: Sequence[Candidate]) -> tuple[int, int]:
    """(2 match, 1 uncertain, 0 neither; inliers) of the best candidate."""
    return max(((2 - _ORDER[c.verdict], c.inliers or 0) for c in candidates), default=(0, 0))


def _extract_turned(
    extractor: Extractor, pixels: Array, size: tuple[int, int], degrees: int
) -> Extraction:
    """Look at an image turned counter-clockwise; keypoints come back in the image as it was."""
    if degrees == 0:
        return extractor.extract(pixels, size)
    turned_size = size if degrees == 180 else size[::-1]
    turned = np.ascontiguousarray(np.rot90(pixels, degrees // 90))
    seen = extractor.extract(turned, turned_size)
    if seen.features is None:
        return seen
    keypoints = unrotate_points(seen.features.keypoints, turned_size, degrees)
    features = replace(seen.features, keypoints=keypoints, image_size=size)
    return Extraction(features, seen.global_descriptor)
