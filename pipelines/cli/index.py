"""What each command does: find the database, run the stage, print, choose the exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from index.vectors.local_records import LocalInfo
from locate.errors import InputError
from locate.util.printable import in_markup as escape
from pipelines.cli import exit_codes as exits
from pipelines.cli.arguments import settings_of
from pipelines.cli.console import console, new_table, print_failed, print_left_out
from pipelines.cli.progress import progress_bar
from pipelines.indexing.build import BuildReport, add_photos, remove_images
from pipelines.indexing.build import build_index as build
from pipelines.indexing.maintenance import (
    CheckReport,
    DatabaseInfo,
    check_database,
    database_info,
    image_rows,
)

if TYPE_CHECKING:
    from pipelines.retrieval.calibration import CalibrationReport


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
        print_build(report, index)
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
        print_removed(removed)
    return exits.GOOD


def info(a: argparse.Namespace) -> int:
    index = find_index(a.index)
    found = database_info(index)
    if a.json:
        rows = {"images": image_rows(index)} if a.images else {}
        _print_json({**found.to_json(), **rows})
        return exits.GOOD
    print_info(found)
    if a.images:
        print_images(image_rows(index))
    return exits.GOOD


def check(a: argparse.Namespace) -> int:
    index = find_index(a.index)
    with progress_bar("reading photos") as progress:
        report = check_database(index, repair=a.repair, photos=not a.no_photos, progress=progress)
    if a.json:
        _print_json(vars(report))
    else:
        print_check(report, index)
    return exits.PROBLEMS if report.remaining else exits.GOOD


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
        print_calibration(report)
    return exits.GOOD


def _positive(name: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise InputError(f"{name} must be at least 1, got {value}")
    return value


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1, default=str)
    print()


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


def _local_line(local: LocalInfo) -> str:
    exact = local.factory == "Flat"
    kind = (
        "exact" if exact else f"{local.factory}, nprobe {local.nprobe}, recall {local.recall:.3f}"
    )
    return (
        f"local search index {kind}, {local.count:,} x {local.dim} "
        f"descriptors of {local.images:,} images"
    )


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


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
