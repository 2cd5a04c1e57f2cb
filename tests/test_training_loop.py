"""`locate train`: the loop, its schedule, its checkpoints, its command."""

from __future__ import annotations

import argparse
import errno
import functools
import itertools
import json
import math
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_worker import ToyRecipe, parser

from locate.errors import InputError, TrainingError, UnknownNameError, WeightsError
from locate.extractors.weights import load_weights
from locate.training import loop, recipes
from locate.training.batches import AHEAD, made_ahead
from locate.training.checkpoint import (
    Checkpoint,
    Log,
    load_checkpoint,
    refuse_difference,
    save_checkpoint,
)
from locate.training.options import Options
from locate.training.recipe import Recipe, Stage, generator, torch_seed
from locate.training.recipes import RECIPES, create_recipe
from locate.training.schedule import (
    Window,
    fitting_steps,
    planned_steps,
    rate,
    stage_window,
)
from locate.training.steps import held_out_losses, stepwise
from pipelines import train_cli
from pipelines.train import Request, export, train_system
from pipelines.train_record import commit_of, loss_curves, smoothed

WORKER = Path(__file__).with_name("training_worker.py")
QUICK = Options(threads=1, log_every=1)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(RECIPES, "toy", lambda: ToyRecipe)


def metrics(folder, *, kind=None):
    """The lines of the log without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for key in ("elapsed", "seconds", "images_per_second"):
            line.pop(key, None)
    return [line for line in lines if kind in (None, line["kind"])]


def losses_of(folder, stage=None, name="loss"):
    return [
        line["losses"][name]
        for line in metrics(folder, kind="train")
        if stage in (None, line["stage"])
    ]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class OneStage(ToyRecipe):
    """The toy's network and data under other stages, without `refresh`."""

    def __init__(self, *stages):
        super().__init__()
        self.stages = stages or (Stage("only", 8, 0.05, "sgd", "constant", warmup=0.0),)

    def refresh(self, network, stage, step):
        pass

    def begin(self, network, stage):
        return network.train().parameters()

    def finish(self, network, stage):
        pass

    def refresh_every(self, stage):
        return 0

    def batch(self, stage, rng, *, held_out=False):
        return super().batch(self.stages[0], rng, held_out=held_out)


# --- numbers -----------------------------------------------------------------------------------


def test_every_tuple_of_numbers_has_its_own_generator():
    tuples = [t for n in range(4) for t in itertools.product((0, 1, 2), repeat=n + 1)]
    drawn = [float(generator(*t).random()) for t in tuples]
    assert len(set(drawn)) == len(tuples)
    assert drawn[5] == float(generator(*tuples[5]).random())
    seeds = [torch_seed(*t) for t in tuples]
    states = [
        int(generator(*t).bit_generator.seed_seq.generate_state(1, np.uint64)[0]) for t in tuples
    ]
    assert len({*seeds, *states}) == 2 * len(tuples)
    assert all(0 <= seed < 2**64 for seed in seeds)


# --- schedule ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "position", "expected"),
    [
        ("cosine", 0.0, 0.0),
        ("cosine", 0.05, 0.25),
        ("cosine", 0.2, 1.0),
        ("cosine", 0.4, 0.5 + 0.5 * math.sqrt(0.5)),  # a quarter of the rest: cos(pi / 4)
        ("cosine", 0.6, 0.5),
        ("cosine", 1.0, 0.0),
        ("linear", 0.1, 0.5),
        ("linear", 0.4, 0.75),
        ("linear", 1.0, 0.0),
        ("constant", 0.1, 0.5),
        ("constant", 0.9, 1.0),
        ("constant", 1.0, 1.0),
    ],
)
def test_rate(schedule, position, expected):
    stage = Stage("a", 10, 1.0, schedule=schedule, warmup=0.2)
    assert rate(stage, position) == pytest.approx(expected, abs=1e-12)


def test_rate_without_a_warm_up_starts_at_the_top():
    assert rate(Stage("a", 10, 1.0, warmup=0.0), 0.0) == 1.0


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (None, [300, 100, 1]),
        (401, [300, 100, 1]),
        (802, [600, 200, 2]),
        (5, [3, 1, 1]),  # exactly 3.74, 1.25, 0.01
        (6, [4, 1, 1]),  # exactly 4.49, 1.50, 0.01
        (3, [1, 1, 1]),
    ],
)
def test_planned_steps(total, expected):
    stages = [Stage("a", 300, 1.0), Stage("b", 100, 1.0), Stage("c", 1, 1.0)]
    steps = planned_steps(stages, total)
    assert sum(steps) == (total or 401)
    assert steps == expected


def test_too_few_steps_are_refused():
    with pytest.raises(InputError, match="1 steps are too few for the stages a, b"):
        planned_steps([Stage("a", 1, 1.0), Stage("b", 1, 1.0)], 1)


def test_time_is_shared_by_work():
    stages = [Stage("a", 100, 1.0), Stage("b", 50, 1.0), Stage("c", 50, 1.0)]
    paces = [1.0, 4.0, 2.0]  # work 100, 200, 100
    assert stage_window(stages, paces, 0, 20.0, 100.0) == Window(20.0, 40.0)
    assert stage_window(stages, paces, 1, 40.0, 100.0) == Window(40.0, 80.0)
    assert stage_window(stages, paces, 2, 70.0, 100.0) == Window(70.0, 100.0)
    late = stage_window(stages, paces, 2, 130.0, 100.0)
    assert late.position(130.0) == 1.0
    assert Window(40.0, 80.0).position(50.0) == 0.25
    assert Window(40.0, 80.0).position(30.0) == 0.0
    assert fitting_steps(100.0, 2.0, 7.0) == 45  # (97 - 7) / 2
    assert fitting_steps(1.0, 2.0, 0.0) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 0),
        ("learning_rate", -1.0),
        ("learning_rate", math.nan),
        ("optimiser", "adam"),
        ("schedule", "step"),
        ("warmup", 1.0),
        ("clip", 0.0),
        ("accumulate", 0),
        ("weight_decay", -0.1),
    ],
)
def test_a_stage_refuses_nonsense(key, value):
    with pytest.raises(InputError, match=f"stage a: {key} "):
        replace(Stage("a", 10, 1.0), **{key: value})


