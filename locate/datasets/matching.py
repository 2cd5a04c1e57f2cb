"""Datasets of image pairs with known geometry, read from the disk as they were released.

HPatches, full sequences: Balntas et al. (CVPR 2017). Oxford affine: Mikolajczyk et al., "A comparison of
affine region detectors" (IJCV 2005). WxBS: Mishkin et al., "WxBS: wide baseline stereo
generalizations" (BMVC 2015).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from locate.errors import InputError, UnknownNameError
from locate.images.reading import is_photo_name
from locate.types import Array

Size = tuple[int, int]
Kind = Literal["illumination", "viewpoint", ""]


@dataclass(frozen=True)
class Layout:
    """How a dataset lies on the disk: its `form` in words, the regular expressions of the stem of a
    photo and of the name of a file of ground truth (the group is the number of the photo, of a pair
    the second), both names for messages, and how many levels of folders lie between the dataset and
    a sequence."""

    form: str
    photo: str
    truth: str
    photo_name: str
    truth_name: str
    depth: int


LAYOUTS: Mapping[str, Layout] = {
    "hpatches": Layout(
        "SEQUENCE/1.ppm to 6.ppm with H_1_2 to H_1_6, SEQUENCE beginning with i_ or v_",
        *(r"([1-9]\d*)", r"H_1_([1-9]\d*)", "{}", "H_1_{}", 1),
    ),
    "oxford": Layout(
        "SEQUENCE/img1.jpg to img6.jpg with H1to2p to H1to6p",
        *(r"img([1-9]\d*)", r"H1to([1-9]\d*)p", "img{}", "H1to{}p", 1),
    ),
    "wxbs": Layout(
        "CLASS/PAIR/01.jpg and 02.jpg with corrs.txt (x1 y1 x2 y2)",
        *(r"0([12])", r"corrs\.txt()", "0{}", "corrs.txt", 2),
    ),
}

# Those with an image above 1600 x 1200: Dusmanu et al., D2-Net (CVPR 2019), section 5.1.
TOO_LARGE_FOR_D2NET = frozenset(
    {
        *("i_contruction", "i_crownnight", "i_dc", "i_pencils", "i_whitebuilding"),
        *("v_artisans", "v_astronautis", "v_talent"),
    }
)

# Table 1 of Mikolajczyk et al.; the other sequences are blurred, compressed or zoomed.
_OXFORD_KINDS: Mapping[str, Kind] = {
    "graf": "viewpoint",
    "wall": "viewpoint",
    "leuven": "illumination",
}
_HPATCHES_KINDS: Mapping[str, Kind] = {"i_": "illumination", "v_": "viewpoint"}


@dataclass(frozen=True, eq=False)
class HomographyPair:
    """Two images of one plane, from the folder `sequence`. `b_from_a`, 3 x 3 float64, maps pixels
    of image a to image b. `kind` is what changes between them; "" if something else or nothing is
    known."""

    sequence: str
    image_a: Path
    image_b: Path
    b_from_a: Array
    kind: Kind = ""

    def __post_init__(self) -> None:
        h = self.b_from_a
        if h.shape != (3, 3) or not np.isfinite(h).all() or np.linalg.matrix_rank(h) < 3:
            form = "a finite, invertible 3 x 3 matrix"
            raise InputError(f"b_from_a must be {form}, got {h.tolist()}")


@dataclass(frozen=True, eq=False)
class CorrespondencePair:
    """Two images of one scene, in which somebody clicked the same spots: `points_a` and `points_b`,
    M x 2 float64, row by row, in pixels. `sequence` is CLASS/PAIR, the names of its folders; `kind`
    the class."""

    sequence: str
    image_a: Path
    image_b: Path
    points_a: Array
    points_b: Array
    kind: str = ""

    def __post_init__(self) -> None:
        m = len(self.points_a)
        for points in (self.points_a, self.points_b):
            if points.shape != (m, 2) or m == 0 or not np.isfinite(points).all():
                raise InputError(f"points must be {m or 'M'} x 2 and finite, got {points.shape}")


@dataclass(frozen=True)
class MatchingData:
    """The pairs of a dataset, which has one kind of them; those of one sequence stand together."""

    layout: str
    homographies: tuple[HomographyPair, ...] = ()
    correspondences: tuple[CorrespondencePair, ...] = ()


def read_matching_data(folder: Path, layout: str | None = None) -> MatchingData:
    """Read a dataset of pairs (or one sequence of it; for WxBS, a class or a pair); recognise its
    layout by its files unless `layout`, one of `LAYOUTS`, is given. `InputError` if there is no known
    layout, or a file of the dataset, which it names, is missing or damaged."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the folder of a dataset")
    if layout is None:
        layout = _recognise(folder)
    elif layout not in LAYOUTS:
        raise UnknownNameError("layout", layout, LAYOUTS)
    elif not _has(folder, LAYOUTS[layout]):
        form = LAYOUTS[layout].form
        raise InputError(f"{folder} has no ground truth of the layout {layout}: {form}")
    rules = LAYOUTS[layout]
    # A folder with photos and no truth is a damaged sequence, not something else.
    sequences = [
        f for f in _within(folder, rules.depth) if (found := _files(f, rules))[1] or 1 in found[0]
    ]
    if layout == "wxbs":
        return MatchingData(layout, correspondences=tuple(map(_read_clicked, sequences)))
    read = [pair for f in sequences for pair in _read_sequence(f, layout)]
    return MatchingData(layout, homographies=tuple(read))


