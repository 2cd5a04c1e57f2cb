"""`locate query`: which of my photos shows the same place?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, Unpack

from locate.errors import ImageError
from locate.retrieval.verdict import MATCH, NO_MATCH, UNCERTAIN, UNVERIFIED
from locate.types import Answer
from locate.util.printable import in_markup as escape
from pipelines.cli import exit_codes
from pipelines.cli.console import console, new_table, print_failed, print_json, print_left_out
from pipelines.cli.options import Index, Json, Masks, Photos, Search, command, find_index, option
from pipelines.cli.progress import progress_bar
from pipelines.cli.streams import print_line

if TYPE_CHECKING:
    from pipelines.retrieval.database import Database

_COLOR = {MATCH: "green", UNCERTAIN: "yellow", NO_MATCH: "red"}
_EXIT_BY_VERDICT = {  # of several photos the weakest answer speaks: the first here
    NO_MATCH: exit_codes.NO_MATCH,
    UNCERTAIN: exit_codes.UNCERTAIN,
    MATCH: exit_codes.OK,
    UNVERIFIED: exit_codes.OK,
}


class _QueryOptions(TypedDict):
    top: Annotated[int, option("answers (default 10)", "N", 10)]
    shortlist: Annotated[int, option("candidates verified (default 30)", "N", 30)]
    search: Annotated[Search | None, option("how candidates are found (default: as it was built)")]
    neighbours: Annotated[
        int,
        option("of each local feature, which vote in a local search (default 60)", "K", 60),
    ]
    verify: Annotated[bool, option("rank by the search alone", None, True, name="--no-verify")]
    rotate: Annotated[bool, option("do not try the photo turned", None, True, name="--no-rotate")]


@command(
    "query",
    "find the images that show the same place as a photo",
    "locate query photo.jpg --html report.html",
)
def query(
    photos: Photos,
    masks: Masks,
    save_matches: Annotated[Path | None, option("write pictures of the matches", "DIR")],
    html: Annotated[Path | None, option("write a report to look at", "FILE")],
    index: Index,
    as_json: Json,
    **how: Unpack[_QueryOptions],
) -> int:
    from locate.images.folder import LeftOut
    from pipelines.cli.named_photos import photos_below
    from pipelines.reports.answer_page import write_report
    from pipelines.reports.match_pictures import save_matches as draw_matches
    from pipelines.retrieval.database import Database

    answers: list[Answer] = []
    values: list[dict[str, Any]] = []
    failed: list[tuple[str, str]] = []
    left_out = LeftOut()
    named = photos_below(photos, left_out)
    with Database(find_index(index), masks=masks) as db, progress_bar("asking") as progress:
        results = db.query_many(named, **how) if len(named) > 1 else _one(db, named[0], how)
        for done, result in enumerate(results, 1):
            if isinstance(result, ImageError):
                failed.append((str(result.path), f"{result.reason}; {result.cure}"))
            else:
                if save_matches:
                    draw_matches(result, save_matches, how["top"])
                values.append(result.to_json())
                answers.append(result if html else _without_matches(result))
            progress(done, len(named))
    if html:
        write_report(answers, html, failed=failed)
    if as_json:
        reasons = [{"photo": name, "reason": reason} for name, reason in failed]
        print_json({"answers": values, "failed": reasons, **left_out.to_json()})
    else:
        print_answers(answers, failed)
        print_left_out(left_out)
        for written in (save_matches, html):
            if written:
                print_line(f"wrote {written}")
    if not answers:
        return exit_codes.NOTHING_DONE if len(failed) > 1 else exit_codes.ERROR
    if failed or left_out:
        return exit_codes.SOME_FAILED
    verdicts = {answer.verdict for answer in answers}
    return next(code for verdict, code in _EXIT_BY_VERDICT.items() if verdict in verdicts)


def _without_matches(answer: Answer) -> Answer:
    """Matches weigh far more than the rest; thousands of answers shall fit into memory."""
    return replace(
        answer, candidates=tuple(replace(c, verification=None) for c in answer.candidates)
    )


def _one(db: Database, photo: Path, how: _QueryOptions) -> Iterator[Answer | ImageError]:
    """A single photo has all cores to itself."""
    try:
        yield db.query(photo, **how)
    except ImageError as error:
        yield error


def print_answers(answers: Sequence[Answer], failed: Sequence[tuple[str, str]]) -> None:
    if len(answers) == 1:
        _print_ranking(answers[0])
    elif answers:
        _print_batch(answers)
    print_failed(failed)


def _print_ranking(answer: Answer) -> None:
    out = console()
    names = ["rank", "verdict", "label", "image", "inliers"]
    names += ["similarity"] if any(c.similarity is not None for c in answer.candidates) else []
    names += ["votes"] if any(c.votes is not None for c in answer.candidates) else []
    table = new_table(*names, right=("rank", "inliers", "similarity", "votes"))
    for c in answer.candidates:
        values = {
            "rank": str(c.rank),
            "verdict": _colored(c.verdict),
            "label": escape(c.label or ""),
            "image": escape(c.image),
            "inliers": "" if c.inliers is None else str(c.inliers),
            "similarity": "" if c.similarity is None else f"{c.similarity:.3f}",
            "votes": "" if c.votes is None else f"{c.votes:.3g}",
        }
        table.add_row(*(values[name] for name in names))
    out.print(table)
    name = f" {escape(answer.label)}" if answer.label else ""
    turned = f" (turned by {answer.rotation} degrees)" if answer.rotation else ""
    out.print(f"{_colored(answer.verdict)}{name}{turned}: {escape(answer.reason)}")


def _print_batch(answers: Sequence[Answer]) -> None:
    out = console()
    table = new_table(
        "photo", "verdict", "label", "best image", "inliers", "similarity",
        right=("inliers", "similarity"),
    )  # fmt: skip
    counts: dict[str, int] = {}
    for answer in answers:
        counts[answer.verdict] = counts.get(answer.verdict, 0) + 1
        best = answer.best
        table.add_row(
            escape(str(answer.photo)),
            _colored(answer.verdict),
            escape(answer.label or ""),
            escape(best.image) if best else "",
            "" if best is None or best.inliers is None else str(best.inliers),
            "" if best is None or best.similarity is None else f"{best.similarity:.3f}",
        )
    out.print(table)
    seconds = sum(answer.seconds["total"] for answer in answers) / len(answers)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    out.print(f"{summary}; {seconds:.2f} s a photo")


def _colored(verdict: str) -> str:
    color = _COLOR.get(verdict)
    return f"[{color}]{verdict}[/]" if color else verdict