@pytest.mark.parametrize(
    "values", [{"seed": -1}, {"seconds": 0.0}, {"threads": 0}, {"steps": 5, "seconds": 5.0}]
)
def test_options_refuse_nonsense(values):
    with pytest.raises(InputError):
        Options(**values)


# --- batches -----------------------------------------------------------------------------------


def test_batches_come_in_order_whichever_is_made_first():
    def make(number):
        time.sleep(0.001 * generator(number).integers(8))
        return number

    with made_ahead(make, range(40), threads=4) as made:
        assert list(made) == list(range(40))


def test_no_more_batches_are_made_than_wanted_ahead():
    begun, lock = [], threading.Lock()

    def make(number):
        with lock:
            begun.append(number)
        return number

    with made_ahead(make, itertools.count(), threads=2) as made:
        assert next(made) == 0
        time.sleep(0.05)
        assert sorted(begun) == list(range(2 + AHEAD))
        assert next(made) == 1
    left = len(begun)
    time.sleep(0.02)
    assert len(begun) == left
    assert not [t for t in threading.enumerate() if t.name.startswith("locate-batches")]


def test_an_error_in_a_batch_arrives_where_the_batch_is_wanted():
    def make(number):
        if number == 2:
            raise InputError("this photo")
        return number

    with made_ahead(make, range(9), threads=3) as made:
        assert [next(made), next(made)] == [0, 1]
        with pytest.raises(InputError, match="this photo"):
            next(made)


def test_no_batch_is_made_before_the_refresh_that_steers_it():
    events, lock = [], threading.Lock()

    class Steered(OneStage):
        def refresh_every(self, stage):
            return 3

        def refresh(self, network, stage, step):
            time.sleep(0.02)  # time for a batch to be made too early
            events.append(("refresh", step))

        def batch(self, stage, rng, *, held_out=False):
            with lock:
                events.append(("batch", None))
            return super().batch(stage, rng)

    recipe = Steered(Stage("only", 8, 0.05, accumulate=2))
    steps = stepwise(recipe, recipe.network(), recipe.stages[0], (0, 0), 4, threads=3)
    for _ in range(6):
        assert len(list(next(steps))) == 2
    steps.close()
    # Steps 4, 5 (the rest of a stretch), then stretches of three steps of two batches.
    counts = [
        (step, len(list(group)))
        for step, group in itertools.groupby(
            itertools.accumulate(events, lambda now, e: e if e[0] == "refresh" else now)
        )
    ]
    assert counts[0] == (("batch", None), 4)
    assert counts[1] == (("refresh", 6), 1 + 6)
    assert counts[2][0] == ("refresh", 9)


# --- the loop ----------------------------------------------------------------------------------


def test_the_loss_falls(photos, out):
    recipe = ToyRecipe()
    recipe.stages = (replace(recipe.stages[0], steps=100),)
    run, network = loop.train(recipe, photos, out, QUICK)
    losses = losses_of(out)
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:10])
    held_out = [line["losses"]["loss"] for line in metrics(out, kind="held-out")]
    assert len(held_out) == loop.HELD_OUT_PASSES
    assert held_out[-1] < 0.1 * held_out[0]
    assert run.finished
    assert run.held_out["first"]["start"]["loss"] == held_out[0]
    assert run.held_out["first"]["end"]["loss"] == held_out[-1]
    assert torch.count_nonzero(network.fitted) == 4  # `finish` was called


def test_the_log_holds_means_rates_and_held_out_losses(photos, out):
    recipe = ToyRecipe()
    loop.train(recipe, photos, out, replace(QUICK, log_every=10))
    one = metrics(out)
    again = out.parent / "again"
    again.mkdir()
    loop.train(ToyRecipe(), photos, again, QUICK)
    fine = metrics(again, kind="train")
    train = [line for line in one if line["kind"] == "train"]
    assert [(t["stage"], t["step"]) for t in train] == [
        ("first", 10),
        ("first", 20),
        ("first", 24),
        ("second", 10),
        ("second", 12),
    ]
    assert train[1]["losses"]["loss"] == pytest.approx(
        np.mean([line["losses"]["loss"] for line in fine[10:20]])
    )
    assert train[1]["gradient_norm"] == pytest.approx(
        np.mean([line["gradient_norm"] for line in fine[10:20]])
    )
    # In the middle of step 20 of 24, after a warm-up of 0.1; and of step 12 of 12, linear.
    cosine = 0.5 + 0.5 * math.cos(math.pi * (19.5 / 24 - 0.1) / 0.9)
    assert train[1]["learning_rate"] == pytest.approx(0.05 * cosine)
    assert train[4]["learning_rate"] == pytest.approx(0.02 * (0.5 / 12) / 0.95)
    held_out = [(h["stage"], h["step"]) for h in one if h["kind"] == "held-out"]
    assert held_out == [
        *(("first", step) for step in (0, 6, 12, 18, 24)),
        *(("second", step) for step in (0, 3, 6, 9, 12)),
    ]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(line["images_per_second"] > 0 for line in lines if line["kind"] == "train")


def test_measuring_changes_nothing(photos, out, monkeypatch):
    loop.train(ToyRecipe(), photos, out, QUICK)
    often = out.parent / "often"
    often.mkdir()
    monkeypatch.setattr(loop, "HELD_OUT_PASSES", 13)
    loop.train(ToyRecipe(), photos, often, replace(QUICK, held_out_batches=3))
    assert metrics(out, kind="train") == metrics(often, kind="train")
    assert len(metrics(often, kind="held-out")) > len(metrics(out, kind="held-out"))