def d2net_pairs(pairs: Iterable[HomographyPair]) -> tuple[HomographyPair, ...]:
    """Those pairs of HPatches that D2-Net's protocol keeps: 540 of the 580."""
    return tuple(pair for pair in pairs if pair.sequence not in TOO_LARGE_FOR_D2NET)


def crop_to(pixels: Array, size: Size) -> tuple[Array, Array]:
    """A photo at the low resolution of SuperPoint's protocol (DeTone et al., CVPRW 2018, section
    7): H x W x 3 uint8, resized with its aspect ratio kept until it just covers `size` (width,
    height), then cut to it around the centre; and `view_from_photo`, 3 x 3: pixels of the photo ->
    pixels of the result, corners on corners (`locate.pixels`), by the scale after rounding."""
    height, width = pixels.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    resized = max(size[0], round(width * scale)), max(size[1], round(height * scale))
    if resized != (width, height):
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, resized, interpolation=method)
    left, top = (resized[0] - size[0]) // 2, (resized[1] - size[1]) // 2
    sx, sy = resized[0] / width, resized[1] / height
    view_from_photo = np.array(
        [[sx, 0, (sx - 1) / 2 - left], [0, sy, (sy - 1) / 2 - top], [0, 0, 1]], np.float64
    )
    cut = pixels[top : top + size[1], left : left + size[0]]
    return np.ascontiguousarray(cut), view_from_photo


def _recognise(folder: Path) -> str:
    found = [name for name, rules in LAYOUTS.items() if _has(folder, rules)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{folder} has files of the layouts {' and '.join(found)}: name the folder of one, "
            "or the layout"
        )
    understood = "\n".join(f"  {name}: {rules.form}" for name, rules in LAYOUTS.items())
    truths = ", ".join(rules.truth_name.format(2) for rules in LAYOUTS.values())
    below = [f.name for f in _within(folder, 1)[1:] if any(_has(f, r) for r in LAYOUTS.values())]
    hint = f"\nIt holds datasets, though: name one of {', '.join(below)}" if below else ""
    raise InputError(
        f"{folder} is no dataset of image pairs: none of {truths} was found. The layouts that are "
        f"understood:\n{understood}{hint}"
    )


def _has(folder: Path, rules: Layout) -> bool:
    """Whether it holds ground truth of this layout."""
    return any(_files(f, rules)[1] for f in _within(folder, rules.depth))


