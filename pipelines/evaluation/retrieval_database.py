"""The databases that an evaluation of retrieval asks: filled by an extractor at hand, and answering
with the ids of the ground truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from locate.datasets.oxford_paris import crop
from locate.datasets.records import Query
from locate.errors import ImageError, InputError
from locate.extractors.base import Extractor
from locate.images.reading import is_photo_name, read_photo
from locate.retrieval.ranking import score_of
from locate.retrieval.search_mode import GLOBAL, LOCAL, refuse_unfit
from locate.types import Answer, Array
from pipelines.evaluation.common import steps_of_part
from pipelines.indexing.build import build_index, remove_images
from pipelines.retrieval.database import Database
from pipelines.retrieval.query import Exclude


@dataclass(frozen=True)
class QueryResult:
    """What a database answered to one query: a `ranking` of ids, best first, whose first has the
    similarity (in a local search the votes) `score`, and the id with the most `evidence`, the
    best-ranked of equals: None and -inf if none was verified."""

    ranking: tuple[str, ...]
    verdict: str
    strongest: str | None
    evidence: float
    score: float


class EvaluationDatabase:
    """A database that knows its images by the ids of the ground truth. `failed` holds (id, reason)
    of images that could not be read; they are never found."""

    def __init__(self, db: Database, ids: Mapping[str, str], failed: list[tuple[str, str]]) -> None:
        self.db = db
        self.failed = failed
        self._ids = ids  # by the path in the database

    def __len__(self) -> int:
        return len(self.db)

    def ask(
        self,
        queries: Iterable[Query],
        *,
        verify: bool,
        top: int,
        shortlist: int,
        exclude: Callable[[Query], Collection[str]] | None = None,
        done: Callable[[], None] = lambda: None,
    ) -> dict[str, QueryResult | ImageError]:
        """The result to each query by its id, or why its photo cannot be used. A ranking has `top`
        images; `exclude` gives the ids that one query must not find; `done` is called after each."""
        queries = list(queries)
        results: dict[str, QueryResult | ImageError] = {}
        opened: list[Query] = []

        def questions() -> Iterator[tuple[Path | Array, Exclude | None]]:
            for query in queries:
                try:
                    photo = _view(query)
                except ImageError as error:
                    results[query.id] = error
                    done()
                    continue
                opened.append(query)
                yield photo, None if exclude is None else self._among(exclude(query))

        answers = self.db.query_each(questions(), verify=verify, top=top, shortlist=shortlist)
        for number, answer in enumerate(answers):
            result = answer if isinstance(answer, ImageError) else self._result(answer)
            results[opened[number].id] = result
            done()
        return {query.id: results[query.id] for query in queries}

    def _among(self, hidden: Collection[str]) -> Exclude:
        return lambda row: self._ids[row.path] in hidden

    def _result(self, answer: Answer) -> QueryResult:
        ranking = tuple(self._ids[c.image] for c in answer.candidates)
        if not ranking:
            return QueryResult(ranking, answer.verdict, None, -math.inf, -math.inf)
        first, best = answer.candidates[0], max(answer.candidates, key=score_of)
        strongest = None if best.evidence is None else self._ids[best.image]
        score = first.votes if self.db.search == LOCAL else first.similarity
        score = -math.inf if score is None else score
        return QueryResult(ranking, answer.verdict, strongest, score_of(best), score)


@contextmanager
def evaluation_database(
    photos: Mapping[str, Path],
    extractor: Extractor,
    work: Path,
    search: str = GLOBAL,
    *,
    workers: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[EvaluationDatabase]:
    """Index `photos` (by id) with an extractor and open the database, in a folder of its own below
    `work`. What an earlier call left there is used again where the photos are the same. `progress` is
    called for every image that is extracted or need not be. `InputError` if an id cannot be a file's
    name, or `search` (see `build_index`) needs what the extractor lacks."""
    info = extractor.info
    refuse_unfit(search, info)  # before anything is written
    home = work / f"{info.name}-{info.fingerprint}"
    index = home / "index.locate"
    links = _link_all(photos, home / "photos")
    ids = {path: image for image, path in links.items()}
    advance = steps_of_part(progress)
    report = build_index(
        home / "photos",
        index,
        extractor=extractor,
        search=search,
        label_from="none",
        workers=workers,
        progress=lambda done, _: advance(done),
    )
    advance(len(photos))
    if report.missing:
        remove_images(index, missing=True)
    with Database(index, workers=workers, extractor=extractor) as db:
        yield EvaluationDatabase(db, ids, [(ids[path], reason) for path, reason in report.failed])


def _link_all(photos: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Make `folder` hold a link to each photo and nothing else; the links' paths by id."""
    links: dict[str, str] = {}
    taken: dict[str, str] = {}
    for image, file in photos.items():
        path = image if is_photo_name(image) else image + file.suffix
        parts = PurePosixPath(path).parts
        hidden = any(part.startswith(".") for part in parts)  # `..`, and what no scan would see
        if hidden or path.startswith("/") or path != "/".join(parts) or path in taken:
            other = f", and so is {taken[path]}" if path in taken else ""
            raise InputError(f"{image!r} is to be the name of a photo{other}; rename it")
        taken[path] = image
        links[image] = path
    if folder.is_dir():
        for old in [p for p in folder.rglob("*") if p.is_symlink()]:
            if old.relative_to(folder).as_posix() not in taken:
                old.unlink()
    for image, path in links.items():
        link, target = folder / path, photos[image].resolve()
        if link.is_symlink() and link.readlink() == target:
            continue
        link.unlink(missing_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    return links


def _view(query: Query) -> Path | Array:
    """The photo of a query, or its cropped pixels."""
    if query.photo is None:
        raise InputError(f"there is no photo of the query {query.id}")
    if query.box is None:
        return query.photo
    return crop(read_photo(query.photo).pixels, query.box, query.photo)
