"""`locate query`: shortlist by the global descriptor, verify by local matches, judge, rank."""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
from threadpoolctl import ThreadpoolController

from index.catalog import Catalog
from index.records import ImageRow
from index.vectors import faiss_store
from index.vectors.base import VectorStore
from locate.errors import DatabaseCorruptError, DatabaseMissingError, ImageError, InputError
from locate.extractors.base import Extractor, ExtractorInfo
from locate.geometry import verify
from locate.images import MIN_SIDE, read_photo
from locate.matching import match_mutual
from locate.pixels import unrotate_points
from locate.types import (
    Answer,
    Array,
    Candidate,
    Extraction,
    Features,
    Photo,
    PhotoInfo,
    Shortlist,
    Verification,
)
from locate.verdict import (
    MATCH,
    UNCERTAIN,
    UNVERIFIED,
    Calibration,
    evidence_of,
    shipped,
    uncalibrated,
)
from pipelines.build import load_extractor
from pipelines.extraction import Clock, one_thread_each
from pipelines.ranking import ORDER, explain, rank_key, strength_of, verdict_on_all

RATIO = 0.8  # Lowe's test; benchmarks/verifiers.py
SHORTLIST = 30
TOP = 10
Exclude = Callable[[ImageRow], bool]

log = logging.getLogger("locate")


@dataclass(frozen=True)
class _Options:
    top: int
    shortlist: int
    verify: bool
    rotate: bool
    exclude: Exclude | None

    def __post_init__(self) -> None:
        for name, value in (("top", self.top), ("shortlist", self.shortlist)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, eq=False)
class _View:
    """The query turned by `rotation` degrees: what was seen in it, and its candidates in order."""

    rotation: int
    features: Features | None
    vector: Array
    candidates: list[Candidate]

    @property
    def top_similarity(self) -> float:
        return max((c.similarity or -1.0 for c in self.candidates), default=-1.0)


