"""`locate train` on the command line: arguments -> `pipelines.training.train` -> output."""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locate.errors import InputError
from locate.extractors.recipes import RECIPES
from pipelines.cli import exit_codes as exits
from pipelines.cli.streams import complain, say

if TYPE_CHECKING:
    from locate.training.options import Moment
    from pipelines.training.train import Request, Trained

_EVERY = 15.0  # seconds between lines where there is no terminal
_UNITS = {"s": 1, "m": 60, "h": 3600}


def add_train_parser(
    command: Callable[[str, str, str], argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    """Add the command; `command` makes a parser of (name, text, example)."""
    parser = command(
        "train",
        "train a system on a folder of photos; an interrupted training goes on with --resume",
        "locate train d2net --data photos/ --out d2net/ --time-budget 20m",
    )
    parser.add_argument("system", metavar="NAME", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of photos to learn from")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for weights, curves, checkpoint",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--time-budget",
        type=duration,
        metavar="TIME",
        help="90s, 20m or 1.5h; as many steps as fit, be it fewer or more than usual",
    )
    length.add_argument(
        "--steps", type=int, metavar="N", help="steps in all (default: the recipe's)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="another order of photos (default 0)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the training in --out; what is not named is as it was",
    )
    parser.add_argument(
        "--export",
        action="store_true",
        help="only write the weights of the last checkpoint in --out",
    )
    parser.add_argument("--backbone", metavar="NAME", help="network to start from (default lite0)")
    parser.add_argument(
        "--backbone-weights", type=Path, metavar="FILE", help="its weights, a torchvision file"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the recipe, such as batch_size=8; may be repeated",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads that compute, and as many that prepare photos (default: one a core)",
    )
    return parser


def train(a: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from pipelines.training.train import export, train_system

    request = _request(a)
    if a.export:
        return _tell(export(request), a.json)
    try:
        with _progress() as show:
            trained = train_system(request, resume=a.resume, show=show)
    except KeyboardInterrupt:
        kept = "go on with --resume" if (a.out / "checkpoint.pt").exists() else "nothing is kept"
        complain(f"locate: interrupted; {kept}")
        return exits.INTERRUPTED
    return _tell(trained, a.json)


def _tell(trained: Trained, as_json: bool) -> int:
    if as_json:
        print(json.dumps(trained.to_json(), indent=1))
    if trained.record is None:
        after = f"after {trained.steps} steps"
        complain(f"locate: interrupted {after}; go on with --resume")
        return exits.INTERRUPTED
    if not as_json:
        state = "finished already" if trained.already else f"{trained.steps} steps"
        say(f"{trained.out}: {state}, {trained.record.seconds:.0f} s of training")
        for name, value in trained.record.scores.items():
            say(f"  {name}: {value:.4g}")
        if not trained.already:
            say(f"wrote {trained.out / 'weights.safetensors'}, its record.json and loss.png")
    return exits.GOOD


def duration(text: str) -> float:
    """Seconds of "90s", "20m" or "1.5h"; `argparse.ArgumentTypeError` for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if not found or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90s, 20m or 1.5h")
    return float(found[1]) * _UNITS[found[2]]


def settings_of(a: argparse.Namespace) -> dict[str, Any]:
    """The recipe's settings: --backbone, --backbone-weights and every --set, whose value is JSON or
    else text."""
    settings: dict[str, Any] = {}
    if a.backbone is not None:
        settings["backbone"] = a.backbone
    if a.backbone_weights is not None:
        settings["backbone_weights"] = str(a.backbone_weights.absolute())
    for item in a.set:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise InputError(f"--set {item}: write KEY=VALUE, as in --set batch_size=8")
        if key in settings:
            raise InputError(f"--set {item}: {key} is named twice")
        try:
            settings[key] = json.loads(value)
        except json.JSONDecodeError:
            settings[key] = value
    return settings


def command_line(a: argparse.Namespace) -> str:
    """The command that asks for the same training from its beginning, to be run in a shell."""
    words = ["locate", "train", a.system, "--data", str(a.data), "--out", str(a.out)]
    if a.time_budget is not None:
        words += ["--time-budget", f"{a.time_budget:g}s"]
    for name in ("steps", "seed", "backbone", "backbone_weights", "threads"):
        value = getattr(a, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    for item in a.set:
        words += ["--set", item]
    return shlex.join(words)


def _request(a: argparse.Namespace) -> Request:
    from pipelines.training.train import Request

    if a.export and a.resume:
        raise InputError("--export only writes weights; leave out --resume")
    return Request(
        system=a.system,
        out=a.out,
        data=a.data,
        settings=settings_of(a),
        seed=a.seed,
        steps=a.steps,
        budget=a.time_budget,
        threads=a.threads,
        command=command_line(a),
    )


@contextmanager
def _progress() -> Iterator[Callable[[Moment], None]]:
    """A bar with the losses on a terminal; elsewhere a line now and then. On standard error."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, Any] = {}

        def show(moment: Moment) -> None:
            if moment.stage not in tasks:
                tasks[moment.stage] = bar.add_task(moment.stage, losses="")
            if moment.held_out:
                bar.console.print(_line(moment), highlight=False)
                return
            bar.update(
                tasks[moment.stage],
                completed=moment.step,
                total=moment.steps,
                losses=_losses(moment),
            )

        yield show


def _lines() -> Callable[[Moment], None]:
    last = -math.inf

    def show(moment: Moment) -> None:
        nonlocal last
        now = time.perf_counter()
        if moment.held_out or now - last >= _EVERY:
            last = now if not moment.held_out else last
            complain(_line(moment))

    return show


def _line(moment: Moment) -> str:
    kind = ", held out" if moment.held_out else ""
    return f"{moment.stage} {moment.step}/{moment.steps}{kind}: {_losses(moment)}"


def _losses(moment: Moment) -> str:
    shown = ", ".join(f"{name} {value:.4g}" for name, value in moment.losses.items())
    return f"{shown}, {moment.skipped} steps skipped" if moment.skipped else shown
