"""What OpenCV's quarter of a pixel costs RootSIFT, and its two cures.

    python benchmarks/ablations/sift_bias.py --data ../shared/data

MMA@1/3/5 on eval/matching/oxford-affine (2048 keypoints, mutual nearest neighbours, full size):
OpenCV's keypoints as they are, less a quarter of a pixel (what `locate.extractors.sift` does), and with
OpenCV's own `enable_precise_upscale`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from locate.extractors.sift import root_sift
from locate.images.reading import read_photo
from locate.matching.descriptors import match_mutual
from locate.metrics.matching import match_errors, mean_matching_accuracy

VARIANTS = {"as it is": (False, 0.0), "less 0.25 px": (False, 0.25), "precise upscale": (True, 0.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    a = parser.parse_args()
    sequences = sorted((a.data / "eval/matching/oxford-affine").iterdir())
    table = Table("keypoints", "MMA@1", "@3", "@5", *(f"{s.name} @1" for s in sequences))
    for name, (precise, bias) in VARIANTS.items():
        by_sequence = [accuracy(sequence, precise, bias) for sequence in sequences]
        mean = np.mean(by_sequence, axis=(0, 1))
        ones = (f"{np.mean(s, axis=0)[0]:.3f}" for s in by_sequence)
        table.add_row(name, *(f"{m:.3f}" for m in mean), *ones)
    Console(width=110).print(table)


def accuracy(sequence: Path, precise: bool, bias: float) -> np.ndarray:
    """5 pairs x 3 thresholds."""
    detector = cv2.SIFT.create(nfeatures=2048, enable_precise_upscale=precise)
    features = []
    for i in range(1, 7):
        grey = cv2.cvtColor(read_photo(sequence / f"img{i}.jpg").pixels, cv2.COLOR_RGB2GRAY)
        found, descriptors = detector.detectAndCompute(grey, None)
        points = np.array([k.pt for k in found], np.float32)[:2048] - np.float32(bias)
        features.append((points, root_sift(descriptors)[:2048]))
    (first, described), results = features[0], []
    for k, (points, descriptors) in enumerate(features[1:], 2):
        pairs = match_mutual(described, descriptors)
        k_from_1 = np.loadtxt(sequence / f"H1to{k}p")
        errors = match_errors(first[pairs[:, 0]], points[pairs[:, 1]], k_from_1)
        results.append(mean_matching_accuracy(errors, (1, 3, 5)))
    return np.array(results)


if __name__ == "__main__":
    main()
