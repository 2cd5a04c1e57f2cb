"""What evaluations share: extract many images in order, say by which extractor, average over pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from locate.datasets.matching import CorrespondencePair, HomographyPair
from locate.errors import ImageError, InputError
from locate.extractors.base import Extractor
from locate.images.reading import read_photo
from locate.metrics.common import mean_defined
from locate.types import Array, Features
from locate.util.parallel import ordered_map
from pipelines.reports.report import Curves, Table

Progress = Callable[[int, int], None]  # (done, in all)
Prepare = Callable[[Array], tuple[Array, Array]]
Pair = TypeVar("Pair", HomographyPair, CorrespondencePair)


class Scored(Protocol):
    @property
    def pair(self) -> HomographyPair | CorrespondencePair: ...


AnyScored = TypeVar("AnyScored", bound=Scored)


@dataclass(frozen=True, eq=False)
class View:
    """What an extractor gave for one photo: keypoints in pixels of the view, which is the photo or
    a resized part of it, and the 3 x 3 homography from pixels of the photo (the identity if it is
    the photo)."""

    features: Features
    view_from_photo: Array


def folder_name(folder: Path) -> str:
    """The last part of the folder's path, also for "." and a path that ends in ".."."""
    return folder.resolve().name


def extractor_settings(extractors: Mapping[str, Extractor]) -> dict[str, Any]:
    """Who made the numbers, for `Report.settings`: by the name in the table."""
    return {
        name: {
            "name": extractor.info.name,
            "fingerprint": extractor.info.fingerprint,
            "weights": extractor.info.weights,
            "settings": dict(extractor.info.settings),
        }
        for name, extractor in extractors.items()
    }


def require_local(extractors: Mapping[str, Extractor]) -> None:
    """InputError unless there are extractors, and all of them give local features."""
    if not extractors:
        raise InputError("nothing to evaluate: name at least one extractor")
    without = [name for name, extractor in extractors.items() if not extractor.info.local_dim]
    if without:
        raise InputError(
            f"{', '.join(without)} has no local features; name an extractor that has, such as sift"
        )


def require_positive(name: str, value: float | None) -> None:
    """InputError if an option that counts or measures something is not above 0 (None is none)."""
    if value is not None and not value > 0:
        raise InputError(f"{name} must be above 0, got {value}")


def extract_views(
    photos: Sequence[Path],
    extractor: Extractor,
    prepare: Prepare | None = None,
    workers: int | None = None,
) -> Iterator[View | ImageError]:
    """The local features of many photos at full resolution, on a pool of threads and in their
    order; for a file that cannot be read its error. `prepare` maps pixels H x W x 3 to those to
    extract from and a 3 x 3 view_from_photo."""
    return ordered_map(lambda photo: _extract(photo, extractor, prepare), photos, workers)


def score_pairs(
    pairs: Sequence[Pair],
    extractors: Mapping[str, Extractor],
    score: Callable[[Extractor, int, Pair, View, View], Mapping[str, AnyScored]],
    prepare: Prepare | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, list[AnyScored]], dict[str, None]]:
    """The scores of all pairs by name, and a sentence for every unreadable image, whose pairs are left
    out (a dict's keys are a set in order); `InputError` if there are no scores. Every image is
    extracted once by each extractor, and the views of one sequence are held at a time.

    Args:
        pairs: those of one sequence stand together.
        score: (extractor, number of the pair, pair, view of image a, of image b) -> scores by what is
            appended to the extractor's name in the table.
    """
    groups = [list(group) for _, group in groupby(enumerate(pairs), lambda item: item[1].sequence)]
    images = [
        list(dict.fromkeys(path for _, pair in group for path in (pair.image_a, pair.image_b)))
        for group in groups
    ]
    step = Steps(progress, len(pairs) * len(extractors))
    scores: dict[str, list[AnyScored]] = {}
    notes: dict[str, None] = {}
    for name, extractor in extractors.items():
        stream = extract_views([path for files in images for path in files], extractor, prepare)
        for group, files in zip(groups, images, strict=True):
            views = {path: next(stream) for path in files}
            for path, view in views.items():
                if isinstance(view, ImageError):
                    left_out = sum(path in (pair.image_a, pair.image_b) for _, pair in group)
                    notes[
                        f"{group[0][1].sequence}/{path.name} {view.reason}, so {left_out} of "
                        f"{len(pairs)} pairs are left out: {view.cure}"
                    ] = None
            for number, pair in group:
                a, b = views[pair.image_a], views[pair.image_b]
                if isinstance(a, View) and isinstance(b, View):
                    for ending, scored in score(extractor, number, pair, a, b).items():
                        scores.setdefault(name + ending, []).append(scored)
                step()
        if not scores:
            raise InputError("no pair could be looked at: " + "; ".join(notes))
    return scores, notes


