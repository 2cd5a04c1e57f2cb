"""A recipe that trains in a second, and trainings in processes of their own, to be killed by
the tests of training. Not a test.

    python training_worker.py

Reads lines of arguments of `locate train` (JSON lists) from standard input; forks for each, which saves
the seconds of importing, and prints the pid of the new process and, at its end, its exit code.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import matplotlib.backends.backend_agg  # noqa: F401  not a part of the work to be killed in
import numpy as np
import torch
from torch import nn

from locate.extractors import recipes
from locate.training.options import Options
from locate.training.recipe import Recipe, Stage, set_tensors
from pipelines.cli import train as _  # noqa: F401  not a part of the work
from pipelines.cli.main import main as locate
from pipelines.training import train


class ToyNetwork(nn.Module):
    """Everything that a resumed training could forget: dropout, running statistics, a fitted buffer."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(4, 1)
        self.register_buffer("fitted", torch.zeros(4))

    def forward(self, images):
        maps = torch.relu(self.norm(self.convolution(images)))
        return self.head(self.dropout(maps.mean(dim=(2, 3))))[:, 0]


class ToyRecipe(Recipe):
    """Learns the brightness of noise, in two stages; what `refresh` keeps steers losses and batches."""

    system = "toy"

    def __init__(self, backbone="none", size=8, delay=0.0, rate=0.05, backbone_weights=None):
        self.size, self.delay = size, delay
        self.stages = (
            Stage("first", steps=24, learning_rate=rate, warmup=0.1),
            Stage("second", 12, 0.02, "sgd", schedule="linear", accumulate=2, clip=1.0),
        )
        self.weight, self.hard = 0.0, []
        self.log = []

    def prepare(self, data, cache):
        self.photos = sorted(p.name for p in data.iterdir())

    def describe(self):
        return f"{len(self.photos)} files"

    def network(self):
        torch.manual_seed(1)
        return ToyNetwork()

    def begin(self, network, stage):
        network.requires_grad_(True).train()
        if stage.name == "first":
            return [
                {"params": list(network.convolution.parameters()), "lr": 0.1 * stage.learning_rate},
                {"params": [*network.norm.parameters(), *network.head.parameters()]},
            ]
        network.requires_grad_(False)
        network.norm.eval()
        network.head.requires_grad_(True)
        with torch.no_grad():  # a resumed training must not do it twice
            network.head.weight *= 0.9
        return network.head.parameters()

    def batch(self, stage, rng, *, held_out=False):
        images = rng.uniform(-1, 1, (self.size, 3, 6, 6)).astype(np.float32)
        if stage.name == "second" and not held_out:
            images += np.float32(self.hard[-1])
        images += rng.uniform(-1, 1, (self.size, 1, 1, 1)).astype(np.float32)
        return {
            "images": torch.from_numpy(images),
            "wanted": torch.from_numpy(images).mean(dim=(1, 2, 3)),
        }

    def losses(self, network, batch, stage):
        if self.delay:
            time.sleep(self.delay)
        error = (network(batch["images"]) - batch["wanted"]) ** 2
        loss = error.mean() * (1 + self.weight)
        return {"loss": loss, "worst": error.max()}

    def refresh_every(self, stage):
        return 5 if stage.name == "second" else 0

    def refresh(self, network, stage, step):
        network.eval()
        if stage.name == "first":
            self.weight = 0.5 * self.weight + float(
                network.head.bias.detach().abs() + torch.rand(())
            )
        else:
            self.hard.append(float(network.head.weight.detach().abs().sum()))

    def state(self):
        return {"weight": self.weight, "hard": self.hard}

    def set_state(self, state):
        self.weight, self.hard = state.get("weight", 0.0), list(state.get("hard", []))

    def finish(self, network, stage):
        network.fitted += torch.rand(4) + network.head.weight.detach()[0]

    def tensors(self, network):
        return {f"toy.{name}": tensor for name, tensor in network.state_dict().items()}

    def start_from(self, network, tensors):
        plain = {name.removeprefix("toy."): tensor for name, tensor in tensors.items()}
        set_tensors(network, plain, network.state_dict())

    def settings(self):
        return {"size": self.size}


def warm_up():
    """The first step of an optimiser takes torch a second; here that is done once for all."""
    network = nn.Linear(2, 1)
    for optimiser in (torch.optim.AdamW, torch.optim.SGD):
        network(torch.rand(1, 2)).sum().backward()
        optimiser(network.parameters(), lr=0.1).step()


def main():
    recipes.RECIPES["toy"] = lambda: ToyRecipe  # type: ignore[index]
    train.Options = functools.partial(Options, log_every=1, checkpoint_every=0.02)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started us may ignore it
    warm_up()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            arguments = json.loads(line)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = 1
            try:
                code = locate(["train", *arguments])
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)  # torch takes a second to leave


if __name__ == "__main__":
    main()
