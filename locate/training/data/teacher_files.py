"""What a stronger network sees in the training photos, in the files that `locate train steered` reads.

The teacher is ALIKED-n16 with LightGlue (BSD-3, Apache-2.0), run by the peer's tool in an environment of
its own:

    DATA=../shared/data/train TOOL="PEER/bin/python ../shared/tools/peer.py" OUT=build/teacher
    $TOOL features $OUT/photos.npz $(find $DATA/photos -type f | sort) --keypoints 800
    $TOOL features $OUT/scenes.npz $(find $DATA/scenes -type f | sort) --keypoints 1024
    python benchmarks/ablations/teacher.py candidates $OUT/scenes.npz $OUT/candidates.txt
    $TOOL match $OUT/matches.npz $OUT/scenes.npz --pairs $OUT/candidates.txt
    python benchmarks/ablations/teacher.py labels $OUT/labels.npz $OUT/photos.npz $OUT/scenes.npz --data $DATA
    python benchmarks/ablations/teacher.py pairs $OUT/pairs.npz $OUT/scenes.npz $OUT/matches.npz --data $DATA
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from locate.extractors.registry import create
from locate.images.reading import read_photo
from locate.matching.two_view import verify
from locate.training.data.correspondences import MatchedPair, save_pairs
from locate.training.data.pseudo import is_degenerate
from locate.training.data.teacher import save_teacher
from locate.types import Features

_SMALL = 45  # photos: of a scene of so many all pairs are candidates
_MOST = 60  # candidates of a small scene
_NEAREST = 5  # of a photo of a large scene
_LEAST_SCORE = 0.05
_FEWEST = 30  # matches that agree with a fundamental matrix


def candidates(features: Path, out: Path) -> None:
    """Photos of a scene that may show the same: any of a small one, neighbours by GeM of a large one."""
    rng = np.random.default_rng(0)
    scenes = defaultdict(list)
    for i, name in enumerate(_names(features)):
        scenes[Path(name).parent].append((i, name))
    pairs: list[tuple[int, int]] = []
    for _, members in sorted(scenes.items()):
        if len(members) <= _SMALL:
            found = list(combinations([i for i, _ in members], 2))
            chosen = rng.permutation(len(found))[:_MOST]
            pairs += [found[k] for k in sorted(chosen.tolist())]
            continue
        gem = create("gem")
        vectors = np.stack([_global(gem, Path(name)) for _, name in members])
        order = np.argsort(-vectors @ vectors.T, axis=1)[:, 1 : _NEAREST + 1]
        near = {tuple(sorted((a, int(b)))) for a, row in enumerate(order) for b in row}
        pairs += [(members[a][0], members[b][0]) for a, b in sorted(near)]
    out.write_text("".join(f"{a} {b}\n" for a, b in pairs))
    print(f"{len(pairs)} pairs")


def labels(out: Path, features: list[Path], data: Path) -> None:
    """All that the teacher saw, but for what it hardly believes itself."""
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
    print(f"{len(images)} photos, {sum(map(len, keypoints))} keypoints")


def pairs(out: Path, features: Path, matches: Path, data: Path) -> None:
    """Of LightGlue's matches those that one fundamental matrix explains."""
    found = []
    with np.load(features) as seen, np.load(matches) as stored:
        keys = [key for key in stored if not key.endswith("scores")]
        for key in keys:
            i, j = key.split("|")
            a, b = (_features(seen, int(k)) for k in (i, j))
            verification = verify(a, b, stored[key].astype(np.int32), 1024)
            sizes = (a.image_size, b.image_size)
            if verification.inlier_count < _FEWEST or is_degenerate(verification, *sizes):
                continue
            keep = verification.inliers
            found.append(
                MatchedPair(
                    Path(str(seen[f"{i}|name"])),
                    Path(str(seen[f"{j}|name"])),
                    verification.query_points[keep].astype(np.float32),
                    verification.database_points[keep].astype(np.float32),
                    "aliked-n16 + lightglue",
                )
            )
    save_pairs(out, found, data)
    print(f"{len(found)} of {len(keys)} pairs, {sum(map(len, found))} matches")


def _names(features: Path) -> list[str]:
    with np.load(features) as stored:
        return [str(stored[f"{i}|name"]) for i in range(int(stored["count"]))]


def _global(gem: Any, path: Path) -> Any:
    photo = read_photo(path, min_long_side=gem.max_side)
    return gem.extract(photo.pixels, photo.info.size).global_descriptor


def _features(stored: Any, i: int) -> Features:
    width, height = stored[f"{i}|size"].tolist()
    return Features(
        stored[f"{i}|keypoints"],
        stored[f"{i}|scores"],
        stored[f"{i}|descriptors"].astype(np.float16),
        (width, height),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    one = parts.add_parser("candidates")
    one.add_argument("features", type=Path)
    one.add_argument("out", type=Path)
    one.set_defaults(go=lambda a: candidates(a.features, a.out))
    two = parts.add_parser("labels")
    two.add_argument("out", type=Path)
    two.add_argument("features", type=Path, nargs="+")
    two.add_argument("--data", type=Path, required=True)
    two.set_defaults(go=lambda a: labels(a.out, a.features, a.data))
    three = parts.add_parser("pairs")
    three.add_argument("out", type=Path)
    three.add_argument("features", type=Path)
    three.add_argument("matches", type=Path)
    three.add_argument("--data", type=Path, required=True)
    three.set_defaults(go=lambda a: pairs(a.out, a.features, a.matches, a.data))
    arguments = parser.parse_args()
    arguments.go(arguments)


if __name__ == "__main__":
    main()
