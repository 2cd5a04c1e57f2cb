"""`locate train`: the command, what it writes and what it refuses."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
import torch

from locate.errors import InputError, UnknownNameError, WeightsError
from locate.extractors import recipes
from locate.extractors.bundled import BUNDLED
from locate.extractors.recipes import RECIPES, create_recipe
from locate.extractors.weights import file_hash, load_weights
from locate.training import loop
from locate.training.checkpoint import (
    load_checkpoint,
)
from locate.training.recipe import Recipe
from pipelines.cli import train as train_cli
from pipelines.cli.main import main
from pipelines.training.record import commit_of, loss_curves, smoothed
from pipelines.training.train import TrainRequest, export, train_system
from tests.helpers.command_line import parsed
from tests.helpers.training_toys import equal, made_photos, metrics
from tests.helpers.training_worker import ToyRecipe


@pytest.fixture
def photos(tmp_path):
    return made_photos(tmp_path)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(RECIPES, "toy", lambda: ToyRecipe)


# --- the command -------------------------------------------------------------------------------


def kept_of(checkpoint):
    """What goes into the weights file: matrices and kernels in float16."""
    tensors = checkpoint.network.items()
    return {f"toy.{n}": t.half().float() if t.ndim > 1 else t for n, t in tensors}


def test_weights_and_record(photos, tmp_path, toy, capsys):
    out = tmp_path / "out"
    arguments = ["train", "toy", "--data", str(photos), "--out", str(out), "--steps", "9"]
    arguments += ["--set", "size=4", "--seed", "3", "--threads", "1", "--json"]
    assert main(arguments) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["finished"] is True
    assert printed["steps"] == 9
    tensors, record = load_weights(out / "weights.safetensors", "toy")
    checkpoint = load_checkpoint(out / "checkpoint.pt")
    assert equal(tensors, kept_of(checkpoint))
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
    assert parsed([*words[1:], "--json"]) == parsed(arguments)


def test_a_training_starts_from_the_weights_of_another_at_a_later_stage(photos, tmp_path, toy):
    first, then = tmp_path / "first", tmp_path / "then"
    arguments = ["train", "toy", "--data", str(photos), "--threads", "1", "--steps"]
    assert main([*arguments, "9", "--out", str(first), "--set", "size=4"]) == 0
    weights = first / "weights.safetensors"
    started = ["--initial-weights", str(weights), "--first-stage", "second"]
    begun = []

    def begin(self, network, stage):
        begun.append((stage.name, {n: t.clone() for n, t in network.state_dict().items()}))
        return network.parameters()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyRecipe, "begin", begin)
        assert main([*arguments, "3", "--out", str(then), *started]) == 0
    (stage, network) = begun[0]
    assert stage == "second"
    assert equal({f"toy.{n}": t for n, t in network.items()}, load_weights(weights)[0])
    assert {line["stage"] for line in metrics(then)} == {"second"}
    assert load_checkpoint(then / "checkpoint.pt").steps == [0, 3]
    _, record = load_weights(then / "weights.safetensors")
    before = load_weights(weights)[1]
    spent = load_checkpoint(then / "checkpoint.pt").elapsed
    assert record.seconds == pytest.approx(before.seconds + spent, abs=0.06)
    # The commands that make these weights, one after the other.
    made, trained = record.command.split(" && ")
    assert made == before.command
    assert record.started_from == file_hash(weights)
    again = parsed(shlex.split(trained)[1:])
    assert again == parsed([*arguments, "3", "--out", str(then), *started])
    # It goes on as it was begun, and says so of what is asked otherwise.
    resumed = ["train", "toy", "--out", str(then), "--resume"]
    assert main([*resumed, *started]) == 0
    other = then / "weights.safetensors"
    assert main([*resumed, "--initial-weights", str(other)]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--first-stage", "third"], "unknown stage of toy 'third'; known: first, second"),
        (["--initial-weights", "bundled"], "make some with: locate train toy"),
        (["--initial-weights", "missing.safetensors"], "missing.safetensors does not exist"),
        (["--initial-weights", str(BUNDLED["delf"])], "holds weights of delf, not of toy"),
    ],
)
def test_what_a_training_cannot_start_from_is_refused(
    photos, tmp_path, toy, capsys, arguments, words
):
    out = tmp_path / "out"
    assert main(["train", "toy", "--data", str(photos), "--out", str(out), *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_weights_of_other_settings_are_no_start():
    recipe = ToyRecipe()
    network = recipe.network()
    tensors = dict(network.state_dict())
    name = next(iter(tensors))
    before = {n: t.clone() for n, t in network.state_dict().items()}
    for wrong in (
        tensors | {name: torch.zeros(2)},
        {n: t for n, t in tensors.items() if n != name},
        tensors | {"more": torch.zeros(2)},
    ):
        with pytest.raises(WeightsError, match="more of its tensors differ"):
            recipe.start_from(network, wrong)
        assert equal(before, network.state_dict())


def test_a_folder_with_a_training_is_not_overwritten(photos, tmp_path, toy):
    out = tmp_path / "out"
    request = TrainRequest("toy", out, photos, steps=4, seed=2, settings={"size": 4}, threads=1)
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
    silent = TrainRequest("toy", out)  # what is not named is as it was
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
    request = TrainRequest("toy", photos / "out", photos, steps=4, threads=1)

    def prepare(self, data, cache):
        self.photos = ["a", "b"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToyRecipe, "prepare", prepare)
        train_system(request)
        assert train_system(request, resume=True).already


def test_what_cannot_be_trained_is_refused_before_a_folder_is_made(photos, tmp_path, toy):
    out = tmp_path / "out"
    for request, words in [
        (
            TrainRequest("nobody", out, photos),
            "unknown system to train 'nobody'; known: context, d2net, delf,",
        ),
        (
            TrainRequest("toy", out, photos, settings={"colour": 1}),
            "unknown setting of toy 'colour'",
        ),
        (TrainRequest("toy", out, photos, settings={"size": "x"}), "size must be of the kind of 8"),
        (TrainRequest("toy", out), "--data"),
        (TrainRequest("toy", out, tmp_path / "none"), "is not a folder"),
        (TrainRequest("toy", out, photos, seed=-1), "seed must be 0 or more"),
    ]:
        with pytest.raises(InputError, match=words):
            train_system(request)
    with pytest.raises(InputError, match="no training to go on with"):
        train_system(TrainRequest("toy", out, photos), resume=True)
    with pytest.raises(InputError, match="no training to go on with"):
        export(TrainRequest("toy", out))
    assert not out.exists()


def test_one_training_a_folder(photos, tmp_path, toy, monkeypatch):
    out = tmp_path / "out"
    refused = []

    def prepare(self, data, cache):
        self.photos = []
        with pytest.raises(InputError, match="another process"):
            train_system(TrainRequest("toy", out, photos, threads=1))
        refused.append(True)

    monkeypatch.setattr(ToyRecipe, "prepare", prepare)
    train_system(TrainRequest("toy", out, photos, steps=2, threads=1))
    assert refused == [True]


def test_export_writes_the_last_checkpoint(photos, tmp_path, toy, caplog, capsys):
    out = tmp_path / "out"
    out.mkdir()
    request = TrainRequest("toy", out, photos, threads=1)
    asked = iter([False] * 5 + [True])
    from pipelines.training import train as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            module,
            "train",
            lambda *a, **k: loop.train(*a, **{**k, "stop": lambda: next(asked, True)}),
        )
        assert not train_system(request).finished
    assert main(["train", "toy", "--out", str(out), "--export"]) == 0
    assert "unfinished training: stage first, step 5 of 24" in caplog.text
    tensors, _ = load_weights(out / "weights.safetensors")
    checkpoint = load_checkpoint(out / "checkpoint.pt")
    assert equal(tensors, kept_of(checkpoint))
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
    with pytest.raises(click.BadParameter, match="write 90s, 20m or"):
        train_cli.duration(text)


def test_settings_from_the_command_line():
    def asked(*words):
        return train_cli.settings_of(parsed(["train", "x", "--out", "o", *words]))

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
        def __init__(
            self, size=8, sides=(1, 2), delay=0.5, fast=False, backbone_weights: Path | None = None
        ):
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
    chosen = {"backbone": "lite0", "backbone_weights": None}
    recipe = create_recipe(name, chosen if name in ("ur2kid", "delf", "d2net") else {})
    assert isinstance(recipe, Recipe)
    assert recipe.system == name.removesuffix("-narrow")
    assert recipe.stages


def test_the_table_of_recipes_loads_nothing():
    code = (
        "import sys, locate.extractors.recipes, pipelines.cli.train;"
        "heavy = {'torch', 'cv2', 'numpy', 'rich'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)
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
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "first 0/24, held out: loss " in printed.err
    assert "second 12/12, held out: loss " in printed.err
    assert "first 1/24: loss " in printed.err
    assert len(printed.err.splitlines()) < 20
    assert f"{out}: 36 steps" in printed.out
    assert "second: held-out loss, end" in printed.out
