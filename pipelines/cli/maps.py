"""Maps on the command line: `build-map`, `import-map`, `add-to-map`, `georef`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from locate.errors import InputError
from locate.util.printable import in_markup as escape
from pipelines.cli import exit_codes as exits
from pipelines.cli.arguments import add_extractor, add_masks, settings_of
from pipelines.cli.console import console, print_left_out

if TYPE_CHECKING:
    from index.maps.folder import Progress
    from locate.georef.georef import Georef
    from locate.images.folder import LeftOut
    from pipelines.mapping.summary import MapReport

_SHOWN = 20
MakeParser = Callable[[str, str, str], argparse.ArgumentParser]


def add_map_parsers(command: MakeParser) -> None:
    """Add the commands; `command` makes a parser of (name, text, example)."""
    build = command(
        "build-map",
        "make a map of the photos of an index or a folder: where each camera stood, and 3-D points",
        "locate build-map --images photos/ --out town.map",
    )
    build.add_argument("--index", type=Path, metavar="PATH", help="the database folder")
    build.add_argument("--images", type=Path, metavar="DIR", help="photos, instead of an index")
    _out(build)
    add_extractor(build, "gem+sift")
    build.add_argument(
        "--mapper",
        default="auto",
        metavar="NAME",
        help="incremental, global, or auto: the better of both for up to 100 photos (default)",
    )
    _seed_and_workers(build)

    imported = command(
        "import-map",
        "make a map of a COLMAP model and its photos; its poses are kept, its points made anew",
        "locate import-map town/colmap --images town/landmarks --out town.map",
    )
    imported.add_argument("model", type=Path, metavar="MODEL", help="folder of the COLMAP model")
    imported.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="what its names are relative to"
    )
    _out(imported)
    add_extractor(imported, "context")
    imported.add_argument("--metric", action="store_true", help="its unit is the metre")
    imported.add_argument(
        "--skip-missing", action="store_true", help="go on without photos that are not in DIR"
    )
    _seed_and_workers(imported)

    added = command(
        "add-to-map",
        "add photos to a map; what is in it stays where it is",
        "locate add-to-map new/ --map town.map",
    )
    added.add_argument("photos", type=Path, nargs="+", metavar="PHOTO", help="photo or folder")
    _map(added)
    _seed_and_workers(added)

    georef = command(
        "georef",
        "say where a map lies on the earth: metres, north and up (by GPS of its photos, or a file)",
        "locate georef --map town.map --centers centers.csv",
    )
    _map(georef)
    kind = georef.add_mutually_exclusive_group()
    kind.add_argument(
        "--gps", type=Path, metavar="CSV", help="name,latitude,longitude[,altitude]; default: EXIF"
    )
    kind.add_argument("--centers", type=Path, metavar="CSV", help="name,x,y,z in metres")
    kind.add_argument(
        "--control-points",
        type=Path,
        metavar="CSV",
        help="name,x,y,z or name,latitude,longitude,altitude; needs --observations",
    )
    georef.add_argument(
        "--observations", type=Path, metavar="CSV", help="point,image,x,y in pixels of the photo"
    )
    georef.add_argument(
        "--origin",
        metavar="LAT,LON,ALT",
        help="of the metres of --centers; without it the map has metres, but no place on earth",
    )
    georef.add_argument(
        "--max-error", type=float, metavar="M", help="metres, of what is no outlier"
    )


def build_map(a: argparse.Namespace) -> int:
    from locate.images.folder import survey
    from pipelines.cli.index import find_index
    from pipelines.mapping.build import build_map as build

    left_out = survey([a.images] if a.images else [])
    with _stages() as progress:
        report = build(
            a.out,
            index=None if a.images else find_index(a.index),
            images=a.images,
            extractor=a.extractor,
            weights=a.weights,
            settings=settings_of(a.set),
            mapper=a.mapper,
            masks=a.masks,
            workers=a.workers,
            seed=a.seed,
            progress=progress,
        )
    return _tell_map(report, a.out, a.json, left_out)


def import_map(a: argparse.Namespace) -> int:
    from pipelines.mapping.import_model import import_map as bring

    with _stages() as progress:
        report = bring(
            a.model,
            a.images,
            a.out,
            extractor=a.extractor,
            settings=settings_of(a.set),
            weights=a.weights,
            metric=a.metric,
            masks=a.masks,
            skip_missing=a.skip_missing,
            workers=a.workers,
            seed=a.seed,
            progress=progress,
        )
    return _tell_map(report, a.out, a.json)


def add_to_map(a: argparse.Namespace) -> int:
    from locate.images.folder import survey
    from pipelines.mapping.add import add_to_map as add

    left_out = survey(a.photos)
    with _stages() as progress:
        report = add(
            a.map, a.photos, masks=a.masks, workers=a.workers, seed=a.seed, progress=progress
        )
    return _tell_map(report, a.map, a.json, left_out)


def georef(a: argparse.Namespace) -> int:
    from pipelines.mapping.georef import georeference_map

    report = georeference_map(
        a.map,
        gps=a.gps,
        centers=a.centers,
        control_points=a.control_points,
        observations=a.observations,
        origin=_origin(a.origin),
        max_error=a.max_error,
    )
    if a.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        print_georef(report.georef, a.map, report.warnings)
    return exits.GOOD


def _origin(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        latitude, longitude, altitude = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--origin is LAT,LON,ALT such as 48.85,2.35,60, not {text!r}") from None
    return latitude, longitude, altitude


def _tell_map(report: MapReport, out: Path, as_json: bool, left_out: LeftOut | None = None) -> int:
    if as_json:
        passed_over = left_out.to_json() if left_out else {}
        print(json.dumps({"map": str(out), **report.to_json(), **passed_over}, indent=1))
    else:
        print_map(report, out)
        if left_out:
            print_left_out(left_out)
    return exits.SOME_FAILED if report.unregistered or left_out else exits.GOOD


@contextmanager
def _stages() -> Iterator[Progress]:
    """A bar for each stage, the one before it closed."""
    from pipelines.cli.progress import progress_bar

    with ExitStack() as stack:
        shown = ""
        tell: Callable[[int, int], None] | None = None

        def step(stage: str, done: int, total: int) -> None:
            nonlocal shown, tell
            if stage != shown or tell is None:
                stack.close()
                tell, shown = stack.enter_context(progress_bar(stage)), stage
            tell(done, total)

        yield step


def _out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="MAP", help="folder of the map")


def _map(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--map", type=Path, required=True, metavar="MAP", help="folder of the map")


def _seed_and_workers(parser: argparse.ArgumentParser) -> None:
    add_masks(parser, remembered=True)
    parser.add_argument("--seed", type=at_least(0), default=0, help="of what is drawn (default 0)")
    parser.add_argument(
        "--workers", type=at_least(1), metavar="N", help="threads (default: one a core)"
    )


def at_least(least: int) -> Callable[[str], int]:
    """What argparse makes of a whole number that must not be less."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number of at least {least}, got {text!r}"
            )
        return value

    return read


