"""What each command does: find the database, run the stage, print, choose the exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locate.errors import ImageError, InputError
from locate.images.folder import LeftOut
from locate.retrieval.verdict import MATCH, NO_MATCH, UNCERTAIN, UNVERIFIED
from locate.types import Answer
from pipelines.cli import exit_codes as exits
from pipelines.cli import tables
from pipelines.cli.arguments import settings_of
from pipelines.cli.named_photos import photos_below
from pipelines.cli.progress import progress_bar
from pipelines.cli.streams import say
from pipelines.indexing.build import BuildReport, add_photos, remove_images
from pipelines.indexing.build import build_index as build
from pipelines.indexing.maintenance import check_database, database_info, image_rows

if TYPE_CHECKING:
    from pipelines.retrieval.database import Database

_EXIT_BY_VERDICT = {
    MATCH: exits.GOOD,
    UNVERIFIED: exits.GOOD,
    UNCERTAIN: exits.UNCERTAIN,
    NO_MATCH: exits.NO_MATCH,
}


def find_index(named: Path | None) -> Path:
    """--index, then LOCATE_INDEX, then the nearest `.locate` from here upwards, then `./.locate`."""
    if named is not None:
        return named
    if os.environ.get("LOCATE_INDEX"):
        return Path(os.environ["LOCATE_INDEX"])
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".locate").is_dir():
            return folder / ".locate"
    return Path(".locate")


def build_index(a: argparse.Namespace) -> int:
    # A new database belongs here, even if some folder above has one.
    index = a.index or Path(os.environ.get("LOCATE_INDEX") or ".locate")
    with progress_bar("indexing") as progress:
        report = build(
            a.photos,
            index,
            extractor=a.extractor,
            settings=settings_of(a.set),
            weights=a.weights,
            search=a.search,
            label_from=a.label_from,
            checksum=a.checksum,
            masks=a.masks,
            workers=_positive("--workers", a.workers),
            progress=progress,
        )
    return _finish_build(report, index, a.json)


def add(a: argparse.Namespace) -> int:
    index = find_index(a.index)
    with progress_bar("indexing") as progress:
        report = add_photos(
            a.paths,
            index,
            label_from=a.label_from,
            checksum=a.checksum,
            masks=a.masks,
            workers=_positive("--workers", a.workers),
            progress=progress,
        )
    return _finish_build(report, index, a.json)


def _finish_build(report: BuildReport, index: Path, as_json: bool) -> int:
    if as_json:
        _print_json({"index": str(index), **report.to_json()})
    else:
        tables.print_build(report, index)
    if not (report.added or report.updated or report.unchanged):
        return exits.NOTHING_DONE
    return exits.SOME_FAILED if report.failed or report.left_out else exits.GOOD


def remove(a: argparse.Namespace) -> int:
    if not (a.patterns or a.label or a.missing):
        raise InputError("say what to remove: a PATTERN, --label NAME or --missing")
    removed = remove_images(find_index(a.index), a.patterns, label=a.label, missing=a.missing)
    if a.json:
        _print_json({"removed": removed})
    else:
        tables.print_removed(removed)
    return exits.GOOD


def info(a: argparse.Namespace) -> int:
    index = find_index(a.index)
    found = database_info(index)
    if a.json:
        rows = {"images": image_rows(index)} if a.images else {}
        _print_json({**found.to_json(), **rows})
        return exits.GOOD
    tables.print_info(found)
    if a.images:
        tables.print_images(image_rows(index))
    return exits.GOOD


def check(a: argparse.Namespace) -> int:
    index = find_index(a.index)
    with progress_bar("reading photos") as progress:
        report = check_database(index, repair=a.repair, photos=not a.no_photos, progress=progress)
    if a.json:
        _print_json(vars(report))
    else:
        tables.print_check(report, index)
    return exits.PROBLEMS if report.remaining else exits.GOOD


def query(a: argparse.Namespace) -> int:
    from pipelines.reports.answer_page import write_report
    from pipelines.reports.match_pictures import save_matches
    from pipelines.retrieval.database import Database

    answers: list[Answer] = []
    as_json: list[dict[str, Any]] = []
    failed: list[tuple[str, str]] = []
    left_out = LeftOut()
    photos = photos_below(a.photos, left_out)
    with Database(find_index(a.index), masks=a.masks) as db, progress_bar("asking") as progress:
        options = {
            "top": a.top,
            "shortlist": a.shortlist,
            "verify": not a.no_verify,
            "rotate": not a.no_rotate,
            "search": a.search,
            "neighbours": a.neighbours,
        }
        results = (
            db.query_many(photos, **options) if len(photos) > 1 else _one(db, photos[0], options)
        )
        for done, result in enumerate(results, 1):
            if isinstance(result, ImageError):
                failed.append((str(result.path), f"{result.reason}; {result.cure}"))
            else:
                if a.save_matches:
                    save_matches(result, a.save_matches, a.top)
                as_json.append(answer_json(result))
                answers.append(result if a.html else _without_matches(result))
            progress(done, len(photos))
    if a.html:
        write_report(answers, a.html, failed=failed)
    if a.json:
        _print_json(
            {
                "answers": as_json,
                "failed": [{"photo": name, "reason": reason} for name, reason in failed],
                **left_out.to_json(),
            }
        )
    else:
        tables.print_answers(answers, failed)
        tables.print_left_out(left_out)
        for written in (a.save_matches, a.html):
            if written:
                say(f"wrote {written}")
    if not answers:
        return exits.NOTHING_DONE if len(failed) > 1 else exits.ERROR
    if failed or left_out:
        return exits.SOME_FAILED
    # Several photos: the weakest answer speaks.
    order = (NO_MATCH, UNCERTAIN, MATCH, UNVERIFIED)
    return _EXIT_BY_VERDICT[min((answer.verdict for answer in answers), key=order.index)]


def calibrate(a: argparse.Namespace) -> int:
    from pipelines.retrieval.calibration import calibrate_database

    with progress_bar("asking") as progress:
        report = calibrate_database(
            find_index(a.index),
            queries=_positive("--queries", a.queries) or 1,
            seed=a.seed,
            save=a.save,
            progress=progress,
        )
    if a.out:
        a.out.write_text(report.calibration.to_json() + "\n", "utf-8")
    if a.json:
        _print_json(report.to_json())
    else:
        tables.print_calibration(report)
    return exits.GOOD


def make_town(a: argparse.Namespace) -> int:
    from pipelines.town.town import make_town as make

    try:
        town = make(a.out, seed=a.seed)
    except ValueError as error:
        raise InputError(str(error)) from error
    if a.json:
        _print_json({"folder": str(a.out), "created": town.created})
    else:
        say(f"{a.out}: {'made' if town.created else 'is already there, left as it is'}")
    return exits.GOOD


def answer_json(answer: Answer) -> dict[str, Any]:
    """An answer as JSON-able values."""
    return {
        "photo": str(answer.photo) if answer.photo else None,
        "verdict": answer.verdict,
        "label": answer.label,
        "reason": answer.reason,
        "rotation": answer.rotation,
        "query_features": answer.query_features,
        "candidates": [
            {
                "rank": c.rank,
                "verdict": c.verdict,
                "label": c.label,
                "image": c.image,
                "path": str(c.path),
                "inliers": c.inliers,
                "matches": len(c.verification.matches) if c.verification else None,
                "on_overlay": c.verification.on_overlay if c.verification else None,
                "similarity": c.similarity,
                "votes": c.votes,
                "evidence": c.evidence,
                "false_accept": c.false_accept,
            }
            for c in answer.candidates
        ],
        "seconds": answer.seconds,
    }


def _without_matches(answer: Answer) -> Answer:
    """Matches weigh far more than the rest; thousands of answers shall fit into memory."""
    return replace(
        answer, candidates=tuple(replace(c, verification=None) for c in answer.candidates)
    )


def _one(db: Database, photo: Path, options: dict[str, Any]) -> Iterator[Answer | ImageError]:
    """A single photo has all cores to itself."""
    try:
        yield db.query(photo, **options)
    except ImageError as error:
        yield error


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise InputError(f"{name} must be at least 1, got {value}")
    return value


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1, default=str)
    print()