def test_held_out_losses_are_of_evaluation_mode_and_put_the_modes_back():
    recipe = OneStage()
    network = recipe.network()
    network.norm.eval()
    network.dropout.p = 0.9
    batches = [recipe.batch(recipe.stages[0], generator(7, i)) for i in range(3)]
    found = held_out_losses(recipe, network, recipe.stages[0], batches)
    modes = {name: module.training for name, module in network.named_modules()}
    assert modes["norm"] is False
    assert modes["dropout"] is True
    network.eval()
    with torch.no_grad():
        by_hand = [recipe.losses(network, b, recipe.stages[0])["loss"].item() for b in batches]
    assert found["loss"] == pytest.approx(np.mean(by_hand), rel=1e-6)
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("threads", [2, 4])
def test_what_is_learned_does_not_depend_on_timing(photos, out, threads, monkeypatch):
    # Sums on several threads differ in the last bit; here it is the batches that matter.
    one = functools.partial(torch.set_num_threads, 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: one())

    class Jittery(ToyRecipe):
        def batch(self, stage, rng, *, held_out=False):
            made = super().batch(stage, rng, held_out=held_out)
            time.sleep(random.random() * 0.002)
            return made

    _, network = loop.train(ToyRecipe(), photos, out, QUICK)
    other = out.parent / "other"
    other.mkdir()
    _, again = loop.train(Jittery(), photos, other, replace(QUICK, threads=threads))
    assert metrics(out) == metrics(other)
    assert equal(network.state_dict(), again.state_dict())


def test_no_two_batches_are_the_same_but_the_held_out_ones(photos, tmp_path):
    seen = {}

    class Watching(OneStage):
        def batch(self, stage, rng, *, held_out=False):
            made = super().batch(stage, rng, held_out=held_out)
            seen.setdefault((seed, stage.name, held_out), set()).add(float(made["wanted"].sum()))
            return made

    for seed in (0, 1):
        (tmp_path / f"{seed}").mkdir()
        stages = [Stage(name, 3, 0.05, accumulate=2) for name in "ab"]
        options = replace(QUICK, seed=seed)
        loop.train(Watching(*stages), photos, tmp_path / f"{seed}", options)
    # Some more are made ahead than the 3 x 2 that are wanted.
    assert all(len(batches) >= (8 if held_out else 6) for (_, _, held_out), batches in seen.items())
    assert seen[0, "a", True] == seen[1, "a", True]
    assert seen[0, "b", True] == seen[1, "b", True]
    different = [batches for key, batches in seen.items() if key[0] == 0 or not key[2]]
    assert len(set.union(*different)) == sum(len(batches) for batches in different)


def test_groups_move_at_their_own_rate(photos, out):
    class TwoGroups(OneStage):
        def network(self):
            network = nn.Module()
            network.a = nn.Parameter(torch.tensor([1.0]))
            network.b = nn.Parameter(torch.tensor([1.0]))
            return network

        def begin(self, network, stage):
            return [network.a, {"params": [network.b], "lr": 0.001}]

        def losses(self, network, batch, stage):
            return {"loss": (3 * network.a + 5 * network.b).sum()}

    stage = Stage("only", 4, 0.1, "sgd", "linear", warmup=0.5, weight_decay=0.0, clip=1e9)
    _, network = loop.train(TwoGroups(stage), photos, out, QUICK)
    # Positions 1/8, 3/8, 5/8, 7/8: a quarter, three quarters, and down again; momentum 0.9.
    rates, velocity, moved = [0.25, 0.75, 0.75, 0.25], 0.0, 0.0
    for factor in rates:
        velocity = 0.9 * velocity + 1.0
        moved += factor * velocity
    assert network.a.item() == pytest.approx(1 - 0.1 * 3 * moved, rel=1e-5)
    assert network.b.item() == pytest.approx(1 - 0.001 * 5 * moved, rel=1e-5)
    assert [line["learning_rate"] for line in metrics(out, kind="train")] == pytest.approx(
        [0.1 * factor for factor in rates]
    )


def test_accumulated_batches_are_one_big_batch(photos, out):
    made = []

    class Plain(OneStage):
        """No dropout and no statistics of the batch, under which the two would differ."""

        def begin(self, network, stage):
            network.eval()
            return network.parameters()

    class Small(Plain):
        def batch(self, stage, rng, *, held_out=False):
            batch = super().batch(stage, rng)
            if not held_out:
                made.append(batch)
            return batch

    class Big(Plain):
        def batch(self, stage, rng, *, held_out=False):
            return {key: torch.cat([batch[key] for batch in made[:3]]) for key in made[0]}

    stage = Stage("only", 1, 0.1, "sgd", "constant", warmup=0.0, accumulate=3, clip=0.01)
    _, small = loop.train(Small(stage), photos, out, QUICK)
    big_out = out.parent / "big"
    big_out.mkdir()
    _, big = loop.train(Big(replace(stage, accumulate=1)), photos, big_out, QUICK)
    start = Plain().network().state_dict()
    for name, tensor in small.state_dict().items():
        torch.testing.assert_close(tensor, big.state_dict()[name], rtol=1e-5, atol=1e-7)
    moved = math.sqrt(
        sum(
            float(((small.state_dict()[n] - start[n]) ** 2).sum())
            for n, _ in small.named_parameters()
        )
    )
    # Clipped to 0.01, times the rate 0.1; weight decay adds a little.
    assert moved == pytest.approx(0.001, rel=0.05)
    a, b = (metrics(folder, kind="train")[0] for folder in (out, big_out))
    assert a["losses"]["loss"] == pytest.approx(b["losses"]["loss"], rel=1e-5)
    assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-5)


def test_frozen_parts_and_unfitted_ones_stay(photos, out):
    class SecondOnly(ToyRecipe):
        def __init__(self):
            super().__init__()
            self.stages = (self.stages[1],)

    _, network = loop.train(SecondOnly(), photos, out, QUICK)
    start = ToyRecipe().network()
    assert torch.equal(network.convolution.weight, start.convolution.weight)
    assert torch.equal(network.norm.running_mean, start.norm.running_mean)
    assert not torch.equal(network.head.weight, start.head.weight)


