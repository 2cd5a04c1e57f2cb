"""Oxford5k and Paris6k, as they came and revisited.

The first ground truth (Philbin et al., CVPR 2007 and 2008) is four text files a query:
`all_souls_1_query.txt` (a photo's name and a box, x1 y1 x2 y2), `_good.txt`, `_ok.txt` and `_junk.txt`
(names, one a line). The second (Radenovic et al., CVPR 2018) is one pickle, `gnd_roxford5k.pkl` or
`gnd_rparis6k.pkl`: `imlist`, `qimlist`, and for each query `bbx`, `easy`, `hard` and `junk` (numbers
into `imlist`). The photos lie in `jpg/`, or anywhere below the folder. Queries are cropped to their box.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from locate.datasets.records import Box, GroundTruth, Query, RetrievalData, named, photos_by_stem
from locate.datasets.safe_pickle import load_plain
from locate.errors import ImageError, InputError
from locate.metrics.retrieval import Level, revisited_lists
from locate.types import Array

OXFORD, REVISITED = "oxford", "revisited"
_PREFIX = "oxc1_"  # before the names of Oxford's query files, not before those of the photos
_LEVELS: tuple[Level, ...] = ("easy", "medium", "hard")


def oxford_files(folder: Path) -> list[Path]:
    """The query files of the first ground truth, in the folder or one below."""
    return sorted([*folder.glob("*_query.txt"), *folder.glob("*/*_query.txt")])


def revisited_files(folder: Path) -> list[Path]:
    """The pickles of the revisited ground truth."""
    return sorted(folder.glob("gnd_*.pkl"))


def read_oxford(folder: Path) -> RetrievalData:
    """The first ground truth; good and ok images are positives."""
    photos = _photos(folder)
    queries = []
    for file in oxford_files(folder):
        stem = file.name.removesuffix("_query.txt")
        name, box = _query_line(file)
        if name not in photos:
            name = name.removeprefix(_PREFIX)
        good, ok, junk = (
            frozenset(
                line.strip().removeprefix(_PREFIX)
                for line in _text(file.with_name(f"{stem}_{part}.txt")).splitlines()
                if line.strip()
            )
            for part in ("good", "ok", "junk")
        )
        truth = {"": GroundTruth(good | ok, junk)}
        queries.append(Query(stem, _query_photo(photos, name, file), box, truth=truth))
    return RetrievalData(OXFORD, tuple(queries), photos, notes=_missing(queries, photos))


def read_revisited(folder: Path) -> RetrievalData:
    """ROxford5k or RParis6k, with the levels easy, medium and hard."""
    files = revisited_files(folder)
    if len(files) != 1:
        raise InputError(
            f"{folder} holds {len(files)} files gnd_*.pkl ({named([f.name for f in files])}); "
            "give each its own folder"
        )
    content = load_plain(files[0])
    try:
        images, names = ([str(name) for name in content[key]] for key in ("imlist", "qimlist"))
        entries = [_entry(gnd, images) for gnd in content["gnd"]]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{files[0]} is not a ground truth of imlist, qimlist and gnd "
            f"({type(error).__name__}: {error})"
        ) from error
    if len(names) != len(entries):
        raise InputError(f"{files[0]} lists as queries {len(names)} but as answers {len(entries)}")
    photos = _photos(folder)
    queries = [
        Query(name, _query_photo(photos, name, files[0]), box, truth=truth)
        for name, (box, truth) in zip(names, entries, strict=True)
    ]
    # Only imlist is searched: the photos of the queries lie in the same folder.
    database = {name: photos[name] for name in images if name in photos}
    notes = _missing(queries, photos, images)
    return RetrievalData(REVISITED, tuple(queries), database, numbered=tuple(images), notes=notes)


def crop(pixels: Array, box: Box, photo: Path) -> Array:
    """H x W x 3 pixels -> those in the box, its corners rounded and held inside the photo;
    `ImageError` if there are none."""
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = (round(value) for value in box)
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if left >= right or top >= bottom:
        reason = f"has nothing in the box {box} of its {width} x {height} px"
        raise ImageError(photo, reason, "check that photos and ground truth belong together")
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def _photos(folder: Path) -> dict[str, Path]:
    return photos_by_stem(folder / "jpg" if (folder / "jpg").is_dir() else folder)


def _query_photo(photos: Mapping[str, Path], name: str, file: Path) -> Path | None:
    if photos and name not in photos:
        raise InputError(f"{file}: there is no photo of the query {name} below {file.parent}")
    return photos.get(name)  # without any photos finished rankings can still be scored


def _query_line(file: Path) -> tuple[str, Box]:
    words = _text(file).split()
    try:
        name, *corners = words
        x1, y1, x2, y2 = (float(word) for word in corners)
    except ValueError:
        raise InputError(f"{file} must hold a name and x1 y1 x2 y2, found: {words[:6]}") from None
    return name, (x1, y1, x2, y2)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from error


def _entry(gnd: Mapping[str, Any], images: list[str]) -> tuple[Box, dict[str, GroundTruth]]:
    x1, y1, x2, y2 = (float(value) for value in gnd["bbx"])
    easy, hard, junk = (_listed(gnd[part], images) for part in ("easy", "hard", "junk"))
    truth: dict[str, GroundTruth] = {
        level: GroundTruth(*map(frozenset, revisited_lists(easy, hard, junk, level)))
        for level in _LEVELS
    }
    return (x1, y1, x2, y2), truth


def _listed(numbers: Iterable[Any], images: list[str]) -> list[str]:
    numbers = list(numbers)
    for number in numbers:
        if int(number) != number or not 0 <= number < len(images):
            raise ValueError(f"an image of number {number}, but imlist has {len(images)}")
    return [images[int(number)] for number in numbers]


def _missing(
    queries: list[Query], photos: Mapping[str, Path], images: Iterable[str] = ()
) -> tuple[str, ...]:
    """A note on images of the ground truth that are not on disk. Some photos of Paris6k have always been
    broken, so a few may miss."""
    if not photos:
        return ()
    wanted = {i for q in queries for t in q.truth.values() for i in t.ok | t.junk} | {*images}
    missing = wanted - photos.keys()
    if len(missing) > len(wanted) / 2:
        raise InputError(
            f"of {len(wanted)} images of the ground truth {len(missing)} are not there "
            f"({named(missing)}); put the photos into a folder jpg/ beside it"
        )
    if not missing:
        return ()
    note = "images of the ground truth that are not there and count as never found"
    return (f"{note}: {len(missing)} ({named(missing)})",)
