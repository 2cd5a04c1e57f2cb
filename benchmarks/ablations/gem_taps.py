"""Why `gem` pools the tap, with the exponent and at the size that it does.

    python benchmarks/ablations/gem_taps.py --data ../shared/data

mAP of the web queries of eval/retrieval by GeM on each tap of EfficientNet-Lite0, for several exponents
and image sizes. One pass of the network per image and size.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from locate.extractors.backbones.efficientnet import (
    MEAN,
    SCALE,
    load_imagenet,
)
from locate.extractors.blocks.layers import GeM
from locate.extractors.bundled import imagenet_weights_path
from locate.images.reading import read_photo
from locate.metrics.common import average_precision
from locate.pixels import fit_size

TAPS = ("stage5", "stage6", "stage7", "head")
EXPONENTS = (1.0, 2.0, 3.0, 5.0)
SIDES = (320, 448, 640)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    a = parser.parse_args()
    folder = a.data / "eval/retrieval"
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    rows = [r for r in rows if r["split"] == "database" or r["kind"] == "web"]
    network = load_imagenet(imagenet_weights_path()).to(memory_format=torch.channels_last)
    table = Table("tap", "p", *(f"mAP at {side} px" for side in SIDES))
    vectors = {side: [look(network, folder / r["image"], side) for r in rows] for side in SIDES}
    for tap in TAPS:
        for p in EXPONENTS:
            scores = (score(rows, [v[tap, p] for v in vectors[side]]) for side in SIDES)
            table.add_row(tap, f"{p:g}", *(f"{s:.4f}" for s in scores))
    Console(width=80).print(table)


def look(network, file: Path, side: int) -> dict[tuple[str, float], np.ndarray]:
    pixels = read_photo(file).pixels
    size = fit_size((pixels.shape[1], pixels.shape[0]), side)
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    with torch.inference_mode():
        x = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() - MEAN) / SCALE
        maps = network.taps(x)
        return {(tap, p): GeM(p)(maps[tap])[0].numpy() for tap in TAPS for p in EXPONENTS}


def score(rows: list[dict[str, str]], vectors: list[np.ndarray]) -> float:
    unit = np.stack(vectors)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    labels = np.array([r["landmark"] for r in rows])
    stored = np.array([r["split"] == "database" for r in rows])
    results = []
    for i in np.flatnonzero(~stored):
        order = np.argsort(-(unit[stored] @ unit[i]), kind="stable")
        results.append(average_precision(labels[stored][order] == labels[i]))
    return float(np.mean(results))


if __name__ == "__main__":
    main()
