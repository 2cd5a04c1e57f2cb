"""What DELF's attention is worth: keypoint precision and mAP by votes with it and without.

    python benchmarks/ablations/attention.py --data ../shared/data [--weights delf.safetensors] [--votes 100 300 1000]

From one set of features (same network, same PCA) the best 200 of each photo are chosen in four
ways: by the trained attention, by attention as it starts, by the norm of the feature, at random.
Keypoint precision is the share of the chosen ones that are matched right: mutual nearest
neighbours in the other image, within 20 px (of 512) of where the true homography puts them, which
is the tolerance of DELF's own RANSAC, since its features lie on a grid. Photos: oxford-affine,
shrunk to 512 px.

--votes: mAP of photos of places that no training saw, among 567 (`validation.py --only votes`), if each photo
has so many features, chosen in the same ways; the difference to the norm with a 95 % interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common.bootstrap import mean_interval
from benchmarks.common.held_out_retrieval import vote_scores
from locate.datasets.matching import HomographyPair, read_matching_data
from locate.extractors.bundled import bundled_weights
from locate.extractors.delf.extractor import Delf, build, start
from locate.extractors.delf.network import DelfNetwork
from locate.extractors.weights import load_into, load_weights
from locate.images.reading import read_photo
from locate.matching.descriptors import match_mutual
from locate.metrics.matching import match_errors
from locate.pixels import fit_size

KEPT, SIDE, TOLERANCE = 200, 512, 20.0
TRAINED, START, NORM = "trained attention", "attention as it starts", "norm of the feature"


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
    parser.add_argument("--weights", type=Path, help="of locate train delf; by default what ships")
    parser.add_argument("--votes", type=int, nargs="+", metavar="N", help="features of a photo")
    parser.add_argument("--work", type=Path, default=Path("build/attention"))
    a = parser.parse_args()
    weights = a.weights or bundled_weights("delf")
    if a.votes:
        show_votes(a.data, weights, a.votes, a.work)
    else:
        show(measure(a.data, weights))


def ways_to_choose(weights: Path) -> tuple[DelfNetwork, dict[str, torch.nn.Module]]:
    """The network, and by name what may take the place of its attention."""
    tensors, record = load_weights(weights, "delf")
    network = build(record.settings)
    load_into(network, tensors, weights)
    network.threshold.fill_(0.0)
    return network, {
        TRAINED: network.attention,
        START: start(record.settings["backbone"])[0].attention,
        NORM: Norm(),
        "random": Chance(),
    }


def show_votes(data: Path, weights: Path, counts: Sequence[int], work: Path) -> None:
    table = Table("features", "chosen by", "mAP by votes", "more than by the norm", "from", "to")
    network, ways = ways_to_choose(weights)
    for count in counts:
        found = {}
        for name, attention in ways.items():
            network.attention = attention.eval()
            rows = vote_scores(Delf(network, "", {}, max_keypoints=count), data, work)
            found[name] = {row.name: row.values["mAP before"] for row in rows}
        queries = np.array([*found[NORM]])
        for name, values in found.items():
            more = np.array([values[query] - found[NORM][query] for query in queries])
            numbers = (float(np.mean([*values.values()])), *mean_interval(more, queries))
            table.add_row(str(count), name, *(f"{number:.3f}" for number in numbers))
    Console(width=120).print(table)


def measure(data: Path, weights: Path) -> dict[str, dict[str, float]]:
    """By way of choosing: keypoint precision by sequence."""
    network, ways = ways_to_choose(weights)
    pairs = read_matching_data(data / "eval/matching/oxford-affine").homographies
    found: dict[str, dict[str, float]] = {}
    for name, attention in ways.items():
        network.attention = attention.eval()
        delf = Delf(network, "", {}, max_keypoints=KEPT, max_side=SIDE)
        cache: dict[Path, object] = {}
        rows: dict[str, list[float]] = {}
        for pair in pairs:
            rows.setdefault(pair.sequence, []).append(precision(delf, cache, pair))
        found[name] = {sequence: float(np.mean(values)) for sequence, values in rows.items()}
    return found


def precision(delf: Delf, cache: dict, pair: HomographyPair) -> float:
    seen = []
    for path in (pair.image_a, pair.image_b):
        if path not in cache:
            photo = read_photo(path)
            size = photo.pixels.shape[1::-1]
            small = cv2.resize(photo.pixels, fit_size(size, SIDE), interpolation=cv2.INTER_AREA)
            cache[path] = delf.extract(small, size).features
        seen.append(cache[path])
    a, b = seen
    matches = match_mutual(a.descriptors, b.descriptors)
    errors = match_errors(a.keypoints[matches[:, 0]], b.keypoints[matches[:, 1]], pair.b_from_a)
    return float((errors <= TOLERANCE * max(b.image_size) / SIDE).sum() / KEPT)


def show(found: dict[str, dict[str, float]]) -> None:
    sequences = list(next(iter(found.values())))
    table = Table("the best 200 by", "keypoint precision", *sequences)
    for name, by_sequence in found.items():
        values = list(by_sequence.values())
        table.add_row(name, *(f"{v:.3f}" for v in (float(np.mean(values)), *values)))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
