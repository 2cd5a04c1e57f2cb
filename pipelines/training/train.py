"""From a folder of photos to a weights file with its record: `locate train`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

from locate.errors import InputError
from locate.extractors.bundled import bundled_weights
from locate.extractors.recipes import create_recipe
from locate.extractors.weights import Record, load_weights, read_record
from locate.training.checkpoint import Checkpoint, load_checkpoint, refuse_difference
from locate.training.loop import CHECKPOINT, stage_number, train
from locate.training.options import Options, TrainEvent
from locate.training.recipe import Recipe
from locate.util.files import sha256_of, sole_writer
from pipelines.training.record import WEIGHTS, weights_are_of, write_weights

BUNDLED = Path("bundled")

log = logging.getLogger("locate")


@dataclass(frozen=True)
class TrainRequest:
    """What is asked for. When a training is resumed, what is None is as it was at the beginning."""

    system: str  # name of the recipe
    out: Path  # folder that everything is written into
    data: Path | None = None
    settings: Mapping[str, Any] | None = None  # of the recipe, JSON-able, unlike its defaults
    seed: int | None = None  # None for 0
    steps: int | None = None  # see `locate.training.options.Options`, as the next two
    budget: float | None = None
    # Of an earlier training of the same system, to start from; `BUNDLED` for those of the package.
    initial_weights: Path | None = None
    first_stage: str | None = None  # those before it are left out
    threads: int | None = None
    command: str = ""  # that asks so, for the record


@dataclass(frozen=True)
class TrainResult:
    """What came of it."""

    out: Path
    finished: bool  # if not, it can be resumed
    steps: int  # done, in all stages
    record: Record | None = None  # of the weights file; None where none was written
    sha256: str = ""  # of it
    already: bool = False  # it was finished before; nothing was done

    def to_json(self) -> dict[str, Any]:
        weights = None
        if self.record is not None:
            weights = {"file": str(self.out / WEIGHTS), "sha256": self.sha256}
            weights |= json.loads(self.record.to_json())
        done = {"finished": self.finished, "steps": self.steps}
        return {"out": str(self.out), **done, "weights": weights}


def train_system(
    request: TrainRequest,
    *,
    resume: bool = False,
    show: Callable[[TrainEvent], None] = lambda _: None,
) -> TrainResult:
    """Train, or go on with it; writes checkpoint.pt, metrics.jsonl and, at the end,
    weights.safetensors, record.json and loss.png.

    The first Ctrl-C or SIGTERM ends it with a checkpoint, the second one at once."""
    recipe = create_recipe(request.system, request.settings)
    # Refuse what is wrong before a folder is made.
    file = _initial_file(request)
    initial = load_weights(file, recipe.system)[0] if file is not None else None
    begun = None if resume else _begun(request, None)
    if begun:
        stage_number(recipe, _options(request, begun).first_stage)
    path = request.out / CHECKPOINT
    with _exclusive(request.out, make=not resume):
        if not resume and path.exists():
            raise InputError(
                f"{request.out} holds a training already; go on with it by --resume, or name another "
                "--out"
            )
        checkpoint = load_checkpoint(path) if resume else None
        begun = begun or _begun(request, checkpoint)
        recipe = create_recipe(request.system, begun["settings"])
        if checkpoint is None or not checkpoint.finished:
            options = _options(request, begun)
            data, out = Path(begun["data"]), request.out
            with _asked_to_stop() as stop:
                so_far: dict[str, Any] = {
                    "checkpoint": checkpoint,
                    "initial": initial,
                    "begun": begun,
                }
                checkpoint, network = train(
                    recipe, data, out, options, **so_far, show=show, stop=stop
                )
        elif weights_are_of(checkpoint, request.out):
            record, sha256 = read_record(request.out / WEIGHTS), sha256_of(request.out / WEIGHTS)
            done = checkpoint.steps_done
            return TrainResult(request.out, True, done, record, sha256, already=True)
        else:  # interrupted between the last checkpoint and the weights
            network = _network_of(recipe, Path(begun["data"]), checkpoint, request.out)
        if not checkpoint.finished:
            return TrainResult(request.out, finished=False, steps=checkpoint.steps_done)
        return _written(recipe, network, checkpoint, request.out)


def export(request: TrainRequest) -> TrainResult:
    """Write the weights of the last checkpoint of a training that need not be finished."""
    with _exclusive(request.out, make=False):
        checkpoint = load_checkpoint(request.out / CHECKPOINT)
        begun = _begun(request, checkpoint)
        recipe = create_recipe(request.system, begun["settings"])
        network = _network_of(recipe, Path(begun["data"]), checkpoint, request.out)
        if not checkpoint.finished:
            stage, done, planned = checkpoint.stage, checkpoint.step, checkpoint.steps
            words = "these weights are of an unfinished training: stage %s, step %d of %d"
            log.warning(words, recipe.stages[stage].name, done, planned[stage])
        return _written(recipe, network, checkpoint, request.out)


def _begun(request: TrainRequest, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """How the training was begun: by `checkpoint`, which must agree with the request, or by this."""
    file = _initial_file(request)
    asked: dict[str, Any] = {
        "system": request.system,
        "settings": dict(request.settings or {}),
        "seed": request.seed,
        "steps": request.steps,
        "time budget": request.budget,
        "initial weights": file and sha256_of(file),
        "first stage": request.first_stage,
    }
    data = request.data
    if checkpoint is not None:
        refuse_difference(checkpoint.begun, asked)
        data = data or Path(checkpoint.begun["data"])
    if data is None:
        raise InputError("name the folder of photos to train on with --data")
    files = _files_below(data, request.out)
    if checkpoint is not None:
        if files != checkpoint.begun["files"]:
            then, now = checkpoint.begun["files"]["count"], files["count"]
            raise InputError(
                f"the files below {data} are not those that the training was begun with ({then} then, "
                f"{now} now); bring those back, or train anew into another --out"
            )
        return {**checkpoint.begun, "data": str(data.absolute())}
    here: dict[str, Any] = {
        "data": str(data.absolute()),
        "files": files,
        "command": request.command,
    }
    if file is not None:  # what they cost and how they were made goes on
        before = read_record(file)
        here["seconds before"] = before.seconds
        here["command"] = " && ".join(filter(None, (before.command, request.command)))
    return {**asked, "seed": request.seed or 0, **here}


def _initial_file(request: TrainRequest) -> Path | None:
    if request.initial_weights == BUNDLED:
        return bundled_weights(create_recipe(request.system, request.settings).system)
    return request.initial_weights


def _files_below(data: Path, out: Path) -> dict[str, Any]:
    """How many files there are below `data`, and a hash of their names and sizes. Hidden ones and those
    of `out` do not count."""
    if not data.is_dir():
        raise InputError(f"{data} is not a folder; name the one that holds the photos to train on")
    names = []
    for folder, folders, files in os.walk(data):
        here = Path(folder)
        folders[:] = [
            f for f in folders if not f.startswith(".") and (here / f).resolve() != out.resolve()
        ]
        for file in files:
            if not file.startswith(".") and (here / file).is_file():
                size = (here / file).stat().st_size
                names.append(f"{(here / file).relative_to(data).as_posix()}\n{size}")
    text = "\n".join(sorted(names)).encode("utf-8", "surrogateescape")
    return {"count": len(names), "sha256": hashlib.sha256(text).hexdigest()}


def _options(request: TrainRequest, begun: Mapping[str, Any]) -> Options:
    asked = {"seed": begun["seed"], "steps": begun["steps"], "seconds": begun["time budget"]}
    asked["first_stage"] = begun.get("first stage")  # which older checkpoints do not name
    if request.threads is not None:
        asked["threads"] = request.threads
    return Options(**asked)


def _network_of(recipe: Recipe[Any], data: Path, checkpoint: Checkpoint, out: Path) -> nn.Module:
    recipe.prepare(data, out / "cache")
    network: nn.Module = recipe.network()
    network.load_state_dict(checkpoint.network)
    return network


def _written(
    recipe: Recipe[Any], network: nn.Module, checkpoint: Checkpoint, out: Path
) -> TrainResult:
    record, sha256 = write_weights(recipe, network, checkpoint, out)
    return TrainResult(out, checkpoint.finished, checkpoint.steps_done, record, sha256)


def _exclusive(out: Path, *, make: bool) -> AbstractContextManager[None]:
    """One training at a time in a folder, which is made if wanted."""
    if make:
        out.mkdir(parents=True, exist_ok=True)
    elif not (out / CHECKPOINT).exists():
        raise InputError(f"{out} holds no training to go on with; train without --resume")
    busy = InputError(f"another process is training into {out}; name another --out")
    return sole_writer(out / ".lock", busy)


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Gives what says whether Ctrl-C or SIGTERM asked to stop. Before the first time it is called, and
    at the second signal, they interrupt at once."""
    listens = asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal asked
        if asked or not listens:
            raise KeyboardInterrupt
        asked = True

    def stop() -> bool:
        nonlocal listens
        listens = True
        return asked

    if threading.current_thread() is not threading.main_thread():  # signals are not ours there
        yield stop
        return
    heard = [
        number
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN  # as nohup and `&` in a script set it
    ]
    before = {number: signal.signal(number, on_signal) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
