"""Pairs of photos with known correspondences, from whatever the training data hold: COLMAP models where
there are some, else verified RootSIFT matches; or from a file that any other matcher wrote."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np

from locate.training.data.correspondences import MatchedPair, load_pairs, save_pairs
from locate.training.data.pseudo import Teacher, pseudo_pairs
from locate.training.data.scenes import find_models, model_pairs, read_model, scenes_of

log = logging.getLogger("locate")


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
    scenes = {
        n: photos for n, photos in scenes_of(data).items() if reconstructed.isdisjoint(photos)
    }
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
        images = _images_of(model, data)
        if images is None:
            log.warning("%s: its images are not below %s; the model is left out", model, data)
            continue
        pairs += model_pairs(model, images)
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
