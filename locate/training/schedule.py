"""How long each stage lasts and how its learning rate moves.

A stage's position runs from 0 to 1. It is the share of its planned steps that are done or, if that is
more, the share of its time: a machine that becomes slower than it was when the steps were planned
still ends in time, with the learning rate gone to zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from locate.errors import InputError
from locate.training.recipe import Stage

_FILLED = 0.97  # of a stage's time is planned, so that small delays do not speed up its schedule


@dataclass(frozen=True)
class Window:
    """The time of a stage, in seconds of the training's elapsed time."""

    start: float
    end: float

    def position(self, elapsed: float) -> float:
        """0 at its start, 1 at its end and ever after."""
        if elapsed >= self.end:
            return 1.0
        return max(0.0, (elapsed - self.start) / (self.end - self.start))


def rate(stage: Stage, position: float) -> float:
    """What the learning rate is multiplied with at `position`, 0 to 1."""
    if position < stage.warmup:
        return position / stage.warmup
    rest = (1 - min(position, 1.0)) / (1 - stage.warmup)
    match stage.schedule:
        case "cosine":  # half a wave, Loshchilov and Hutter 2017, eq. 5 without restarts
            return 0.5 - 0.5 * math.cos(math.pi * rest)
        case "linear":
            return rest
        case "constant":
            return 1.0


def planned_steps(stages: Sequence[Stage], total: int | None, first: int = 0) -> list[int]:
    """Steps of each stage: the default ones, or `total` in proportion to these, at least 1 each; 0 of
    those before stage number `first`."""
    if first:
        return [0] * first + planned_steps(stages[first:], total)
    default = [stage.steps for stage in stages]
    if total is None:
        return default
    if total < len(stages):
        names = ", ".join(stage.name for stage in stages)
        raise InputError(
            f"{total} steps are too few for the stages {names}; each needs one or more"
        )
    exact = [total * steps / sum(default) for steps in default]
    steps = [max(1, math.floor(part)) for part in exact]
    for _ in range(sum(steps), total):
        steps[max(range(len(steps)), key=lambda i: exact[i] - steps[i])] += 1
    for _ in range(total, sum(steps)):  # some got their one step at the cost of the others
        steps[max(range(len(steps)), key=lambda i: (steps[i] > 1, steps[i] - exact[i]))] -= 1
    return steps


def stage_window(
    stages: Sequence[Stage], paces: Sequence[float], index: int, elapsed: float, budget: float
) -> Window:
    """The share of stage `index` in what is left of `budget` seconds, which is divided among this and
    the later stages in proportion to default steps x seconds per step (`paces`)."""
    work = [stage.steps * pace for stage, pace in zip(stages, paces, strict=True)]
    share = work[index] / sum(work[index:])
    return Window(elapsed, elapsed + share * max(0.0, budget - elapsed))


def fitting_steps(seconds: float, pace: float, fixed: float) -> int:
    """How many steps of `pace` seconds fit into `seconds` of which `fixed` are spent otherwise; at least
    1."""
    return max(1, math.floor((_FILLED * seconds - fixed) / pace))
