"""Which files of a folder are read as its COLMAP model, and what lies beside them.

COLMAP reads the binary where it is whole, else the text. A folder may hold both, of which one is of an
older run, and a mapper writes its models into folders 0, 1, ... of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pycolmap

from locate.errors import InputError
from locate.geometry.rigid import centers_of
from locate.types import Array

FORMS = {"bin": "binary", "txt": "text"}
_DEPTH = 3  # of folders that are looked through for a model
_NAMED = 3
_Poses = Mapping[str, Array]
_Model = tuple[Mapping[str, pycolmap.Camera], _Poses]  # by name
_SAME = 1e-4  # radians, share of the extent, share of a camera's parameters: what rounding leaves


def has_form(folder: Path, end: str, *, points: bool = False) -> bool:
    """Whether the cameras and images (with `points`, the points as well) are there in one form."""
    names = ("cameras", "images", *(("points3D",) if points else ()))
    return all((folder / f"{name}.{end}").is_file() for name in names)


def models_below(folder: Path) -> list[Path]:
    """Every folder at or below `folder` that holds a whole COLMAP model, with its points."""
    found = {path.parent for path in folder.rglob("points3D.*")}
    return sorted(path for path in found if any(has_form(path, end, points=True) for end in FORMS))


def form_of(folder: Path) -> str | None:
    """What COLMAP would read, "bin" or "txt", or else what can be read without points; None for none."""
    whole = (end for end in FORMS if has_form(folder, end, points=True))
    part = (end for end in FORMS if has_form(folder, end))
    return next(whole, None) or next(part, None)


def no_model(folder: Path) -> InputError:
    """The error that there is no model in `folder`, with where one is."""
    if not folder.exists():
        return InputError(f"{folder}: no COLMAP model, as it does not exist; check the name")
    if folder.is_file():
        return InputError(
            f"{folder} is a file; name the folder of the model, maybe {folder.parent}"
        )
    inside = _models_in(folder)
    if inside:
        some = " or ".join(str(place) for place in inside[:_NAMED])
        more = f" (and {len(inside) - _NAMED} more)" if len(inside) > _NAMED else ""
        lies = "the model lies in" if len(inside) == 1 else "models lie in"
        return InputError(f"{folder}: no COLMAP model here; {lies} {some}{more}: name that folder")
    names = [f"{name}.{end}" for name in ("cameras", "images") for end in FORMS]
    there = [name for name in names if (folder / name).is_file()]
    found = f"only {' and '.join(there)} of it is there" if there else "there is none of them"
    return InputError(
        f"{folder}: no COLMAP model; cameras and images (.txt or .bin) are missing: {found}; copy "
        "both files of one form"
    )


def _models_in(folder: Path) -> list[Path]:
    """Folders below `folder` that hold a model, the nearest first."""
    level, found = [folder], list[Path]()
    for _ in range(_DEPTH):
        try:
            level = sorted(path for place in level for path in place.iterdir() if path.is_dir())
        except OSError:
            break
        found += [path for path in level if form_of(path)]
    return found


def difference(mine: _Model, other: _Model) -> str:
    """How the cameras and poses of two models differ by more than rounding; "" if they do not."""
    (cameras_a, poses_a), (cameras_b, poses_b) = mine, other
    names = sorted(poses_a.keys() & poses_b.keys())
    lone = len(poses_a.keys() ^ poses_b.keys())
    others = sum(not _same_camera(cameras_a[name], cameras_b[name]) for name in names)
    found = (
        f"{lone} images are in one of them only" if lone else "",
        names and pose_difference(poses_a, poses_b, names),
        f"the cameras of {others} images are not the same" if others else "",
    )
    return "; ".join(text for text in found if text)


def pose_difference(mine: _Poses, other: _Poses, names: Sequence[str]) -> str:
    """How some poses, 3 x 4 each by name, differ from others; "" if they do not."""
    a, b = (np.array([poses[name] for name in names]) for poses in (mine, other))
    centres = [centers_of(poses) for poses in (a, b)]
    extents = [float(np.linalg.norm(np.ptp(c, axis=0))) for c in centres]
    apart = np.linalg.norm(centres[0] - centres[1], axis=1)
    turned = np.abs(a[:, :, :3] - b[:, :, :3]).max(axis=(1, 2))
    differ = (apart > _SAME * max(*extents, 1e-12)) | (turned > _SAME)
    if not differ.any():
        return ""
    ratio = extents[0] / extents[1] if min(extents) > 0 else 1.0
    times = f", one {max(ratio, 1 / ratio):.3g} times as large" if abs(np.log(ratio)) > 0.01 else ""
    return (
        f"{int(differ.sum())} of {len(a)} poses are not the same{times}; centres are up to "
        f"{apart.max():.3g} units apart"
    )


def _same_camera(a: pycolmap.Camera, b: pycolmap.Camera) -> bool:
    if (a.model, a.width, a.height) != (b.model, b.width, b.height):
        return False
    scale = max(float(np.abs(a.params).max()), 1.0)
    return bool(np.allclose(a.params, b.params, rtol=_SAME, atol=1e-9 * scale))