def print_map(report: MapReport, out: Path) -> None:
    to = console()
    seconds = ", ".join(f"{stage} {spent:.1f} s" for stage, spent in report.seconds.items())
    to.print(
        f"{escape(str(out))}: {report.registered} of {report.images} photos registered, "
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
    for name, reason in report.unregistered[:_SHOWN]:
        to.print(f"[yellow]not registered[/] {escape(name)}: {escape(reason)}")
    if len(report.unregistered) > _SHOWN:
        to.print(f"... and {len(report.unregistered) - _SHOWN} more; --json lists all")


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        console().print(f"[yellow]warning[/] {escape(warning)}", soft_wrap=True)


def print_georef(found: Georef, out: Path, warnings: Sequence[str] = ()) -> None:
    to = console()
    where = (
        "metres, north and up; no place on the earth"
        if found.origin is None
        else "origin {:.7f}, {:.7f}, {:.2f} m (WGS84)".format(*found.origin)
    )
    to.print(
        f"{escape(str(out))}: 1 unit of the map is {found.scale:.6g} m; {where}; by "
        f"{found.source}: {found.inliers} of {found.used} agree, median error "
        f"{found.error:.3g} m"
    )
    if found.outliers:
        to.print(f"left out: {escape(', '.join(found.outliers[:_SHOWN]))}")
    _print_warnings(warnings)
