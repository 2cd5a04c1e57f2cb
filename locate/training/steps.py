"""One step of a training, and what is measured beside it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from locate.errors import InputError, TrainingError
from locate.precision import precision
from locate.training.recipe import Batch, Recipe, Stage, generator, to_device, torch_seed
from locate.util.parallel import ordered_map

AHEAD = 2  # finished batches that wait, besides the one that each thread works at
_TRIAL_STEPS = (3, 20)  # at least and at most


@dataclass(frozen=True)
class Step:
    """What one step of a training has shown."""

    losses: dict[str, float]  # by name, the mean over the step's batches
    gradient: float  # its norm before clipping; if it is not finite, nothing was learned
    images: int  # B x 1 or 3 x H x W, in the batches


def make_optimiser(
    parameters: Iterable[nn.Parameter | dict[str, Any]], stage: Stage
) -> tuple[Optimizer, list[float]]:
    """The stage's optimiser over `parameters`, and the highest learning rate of each group."""
    given = list(parameters)
    alone = [item for item in given if not isinstance(item, dict)]
    groups = [{"params": alone}] if alone else []
    groups += [item for item in given if isinstance(item, dict)]
    if not groups:
        raise InputError(f"stage {stage.name} has no parameters to train")
    lr, decay = stage.learning_rate, stage.weight_decay
    optimiser: Optimizer
    if stage.optimiser == "sgd":
        optimiser = SGD(groups, lr=lr, momentum=0.9, weight_decay=decay)
    else:
        optimiser = AdamW(groups, lr=lr, weight_decay=decay)
    return optimiser, [float(group["lr"]) for group in optimiser.param_groups]


def take_step(
    recipe: Recipe[Any],
    network: nn.Module,
    optimiser: Optimizer,
    stage: Stage,
    batches: Iterable[Batch],
    numbers: tuple[int, ...],
) -> Step:
    """Average the gradients of `batches` (as many as the stage accumulates), clip, move. Nothing is
    moved if a loss is not finite, which is a `TrainingError`. `numbers` are (seed, index of the stage,
    step)."""
    device = next(network.parameters()).device
    optimiser.zero_grad(set_to_none=True)
    sums: dict[str, float] = {}
    images = 0
    for place, made in enumerate(batches):
        batch = to_device(made, device)
        torch.manual_seed(torch_seed(*numbers, place))
        with autocast(device):
            losses = recipe.losses(network, batch, stage)
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if not math.isfinite(values["loss"]):
            shown = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise TrainingError(
                f"stage {stage.name}, step {numbers[-1]}: the loss is not finite ({shown}); "
                "lower the learning rate or look at the data"
            )
        if losses["loss"].requires_grad:  # else the batch teaches nothing
            (losses["loss"] / stage.accumulate).backward()  # type: ignore[no-untyped-call]
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value / stage.accumulate
        images += sum(
            len(value)
            for value in batch.values()
            if isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] in (1, 3)
        )
    moved = [p for group in optimiser.param_groups for p in group["params"]]
    gradient = float(nn.utils.clip_grad_norm_(moved, stage.clip))
    if math.isfinite(gradient):
        optimiser.step()
    return Step(sums, gradient, images)


def stepwise(
    recipe: Recipe[Any],
    network: nn.Module,
    stage: Stage,
    numbers: tuple[int, int],
    step: int,
    threads: int,
) -> Generator[Iterable[Batch], None, None]:
    """The batches of step `step` and of all after it, each after the recipe's `refresh`; `numbers` are
    (seed, index of the stage). Endless: close it to end the threads."""
    every = recipe.refresh_every(stage)

    def make(number: int) -> Batch:
        return recipe.batch(stage, generator(*numbers, *divmod(number, stage.accumulate)))

    while True:
        end = step - step % every + every if every else sys.maxsize // stage.accumulate
        if every and step % every == 0:
            _refresh(recipe, network, stage, numbers, step)
        wanted = range(step * stage.accumulate, end * stage.accumulate)
        with closing(ordered_map(make, wanted, threads, threads + AHEAD)) as batches:
            while step < end:
                if not every:
                    _refresh(recipe, network, stage, numbers, step)
                yield islice(batches, stage.accumulate)
                step += 1


def _refresh(
    recipe: Recipe[Any], network: nn.Module, stage: Stage, numbers: tuple[int, int], step: int
) -> None:
    torch.manual_seed(torch_seed(*numbers, step))
    with _same_modes(network):
        recipe.refresh(network, stage, step)


def held_out_batches(
    recipe: Recipe[Any], stage: Stage, index: int, count: int, threads: int
) -> list[Batch]:
    """The batches that the stage is measured on: the same in every training, whatever its seed."""
    make = partial(recipe.batch, stage, held_out=True)
    rngs = (generator(0, index, number) for number in range(count))
    return list(ordered_map(make, rngs, threads, threads + AHEAD))


def held_out_losses(
    recipe: Recipe[Any], network: nn.Module, stage: Stage, batches: Sequence[Batch]
) -> dict[str, float]:
    """The mean of every loss over `batches`, the network in evaluation mode and then as it was."""
    device = next(network.parameters()).device
    sums: dict[str, float] = {}
    with _same_modes(network), torch.no_grad():
        network.eval()
        for number, batch in enumerate(batches):
            torch.manual_seed(torch_seed(0, number))
            with autocast(device):
                losses = recipe.losses(network, to_device(batch, device), stage)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + float(loss.detach()) / len(batches)
    return sums


def trial(
    recipe: Recipe[Any],
    network: nn.Module,
    seed: int,
    threads: int,
    seconds: float,
    clock: Callable[[], float],
    first: int = 0,
) -> list[float]:
    """Seconds per step of every stage, its share of a `refresh` that is not made before every step
    included, found out on a copy of the network in about `seconds`; 0 of those before stage number
    `first`."""
    paces = [0.0] * first
    least, most = _TRIAL_STEPS
    for index, stage in enumerate(recipe.stages[first:], first):
        copy, state = deepcopy(network), deepcopy(recipe.state())
        optimiser, rates = make_optimiser(recipe.begin(copy, stage), stage)
        for group, base in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = 0.01 * base  # no warm-up here: the full rate might diverge
        every = recipe.refresh_every(stage)
        plain: list[float] = []
        refreshing, begun = 0.0, clock()
        with closing(stepwise(recipe, copy, stage, (seed, index), 0, threads)) as steps:
            for number in range(most + 1):
                if number > least and clock() - begun >= seconds / (len(recipe.stages) - first):
                    break
                before = clock()
                batches = next(steps)
                waited = clock() - before
                take_step(recipe, copy, optimiser, stage, batches, (seed, index, 0))
                if number == 0:  # it pays for much and is not counted, but for what will come again
                    refreshing, begun = waited, clock()
                    continue
                if every and number % every == 0:
                    refreshing, before = waited, before + waited
                plain.append(clock() - before)
        share = refreshing / every if every else 0.0
        paces.append(max(1e-6, sum(plain) / len(plain) + share))
        recipe.set_state(state)
    return paces


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 where the device has arithmetic for it, see `locate.precision`; parameters and their
    gradients stay float32."""
    reduced = device.type == "cuda" or precision(device) is torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16) if reduced else nullcontext()


@contextmanager
def _same_modes(network: nn.Module) -> Iterator[None]:
    """Parts of the network may be in training and others in evaluation mode: put it back so."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
