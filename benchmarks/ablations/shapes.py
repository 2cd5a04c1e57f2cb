"""Average precision of a SuperPoint detector's corners on fresh synthetic shapes, by kind.

    python benchmarks/ablations/shapes.py --weights out/weights.safetensors

Shapes that no training has drawn (another generator), 160 x 120 pixels, plain and with the light and noise
of the training; a corner is found within 4 pixels, once. Weights of a stage lie in the training's cache:
`out/cache/shapes.safetensors` is MagicPoint's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from locate.extractors.superpoint.detection import find_points
from locate.extractors.superpoint.extractor import build
from locate.extractors.superpoint.network import SYSTEM, SuperPointNetwork, heat_map
from locate.extractors.superpoint.recipe import LIGHT
from locate.extractors.weights import load_network
from locate.training.data.photometric import photometric_noise
from locate.training.data.shapes import SHAPES, draw_shape
from locate.types import Array

SIZE, NEAR, THRESHOLD, RADIUS, MOST = (160, 120), 4.0, 0.001, 4, 300
SEED = 1_000_003


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100, help="images of each kind")
    a = parser.parse_args()
    network, _, _ = load_network(a.weights, SYSTEM, build)
    for noisy in (False, True):
        found = {kind: precision(network.eval(), kind, a.count, noisy) for kind in SHAPES}
        known = {kind: value for kind, value in found.items() if not np.isnan(value)}
        words = ", ".join(f"{kind} {value:.3f}" for kind, value in known.items())
        mean = np.mean(list(known.values()))
        print(f"{'with noise' if noisy else 'plain'}: mAP {mean:.3f} ({words})")


def precision(network: SuperPointNetwork, kind: str, count: int, noisy: bool) -> float:
    """Of one kind; NaN of one without corners."""
    rng = np.random.default_rng((SEED, list(SHAPES).index(kind), noisy))
    scores: list[float] = []
    right: list[bool] = []
    corners = 0
    for _ in range(count):
        drawn = draw_shape(kind, rng, SIZE)
        image = drawn.image
        if noisy:
            image = photometric_noise(np.repeat(image[..., None], 3, axis=2), rng, LIGHT)
            image = image.astype(np.float32).mean(axis=2)
        given = torch.from_numpy(np.asarray(image, np.float32))[None, None] / 255
        with torch.inference_mode():
            heat = heat_map(network.detect(network.encode(given)))[0]
            points, values = find_points(heat, THRESHOLD, RADIUS, 0, MOST)
        right += claimed(points.numpy(), drawn.corners)
        scores += values.tolist()
        corners += len(drawn.corners)
    if corners == 0:
        return float("nan")
    hits = np.array(right)[np.argsort(-np.array(scores), kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1) * hits).sum() / corners)


def claimed(points: Array, corners: Array) -> list[bool]:
    """Whether each point, best first, lies at a corner that no better one has."""
    free = np.ones(len(corners), bool)
    found = []
    for point in points:
        away = np.where(free, np.linalg.norm(corners - point, axis=1), np.inf)
        found.append(bool(away.size and away.min() <= NEAR))
        if found[-1]:
            free[away.argmin()] = False
    return found


if __name__ == "__main__":
    main()