def _within(folder: Path, depth: int) -> list[Path]:
    """The folder and the folders down to `depth` below it."""
    found = [folder]
    if depth > 0:
        _, names, _ = next(os.walk(folder), ("", [], []))  # empty where it may not be listed
        below = [folder / name for name in sorted(names) if not name.startswith(".")]
        found += [g for f in below for g in _within(f, depth - 1)]
    return found


def _files(folder: Path, rules: Layout) -> tuple[dict[int, list[Path]], dict[int, Path]]:
    """Photos of a sequence (several of a number if they differ only in their ending) and files of ground
    truth by number; nothing if the folder may not be listed."""
    photos, truths = defaultdict[int, list[Path]](list), dict[int, Path]()
    with suppress(OSError):
        for f in sorted(f for f in folder.iterdir() if not f.name.startswith(".")):
            if (number := re.fullmatch(rules.photo, f.stem)) and is_photo_name(f):
                photos[int(number[1])].append(f)
            if number := re.fullmatch(rules.truth, f.name):
                truths[int(number[1] or 2)] = f
    return photos, truths


def _photo(folder: Path, rules: Layout, number: int) -> Path:
    files, wanted = _files(folder, rules)[0].get(number, []), rules.photo_name.format(number)
    if not files:
        raise InputError(f"{folder} has no photo {wanted}; complete the sequence")
    if len(files) > 1:
        names = ", ".join(f.name for f in files)
        raise InputError(f"{folder} has several photos {wanted} ({names}); keep one")
    return files[0]


def _truth(folder: Path, rules: Layout, number: int) -> Path:
    found = _files(folder, rules)[1].get(number)
    if found is None:
        raise InputError(
            f"{folder} has no {rules.truth_name.format(number)}; complete the sequence"
        )
    return found


def _read_sequence(folder: Path, layout: str) -> list[HomographyPair]:
    rules, name = LAYOUTS[layout], folder.resolve().name
    kind = (
        _HPATCHES_KINDS.get(name[:2], "") if layout == "hpatches" else _OXFORD_KINDS.get(name, "")
    )
    reference, (photos, truths) = _photo(folder, rules, 1), _files(folder, rules)
    pairs = []
    # Without others, the second is what is missing.
    for k in sorted((photos.keys() | truths.keys()) - {1} or {2}):
        photo, file = _photo(folder, rules, k), _truth(folder, rules, k)
        b_from_a = _read_numbers(file, 3, "a 3 x 3 homography")
        if b_from_a.shape != (3, 3) or np.linalg.matrix_rank(b_from_a) < 3:
            raise InputError(f"{file} is not an invertible 3 x 3 homography; copy it again")
        pairs.append(HomographyPair(name, reference, photo, b_from_a, kind))
    return pairs


def _read_clicked(folder: Path) -> CorrespondencePair:
    rules, kind = LAYOUTS["wxbs"], folder.resolve().parent.name
    points = _read_numbers(_truth(folder, rules, 2), 4, "rows of x1 y1 x2 y2")
    photos = _photo(folder, rules, 1), _photo(folder, rules, 2)
    name = f"{kind}/{folder.resolve().name}"
    return CorrespondencePair(name, *photos, points[:, :2], points[:, 2:], kind)


def _read_numbers(file: Path, columns: int, form: str) -> Array:
    """Rows of finite numbers, float64; blank lines do not count."""
    try:
        rows = [[float(word) for word in line.split()] for line in file.read_text().splitlines()]
    except (ValueError, OSError) as error:  # a UnicodeDecodeError is a ValueError
        raise InputError(f"{file} is not {form} ({error}); copy it again") from error
    rows = [row for row in rows if row]
    if not rows or any(len(row) != columns for row in rows) or not np.isfinite(rows).all():
        raise InputError(f"{file} is not {form}: damaged or cut off; copy it again")
    return np.array(rows, np.float64)