class Breaking(OneStage):
    """The loss of step `at` is `value`; or its gradient, if `gradient` says so."""

    def __init__(self, at, value=math.nan, *, gradient=False, last=None):
        super().__init__(Stage("only", 40, 0.01, "adamw", "constant"))
        self.at, self.value, self.gradient = at, value, gradient
        self.last = at if last is None else last
        self.step = 0

    def refresh(self, network, stage, step):
        self.step = step

    def losses(self, network, batch, stage):
        losses = super().losses(network, batch, stage)
        if self.at <= self.step <= self.last and torch.is_grad_enabled():
            if self.gradient:  # the square root of 0 is fine, its slope is not
                zero = (network.head.bias - network.head.bias.detach()).sum()
                losses["loss"] = losses["loss"] + torch.sqrt(zero)
            else:
                losses["loss"] = losses["loss"] * self.value
        return losses


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_the_last_checkpoint_kept(photos, out, value):
    options = replace(QUICK, checkpoint_every=0.0)
    with pytest.raises(TrainingError, match=r"stage only, step 7: .*loss (nan|inf), worst \d"):
        loop.train(Breaking(7, value), photos, out, options)
    kept = load_checkpoint(out / "checkpoint.pt")
    assert kept.step == 7
    assert all(torch.isfinite(t).all() for t in kept.network.values())
    run, _ = loop.train(OneStage(Stage("only", 40, 0.01)), photos, out, options, kept)
    assert run.finished
    assert [line["step"] for line in metrics(out, kind="train")] == list(range(1, 41))


def test_a_step_whose_gradient_is_not_finite_is_left_out(photos, out):
    run, network = loop.train(Breaking(4, gradient=True, last=6), photos, out, QUICK)
    assert run.skipped == 3
    lines = metrics(out, kind="train")
    assert [line["skipped"] for line in lines[3:8]] == [0, 1, 2, 3, 3]
    assert [line["gradient_norm"] is None for line in lines[3:8]] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert all(torch.isfinite(p).all() for p in network.parameters())


def test_too_many_such_steps_stop(photos, out):
    with pytest.raises(TrainingError, match="gradients of the last 20 steps until 24"):
        loop.train(Breaking(4, gradient=True, last=99), photos, out, QUICK)


def test_parameters_that_are_not_finite_are_never_saved(photos, out):
    class Poisoned(OneStage):
        def refresh(self, network, stage, step):
            if step == 5:
                with torch.no_grad():
                    network.fitted_head = None
                    network.convolution.bias[0] = math.nan

        def losses(self, network, batch, stage):
            return {"loss": network.head(batch["images"].mean(dim=(2, 3))[:, [0, 1, 2, 0]]).mean()}

        def begin(self, network, stage):
            return network.head.parameters()

    with pytest.raises(TrainingError, match=r"convolution\.bias is not finite"):
        loop.train(Poisoned(), photos, out, replace(QUICK, checkpoint_every=0.0))
    kept = load_checkpoint(out / "checkpoint.pt")
    assert kept.step == 5
    assert torch.isfinite(kept.network["convolution.bias"]).all()


# --- the time budget, by a clock that only the training moves ------------------------------------


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Timed(OneStage):
    """A step of stage k takes `seconds[k]`, times `slower` after `when` seconds of the clock; a pass on
    held-out batches takes `measuring`."""

    def __init__(self, clock, seconds, slower=1.0, when=math.inf, measuring=0.0):
        stages = [Stage(f"stage {k}", 10 * (k + 1), 0.1) for k in range(len(seconds))]
        super().__init__(*stages)
        self.clock, self.seconds, self.slower, self.when = clock, seconds, slower, when
        self.measuring = measuring

    def prepare(self, data, cache):
        super().prepare(data, cache)
        self.clock.now += 3.0

    def losses(self, network, batch, stage):
        if torch.is_grad_enabled():
            seconds = self.seconds[self.stages.index(stage)]
            late = self.clock.now - 1000.0 > self.when
            self.clock.now += seconds * (self.slower if late else 1.0)
        else:
            self.clock.now += self.measuring / QUICK.held_out_batches
        return super().losses(network, batch, stage)


def test_a_time_budget_is_filled(photos, out):
    clock = Clock()
    recipe = Timed(clock, [1.0, 2.0])  # work 10 and 40 by default
    options = replace(QUICK, seconds=400.0)
    run, _ = loop.train(recipe, photos, out, options, clock=clock)
    assert run.paces == [1.0, 2.0]
    assert 375 <= clock.now - 1000.0 <= 400
    plans = [line for line in metrics(out) if line["kind"] == "plan"]
    # The trial: a first step and then 2 % of the time, that is 4 s for either, but at least 3 steps.
    spent = 3 + 5 * 1.0 + 4 * 2.0
    first = (400 - spent) / 5
    assert plans[0] == {
        "kind": "plan",
        "stage": "stage 0",
        "step": 0,
        "steps": math.floor(0.97 * first),
        "seconds_per_step": 1.0,
    }
    assert sum(plan["stage"] == "stage 1" for plan in plans) == 2
    assert run.steps[1] == pytest.approx(0.97 * (400 - spent) * 4 / 5 / 2, rel=0.02)
    assert run.elapsed == pytest.approx(clock.now - 1000.0)
    last = metrics(out, kind="train")[-1]
    assert last["learning_rate"] < 1e-4 * 0.1


def test_the_trial_leaves_no_trace(photos, out):
    clock, recipe = Clock(), ToyRecipe()
    options = replace(QUICK, seconds=60.0)
    run, network = loop.train(recipe, photos, out, options, stop=lambda: True, clock=clock)
    assert len(run.paces) == 2
    assert run.step == 0
    assert equal(network.state_dict(), ToyRecipe().network().state_dict())
    assert recipe.state() == ToyRecipe().state()


@pytest.mark.parametrize(("measuring", "passes"), [(2.0, 5), (10.0, 2)])
def test_held_out_passes_fit_into_the_budget(photos, out, measuring, passes):
    clock = Clock()
    recipe = Timed(clock, [1.0, 1.0], measuring=measuring)  # a third and two thirds of the time
    loop.train(recipe, photos, out, replace(QUICK, seconds=300.0), clock=clock)
    assert 270 <= clock.now - 1000.0 <= 302
    held_out = [line["stage"] for line in metrics(out, kind="held-out")]
    assert held_out.count("stage 0") == passes
    assert held_out.count("stage 1") == (5 if measuring * 5 < 0.2 * 190 else 2)


def test_a_machine_that_becomes_slower_still_ends_in_time(photos, out):
    clock = Clock()
    recipe = Timed(clock, [1.0], slower=5.0, when=160.0)
    run, _ = loop.train(recipe, photos, out, replace(QUICK, seconds=400.0), clock=clock)
    assert 400 <= clock.now - 1000.0 <= 405  # one step may be under way
    done = metrics(out, kind="train")[-1]["step"]
    assert done == run.steps[0] or done < 0.7 * run.steps[0]
    rates = [line["learning_rate"] for line in metrics(out, kind="train")]
    assert rates[-1] < 0.001 * max(rates)
    assert run.finished


