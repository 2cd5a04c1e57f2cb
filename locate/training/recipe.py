"""What a training recipe is: data for the loop of `locate.training.loop`, and the few functions that
differ from system to system.

Training can be resumed at any step because nothing is random but by number: a batch is a function of
(seed, stage, step, place in the step) alone, and so is every random choice inside the losses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from locate.errors import InputError, WeightsError

Batch = Mapping[str, Any]
Parameters = Iterable[nn.Parameter | dict[str, Any]]
Network = TypeVar("Network", bound=nn.Module)

_Optimiser = Literal["adamw", "sgd"]
_Schedule = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True)
class Stage:
    """One part of a training: what is optimised, for how long, how."""

    name: str
    steps: int  # by default; `--steps` and `--time-budget` scale all stages alike
    learning_rate: float  # at its highest
    optimiser: _Optimiser = "adamw"  # or "sgd" (momentum 0.9)
    schedule: _Schedule = "cosine"  # after the warm-up, to zero, as "linear", or "constant"
    warmup: float = 0.05  # share of the steps over which the rate rises from zero
    weight_decay: float = 1e-4
    clip: float = 10.0  # largest norm of the gradient
    accumulate: int = 1  # batches whose gradients are averaged in one step

    def __post_init__(self) -> None:
        right = {
            "steps": self.steps >= 1,
            "learning_rate": 0 <= self.learning_rate < math.inf,
            "optimiser": self.optimiser in get_args(_Optimiser),
            "schedule": self.schedule in get_args(_Schedule),
            "warmup": 0 <= self.warmup < 1,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "clip": self.clip > 0,
            "accumulate": self.accumulate >= 1,
        }
        if not all(right.values()):
            wrong = [f"{name} {getattr(self, name)!r}" for name, good in right.items() if not good]
            raise InputError(
                f"stage {self.name}: {', '.join(wrong)} makes no sense; see locate.training.recipe"
            )


class Recipe(ABC, Generic[Network]):
    """How one system is trained. Sub-classes are built with the settings that the user may change,
    most simply as dataclasses of them.

    The loop calls, in this order: `prepare` once; `network` once; `start_from` if it starts from the
    weights of an earlier training; then for every stage `begin`,
    many times `batch` and `losses`, and `finish`; at the end `tensors` and `settings` go into the
    weights file. torch's generator is seeded before each of them. A training that is resumed calls
    `prepare`, `network` and the stage's `begin` again, and then takes up the checkpoint's parameters,
    buffers and `state`, whatever those three made of them."""

    system: ClassVar[str]  # name of the extractor that the weights are for
    stages: tuple[Stage, ...]  # in their order
    data_words = ""  # the data, with counts, as `prepare` found them
    position = (
        0.0  # of the step under way in its stage, 0 to 1, as the loop says, for `losses` alone
    )

    @abstractmethod
    def prepare(self, data: Path, cache: Path) -> None:
        """Find the training data below `data`; `InputError` if it does not suffice. What takes
        long to derive from it may be kept below `cache`."""

    def describe(self) -> str:
        """The data for the record."""
        return self.data_words

    @abstractmethod
    def network(self) -> Network:
        """The network at its starting point, the same whenever it is called. Everything that is
        trained or fitted is among its parameters and buffers."""

    def start_from(self, network: Network, tensors: Mapping[str, Tensor]) -> None:
        """Set `network` to what the weights file of an earlier training of this recipe holds;
        `WeightsError` if it is of other settings."""
        set_tensors(network, tensors, self.tensors(network))

    @abstractmethod
    def begin(self, network: Network, stage: Stage) -> Parameters:
        """Freeze and unfreeze for `stage`, set training or evaluation mode of each part; returns
        what the optimiser gets (parameters, or torch's groups with a "lr" of their own; a group's
        rate is scaled by the schedule like the stage's)."""

    @abstractmethod
    def batch(self, stage: Stage, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """One batch, drawn by `rng` alone; from data that no training batch sees if `held_out`.
        Called from several threads at once, some steps ahead of the network: what `refresh` keeps may
        steer it only if `refresh_every` says when that changes."""

    @abstractmethod
    def losses(self, network: Network, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Scalars by name. "loss" is what is minimised; the others are shown. The batch's tensors
        are on the network's device already. torch's generator is seeded by step before the call."""

    def refresh(self, network: Network, stage: Stage, step: int) -> None:
        """Called before every step, or before every `refresh_every`-th one (not on held-out batches);
        for what has to be derived from the network anew now and then, such as hard negatives. What it
        keeps belongs into `state`; the modes of the network's parts are put back after it."""

    def refresh_every(self, stage: Stage) -> int:  # noqa: ARG002
        """0: `refresh` is called before every step. n: before steps 0, n, 2 n, ... alone, and no batch
        of these and later steps is made before that, so that `batch` may look at what it kept."""
        return 0

    def state(self) -> dict[str, Any]:
        """What `refresh` keeps, JSON-able; it goes into every checkpoint."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take up the `state` of a checkpoint."""

    def finish(self, network: Network, stage: Stage) -> None:
        """After the last step of `stage`: fit what is not learned by gradient, such as a PCA."""

    def tensors(self, network: Network) -> dict[str, Tensor]:
        """What goes into the weights file; all parameters and buffers unless a part served
        training alone."""
        return dict(network.state_dict())

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the extractor needs to build the network again, JSON-able."""


def set_tensors(
    network: nn.Module, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> None:
    """Set those parameters and buffers of `network` that are `wanted` to `tensors` of the same names;
    `WeightsError` if these have other names or shapes."""
    odd = [
        name
        for name in sorted(wanted.keys() | tensors.keys())
        if name not in wanted or name not in tensors or wanted[name].shape != tensors[name].shape
    ]
    if odd:
        raise WeightsError(
            f"the initial weights are of another network than these settings make: {odd[0]} and "
            f"{len(odd) - 1} more of its tensors differ; name the same settings with --set"
        )
    if network.load_state_dict(dict(tensors), strict=False).unexpected_keys:
        raise TypeError("a recipe whose `tensors` renames them needs a `start_from` of its own")


def require_views(system: str, crop: int, good: bool, rule: str, *values: object) -> None:
    """`InputError` if the side of the views that a recipe is fed with is not 64, 96, ... pixels, or
    what else its `rule` says of `values` is not `good`."""
    if crop < 64 or crop % 32 or not good:
        given = ", ".join(map(str, (crop, *values)))
        raise InputError(f"{system}: crop must be 64, 96, ... pixels, {rule}; got {given}")


def require_pairs(system: str, crop: int, pairs: int, points: int, matched: float) -> None:
    """The same of a recipe fed with pairs of views, a share of which are matched photos."""
    good = min(pairs, points) >= 1 and 0 <= matched <= 1
    rule = "pairs and points at least 1, matched 0 to 1"
    require_views(system, crop, good, rule, pairs, points, matched)


def generator(seed: int, *numbers: int) -> np.random.Generator:
    """An independent generator for every tuple of numbers (0 or more each)."""
    # numpy pads its seeds with zeros: without the count (1,) and (1, 0) would be the same.
    return np.random.default_rng((len(numbers), seed, *numbers))


def torch_seed(seed: int, *numbers: int) -> int:
    """The same for `torch.manual_seed`."""
    return int(generator(seed, *numbers).integers(2**63))


def to_device(batch: Batch, device: torch.device) -> dict[str, Any]:
    """Its tensors on `device`; everything else as it is."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for key, value in batch.items()
    }


def images_to_tensor(images: Iterable[np.ndarray[Any, Any]]) -> Tensor:
    """Images H x W x 3 uint8 of one size -> B x 3 x H x W float32, RGB 0..255."""
    stacked = torch.from_numpy(np.ascontiguousarray(np.stack(list(images))))
    return stacked.permute(0, 3, 1, 2).float()


def padded(rows: Sequence[np.ndarray[Any, Any]], length: int) -> Tensor:
    """B arrays n x D, n at most `length` -> B x `length` x D float32, zeros behind the n."""
    found = np.zeros((len(rows), length, rows[0].shape[1]), np.float32)
    for one, row in zip(found, rows, strict=True):
        one[: len(row)] = row
    return torch.from_numpy(found)
