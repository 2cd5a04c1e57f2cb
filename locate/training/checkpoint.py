"""What a training needs to go on after an interruption, in one file that is whole or not there."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from locate.errors import InputError, WeightsError
from locate.util.files import atomic_write

log = logging.getLogger("locate")

_HEADER = b"locate checkpoint 1 "


@dataclass
class Checkpoint:
    """The state of a training. Plain values and tensors only, so that reading one runs nothing."""

    begun: dict[str, Any]  # what was asked for: "system", "settings", "seed", "data", ...
    description: str  # the data in words, `Recipe.describe`
    steps: list[int]  # planned ones of every stage
    # Seconds per step of every stage as measured before the first; empty without a budget.
    paces: list[float] = field(default_factory=list)
    stage: int = 0  # index of the one that comes next or is under way
    step: int = 0  # steps of it that are done
    window: tuple[float, float] | None = None  # its start and end in elapsed seconds, with a budget
    settled: bool = False  # its planned steps follow from its own speed already
    held_out_passes: int = 0  # how many times it was measured on held-out batches
    held_out_seconds: float = 0.0  # what one such pass took last
    elapsed: float = 0.0  # seconds of all parts of the training
    skipped: int = 0  # steps left out because their gradient was not finite
    # Since the last line of the log: of "images", "seconds", "steps"; [sum, count] of each loss.
    sums: dict[str, float] = field(default_factory=dict)
    means: dict[str, list[float]] = field(default_factory=dict)
    log_bytes: int = 0
    # By stage, the losses at its "start" and the latest ones as "end".
    held_out: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    recipe_state: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] | None = None  # its state; None before a stage has begun

    @property
    def finished(self) -> bool:
        return self.stage == len(self.steps)

    @property
    def steps_done(self) -> int:
        return sum(self.steps[: self.stage]) + self.step

    def next_stage(self) -> None:
        """The stage under way is done."""
        self.stage, self.step = self.stage + 1, 0
        self.window, self.settled, self.held_out_passes = None, False, 0
        self.sums, self.means, self.optimiser = {}, {}, None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it; the old file stays until the new one is safe on the disk, also at an `OSError`."""
    buffer = io.BytesIO()
    torch.save({f.name: getattr(checkpoint, f.name) for f in fields(checkpoint)}, buffer)
    # torch does not notice a changed byte inside a tensor; hence a sum of our own.
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest().encode()
    with atomic_write(path) as stream:
        stream.write(_HEADER + digest + b"\n")
        stream.write(buffer.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read it, with all tensors on the CPU; `WeightsError` if it is damaged or of another version."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist, so there is nothing to go on with; train without --resume"
        ) from None
    header, _, body = data.partition(b"\n")
    if not header.startswith(_HEADER):
        raise WeightsError(
            f"{path} is no checkpoint of this version of locate; train anew elsewhere"
        )
    if hashlib.sha256(body).hexdigest().encode() != header[len(_HEADER) :]:
        raise WeightsError(f"{path} is damaged (its checksum is wrong); delete it and train anew")
    values = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    return Checkpoint(**values)


def refuse_difference(begun: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """`InputError` naming what is asked for now and was not so at the beginning. What is None is not
    asked for; a mapping is compared key by key, and {} asks nothing."""
    for name, now in asked.items():
        before = begun.get(name)
        if isinstance(now, Mapping):
            refuse_difference(before or {}, now)
        elif now is not None and now != before:
            was = "not given" if before is None else repr(before)
            raise InputError(
                f"the training was begun with {name}: {was}, now it is {now!r}; "
                "go on as it was begun, or train anew into another --out"
            )


class Log:
    """A file of JSON lines that grows, and that can be taken back to where a checkpoint was written."""

    def __init__(self, path: Path, size: int) -> None:
        """`size` bytes are kept of the file; what is beyond was written after the checkpoint."""
        self._stream = path.open("ab")
        there = self._stream.tell()
        if there < size:
            log.warning("%s: lines are missing that were written before the checkpoint", path)
        self._stream.truncate(min(there, size))
        self._stream.seek(0, os.SEEK_END)

    def write(self, **values: Any) -> None:
        self._stream.write(json.dumps(values, allow_nan=False).encode() + b"\n")
        self._stream.flush()

    def sync(self) -> int:
        """Make sure that all lines are on the disk; the file's length in bytes."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()
