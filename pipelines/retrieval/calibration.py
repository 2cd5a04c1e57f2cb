"""`locate calibrate`: how much evidence proves a match, measured on places left out of the index."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from index import lock
from index.catalog import Catalog
from index.records import ImageRow
from locate.errors import ImageError, InputError
from locate.retrieval.ranking import score_of
from locate.retrieval.verdict import MATCH, Calibration, calibrate
from locate.types import Answer
from pipelines.indexing.build import Progress
from pipelines.retrieval.database import Database
from pipelines.retrieval.query import SHORTLIST, Exclude, QueryOptions
from pipelines.retrieval.rerank import KEY, LIGHTGLUE, MOST


@dataclass(frozen=True)
class CalibrationReport:
    """The rule, and how it fares.

    Attributes:
        false_accepts: share of the photos of left-out places that the rule calls "match".
        known_queries: photos that were also asked for with their place in the index (itself left out).
        right_answers, wrong_answers: shares of these that it calls "match" with a right, a wrong label.
        worst: (photo, evidence, image) of the strongest false candidates: check them, a label may lie.
    """

    calibration: Calibration
    false_accepts: float
    known_queries: int
    right_answers: float
    wrong_answers: float
    worst: list[tuple[str, float, str]]
    saved: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def calibrate_database(
    index: Path,
    *,
    queries: int = 1500,
    seed: int = 0,
    known: bool = True,
    save: bool = False,
    rerank: bool = False,
    progress: Progress | None = None,
) -> CalibrationReport:
    """Ask a labelled index for its own photos, once without any image of their landmark (whatever
    is found then is chance) and once without only themselves.

    `InputError` if there are fewer than two landmarks, or too few photos to bound false matches by 1 %.

    Args:
        queries: so many of its photos, drawn by `seed` evenly over the landmarks.
        known: ask the second question as well; the rule follows from the first alone.
        save: keep the rule in the database, which then judges by it.
        rerank: measure what `pipelines.retrieval.rerank` finds in what looks most alike; no database
            keeps that.
    """
    with Catalog.open(index) as catalog:
        rows = [row for row in catalog.images("ok") if row.label is not None]
        roots = catalog.roots()
    sizes = Counter(row.label for row in rows)
    if len(sizes) < 2:
        raise InputError(
            f"{index} has {len(sizes)} landmarks; a place can be left out only where there are "
            "others (index with --label-from)"
        )
    chosen = _evenly(rows, queries, seed)
    unknown: list[tuple[float, str, str]] = []
    answered: list[tuple[ImageRow, Answer]] = []
    with_place = [row for row in chosen if sizes[row.label] > 1] if known else []
    questions: list[tuple[ImageRow, Exclude]] = [
        *((row, lambda other, row=row: other.label == row.label) for row in chosen),
        *((row, lambda other, row=row: other.id == row.id) for row in with_place),
    ]
    with Database(index) as db:
        fingerprint = db.extractor_info.fingerprint
        # Judge nothing yet, so that every photo is tried turned too and the strongest evidence wins.
        db.calibration = Calibration(fingerprint, 1e9, -1e9, 0, (), SHORTLIST, "")
        options = QueryOptions(rerank=LIGHTGLUE if rerank else None)
        if rerank:
            fingerprint = KEY
            db.reranker.calibration = Calibration(KEY, -1e9, -1e9, 0, (), MOST, "")
        photos = ((roots[r.root_id] / r.path, exclude) for r, exclude in questions)
        answers = db.query_each(photos, options)
        for done, ((row, _), answer) in enumerate(zip(questions, answers, strict=True), 1):
            if isinstance(answer, ImageError):
                continue  # the photo is gone since it was indexed
            if done > len(chosen):
                answered.append((row, answer))
            elif found := [c for c in answer.candidates if c.matched_by or not rerank]:
                strongest = max(found, key=score_of)
                unknown.append((score_of(strongest), row.path, strongest.image))
            else:  # a search by local features may find nothing at all
                unknown.append((0.0, row.path, ""))
            if progress:
                progress(done, len(questions))
    rule = calibrate(
        [evidence for evidence, _, _ in unknown],
        extractor=fingerprint,
        shortlist=MOST if rerank else SHORTLIST,
        data=f"{len(unknown)} photos of {len(sizes)} places",
    )
    if save and not rerank:
        with lock.writer(index), Catalog.create(index) as catalog, catalog.transaction():
            catalog.set_meta("calibration", rule.to_json())
    right, wrong = _answers(rule, answered)
    return CalibrationReport(
        calibration=rule,
        false_accepts=sum(e >= rule.match_evidence for e, _, _ in unknown) / len(unknown),
        known_queries=len(answered),
        right_answers=right,
        wrong_answers=wrong,
        worst=[(photo, evidence, image) for evidence, photo, image in sorted(unknown)[:-21:-1]],
        saved=save,
    )


def _evenly(rows: Sequence[ImageRow], count: int, seed: int) -> list[ImageRow]:
    """`count` rows, taking turns among the labels, so that no large landmark drowns the others."""
    generator = random.Random(seed)  # noqa: S311
    by_label: dict[str, list[ImageRow]] = {}
    for row in rows:
        by_label.setdefault(row.label or "", []).append(row)
    for group in by_label.values():
        generator.shuffle(group)
    turns = zip_longest(*(reversed(group) for group in by_label.values()))
    return [row for turn in turns for row in turn if row is not None][:count]


def _answers(rule: Calibration, known: Sequence[tuple[ImageRow, Answer]]) -> tuple[float, float]:
    """Shares of right and wrong matches by `rule` (the answers were judged by an older one)."""
    strongest = [(row, max(a.candidates, key=score_of)) for row, a in known if a.candidates]
    right = [
        best.label == row.label for row, best in strongest if rule.verdict(score_of(best)) == MATCH
    ]
    n = max(len(known), 1)
    return sum(right) / n, (len(right) - sum(right)) / n
