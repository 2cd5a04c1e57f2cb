"""What the steps of UR2KiD, DELF and D2-Net take, against the plain way to the same result.

    python benchmarks/ablations/extractor_steps.py [--side 640]

- normalisations: the network as it is trained, and with batch normalisation fused into convolutions.
- descriptors: UR2KiD's map F of all cells, read at the keypoints; and made at the keypoints alone.
- suppression: a loop over the points, and `locate.extractors.blocks.detection.suppress`.

Noise with the spectrum of natural images, milliseconds of one core, the fastest of several times in
turns, since what else a machine does only adds. The largest difference between the two results is
printed beside them.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from locate.extractors.backbones.registry import load_backbone
from locate.extractors.blocks.detection import suppress
from locate.extractors.blocks.grids import sample
from locate.extractors.d2net.network import STRIDE, D2Network
from locate.extractors.delf import extractor as delf
from locate.extractors.ur2kid import extractor as ur2kid
from locate.extractors.ur2kid.network import natural_noise
from locate.types import Array
from pipelines.cli.evaluate import print_report
from pipelines.reports.report import Report, Table

ROUNDS, POINTS, CANDIDATES, RADIUS = 7, 2048, 5700, 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=640, help="of the image in pixels")
    a = parser.parse_args()
    torch.set_num_threads(1)
    pixels = natural_noise(-(-a.side // 32) * 32)[:, :, : -(-a.side * 3 // 4 // 32) * 32]
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        rows = [*normalisations(pixels), descriptors(pixels), suppression()]
    columns = ("step", "plain, ms", "as it is, ms", "largest difference")
    table = Table("Milliseconds of one core", columns, tuple(rows))
    settings = {"torch": torch.__version__, "side": a.side}
    print_report(Report("extractor steps", settings, (table,)))


Row = tuple[str, float, float, str]


def normalisations(pixels: torch.Tensor) -> list[Row]:
    networks: dict[str, tuple[Any, Callable[[Any], torch.Tensor]]] = {
        "ur2kid": (ur2kid.start()[0], lambda n: n.taps(pixels)["head"]),
        "delf": (delf.start()[0], lambda n: n(pixels)[0]),
        "d2net": (D2Network(load_backbone("lite0")[0], None, STRIDE), lambda n: n(pixels)),
    }
    rows = []
    for name, (network, look) in networks.items():
        plain = network.eval().to(memory_format=torch.channels_last)
        fused = deepcopy(network)
        fused.backbone.fuse()
        fused = fused.to(memory_format=torch.channels_last)
        rows.append(compared(f"{name}, network", partial(look, plain), partial(look, fused)))
    return rows


def descriptors(pixels: torch.Tensor) -> Row:
    network = ur2kid.start()[0]
    taps = network.taps(pixels)
    points = torch.rand(POINTS, 2, generator=torch.Generator().manual_seed(0))
    points = points * torch.tensor((pixels.shape[3] - 1.0, pixels.shape[2] - 1.0))

    def dense() -> torch.Tensor:
        columns = sample(network.pyramid(taps), network.pyramid.grid.to_map(points)[None])[0]
        weight = network.reduce.weight[:, :, 0, 0]
        return functional.normalize(functional.linear(columns, weight, network.reduce.bias), dim=1)

    return compared(f"ur2kid, {POINTS} descriptors", dense, lambda: network.describe(taps, points))


def suppression() -> Row:
    rng = np.random.default_rng(0)
    points, scores = rng.random((CANDIDATES, 2)) * (320, 240), rng.random(CANDIDATES)
    return compared(
        f"suppression of {CANDIDATES} points",
        lambda: loop(points, scores),
        lambda: suppress(points, scores, RADIUS),
    )


def loop(points: Array, scores: Array) -> Array:
    """`suppress`, point by point."""
    cells = np.floor(points / RADIUS).astype(np.int64)
    kept_in: dict[tuple[int, int], list[int]] = {}
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        cx, cy = int(cells[i, 0]), int(cells[i, 1])
        near = (
            j
            for u in (cx - 1, cx, cx + 1)
            for v in (cy - 1, cy, cy + 1)
            for j in kept_in.get((u, v), ())
        )
        x, y = points[i]
        if all((points[j, 0] - x) ** 2 + (points[j, 1] - y) ** 2 > RADIUS**2 for j in near):
            kept.append(i)
            kept_in.setdefault((cx, cy), []).append(int(i))
    return np.array(kept, np.int64)


def compared(step: str, plain: Callable[[], Any], used: Callable[[], Any]) -> Row:
    best = [math.inf, math.inf]
    for _ in range(ROUNDS):
        for k, way in enumerate((plain, used)):
            begin = time.process_time()
            way()
            best[k] = min(best[k], 1000 * (time.process_time() - begin))
    results = [torch.as_tensor(way()).double() for way in (plain, used)]
    difference = float((results[0] - results[1]).abs().max() / results[0].abs().max())
    return step, best[0], best[1], f"{difference:.1e} of the largest"


if __name__ == "__main__":
    main()
