"""`locate train`: whatever interrupts a training, it goes on as if nothing had been."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from locate.errors import InputError, TrainingError, WeightsError
from locate.extractors.recipes import RECIPES
from locate.extractors.weights import load_weights
from locate.training import loop
from locate.training.checkpoint import (
    Checkpoint,
    Log,
    load_checkpoint,
    refuse_difference,
    save_checkpoint,
)
from pipelines.cli.main import main
from pipelines.training.train import TrainRequest, train_system
from tests.helpers.training_toys import QUICK, Clock, OneStage, Timed, equal, made_photos, metrics
from tests.helpers.training_worker import ToyRecipe

WORKER = Path(__file__).parents[1] / "helpers/training_worker.py"


@pytest.fixture
def photos(tmp_path):
    return made_photos(tmp_path)


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(RECIPES, "toy", lambda: ToyRecipe)


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
    assert not list(killed.glob(".*.writing"))


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
        assert main([*arguments, "--json"]) == 130
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
    assert main([*arguments, "--resume"]) == 0
    assert "36 steps" in capsys.readouterr().out
    before = (out / "weights.safetensors").read_bytes()
    assert main([*arguments, "--resume"]) == 0
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
        assert train_system(
            TrainRequest("toy", tmp_path / "out", photos, steps=4, threads=1)
        ).finished


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
    assert main(arguments) == 130
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
