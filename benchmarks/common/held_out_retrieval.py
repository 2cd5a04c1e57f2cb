"""Places that no training has seen, looked for among photos of other things: what `locate evaluate
retrieval` says of a folder that is written here.

- web: photos of one landmark by different people; a third of them, at most ten, are queries. Two of the
  landmarks are not in the database at all.
- day-night: indoor places of `train/places`, photos at night among those by day.
- The database also holds every fifth photo of `train/photos` that is not held out, and by day the places of
  `train/places` that are not.
- absent: all queries with their place left out, those of the two landmarks, and the photos of
  `train/photos` that are held out.
"""

from __future__ import annotations

import csv
import hashlib
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.common.differences import Row
from benchmarks.common.held_out import SHOWN, held_out_photos, in_mixed_order, places_of
from locate.datasets.records import RetrievalData
from locate.datasets.retrieval import read_retrieval
from locate.extractors import registry
from locate.extractors.base import Extractor
from locate.extractors.pair import Pair
from locate.metrics.common import average_precision, open_set_threshold
from locate.retrieval.verdict import MATCH
from pipelines.evaluation.retrieval import AFTER, BEFORE, evaluate_retrieval
from pipelines.evaluation.retrieval_database import QueryResult
from pipelines.evaluation.retrieval_scores import RATE, RetrievalResults

VERSION = 1  # of what is written
WEB, DAY_NIGHT, ABSENT = "web", "day-night", "absent"
MEASURES = ("mAP before", "mAP", "R@1", "right match", "wrong match", "right at 1 %", "false match")
_ONE = ("moscow_street",)  # places whose names begin so show the same houses: one landmark
_QUERIES, _ABSENT, _DISTRACTORS = 10, 5, 5  # most of a place; every so-manieth place and photo

Line = tuple[str, str, str, str, Path]  # image, landmark, split, kind; the photo


def global_scores(extractor: Extractor, data: Path, work: Path) -> list[Row]:
    """A row a query, ranked by the global descriptor alone; none of extractors without one."""
    return _scores(extractor, data, work, verify=False) if extractor.info.global_dim else []


def vote_scores(extractor: Extractor, data: Path, work: Path) -> list[Row]:
    """A row a query, ranked by the votes of local features alone; none of extractors that have a global
    descriptor, or no local ones."""
    local_alone = extractor.info.local_dim and not extractor.info.global_dim
    return _scores(extractor, data, work, verify=False) if local_alone else []


def retrieval_scores(extractor: Extractor, data: Path, work: Path) -> list[Row]:
    """A row a query, and a row for each that has no right answer. Local features alone get GeM's global
    descriptor, so that all verify the same candidates."""
    if not extractor.info.global_dim:
        extractor = Pair(registry.create("gem"), extractor)
    return _scores(extractor, data, work, verify=extractor.info.local_dim > 0)


def _scores(extractor: Extractor, data: Path, work: Path, *, verify: bool) -> list[Row]:
    folder, results = write_places(data, work), RetrievalResults()
    foreign = folder / "foreign" if verify else None
    evaluate_retrieval(
        folder / "places", {"x": extractor}, foreign=foreign, verify=verify, results=results
    )
    return list(_rows(read_retrieval(folder / "places"), results))


def write_places(data: Path, work: Path) -> Path:
    """A folder with `places`, a folder of labelled photos, and `foreign` ones; links, below `work`. What
    an earlier call has written is used again."""
    lines, foreign = list(_lines(data)), held_out_photos(data)
    told = (VERSION, str(data.resolve()), lines, foreign)
    home = work / f"places-{hashlib.sha256(repr(told).encode()).hexdigest()[:12]}"
    if not home.exists():
        new = home.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        for name, path in [(f"places/{line[0]}", line[-1]) for line in lines] + [
            (f"foreign/{path.name}", path) for path in foreign
        ]:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).symlink_to(path.resolve())
        with (new / "places/labels.csv").open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(("image", "landmark", "split", "kind"))
            table.writerows(line[:-1] for line in lines)
        new.rename(home)
    return home


def _lines(data: Path) -> Iterator[Line]:
    for number, (folder, photos) in enumerate(places_of(data, "landmarks").items()):
        place = next((name for name in _ONE if folder.startswith(name)), folder)
        count = min(_QUERIES, math.ceil(len(photos) / 3))
        for k, path in enumerate(in_mixed_order(photos)):
            split = "query" if k < count else "database"
            if split == "query" or number % _ABSENT != _ABSENT // 2:
                yield f"{WEB}/{folder}/{path.name}", place, split, WEB, path
    for place, photos in places_of(data, "places").items():
        for path in photos:
            split = "query" if path.name.startswith("night") else "database"
            yield f"{DAY_NIGHT}/{place}/{path.name}", place, split, DAY_NIGHT, path
    for place, photos in places_of(data, "places", held_out=False).items():
        for path in photos:
            if not path.name.startswith("night"):
                yield f"others/{place}/{path.name}", "", "distractor", "", path
    others = sorted(set((data / "train/photos").iterdir()) - set(held_out_photos(data)))
    for path in others[::_DISTRACTORS]:
        if path.name not in SHOWN:
            yield f"others/{path.name}", "", "distractor", "", path


def _rows(data: RetrievalData, results: RetrievalResults) -> Iterator[Row]:
    by_stage = {run.stage: (run.rankings or {}).get("") for run in results.runs}
    before, after = by_stage[BEFORE] or {}, by_stage.get(AFTER)
    asked = results.open_set[0] if results.open_set else None
    known = (asked.known if asked else None) or {}
    negatives = {
        **{f"excluded/{name}": r for name, r in (asked.excluded if asked else {}).items()},
        **{f"foreign/{k}": r for k, r in enumerate(asked.negatives if asked else ())},
    }
    groups = {query.group for query in data.queries}
    least = {group: _least_evidence(negatives, group) for group in groups}
    for query in data.queries:
        name, ok = query.id, query.truth[""].ok
        if not ok or name not in before:
            continue
        first = (before if after is None else after)[name][0]
        values = dict.fromkeys(MEASURES, math.nan)
        values["mAP before"] = _precision(before[name], ok)
        values["R@1"] = float(first in ok)
        if after is not None:
            values["mAP"] = _precision(after[name], ok)
        if name in known:
            values |= _verdict(known[name], known[name].strongest in ok, least[query.group])
        yield Row((query.group,), name, name, values)
    for name, result in negatives.items():
        values = dict.fromkeys(MEASURES, math.nan)
        values["false match"] = float(result.verdict == MATCH)
        yield Row((ABSENT,), name, name, values)


def _least_evidence(negatives: Mapping[str, QueryResult], group: str) -> float:
    """What at most one of a hundred absent queries reaches, those of the other group left out."""
    chosen = [
        result.evidence
        for name, result in negatives.items()
        if name.startswith(("foreign/", f"excluded/{group}/"))
    ]
    return open_set_threshold(np.array(chosen), RATE)


def _verdict(result: QueryResult, right: bool, least: float) -> dict[str, float]:
    match = result.verdict == MATCH
    return {
        "right match": float(match and right),
        "wrong match": float(match and not right),
        "right at 1 %": float(right and result.evidence >= least),
    }


def _precision(ranking: tuple[str, ...], ok: frozenset[str]) -> float:
    return average_precision(np.array([image in ok for image in ranking]), len(ok))
