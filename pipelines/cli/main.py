"""The command line: arguments -> stage -> output. No algorithm lives here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from locate import __version__
from locate.util.memory import keep_freed_memory
from pipelines.cli import evaluate as evaluate_cli
from pipelines.cli import last_resort, streams
from pipelines.cli import localize as localize_cli
from pipelines.cli import maps as map_cli
from pipelines.cli import models as models_cli
from pipelines.cli import train as train_cli
from pipelines.cli.arguments import Parser, add_extractor, add_masks
from pipelines.indexing.labels import RULES

_SEARCHES = ("global", "local", "both")  # as pipelines.retrieval.search has them
_EPILOG = """\
exit codes:
  0  all good; for a query: match; for localize: localized
  1  the query's answer is "no match", or a photo is "not localized"
  2  wrong usage, or an error that stopped the command
  3  some files could not be used, were passed over (raw photos, videos, ...), or are not in the
     map; the rest was done
  4  nothing was done: no usable photo
  5  the answer is "uncertain"
  6  `locate check` found problems
 70  a fault of locate itself; a line on standard error says where its traceback is
130  interrupted; everything committed until then is kept

The database is the folder .locate in the current directory or above it;
--index PATH or the environment variable LOCATE_INDEX name another.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if argv is None:
        streams.prepare()

    def command() -> int:
        arguments = _parser().parse_args(argv)
        keep_freed_memory()
        return _command(arguments.command)(arguments)

    return last_resort.run(command, own_process=argv is None)


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    # torch and OpenCV load only when a command runs
    from pipelines.cli import index as commands
    from pipelines.cli import query, town

    return {
        "build-index": commands.build_index,
        "add": commands.add,
        "remove": commands.remove,
        "info": commands.info,
        "check": commands.check,
        "query": query.query,
        "calibrate": commands.calibrate,
        "make-town": town.make_town,
        "build-map": map_cli.build_map,
        "import-map": map_cli.import_map,
        "add-to-map": map_cli.add_to_map,
        "georef": map_cli.georef,
        "localize": localize_cli.localize,
        "models": models_cli.models,
        "train": train_cli.train,
        "evaluate": evaluate_cli.evaluate,
    }[name]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="locate",
        description="Which of my photos shows the same place, and where was the camera.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"locate {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def bare(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def printing(name: str, text: str, example: str) -> argparse.ArgumentParser:
        made = bare(name, text, example)
        made.add_argument("--json", action="store_true", help="print JSON instead of a table")
        return made

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        made = printing(name, text, example)
        made.add_argument("--index", type=Path, metavar="PATH", help="the database folder")
        return made

    build = command(
        "build-index",
        "index a folder of photos; run it again and only what changed is done",
        "locate build-index landmarks/",
    )
    build.add_argument("photos", type=Path, help="folder of photos, searched recursively")
    add_extractor(build, "context; gem+sift with --search local or both")
    build.add_argument(
        "--search",
        choices=_SEARCHES,
        help="what queries find their candidates by: the global descriptor, the votes of local "
        "features, or both in turns (default: as before; global for a new database)",
    )
    _label_and_workers(build)

    add = command(
        "add", "add photos or further folders to the database", "locate add new.jpg more-photos/"
    )
    add.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="photo or folder")
    _label_and_workers(add)

    remove = command(
        "remove",
        "take images out of the database (the photos stay)",
        "locate remove 'louvre/*' --missing",
    )
    remove.add_argument("patterns", nargs="*", metavar="PATTERN", help="path or glob, as indexed")
    remove.add_argument("--label", help="all images of this landmark")
    remove.add_argument("--missing", action="store_true", help="all whose photo is gone")

    info = command(
        "info", "say what is in the database, who filled it, and its size", "locate info --images"
    )
    info.add_argument("--images", action="store_true", help="list every image")

    _add_check(command)

    query = command(
        "query",
        "find the images that show the same place as a photo",
        "locate query photo.jpg --html report.html",
    )
    query.add_argument(
        "photos", type=Path, nargs="+", metavar="PHOTO", help="photo or folder; - is standard input"
    )
    query.add_argument("--top", type=int, default=10, metavar="N", help="answers (default 10)")
    query.add_argument(
        "--shortlist", type=int, default=30, metavar="N", help="candidates verified (default 30)"
    )
    query.add_argument(
        "--search", choices=_SEARCHES, help="how candidates are found (default: as it was built)"
    )
    query.add_argument(
        "--neighbours",
        type=int,
        default=60,
        metavar="K",
        help="of each local feature, which vote in a local search (default 60)",
    )
    add_masks(query)
    query.add_argument("--no-verify", action="store_true", help="rank by the search alone")
    query.add_argument("--no-rotate", action="store_true", help="do not try the photo turned")
    query.add_argument(
        "--save-matches", type=Path, metavar="DIR", help="write pictures of the matches"
    )
    query.add_argument("--html", type=Path, metavar="FILE", help="write a report to look at")

    calibrate = command(
        "calibrate",
        "measure what proves a match: asks the labelled index for places that are left out of it",
        "locate calibrate --index town/.locate --out calibration.json",
    )
    calibrate.add_argument(
        "--queries", type=int, default=1500, metavar="N", help="photos to ask (default 1500)"
    )
    calibrate.add_argument("--seed", type=int, default=0, help="which photos (default 0)")
    calibrate.add_argument("--out", type=Path, metavar="FILE", help="write it as JSON as well")
    calibrate.add_argument(
        "--save", action="store_true", help="let this database judge by it from now on"
    )

    town = command(
        "make-town",
        "render a small town of landmarks with exact cameras, to try things on",
        "locate make-town town/",
    )
    town.add_argument("out", type=Path, help="folder to make")
    town.add_argument("--seed", type=int, default=0, help="another seed, another town")
    map_cli.add_map_parsers(printing)
    localize_cli.add_localize_parser(printing)
    models_cli.add_models_parser(printing)
    train_cli.add_train_parser(printing)
    evaluate_cli.add_evaluate_parser(
        bare(
            "evaluate",
            "measure extractors on a dataset with ground truth",
            "locate evaluate matching hpatches/ --extractor sift --out report/",
        )
    )
    return parser


def _add_check(command: Callable[[str, str, str], argparse.ArgumentParser]) -> None:
    check = command(
        "check",
        "check every invariant of the database, checksums and the content of the photos included",
        "locate check --repair",
    )
    check.add_argument(
        "--no-photos", action="store_true", help="do not read the photos: is each what was indexed?"
    )
    check.add_argument("--repair", action="store_true", help="rebuild what is derived")


def _label_and_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--label-from",
        default="folder",
        metavar="RULE",
        help=f"where the landmark's name comes from: {', '.join(RULES)} (default folder)",
    )
    add_masks(parser, remembered=True)
    parser.add_argument(
        "--checksum",
        action="store_true",
        help="see what changed by the content of every photo, not by its size and date",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="threads (default: one a core)")


if __name__ == "__main__":
    sys.exit(main())
