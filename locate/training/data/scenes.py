"""Which photos show the same place: by their folders, or by a model that was reconstructed from them."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from locate.errors import ImageError, InputError
from locate.formats.colmap import read_reconstruction
from locate.formats.colmap_files import models_below
from locate.images.exif import read_exif
from locate.images.folder import photos_in
from locate.pixels import from_colmap
from locate.training.data.correspondences import MatchedPair, load_pairs, save_pairs
from locate.training.data.photos import PLACES, SINGLES
from locate.training.data.pseudo import Teacher, pseudo_pairs
from locate.types import Array

log = logging.getLogger("locate")


def scenes_of(folder: Path | str) -> dict[str, tuple[Path, ...]]:
    """Scene name -> its photos, two or more, by the folders that they lie in.

    Where `folder` holds some of `PLACES`, their folders are the scenes, at the depth that is said there:
    `scenes/NAME`, `landmarks/NAME`, `places/SET/NAME`, of the first by NAME alone. If not, each folder
    in `folder` is one, but for `photos` and `distractors`. Folders within a scene belong to it; folders
    with less than two photos are no scenes, and neither are hidden ones."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the one that holds the scenes")
    kinds = [kind for kind in PLACES if (folder / kind).is_dir()]
    if kinds:
        named = {
            place.relative_to(folder / kind if kind == "scenes" else folder).as_posix(): place
            for kind in kinds
            for place in sorted((folder / kind).glob("/".join("*" * PLACES[kind][0])))
        }
    else:
        named = {
            place.name: place for place in sorted(folder.iterdir()) if place.name not in SINGLES
        }
    scenes = {
        name: tuple(photos_in(place).values())
        for name, place in named.items()
        if place.is_dir() and not any(part.startswith(".") for part in name.split("/"))
    }
    return {name: photos for name, photos in scenes.items() if len(photos) > 1}


def singles_of(folder: Path | str) -> tuple[Path, ...]:
    """Photos that show nothing that another one does, in the order of names: those that lie in `folder`
    itself and those below its folders `photos` and `distractors`. None is in a scene of `scenes_of`."""
    photos = photos_in(Path(folder)).items()
    return tuple(p for name, p in photos if "/" not in name or name.split("/")[0] in SINGLES)