def homography_between(pair: HomographyPair, view_a: View, view_b: View) -> Array:
    """`b_from_a` of two views, 3 x 3."""
    return view_b.view_from_photo @ pair.b_from_a @ np.linalg.inv(view_a.view_from_photo)


def pair_tables(
    title: str,
    by_sequence: str,
    measures: tuple[str, ...],
    scores: Mapping[str, Sequence[AnyScored]],
    row_of: Callable[[Sequence[AnyScored]], tuple[Any, ...]],
) -> tuple[Table, Table]:
    """The means over all pairs and over those in which the same changes (a table called `title`),
    and those by sequence. `row_of` maps scores to the values of `measures`."""

    def table(title: str, label: str, groups_of: Callable[[Any], tuple[str, ...]]) -> Table:
        groups: dict[str, dict[str, list[AnyScored]]] = {}
        for name, found in scores.items():
            for scored in found:
                for group in groups_of(scored.pair):
                    groups.setdefault(group, {}).setdefault(name, []).append(scored)
        rows = [
            (group, name, len(members), *row_of(members))
            for group, by_name in groups.items()
            for name, members in by_name.items()
        ]
        return Table(title, (label, "extractor", "pairs", *measures), tuple(rows))

    by_kind = table(title, "images", lambda p: ("all", p.kind) if p.kind else ("all",))
    return by_kind, table(by_sequence, "sequence", lambda p: (p.sequence,))


def mean_columns(rows: Sequence[Array | tuple[float, ...]]) -> Array:
    """The mean of each of T columns over the rows where it is defined: T numbers."""
    return np.array([mean_defined(column) for column in np.array(rows).T])


def curves_over_pixels(
    name: str, title: str, y_label: str, x: Sequence[float], by_name: Mapping[str, Array]
) -> Curves:
    """One curve an extractor over a threshold in pixels."""
    thresholds = np.array(x, np.float64)
    series = {label: (thresholds, shares) for label, shares in by_name.items()}
    return Curves(name, title, "threshold (pixels)", y_label, series)


def matched_points(a: Features, b: Features, matches: Array) -> tuple[Array, Array]:
    """Where M matches (indices into a and b, M x 2) lie: M x 2 pixels in each image."""
    return a.keypoints[matches[:, 0]], b.keypoints[matches[:, 1]]


class Steps:
    """Counts the steps of several extractors for one progress display."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def steps_of_part(step: Callable[[], None]) -> Callable[[int], None]:
    """Called with how many of a part are done, it makes each of these steps once."""
    made = 0

    def advance(done: int) -> None:
        nonlocal made
        for _ in range(made, done):
            step()
        made = max(made, done)

    return advance


def _extract(path: Path, extractor: Extractor, prepare: Prepare | None) -> View | ImageError:
    try:
        pixels = read_photo(path).pixels
    except ImageError as error:
        return error
    view_from_photo = np.eye(3)
    if prepare is not None:
        pixels, view_from_photo = prepare(pixels)
    features = extractor.extract(pixels).features
    if features is None:
        raise InputError(f"{extractor.info.name} gave no local features of {path}")
    return View(features, view_from_photo)
