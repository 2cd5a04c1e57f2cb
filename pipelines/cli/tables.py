"""Reports as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from index.vectors.local_records import LocalInfo
from locate.images.folder import LeftOut
from locate.retrieval.verdict import MATCH, NO_MATCH, UNCERTAIN
from locate.types import Answer
from locate.util.printable import in_markup as escape
from pipelines.indexing.build import BuildReport
from pipelines.indexing.maintenance import CheckReport, DatabaseInfo

if TYPE_CHECKING:
    from pipelines.reports.report import Report
    from pipelines.retrieval.calibration import CalibrationReport

_COLOUR = {MATCH: "green", UNCERTAIN: "yellow", NO_MATCH: "red"}
_SHOWN_FAILURES = 20


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """`locate info --images | head` is no error: `pipelines.cli.main` ends quietly."""
        raise BrokenPipeError


def console() -> Console:
    """Where tables are printed."""
    # Where there is no terminal lines must not be cut: they go to a file or another program.
    # Nor are names like "a:cat:.jpg" to be turned into pictures.
    console = _Console(highlight=False, emoji=False)
    return console if console.is_terminal else _Console(highlight=False, emoji=False, width=200)


def new_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table of ours; the columns named in `right` hold numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def print_build(report: BuildReport, index: Path) -> None:
    out = console()
    counts = {
        "added": report.added,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "failed": len(report.failed),
    }
    rate = f", {report.images_per_second:.1f} images/s" if report.added + report.updated else ""
    summary = ", ".join(f"{count} {name}" for name, count in counts.items())
    out.print(f"{escape(str(index))}: {summary} in {report.seconds['total']:.1f} s{rate}")
    if report.missing:
        out.print(
            f"{report.missing} images are no longer on disk; they are kept until: "
            "locate remove --missing"
        )
    if report.vectors is not None and report.vectors.factory != "Flat":
        out.print(
            f"search index {report.vectors.factory}, recall@10 {report.vectors.recall_at_10:.3f}"
        )
    if report.local is not None:
        out.print(_local_line(report.local))
    print_failed(report.failed)
    print_left_out(report.left_out)
    if not (report.added or report.updated or report.unchanged or report.failed):
        others = report.left_out.others
        beside = f"; files of other kinds there: {others}" if others else ""
        out.print(
            "nothing is indexed: there is no photo that can be read (JPEG, PNG, TIFF, WebP, HEIC, AVIF, "
            f"...){beside}"
        )


def print_left_out(left_out: LeftOut) -> None:
    """What was passed over in folders."""
    out = console()
    for line in left_out.lines():
        out.print(f"[yellow]left out[/] {escape(line)}", soft_wrap=True)


def _local_line(local: LocalInfo) -> str:
    exact = local.factory == "Flat"
    kind = (
        "exact" if exact else f"{local.factory}, nprobe {local.nprobe}, recall {local.recall:.3f}"
    )
    return (
        f"local search index {kind}, {local.count:,} x {local.dim} "
        f"descriptors of {local.images:,} images"
    )


def print_failed(failed: Sequence[tuple[str, str]]) -> None:
    out = console()
    for name, reason in failed[:_SHOWN_FAILURES]:
        out.print(f"[red]failed[/] {escape(name)}: {escape(reason)}", soft_wrap=True)
    if len(failed) > _SHOWN_FAILURES:
        out.print(f"... and {len(failed) - _SHOWN_FAILURES} more; --json lists all")


def print_removed(removed: Sequence[str]) -> None:
    out = console()
    for path in removed:
        out.print(f"removed {escape(path)}", soft_wrap=True)
    out.print(f"{len(removed)} images removed; the photos themselves were not touched")


def print_info(info: DatabaseInfo) -> None:
    out = console()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    counts = info.counts
    table.add_row("database", escape(str(info.folder)))
    for root in info.roots:
        table.add_row("photos", escape(str(root)))
    table.add_row(
        "images", f"{counts['ok']}, {counts['labels']} landmarks, {counts['failed']} failed"
    )
    table.add_row("local features", f"{counts['features']:,}")
    if info.extractor is not None:
        table.add_row("extractor", f"{info.extractor.name} ({info.extractor.fingerprint})")
        for name, value in info.extractor.settings.items():
            table.add_row("", escape(f"{name}: {value}"))
        table.add_row("weights", info.extractor.weights or "none")
    if info.vectors is None:
        table.add_row("search index", "not up to date (rebuilt by the next build-index or check)")
    else:
        exact = info.vectors.factory == "Flat"
        kind = "exact" if exact else f"{info.vectors.factory}, nprobe {info.vectors.nprobe}"
        table.add_row(
            "search index",
            f"{kind}, {info.vectors.count} x {info.vectors.dim}, "
            f"recall@10 {info.vectors.recall_at_10:.3f}",
        )
    if info.search not in (None, "global"):
        if info.local is None:
            line = "not up to date (rebuilt by the next build-index or check)"
        else:
            line = _local_line(info.local).removeprefix("local search index ")
        table.add_row("local search", line)
    table.add_row("search by", info.search or "")
    if info.masks:
        table.add_row("masks", escape(info.masks))
    size = ", ".join(f"{name} {_megabytes(bytes_)}" for name, bytes_ in info.disk.items())
    table.add_row("on disk", f"{_megabytes(sum(info.disk.values()))} ({size})")
    out.print(table)


def print_images(rows: Sequence[dict[str, Any]]) -> None:
    table = new_table("image", "label", "size", "taken", "camera", "status")
    for row in rows:
        size = f"{row['width']} x {row['height']}" if row["width"] else ""
        status = row["status"] if row["error"] is None else f"{row['status']}: {row['error']}"
        table.add_row(
            *(
                escape(str(text or ""))
                for text in (
                    row["path"],
                    row["label"],
                    size,
                    row["taken_at"],
                    row["camera"],
                    status,
                )
            )
        )
    console().print(table)


def print_check(report: CheckReport, index: Path) -> None:
    out = console()
    for what in report.problems:
        out.print(f"[red]problem[/] {escape(what)}", soft_wrap=True)
    for what in report.repaired:
        out.print(f"[yellow]repair[/] {escape(what)}", soft_wrap=True)
    if report.absent:
        out.print(f"{report.absent} photos are not there or cannot be read, and were not compared")
    if not report.problems:
        photos = f"{report.compared} photos are as they were indexed"
        if report.compared is None:
            photos = "the photos were not compared with it (--no-photos)"
        out.print(f"{escape(str(index))}: every invariant holds; {photos}")
    elif not report.remaining:
        out.print(f"{escape(str(index))}: repaired, every invariant holds now")
    elif report.repaired:
        out.print(f"problems that remain: {len(report.remaining)}")
    else:
        out.print(f"problems: {len(report.problems)}; run: locate check --repair")


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
            "verdict": _coloured(c.verdict),
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
    out.print(f"{_coloured(answer.verdict)}{name}{turned}: {escape(answer.reason)}")


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
            _coloured(answer.verdict),
            escape(answer.label or ""),
            escape(best.image) if best else "",
            "" if best is None or best.inliers is None else str(best.inliers),
            "" if best is None or best.similarity is None else f"{best.similarity:.3f}",
        )
    out.print(table)
    seconds = sum(answer.seconds["total"] for answer in answers) / len(answers)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    out.print(f"{summary}; {seconds:.2f} s a photo")


def print_calibration(report: CalibrationReport) -> None:
    out = console()
    rule = report.calibration
    out.print(
        f"match from {rule.match_evidence:.1f} inliers beyond chance, uncertain from "
        f"{rule.uncertain_evidence:.1f} "
        f"({rule.queries} photos of places that were left out of the index)"
    )
    out.print(
        f"false matches {report.false_accepts:.2%}; with their place in the index "
        f"{report.right_answers:.1%} of {report.known_queries} photos get the right match, "
        f"{report.wrong_answers:.2%} a wrong one"
    )
    if report.saved:
        out.print("saved: this database judges by it from now on")


def print_report(report: Report) -> None:
    """The tables of an evaluation, and its notes."""
    out = console()
    for table in report.tables:
        numbers = [
            name
            for i, name in enumerate(table.columns)
            if not any(isinstance(row[i], str) for row in table.rows)
        ]
        shown = new_table(*table.columns, right=numbers)
        for row in table.rows:
            shown.add_row(*(escape(table.text(value)) for value in row))
        out.print(f"[bold]{escape(table.title)}[/]")
        out.print(shown)
        out.print()
    for note in report.notes:
        out.print(f"note: {escape(note)}")


def _coloured(verdict: str) -> str:
    colour = _COLOUR.get(verdict)
    return f"[{colour}]{verdict}[/]" if colour else verdict


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
