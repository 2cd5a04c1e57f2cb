"""`locate query`: find a shortlist, verify it by local matches, judge, rank."""

from __future__ import annotations

import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
from threadpoolctl import ThreadpoolController

from index.catalog import Catalog
from index.records import ImageRow
from index.vectors.local_records import NEIGHBOURS
from index.vectors.tuning import one_thread_search
from index.vectors.voting import Votes
from locate.errors import (
    DatabaseCorruptError,
    DatabaseMismatchError,
    DatabaseMissingError,
    ImageError,
    InputError,
)
from locate.extractors.base import Extractor, ExtractorInfo
from locate.extractors.rotated import extract_turned
from locate.geometry.panorama import looked_at_flat
from locate.images.masks import Mask, Masks, hidden
from locate.images.reading import as_photo, read_photo
from locate.matching.descriptors import match_mutual, weighted
from locate.matching.evidence import evidence_of
from locate.matching.two_view import verify
from locate.retrieval.ranking import ORDER, explain, rank_key, strength_of, verdict_on_all
from locate.retrieval.search_mode import BOTH, GLOBAL, LOCAL, default_search, refuse_unfit
from locate.retrieval.verdict import MATCH, Calibration, shipped, uncalibrated
from locate.types import (
    Answer,
    Array,
    Candidate,
    Features,
    Photo,
    Shortlist,
    Verification,
)
from locate.util.parallel import one_thread_each
from locate.util.timing import Clock
from pipelines.indexing.provenance import load_extractor
from pipelines.retrieval.query_expansion import expanded
from pipelines.retrieval.search import Found, Searches, candidates

RATIO = 0.8  # Lowe's test, if the extractor has none of its own; benchmarks/ablations/verifiers.py
SHORTLIST = 30
TOP = 10
Exclude = Callable[[ImageRow], bool]
_SEARCHED_BY = {
    GLOBAL: "global similarity",
    LOCAL: "the votes of local features",
    BOTH: "global similarity and the votes of local features",
}

log = logging.getLogger("locate")


