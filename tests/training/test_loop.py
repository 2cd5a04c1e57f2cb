"""`locate train`: the loop, its schedule, its batches, its time budget."""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from locate.errors import InputError, TrainingError
from locate.precision import VARIABLE
from locate.training import loop
from locate.training.checkpoint import (
    load_checkpoint,
)
from locate.training.options import Options
from locate.training.recipe import Stage, generator, torch_seed
from locate.training.schedule import (
    Window,
    fitting_steps,
    planned_steps,
    rate,
    stage_window,
)
from locate.training.steps import autocast, held_out_losses, stepwise
from tests.helpers.training_toys import (
    QUICK,
    Clock,
    OneStage,
    Timed,
    equal,
    losses_of,
    made_photos,
    metrics,
)
from tests.helpers.training_worker import ToyRecipe


@pytest.fixture
def photos(tmp_path):
    return made_photos(tmp_path)


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


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


def test_a_recipe_is_told_where_a_step_is(photos, out):
    """In its middle; and so in every stage."""
    told = []

    class Told(OneStage):
        def losses(self, network, batch, stage):
            if network.training:
                told.append((stage.name, self.position))
            return super().losses(network, batch, stage)

    stages = (Stage("one", 4, 0.05), Stage("two", 2, 0.05))
    loop.train(Told(*stages), photos, out, QUICK)
    asked = [("one", (i + 0.5) / 4) for i in range(4)] + [("two", 0.25), ("two", 0.75)]
    assert told == asked


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
    with torch.no_grad(), autocast(torch.device("cpu")):
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


def test_accumulated_batches_are_one_big_batch(photos, out, monkeypatch):
    monkeypatch.setenv(VARIABLE, "float32")
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


def test_what_refreshing_takes_counts_for_the_share_of_a_stage(photos, out):
    clock = Clock()

    class Refreshing(Timed):
        def refresh_every(self, stage):
            return 10 if stage is self.stages[1] else 0

        def refresh(self, network, stage, step):
            self.clock.now += 30.0 if stage is self.stages[1] else 0.0

    recipe = Refreshing(clock, [1.0, 1.0])  # 10 and 20 steps by default
    run, _ = loop.train(recipe, photos, out, replace(QUICK, seconds=1000.0), clock=clock)
    assert run.paces == [1.0, 4.0]  # a tenth of 30 s a step
    lines = metrics(out, kind="train")
    steps = [sum(line["stage"] == stage.name for line in lines) for stage in recipe.stages]
    assert steps == run.steps
    # 1 : 8 of the time, of which a step of the second stage takes four times as much.
    assert steps[1] / steps[0] == pytest.approx(2, rel=0.2)


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
