"""What the tests of training share. Not a test."""

from __future__ import annotations

import json
import math

import torch

from locate.training.options import Options
from locate.training.recipe import Stage
from tests.helpers.training_worker import ToyRecipe

QUICK = Options(threads=1, log_every=1)


def made_photos(tmp_path):
    """A folder of what the toy takes for photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_text(name)
    return folder


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