class Database:
    """A database folder opened for queries. It changes nothing on disk.

    Safe to share between threads. Use it as a context manager, or call `close`.
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
            self.calibration = self._find_calibration()
        except BaseException:
            self._catalog.close()
            raise
        self._workers = workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers, "locate-query", one_thread_each)
        self._blas = ThreadpoolController()
        self._lock = Lock()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
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
        exclude: Exclude | None = None,
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
        options = _Options(top, shortlist, verify, rotate, exclude)
        # One core a candidate: the threads of BLAS would fight with those of the pool.
        with self._blas.limit(limits=1, user_api="blas"):
            return self._query(photo, options, self._pool.map)

    def query_many(
        self,
        photos: Iterable[Path | str | Array],
        *,
        top: int = TOP,
        shortlist: int = SHORTLIST,
        verify: bool = True,
        rotate: bool = True,
        exclude: Exclude | None = None,
    ) -> Iterator[Answer | ImageError]:
        """`query` for many photos, one a core, in their order; a photo that cannot be used gives
        its error in place of an answer. Twice the speed of single queries on two cores."""
        options = _Options(top, shortlist, verify, rotate, exclude)
        return self._query_many((photo, options) for photo in photos)

    def query_each(
        self, questions: Iterable[tuple[Path | str | Array, Exclude]]
    ) -> Iterator[Answer | ImageError]:
        """`query_many` where each photo has database images of its own that must not be found."""
        return self._query_many(
            (photo, _Options(TOP, SHORTLIST, True, True, exclude)) for photo, exclude in questions
        )

    def _query_many(
        self, questions: Iterable[tuple[Path | str | Array, _Options]]
    ) -> Iterator[Answer | ImageError]:
        def ask(photo: Path | str | Array, options: _Options) -> Answer | ImageError:
            try:
                return self._query(photo, options, map)
            except ImageError as error:
                return error

        waiting: deque[Future[Answer | ImageError]] = deque()
        with self._blas.limit(limits=1, user_api="blas"):
            for photo, options in questions:
                waiting.append(self._pool.submit(ask, photo, options))
                if len(waiting) > 2 * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _query(
        self,
        photo: Path | str | Array,
        options: _Options,
        map_: Callable[..., Iterable[Verification | None]],
    ) -> Answer:
        clock = Clock()
        extractor, store = self._load()
        clock.lap("load")
        path = None if isinstance(photo, np.ndarray) else Path(photo)
        opened = _as_photo(photo) if path is None else read_photo(path, extractor.max_side)
        pixels, info = opened.pixels, opened.info
        clock.lap("decode")
        left_out: set[int] = set()
        if options.exclude is not None:
            left_out = {r.id for r in self._catalog.images("ok") if options.exclude(r)}

        def look(rotation: int, local: bool) -> _View:
            seen = _extract_turned(extractor, pixels, info.size, rotation, local=local)
            clock.lap("extract")
            vector = self._vector(seen)
            candidates = self._candidates(_search(store, vector, depth, left_out))
            clock.lap("search")
            return _View(rotation, seen.features, vector, candidates)

        def judge(view: _View) -> _View:
            candidates = self._verified(view, options.shortlist, clock, map_)
            return replace(view, candidates=candidates)

        depth = max(options.shortlist, options.top)
        upright = view = look(0, local=True)
        if options.verify:
            view = judge(view)
            if options.rotate and _strength(view)[0] < 2:
                # A photo that lies on its side looks more like its place when it is turned. Only
                # then are the turned ones verified: guesses would cost time and false matches.
                invariant = self.extractor_info.rotation_invariant
                turned = [look(r, local=not invariant) for r in (90, 180, 270)]
                for other in sorted(turned, key=lambda v: -v.top_similarity):
                    if other.top_similarity <= upright.top_similarity:
                        break
                    features = upright.features if invariant else other.features
                    judged = judge(replace(other, features=features))
                    # Where nothing is even hinted at, the upright ranking is the better guess.
                    if _strength(judged) > max(_strength(view), (1, -math.inf)):
                        view = judged
                    if _strength(view)[0] == 2:
                        break
        ordered = sorted(view.candidates, key=rank_key)
        if any(c.verdict == MATCH for c in ordered):
            ordered = self._expanded(view.vector, ordered, store, depth, left_out)
            clock.lap("search")
        ranked = tuple(replace(c, rank=i) for i, c in enumerate(ordered[: options.top], 1))
        # Loading the network belongs to the first query only by accident.
        seconds = clock.seconds
        seconds["total"] = sum(v for part, v in seconds.items() if part != "load")
        verdict = verdict_on_all(view.candidates)
        count = 0 if upright.features is None else len(upright.features)
        return Answer(
            photo=path,
            verdict=verdict,
            label=ranked[0].label if verdict == MATCH else None,
            reason=explain(self.calibration, verdict, view.candidates, count),
            candidates=ranked,
            rotation=view.rotation,
            query_features=count,
            seconds=seconds,
        )

    def _vector(self, seen: Extraction) -> Array:
        if seen.global_descriptor is None:
            raise InputError(
                f"{self.extractor_info.name} gives no global descriptor, so there is no shortlist; "
                "build the index with an extractor that has one, such as gem+sift"
            )
        return seen.global_descriptor

    def _expanded(
        self,
        vector: Array,
        ordered: Sequence[Candidate],
        store: VectorStore,
        depth: int,
        left_out: Collection[int],
    ) -> list[Candidate]:
        """Average query expansion (Chum et al., "Total Recall", ICCV 2007): what is not proven is
        ranked by its similarity to the query and its proven matches together, and images that
        look like these join. What is proven stays on top."""
        matches = [c for c in ordered if c.verdict == MATCH]
        rest = {c.image_id: c for c in ordered[len(matches) :]}
        proven = {c.image_id for c in matches}
        vectors = self._catalog.vectors_of([*proven])
        expanded = np.sum([vector, *vectors.values()], axis=0)
        expanded /= np.linalg.norm(expanded)
        found = _search(store, expanded, depth, left_out)
        new = [c for c in self._candidates(found) if c.image_id not in proven | rest.keys()]
        seen = self._catalog.vectors_of([c.image_id for c in (*rest.values(), *new)])

        def key(c: Candidate) -> tuple[int, float, float]:
            hinted = -strength_of(c) if c.verdict == UNCERTAIN else 0.0
            return ORDER[c.verdict], hinted, -float(seen[c.image_id] @ expanded)

        # The similarity that is shown is that to the query itself, as for all others.
        new = [
            replace(c, similarity=float(seen[c.image_id] @ vector))
            for c in new
            if c.image_id in seen
        ]
        return matches + sorted([*(c for c in rest.values() if c.image_id in seen), *new], key=key)

    def _candidates(self, shortlist: Shortlist) -> list[Candidate]:
        rows = self._catalog.rows(shortlist.image_ids)
        roots = self._catalog.roots()  # now: a writer may have added one since
        return [
            Candidate(
                rank=0,
                verdict=UNVERIFIED,
                label=rows[i].label,
                image=rows[i].path,
                path=roots[rows[i].root_id] / rows[i].path,
                image_id=i,
                similarity=similarity,
            )
            for i, similarity in zip(shortlist.image_ids, shortlist.similarities, strict=True)
            if i in rows
        ]

    def _verified(
        self,
        view: _View,
        count: int,
        clock: Clock,
        map_: Callable[..., Iterable[Verification | None]],
    ) -> list[Candidate]:
        """The candidates of a view, the first `count` of them with their evidence."""
        query = view.features
        if query is None:
            return view.candidates
        head, tail = view.candidates[:count], view.candidates[count:]
        stored = [self._features(c) for c in head]
        clock.lap("read")
        side = self._load()[0].max_side
        found = map_(lambda f: None if f is None else _match(query, f, side), stored)
        judged = [c if v is None else self._judged(c, v) for c, v in zip(head, found, strict=True)]
        clock.lap("match and verify")
        return judged + tail

    def _features(self, candidate: Candidate) -> Features | None:
        """None, and a warning in the log, if they are damaged: the other candidates still count."""
        try:
            return self._catalog.features(candidate.image_id)
        except DatabaseCorruptError as error:
            log.warning("%s", error)
            return None

    def _judged(self, candidate: Candidate, verification: Verification) -> Candidate:
        evidence = evidence_of(verification)
        return replace(
            candidate,
            verdict=self.calibration.verdict(evidence),
            inliers=verification.inlier_count,
            evidence=evidence,
            false_accept=self.calibration.false_accept_rate(evidence),
            verification=verification,
        )

    def _find_calibration(self) -> Calibration:
        own = self._catalog.meta("calibration")
        fingerprint = self.extractor_info.fingerprint
        if own is not None:
            return Calibration.from_json(own)
        return shipped().get(fingerprint) or uncalibrated(fingerprint)

    def _load(self) -> tuple[Extractor, VectorStore]:
        """The extractor and the search index, loaded when they are first needed; the index again
        when a writer has finished since."""
        with self._lock:
            if self._extractor is None:
                self._extractor = load_extractor(self.folder, self._stored_extractor)
            generation = self._catalog.generation
            if self._store is None or self._store.info.generation != generation:
                self._store = faiss_store.load(self.folder, generation)
            if self._store is None:
                # A writer is at work, or was killed before it came to the search index.
                log.info("the search index is not up to date; searching the catalogue itself")
                self._store = faiss_store.in_memory(self._catalog.vectors, generation)
            return self._extractor, self._store


def _search(store: VectorStore, vector: Array, k: int, left_out: Collection[int]) -> Shortlist:
    """The `k` nearest images that are not left out."""
    found = store.search(vector, k + len(left_out))
    kept = [
        (i, s)
        for i, s in zip(found.image_ids, found.similarities, strict=True)
        if i not in left_out
    ][:k]
    return Shortlist(tuple(i for i, _ in kept), tuple(s for _, s in kept))


def _as_photo(pixels: Path | str | Array) -> Photo:
    """Pixels in memory as a photo; `InputError` if they are none."""
    array = np.asarray(pixels)
    if array.ndim != 3 or min(array.shape[:2]) < MIN_SIDE:
        raise InputError(
            f"a query must be H x W x 3 pixels of at least {MIN_SIDE} on each side, "
            f"got {array.shape}"
        )
    return Photo(array, PhotoInfo(size=(array.shape[1], array.shape[0])))


def _match(query: Features, database: Features, side: int) -> Verification:
    matches = match_mutual(query.descriptors, database.descriptors, RATIO)
    return verify(query, database, matches, side)


def _strength(view: _View) -> tuple[int, float]:
    """(2 match, 1 uncertain, 0 neither; evidence) of the best candidate."""
    judged = ((2 - ORDER[c.verdict], strength_of(c)) for c in view.candidates)
    return max(judged, default=(0, -math.inf))


def _extract_turned(
    extractor: Extractor, pixels: Array, size: tuple[int, int], degrees: int, *, local: bool
) -> Extraction:
    """Look at an image turned counter-clockwise; keypoints come back in the image as it was."""
    if degrees == 0:
        return extractor.extract(pixels, size)
    turned_size = size if degrees == 180 else size[::-1]
    turned = np.ascontiguousarray(np.rot90(pixels, degrees // 90))
    seen = extractor.extract(turned, turned_size, local=local)
    if seen.features is None:
        return seen
    keypoints = unrotate_points(seen.features.keypoints, turned_size, degrees)
    features = replace(seen.features, keypoints=keypoints, image_size=size)
    return Extraction(features, seen.global_descriptor)
