"""A labelled collection for retrieval, or scenes with poses, as records, whatever the layout on disk."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pycolmap

from locate.errors import InputError
from locate.images.folder import photos_in
from locate.types import Array

Box = tuple[float, float, float, float]
ALL = "all"
Rankings = Mapping[str, Sequence[str]]  # database ids, best first, by the query's id


@dataclass(frozen=True)
class GroundTruth:
    """The right answers to one query at one level, as ids of database images: positives (`ok`),
    whether they lie on disk or not, and what is neither right nor wrong (`junk`) and is taken out
    of the ranking."""

    ok: frozenset[str] = frozenset()
    junk: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if both := sorted(self.ok & self.junk):
            raise InputError(f"images are both positive and junk: {', '.join(both[:5])}")


@dataclass(frozen=True)
class Query:
    """One query by the id of the ground truth.

    Attributes:
        photo: None where there is none (then only finished rankings can be scored).
        box: (x1, y1, x2, y2) in pixels that the photo is cropped to, or None.
        group: the kind or the split that it is counted in.
        truth: by level; "" where the layout has only one.
        landmarks: what it shows; empty where the layout does not say, or it shows none.
    """

    id: str
    photo: Path | None = None
    box: Box | None = None
    group: str = ""
    truth: Mapping[str, GroundTruth] = field(default_factory=dict)
    landmarks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RetrievalData:
    """A labelled collection, of one of `locate.datasets.retrieval.LAYOUTS`.

    Attributes:
        database: the file of each image by its id; may lack images of the ground truth.
        landmarks: what database images show, by id; one that is not named shows none of them.
        numbered: ids by number where rankings may name images by number.
    """

    layout: str
    queries: tuple[Query, ...]
    database: Mapping[str, Path]
    landmarks: Mapping[str, str] = field(default_factory=dict)
    numbered: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refuse_repeated("the query", (query.id for query in self.queries), "is listed twice")
        if not self.queries:
            raise InputError("there are no queries to evaluate")

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(self.queries[0].truth)

    @property
    def groups(self) -> list[str]:
        """The kinds of queries in the order of the alphabet, then all of them if there are several."""
        kinds = sorted({query.group for query in self.queries})
        if kinds == [""]:
            return [ALL]
        return kinds if len(kinds) == 1 else [*kinds, ALL]

    def in_group(self, group: str) -> list[Query]:
        return [query for query in self.queries if group in (ALL, query.group)]


def refuse_repeated(before: str, values: Iterable[str], after: str) -> None:
    """InputError that names the first value that stood before, between the given words."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise InputError(f"{before} {value} {after}")
        seen.add(value)


def read_table(file: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header; a cell that a short row lacks is empty. `InputError` if
    it cannot be read, or lacks one of `columns`."""
    limit = csv.field_size_limit(2**30)  # a landmark's images stand in one cell
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.reader(stream)
            header = next(rows, [])
            if any(name not in header for name in columns):
                raise InputError(
                    f"{file} needs a header with the columns {','.join(columns)}; "
                    f"found: {','.join(header)[:80] or 'nothing'}"
                )
            padding = [""] * len(header)
            return [dict(zip(header, [*row, *padding], strict=False)) for row in rows if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read the table {file}: {error}") from error
    finally:
        csv.field_size_limit(limit)


def photos_by_stem(folder: Path) -> dict[str, Path]:
    """Photos below `folder` by their name without ending, in the order of their paths; `InputError`
    if two have one name, which then does not say which is meant."""
    found: dict[str, Path] = {}
    for path in photos_in(folder).values():
        if path.stem in found:
            raise InputError(f"two photos are called {path.stem}: {found[path.stem]} and {path}")
        found[path.stem] = path
    return found


def named(ids: Collection[str], most: int = 3) -> str:
    """Some of the ids, for a message."""
    some = sorted(ids)[:most]
    return ", ".join(some) + (", ..." if len(ids) > most else "")


@dataclass(frozen=True, eq=False)
class PosedPhoto:
    """A photo (`name`: relative to the folder of photos, with forward slashes), its camera in COLMAP's
    pixels (`locate.pixels`) and its pose, 3 x 4 float64 [R | t]."""

    name: str
    path: Path
    camera: pycolmap.Camera
    cam_from_world: Array

    def __post_init__(self) -> None:
        if self.cam_from_world.shape != (3, 4) or not np.isfinite(self.cam_from_world).all():
            raise InputError(f"{self.name}: a pose must be 3 x 4 and finite")


@dataclass(frozen=True, eq=False)
class Scene:
    """Photos with poses (in metres if `metric`), sorted by name; `queries` are the names of those that
    the benchmark asks for, if it says so; `notes` tell what was left out and why."""

    name: str
    layout: str
    photos: tuple[PosedPhoto, ...]
    queries: frozenset[str]
    metric: bool = True
    notes: tuple[str, ...] = ()
