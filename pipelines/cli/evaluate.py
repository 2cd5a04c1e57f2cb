"""`locate evaluate matching|repeatability|retrieval|localization`: options -> evaluation -> report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locate.errors import InputError
from locate.extractors.registry import named as named_extractors
from locate.util.printable import in_markup as escape
from pipelines.cli import exit_codes as exits
from pipelines.cli.arguments import add_settings, settings_of
from pipelines.cli.console import console, new_table
from pipelines.cli.streams import say

if TYPE_CHECKING:
    from pipelines.reports.report import Report

_LAYOUTS = {
    "matching": "HPatches (i_*/v_* folders), Oxford affine (img1, H1to2p, ...), WxBS (corrs.txt)",
    "repeatability": "HPatches or Oxford affine",
    "retrieval": "labels.csv (image, landmark, split, kind), Oxford5k/Paris6k, ROxford/RParis pickles, "
    "Google Landmarks v2 CSVs, database/ and queries/ with @easting@northing@ in the names",
    "localization": "a scene with images and a COLMAP model of true poses (colmap_gt/), or a folder of "
    "scenes; Cambridge Landmarks; 7-Scenes",
}


def add_evaluate_parser(parser: argparse.ArgumentParser) -> None:
    """The four kinds as sub-commands, each with its own options."""
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")

    def kind(name: str, text: str, example: str) -> argparse.ArgumentParser:
        made = kinds.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"layouts: {_LAYOUTS[name]}\n\nexample:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.add_argument("folder", type=Path, help="the dataset, as it lies on disk")
        made.add_argument(
            "--extractor",
            action="append",
            default=[],
            metavar="NAME",
            help="what to evaluate; may be repeated (default: the default extractor)",
        )
        made.add_argument(
            "--weights",
            action="append",
            default=[],
            type=Path,
            metavar="FILE",
            help="evaluate the system of these trained weights; may be repeated",
        )
        add_settings(made)
        made.add_argument("--layout", metavar="NAME", help="of the dataset (default: recognised)")
        made.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
        made.add_argument("--out", type=Path, metavar="DIR", help="write Markdown, JSON and plots")
        made.add_argument("--json", action="store_true", help="print JSON instead of tables")
        return made

    data = "../shared/data/eval"
    matching = kind(
        "matching",
        "match pairs with known homographies or correspondences",
        f"locate evaluate matching {data}/matching/oxford-affine --extractor sift",
    )
    matching.add_argument(
        "--protocol",
        default="full",
        metavar="NAME",
        help="full, d2net or superpoint (default full)",
    )
    matching.add_argument("--max-keypoints", type=int, metavar="N", help="the strongest that count")
    matching.add_argument(
        "--size", type=_size, default=(640, 480), metavar="WxH", help="superpoint's"
    )
    matching.add_argument(
        "--estimator", metavar="NAME", help="of homographies: ransac or magsac (default ransac)"
    )

    repeatability = kind(
        "repeatability",
        "detect points in pairs and look for each in the other image",
        f"locate evaluate repeatability {data}/matching/oxford-affine --extractor sift",
    )
    repeatability.add_argument(
        "--max-keypoints", type=int, default=300, metavar="N", help="strongest (default 300)"
    )
    repeatability.add_argument(
        "--threshold", type=float, default=3.0, metavar="PX", help="pixels (default 3)"
    )
    repeatability.add_argument(
        "--size", type=_size, default=(320, 240), metavar="WxH", help="default 320x240; or full"
    )

    retrieval = kind(
        "retrieval",
        "index a labelled folder and score the answers to its queries",
        f"locate evaluate retrieval {data}/retrieval --kind web",
    )
    retrieval.add_argument(
        "--distractors", action="append", default=[], type=Path, metavar="DIR", help="photos to add"
    )
    retrieval.add_argument(
        "--foreign", type=Path, metavar="DIR", help="photos of unknown places, to ask as well"
    )
    retrieval.add_argument(
        "--kind",
        action="append",
        default=[],
        dest="kinds",
        metavar="NAME",
        help="queries that count",
    )
    retrieval.add_argument(
        "--foreign-count", type=int, metavar="N", help="so many of them, drawn by the seed"
    )
    retrieval.add_argument(
        "--shortlist", type=int, metavar="N", help="candidates that are verified (default 30)"
    )
    retrieval.add_argument("--no-verify", action="store_true", help="the global ranking alone")
    retrieval.add_argument("--search", choices=("global", "local", "both"), help="how to search")
    retrieval.add_argument("--work", type=Path, metavar="DIR", help="keep the databases here")
    retrieval.add_argument(
        "--rankings", type=Path, metavar="FILE", help="score these answers instead (JSON, CSV)"
    )

    localization = kind(
        "localization",
        "map on true poses and localize the rest, or judge a file of poses",
        f"locate evaluate localization {data}/localization/fountain-P11 --extractor sift",
    )
    localization.add_argument(
        "--protocol", default="folds", metavar="NAME", help="folds or queries (default folds)"
    )
    localization.add_argument(
        "--ratio",
        type=float,
        metavar="R",
        help="of Lowe's test for all matches (default the extractor's, else 0.85)",
    )
    localization.add_argument(
        "--solver", metavar="NAME", help="poselib or pycolmap (default poselib)"
    )
    localization.add_argument(
        "--unscaled",
        action="append",
        metavar="SCENE",
        help="scene whose unit is not the metre (default fox)",
    )
    localization.add_argument(
        "--poses", type=Path, metavar="FILE", help="judge these poses; FOLDER is then the truth"
    )
    localization.add_argument("--queries", type=Path, metavar="FILE", help="names of the queries")


def evaluate(a: argparse.Namespace) -> int:
    report = _report(a)
    if a.out:
        report.save(a.out)
    if a.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        print_report(report)
        if a.out:
            say(f"wrote {a.out}")
    return exits.GOOD


def _report(a: argparse.Namespace) -> Report:
    if a.kind == "retrieval" and a.rankings:
        from pipelines.evaluation.rankings import evaluate_rankings

        _refuse_extractors(a, "--rankings")
        return evaluate_rankings(a.folder, a.rankings, layout=a.layout, kinds=a.kinds)
    if a.kind == "localization" and a.poses:
        from pipelines.evaluation.pose_file import evaluate_pose_file

        _refuse_extractors(a, "--poses")
        return evaluate_pose_file(
            a.poses, a.folder, queries=a.queries, truth_format=a.layout or "auto"
        )
    from pipelines.cli.progress import progress_bar

    extractors = named_extractors(a.extractor, a.weights, settings_of(a.set))
    with progress_bar("evaluating") as progress:
        common: dict[str, Any] = {"seed": a.seed, "progress": progress}
        if a.kind == "matching":
            from pipelines.evaluation.homographies import evaluate_matching

            return evaluate_matching(
                a.folder,
                extractors,
                layout=a.layout,
                protocol=a.protocol,
                max_keypoints=a.max_keypoints,
                size=a.size or (640, 480),
                **_given(a, "estimator"),
                **common,
            )
        if a.kind == "repeatability":
            from pipelines.evaluation.repeatability import evaluate_repeatability

            return evaluate_repeatability(
                a.folder,
                extractors,
                layout=a.layout,
                max_keypoints=a.max_keypoints,
                threshold=a.threshold,
                size=a.size,
                **common,
            )
        if a.kind == "retrieval":
            from pipelines.evaluation.retrieval import evaluate_retrieval

            return evaluate_retrieval(
                a.folder,
                extractors,
                layout=a.layout,
                distractors=a.distractors,
                foreign=a.foreign,
                kinds=a.kinds,
                verify=not a.no_verify,
                search=a.search,
                work=a.work,
                **_given(a, "foreign_count", "shortlist"),
                **common,
            )
        from pipelines.evaluation.localization import evaluate_localization

        return evaluate_localization(
            a.folder,
            extractors,
            layout=a.layout or "auto",
            protocol=a.protocol,
            **_given(a, "unscaled", "ratio", "solver"),
            **common,
        )


def _given(a: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were given; the others keep the defaults of the evaluation itself."""
    return {name: getattr(a, name) for name in names if getattr(a, name) is not None}


def _refuse_extractors(a: argparse.Namespace, option: str) -> None:
    if a.extractor or a.weights:
        raise InputError(f"{option} judges finished answers; leave out --extractor and --weights")


def _size(text: str) -> tuple[int, int] | None:
    """ "640x480" -> (640, 480), "full" -> None."""
    if text == "full":
        return None
    width, x, height = text.partition("x")
    if not (x and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 640x480, or full")
    return int(width), int(height)


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
