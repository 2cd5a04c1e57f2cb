"""What whoever starts a training may choose, and what is shown of it meanwhile."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from locate.errors import InputError


@dataclass(frozen=True)
class Options:
    """Attributes:
    seed: another one, another order of batches; 0 or more.
    steps: of all stages together; None for the recipe's own.
    seconds: the time budget, which then decides about the steps, be it fewer or more than the
        recipe's; None for no limit.
    threads: that compute; as many make batches beside them.
    log_every: steps between lines of the log.
    checkpoint_every: seconds between checkpoints.
    held_out_batches: that the losses are measured on.
    """

    seed: int = 0
    steps: int | None = None
    seconds: float | None = None
    threads: int = field(default_factory=torch.get_num_threads)
    log_every: int = 10
    checkpoint_every: float = 120.0
    held_out_batches: int = 8

    def __post_init__(self) -> None:
        if self.steps is not None and self.seconds is not None:
            raise InputError("give either a number of steps or a time budget, not both")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise InputError(f"a time budget must be above 0 seconds, got {self.seconds}")
        if self.seed < 0:
            raise InputError(f"the seed must be 0 or more, got {self.seed}")
        for name in ("threads", "log_every", "held_out_batches"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class TrainEvent:
    """Where the training is; shown after every step and every held-out pass.

    Attributes:
        stage: its name.
        step: steps of the stage that are done, of `steps`.
        losses: of this step, or the mean over the held-out batches.
        skipped: steps so far whose gradient was not finite.
        held_out: whether `losses` are those of the held-out batches.
    """

    stage: str
    step: int
    steps: int
    losses: Mapping[str, float]
    skipped: int
    held_out: bool = False