def test_a_machine_that_becomes_faster_takes_more_steps(photos, out):
    clock = Clock()
    recipe = Timed(clock, [4.0], slower=0.25, when=20.0)  # the trial sees 4 s, the training 1 s
    run, _ = loop.train(recipe, photos, out, replace(QUICK, seconds=400.0), clock=clock)
    assert 375 <= clock.now - 1000.0 <= 400
    assert run.steps[0] > 330


def test_a_budget_too_small_for_anything_ends(photos, out):
    clock = Clock()
    run, _ = loop.train(
        Timed(clock, [1.0, 1.0]), photos, out, replace(QUICK, seconds=2.0), clock=clock
    )
    assert run.finished
    assert clock.now - 1000.0 < 20
    assert len(metrics(out, kind="held-out")) >= 2


def test_a_resumed_budget_counts_the_time_before(photos, out):
    clock = Clock()
    recipe = Timed(clock, [1.0])
    options = replace(QUICK, seconds=200.0)
    stop = iter([False] * 60 + [True])
    run, _ = loop.train(recipe, photos, out, options, stop=lambda: next(stop), clock=clock)
    assert not run.finished
    assert run.settled
    planned, spent = run.steps, clock.now - 1000.0
    clock.now = 5_000_000.0  # days later
    kept = load_checkpoint(out / "checkpoint.pt")
    assert kept.elapsed == pytest.approx(spent)
    run, _ = loop.train(recipe, photos, out, options, kept, clock=clock)
    assert run.finished
    assert run.steps == planned
    assert 185 <= run.elapsed <= 200
    assert [line["step"] for line in metrics(out, kind="train")][:100] == list(range(1, 101))


# --- interruptions -------------------------------------------------------------------------------


class Worker:
    """Trainings in processes of their own."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, *arguments):
        print(json.dumps([str(a) for a in arguments]), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def wait(self):
        return int(self._process.stdout.readline())

    def run(self, *arguments):
        self.start(*arguments)
        return self.wait()

    def close(self):
        self._process.communicate()


@pytest.fixture(scope="module")
def worker():
    made = Worker()
    yield made
    made.close()


def test_killed_at_random_instants_and_resumed_is_the_same_training(photos, tmp_path, worker):
    asked = ["toy", "--data", photos, "--threads", 1, "--set", "delay=0.005"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert worker.run(*asked, "--out", whole) == 0
    generator = random.Random(0)
    kills, instants, codes = 0, set(), []

    def lines():
        with suppress(FileNotFoundError):
            return (killed / "metrics.jsonl").read_bytes().count(b"\n")
        return 0

    for number in itertools.cycle([signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM]):
        resume = ["--resume"] if (killed / "checkpoint.pt").exists() else []
        # A killed process may have done nothing; one that is asked to stop must be able to listen.
        target = lines() + generator.randint(number != signal.SIGKILL, 12)
        pid = worker.start(*asked, "--out", killed, *resume)
        with suppress(ProcessLookupError):
            while lines() < target:
                os.kill(pid, 0)
                time.sleep(0.004)
            time.sleep(generator.uniform(0, 0.03))
            os.kill(pid, number)
        code = worker.wait()
        codes.append(code)
        if code == 0:
            break
        # After the last checkpoint nobody listens to SIGTERM any more.
        assert code in ((-9,) if number == signal.SIGKILL else (130, -signal.SIGTERM))
        kills += 1
        if (killed / "checkpoint.pt").exists():
            kept = load_checkpoint(killed / "checkpoint.pt")
            instants.add((kept.stage, kept.step))
    assert kills >= 3, codes
    assert len(instants) >= 3, f"the kills hit no work: {instants}"
    assert metrics(killed) == metrics(whole)
    steps = [(line["stage"], line["step"]) for line in metrics(killed, kind="train")]
    assert steps == [("first", n) for n in range(1, 25)] + [("second", n) for n in range(1, 13)]
    a, b = (load_weights(folder / "weights.safetensors")[0] for folder in (whole, killed))
    assert equal(a, b)
    assert not list(killed.glob(".*.new"))


def test_stopping_at_every_single_step_changes_nothing(photos, out):
    options = replace(QUICK, log_every=7)
    _, whole = loop.train(ToyRecipe(), photos, out, options)
    parts = out.parent / "parts"
    parts.mkdir()
    checkpoint, count = None, 0
    while checkpoint is None or not checkpoint.finished:
        asked = iter([False, True])
        _, network = loop.train(
            ToyRecipe(), photos, parts, options, checkpoint, stop=lambda a=asked: next(a, True)
        )
        checkpoint = load_checkpoint(parts / "checkpoint.pt")
        count += 1
    assert count >= 30
    assert metrics(parts) == metrics(out)
    assert equal(whole.state_dict(), network.state_dict())


@pytest.fixture
def handlers():
    """The usual ones, even if the tests were started so that they do not hear Ctrl-C."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_crash_after_the_last_step_changes_nothing(photos, out):
    _, whole = loop.train(ToyRecipe(), photos, out, QUICK)

    class Crashing(ToyRecipe):
        def finish(self, network, stage):
            if stage.name == self.crashes_in:
                raise MemoryError
            super().finish(network, stage)

    parts = out.parent / "parts"
    parts.mkdir()
    options, kept = replace(QUICK, checkpoint_every=0.0), None
    for name in ("first", "second"):
        recipe = Crashing()
        recipe.crashes_in = name
        with pytest.raises(MemoryError):
            loop.train(recipe, photos, parts, options, kept)
        kept = load_checkpoint(parts / "checkpoint.pt")
        assert (kept.step, kept.finished) == (kept.steps[kept.stage], False)
    _, network = loop.train(ToyRecipe(), photos, parts, options, kept)
    assert metrics(parts) == metrics(out)
    assert equal(whole.state_dict(), network.state_dict())


