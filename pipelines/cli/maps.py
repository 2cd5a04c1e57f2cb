"""Maps: `locate build-map`, `import-map`, `add-to-map`, `georef`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict, Unpack

from locate.util.printable import in_markup as escape
from pipelines.cli import exit_codes, options
from pipelines.cli.console import SHOWN, console, print_left_out, print_result
from pipelines.cli.options import Index, Json, Map, argument, command, option
from pipelines.cli.progress import stages

if TYPE_CHECKING:
    from locate.images.folder import LeftOut
    from pipelines.mapping.georef import GeorefReport
    from pipelines.mapping.summary import MapReport

_MAPPER = "incremental, global, or auto: the better of both for up to 100 photos (default)"
_CONTROL = "name,x,y,z or name,latitude,longitude,altitude; needs --observations"
_ORIGIN = "of the metres of --centers; without it the map has metres, but no place on the earth"
_Out = Annotated[Path, option("folder of the map", "MAP", required=True)]


class _AddOptions(TypedDict):
    masks: options.KeptMasks
    seed: Annotated[int, option("of what is drawn (default 0)", "N", 0, least=0)]
    workers: options.Workers


class _MapOptions(_AddOptions):
    weights: options.Weights
    settings: options.Settings
    features: options.KeptFeatures


class _BuildOptions(_MapOptions):
    extractor: Annotated[str | None, option("what looks at the photos (default: gem+sift)", "NAME")]
    mapper: Annotated[str, option(_MAPPER, "NAME", "auto")]


@command("locate build-map --images photos/ --out town.map")
def build_map(
    index: Index,
    images: Annotated[Path | None, option("photos, instead of an index", "DIR")],
    out: _Out,
    as_json: Json,
    **how: Unpack[_BuildOptions],
) -> int:
    """Make a map of the photos of an index or a folder: where each camera stood, and 3-D points."""
    from locate.images.folder import survey
    from pipelines.mapping.build import build_map as build

    left_out = survey([images] if images else [])
    index = None if images else options.find_index(index)
    with stages() as progress:
        report = build(
            out, index=index, images=images, **options.with_features(how), progress=progress
        )
    return _report_map(report, out, as_json, left_out)


class _ImportOptions(_MapOptions):
    extractor: Annotated[str | None, option("what looks at the photos (default: context)", "NAME")]
    metric: Annotated[bool, option("its unit is the metre")]
    skip_missing: Annotated[bool, option("go on without photos that are not in DIR")]


@command("locate import-map town/colmap --images town/landmarks --out town.map")
def import_map(
    model: Annotated[Path, argument("folder of the COLMAP model", "MODEL")],
    images: Annotated[Path, option("what its names are relative to", "DIR", required=True)],
    out: _Out,
    as_json: Json,
    **how: Unpack[_ImportOptions],
) -> int:
    """Make a map of a COLMAP model and its photos; its poses are kept, its points made anew."""
    from pipelines.mapping.import_model import import_map as bring

    with stages() as progress:
        report = bring(model, images, out, **options.with_features(how), progress=progress)
    return _report_map(report, out, as_json)


@command("locate add-to-map new/ --map town.map")
def add_to_map(
    photos: Annotated[tuple[Path, ...], argument("photo or folder", "PHOTO")],
    map_folder: Map,
    as_json: Json,
    **how: Unpack[_AddOptions],
) -> int:
    """Add photos to a map; what is in it stays where it is."""
    from locate.images.folder import survey
    from pipelines.mapping.add import add_to_map as add

    left_out = survey(photos)
    with stages() as progress:
        report = add(map_folder, photos, **how, progress=progress)
    return _report_map(report, map_folder, as_json, left_out)


def _origin(text: str) -> tuple[float, ...]:
    return tuple(options.numbers_of(text, (3,), "--origin is LAT,LON,ALT such as 48.85,2.35,60"))


class _GeorefOptions(TypedDict):
    gps: Annotated[Path | None, option("name,latitude,longitude[,altitude]; default: EXIF", "CSV")]
    centers: Annotated[Path | None, option("name,x,y,z in metres", "CSV")]
    control_points: Annotated[Path | None, option(_CONTROL, "CSV")]
    observations: Annotated[Path | None, option("point,image,x,y in pixels of the photo", "CSV")]
    origin: Annotated[
        tuple[float, float, float] | None, option(_ORIGIN, "LAT,LON,ALT", read=_origin)
    ]
    max_error: Annotated[float | None, option("metres, of what is no outlier", "M")]


@command("locate georef --map town.map --centers centers.csv")
def georef(map_folder: Map, as_json: Json, **how: Unpack[_GeorefOptions]) -> int:
    """Say where a map lies on the earth: metres, north and up (by GPS of its photos, or a file)."""
    from pipelines.mapping.georef import georeference_map

    report = georeference_map(map_folder, **how)
    print_result(as_json, report.to_json(), _print_georef, report, map_folder)
    return exit_codes.OK


def _report_map(
    report: MapReport, out: Path, as_json: bool, left_out: LeftOut | None = None
) -> int:
    value = {"map": str(out), **report.to_json(), **(left_out.to_json() if left_out else {})}
    print_result(as_json, value, _print_map, report, out, left_out)
    return exit_codes.SOME_FAILED if report.unregistered or left_out else exit_codes.OK


def _print_map(report: MapReport, out: Path, left_out: LeftOut | None) -> None:
    to = console()
    seconds = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in report.seconds.items())
    to.print(
        f"{escape(out)}: {report.registered} of {report.images} photos registered, "
        f"{report.points} points" + (f" ({seconds})" if seconds else " (nothing to do)")
    )
    if report.points:
        to.print(
            f"a point is seen by {report.track_length:.1f} photos, reprojection error "
            f"{report.error:.2f} px, {report.observations:.0f} observations a photo"
        )
    if report.separate:
        parts = ", ".join(map(str, report.separate))
        to.print(f"further models that do not hang together with it, photos: {parts}; left out")
    _print_warnings(report.warnings)
    for name, count in report.verified.items():
        to.print(f"{escape(name)}: verified with {count} photos of the map")
    for name, reason in report.unregistered[:SHOWN]:
        to.print(f"[yellow]not registered[/] {escape(name)}: {escape(reason)}", soft_wrap=True)
    if len(report.unregistered) > SHOWN:
        to.print(f"... and {len(report.unregistered) - SHOWN} more; --json lists all")
    if left_out:
        print_left_out(left_out)


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        console().print(f"[yellow]warning[/] {escape(warning)}", soft_wrap=True)


def _print_georef(report: GeorefReport, out: Path) -> None:
    to, found = console(), report.georef
    where = (
        "metres, north and up; no place on the earth"
        if found.origin is None
        else "origin {:.7f}, {:.7f}, {:.2f} m (WGS84)".format(*found.origin)
    )
    to.print(
        f"{escape(out)}: 1 unit of the map is {found.scale:.6g} m; {where}; by "
        f"{found.source}: {found.inliers} of {found.used} agree, median error "
        f"{found.error:.3g} m"
    )
    if found.outliers:
        to.print(f"left out: {escape(', '.join(found.outliers[:SHOWN]))}")
    _print_warnings(report.warnings)
