"""Poses by RootSIFT, 8,192 keypoints at full size, and what their errors owe to the truth.

    python benchmarks/ablations/rootsift_poses.py --data ../shared/data [--ways ours]

Five folds, see `locate evaluate localization`; medians with 95 % intervals by the bootstrap over the
queries (percentiles of 2,000 resamples). Three rows a scene:

- ours: keypoints where they are;
- raw: with the quarter of a pixel that OpenCV leaves in them (`benchmarks/ablations/sift_bias.py`);
- dense: keypoints of four times less contrast.

For tum-fr2-desk again with the third radial term of the camera's published calibration (fr2: .9172),
which the data's own camera model has no room for.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.bootstrap import interval
from benchmarks.common.pose_errors import errors_of
from locate.extractors import sift
from locate.extractors.sift import Sift
from pipelines.cli.evaluate import print_report
from pipelines.reports.report import Report, Table

SCENES = ("fountain-P11", "Herz-Jesus-P25", "tum-fr2-desk")
KEYPOINTS, SIDE = 8192, 10_000
K3 = 0.9172
WAYS = {"ours": (0.25, 0.04), "raw": (0.0, 0.04), "dense": (0.25, 0.01)}  # bias, contrast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--scenes", nargs="*", default=list(SCENES))
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    a = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folders = {name: a.data / "eval/localization" / name for name in a.scenes}
        if "tum-fr2-desk" in folders:
            folders["tum-fr2-desk + k3"] = with_k3(folders["tum-fr2-desk"], Path(temporary))
        for name, folder in folders.items():
            for way in a.ways:
                rows.append((name, way, *errors(folder, *WAYS[way])))
                print(rows[-1], flush=True)
    table = Table(
        "RootSIFT, 8192 keypoints, full size: medians",
        ("scene", "keypoints", "localized", "mm", "from", "to", "degrees", "from", "to"),
        tuple(rows),
    )
    print_report(Report("rootsift-poses", {"keypoints": KEYPOINTS}, (table,)))


def errors(folder: Path, bias: float, contrast: float) -> tuple[float, ...]:
    """Share localized, then the median and its interval: millimetres, degrees."""
    before = sift._BIAS
    sift._BIAS = np.float32(bias)
    try:
        millimetres, degrees = errors_of(Sift(KEYPOINTS, SIDE, contrast), folder)
    finally:
        sift._BIAS = before
    share = float(np.isfinite(millimetres).mean())
    return share, *interval(millimetres), *interval(degrees)


def with_k3(scene: Path, temporary: Path) -> Path:
    """A copy of the scene whose camera has a third radial term."""
    copy = temporary / scene.name
    shutil.copytree(scene, copy)
    cameras = copy / "colmap_gt/cameras.txt"
    lines = []
    for line in cameras.read_text().splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[1] == "OPENCV":
            fields = [fields[0], "FULL_OPENCV", *fields[2:], str(K3), "0", "0", "0"]
        lines.append(" ".join(fields))
    cameras.write_text("\n".join(lines) + "\n")
    return copy


if __name__ == "__main__":
    main()
