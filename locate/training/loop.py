"""The training loop: one for all recipes.

On the CPU with one thread a training that was interrupted, however it was, and resumed gives bit for
bit what it would have given otherwise. Networks compute in bfloat16 where the device has arithmetic for
it, see `locate.precision`."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from locate.errors import InputError, TrainingError, UnknownNameError
from locate.training import steps as stepping
from locate.training.checkpoint import Checkpoint, Log, save_checkpoint
from locate.training.options import Options, TrainEvent
from locate.training.recipe import Batch, Recipe, Stage, torch_seed
from locate.training.schedule import Window, fitting_steps, planned_steps, rate, stage_window

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.jsonl"
HELD_OUT_PASSES = 5  # in a stage: at its start, at its end and evenly between

_TRIAL = 0.02  # of a time budget is spent on finding out the speed
_SETTLING, _SETTLED = 0.1, 0.2  # of a stage: between these its own speed is measured
_ENOUGH_STEPS = 3  # to know a speed
_MEASURING = 0.2  # of a stage's time may go into held-out passes
_MOST_SKIPPED = 20  # steps in a row; beyond, nothing is learned any more


def train(
    recipe: Recipe[Any],
    data: Path,
    out: Path,
    options: Options,
    checkpoint: Checkpoint | None = None,
    *,
    initial: Mapping[str, Tensor] | None = None,
    begun: Mapping[str, Any] | None = None,
    show: Callable[[TrainEvent], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Checkpoint, nn.Module]:
    """Train by `recipe`; writes checkpoint.pt and metrics.jsonl into the folder `out`, which exists.
    The last checkpoint, `finished` or not, and the network.

    From a checkpoint it goes on; then `recipe` and `options` must be what they were at first. `initial`
    are the tensors of an earlier training's weights file, from which a new one starts. `begun` is what
    checkpoints shall remember of how the training was begun. `stop` is asked before every step; once it
    says so a checkpoint is written and the training ends."""
    started = clock() - (checkpoint.elapsed if checkpoint else 0.0)
    first = stage_number(recipe, options.first_stage)
    steps = planned_steps(recipe.stages, options.steps, first)
    with _threads(options.threads):
        recipe.prepare(data, out / "cache")
        torch.manual_seed(torch_seed(options.seed))
        network = recipe.network().to("cuda" if torch.cuda.is_available() else "cpu")
        run = checkpoint or Checkpoint({}, recipe.describe(), steps, stage=first)
        run.begun = dict(begun or run.begun)
        if checkpoint is not None:
            _restore(run, recipe, network)
        elif initial is not None:
            recipe.start_from(network, initial)
        _refuse_full_disk(out, network)
        if options.seconds is not None and not run.paces:
            limit = _TRIAL * options.seconds
            how = options.seed, options.threads, limit, clock, first
            run.paces = stepping.trial(recipe, network, *how)
        with closing(Log(out / METRICS, run.log_bytes)) as log:
            one = _Training(recipe, network, options, run, out, log, show, stop, clock, started)
            while not run.finished and one.stage():
                pass
    return run, network


@dataclass
class _Training:
    recipe: Recipe[Any]
    network: nn.Module
    options: Options
    run: Checkpoint
    out: Path
    log: Log
    show: Callable[[TrainEvent], None]
    stop: Callable[[], bool]
    clock: Callable[[], float]
    started: float  # by the clock, had there been no interruption

    def stage(self) -> bool:
        """Train the stage that comes next, or the rest of it; False if asked to stop in it."""
        run, options, clock = self.run, self.options, self.clock
        index, stage = run.stage, self.recipe.stages[run.stage]
        optimiser, rates = self._begin(stage)
        count, threads = options.held_out_batches, options.threads
        held_out = stepping.held_out_batches(self.recipe, stage, index, count, threads)
        timed: list[float] | None = None
        skipped, saved = 0, clock()
        numbers = (options.seed, index)
        now = self._position(run.step)
        every_step = stepping.stepwise(self.recipe, self.network, stage, numbers, run.step, threads)
        with closing(every_step) as steps:
            while now < 1 and not self.stop():
                began = clock()
                batches = next(steps)  # after the recipe's refresh, which may set up the stage
                if run.held_out_passes == 0:
                    self._measure(stage, held_out, passes=1)
                    began = clock()
                scale = self._rate_of_step(stage)
                for group, base in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = base * scale
                step = stepping.take_step(
                    self.recipe, self.network, optimiser, stage, batches, (*numbers, run.step)
                )
                run.step += 1
                if timed is not None and now >= _SETTLING:
                    timed.append(clock() - began)
                timed = timed or []  # this part's first step pays for much else
                now = self._position(run.step)
                skipped = 0 if math.isfinite(step.gradient) else skipped + 1
                self._note(stage, step, clock() - began, skipped)
                if run.step % options.log_every == 0 or now >= 1:
                    self._write_line(stage, scale * stage.learning_rate)
                passes = 1 + int(now * (HELD_OUT_PASSES - 1))
                wanted = passes > run.held_out_passes and not self._measuring_is_dear()
                if wanted or passes == HELD_OUT_PASSES:
                    self._measure(stage, held_out, passes)
                known = _SETTLED <= now < 1 and len(timed) >= _ENOUGH_STEPS
                if run.window and not run.settled and known:
                    run.settled = True
                    self._plan(stage, sum(timed) / len(timed))
                    now = self._position(run.step)
                    saved = self._save(optimiser)  # else a resumed training would plan differently
                elif clock() - saved >= options.checkpoint_every:
                    saved = self._save(optimiser)
        if now < 1:
            self._save(optimiser)
            return False
        if run.held_out_passes < HELD_OUT_PASSES:  # the time was over before the next step
            self._measure(stage, held_out, HELD_OUT_PASSES)
        torch.manual_seed(torch_seed(*numbers, run.step))
        self.recipe.finish(self.network, stage)
        run.next_stage()
        self._save(None)
        return True

    def _begin(self, stage: Stage) -> tuple[Optimizer, list[float]]:
        run, budget = self.run, self.options.seconds
        torch.manual_seed(torch_seed(self.options.seed, run.stage))
        optimiser, rates = stepping.make_optimiser(self.recipe.begin(self.network, stage), stage)
        if run.optimiser is not None:  # resumed within this stage
            _restore(run, self.recipe, self.network)
            optimiser.load_state_dict(run.optimiser)
            return optimiser, rates
        if budget is not None:
            elapsed = self._elapsed()
            window = stage_window(self.recipe.stages, run.paces, run.stage, elapsed, budget)
            run.window = (window.start, window.end)
            self._plan(stage, run.paces[run.stage])
        self._save(optimiser)
        return optimiser, rates

    def _elapsed(self) -> float:
        return self.clock() - self.started

    def _position(self, done: float) -> float:
        """Where the stage is when `done` steps are, see `locate.training.schedule`."""
        by_time = Window(*self.run.window).position(self._elapsed()) if self.run.window else 0.0
        return min(1.0, max(done / self.run.steps[self.run.stage], by_time))

    def _rate_of_step(self, stage: Stage) -> float:
        """What the learning rate is multiplied with in the step that comes; the recipe is told when."""
        # In the middle of the step, so that neither the first nor the last one is for nothing.
        self.recipe.position = self._position(self.run.step + 0.5)
        return rate(stage, self.recipe.position)

    def _measuring_is_dear(self) -> bool:
        """Whether a stage so short must do with the held-out passes at its start and its end."""
        run = self.run
        if run.window is None:
            return False
        return HELD_OUT_PASSES * run.held_out_seconds > _MEASURING * (run.window[1] - run.window[0])

    def _plan(self, stage: Stage, pace: float) -> None:
        """So many steps of `pace` seconds as fit into what is left of the stage's time."""
        run = self.run
        assert run.window is not None
        passes = HELD_OUT_PASSES - run.held_out_passes
        if self._measuring_is_dear():
            passes = 1 if run.held_out_passes else 2
        fixed = passes * run.held_out_seconds
        more = fitting_steps(run.window[1] - self._elapsed(), max(pace, 1e-6), fixed)
        run.steps[run.stage] = run.step + more
        self._write("plan", stage, steps=run.step + more, seconds_per_step=round(pace, 6))

    def _measure(self, stage: Stage, batches: Sequence[Batch], passes: int) -> None:
        """The pass on held-out batches after which `passes` are done."""
        run, before = self.run, self.clock()
        losses = stepping.held_out_losses(self.recipe, self.network, stage, batches)
        run.held_out_passes, run.held_out_seconds = passes, self.clock() - before
        run.held_out.setdefault(stage.name, {"start": losses})["end"] = losses
        # JSON has no NaN.
        plain = {name: value if math.isfinite(value) else None for name, value in losses.items()}
        self._write("held-out", stage, losses=plain, elapsed=round(self._elapsed(), 3))
        self._show(stage, losses, held_out=True)

    def _note(self, stage: Stage, step: stepping.Step, seconds: float, skipped: int) -> None:
        run = self.run
        run.skipped += skipped > 0
        if skipped == _MOST_SKIPPED:
            raise TrainingError(
                f"stage {stage.name}: the gradients of the last {skipped} steps until {run.step} were "
                "not finite; lower the learning rate"
            )
        for name, value in {"steps": 1, "images": step.images, "seconds": seconds}.items():
            run.sums[name] = run.sums.get(name, 0.0) + value
        for name, value in {"gradient norm": step.gradient, **step.losses}.items():
            if math.isfinite(value):
                total, count = run.means.get(name, (0.0, 0))
                run.means[name] = [total + value, count + 1]
        self._show(stage, step.losses)

    def _show(self, stage: Stage, losses: Mapping[str, float], *, held_out: bool = False) -> None:
        run = self.run
        steps = run.steps[run.stage]
        self.show(TrainEvent(stage.name, run.step, steps, losses, run.skipped, held_out))

    def _write(self, kind: str, stage: Stage, **values: Any) -> None:
        self.log.write(kind=kind, stage=stage.name, step=self.run.step, **values)

    def _write_line(self, stage: Stage, learning_rate: float) -> None:
        """The means since the last line."""
        run = self.run
        means = {name: total / count for name, (total, count) in run.means.items()}
        gradient = means.pop("gradient norm", None)
        seconds, images = run.sums["seconds"], run.sums["images"]
        times = {"elapsed": round(self._elapsed(), 3), "seconds": round(seconds, 3)}
        speed = {"images_per_second": round(images / max(seconds, 1e-6), 2)}
        norms = {"gradient_norm": gradient, "skipped": run.skipped}
        learned = {"losses": means, "learning_rate": learning_rate}
        self._write("train", stage, **learned, **norms, **times, **speed)
        run.sums, run.means = {}, {}

    def _save(self, optimiser: Optimizer | None) -> float:
        """Write a checkpoint; `TrainingError` if that fails or a parameter is not finite. The time."""
        run, path = self.run, self.out / CHECKPOINT
        for name, parameter in self.network.named_parameters():
            if not torch.isfinite(parameter).all():
                raise TrainingError(
                    f"step {run.step}: the parameter {name} is not finite; lower the learning rate. "
                    f"{path} is older and good"
                )
        run.network = dict(self.network.state_dict())
        run.optimiser = optimiser.state_dict() if optimiser else None
        run.recipe_state = self.recipe.state()
        run.elapsed = self._elapsed()
        try:
            run.log_bytes = self.log.sync()
            save_checkpoint(path, run)
        except OSError as error:
            raise TrainingError(
                f"{path}: {error.strerror} at step {run.step}; what it held before is kept: make room, "
                "then go on with --resume"
            ) from error
        return self.clock()


def stage_number(recipe: Recipe[Any], name: str | None) -> int:
    """Of the stage called `name`, from 0; of the first one if that is None."""
    names = [stage.name for stage in recipe.stages]
    if name is None:
        return 0
    if name not in names:
        raise UnknownNameError(f"stage of {recipe.system}", name, names)
    return names.index(name)


def _restore(run: Checkpoint, recipe: Recipe[Any], network: nn.Module) -> None:
    recipe.set_state(run.recipe_state)
    network.load_state_dict(run.network)


def _refuse_full_disk(out: Path, network: nn.Module) -> None:
    """Two checkpoints at once, with AdamW's two numbers a parameter, and the weights."""
    size = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    free = shutil.disk_usage(out).free
    if free < 7 * size:
        raise InputError(
            f"{out}: {free / 2**20:.0f} MiB are free and training needs {7 * size / 2**20:.0f}; "
            "make room, or name another --out"
        )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """OpenCV computes on one thread meanwhile: batches are made side by side already."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
