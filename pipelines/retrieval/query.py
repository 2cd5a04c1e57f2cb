"""One query of a database: search, verify upright and turned, judge, rank."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import numpy as np

from index.catalog import Catalog
from index.records import ImageRow
from index.vectors.base import NEIGHBORS
from locate.errors import DatabaseCorruptError, InputError, UnknownNameError
from locate.extractors.base import Extractor, ExtractorInfo
from locate.extractors.rotated import extract_rotated, extract_rotations
from locate.geometry.panorama import looked_at_flat
from locate.images.masks import Masks, hidden
from locate.images.reading import as_photo, read_photo
from locate.matching.evidence import evidence_of
from locate.retrieval.ranking import ORDER, explain, rank_key, score_of, verdict_on_all
from locate.retrieval.search_mode import BOTH, GLOBAL, LOCAL
from locate.retrieval.verdict import MATCH, Calibration
from locate.types import Answer, Array, Candidate, Extraction, Features, Shortlist, Verification
from locate.util.timing import Clock
from pipelines.retrieval.rerank import LIGHTGLUE, Reranker
from pipelines.retrieval.search import Retriever, SearchResult, candidates, expanded
from pipelines.retrieval.verification import STRONGEST, Map, Verifier

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
class QueryOptions:
    """How a database is asked.

    Attributes:
        top: candidates in the answer.
        shortlist: the best that the search found; the promising ones of these are verified.
        verify: False ranks as the search does and gives no verdict.
        rotate: try the photo turned by 90, 180 and 270 degrees if it does not match upright.
        exclude: database images that must not be found (evaluation leaves some out).
        search: "global": by similarity of the global descriptors. "local": each local descriptor of the
            photo votes for the images that hold its nearest ones, which finds what fills only a small
            part of the photo. "both": the two rankings take turns, the local one first. None as the
            database was built.
        neighbours: of each local descriptor, that vote.
        exhaustive: verify all of the shortlist, and not only what is promising.
        rerank: "lightglue" looks again at what stays uncertain (`pipelines.retrieval.rerank`).
    """

    top: int = TOP
    shortlist: int = SHORTLIST
    verify: bool = True
    rotate: bool = True
    exclude: Exclude | None = None
    search: str | None = None
    neighbours: int = NEIGHBORS
    exhaustive: bool = False
    rerank: str | None = None

    def __post_init__(self) -> None:
        if self.rerank not in (None, LIGHTGLUE):
            raise UnknownNameError("way to rerank", str(self.rerank), [LIGHTGLUE])
        for name in ("top", "shortlist", "neighbours"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def depth(self) -> int:
        """How many images a search must find."""
        return max(self.shortlist, self.top)


class QuerySettings(TypedDict, total=False):
    """`QueryOptions` as keywords."""

    top: int
    shortlist: int
    verify: bool
    rotate: bool
    exclude: Exclude | None
    search: str | None
    neighbours: int
    exhaustive: bool
    rerank: str | None


@dataclass(frozen=True, eq=False)
class Opened:
    """An open database. `info` is that of the extractor as the database records it: so its
    calibration was measured; `masks` are of the photos that are asked; `reranker` is there if the
    options want it."""

    catalog: Catalog
    retriever: Retriever
    extractor: Extractor
    info: ExtractorInfo
    calibration: Calibration
    masks: Masks | None
    reranker: Reranker | None = None


@dataclass(frozen=True, eq=False)
class _View:
    """The query turned by `rotation` degrees: what was seen in it, and its candidates in order."""

    rotation: int
    features: Features | None
    vector: Array | None
    found: SearchResult
    candidates: list[Candidate]

    def similarity_gain(self, upright: _View) -> float:
        """How much more this view looks like something in the index than the upright one does:
        by how much the best similarity is larger, or the best votes are in proportion."""
        gains = [0.0]
        found, before = self.found, upright.found
        if found.by_global and before.by_global:
            gains.append(found.by_global.scores[0] - before.by_global.scores[0])
        if found.by_local:
            votes = before.by_local.scores[0] if before.by_local else 0.0
            gains.append(found.by_local.scores[0] / votes - 1 if votes else 1.0)
        return max(gains)

    @property
    def score(self) -> tuple[int, float]:
        """(2 match, 1 uncertain, 0 neither; evidence) of the best candidate."""
        judged = ((2 - ORDER[c.verdict], score_of(c)) for c in self.candidates)
        return max(judged, default=(0, -math.inf))


class Query:
    """One photo (a file, or H x W x 3 uint8 RGB pixels) that is asked for. `map_` is as the built-in,
    maybe on several threads; `clock` goes on. `ImageError` if the photo cannot be used."""

    def __init__(
        self, db: Opened, photo: Path | str | Array, options: QueryOptions, map_: Map, clock: Clock
    ) -> None:
        self._db, self._options, self._map, self._clock = db, options, map_, clock
        self._search = options.search or GLOBAL
        if isinstance(photo, np.ndarray):
            self._path, opened = None, as_photo(photo)
        else:
            self._path, opened = Path(photo), read_photo(Path(photo), db.extractor.max_side)
        self._photo, self._mask = hidden(opened, db.masks)
        clock.lap("decode")
        self._exclude: set[int] = set()
        if options.exclude is not None:
            self._exclude = {r.id for r in db.catalog.images("ok") if options.exclude(r)}

    def answer(self) -> Answer:
        """Which images show the same place?"""
        options = self._options
        rotations = extract_rotations(
            self._db.extractor,
            self._photo.pixels,
            self._photo.info.size,
            # Where only the global descriptor searches, local ones are left for those worth judging.
            local=self._search != GLOBAL,
            vectors=self._search != LOCAL,
            mask=self._mask,
        )
        upright = view = self._view(*next(rotations))
        if options.verify:
            view = self._verified(view)
            if options.rotate and view.score[0] < 2:
                rotated = [self._view(*seen, upright) for seen in rotations]
                view = self._best(view, rotated, upright)
            if self._db.reranker is not None and view.score[0] == 1:
                view = self._looked_again(view, self._db.reranker)
        ordered = sorted(view.candidates, key=rank_key)
        if self._search != LOCAL and any(c.verdict == MATCH for c in ordered):
            ordered = expanded(self._db.catalog, view.vector, ordered, self._search_global)
            self._clock.lap("search")
        ranked = tuple(replace(c, rank=i) for i, c in enumerate(ordered[: options.top], 1))
        verdict = verdict_on_all(view.candidates)
        count = 0 if upright.features is None else len(upright.features)
        rule, judged = self._db.calibration, view.candidates
        again = [c for c in judged if c.matched_by]
        if self._db.reranker is not None and again:
            rule, judged = self._db.reranker.calibration, again
        reason = explain(rule, verdict, judged, count, _SEARCHED_BY[self._search])
        if again:
            reason += "; LightGlue has found them, at a second look"
        # Loading the network belongs to the first query only by accident.
        seconds = self._clock.seconds
        seconds["total"] = sum(v for part, v in seconds.items() if part != "load")
        return Answer(
            photo=self._path,
            verdict=verdict,
            label=ranked[0].label if verdict == MATCH else None,
            reason=reason + ("" if verdict == MATCH else looked_at_flat(self._photo.info)),
            candidates=ranked,
            rotation=view.rotation,
            query_features=count,
            seconds=seconds,
        )

    def _search_global(self, vector: Array) -> Shortlist:
        return self._db.retriever.search_global(vector, self._options.depth, self._exclude)

    def _view(self, rotation: int, seen: Extraction, upright: _View | None = None) -> _View:
        """What the photo turned by `rotation` looks like in the index."""
        self._clock.lap("extract")
        options, vector = self._options, seen.global_descriptor
        similar = (
            self._search_global(vector) if vector is not None and self._search != LOCAL else None
        )
        if self._search == GLOBAL:
            voted = None
        elif upright is not None and self._db.info.rotation_invariant:
            voted = upright.found.by_local  # by the same features
        else:
            voted = self._db.retriever.search_local(
                seen.features, options.depth, options.neighbours, self._exclude
            )
        found = SearchResult(similar, voted)
        listed = candidates(self._db.catalog, found, vector)[: options.depth]
        self._clock.lap("search")
        return _View(rotation, seen.features, vector, found, listed)

    def _best(self, view: _View, rotated: Iterable[_View], upright: _View) -> _View:
        """A photo that lies on its side looks more like its place when it is turned. Only then are the
        turned ones verified: guesses would cost time and false matches."""
        for other in sorted(rotated, key=lambda v: -v.similarity_gain(upright)):
            if other.similarity_gain(upright) <= 0:
                break
            judged = self._verified(other)
            # Where nothing is even hinted at, the upright ranking is the better guess.
            if judged.score > max(view.score, (1, -math.inf)):
                view = judged
            if view.score[0] == 2:
                break
        return view

    def _looked_again(self, view: _View, reranker: Reranker) -> _View:
        catalog = self._db.catalog
        rows = catalog.rows([c.image_id for c in view.candidates])
        masked = frozenset(i for i, row in rows.items() if row.file.mask)
        found = reranker.look_again(self._photo, self._mask, view.rotation, view.candidates, masked)
        self._clock.lap("rerank")
        return replace(view, candidates=found)

    def _verified(self, view: _View) -> _View:
        """With the local features, and the evidence of the candidates on the shortlist."""
        extractor, info = self._db.extractor, self._db.info
        features = view.features
        if features is None and extractor.info.local_dim:
            pixels, size = self._photo.pixels, self._photo.info.size
            features = extract_rotated(
                extractor, pixels, size, view.rotation, local=True, mask=self._mask
            ).features
            self._clock.lap("extract")
        if features is None:
            return view
        count = self._options.shortlist
        head, tail = view.candidates[:count], view.candidates[count:]
        strongest = [self._stored(c, STRONGEST) for c in head]
        self._clock.lap("read")
        verifier = Verifier(features, info, extractor.max_side, self._map)
        found = verifier.verify(
            strongest, lambda i: self._stored(head[i]), exhaustive=self._options.exhaustive
        )
        both = zip(head, found, strict=True)
        judged = [c if v is None else self._candidate(c, v) for c, v in both]
        self._clock.lap("match and verify")
        return replace(view, features=features, candidates=judged + tail)

    def _stored(self, candidate: Candidate, strongest: int | None = None) -> Features | None:
        """All its features or the strongest. None, and a warning in the log, if they are damaged: the
        other candidates still count."""
        try:
            return self._db.catalog.features(candidate.image_id, strongest)
        except DatabaseCorruptError as error:
            log.warning("%s", error)
            return None

    def _candidate(self, candidate: Candidate, verification: Verification) -> Candidate:
        evidence = evidence_of(verification)
        return replace(
            candidate,
            verdict=self._db.calibration.verdict(evidence),
            inliers=verification.inlier_count,
            evidence=evidence,
            false_accept=self._db.calibration.false_accept_rate(evidence),
            verification=verification,
        )
