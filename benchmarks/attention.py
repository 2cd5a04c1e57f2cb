"""What DELF's attention is worth: keypoint precision with it and without.

    python benchmarks/attention.py --data ../shared/data --weights delf.safetensors

From one set of features (same network, same PCA) the best 200 of each photo are chosen in four
ways: by the trained attention, by attention as it starts, by the norm of the feature, at random.
Keypoint precision is the share of the chosen ones that are inliers between two photos of one
landmark: mutual nearest neighbours, then an affine RANSAC with a tolerance of 20 px at 512 px
(section 4.4 of Noh et al., ICCV 2017). The same between photos of different landmarks is chance.
Photos: the web queries of eval/retrieval against up to three database photos each.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from locate.extractors.delf.extractor import Delf, build
from locate.extractors.delf.network import Attention
from locate.extractors.weights import load_into, load_weights
from locate.images import read_photo
from locate.matching import match_mutual

KEPT, SIDE, TOLERANCE, PARTNERS = 200, 512, 20.0, 3


class Norm(torch.nn.Module):
    def forward(self, features):
        return features.norm(dim=1)


class Chance(torch.nn.Module):
    def forward(self, features):
        generator = torch.Generator().manual_seed(features.shape[-1])
        return torch.rand(features[:, 0].shape, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--weights", type=Path, required=True, help="of locate train delf")
    a = parser.parse_args()
    show(measure(a.data, a.weights))


def measure(data: Path, weights: Path, step: int = 1) -> dict[str, tuple[float, float]]:
    """By way of choosing: keypoint precision of true pairs, and of false ones.

    Args:
        step: only every so-manieth query.
    """
    tensors, record = load_weights(weights, "delf")
    network = build(record.settings)
    load_into(network, tensors, weights)
    network.threshold.fill_(0.0)
    torch.manual_seed(0)
    fresh = Attention(len(network.mean))
    ways = {
        "trained attention": network.attention,
        "untrained attention": fresh,
        "norm of the feature": Norm(),
        "random": Chance(),
    }
    pairs, false_pairs = chosen_pairs(data / "eval/retrieval", step)
    found = {}
    for name, attention in ways.items():
        network.attention = attention.eval()
        delf = Delf(network, "", {}, max_keypoints=KEPT, max_side=SIDE)
        cache: dict[Path, object] = {}
        found[name] = tuple(
            float(np.mean([precision(delf, cache, x, y) for x, y in some]))
            for some in (pairs, false_pairs)
        )
    return found


def chosen_pairs(folder: Path, step: int):
    """True pairs and as many false ones (the query with photos of the next landmark)."""
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    database = defaultdict(list)
    for row in rows:
        if row["split"] == "database":
            database[row["landmark"]].append(folder / row["image"])
    landmarks = sorted(database)
    true, false = [], []
    queries = [r for r in rows if r["split"] == "query" and r["kind"] == "web"]
    for row in queries[::step]:
        other = landmarks[(landmarks.index(row["landmark"]) + 1) % len(landmarks)]
        for photos, pairs in ((database[row["landmark"]], true), (database[other], false)):
            chosen = photos[:: max(1, len(photos) // PARTNERS)][:PARTNERS]
            pairs += [(folder / row["image"], photo) for photo in chosen]
    return true, false


def precision(delf: Delf, cache: dict, a: Path, b: Path) -> float:
    features = []
    for path in (a, b):
        if path not in cache:
            photo = read_photo(path, min_long_side=SIDE)
            height, width = photo.pixels.shape[:2]
            size = (
                round(width * SIDE / max(width, height)),
                round(height * SIDE / max(width, height)),
            )
            cache[path] = delf.extract(cv2.resize(photo.pixels, size)).features
        features.append(cache[path])
    matches = match_mutual(features[0].descriptors, features[1].descriptors)
    if len(matches) < 4:
        return 0.0
    cv2.setRNGSeed(0)
    _, inliers = cv2.estimateAffine2D(
        features[0].keypoints[matches[:, 0]],
        features[1].keypoints[matches[:, 1]],
        method=cv2.RANSAC,
        ransacReprojThreshold=TOLERANCE,
        maxIters=1000,
    )
    return 0.0 if inliers is None else float(inliers.sum()) / KEPT


def show(found: dict[str, tuple[float, float]]) -> None:
    table = Table("the best 200 by", "keypoint precision", "different places (chance)")
    for name, numbers in found.items():
        table.add_row(name, *(f"{n:.3f}" for n in numbers))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
