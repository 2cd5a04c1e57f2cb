"""What a training leaves behind: the weights, their record, the plot of the losses."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import locate
from locate.extractors.weights import Record, in_float16, read_record, save_weights
from locate.training.checkpoint import Checkpoint
from locate.training.loop import METRICS
from locate.training.recipe import Recipe
from locate.types import Array
from locate.util.files import atomic_write
from pipelines.reports.report import Curves

WEIGHTS = "weights.safetensors"
RECORD = "record.json"
LICENCE = "Apache-2.0"


def write_weights(
    recipe: Recipe[Any], network: nn.Module, checkpoint: Checkpoint, out: Path
) -> tuple[Record, str]:
    """Write weights.safetensors, record.json and loss.png of a checkpoint into `out`; the record and
    the sha256 of the weights file."""
    scores = {
        f"{stage}: held-out {name}, {when}": value
        for stage, measured in checkpoint.held_out.items()
        for when, losses in measured.items()
        for name, value in losses.items()
        if math.isfinite(value)
    }
    words = checkpoint.description, checkpoint.begun["command"]
    commit = commit_of(Path(locate.__file__).parent)
    record = Record(
        recipe.system,
        recipe.settings(),
        *words,
        commit,
        _seconds(checkpoint),
        scores,
        licence=LICENCE,
        started_from=checkpoint.begun.get("initial weights") or "",
    )
    with torch.no_grad():
        sha256 = save_weights(out / WEIGHTS, in_float16(recipe.tensors(network)), record)
    loss_curves(out / METRICS, recipe).save(out)
    with atomic_write(out / RECORD) as stream:
        values = {"file": WEIGHTS, "sha256": sha256, **asdict(record)}
        stream.write(json.dumps(values, indent=1).encode())
    return record, sha256


def weights_are_of(checkpoint: Checkpoint, out: Path) -> bool:
    """Whether the weights in `out` are those of `checkpoint`, not of an earlier one or not there."""
    if not (out / WEIGHTS).exists() or not (out / RECORD).exists():
        return False
    return read_record(out / WEIGHTS).seconds == _seconds(checkpoint)


def _seconds(checkpoint: Checkpoint) -> float:
    """Of training, that of the weights it started from included."""
    before: float = checkpoint.begun.get("seconds before", 0.0)
    return round(checkpoint.elapsed + before, 1)


def commit_of(package: Path) -> str:
    """The commit of the git checkout that a package lies in; "" if it lies in none."""
    try:
        # An installed package may lie inside a checkout of something else, which does not track it.
        for arguments in (["ls-files", "--error-unmatch", "__init__.py"], ["rev-parse", "HEAD"]):
            run = subprocess.run(  # noqa: S603 nothing of it comes from outside
                ["git", *arguments],  # noqa: S607 whichever git is there
                cwd=package,
                capture_output=True,
                text=True,
                check=True,
            )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return run.stdout.strip()


def loss_curves(metrics: Path, recipe: Recipe[Any]) -> Curves:
    """The plot of what metrics.jsonl tells: the losses while training, smoothed, and the held-out ones,
    over the steps of all stages."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    points: dict[str, list[tuple[float, float]]] = {}
    before, last, stage = 0, 0, ""
    for line in lines:
        if line["stage"] != stage:
            before, stage = before + last, line["stage"]
        last = line["step"]
        for name, value in line.get("losses", {}).items():
            if value is not None:
                prefix = f"{stage}: " if len(recipe.stages) > 1 else ""
                suffix = ", held out" if line["kind"] == "held-out" else ""
                points.setdefault(f"{prefix}{name}{suffix}", []).append((before + last, value))
    series = {}
    for name, pairs in points.items():
        x, y = np.array(pairs, np.float64).T
        series[name] = (x, y if name.endswith(", held out") else smoothed(y))
    return Curves("loss", f"Training of {recipe.system}", "step", "loss", series, y_range=None)


def smoothed(values: Array, share: float = 0.03) -> Array:
    """Each of N values as the mean over those around it, `share` of all on either side; fewer at the
    ends."""
    radius = int(share * len(values))
    padded = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    low, high = np.maximum(index - radius, 0), np.minimum(index + radius + 1, len(values))
    return np.asarray((padded[high] - padded[low]) / (high - low))