@dataclass(frozen=True)
class _Options:
    top: int
    shortlist: int
    verify: bool
    rotate: bool
    exclude: Exclude | None
    search: str
    neighbours: int

    def __post_init__(self) -> None:
        for name in ("top", "shortlist", "neighbours"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def depth(self) -> int:
        """How many images a search must find."""
        return max(self.shortlist, self.top)


@dataclass(frozen=True, eq=False)
class _View:
    """The query turned by `rotation` degrees: what was seen in it, and its candidates in order."""

    rotation: int
    features: Features | None
    vector: Array | None
    found: Found
    candidates: list[Candidate]

    def promise(self, upright: _View) -> float:
        """How much more this view looks like something in the index than the upright one does:
        by how much the best similarity is larger, or the best votes are in proportion."""
        gains = [0.0]
        if self.found.similar and upright.found.similar:
            best, before = (v.similarities[0] for v in (self.found.similar, upright.found.similar))
            gains.append(best - before)
        if self.found.voted:
            before = upright.found.voted.votes[0] if upright.found.voted else 0.0
            gains.append(self.found.voted.votes[0] / before - 1 if before else 1.0)
        return max(gains)


class Database:
    """A database folder opened for queries. It changes nothing on disk.

    Safe to share between threads. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        workers: int | None = None,
        extractor: Extractor | None = None,
        masks: Path | str | None = None,
    ) -> None:
        """
        Args:
            folder: made by `locate build-index`.
            workers: threads that match and verify; by default one a core.
            extractor: the one that filled the database, where it is loaded already or is none that the
                registry can make again; by default it is loaded with the first query.
            masks: a folder of masks of the photos that will be asked (see `locate.images.masks`), or one
                for all.

        Raises:
            DatabaseMissingError, DatabaseMismatchError, DatabaseCorruptError
        """
        self.folder = Path(folder)
        self._masks = None if masks is None else Masks(masks)
        self._catalog = Catalog.open(self.folder)
        try:
            stored = self._catalog.meta("extractor")
            if stored is None or self._catalog.counts()["ok"] == 0:
                raise DatabaseMissingError(
                    f"{self.folder} holds no images yet; add some with: locate build-index PHOTOS"
                )
            self.extractor_info = ExtractorInfo.from_json(stored)
            if extractor is not None and not extractor.info.compares_with(self.extractor_info):
                raise DatabaseMismatchError(
                    f"{self.folder} was filled by another {self.extractor_info.name} than the one "
                    "given; leave the extractor out, and the right one is loaded"
                )
            self._extractor = extractor
            self._searches = Searches(self._catalog)
            self.search = self._catalog.meta("search") or default_search(self.extractor_info)
            self.calibration = self._find_calibration()
        except BaseException:
            self._catalog.close()
            raise
        self._workers = workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._workers, "locate-query", _one_thread_each)
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
        search: str | None = None,
        neighbours: int = NEIGHBOURS,
    ) -> Answer:
        """Which images show the same place?

        Args:
            photo: a file, or H x W x 3 uint8 RGB pixels.
            top: candidates in the answer.
            shortlist: the best that the search found; these are matched and verified.
            verify: False ranks as the search does and gives no verdict.
            rotate: try the photo turned by 90, 180 and 270 degrees if it does not match upright.
            exclude: database images that must not be found (evaluation leaves some out).
            search: "global": by similarity of the global descriptors. "local": each local
                descriptor of the photo votes for the images that hold its nearest ones, which finds
                what fills only a small part of the photo. "both": the two rankings take turns, the
                local one first. By default as the database was built.
            neighbours: of each local descriptor, that vote.

        Raises:
            ImageError: the photo cannot be used.
            DatabaseMismatchError: the database lacks what `search` needs.
        """
        options = self._options(top, shortlist, verify, rotate, exclude, search, neighbours)
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
        search: str | None = None,
        neighbours: int = NEIGHBOURS,
    ) -> Iterator[Answer | ImageError]:
        """`query` for many photos, one a core, in their order; a photo that cannot be used gives
        its error in place of an answer. Twice the speed of single queries on two cores."""
        options = self._options(top, shortlist, verify, rotate, exclude, search, neighbours)
        return self._query_many((photo, options) for photo in photos)

    def query_each(
        self, questions: Iterable[tuple[Path | str | Array, Exclude]]
    ) -> Iterator[Answer | ImageError]:
        """`query_many` where each photo has database images of its own that must not be found."""
        options = self._options(TOP, SHORTLIST, True, True, None, None, NEIGHBOURS)
        return self._query_many(
            (photo, replace(options, exclude=exclude)) for photo, exclude in questions
        )

    def _options(
        self,
        top: int,
        shortlist: int,
        verify: bool,
        rotate: bool,
        exclude: Exclude | None,
        search: str | None,
        neighbours: int,
    ) -> _Options:
        search = search or self.search
        refuse_unfit(search, self.extractor_info)
        if search != GLOBAL and self.search == GLOBAL:
            raise DatabaseMismatchError(
                f"{self.folder} has no index of local descriptors; add one with: "
                f"locate build-index PHOTOS --search {BOTH}"
            )
        return _Options(top, shortlist, verify, rotate, exclude, search, neighbours)

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
        extractor = self._load(options.search)
        clock.lap("load")
        path = None if isinstance(photo, np.ndarray) else Path(photo)
        opened = as_photo(photo) if path is None else read_photo(path, extractor.max_side)
        opened, mask = hidden(opened, self._masks)
        pixels, info = opened.pixels, opened.info
        clock.lap("decode")
        left_out: set[int] = set()
        if options.exclude is not None:
            left_out = {r.id for r in self._catalog.images("ok") if options.exclude(r)}

        invariant = self.extractor_info.rotation_invariant

        def near(vector: Array) -> Shortlist:
            return self._searches.near(vector, options.depth, left_out)

        def voted(features: Features | None) -> Votes | None:
            if options.search == GLOBAL:
                return None
            return self._searches.voted(features, options.depth, options.neighbours, left_out)

        def look(rotation: int, upright: _View | None = None) -> _View:
            same = upright if invariant else None  # its local features hold for every rotation
            # Where only the global descriptor searches, local ones are left for those worth judging.
            later = upright is not None and options.search == GLOBAL
            seen = extract_turned(
                extractor,
                pixels,
                info.size,
                rotation,
                local=same is None and not later,
                mask=mask,
            )
            clock.lap("extract")
            features = same.features if same else seen.features
            vector = seen.global_descriptor
            found = Found(
                near(vector) if vector is not None and options.search != LOCAL else None,
                same.found.voted if same else voted(features),
            )
            listed = candidates(self._catalog, found, vector)[: options.depth]
            clock.lap("search")
            return _View(rotation, features, vector, found, listed)

        def judge(view: _View) -> _View:
            view = _described(view, extractor, opened, mask, clock)
            judged = self._verified(view, extractor, options.shortlist, clock, map_)
            return replace(view, candidates=judged)

        upright = view = look(0)
        if options.verify:
            view = judge(view)
            nothing_new = invariant and options.search == LOCAL
            if options.rotate and not nothing_new and _strength(view)[0] < 2:
                # A photo that lies on its side looks more like its place when it is turned. Only
                # then are the turned ones verified: guesses would cost time and false matches.
                turned = [look(r, upright) for r in (90, 180, 270)]
                for other in sorted(turned, key=lambda v: -v.promise(upright)):
                    if other.promise(upright) <= 0:
                        break
                    judged = judge(other)
                    # Where nothing is even hinted at, the upright ranking is the better guess.
                    if _strength(judged) > max(_strength(view), (1, -math.inf)):
                        view = judged
                    if _strength(view)[0] == 2:
                        break
        ordered = sorted(view.candidates, key=rank_key)
        if options.search != LOCAL and any(c.verdict == MATCH for c in ordered):
            ordered = expanded(self._catalog, view.vector, ordered, near)
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
            reason=explain(
                self.calibration, verdict, view.candidates, count, _SEARCHED_BY[options.search]
            )
            + ("" if verdict == MATCH else looked_at_flat(info)),
            candidates=ranked,
            rotation=view.rotation,
            query_features=count,
            seconds=seconds,
        )

    def _verified(
        self,
        view: _View,
        extractor: Extractor,
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
        # As the database remembers: so its calibration was measured.
        side, info = extractor.max_side, self.extractor_info
        asked = as_proof(query, info)
        found = map_(
            lambda f: None if f is None else _match(asked, as_proof(f, info), side, info), stored
        )
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

    def _load(self, search: str) -> Extractor:
        """The extractor, loaded when it is first needed, and what `search` needs."""
        with self._lock:
            if self._extractor is None:
                self._extractor = load_extractor(self._catalog)
        self._searches.load(search)
        return self._extractor


def _one_thread_each() -> None:
    one_thread_each()
    one_thread_search()


def _described(
    view: _View, extractor: Extractor, photo: Photo, mask: Mask | None, clock: Clock
) -> _View:
    """With the local features, if they were left out."""
    if view.features is not None or not extractor.info.local_dim:
        return view
    seen = extract_turned(
        extractor, photo.pixels, photo.info.size, view.rotation, local=True, mask=mask
    )
    clock.lap("extract")
    return replace(view, features=seen.features)


def as_proof(features: Features, info: ExtractorInfo) -> Features:
    """With the weights that the parts of a descriptor have in queries."""
    if not info.query_shares:
        return features
    found = weighted(features.descriptors, info.parts, info.query_shares)
    return replace(features, descriptors=found)


def _match(query: Features, database: Features, side: int, info: ExtractorInfo) -> Verification:
    ratio = info.query_ratio or info.ratio or RATIO
    matches = match_mutual(query.descriptors, database.descriptors, ratio)
    return verify(query, database, matches, side, info.verification, info.max_error)


def _strength(view: _View) -> tuple[int, float]:
    """(2 match, 1 uncertain, 0 neither; evidence) of the best candidate."""
    judged = ((2 - ORDER[c.verdict], strength_of(c)) for c in view.candidates)
    return max(judged, default=(0, -math.inf))
