"""`locate train`: a system is trained on a folder of photos."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, Unpack

import click

from index import model_store
from locate.errors import InputError
from locate.extractors.recipes import RECIPES
from pipelines.cli import exit_codes
from pipelines.cli.console import print_json
from pipelines.cli.options import Json, argument, command, option
from pipelines.cli.progress import stages
from pipelines.cli.streams import complain, print_line

if TYPE_CHECKING:
    from locate.training.options import TrainEvent
    from pipelines.training.train import TrainResult

_UNITS = {"s": 1, "m": 60, "h": 3600}
_TIME = "90s, 20m or 1.5h; as many steps as fit, be it fewer or more than usual"
_INITIAL = "weights of an earlier training to start from; `bundled` for those that come with locate"
_THREADS = "threads that compute, and as many that prepare photos (default: one a core)"


def duration(text: str) -> float:
    """Seconds of "90s", "20m" or "1.5h"; `click.BadParameter` for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if not found or float(found[1]) == 0:
        raise click.BadParameter(f"{text!r} is no time; write 90s, 20m or 1.5h")
    return float(found[1]) * _UNITS[found[2]]


class Training(TypedDict):
    """What tells one training from another, as it stands in the record's command."""

    time_budget: Annotated[float | None, option(_TIME, "TIME", read=duration)]
    steps: Annotated[int | None, option("steps in all (default: the recipe's)", "N")]
    seed: Annotated[int | None, option("another order of photos (default 0)", "N")]
    backbone: Annotated[str | None, option("network to start from (default lite0)", "NAME")]
    backbone_weights: Annotated[Path | None, option("its weights, a torchvision file", "FILE")]
    initial_weights: Annotated[Path | None, option(_INITIAL, "FILE", read=model_store.find)]
    first_stage: Annotated[str | None, option("leave out the stages before it", "NAME")]
    threads: Annotated[int | None, option(_THREADS, "N")]
    set: Annotated[
        tuple[str, ...],
        option("a setting of the recipe, such as batch_size=8; may be repeated", "KEY=VALUE"),
    ]


@command("locate train d2net --data photos/ --out d2net/ --time-budget 20m")
def train(
    system: Annotated[str, argument(f"one of {', '.join(RECIPES)}", "NAME")],
    data: Annotated[Path | None, option("folder of photos to learn from", "DIR")],
    out: Annotated[Path, option("folder for weights, curves, checkpoint", "DIR", required=True)],
    resume: Annotated[
        bool, option("go on with the training in --out; what is not named is as it was")
    ],
    export: Annotated[bool, option("only write the weights of the last checkpoint in --out")],
    as_json: Json,
    **how: Unpack[Training],
) -> int:
    """Train a system on a folder of photos; an interrupted training goes on with --resume."""
    from pipelines.training.train import TrainRequest, train_system
    from pipelines.training.train import export as write_weights

    if how["time_budget"] is not None and how["steps"] is not None:
        raise click.UsageError("--steps and --time-budget exclude each other; give one.")
    if export and resume:
        raise InputError("--export only writes weights; leave out --resume")
    request = TrainRequest(
        system=system,
        out=out,
        data=data,
        settings=settings_of(how),
        seed=how["seed"],
        steps=how["steps"],
        budget=how["time_budget"],
        initial_weights=how["initial_weights"],
        first_stage=how["first_stage"],
        threads=how["threads"],
        command=_command_line(system, data, out, how),
    )
    if export:
        return _report_training(write_weights(request), as_json)
    try:
        with stages() as progress:

            def show(moment: TrainEvent) -> None:
                note = ", ".join(f"{name} {value:.4g}" for name, value in moment.losses.items())
                note += f", {moment.skipped} steps skipped" if moment.skipped else ""
                event = "held out" if moment.held_out else ""
                progress(moment.stage, moment.step, moment.steps, note, event=event)

            trained = train_system(request, resume=resume, show=show)
    except KeyboardInterrupt:
        kept = "go on with --resume" if (out / "checkpoint.pt").exists() else "nothing is kept"
        complain(f"locate: interrupted; {kept}")
        return exit_codes.INTERRUPTED
    return _report_training(trained, as_json)


def _report_training(trained: TrainResult, as_json: bool) -> int:
    if as_json:
        print_json(trained.to_json())
    if trained.record is None:
        complain(f"locate: interrupted after {trained.steps} steps; go on with --resume")
        return exit_codes.INTERRUPTED
    if not as_json:
        state = "finished already" if trained.already else f"{trained.steps} steps"
        print_line(f"{trained.out}: {state}, {trained.record.seconds:.0f} s of training")
        for name, value in trained.record.scores.items():
            print_line(f"  {name}: {value:.4g}")
        if not trained.already:
            print_line(f"wrote {trained.out / 'weights.safetensors'}, its record.json and loss.png")
    return exit_codes.OK


def settings_of(how: Training) -> dict[str, Any]:
    """The recipe's settings: --backbone, --backbone-weights and every --set, whose value is JSON or
    else text."""
    settings: dict[str, Any] = {}
    if how["backbone"] is not None:
        settings["backbone"] = how["backbone"]
    if how["backbone_weights"] is not None:
        settings["backbone_weights"] = str(how["backbone_weights"].absolute())
    for item in how["set"]:
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


def _command_line(system: str, data: Path | None, out: Path, how: Training) -> str:
    """The command that asks for the same training from its beginning, to be run in a shell."""
    words = ["locate", "train", system, "--data", str(data), "--out", str(out)]
    for name, value in how.items():
        unit = "s" if name == "time_budget" else ""
        for one in value if isinstance(value, tuple) else () if value is None else (value,):
            text = f"{one:g}" if isinstance(one, float) else str(one)
            words += [f"--{name.replace('_', '-')}", text + unit]
    return shlex.join(words)
