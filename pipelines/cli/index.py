"""A database of photos: `locate build-index`, `add`, `remove`, `info`, `check`, `calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, Unpack

from locate.errors import InputError
from locate.util.files import atomic_write
from locate.util.printable import in_markup as escape
from pipelines.cli import exit_codes, options
from pipelines.cli.console import console, new_table, print_left_out, print_result
from pipelines.cli.options import Index, Json, argument, command, find_index, option
from pipelines.cli.progress import progress_bar
from pipelines.indexing.labels import RULES

if TYPE_CHECKING:
    from index.vectors.base import LocalInfo, VectorsInfo
    from pipelines.indexing.build import BuildReport
    from pipelines.indexing.maintenance import CheckReport, DatabaseInfo
    from pipelines.retrieval.calibration import CalibrationReport

_LABELS = f"where the landmark's name comes from: {', '.join(RULES)} (default folder)"
_SEARCH = (
    "what queries find their candidates by: the global descriptor, the votes of local features, "
    "or both in turns (default: as before; global for a new database)"
)
_EXTRACTOR = "what looks at the photos (default: context; gem+sift with --search local or both)"


class _AddOptions(TypedDict):
    label_from: Annotated[str, option(_LABELS, "RULE", "folder")]
    masks: options.KeptMasks
    checksum: Annotated[
        bool, option("see what changed by the content of every photo, not by its size and date")
    ]
    workers: options.Workers


class _BuildOptions(_AddOptions):
    extractor: Annotated[str | None, option(_EXTRACTOR, "NAME")]
    weights: options.Weights
    settings: options.Settings
    features: options.KeptFeatures
    search: Annotated[options.Search | None, option(_SEARCH)]


@command("locate build-index landmarks/")
def build_index(
    photos: Annotated[Path, argument("folder of photos, searched recursively")],
    index: Index,
    as_json: Json,
    **given: Unpack[_BuildOptions],
) -> int:
    """Index a folder of photos; run it again and only what changed is done."""
    from pipelines.indexing.build import build_index as build

    how = options.with_features(given)
    index = index or Path(".locate")  # a new one belongs here, even if some folder above has one
    with progress_bar("indexing") as progress:
        report = build(photos, index, **how, progress=progress)
    return _finish_build(report, index, as_json)


@command("locate add new.jpg more-photos/")
def add(
    photos: Annotated[tuple[Path, ...], argument("photo or folder", "PATH")],
    index: Index,
    as_json: Json,
    **how: Unpack[_AddOptions],
) -> int:
    """Add photos or further folders to the database."""
    from pipelines.indexing.build import add_photos

    index = find_index(index)
    with progress_bar("indexing") as progress:
        report = add_photos(photos, index, **how, progress=progress)
    return _finish_build(report, index, as_json)


def _finish_build(report: BuildReport, index: Path, as_json: bool) -> int:
    value = {"index": str(index), **report.to_json()}
    print_result(as_json, value, _print_build, report, index)
    if not (report.added or report.updated or report.unchanged):
        return exit_codes.NOTHING_DONE
    return exit_codes.SOME_FAILED if report.failed or report.left_out else exit_codes.OK


@command("locate remove 'louvre/*' --missing")
def remove(
    patterns: Annotated[
        tuple[str, ...], argument("path or glob, as indexed", "PATTERN", required=False)
    ],
    label: Annotated[str | None, option("all images of this landmark", "LABEL")],
    missing: Annotated[bool, option("all whose photo is gone")],
    index: Index,
    as_json: Json,
) -> int:
    """Take images out of the database (the photos stay)."""
    from pipelines.indexing.build import remove_images

    if not (patterns or label or missing):
        raise InputError("say what to remove: a PATTERN, --label NAME or --missing")
    removed = remove_images(find_index(index), patterns, label=label, missing=missing)
    print_result(as_json, {"removed": removed}, _print_removed, removed)
    return exit_codes.OK


@command("locate info --images")
def info(images: Annotated[bool, option("list every image")], index: Index, as_json: Json) -> int:
    """Say what is in the database, who filled it, and its size."""
    from pipelines.indexing.maintenance import database_info, image_rows

    index = find_index(index)
    found = database_info(index)
    rows = {"images": image_rows(index)} if images else {}
    print_result(as_json, {**found.to_json(), **rows}, _print_info, found, **rows)
    return exit_codes.OK


@command("locate check --repair")
def check(
    photos: Annotated[
        bool,
        option("do not read the photos: is each what was indexed?", None, True, name="--no-photos"),
    ],
    repair: Annotated[bool, option("rebuild what is derived")],
    index: Index,
    as_json: Json,
) -> int:
    """Check every invariant of the database, checksums and the content of the photos included."""
    from pipelines.indexing.maintenance import check_database

    index = find_index(index)
    with progress_bar("reading photos") as progress:
        report = check_database(index, repair=repair, photos=photos, progress=progress)
    print_result(as_json, vars(report), _print_check, report, index)
    return exit_codes.PROBLEMS if report.remaining else exit_codes.OK


@command("locate calibrate --index town/.locate --out calibration.json")
def calibrate(
    queries: Annotated[int, option("photos to ask (default 1500)", "N", 1500, least=1)],
    seed: Annotated[int, option("which photos (default 0)", "N", 0)],
    out: Annotated[Path | None, option("write it as JSON as well", "FILE")],
    save: Annotated[bool, option("let this database judge by it from now on")],
    index: Index,
    as_json: Json,
) -> int:
    """Measure what proves a match: asks the labelled index for places that are left out of it."""
    from pipelines.retrieval.calibration import calibrate_database

    index = find_index(index)
    with progress_bar("asking") as progress:
        report = calibrate_database(index, queries=queries, seed=seed, save=save, progress=progress)
    if out:
        with atomic_write(out) as file:
            file.write((report.calibration.to_json() + "\n").encode())
    print_result(as_json, report.to_json(), _print_calibration, report)
    return exit_codes.OK


def _print_build(report: BuildReport, index: Path) -> None:
    out = console()
    rate = f", {report.images_per_second:.1f} images/s" if report.added + report.updated else ""
    out.print(
        f"{escape(index)}: {report.added} added, {report.updated} updated, {report.unchanged} "
        f"unchanged, {len(report.failed)} failed in {report.seconds['total']:.1f} s{rate}"
    )
    if report.missing:
        out.print(
            f"{report.missing} images are no longer on disk; they are kept until: "
            "locate remove --missing"
        )
    vectors = report.vectors
    if vectors is not None and vectors.factory != "Flat":
        out.print(f"search index {vectors.factory}, recall@10 {vectors.recall_at_10:.3f}")
    if report.local is not None:
        out.print(f"local search index {_local_index(report.local)}")
    print_left_out(report.left_out, report.failed)
    if not (report.added or report.updated or report.unchanged or report.failed):
        others = report.left_out.others
        beside = f"; files of other kinds there: {others}" if others else ""
        out.print(
            "nothing is indexed: there is no photo that can be read (JPEG, PNG, TIFF, WebP, HEIC, AVIF, "
            f"...){beside}"
        )


def _kind_of(found: VectorsInfo | LocalInfo) -> str:
    return "exact" if found.factory == "Flat" else f"{found.factory}, nprobe {found.nprobe}"


def _local_index(local: LocalInfo) -> str:
    recall = "" if local.factory == "Flat" else f", recall {local.recall:.3f}"
    held = f"{local.count:,} x {local.dim} descriptors of {local.images:,} images"
    return f"{_kind_of(local)}{recall}, {held}"


def _print_removed(removed: Sequence[str]) -> None:
    out = console()
    for path in removed:
        out.print(f"removed {escape(path)}", soft_wrap=True)
    out.print(f"{len(removed)} images removed; the photos themselves were not touched")


def _print_info(info: DatabaseInfo, images: Sequence[dict[str, Any]] | None = None) -> None:
    from rich.table import Table

    counts, extractor, vectors = info.counts, info.extractor, info.vectors
    stale = "not up to date (rebuilt by the next build-index or check)"
    rows = [("database", str(info.folder)), *(("photos", str(root)) for root in info.roots)]
    found = f"{counts['ok']}, {counts['labels']} landmarks, {counts['failed']} failed"
    rows += [("images", found), ("local features", f"{counts['features']:,}")]
    if extractor is not None:
        rows.append(("extractor", f"{extractor.name} ({extractor.fingerprint})"))
        rows += [("", f"{name}: {value}") for name, value in extractor.settings.items()]
        rows.append(("weights", extractor.weights or "none"))
    if vectors is not None:
        held = f"{vectors.count} x {vectors.dim}, recall@10 {vectors.recall_at_10:.3f}"
    rows.append(("search index", f"{_kind_of(vectors)}, {held}" if vectors else stale))
    if info.search not in (None, "global"):
        rows.append(("local search", _local_index(info.local) if info.local else stale))
    rows.append(("search by", info.search or ""))
    if info.masks:
        rows.append(("masks", info.masks))
    size = ", ".join(f"{name} {_megabytes(bytes_)}" for name, bytes_ in info.disk.items())
    rows.append(("on disk", f"{_megabytes(sum(info.disk.values()))} ({size})"))
    if images_ok := info.counts["ok"]:
        kinds = ", ".join(f"{name} {count / 1e3:.1f}" for name, count in info.per_image.items())
        rows.append(("kB an image", f"{sum(info.disk.values()) / images_ok / 1e3:.1f} ({kinds})"))
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in rows:
        table.add_row(name, escape(text))
    console().print(table)
    if images is not None:
        _print_images(images)


def _print_images(rows: Sequence[dict[str, Any]]) -> None:
    table = new_table("image", "label", "size", "taken", "camera", "status")
    for row in rows:
        size = f"{row['width']} x {row['height']}" if row["width"] else ""
        status = row["status"] if row["error"] is None else f"{row['status']}: {row['error']}"
        cells = (row["path"], row["label"], size, row["taken_at"], row["camera"], status)
        table.add_row(*(escape(cell or "") for cell in cells))
    console().print(table)


def _print_check(report: CheckReport, index: Path) -> None:
    out = console()
    for text in report.problems:
        out.print(f"[red]problem[/] {escape(text)}", soft_wrap=True)
    for text in report.repaired:
        out.print(f"[yellow]repair[/] {escape(text)}", soft_wrap=True)
    if report.absent:
        out.print(f"{report.absent} photos are not there or cannot be read, and were not compared")
    if not report.problems:
        photos = f"{report.compared} photos are as they were indexed"
        if report.compared is None:
            photos = "the photos were not compared with it (--no-photos)"
        out.print(f"{escape(index)}: every invariant holds; {photos}")
    elif not report.remaining:
        out.print(f"{escape(index)}: repaired, every invariant holds now")
    elif report.repaired:
        out.print(f"problems that remain: {len(report.remaining)}")
    else:
        out.print(f"problems: {len(report.problems)}; run: locate check --repair")


def _print_calibration(report: CalibrationReport) -> None:
    out, rule = console(), report.calibration
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
