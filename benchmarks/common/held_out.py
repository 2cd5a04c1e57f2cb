"""The photos and places of `train/` that no training sees, by the rules of `locate.training.data.photos`."""

from __future__ import annotations

from pathlib import Path

from locate.images.folder import photos_in
from locate.training.data.photos import (
    PLACES,
    PhotoPool,
    name_fraction,
    of_place_held_out,
    own_name,
)

SHOWN = ("bsds500-0129.jpg",)  # of `train/photos`: the Taj Mahal, which `train/landmarks` has too


def held_out_photos(data: Path) -> list[Path]:
    """Of `train/photos`, in an order of their names' digests, so that sources are mixed."""
    pool = PhotoPool.scan(data / "train/photos", held_out=None)
    return in_mixed_order([pool.paths[i] for i in pool.held_out])


def places_of(data: Path, kind: str, *, held_out: bool = True) -> dict[str, list[Path]]:
    """Photos by place, of `train/KIND`: the places that are held out, or the others."""
    folder, (depth, _) = data / "train" / kind, PLACES[kind]
    found: dict[str, list[Path]] = {}
    for name, path in photos_in(folder).items() if folder.is_dir() else ():
        parts = name.split("/")
        if len(parts) > depth and of_place_held_out(own_name(path, data / "train")) == held_out:
            found.setdefault("/".join(parts[:depth]), []).append(path)
    return {place: found[place] for place in sorted(found)}


def in_mixed_order(paths: list[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: name_fraction(path.name))
