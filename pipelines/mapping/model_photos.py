"""Which files are the photos of a COLMAP model whose poses are imported."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from locate.errors import InputError
from locate.formats.colmap import PoseModel
from locate.geometry.rigid import centers_of
from locate.util.printable import first_few

_ONE_SPOT = 1e-9  # share of the coordinates


_composed = partial(unicodedata.normalize, "NFC")
# How names may differ that mean the same, and what is the same in them.
_ALIKE: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("names differ only in how accents are encoded", _composed),
    ("names differ only in case", lambda name: _composed(name).casefold()),
    ("names differ only in their ending", lambda name: str(PurePosixPath(name).with_suffix(""))),
)


def named_by_path(model: Path, posed: PoseModel) -> PoseModel:
    """Names as the catalogue writes paths; `InputError` if there are too few, one leads out of the
    folder, or two are one path."""
    count = len(posed.poses)
    if count < 2:
        raise InputError(f"{model} holds {count} images with poses; a map needs two or more")
    paths = {name: PurePosixPath(name.replace("\\", "/")) for name in posed.poses}
    names: dict[str, str] = {}
    for name, path in paths.items():
        if path.is_absolute() or ".." in path.parts:
            raise InputError(
                f"{model}: the image name {name!r} must be relative to the folder of images; "
                "shorten the names in the model"
            )
        other = names.setdefault(str(path), name)
        if other != name:
            raise InputError(
                f"{model}: {other!r} and {name!r} are the same photo; take one out of the model"
            )
    return PoseModel(
        {str(paths[name]): camera for name, camera in posed.cameras.items()},
        {str(paths[name]): pose for name, pose in posed.poses.items()},
        posed.notes,
    )


def present(model: Path, images: Path, posed: PoseModel, skip: bool) -> tuple[PoseModel, list[str]]:
    """The model of the photos that are there, and the names of the others, sorted, which are left
    out with `skip`; else `InputError` names the cause, where one shows."""
    if not images.is_dir():
        raise InputError(f"{images} is no folder; name the one that holds the model's photos")
    missing = sorted(name for name in posed.poses if not (images / name).is_file())
    if not missing:
        return posed, []
    left = len(posed.poses) - len(missing)
    if skip and left >= 2:
        there = [name for name in posed.poses if name not in set(missing)]
        cameras, poses = ({n: d[n] for n in there} for d in (posed.cameras, posed.poses))
        return PoseModel(cameras, poses, posed.notes), missing
    cure = "name the folder that the model's image names are relative to"
    cure += ", or go on without them by --skip-missing" if left >= 2 else ""
    text = f"{len(missing)} of the {len(posed.poses)} photos of {model} are not in {images}: "
    raise InputError(text + first_few(missing) + "; " + (_cause(images, missing) or cure))


def require_places(model: Path, posed: PoseModel) -> None:
    """InputError if all cameras stand at one spot."""
    centres = centers_of(np.array(list(posed.poses.values())))
    if np.ptp(centres, axis=0).max() <= _ONE_SPOT * (1 + np.abs(centres).max()):
        place = ", ".join(f"{value:.4g}" for value in centres[0])
        raise InputError(
            f"{model}: all {len(centres)} cameras stand at one spot, ({place}), so no point "
            "can be triangulated; a map needs photos from different places, and their poses"
        )


def _cause(images: Path, missing: Sequence[str]) -> str | None:
    """Why photos are not found, if what is there tells it."""
    there = sorted(p.relative_to(images).as_posix() for p in images.rglob("*") if p.is_file())
    for said, key in _ALIKE:
        known = {key(name): name for name in there}
        found = [name for name in missing if key(name) in known]
        if found:
            example = f"the model has {found[0]}, the folder {known[key(found[0])]}"
            return f"{said} ({example}; {len(found)} such); rename the photos or the model's images"
    name = missing[0]
    below = next((path for path in there if path.endswith(f"/{name}")), None)
    above = next((up for up in images.resolve().parents if (up / name).is_file()), None)
    place = above if below is None else images / below.removesuffix(f"/{name}")
    return None if place is None else f"{name} lies in {place}: name that folder"
