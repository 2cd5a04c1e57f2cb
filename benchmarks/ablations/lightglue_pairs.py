"""Matches of ALIKED with LightGlue between photos of one place, as a file that trainings read.

    python benchmarks/ablations/lightglue_pairs.py build/pairs.npz --data ../shared/data/train [--pairs 6]
    locate train d2net --data ../shared/data/train --out build/d2net --set matches=build/pairs.npz

Landmarks by many people, indoor places by day and night, scenes; places that no training sees are left out. Only
what one motion of a camera explains is kept. 147 pairs by --pairs 4 take a quarter of an
hour of one core. Needs the extra lightglue."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from locate.extractors.registry import create
from locate.matching.lightglue import LightGlue
from locate.training.data.correspondences import save_pairs
from locate.training.data.photos import never_trained_on
from locate.training.data.pseudo import pseudo_pairs
from locate.training.data.scenes import scenes_of

KEYPOINTS, LEAST = 1024, 30  # of a photo; inliers of a pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/train"))
    parser.add_argument("--pairs", type=int, default=6, help="that are tried of a place")
    parser.add_argument(
        "--part", default="0/1", help="of several processes: K/N, places K, K + N, ..."
    )
    a = parser.parse_args()
    torch.set_num_threads(1)
    first, step = map(int, a.part.split("/"))
    names = sorted(scenes_of(a.data))[first::step]
    found = []
    aliked, lightglue = create("aliked", {"max_keypoints": KEYPOINTS}), LightGlue("aliked")
    for name in names:
        photos = [p for p in scenes_of(a.data)[name] if not never_trained_on(p, a.data)]
        if len(photos) < 2:
            continue
        found += pseudo_pairs(
            {name: photos},
            aliked,
            rng=np.random.default_rng(0),
            min_inliers=LEAST,
            max_pairs_per_scene=a.pairs,
            match=lightglue.match,
        )
        print(name, len(found), flush=True)
    save_pairs(a.out, found, a.data)
    points = sum(map(len, found))
    places = len(Counter(pair.image_a.parent for pair in found))
    print(f"{len(found)} pairs of {places} places, {points} matches")


if __name__ == "__main__":
    main()
