"""What evaluations share: extract many images in order, say by which extractor, average over pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from locate.errors import ImageError, InputError
from locate.extractors.base import Extractor
from locate.images.reading import read_photo
from locate.metrics.common import mean_defined
from locate.types import Array, Features
from locate.util.parallel import ordered_map
from pipelines.reports.report import Curves

Progress = Callable[[int, int], None]  # (done, in all)
Prepare = Callable[[Array], tuple[Array, Array]]


class ImagePair(Protocol):
    """Two images of one sequence."""

    @property
    def sequence(self) -> str: ...
    @property
    def image_a(self) -> Path: ...
    @property
    def image_b(self) -> Path: ...


class Scored(Protocol):
    """What came of one pair."""

    @property
    def pair(self) -> Any: ...


Pair = TypeVar("Pair", bound=ImagePair)
AnyScored = TypeVar("AnyScored", bound=Scored)


@dataclass(frozen=True, eq=False)
class View:
    """What an extractor saw in one photo.

    Attributes:
        features: keypoints in pixels of the view, which is the photo or a resized part of it.
        view_from_photo: 3 x 3 homography from pixels of the photo; the identity if it is the photo.
    """

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


def strongest(features: Features, keep: int | None) -> Features:
    """The `keep` best features; all if None."""
    if keep is None or len(features) <= keep:
        return features
    return Features(
        features.keypoints[:keep],
        features.scores[:keep],
        features.descriptors[:keep],
        features.image_size,
    )


def extract_views(
    photos: Sequence[Path],
    extractor: Extractor,
    prepare: Prepare | None = None,
    workers: int | None = None,
) -> Iterator[View | ImageError]:
    """The local features of many photos on a pool of threads, in their order.

    Args:
        photos: read at full resolution.
        prepare: pixels H x W x 3 -> (pixels to look at, 3 x 3 view_from_photo); None to look at the
            photo itself.
        workers: threads; None for one a core.

    Returns:
        For each photo its view, or the error of a file that cannot be read.
    """
    return ordered_map(lambda photo: _look(photo, extractor, prepare), photos, workers)


def walk_pairs(
    pairs: Sequence[Pair],
    extractor: Extractor,
    prepare: Prepare | None = None,
    *,
    notes: dict[str, None],
    progress: Callable[[], None] | None = None,
) -> Iterator[tuple[int, Pair, View, View]]:
    """Each pair with the views of both images. Every image is looked at once, and the views of one
    sequence are held at a time.

    Args:
        pairs: those of one sequence stand together.
        notes: gets a sentence for every unreadable image; the pairs it belongs to are left out.
            (The keys of a dict are a set in order: a second extractor adds nothing new.)
        progress: called after each pair.

    Yields:
        (number of the pair in `pairs`, the pair, view of image a, view of image b).
    """
    groups = [list(group) for _, group in groupby(enumerate(pairs), lambda item: item[1].sequence)]
    images = [
        list(dict.fromkeys(path for _, pair in group for path in (pair.image_a, pair.image_b)))
        for group in groups
    ]
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
                yield number, pair, a, b
            if progress is not None:
                progress()


def require_some(scores: Sequence[object], notes: Mapping[str, None]) -> None:
    """InputError if there are no scores, saying why not."""
    if not scores:
        raise InputError("no pair could be looked at: " + "; ".join(notes))


def by_kind(pair: Any) -> tuple[str, ...]:
    """The groups of a pair: all, and what changes between its images where that is known."""
    return ("all", pair.kind) if pair.kind else ("all",)


def by_sequence(pair: ImagePair) -> tuple[str, ...]:
    """The group of a pair: its sequence."""
    return (pair.sequence,)


def grouped_rows(
    scores: Mapping[str, Sequence[AnyScored]],
    groups_of: Callable[[Any], tuple[str, ...]],
    row_of: Callable[[Sequence[AnyScored]], tuple[Any, ...]],
) -> tuple[tuple[Any, ...], ...]:
    """Rows (group, extractor, pairs, ...) of a table, a group's extractors one below the other.

    Args:
        scores: by the extractor's name.
        groups_of: a pair -> the groups that it belongs to, such as `by_kind`.
        row_of: the scores of a group -> the values of its row.
    """
    groups: dict[str, dict[str, list[AnyScored]]] = {}
    for name, found in scores.items():
        for scored in found:
            for group in groups_of(scored.pair):
                groups.setdefault(group, {}).setdefault(name, []).append(scored)
    return tuple(
        (group, name, len(members), *row_of(members))
        for group, by_name in groups.items()
        for name, members in by_name.items()
    )


def mean_columns(rows: Sequence[Array]) -> Array:
    """The mean of each of T columns over the rows where it is defined: T numbers."""
    return np.array([mean_defined(column) for column in np.transpose(rows)])


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


def _look(path: Path, extractor: Extractor, prepare: Prepare | None) -> View | ImageError:
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
