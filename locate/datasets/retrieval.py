"""Labelled photos for retrieval: which layout a folder has, and what stands in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from locate.datasets.google_landmarks import (
    RECOGNITION,
    RETRIEVAL,
    read_google_recognition,
    read_google_retrieval,
    solution_files,
)
from locate.datasets.oxford_paris import (
    OXFORD,
    REVISITED,
    oxford_files,
    read_oxford,
    read_revisited,
    revisited_files,
)
from locate.datasets.records import GroundTruth, Query, RetrievalData, read_table, refuse_repeated
from locate.errors import InputError, UnknownNameError
from locate.images.folder import scan
from locate.metrics.retrieval import within_radius

LABELS, PLACES = "labels", "places"
PLACE_RADIUS = 25.0  # metres; that of Pittsburgh, Tokyo 24/7 and their successors
_SPLITS = ("query", "database", "distractor")


def read_retrieval(folder: Path, layout: str | None = None) -> RetrievalData:
    """The queries, the database and the right answers of a folder, by default of the layout (one of
    `LAYOUTS`) that its files show. `InputError` if it fits no layout or several, or a file of it is
    missing or wrong."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the folder of the labelled photos")
    if layout is not None and layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    return LAYOUTS[layout or _recognised(folder)].read(folder)


def _recognised(folder: Path) -> str:
    fitting = [name for name, layout in LAYOUTS.items() if layout.fits(folder)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        each = " or as ".join(fitting)
        raise InputError(f"{folder} can be read as {each}; say which with --layout")
    known = "\n".join(f"  {name}: {layout.form}" for name, layout in LAYOUTS.items())
    raise InputError(f"{folder} holds the files of no known layout; understood are\n{known}")


def read_labels(folder: Path) -> RetrievalData:
    """`labels.csv`; images of one landmark are the right answers to its queries.

    A landmark column that is empty means none: such database photos are right for nobody.
    """
    file = folder / "labels.csv"
    rows = read_table(file, ("image", "landmark", "split"))
    for row in rows:
        if row["split"] not in _SPLITS:
            found = f"{file}: the split of {row['image']} is {row['split']!r}"
            raise InputError(f"{found}; known: {', '.join(_SPLITS)}")
        if row["split"] == "query" and not row["landmark"]:
            raise InputError(f"{file}: the query {row['image']} has no landmark")
        if not (folder / row["image"]).is_file():
            raise InputError(f"{file} names {row['image']}, which is not below {folder}")
    refuse_repeated(f"{file} names", (row["image"] for row in rows), "twice")
    stored = [row for row in rows if row["split"] != "query"]
    shown = {
        r["image"]: r["landmark"] for r in stored if r["split"] == "database" and r["landmark"]
    }
    by_landmark = defaultdict[str, set[str]](set)
    for image, landmark in shown.items():
        by_landmark[landmark].add(image)
    queries = tuple(
        Query(
            row["image"],
            folder / row["image"],
            group=row.get("kind", ""),
            truth={"": GroundTruth(frozenset(by_landmark[row["landmark"]]))},
            landmarks=frozenset([row["landmark"]]),
        )
        for row in rows
        if row["split"] == "query"
    )
    database = {row["image"]: folder / row["image"] for row in stored}
    return RetrievalData(LABELS, queries, database, landmarks=shown)


def read_places(folder: Path) -> RetrievalData:
    """Photos with positions; those within 25 m of a query are its right answers.

    The name of a photo is `@utm_east@utm_north@zone@letter@...@.jpg`; all after the second number may be
    left out. Positions in two zones do not compare, so photos of another zone are never right.
    """
    asked, database = (_positioned(folder / part) for part in ("queries", "database"))
    ids, zones = (
        np.array(values, dtype=object)
        for values in ([*database], [zone for _, zone in database.values()])
    )
    positions = np.array([position for position, _ in database.values()])
    queries = []
    for name, (position, zone) in asked.items():
        near = within_radius(np.array([position]), positions, PLACE_RADIUS)[0] & (zones == zone)
        truth = GroundTruth(frozenset(ids[near].tolist()))
        queries.append(Query(name, folder / "queries" / name, truth={"": truth}))
    photos = {name: folder / "database" / name for name in database}
    return RetrievalData(PLACES, tuple(queries), photos)


def _positioned(folder: Path) -> dict[str, tuple[tuple[float, float], str]]:
    """((east, north) in metres, zone) of the photos below a folder by their relative path."""
    found = {}
    for photo in scan(folder):
        parts = photo.absolute.name.split("@")
        try:
            east, north = float(parts[1]), float(parts[2])
        except (IndexError, ValueError):
            raise InputError(
                f"the name of {photo.absolute} has no position; it must be called "
                "@utm_east@utm_north@...@.jpg"
            ) from None
        found[photo.path] = ((east, north), parts[3].strip() if len(parts) > 4 else "")
    if not found:
        raise InputError(f"{folder} holds no photos")
    return found


def only(data: RetrievalData, kinds: tuple[str, ...]) -> RetrievalData:
    """The same collection with the queries of some kinds (groups) alone."""
    known = sorted({query.group for query in data.queries})
    for kind in kinds:
        if kind not in known:
            raise UnknownNameError("kind of query", kind, known)
    return replace(data, queries=tuple(q for q in data.queries if q.group in kinds))


def _has_positions(folder: Path) -> bool:
    parts = (folder / "queries", folder / "database")
    return all(part.is_dir() for part in parts) and all(
        any(photo.absolute.name.startswith("@") for photo in scan(part)) for part in parts
    )


@dataclass(frozen=True)
class Layout:
    """How a folder is recognised and read; `form` says what lies in it."""

    form: str
    fits: Callable[[Path], bool]
    read: Callable[[Path], RetrievalData]


LAYOUTS: Mapping[str, Layout] = {
    LABELS: Layout(
        "labels.csv with the columns image,landmark,split (query, database or distractor) and, if there "
        "are several sorts of photos, kind",
        lambda folder: (folder / "labels.csv").is_file(),
        read_labels,
    ),
    OXFORD: Layout(
        "*_query.txt, *_good.txt, *_ok.txt and *_junk.txt of Oxford5k or Paris6k, photos in jpg/",
        lambda folder: bool(oxford_files(folder)),
        read_oxford,
    ),
    REVISITED: Layout(
        "gnd_roxford5k.pkl or gnd_rparis6k.pkl, photos in jpg/",
        lambda folder: bool(revisited_files(folder)),
        read_revisited,
    ),
    RETRIEVAL: Layout(
        "*retrieval_solution*.csv of Google Landmarks v2, photos in test/ and index/",
        lambda folder: bool(solution_files(folder, "retrieval")),
        read_google_retrieval,
    ),
    RECOGNITION: Layout(
        "*recognition_solution*.csv of Google Landmarks v2, photos in test/ and train/ and train*.csv",
        lambda folder: bool(solution_files(folder, "recognition")),
        read_google_recognition,
    ),
    PLACES: Layout(
        "queries/ and database/ with photos called @utm_east@utm_north@...@.jpg",
        _has_positions,
        read_places,
    ),
}
