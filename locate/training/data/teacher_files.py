"""From what a stronger network saw, the files that `locate train steered` and `context` read.

The teacher is ALIKED-n16 with LightGlue (BSD-3, Apache-2.0), run in an environment of its own; its
features are an .npz file with `model`, `count` and for each photo i `i|name`, `i|size` (width,
height), `i|keypoints` N x 2, `i|scores` N and `i|descriptors` N x D, its matches one with `i|j` M x
2. `benchmarks/ablations/teacher.py` runs all steps in their order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from locate.training.data.correspondences import MatchedPair, save_pairs
from locate.training.data.pseudo import verified
from locate.training.data.teacher import save_teacher
from locate.types import Array, Features

_SMALL = 45  # photos: of a scene of so many all pairs are candidates
_MOST = 60  # candidates of a small scene
_NEAREST = 5  # of a photo of a large scene
_LEAST_SCORE = 0.05
_FEWEST = 30  # matches that agree with a fundamental matrix


def candidate_pairs(features: Path, describe: Callable[[Path], Array]) -> list[tuple[int, int]]:
    """Photos of a scene that may show the same, by their numbers: any of a small scene, of a large one
    neighbours by the global descriptor D that `describe` gives."""
    rng = np.random.default_rng(0)
    scenes = defaultdict(list)
    with np.load(features) as stored:
        names = [str(stored[f"{i}|name"]) for i in range(int(stored["count"]))]
    for i, name in enumerate(names):
        scenes[Path(name).parent].append((i, name))
    pairs: list[tuple[int, int]] = []
    for _, members in sorted(scenes.items()):
        if len(members) <= _SMALL:
            found = list(combinations([i for i, _ in members], 2))
            chosen = rng.permutation(len(found))[:_MOST]
            pairs += [found[k] for k in sorted(chosen.tolist())]
            continue
        vectors = np.stack([describe(Path(name)) for _, name in members])
        order = np.argsort(-vectors @ vectors.T, axis=1)[:, 1 : _NEAREST + 1]
        near = {tuple(sorted((a, int(b)))) for a, row in enumerate(order) for b in row}
        pairs += [(members[a][0], members[b][0]) for a, b in sorted(near)]
    return pairs


def write_labels(out: Path, features: list[Path], data: Path) -> tuple[int, int]:
    """All that the teacher saw, but for what it hardly believes itself; how many photos and keypoints
    that is."""
    images, keypoints, scores, descriptors, model = [], [], [], [], ""
    for file in features:
        with np.load(file) as stored:
            model = str(stored["model"])
            for i in range(int(stored["count"])):
                keep = stored[f"{i}|scores"] >= _LEAST_SCORE
                images.append(Path(str(stored[f"{i}|name"])))
                keypoints.append(stored[f"{i}|keypoints"][keep])
                scores.append(stored[f"{i}|scores"][keep])
                descriptors.append(stored[f"{i}|descriptors"][keep])
    save_teacher(out, images, keypoints, scores, descriptors, model, data)
    return len(images), sum(map(len, keypoints))


def write_pairs(out: Path, features: Path, matches: Path, data: Path) -> tuple[int, int]:
    """Of the teacher's matches those that one fundamental matrix explains; how many pairs and matches
    that is."""
    found = []
    with np.load(features) as seen, np.load(matches) as stored:
        keys = [key for key in stored if not key.endswith("scores")]
        for key in keys:
            ends = key.split("|")
            a, b = (_features(seen, int(k)) for k in ends)
            points = verified(a, b, stored[key].astype(np.int32), 1024, _FEWEST)
            if points is not None:
                image_a, image_b = (Path(str(seen[f"{k}|name"])) for k in ends)
                here, there = (side.astype(np.float32) for side in points)
                source = "aliked-n16 + lightglue"
                found.append(MatchedPair(image_a, image_b, here, there, source))
    save_pairs(out, found, data)
    return len(found), sum(map(len, found))


def _features(stored: Any, i: int) -> Features:
    width, height = stored[f"{i}|size"].tolist()
    return Features(
        stored[f"{i}|keypoints"],
        stored[f"{i}|scores"],
        stored[f"{i}|descriptors"].astype(np.float16),
        (width, height),
    )
