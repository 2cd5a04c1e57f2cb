"""`locate evaluate retrieval --rankings FILE`: score answers that another program gave."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from locate.datasets.google_landmarks import (
    RECOGNITION,
    RETRIEVAL,
    ignored_ids,
    read_recognition_answers,
    read_retrieval_answers,
)
from locate.datasets.records import Rankings, RetrievalData, named
from locate.datasets.retrieval import only, read_retrieval
from locate.errors import InputError
from pipelines.evaluation.common import folder_name
from pipelines.evaluation.retrieval_scores import RetrievalResults, Run
from pipelines.reports.report import Report

SUBMITTED = "as submitted"


def evaluate_rankings(
    folder: Path, file: Path, *, layout: str | None = None, kinds: Sequence[str] = ()
) -> Report:
    """Score finished answers; no photo is needed for Google Landmarks and for Oxford and Paris.

    Args:
        file: the CSV of a Google Landmarks submission, or JSON {query: [image, ...]} with the ids of the
            ground truth, best first and all that were ranked; for ROxford/RParis the images may be
            numbers into its imlist. A query that is not in it counts as answered by nothing.
            `InputError` if it cannot be read, or knows a query or only images that nobody knows.
    """
    data = read_retrieval(folder, layout)
    kept = only(data, tuple(kinds)) if kinds else data
    results = RetrievalResults(notes=list(data.notes))
    google = {RETRIEVAL: "retrieval", RECOGNITION: "recognition"}.get(data.layout)
    ignored = ignored_ids(folder, google) if google else frozenset()
    known = {query.id for query in data.queries} | ignored
    if data.layout == RECOGNITION:
        predictions = read_recognition_answers(file)
        _require_known(file, predictions, known)
        wanted = {query.id for query in kept.queries}
        own = {query: p for query, p in predictions.items() if query in wanted}
        results.recognition.append((file.stem, SUBMITTED, own))
    else:
        is_csv = file.suffix.lower() == ".csv"
        rankings = read_retrieval_answers(file) if is_csv else _read_json(file, data.numbered)
        _require_known(file, rankings, known)
        _require_images(file, rankings, data)
        missing = [query.id for query in kept.queries if query.id not in rankings]
        if missing:
            results.notes.append(
                f"queries that are not in {file.name} and count as answered by nothing: "
                f"{len(missing)} of {len(kept.queries)} ({named(missing)})"
            )
        own_rankings = {query.id: rankings.get(query.id, ()) for query in kept.queries}
        results.runs.append(Run(file.stem, SUBMITTED, dict.fromkeys(kept.levels, own_rankings)))
    settings = {
        "data": folder_name(folder),
        "layout": data.layout,
        "queries": len(kept.queries),
        "kinds": list(kinds),
        "rankings": file.name,
    }
    return results.report(kept, settings)


def _read_json(file: Path, numbered: Sequence[str]) -> Rankings:
    """{query: [image, ...]}; a number means an image of `numbered`."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"cannot read the rankings {file}: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(v, list) for v in content.values()):
        raise InputError(f"{file} must be an object of lists: {{query: [image, ...]}}")
    rankings, numbers = {}, range(len(numbered))
    for query, images in content.items():
        wrong = [i for i in images if not (isinstance(i, str) or (type(i) is int and i in numbers))]
        if wrong:
            raise InputError(f"{file}: {wrong[0]!r} in the ranking of {query} is no image")
        ids = [image if isinstance(image, str) else numbered[image] for image in images]
        if len(set(ids)) < len(ids):
            raise InputError(f"{file}: the ranking of {query} names an image twice")
        rankings[query] = ids
    return rankings


def _require_known(file: Path, answers: Mapping[str, Any], known: set[str]) -> None:
    strange = [query for query in answers if query not in known]
    if strange:
        raise InputError(
            f"{file} answers queries that are not in the ground truth: {len(strange)} ({named(strange)})"
        )


def _require_images(file: Path, rankings: Rankings, data: RetrievalData) -> None:
    """Some image must be known: names in another form (with or without .jpg) would all be wrong."""
    named_there = {i for query in data.queries for t in query.truth.values() for i in t.ok | t.junk}
    known = named_there | data.database.keys() | {*data.numbered}
    ranked = {image for ranking in rankings.values() for image in ranking}
    if ranked and not ranked & known:
        raise InputError(
            f"{file} ranks no image of the ground truth; it says {named(ranked)}, "
            f"the ground truth {named(known)}"
        )
