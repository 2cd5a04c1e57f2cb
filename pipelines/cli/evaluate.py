"""`locate evaluate matching|repeatability|retrieval|localization`: extractors against ground truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypedDict, Unpack

import click
from click.core import ParameterSource

from locate.errors import InputError
from locate.util.printable import in_markup as escape
from pipelines.cli import exit_codes, options
from pipelines.cli.console import console, new_table, print_result
from pipelines.cli.options import Json, Search, Settings, argument, option
from pipelines.cli.progress import progress_bar
from pipelines.cli.streams import print_line
from pipelines.reports.report import Report

Judge = Callable[..., Report]
_EXTRACTOR = "what to evaluate; may be repeated (default: the default extractor)"
_WEIGHTS = "evaluate the system of these trained weights; may be repeated"
_COMMON = ("folder", "extractor", "weights", "settings", "layout", "seed")
_TEXT = "Measure extractors on a dataset with ground truth."
_EXAMPLE = "locate evaluate matching hpatches/ --extractor sift --out report/"
evaluate = options.Group("evaluate", **options.words_of(_TEXT, _EXAMPLE))


@dataclass(frozen=True)
class _Evaluation:
    """What every kind is asked for."""

    folder: Annotated[Path, argument("the dataset, as it lies on disk")]
    extractor: Annotated[tuple[str, ...], option(_EXTRACTOR, "NAME")]
    weights: Annotated[
        tuple[Path, ...], option(_WEIGHTS, "FILE", multiple=True, read=options.weights_of)
    ]
    settings: Settings
    layout: Annotated[str | None, option("of the dataset (default: recognised)", "NAME")]
    seed: Annotated[int, option("of everything random (default 0)", "N", 0)]
    progress: Callable[[int, int], None]

    def evaluate(self, judge: Judge, **own: Any) -> Report:
        """The report of `judge`, a function of `pipelines.evaluation`."""
        from locate.extractors.registry import named

        extractors = named(self.extractor, self.weights, self.settings)
        common = {"layout": self.layout, "seed": self.seed, "progress": self.progress}
        return judge(self.folder, extractors, **common | own)

    def refuse_extractors(self, because_of: str) -> None:
        if self.extractor or self.weights:
            cure = "judges finished answers; leave out --extractor and --weights"
            raise InputError(f"{because_of} {cure}")


def _kind(layouts: str, example: str) -> Callable[[Judge], Judge]:
    """A kind of evaluation, named and described by a function that gives its report; options that were
    not given keep the defaults of the evaluation itself."""

    def add(judge: Judge) -> Judge:
        def run(
            out: Annotated[Path | None, option("write Markdown, JSON and plots", "DIR")],
            as_json: Json,
            **words: Any,
        ) -> int:
            source = click.get_current_context().get_parameter_source
            common = {field: words.pop(field) for field in _COMMON}
            own = {k: v for k, v in words.items() if source(k) is not ParameterSource.DEFAULT}
            with progress_bar("evaluating") as progress:
                report = judge(_Evaluation(**common, progress=progress), **own)
            if out:
                report.save(out)
            print_result(as_json, report.to_json(), print_report, report)
            if out and not as_json:
                print_line(f"wrote {out}")
            return exit_codes.OK

        name = judge.__name__.removeprefix("_")
        shown = f"locate evaluate {name} ../shared/data/eval/{example}"
        words = options.words_of(judge.__doc__ or "", shown, f"layouts: {layouts}\n\n")
        parameters = [*chain(*map(options.parameters_of, (_Evaluation, judge, run)))]
        evaluate.add_command(options.Command(name, callback=run, params=parameters, **words))
        return judge

    return add


def _size(text: str) -> tuple[int, int] | None:
    """ "640x480" -> (640, 480), "full" -> None."""
    if text == "full":
        return None
    width, x, height = text.partition("x")
    if not (x and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise click.BadParameter(f"{text!r} is no size; write 640x480, or full")
    return int(width), int(height)


class _MatchingOptions(TypedDict, total=False):
    protocol: Annotated[str, option("full, d2net or superpoint (default full)", "NAME")]
    max_keypoints: Annotated[int, option("the strongest that count", "N")]
    size: Annotated[
        tuple[int, int], option("superpoint's", "WxH", read=lambda text: _size(text) or (640, 480))
    ]
    estimator: Annotated[str, option("of homographies: ransac or magsac (default ransac)", "NAME")]


@_kind(
    "HPatches (i_*/v_* folders), Oxford affine (img1, H1to2p, ...), WxBS (corrs.txt)",
    "matching/oxford-affine --extractor sift",
)
def _matching(asked: _Evaluation, **own: Unpack[_MatchingOptions]) -> Report:
    """Match pairs with known homographies or correspondences."""
    from pipelines.evaluation.homographies import evaluate_matching

    return asked.evaluate(evaluate_matching, **own)


class _RepeatabilityOptions(TypedDict, total=False):
    max_keypoints: Annotated[int, option("strongest (default 300)", "N")]
    threshold: Annotated[float, option("pixels (default 3)", "PX")]
    size: Annotated[tuple[int, int] | None, option("default 320x240; or full", "WxH", read=_size)]


@_kind("HPatches or Oxford affine", "matching/oxford-affine --extractor sift")
def _repeatability(asked: _Evaluation, **own: Unpack[_RepeatabilityOptions]) -> Report:
    """Detect points in pairs and look for each in the other image."""
    from pipelines.evaluation.repeatability import evaluate_repeatability

    return asked.evaluate(evaluate_repeatability, **own)


class _RetrievalOptions(TypedDict, total=False):
    distractors: Annotated[tuple[Path, ...], option("photos to add", "DIR")]
    foreign: Annotated[Path, option("photos of unknown places, to ask as well", "DIR")]
    kinds: Annotated[tuple[str, ...], option("queries that count", "NAME", name="--kind")]
    foreign_count: Annotated[int, option("so many of them, drawn by the seed", "N")]
    shortlist: Annotated[int, option("candidates that are verified (default 30)", "N")]
    verify: Annotated[bool, option("the global ranking alone", None, True, name="--no-verify")]
    search: Annotated[Search, option("how to search")]
    work: Annotated[Path, option("keep the databases here", "DIR")]


@_kind(
    "labels.csv (image, landmark, split, kind), Oxford5k/Paris6k, ROxford/RParis pickles, Google "
    "Landmarks v2 CSVs, database/ and queries/ with @easting@northing@ in the names",
    "retrieval --kind web",
)
def _retrieval(
    asked: _Evaluation,
    rankings: Annotated[
        Path | None, option("score these answers instead (JSON, CSV)", "FILE")
    ] = None,
    **own: Unpack[_RetrievalOptions],
) -> Report:
    """Index a labelled folder and score the answers to its queries."""
    if rankings:
        from pipelines.evaluation.rankings import evaluate_rankings as score

        asked.refuse_extractors("--rankings")
        return score(asked.folder, rankings, layout=asked.layout, kinds=own.get("kinds", ()))
    from pipelines.evaluation.retrieval import evaluate_retrieval

    return asked.evaluate(evaluate_retrieval, **own)


class _LocalizationOptions(TypedDict, total=False):
    protocol: Annotated[str, option("folds or queries (default folds)", "NAME")]
    ratio: Annotated[
        float, option("of Lowe's test for all matches (default the extractor's, else 0.85)", "R")
    ]
    solver: Annotated[str, option("poselib or pycolmap (default poselib)", "NAME")]
    unscaled: Annotated[
        tuple[str, ...], option("scene whose unit is not the metre (default fox)", "SCENE")
    ]


@_kind(
    "a scene with images and a COLMAP model of true poses (colmap_gt/), or a folder of scenes; "
    "Cambridge Landmarks; 7-Scenes",
    "localization/fountain-P11 --extractor sift",
)
def _localization(
    asked: _Evaluation,
    poses: Annotated[
        Path | None, option("judge these poses; FOLDER is then the truth", "FILE")
    ] = None,
    queries: Annotated[Path | None, option("names of the queries", "FILE")] = None,
    **own: Unpack[_LocalizationOptions],
) -> Report:
    """Map on true poses and localize the rest, or judge a file of poses."""
    layout = asked.layout or "auto"
    if poses:
        from pipelines.evaluation.pose_tables import evaluate_pose_file as score

        asked.refuse_extractors("--poses")
        return score(poses, asked.folder, queries=queries, truth_format=layout)
    from pipelines.evaluation.localization import evaluate_localization

    return asked.evaluate(evaluate_localization, layout=layout, **own)


def print_report(report: Report) -> None:
    """The tables of an evaluation, and its notes."""
    out = console()
    for table in report.tables:
        shown = new_table(*table.columns, right=table.numbers)
        for row in table.rows:
            shown.add_row(*(escape(table.text(value)) for value in row))
        out.print(f"[bold]{escape(table.title)}[/]")
        out.print(shown)
        out.print()
    for note in report.notes:
        out.print(f"note: {escape(note)}")