def find_models(folder: Path | str) -> tuple[Path, ...]:
    """Every folder at or below `folder` that holds a COLMAP model, as binary or text files."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; name the one that holds the models")
    return tuple(models_below(folder))


class _View(NamedTuple):
    """One image of a model: the N points that it saw by their ids, ascending and distinct, and where,
    N x 2 in our pixels."""

    path: Path
    ids: Array
    points: Array


def model_pairs(
    model_folder: Path | str, images_folder: Path | str, min_shared: int = 30
) -> list[MatchedPair]:
    """All pairs of a COLMAP model's images (names relative to `images_folder`) that share at least
    `min_shared` 3D points, with these, in the order of the image names."""
    if min_shared < 1:
        raise InputError(f"pairs must share at least 1 point, got min_shared = {min_shared}")
    views = _views(read_model(Path(model_folder)), Path(model_folder), Path(images_folder))
    owners = np.repeat(np.arange(len(views)), [len(view.ids) for view in views])
    ids = np.concatenate([view.ids for view in views])
    order = np.argsort(ids, kind="stable")
    owners, ids = owners[order], ids[order]  # now each point's images stand together
    pairs = []
    for a, view in enumerate(views):
        ranges = (np.searchsorted(ids, view.ids, side) for side in ("left", "right"))
        seen_by = [owners[i:j] for i, j in zip(*ranges, strict=True)]
        shared = np.bincount(np.concatenate([owners[:0], *seen_by]), minlength=len(views))
        pairs += [_pair(view, views[b]) for b in np.flatnonzero(shared >= min_shared) if b > a]
    return pairs


def _pair(a: _View, b: _View) -> MatchedPair:
    _, in_a, in_b = np.intersect1d(a.ids, b.ids, assume_unique=True, return_indices=True)
    points = a.points[in_a].astype(np.float32), b.points[in_b].astype(np.float32)
    return MatchedPair(a.path, b.path, *points, "model")


def read_model(folder: Path) -> Any:
    model = read_reconstruction(folder)
    if model.num_points3D() == 0:
        raise InputError(
            f"the COLMAP model {folder} has no 3D points; triangulate them on its poses first"
        )
    return model


def _views(model: Any, model_folder: Path, images_folder: Path) -> list[_View]:
    """The images of a model that have a pose, in the order of their names."""
    posed = (image for image in model.images.values() if image.has_pose)
    images = sorted(posed, key=lambda image: str(image.name))
    if not images:
        raise InputError(f"no image of the COLMAP model {model_folder} has a pose; register some")
    missing = [image.name for image in images if not (images_folder / image.name).is_file()]
    if missing:
        raise InputError(
            f"{images_folder} lacks {len(missing)} of the {len(images)} images of the model "
            f"{model_folder}, the first is {missing[0]}; name the folder that it was made from"
        )
    return [_view(model, image, images_folder / image.name) for image in images]


def _view(model: Any, image: Any, path: Path) -> _View:
    camera = model.camera(image.camera_id)
    size = _upright_size(path)
    if size != (camera.width, camera.height):
        raise InputError(
            f"{path} is {size[0]} x {size[1]} px, but {camera.width} x {camera.height} px in the model; "
            "name the folder of the images that the model was made from"
        )
    seen = image.get_observation_points2D()
    ids = np.array([point.point3D_id for point in seen], np.int64)
    ids, first = np.unique(ids, return_index=True)  # a point may be seen twice in one image
    points = np.array([point.xy for point in seen], np.float64).reshape(-1, 2)[first]
    return _View(path, ids, from_colmap(points))


def _upright_size(path: Path) -> tuple[int, int]:
    """(width, height) as `read_photo` would give, from the file's head alone."""
    try:
        with Image.open(path) as image:
            return read_exif(image, turned=image.format == "TIFF").size
    except Exception as error:
        raise ImageError(path, f"is damaged ({error})", "copy it again from its source") from error


def known_pairs(
    data: Path, cache: Path, teacher: Teacher, file: Path | None = None, tries: int = 60
) -> list[MatchedPair]:
    """All pairs of photos of a training folder whose correspondences are known: those of `file`
    (`load_pairs`), or else of models and, where no model tells them, the matches of `teacher` in
    `tries` pairs of a scene; these take minutes, and `cache` keeps them."""
    if file is not None:
        return load_pairs(file, data)
    found = pairs_of_models(data)
    reconstructed = {path for pair in found for path in (pair.image_a, pair.image_b)}
    every = scenes_of(data).items()
    scenes = {name: photos for name, photos in every if reconstructed.isdisjoint(photos)}
    if not scenes:
        return found
    names = "\n".join(path.as_posix() for photos in scenes.values() for path in photos)
    key = hashlib.sha256(f"{tries}\n{names}".encode()).hexdigest()[:12]
    kept = cache / f"pairs-{key}.npz"
    if not kept.exists():
        rng = np.random.default_rng(0)
        verified = pseudo_pairs(scenes, teacher, rng=rng, max_pairs_per_scene=tries)
        save_pairs(kept, verified, data)
        return found + verified
    return found + load_pairs(kept, data)


def pairs_of_models(data: Path) -> list[MatchedPair]:
    """The pairs of all COLMAP models below `data` whose images are there too: in a folder `images`, or
    without one, beside the model or beside a folder that it lies in."""
    pairs: list[MatchedPair] = []
    for model in find_models(data):
        if (images := _images_of(model, data)) is not None:
            pairs += model_pairs(model, images)
        else:
            log.warning("%s: its images are not below %s; the model is left out", model, data)
    return pairs


def _images_of(model: Path, data: Path) -> Path | None:
    names = [image.name for image in read_model(model).images.values()]
    for folder in (model, *model.parents):
        for images in (folder / "images", folder):
            if names and (images / min(names)).is_file():
                return images
        if folder == data:
            break
    return None