def test_a_crash_changes_no_plan(photos, out):
    clock = Clock()

    class Crashing(Timed):
        def refresh(self, network, stage, step):
            if step == 60:
                raise MemoryError

    recipe = Crashing(clock, [1.0], slower=0.5, when=15.0)
    with pytest.raises(MemoryError):
        loop.train(recipe, photos, out, replace(QUICK, seconds=100.0), clock=clock)
    kept = load_checkpoint(out / "checkpoint.pt")
    plans = [line for line in metrics(out) if line["kind"] == "plan"]
    assert len(plans) == 2
    assert plans[0]["steps"] < plans[1]["steps"]
    assert kept.settled
    assert (kept.step, kept.steps[0]) == (plans[1]["step"], plans[1]["steps"])


def test_an_interrupted_command_says_how_to_go_on(photos, tmp_path, toy, capsys, handlers):
    out = tmp_path / "out"
    arguments = ["train", "toy", "--data", str(photos), "--out", str(out), "--threads", "1"]

    class Interrupting:
        def __init__(self, at):
            self.at, self.calls = at, 0

        def __call__(self, recipe, network, batch, stage, original=ToyRecipe.losses):
            self.calls += torch.is_grad_enabled()
            if self.calls == self.at:
                os.kill(os.getpid(), signal.SIGINT)
            return original(recipe, network, batch, stage)

    interrupting = Interrupting(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyRecipe, "losses", lambda *given: interrupting(*given))  # noqa: PLW0108
        assert train_cli.train(parser().parse_args([*arguments, "--json"])) == 130
    printed = capsys.readouterr()
    assert "interrupted after 5 steps; go on with --resume" in printed.err
    assert json.loads(printed.out) == {
        "out": str(out),
        "finished": False,
        "steps": 5,
        "weights": None,
    }
    assert not (out / "weights.safetensors").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert train_cli.train(parser().parse_args([*arguments, "--resume"])) == 0
    assert "36 steps" in capsys.readouterr().out
    before = (out / "weights.safetensors").read_bytes()
    assert train_cli.train(parser().parse_args([*arguments, "--resume"])) == 0
    assert "finished already" in capsys.readouterr().out
    assert (out / "weights.safetensors").read_bytes() == before


def test_who_does_not_listen_to_ctrl_c_goes_on_training(photos, tmp_path, toy, handlers):
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    class Interrupting(ToyRecipe):
        def prepare(self, data, cache):
            super().prepare(data, cache)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "toy", lambda: Interrupting)
        assert train_system(Request("toy", tmp_path / "out", photos, steps=4, threads=1)).finished


def test_before_the_first_step_ctrl_c_ends_at_once(
    photos, tmp_path, toy, capsys, monkeypatch, handlers
):
    def prepare(self, data, cache):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        pytest.fail("the signal was not heard")

    monkeypatch.setattr(ToyRecipe, "prepare", prepare)
    out = tmp_path / "out"
    arguments = ["train", "toy", "--data", str(photos), "--out", str(out)]
    assert train_cli.train(parser().parse_args(arguments)) == 130
    assert "nothing is kept" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# --- checkpoints -----------------------------------------------------------------------------------


def some_checkpoint():
    network = ToyRecipe().network()
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.rand(4, 3, 6, 6)).mean().backward()
    optimiser.step()
    return Checkpoint(
        {"system": "toy", "settings": {"size": 8}},
        "words",
        [3, 4],
        stage=1,
        step=2,
        window=(1.0, 2.5),
        means={"loss": [1.5, 2]},
        held_out={"a": {"start": {"loss": 0.1}, "end": {"loss": 1 / 3}}},
        network=dict(network.state_dict()),
        optimiser=optimiser.state_dict(),
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = tmp_path / "checkpoint.pt"
    one = some_checkpoint()
    save_checkpoint(path, one)
    again = load_checkpoint(path)
    for name, value in vars(one).items():
        if name not in ("network", "optimiser"):
            assert getattr(again, name) == value
    assert equal(again.network, one.network)
    for key, state in one.optimiser["state"].items():
        assert equal(again.optimiser["state"][key], state)
    assert again.optimiser["param_groups"] == one.optimiser["param_groups"]


def test_a_damaged_checkpoint_is_never_taken_up(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, some_checkpoint())
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(good), size=60):
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        with pytest.raises(WeightsError, match=r"checkpoint.pt is (damaged|no checkpoint)"):
            load_checkpoint(path)
    for size in (0, 10, 100, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(WeightsError):
            load_checkpoint(path)
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(path)


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch, call):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, some_checkpoint())
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "write":
        monkeypatch.setattr(Path, "open", full)
    else:
        monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[call], full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, replace(some_checkpoint(), step=3))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_disk_that_becomes_full_stops_with_the_cure(photos, out, monkeypatch):
    saved = []

    def fills(path, checkpoint):
        if len(saved) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_checkpoint(path, checkpoint)
        saved.append(checkpoint.step)

    monkeypatch.setattr(loop, "save_checkpoint", fills)
    with pytest.raises(TrainingError, match=r"No space left on device at step 3.*--resume"):
        loop.train(OneStage(), photos, out, replace(QUICK, checkpoint_every=0.0))
    assert load_checkpoint(out / "checkpoint.pt").step == 2


def test_a_disk_too_full_is_refused_before_training(photos, out, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 100, 100))
    with pytest.raises(InputError, match="make room"):
        loop.train(OneStage(), photos, out, QUICK)
    assert not (out / "metrics.jsonl").exists()


def test_the_log_goes_back_to_the_checkpoint(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    log = Log(path, 0)
    log.write(step=1)
    size = log.sync()
    log.write(step=2)
    log.close()
    log = Log(path, size)
    log.write(step=3)
    log.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]
    Log(path, 10_000).close()
    assert "lines are missing" in caplog.text
    Log(path, 0).close()
    assert path.read_bytes() == b""


def test_differences_are_named():
    begun = {"seed": 0, "steps": None, "settings": {"size": 8}}
    refuse_difference(begun, {"seed": None, "steps": None, "settings": {}})
    refuse_difference(begun, {"seed": 0, "settings": {"size": 8}})
    with pytest.raises(InputError, match="begun with seed: 0, now it is 1"):
        refuse_difference(begun, {"seed": 1})
    with pytest.raises(InputError, match="steps: not given, now it is 9"):
        refuse_difference(begun, {"steps": 9})
    with pytest.raises(InputError, match="size: 8, now it is 9"):
        refuse_difference(begun, {"settings": {"size": 9}})


