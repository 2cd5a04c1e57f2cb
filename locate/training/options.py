"""What whoever starts a training may choose, and what is shown of it meanwhile."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from locate.errors import InputError


@dataclass(frozen=True)
class Options:
    """How a training is run, whatever the recipe."""

    seed: int = 0  # another one, another order of batches; 0 or more
    steps: int | None = None  # of all stages together; None for the recipe's own
    # The time budget, which then decides about the steps, be it fewer or more than the recipe's.
    seconds: float | None = None
    threads: int = field(default_factory=torch.get_num_threads)  # as many make batches beside them
    log_every: int = 10  # steps between lines of the log
    checkpoint_every: float = 120.0  # seconds
    held_out_batches: int = 8  # that the losses are measured on
    first_stage: str | None = None  # those before it are left out

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
    """Where the training is; shown after every step and every held-out pass."""

    stage: str
    step: int  # steps of the stage that are done, of `steps`
    steps: int
    losses: Mapping[str, float]  # of this step, or the mean over the held-out batches
    skipped: int  # steps so far whose gradient was not finite
    held_out: bool = False  # whether `losses` are those of the held-out batches
