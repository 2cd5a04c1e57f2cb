"""A folder of photos to train on: which ones there are, which are held out, and their pixels.

Training must give the same batch for the same (seed, step) whenever it is asked, so nothing here
depends on what was read before: which photo is drawn depends on the caller's random numbers and on
the files, not on the cache."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from locate.errors import ImageError, InputError
from locate.images.folder import photos_in
from locate.images.reading import read_photo
from locate.pixels import fit_size
from locate.types import Array

log = logging.getLogger("locate")

Split = Literal["train", "held_out"]
CACHE_BYTES = 10**9
_SHARES = (0.05, 0.2, 0.5)  # that are tried until one photo is held out
SINGLES = ("photos", "distractors")  # folders of photos that have nothing in common
# Folders of places: how many folders below them name one, and which share of them no training sees.
PLACES: Mapping[str, tuple[int, float]] = {
    "scenes": (1, 0.2),
    "landmarks": (1, 0.3),
    "places": (2, 0.6),
}


class PhotoPool:
    """Photos by number, their place in `paths`, with a cache. Safe to use from several threads. `train`
    and `held_out` are indices, int64, ascending; together all photos.

    Of the photos the share `held_out`, 0 to below 1, is never seen by training, nor are those of places
    held out (`of_place_held_out`). Whether a photo is one of them follows from its name alone, so it
    does not change when photos are added. None for 0.05, and more of a few photos, so that at least one
    is. If all photos were of places held out, that rule does not count."""

    def __init__(
        self,
        paths: Sequence[Path | str],
        root: Path | str | None = None,  # of `names`; None for the bare file names
        held_out: float | None = 0.05,
        cache_bytes: int = CACHE_BYTES,  # that decoded photos may take
    ) -> None:
        if not paths:
            raise InputError("there is no photo to train on; name a folder or files that hold some")
        if held_out is not None and not 0 <= held_out < 1:
            raise InputError(f"the held-out share must be in [0, 1), got {held_out}")
        self.paths = tuple(Path(p) for p in paths)
        self.names = tuple(_name(p, root) for p in self.paths)
        self.index = {path: i for i, path in enumerate(self.paths)}
        own = [own_name(path, root) for path in self.paths]
        fractions = np.array([name_fraction(name) for name in own])
        of_places = np.array([of_place_held_out(name) for name in own])
        for share in _SHARES if held_out is None else (held_out,):
            aside = (fractions < share) | (of_places & ~of_places.all())
            if 0 < aside.sum() < len(aside):
                break
        self.train: Array = np.flatnonzero(~aside)
        self.held_out: Array = np.flatnonzero(aside)
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[tuple[int, int], Array] = OrderedDict()
        self._cached = 0
        self._readable: dict[int, bool] = {}
        self._lock = threading.Lock()

    @classmethod
    def scan(
        cls, folder: Path | str, held_out: float | None = 0.05, cache_bytes: int = CACHE_BYTES
    ) -> PhotoPool:
        """Every photo below `folder`, in the order of names; hidden files are left out."""
        folder = Path(folder)
        paths = tuple(photos_in(folder).values())
        if not paths:
            raise InputError(f"{folder} holds no photo; name a folder of JPEG, PNG, ... files")
        return cls(paths, folder, held_out, cache_bytes)

    def __len__(self) -> int:
        return len(self.paths)

    def pick(self, rng: np.random.Generator, which: Split = "train") -> int:
        """The index of a random photo that can be decoded; `InputError` if there is none. A file that
        cannot is logged once, with the cure, and another is drawn."""
        side = {"train": self.train, "held_out": self.held_out}.get(which)
        if side is None:
            raise InputError(f"photos are drawn from 'train' or 'held_out', not {which!r}")
        # Drawn from all, the bad ones too: else the answer would depend on which were found so far.
        while any(self._readable.get(int(i), True) for i in side):
            index = int(side[rng.integers(len(side))])
            if self.usable(index):
                return index
        raise InputError(
            f"none of the {len(side)} photos for {which!r} can be used; add photos or "
            "change the held-out share"
        )

    def draw(self, rng: np.random.Generator, held_out: bool, long_side: int) -> Array:
        """The pixels of a random photo, see `pick` and `read`."""
        return self.read(self.pick(rng, "held_out" if held_out else "train"), long_side)

    def in_training(self, *paths: Path) -> bool:
        """Whether all of these photos are here and none is held out."""
        places = {self.index.get(path) for path in paths}
        return None not in places and places.isdisjoint(self.held_out.tolist())

    def usable(self, index: int) -> bool:
        """Whether the photo can be decoded; found out by decoding it, once."""
        if index not in self._readable:
            try:
                read_photo(self.paths[index], min_long_side=1)  # the cheapest way to see every byte
                self._note(index, None)
            except ImageError as error:
                self._note(index, error)
        return self._readable[index]

    def read(self, index: int, long_side: int) -> Array:
        """The photo, H x W x 3 uint8, shrunk (never enlarged) to at most `long_side` pixels along its
        long side; read-only, since it stays in the cache. `ImageError` if the file cannot be decoded;
        it is not `usable` from now on."""
        if long_side < 1:
            raise InputError(f"the long side must be at least 1 pixel, got {long_side}")
        key = (int(index), long_side)
        with self._lock:
            kept = self._cache.get(key)
            if kept is not None:
                self._cache.move_to_end(key)
                return kept
        try:
            pixels = read_photo(self.paths[index], min_long_side=long_side).pixels
        except ImageError as error:
            self._note(index, error)
            raise
        self._note(index, None)
        size = (pixels.shape[1], pixels.shape[0])
        target = fit_size(size, long_side)
        if target != size:
            pixels = np.asarray(cv2.resize(pixels, target, interpolation=cv2.INTER_AREA))
        pixels.flags.writeable = False
        with self._lock:
            if key not in self._cache and pixels.nbytes <= self._cache_bytes:
                self._cache[key] = pixels
                self._cached += pixels.nbytes
                while self._cached > self._cache_bytes:
                    _, oldest = self._cache.popitem(last=False)
                    self._cached -= oldest.nbytes
        return pixels

    def _note(self, index: int, error: ImageError | None) -> None:
        with self._lock:
            news = self._readable.get(index, True)
            self._readable[index] = error is None
        if error is not None and news:
            log.warning("left out of training: %s", error)


def _name(path: Path, root: Path | str | None) -> str:
    if root is None:
        return path.name
    try:
        return path.relative_to(root).as_posix()
    except ValueError:
        raise InputError(f"{path} is not below {root}; name the folder of all photos") from None


def own_name(path: Path, root: Path | str | None) -> str:
    """The name that decides what a photo is held out by: relative to `root`, from the first folder on
    that is one of `SINGLES` or `PLACES`, so that it is the same whether that or a folder around it was
    named as the root; None for the bare file name."""
    if root is None:
        return path.name
    parts = (Path(root).resolve().name, *_name(path, root).split("/"))
    known = (i for i, part in enumerate(parts[:-1]) if part in SINGLES or part in PLACES)
    return "/".join(parts[next(known, 1) :])


def of_place_held_out(own: str) -> bool:
    """Whether a photo, by its `own_name`, shows a place that no training sees: in one of `PLACES` some
    folders, by their names alone. Their photos are what settings are chosen by."""
    kind, *folders = own.split("/")[:-1] or [""]
    depth, share = PLACES.get(kind, (0, 0.0))
    return 0 < depth <= len(folders) and name_fraction(folders[depth - 1]) < share


def never_trained_on(path: Path, root: Path | str) -> bool:
    """Whether a photo below `root` is held out by the rules of a `PhotoPool` at its default, for recipes
    that draw from other lists."""
    own = own_name(path, root)
    return name_fraction(own) < _SHARES[0] or of_place_held_out(own)


def name_fraction(name: str) -> float:
    """0 to 1, by the name alone: where it is below a share, the photo belongs to that."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8]) / 2.0**64
