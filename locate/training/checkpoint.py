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
    """The state of a training. Plain values and tensors only, so that reading one runs nothing.

    Attributes:
        begun: what was asked for at the beginning: "system", "settings", "seed", "data", ...
        description: the data in words, `Recipe.describe`.
        steps: planned ones of every stage.
        paces: seconds per step of every stage as measured before the first; empty without a budget.
        stage: index of the stage that comes next or is under way; as many as there are stages when the
            training is finished.
        step: steps of that stage that are done.
        window: (start, end) of that stage in elapsed seconds, None without a budget.
        settled: its planned steps follow from its own speed already.
        held_out_passes: how many times it was measured on held-out batches.
        held_out_seconds: what one such pass took last.
        elapsed: seconds of all parts of the training.
        skipped: steps left out because their gradient was not finite.
        sums: of "images" and "seconds" since the last line of the log, and "steps".
        means: since the last line of the log, [sum, count] of each loss and of the gradient's norm.
        log_bytes: length of the log.
        held_out: by stage, the losses at its "start" and the latest ones as "end".
        recipe_state: `Recipe.state`.
        network: parameters and buffers.
        optimiser: its state; None before a stage has begun.
    """

    begun: dict[str, Any]
    description: str
    steps: list[int]
    paces: list[float] = field(default_factory=list)
    stage: int = 0
    step: int = 0
    window: tuple[float, float] | None = None
    settled: bool = False
    held_out_passes: int = 0
    held_out_seconds: float = 0.0
    elapsed: float = 0.0
    skipped: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    means: dict[str, list[float]] = field(default_factory=dict)
    log_bytes: int = 0
    held_out: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    recipe_state: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Tensor] = field(default_factory=dict)
    optimiser: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        return self.stage == len(self.steps)

    def next_stage(self) -> None:
        """The stage under way is done."""
        self.stage, self.step = self.stage + 1, 0
        self.window, self.settled, self.held_out_passes = None, False, 0
        self.sums, self.means, self.optimiser = {}, {}, None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it; the old file stays until the new one is safe on the disk.

    Raises:
        OSError: the disk is full, ...; the old file is as it was.
    """
    buffer = io.BytesIO()
    torch.save({f.name: getattr(checkpoint, f.name) for f in fields(checkpoint)}, buffer)
    # torch does not notice a changed byte inside a tensor; hence a sum of our own.
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest().encode()
    with atomic_write(path) as stream:
        stream.write(_HEADER + digest + b"\n")
        stream.write(buffer.getbuffer())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read it, with all tensors on the CPU.

    Raises:
        InputError: there is none.
        WeightsError: it is damaged, or of another version of `locate`.
    """
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
    """`InputError` naming what is asked for now and was not so at the beginning.

    Args:
        asked: what is None is not asked for. A mapping is compared key by key, and {} asks nothing.
    """
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
    """A file of JSON lines that grows, and that can be taken back to where a checkpoint was written.

    Args:
        size: bytes that are kept of the file; what is beyond was written after the checkpoint.
    """

    def __init__(self, path: Path, size: int) -> None:
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
