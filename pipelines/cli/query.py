"""`locate query`: which of my photos shows the same place?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, Unpack

from locate.types import Answer
from locate.util.printable import in_markup as escape
from pipelines.cli import exit_codes
from pipelines.cli.console import colored, console, failures, new_table, print_json, print_left_out
from pipelines.cli.options import Index, Json, Masks, Photos, Search, command, find_index, option
from pipelines.cli.progress import progress_bar
from pipelines.cli.streams import print_line


class _QueryOptions(TypedDict):
    top: Annotated[int, option("answers (default 10)", "N", 10)]
    shortlist: Annotated[int, option("candidates that may be verified (default 30)", "N", 30)]
    exhaustive: Annotated[bool, option("verify all of them, not only what is promising")]
    rerank: Annotated[
        Literal["lightglue"] | None,
        option("look again, slowly, at what stays uncertain (needs the extra lightglue)"),
    ]
    search: Annotated[Search | None, option("how candidates are found (default: as it was built)")]
    neighbours: Annotated[
        int, option("of each local feature, which vote in a local search (default 60)", "K", 60)
    ]
    verify: Annotated[bool, option("rank by the search alone", None, True, name="--no-verify")]
    rotate: Annotated[bool, option("do not try the photo turned", None, True, name="--no-rotate")]


@command("locate query photo.jpg --html report.html")
def query(
    photos: Photos,
    masks: Masks,
    save_matches: Annotated[Path | None, option("write pictures of the matches", "DIR")],
    html: Annotated[Path | None, option("write a report to look at", "FILE")],
    index: Index,
    as_json: Json,
    **how: Unpack[_QueryOptions],
) -> int:
    """Find the images that show the same place as a photo."""
    from locate.images.folder import LeftOut
    from pipelines.cli.named_photos import answers, photos_below
    from pipelines.reports.answer_page import write_report
    from pipelines.reports.match_pictures import save_matches as draw_matches
    from pipelines.retrieval.database import Database

    found: list[Answer] = []
    values: list[dict[str, Any]] = []
    failed: list[tuple[str, str]] = []
    left_out = LeftOut()
    named = photos_below(photos, left_out)
    with Database(find_index(index), masks=masks) as db, progress_bar("asking") as progress:
        one, many = (lambda x: db.query(x, **how)), (lambda x: db.query_many(x, **how))
        for answer in answers(named, one, many, failed, progress):
            if save_matches:
                draw_matches(answer, save_matches, how["top"])
            values.append(answer.to_json())
            # Matches weigh far more than the rest; thousands of answers shall fit into memory.
            bare = tuple(replace(c, verification=None) for c in answer.candidates)
            found.append(answer if html else replace(answer, candidates=bare))
    if html:
        write_report(found, html, failed=failed)
    if as_json:
        print_json({"answers": values, **failures(failed, left_out)})
    else:
        if len(found) == 1:
            _print_ranking(found[0])
        elif found:
            _print_batch(found)
        print_left_out(left_out, failed)
        for written in filter(None, (save_matches, html)):
            print_line(f"wrote {written}")
    return exit_codes.of_answers({a.verdict for a in found}, len(failed), bool(left_out))


def _print_ranking(answer: Answer) -> None:
    out, forms = console(), {"similarity": ".3f", "votes": ".3g"}
    known = [n for n in forms if any(getattr(c, n) is not None for c in answer.candidates)]
    columns = ("rank", "verdict", "label", "image", "inliers")
    table = new_table(*columns, *known, right=("rank", "inliers", *known))
    for c in answer.candidates:
        numbers = [_cell(getattr(c, name), forms[name]) for name in known]
        words = colored(c.verdict), escape(c.label or ""), escape(c.image)
        table.add_row(str(c.rank), *words, _cell(c.inliers), *numbers)
    out.print(table)
    name = f" {escape(answer.label)}" if answer.label else ""
    turned = f" (turned by {answer.rotation} degrees)" if answer.rotation else ""
    out.print(f"{colored(answer.verdict)}{name}{turned}: {escape(answer.reason)}")


def _print_batch(answers: Sequence[Answer]) -> None:
    out, numbers = console(), ("inliers", "similarity")
    table = new_table("photo", "verdict", "label", "best image", *numbers, right=numbers)
    for answer in answers:
        best, words = answer.best, [escape(answer.photo), colored(answer.verdict)]
        words += [escape(answer.label or ""), escape(best.image) if best else ""]
        similarity = _cell(best.similarity if best else None, ".3f")
        table.add_row(*words, _cell(best.inliers if best else None), similarity)
    out.print(table)
    seconds = sum(answer.seconds["total"] for answer in answers) / len(answers)
    counts = sorted(Counter(answer.verdict for answer in answers).items())
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts)
    out.print(f"{summary}; {seconds:.2f} s a photo")


def _cell(value: float | None, form: str = "") -> str:
    return "" if value is None else format(value, form)