# --- the command -------------------------------------------------------------------------------


def test_weights_and_record(photos, tmp_path, toy, capsys):
    out = tmp_path / "out"
    arguments = ["train", "toy", "--data", str(photos), "--out", str(out), "--steps", "9"]
    arguments += ["--set", "size=4", "--seed", "3", "--threads", "1", "--json"]
    assert train_cli.train(parser().parse_args(arguments)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["finished"] is True
    assert printed["steps"] == 9
    tensors, record = load_weights(out / "weights.safetensors", "toy")
    checkpoint = load_checkpoint(out / "checkpoint.pt")
    assert equal(tensors, {f"toy.{name}": t for name, t in checkpoint.network.items()})
    assert record.settings == {"size": 4}
    assert record.data == "2 files"
    assert record.licence == "Apache-2.0"
    assert record.seconds == round(checkpoint.elapsed, 1)
    assert record.commit == commit_of(Path(loop.__file__).parents[1])
    held_out = metrics(out, kind="held-out")
    first = [h for h in held_out if h["stage"] == "first"]
    assert record.scores["first: held-out loss, start"] == first[0]["losses"]["loss"]
    assert record.scores["first: held-out loss, end"] == first[-1]["losses"]["loss"]
    assert record.scores["second: held-out worst, end"] == held_out[-1]["losses"]["worst"]
    beside = json.loads((out / "record.json").read_text())
    assert beside.pop("sha256") == printed["weights"]["sha256"]
    assert beside.pop("file") == "weights.safetensors"
    assert beside == json.loads(record.to_json())
    assert (out / "loss.png").read_bytes()[:4] == b"\x89PNG"
    # The command in the record asks for the same training again.
    words = shlex.split(record.command)
    assert words[0] == "locate"
    again = parser().parse_args([*words[1:], "--json"])
    assert vars(again) == vars(parser().parse_args(arguments))


def test_a_folder_with_a_training_is_not_overwritten(photos, tmp_path, toy):
    out = tmp_path / "out"
    request = Request("toy", out, photos, steps=4, seed=2, settings={"size": 4}, threads=1)
    train_system(request)
    before = (out / "checkpoint.pt").read_bytes()
    with pytest.raises(InputError, match="--resume"):
        train_system(request)
    assert (out / "checkpoint.pt").read_bytes() == before
    for change, words in [
        ({"seed": 1}, "seed: 2, now it is 1"),
        ({"steps": 5}, "steps: 4, now it is 5"),
        ({"budget": 60.0}, "time budget: not given, now it is 60.0"),
        ({"settings": {"size": 5}}, "size: 4, now it is 5"),
        ({"settings": {"delay": 0.0}}, "delay: not given"),
    ]:
        with pytest.raises(InputError, match=words):
            train_system(replace(request, **change), resume=True)
    silent = Request("toy", out)  # what is not named is as it was
    assert train_system(silent, resume=True).already
    moved = photos.rename(tmp_path / "moved")
    assert train_system(replace(silent, data=moved), resume=True).already
    (moved / "c").write_text("another")
    with pytest.raises(InputError, match=r"2 then, 3 now"):
        train_system(replace(silent, data=moved), resume=True)
    (moved / "c").unlink()
    (moved / "b").write_text("longer than before")
    with pytest.raises(InputError, match="files below"):
        train_system(replace(silent, data=moved), resume=True)


def test_an_output_folder_among_the_photos_does_not_count(photos, toy):
    request = Request("toy", photos / "out", photos, steps=4, threads=1)

    def prepare(self, data, cache):
        self.photos = ["a", "b"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyRecipe, "prepare", prepare)
        train_system(request)
        assert train_system(request, resume=True).already


def test_what_cannot_be_trained_is_refused_before_a_folder_is_made(photos, tmp_path, toy):
    out = tmp_path / "out"
    for request, words in [
        (Request("nobody", out, photos), "unknown system to train 'nobody'; known: d2net, delf,"),
        (Request("toy", out, photos, settings={"colour": 1}), "unknown setting of toy 'colour'"),
        (Request("toy", out, photos, settings={"size": "x"}), "size must be of the kind of 8"),
        (Request("toy", out), "--data"),
        (Request("toy", out, tmp_path / "none"), "is not a folder"),
        (Request("toy", out, photos, seed=-1), "seed must be 0 or more"),
    ]:
        with pytest.raises(InputError, match=words):
            train_system(request)
    with pytest.raises(InputError, match="no training to go on with"):
        train_system(Request("toy", out, photos), resume=True)
    with pytest.raises(InputError, match="no training to go on with"):
        export(Request("toy", out))
    assert not out.exists()


def test_one_training_a_folder(photos, tmp_path, toy, monkeypatch):
    out = tmp_path / "out"
    refused = []

    def prepare(self, data, cache):
        self.photos = []
        with pytest.raises(InputError, match="another process"):
            train_system(Request("toy", out, photos, threads=1))
        refused.append(True)

    monkeypatch.setattr(ToyRecipe, "prepare", prepare)
    train_system(Request("toy", out, photos, steps=2, threads=1))
    assert refused == [True]


def test_export_writes_the_last_checkpoint(photos, tmp_path, toy, caplog, capsys):
    out = tmp_path / "out"
    out.mkdir()
    request = Request("toy", out, photos, threads=1)
    asked = iter([False] * 5 + [True])
    from pipelines import train as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module,
            "train",
            lambda *a, **k: loop.train(*a, **{**k, "stop": lambda: next(asked, True)}),
        )
        assert not train_system(request).finished
    arguments = parser().parse_args(["train", "toy", "--out", str(out), "--export"])
    assert train_cli.train(arguments) == 0
    assert "unfinished training: stage first, step 5 of 24" in caplog.text
    tensors, _ = load_weights(out / "weights.safetensors")
    checkpoint = load_checkpoint(out / "checkpoint.pt")
    assert equal(tensors, {f"toy.{name}": t for name, t in checkpoint.network.items()})
    assert (checkpoint.stage, checkpoint.step) == (0, 5)
    # Weights of before are no reason not to write those of the end, even if that was interrupted.
    with pytest.MonkeyPatch.context() as patch:

        def interrupted(*args):
            raise KeyboardInterrupt

        patch.setattr(module, "write_weights", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_system(request, resume=True)
    assert load_checkpoint(out / "checkpoint.pt").finished
    done = train_system(request, resume=True)
    assert not done.already
    final, _ = load_weights(out / "weights.safetensors")
    assert not equal(final, tensors)
    assert train_system(request, resume=True).already


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("2h", 7200), ("1.5h", 5400)]
)
def test_durations(text, seconds):
    assert train_cli.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "m", "-5m", "0s", "1h30m", "5 d", "nan"])
