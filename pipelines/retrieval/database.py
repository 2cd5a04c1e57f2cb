"""`locate query`: find a shortlist, verify it by local matches, judge, rank."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Unpack

from threadpoolctl import ThreadpoolController

from index.catalog import Catalog
from index.vectors.tuning import one_thread_search
from locate.errors import DatabaseMismatchError, DatabaseMissingError, ImageError
from locate.extractors.base import Extractor
from locate.images.masks import Masks
from locate.retrieval.search_mode import BOTH, GLOBAL, refuse_unfit
from locate.retrieval.verdict import Calibration, bundled, uncalibrated
from locate.types import Answer, Array
from locate.util.parallel import one_thread_each, ordered_map
from locate.util.timing import Clock
from pipelines.indexing.provenance import extractor_of, load_extractor, search_of
from pipelines.retrieval.query import Exclude, Opened, Query, QueryOptions, QuerySettings
from pipelines.retrieval.rerank import Reranker
from pipelines.retrieval.search import Retriever
from pipelines.retrieval.verification import Map

AnyPhoto = Path | str | Array


class Database(AbstractContextManager["Database"]):
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
        """`DatabaseError` if the folder, made by `locate build-index`, cannot be used.

        Args:
            workers: threads that match and verify; by default one a core.
            extractor: the one that filled the database, where it is loaded already or is none that the
                registry can make again; by default it is loaded with the first query.
            masks: a folder of masks of the photos that will be asked (see `locate.images.masks`), or one
                for all.
        """
        self.folder = Path(folder)
        self._masks = None if masks is None else Masks(masks)
        self._catalog = Catalog.open(self.folder)
        try:
            info, search = extractor_of(self._catalog), search_of(self._catalog)
            if info is None or search is None or self._catalog.counts()["ok"] == 0:
                raise DatabaseMissingError(
                    f"{self.folder} holds no images yet; add some with: locate build-index PHOTOS"
                )
            self.extractor_info, self.search = info, search
            if extractor is not None and not extractor.info.compares_with(info):
                raise DatabaseMismatchError(
                    f"{self.folder} was filled by another {info.name} than the one "
                    "given; leave the extractor out, and the right one is loaded"
                )
            self._extractor = extractor
            self._reranker: Reranker | None = None
            self._retriever = Retriever(self._catalog)
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

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Images that can be found."""
        return self._catalog.counts()["ok"]

    def query(
        self,
        photo: AnyPhoto,
        options: QueryOptions | None = None,
        **settings: Unpack[QuerySettings],
    ) -> Answer:
        """Which images show the same place as a photo (a file, or H x W x 3 uint8 RGB pixels)?
        `settings` are single ones of the options by name, such as `top=3`.

        Raises:
            ImageError: the photo cannot be used.
            DatabaseMismatchError: the database lacks what `search` needs.
        """
        checked = self._options(options, settings)
        # One core a candidate: the threads of BLAS would fight with those of the pool.
        with self._blas.limit(limits=1, user_api="blas"):
            return self._query(photo, checked, self._pool.map)

    def query_many(
        self,
        photos: Iterable[AnyPhoto],
        options: QueryOptions | None = None,
        **settings: Unpack[QuerySettings],
    ) -> Iterator[Answer | ImageError]:
        """`query` for many photos, one a core, in their order; a photo that cannot be used gives
        its error in place of an answer. Twice the speed of single queries on two cores."""
        checked = self._options(options, settings)
        return self._query_many((photo, checked) for photo in photos)

    def query_each(
        self,
        questions: Iterable[tuple[AnyPhoto, Exclude | None]],
        options: QueryOptions | None = None,
        **settings: Unpack[QuerySettings],
    ) -> Iterator[Answer | ImageError]:
        """`query_many` where each photo has database images of its own that must not be found."""
        checked = self._options(options, settings)
        return self._query_many(
            (photo, replace(checked, exclude=exclude)) for photo, exclude in questions
        )

    def _options(self, options: QueryOptions | None, settings: QuerySettings) -> QueryOptions:
        options = replace(options or QueryOptions(), **settings)
        search = options.search or self.search
        refuse_unfit(search, self.extractor_info)
        if search != GLOBAL and self.search == GLOBAL:
            raise DatabaseMismatchError(
                f"{self.folder} has no index of local descriptors; add one with: "
                f"locate build-index PHOTOS --search {BOTH}"
            )
        return replace(options, search=search)

    def _query_many(
        self, questions: Iterable[tuple[AnyPhoto, QueryOptions]]
    ) -> Iterator[Answer | ImageError]:
        def ask(question: tuple[AnyPhoto, QueryOptions]) -> Answer | ImageError:
            try:
                return self._query(*question, map)
            except ImageError as error:
                return error

        with self._blas.limit(limits=1, user_api="blas"):
            yield from ordered_map(
                ask, questions, self._workers, 2 * self._workers, start=_one_thread_each
            )

    def _query(self, photo: AnyPhoto, options: QueryOptions, map_: Map) -> Answer:
        clock = Clock()
        extractor = self._load(options.search or self.search)
        info, rule = self.extractor_info, self.calibration
        reranker = self.reranker if options.rerank else None
        clock.lap("load")
        opened = Opened(
            self._catalog, self._retriever, extractor, info, rule, self._masks, reranker
        )
        return Query(opened, photo, options, map_, clock).answer()

    def _find_calibration(self) -> Calibration:
        own, fingerprint = self._catalog.meta("calibration"), self.extractor_info.fingerprint
        if own is not None:
            return Calibration.from_json(own)
        return bundled().get(fingerprint) or uncalibrated(fingerprint)

    @property
    def reranker(self) -> Reranker:
        """Made when it is first needed; `MissingExtraError` if its package is not installed."""
        with self._lock:
            if self._reranker is None:
                self._reranker = Reranker()
            return self._reranker

    def _load(self, search: str) -> Extractor:
        """The extractor, loaded when it is first needed, and what `search` needs."""
        with self._lock:
            if self._extractor is None:
                self._extractor = load_extractor(self._catalog)
        self._retriever.load(search)
        return self._extractor


def _one_thread_each() -> None:
    one_thread_each()
    one_thread_search()
