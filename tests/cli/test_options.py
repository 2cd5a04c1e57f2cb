"""Commands: what every one of them takes, its help, wrong usage, and words that begin with a minus."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated, Literal, TypedDict, Unpack

import click
import pytest

from locate.errors import InputError
from pipelines.cli import exit_codes
from pipelines.cli.main import main
from pipelines.cli.options import argument, command, find_index, option
from tests.helpers.command_line import command_of, commands, parsed

# Everything that can be given, with the value where nothing is
# given; "=" alone has none, "!" must be given.
TAKES = {
    "build-index": "photos --json --index= --extractor= --weights= --set= --search= --label-from=folder "
    "--masks= --checksum --workers= --features=",
    "add": "photos --json --index= --label-from=folder --masks= --checksum --workers=",
    "remove": "patterns --json --index= --label= --missing",
    "info": "--json --index= --images",
    "check": "--json --index= --no-photos --repair",
    "query": "photos --json --index= --top=10 --shortlist=30 --search= --neighbours=60 --masks= "
    "--no-verify --no-rotate --save-matches= --html= --exhaustive --rerank=",
    "calibrate": "--json --index= --queries=1500 --seed=0 --out= --save",
    "make-town": "out --json --index= --seed=0",
    "build-map": "--json --index= --images= --out=! --extractor= --weights= --set= --mapper=auto "
    "--masks= --seed=0 --workers= --features=",
    "import-map": "model --json --images=! --out=! --extractor= --weights= --set= --metric "
    "--skip-missing --masks= --seed=0 --workers= --features=",
    "add-to-map": "photos --json --map=! --masks= --seed=0 --workers=",
    "georef": "--json --map=! --gps= --centers= --control-points= --observations= --origin= "
    "--max-error=",
    "localize": "photos --json --map=! --camera= --rig= --masks= --prior-pose= --gravity= "
    "--candidates=20 --seed=0 --out= --format= --frame=map --numbered --uncertain --show= "
    "--save-matches= --workers= --rerank=",
    "models": "--json",
    "models add": "file --json --name=",
    "models remove": "names --json",
    "train": "system --json --data= --out=! --time-budget= --steps= --seed= --resume --export "
    "--backbone= --backbone-weights= --set= --initial-weights= --first-stage= --threads=",
    "evaluate matching": "folder --extractor= --weights= --set= --layout= --seed=0 --out= --json "
    "--protocol= --max-keypoints= --size= --estimator=",
    "evaluate repeatability": "folder --extractor= --weights= --set= --layout= --seed=0 --out= --json "
    "--max-keypoints= --threshold= --size=",
    "evaluate retrieval": "folder --extractor= --weights= --set= --layout= --seed=0 --out= --json "
    "--distractors= --foreign= --kind= --foreign-count= --shortlist= --no-verify --search= --work= "
    "--rankings=",
    "evaluate localization": "folder --extractor= --weights= --set= --layout= --seed=0 --out= --json "
    "--protocol= --ratio= --solver= --unscaled= --poses= --queries=",
}
REPEATED = {"--weights", "--set", "--extractor", "--distractors", "--kind", "--unscaled"}
CHOICES = {
    "--search": ("global", "local", "both"),
    "--format": ("json", "colmap", "tum", "kitti", "hloc", "kapture", "geojson", "kml"),
    "--frame": ("map", "enu"),
}


# --- what there is


def test_every_command_is_listed():
    assert set(commands()) == {*TAKES, "evaluate"}


@pytest.mark.parametrize("name", TAKES)
def test_every_option_is_there(name):
    params = command_of(*name.split()).params
    there = {p.opts[0]: p for p in params}
    expected = dict(word.partition("=")[::2] for word in TAKES[name].split())
    assert set(there) == set(expected)
    for word, default in expected.items():
        param = there[word]
        if not word.startswith("--"):
            assert isinstance(param, click.Argument)
            continue
        assert isinstance(param, click.Option)
        assert param.is_flag == (f"{word}=" not in TAKES[name]), word
        assert param.required == (default == "!"), word
        single = name.startswith(("build-", "import-")) and word == "--extractor"
        assert param.multiple == (word in REPEATED and not single), word
        assert not param.multiple or name != "build-index" or word in ("--weights", "--set")
        if word in CHOICES:
            assert tuple(param.type.choices) == CHOICES[word]
        if default not in ("", "!"):
            assert str(param.default) == default, word


def test_evaluations_have_the_defaults_that_their_help_says():
    from pipelines.evaluation import homographies, localization, repeatability, retrieval

    def default(function, name):
        return inspect.signature(function).parameters[name].default

    matching, repeated = homographies.evaluate_matching, repeatability.evaluate_repeatability
    assert [default(matching, n) for n in ("protocol", "size", "estimator", "max_keypoints")] == [
        "full", (640, 480), "ransac", None,
    ]  # fmt: skip
    assert [default(repeated, n) for n in ("max_keypoints", "threshold", "size")] == [
        300, 3.0, (320, 240),
    ]  # fmt: skip
    assert default(retrieval.evaluate_retrieval, "shortlist") == 30
    localized = localization.evaluate_localization
    assert [default(localized, n) for n in ("protocol", "solver")] == ["folds", "poselib"]
    assert list(default(localized, "unscaled")) == ["fox"]


@pytest.mark.parametrize("name", [*TAKES, "evaluate", ""])
def test_every_command_has_help_with_an_example_that_parses(name, capsys):
    assert main([*name.split(), "--help"]) == exit_codes.OK
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: locate {name}".rstrip())
    example = re.search(r"^example:\n  locate (.*)", text, re.M)
    assert example is not None
    words = example[1].replace("'", "").split()
    assert " ".join(words).startswith(name)
    assert parsed(words)
    assert main([*name.split(), "-h"]) == exit_codes.OK
    assert capsys.readouterr().out == text
    for param in command_of(*name.split()).params:
        shown = re.search(
            rf"^  ({re.escape(param.opts[0])}|{param.make_metavar(None)}) ", text, re.M
        )
        assert getattr(param, "hidden", False) or shown or name == "", param.name


def test_the_version(capsys):
    from locate import __version__

    assert main(["--version"]) == exit_codes.OK
    assert capsys.readouterr().out == f"locate {__version__}\n"


# --- wrong usage


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "locate: Missing command; see locate --help"),
        (["qurey"], "locate: No such command 'qurey'; did you mean query?; see locate --help"),
        (["evaluate"], "locate evaluate: Missing command; see locate evaluate --help"),
        (["evaluate", "matchin"], "No such command 'matchin'; did you mean matching?"),
        (["x"], "No such command 'x'; known: build-index, add, remove"),
        (["query"], "locate query: Missing argument 'PHOTO...'"),
        (
            ["query", "x", "--shortlst", "3"],
            "No such option '--shortlst'. (Did you mean one of:",
        ),
        (
            ["query", "x", "--top", "many"],
            "Invalid value for '--top': 'many' is not a valid integer",
        ),
        (["query", "x", "--search", "all"], "'all' is not one of 'global', 'local', 'both'"),
        (["georef", "--map", "m", "--max-error", "x"], "'--max-error': 'x' is not a valid float"),
        (["calibrate", "--queries", "0"], "'--queries': 0 is not in the range x>=1"),
        (["check", "--repair=yes"], "Option '--repair' does not take a value"),
        (["info", "more"], "Got unexpected extra argument (more)"),
        (["train", "toy", "--out"], "Option '--out' requires an argument"),
        (["train", "toy", "--out", "o", "--time-budget", "1"], "'1' is no time; write 90s, 20m or"),
        (["train", "t", "--out", "o", "--steps", "1", "--time-budget", "1s"], "exclude each other"),
        (["build-index", "p", "--set", "x"], "locate: --set is NAME=VALUE"),
    ],
)
def test_wrong_usage_is_one_line(words, says, capsys):
    assert main(words) == exit_codes.ERROR
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1


def test_a_complaint_is_harmless(capsys):
    assert main(["info", "--\x1b[31mred\n"]) == exit_codes.ERROR
    err = capsys.readouterr().err
    assert r"--\x1b[31mred\n" in err
    assert "\x1b" not in err


# --- words that begin with a minus sign: numbers are values, files are files


@pytest.mark.parametrize("value", ["-1.5,2,3,500", "-.5,1,2,3", "-1e-3,-2,-3,4", "-1,0,0,1"])
def test_every_option_takes_a_value_that_begins_with_a_minus_sign(value):
    localize = ["localize", "p.jpg", "--map", "m"]
    for given in (["--prior-pose", value], [f"--prior-pose={value}"]):
        for words in ([*localize, *given], [localize[0], *given, *localize[1:]]):
            prior = parsed(words)["prior"]
            assert [*prior.center, prior.radius] == [float(v) for v in value.split(",")]
    for words, name in (
        ([*localize, "--camera", value], "camera"),
        ([*localize, "--gravity", value], "gravity"),
        (["evaluate", "matching", "f", "--layout", value], "layout"),
        (["build-index", "p", "--label-from", value], "label_from"),
    ):
        assert parsed(words)[name] == value
    assert parsed(["georef", "--map", "m", "--origin", "-33.85,151.2,-inf"])["origin"] == (
        -33.85, 151.2, -float("inf"),
    )  # fmt: skip


def test_no_option_is_a_number():
    for name in TAKES:
        for param in command_of(*name.split()).params:
            assert not any(word.lstrip("-")[:1].isdigit() for word in param.opts)


def test_what_is_no_number_is_still_an_option(capsys):
    words = ["localize", "--map", "m", "--prior-pose", "--json", "p.jpg"]
    assert main(words) == exit_codes.ERROR
    assert "Option '--prior-pose' requires an argument" in capsys.readouterr().err
    assert main(["info", "-x"]) == exit_codes.ERROR
    assert "No such option '-x'" in capsys.readouterr().err


def test_the_way_out_for_files_that_look_like_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("-x.jpg", "-5.jpg"):
        Path(name).touch()
    for words in (["query", "-x.jpg"], ["query", "a.jpg", "--html", "-x.jpg"]):
        assert main(words) == exit_codes.ERROR
        assert "(for the file of that name write ./-x.jpg)" in capsys.readouterr().err
    for words in (
        ["query", "--", "-x.jpg"],
        ["query", "--json", "--", "-x.jpg"],
        ["query", "./-x.jpg"],
    ):
        assert parsed(words)["photos"] == (Path("-x.jpg"),)
    assert parsed(["query", "-5.jpg"])["photos"] == (Path("-5.jpg"),)
    assert parsed(["query", "-"])["photos"] == (Path("-"),)
    assert parsed(["query", "-", "--json", "b", "-1"])["photos"] == (
        Path("-"),
        Path("b"),
        Path("-1"),
    )
    assert parsed(["remove", "-1*", "--missing"])["patterns"] == ("-1*",)


def test_a_place_with_negative_coordinates_reaches_the_command(tmp_path, capsys):
    """As far as the map that is not there."""
    photo = tmp_path / "p.jpg"
    photo.touch()
    words = ["localize", str(photo), "--map", str(tmp_path / "m")]
    assert main([*words, "--prior-pose", "-1.5,2,3,500"]) == exit_codes.ERROR
    assert "no finished map at" in capsys.readouterr().err
    assert main([*words, "--prior-pose", "-1.5,2,3"]) == exit_codes.ERROR
    assert "--prior-pose is X,Y,Z,RADIUS, not '-1.5,2,3'" in capsys.readouterr().err


def test_options_may_be_shortened_as_long_as_one_is_meant(capsys):
    assert parsed(["query", "x", "--short", "7", "--js"])["shortlist"] == 7
    assert parsed(["query", "x", "--short=7"])["shortlist"] == 7
    assert parsed(["train", "x", "--out", "o", "--backbone", "b"])["backbone"] == "b"
    assert main(["query", "x", "--s", "7"]) == exit_codes.ERROR
    assert "No such option '--s'" in capsys.readouterr().err


# --- how a command is made


class More(TypedDict):
    size: Annotated[int, option("of it", "N", 3, least=1)]
    names: Annotated[tuple[str, ...], option("of all", "NAME")]
    kept: Annotated[bool, option("throw it away", None, True, name="--drop")]


def test_a_command_of_a_typed_function():
    def function(
        file: Annotated[Path, argument("a file")],
        kind: Annotated[Literal["a", "b"] | None, option("of it")],
        pair: Annotated[list[str], option("two", "A,B", read=lambda text: text.split(","))],
        as_json: Annotated[bool, option("print JSON", name="--json")],
        plain: int = 0,  # which is nothing of the command line's
        **how: Unpack[More],
    ) -> int:
        seen.append({"file": file, "kind": kind, "pair": pair, "as_json": as_json, **how})
        return plain

    seen = []
    function.__name__, function.__doc__ = "make", "Make it."
    one = command("locate make x")(function)

    def run(*words):
        with one.make_context("make", list(words)) as context:
            assert one.invoke(context) == 0
        return seen.pop()

    common = {"file": Path("f"), "kind": None, "pair": None, "as_json": False}
    assert run("f") == common | {"size": 3, "names": (), "kept": True}
    words = [
        "f",
        "--kind",
        "b",
        "--pair",
        "x,y",
        "--json",
        "--drop",
        "--names",
        "p",
        "--names",
        "q",
        "--size",
        "9",
    ]
    assert run(*words) == {"file": Path("f"), "kind": "b", "pair": ["x", "y"], "as_json": True} | {
        "size": 9, "names": ("p", "q"), "kept": False,
    }  # fmt: skip
    for words in (["f", "--size", "0"], ["f", "--kind", "c"], [], ["f", "g"]):
        with pytest.raises(click.UsageError):
            run(*words)


def test_the_index_is_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_index(None) == Path(".locate")
    assert find_index(Path("x")) == Path("x")
    (tmp_path / ".locate").mkdir()
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    assert find_index(None) == tmp_path / ".locate"
    for value, index in (("elsewhere", Path("elsewhere")), ("", None)):
        monkeypatch.setenv("LOCATE_INDEX", value)
        assert parsed(["info"])["index"] == index
        assert parsed(["info", "--index", "named"])["index"] == Path("named")


def test_a_setting_that_is_none_is_an_input_error():
    with pytest.raises(InputError, match="--set is NAME=VALUE"):
        parsed(["build-index", "x", "--set", "=3"])
    words = ["build-index", "x", "--set", "a=3", "--set", "b=x=y"]
    assert parsed(words)["settings"] == {"a": "3", "b": "x=y"}