def test_durations_that_are_none(text):
    with pytest.raises(argparse.ArgumentTypeError, match="write 90s, 20m or"):
        train_cli.duration(text)


def test_settings_from_the_command_line():
    def asked(*words):
        return train_cli.settings_of(parser().parse_args(["train", "x", "--out", "o", *words]))

    assert asked() == {}
    assert asked("--backbone", "vgg16", "--set", "a=3", "--set", "b=[1, 2]", "--set", "c=x=y") == {
        "backbone": "vgg16",
        "a": 3,
        "b": [1, 2],
        "c": "x=y",
    }
    file = asked("--backbone-weights", "vgg.pth")["backbone_weights"]
    assert Path(file) == Path.cwd() / "vgg.pth"
    for words, message in [
        (["--set", "a"], "KEY=VALUE"),
        (["--set", "=1"], "KEY=VALUE"),
        (["--set", "a=1", "--set", "a=2"], "named twice"),
        (["--backbone", "x", "--set", "backbone=y"], "named twice"),
    ]:
        with pytest.raises(InputError, match=message):
            asked(*words)


def test_settings_become_what_the_recipe_wants(toy, monkeypatch):
    class Picky(ToyRecipe):
        def __init__(self, size=8, sides=(1, 2), delay=0.5, fast=False, backbone_weights=None):
            self.got = (size, sides, delay, fast, backbone_weights)

    monkeypatch.setitem(RECIPES, "toy", lambda: Picky)
    values = {"sides": [3, 4], "delay": 1, "backbone_weights": "a/b.pth"}
    assert create_recipe("toy", values).got == (8, (3, 4), 1.0, False, Path("a/b.pth"))
    assert isinstance(create_recipe("toy", values).got[2], float)
    for key, value in [("size", 1.5), ("size", True), ("fast", 1), ("sides", 3), ("delay", "x")]:
        with pytest.raises(InputError, match=f"toy: {key} must be"):
            create_recipe("toy", {key: value})
    with pytest.raises(UnknownNameError, match="known: backbone_weights, delay, fast, sides, size"):
        create_recipe("toy", {"sise": 1})


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"toy"}))
def test_the_recipes_are_what_the_table_says(name):
    recipe = create_recipe(name, {"backbone": "lite0", "backbone_weights": None})
    assert isinstance(recipe, Recipe)
    assert recipe.system == name
    assert recipe.stages


def test_the_table_of_recipes_loads_nothing():
    code = (
        "import sys, locate.training.recipes, pipelines.train_cli;"
        "heavy = {'torch', 'cv2', 'numpy', 'rich'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=WORKER.parents[1], check=True)
    assert recipes.RECIPES is RECIPES


def test_the_commit_is_that_of_the_package_or_none(tmp_path):
    def git(*arguments):
        run = subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        return run.stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    if not (tmp_path / ".git").exists():
        git("init", "-q")
    (tmp_path / "other.txt").write_text("")
    git("add", "other.txt")
    git("commit", "-q", "-m", "of somebody else's project")
    assert commit_of(package) == ""
    git("add", "package")
    git("commit", "-q", "-m", "of ours")
    assert commit_of(package) == git("rev-parse", "HEAD")
    assert commit_of(tmp_path / "nowhere") == ""


def test_the_plot_puts_stages_one_after_the_other(tmp_path):
    lines = [
        {"kind": "plan", "stage": "a", "step": 0, "steps": 20},
        {"kind": "held-out", "stage": "a", "step": 0, "losses": {"loss": 5.0}},
        {"kind": "train", "stage": "a", "step": 10, "losses": {"loss": 4.0, "extra": 1.0}},
        {"kind": "train", "stage": "a", "step": 20, "losses": {"loss": 3.0, "extra": 2.0}},
        {"kind": "held-out", "stage": "b", "step": 0, "losses": {"loss": 2.5}},
        {"kind": "train", "stage": "b", "step": 10, "losses": {"loss": 2.0}},
        {"kind": "held-out", "stage": "b", "step": 10, "losses": {"loss": None}},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = ToyRecipe()
    series = {n: (list(x), list(y)) for n, (x, y) in loss_curves(path, recipe).series.items()}
    assert series == {
        "a: loss, held out": ([0], [5.0]),
        "a: loss": ([10, 20], [4.0, 3.0]),
        "a: extra": ([10, 20], [1.0, 2.0]),
        "b: loss, held out": ([20], [2.5]),
        "b: loss": ([30], [2.0]),
    }
    recipe.stages = recipe.stages[:1]
    assert "loss, held out" in loss_curves(path, recipe).series


def test_smoothing_is_a_mean_of_neighbours():
    values = np.random.default_rng(0).normal(size=50)
    radius = 5
    by_hand = [values[max(0, i - radius) : i + radius + 1].mean() for i in range(50)]
    np.testing.assert_allclose(smoothed(values, 0.1), by_hand, atol=1e-12)
    np.testing.assert_array_equal(smoothed(values[:3]), values[:3])


def test_lines_where_there_is_no_terminal(photos, tmp_path, toy, capsys):
    out = tmp_path / "out"
    arguments = ["train", "toy", "--data", str(photos), "--out", str(out), "--threads", "1"]
    assert train_cli.train(parser().parse_args(arguments)) == 0
    printed = capsys.readouterr()
    assert "first 0/24, held out: loss " in printed.err
    assert "second 12/12, held out: loss " in printed.err
    assert "first 1/24: loss " in printed.err
    assert len(printed.err.splitlines()) < 20
    assert f"{out}: 36 steps" in printed.out
    assert "second: held-out loss, end" in printed.out
