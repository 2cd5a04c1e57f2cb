"""LIFT's descriptor and orientation on patches of held-out photos, beside RootSIFT's.

    python benchmarks/ablations/patches.py --data ../shared/data --weights lift.safetensors

Keypoints are SIFT's, in photos of train/ that no training sees (by their names) and in a warped view of
each in other light, where SIFT finds them again. "FPR@95": of pairs of different keypoints of different
photos, the share that is nearer than 95 % of the right pairs are. "own angle": windows turned as LIFT's
orientation says, not as SIFT's. "within 15": shares of windows for which the orientation follows when
they are turned by any angle, and from one view to the other, up to 15 degrees.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from locate.extractors.lift.extractor import Lift
from locate.extractors.lift.recipe import LIGHT, READ_SIDE, VIEWS
from locate.extractors.sift import describe_frames
from locate.training.data.homographies import random_homography, render_view
from locate.training.data.patches import carried, found_again, pyramid, spaced, to_grey, wrapped
from locate.training.data.photometric import photometric_noise
from locate.training.data.photos import PhotoPool
from locate.training.recipe import generator
from locate.types import Array
from pipelines.cli.evaluate import print_report
from pipelines.reports.report import Report, Table

PER_PHOTO = 20
NEAR = 15.0  # degrees


class Shown(NamedTuple):
    """The same K keypoints in two views: pyramids, frames, RootSIFT; the frames of a as they are in b."""

    levels: tuple[list[Array], list[Array]]
    frames: tuple[Array, Array]
    root_sift: tuple[Array, Array]
    expected: Array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--out", type=Path, help="write lift-patches.md here")
    a = parser.parse_args()
    torch.set_num_threads(2)
    shown = held_out(a.data / "train", a.photos)
    scores = measure(Lift.from_pretrained(a.weights), shown)
    counts = {"photos": len(shown), "keypoints": sum(len(one.expected) for one in shown)}
    table = Table("LIFT on held-out patches", ("measure", "value"), tuple(scores.items()))
    report = Report("lift-patches", counts, (table,))
    print_report(report)
    if a.out:
        (a.out / "lift-patches.md").write_text(report.to_markdown())


def held_out(data: Path, photos: int) -> list[Shown]:
    """Keypoints of that many held-out photos at most."""
    pool = PhotoPool.scan(data, held_out=None)
    found = []
    for number, index in enumerate(generator(0).permutation(pool.held_out)[:photos]):
        rng = generator(0, number)
        photo = pool.read(int(index), READ_SIDE)
        size = (photo.shape[1], photo.shape[0])
        b_from_a = random_homography(rng, size, VIEWS)
        views = (photo, render_view(photo, b_from_a, size)[0])
        greys = [to_grey(photometric_noise(view, rng, LIGHT)) for view in views]
        (frames_a, said_a), (frames_b, said_b) = map(describe_frames, greys)
        expected = carried(frames_a, b_from_a)
        pairs = found_again(expected, frames_b)
        i, j = pairs[spaced(frames_a[pairs[:, 0]], rng, PER_PHOTO)].T
        if len(i):
            ends = (frames_a[i], frames_b[j]), (said_a[i], said_b[j])
            found.append(Shown((pyramid(greys[0]), pyramid(greys[1])), *ends, expected[i]))
    return found


def measure(lift: Lift, shown: list[Shown]) -> dict[str, float]:
    """The scores, by name."""
    said: dict[str, list[list[Array]]] = {
        name: [[], []] for name in ("RootSIFT", "LIFT", "own angle")
    }
    turned, across = [], []
    for number, one in enumerate(shown):
        rng, angles = generator(1, number), []
        for side in (0, 1):
            levels, frames = one.levels[side], one.frames[side].copy()
            said["RootSIFT"][side].append(one.root_sift[side])
            said["LIFT"][side].append(lift.describe(levels, frames))
            frames[:, 3] = rng.uniform(-np.pi, np.pi, len(frames))
            frames[:, 3] = lift.orient(levels, frames)
            said["own angle"][side].append(lift.describe(levels, frames))
            angles.append(frames[:, 3])
            again = frames.copy()
            again[:, 3] = rng.uniform(-np.pi, np.pi, len(frames))
            turned.append(lift.orient(levels, again) - frames[:, 3])
        here = one.frames[0].copy()
        across.append(angles[1] - angles[0] - (one.expected[:, 3] - here[:, 3]))
    owners = np.repeat(np.arange(len(shown)), [len(one.expected) for one in shown])
    scores = {
        f"FPR@95, {name}": false_positives(*map(np.concatenate, sides), owners)
        for name, sides in said.items()
    }
    for name, errors in (("turned", turned), ("other view", across)):
        near = np.abs(wrapped(np.concatenate(errors))) < np.radians(NEAR)
        scores[f"within 15, {name}"] = float(near.mean())
    return scores


def false_positives(a: Array, b: Array, owners: Array, recall: float = 0.95) -> float:
    """The share of pairs (a_i, b_j) of different photos no farther apart than this share of (a_i, b_i)."""
    similar = a @ b.T
    threshold = np.quantile(similar.diagonal(), 1 - recall)
    return float((similar[owners[:, None] != owners] >= threshold).mean())


if __name__ == "__main__":
    main()
