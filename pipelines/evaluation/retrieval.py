"""`locate evaluate retrieval`: how well a place is found again among labelled photos.

The database is what `locate build-index` makes of the photos, the rankings are those of `locate query`:
before verification by global similarity (or by the votes of local descriptors) alone, after it with the
shortlist verified. Both rank the whole database, since a right answer that is not ranked counts as 0;
only Google Landmarks stops at 100.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from locate.datasets.google_landmarks import RECOGNITION, RETRIEVAL, Predictions
from locate.datasets.records import Query, Rankings, RetrievalData, named
from locate.datasets.retrieval import LABELS, PLACES, only, read_retrieval
from locate.errors import ImageError, InputError
from locate.extractors.base import Extractor
from locate.images.folder import scan
from locate.metrics.retrieval import RECALL_AT
from locate.retrieval.search_mode import default_search
from pipelines.evaluation.common import (
    Progress,
    Steps,
    extractor_settings,
    folder_name,
    require_positive,
)
from pipelines.evaluation.retrieval_database import (
    EvaluationDatabase,
    QueryResult,
    evaluation_database,
)
from pipelines.evaluation.retrieval_scores import OpenSetRun, RetrievalResults, Run
from pipelines.reports.report import Report
from pipelines.retrieval.query import SHORTLIST

BEFORE, AFTER = "before verification", "after verification"
FOREIGN = 500  # photos; 1 % of them are five
_TOP = {RETRIEVAL: 100, RECOGNITION: 1, PLACES: max(RECALL_AT)}  # the others rank everything


def evaluate_retrieval(
    folder: Path,
    extractors: Mapping[str, Extractor],
    *,
    layout: str | None = None,
    distractors: Sequence[Path] = (),
    foreign: Path | None = None,
    foreign_count: int = FOREIGN,
    kinds: Sequence[str] = (),
    verify: bool = True,
    search: str | None = None,
    shortlist: int = SHORTLIST,
    work: Path | None = None,
    workers: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    results: RetrievalResults | None = None,
) -> Report:
    """Index the photos of a labelled folder and score the answers to its queries.

    What is reported follows the layout (`locate.datasets.retrieval.LAYOUTS`): mAP and recall@N, for
    `labels.csv` also the open set; mAP and mP@N with junk taken out before anything is verified, for
    Oxford and Paris; mAP@100 or GAP for Google Landmarks; recall@N within 25 m for places.

    In the open set a known query's landmark is in the database; negatives are the queries with their
    landmark excluded, and photos of `foreign`. Where they are fewer than 100, 1 % means none.

    Args:
        extractors: by the name in the tables.
        layout: None to recognise it.
        distractors: folders whose photos join the database and are right for no query.
        foreign: a folder of photos of places that are not in the database, of which `foreign_count` are
            drawn by `seed`; `labels.csv` only.
        kinds: only queries of these kinds; empty for all.
        verify: False ranks before verification alone.
        search: None for "local" where an extractor has no global descriptor and "global" elsewhere.
        shortlist: candidates that are verified.
        work: keeps the databases, which a second call then need not fill again.
        results: is filled with the answers to each query, for who wants more than the tables.

    Raises:
        InputError: what is missing or wrong in the folder or the options, and the cure.
    """
    if not extractors:
        raise InputError("name at least one extractor to evaluate")
    require_positive("shortlist", shortlist)
    data = read_retrieval(folder, layout)
    data = only(data, tuple(kinds)) if kinds else data
    _require_photos(folder, data)
    database = _with_distractors(data, distractors)
    negatives = _negatives(data, database, foreign, foreign_count, seed, verify)
    searches = {name: search or default_search(e.info) for name, e in extractors.items()}
    results = results or RetrievalResults()
    results.notes += data.notes
    total = len(extractors) * len(database) + sum(
        _count_queries(data, extractor, verify, len(negatives)) for extractor in extractors.values()
    )
    with nullcontext(work) if work else TemporaryDirectory(prefix="locate-evaluate-") as home:
        step = Steps(progress, total)
        for name, extractor in extractors.items():
            opened = evaluation_database(
                database, extractor, Path(home), searches[name], workers=workers, progress=step
            )
            can_verify = verify and extractor.info.local_dim > 0
            with opened as db:
                runner = _Runner(name, db, data, shortlist, step, results, verify, can_verify)
                runner.note_database()
                if data.layout == RECOGNITION:
                    runner.recognise()
                    continue
                known = runner.rank()
                if data.layout == LABELS and verify:
                    runner.ask_open_set(known, negatives)
    settings = {
        "data": folder_name(folder),
        "layout": data.layout,
        "queries": len(data.queries),
        "images": len(database),
        "distractors": [folder_name(d) for d in distractors],
        "foreign": None if foreign is None else folder_name(foreign),
        "foreign_count": len(negatives),
        "kinds": list(kinds),
        "verify": verify,
        "shortlist": shortlist,
        "search": searches,
        "seed": seed,
        "extractors": extractor_settings(extractors),
    }
    return results.report(data, settings)


@dataclass
class _Runner:
    """Asks one database, and collects the results and notes on queries whose photo cannot be used."""

    name: str
    database: EvaluationDatabase
    data: RetrievalData
    shortlist: int
    step: Callable[[], None]
    results: RetrievalResults
    verify: bool
    can_verify: bool

    def ask(
        self,
        verify: bool,
        queries: Sequence[Query] | None = None,
        exclude: Callable[[Query], Any] | None = None,
    ) -> dict[str, QueryResult]:
        results = self.database.ask(
            self.data.queries if queries is None else queries,
            verify=verify,
            top=_TOP.get(self.data.layout, len(self.database)),
            shortlist=self.shortlist,
            exclude=exclude,
            done=self.step,
        )
        self.results.notes += [
            f"the query {query} is left out: it {error.reason}; {error.cure}"
            for query, error in results.items()
            if isinstance(error, ImageError)
        ]
        return {q: result for q, result in results.items() if isinstance(result, QueryResult)}

    def rank(self) -> dict[str, QueryResult] | None:
        """The results at the last level after verification; None where there was none."""
        levels, runs = self.data.levels, self.results.runs
        runs.append(Run(self.name, BEFORE, dict.fromkeys(levels, _rankings(self.ask(False)))))
        if not self.can_verify:
            runs += [Run(self.name, AFTER, None)] * self.verify
            return None
        results: dict[str, QueryResult] = {}
        after = {}
        for level in levels:
            results = self.ask(True, exclude=self._junk(level))
            after[level] = _rankings(results)
        runs.append(Run(self.name, AFTER, after))
        return results

    def _junk(self, level: str) -> Callable[[Query], frozenset[str]] | None:
        """Junk must not take places of the shortlist: it is excluded; None where there is none."""
        if not any(query.truth[level].junk for query in self.data.queries):
            return None
        return lambda query: query.truth[level].junk

    def recognise(self) -> None:
        """The landmark of the best image, with its similarity, and after verification its evidence, as
        the confidence. A photo that looks most like a distractor shows no landmark."""

        def predictions(verify: bool) -> Predictions:
            shown = self.data.landmarks
            return {
                query: (shown[r.ranking[0]], max(r.evidence if verify else r.score, -1e9))
                for query, r in self.ask(verify).items()
                if r.ranking and r.ranking[0] in shown
            }

        self.results.recognition.append((self.name, BEFORE, predictions(False)))
        if self.verify:
            after = predictions(True) if self.can_verify else None
            self.results.recognition.append((self.name, AFTER, after))

    def ask_open_set(
        self, known: Mapping[str, QueryResult] | None, negatives: Sequence[Query]
    ) -> None:
        if known is None:
            self.results.open_set.append(OpenSetRun(self.name))
            return
        with_place = {query.id for query in self.data.queries if query.truth[""].ok}
        run = OpenSetRun(
            self.name,
            known={query: result for query, result in known.items() if query in with_place},
            excluded=self.ask(True, exclude=lambda query: query.truth[""].ok),
            negatives=[*self.ask(True, negatives).values()],
        )
        self.results.open_set.append(run)
        count = len(run.excluded) + len(run.negatives)
        if count < 100:
            why = "too few to show 1 %, so that the open set accepts none of them"
            self.results.notes.append(f"absent queries: {count}, {why}")

    def note_database(self) -> None:
        if failed := self.database.failed:
            self.results.notes.append(
                "database photos that cannot be used and count as never found: "
                f"{len(failed)}, such as {failed[0][0]}, which {failed[0][1]}"
            )
        if self.can_verify and not self.database.db.calibration.queries:
            self.results.notes.append(
                f"{self.name} is not calibrated: its verdicts follow a cautious rule, which also bears "
                "on its ranking after verification"
            )


def _rankings(results: Mapping[str, QueryResult]) -> Rankings:
    return {query: result.ranking for query, result in results.items()}


def _count_queries(data: RetrievalData, extractor: Extractor, verify: bool, negatives: int) -> int:
    queries = len(data.queries)
    if not (verify and extractor.info.local_dim):
        return queries
    if data.layout != LABELS:
        return queries * (1 + len(data.levels))
    return 3 * queries + negatives


def _require_photos(folder: Path, data: RetrievalData) -> None:
    without = sum(query.photo is None for query in data.queries)
    if without or not data.database:
        what = f"queries without a photo: {without}" if without else "there are no database photos"
        cure = "add the photos, or score finished answers without any: --rankings FILE"
        raise InputError(f"{folder}: {what}; {cure}")


def _with_distractors(data: RetrievalData, folders: Sequence[Path]) -> dict[str, Path]:
    database = dict(data.database)
    for number, folder in enumerate(folders, start=1):
        found = {f"distractors-{number}/{photo.path}": photo.absolute for photo in scan(folder)}
        if not found:
            raise InputError(f"{folder} holds no photos to distract with")
        both = database.keys() & found.keys()
        if both:
            raise InputError(f"images of the ground truth are called {named(both)}; rename them")
        database |= found
    return database


def _negatives(
    data: RetrievalData,
    database: Mapping[str, Path],
    folder: Path | None,
    count: int,
    seed: int,
    verify: bool,
) -> list[Query]:
    """Some photos of `folder`, drawn by `seed`, as queries without a right answer."""
    if folder is None:
        return []
    require_positive("the number of foreign photos", count)
    if data.layout != LABELS or not verify:
        raise InputError(
            f"photos of foreign places belong to the open set, which needs the layout {LABELS} and "
            "verification"
        )
    photos = {photo.path: photo.absolute for photo in scan(folder)}
    if not photos:
        raise InputError(f"{folder} holds no photos of foreign places")
    indexed = {file.resolve() for file in database.values()}
    inside = [path for path, file in photos.items() if file.resolve() in indexed]
    if inside:
        raise InputError(
            f"photos of {folder} that are in the database too: {len(inside)}, such as {inside[0]}; name "
            "a folder of places that it does not hold"
        )
    names = sorted(photos)
    drawn = random.Random(seed).sample(names, min(count, len(names)))  # noqa: S311
    return [Query(f"foreign/{path}", photos[path]) for path in sorted(drawn)]
