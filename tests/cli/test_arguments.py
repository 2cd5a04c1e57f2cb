"""Words of the command line that begin with a minus sign: numbers are values, files are files."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pipelines.cli import exit_codes as exits
from pipelines.cli.arguments import Parser
from pipelines.cli.main import _parser, main


@pytest.mark.parametrize(
    "value", ["-1.5,2,3,500", "-33.85,151.2,10", "-.5,1,2,3", "-1", "-1e-3,-2,-3,4", "-inf,0,0,1"]
)
@pytest.mark.parametrize("equals", [True, False])
def test_every_option_takes_a_value_that_begins_with_a_minus_sign(value, equals):
    for words, option, name in (
        (["localize", "p.jpg", "--map", "m"], "--prior-pose", "prior_pose"),
        (["localize", "p.jpg", "--map", "m"], "--camera", "camera"),
        (["georef", "--map", "m"], "--origin", "origin"),
        (["evaluate", "matching", "f"], "--layout", "layout"),
        (["build-index", "p"], "--label-from", "label_from"),
    ):
        given = [f"{option}={value}"] if equals else [option, value]
        assert getattr(_parser().parse_args([*words, *given]), name) == value
        front = [words[0], *given, *words[1:]] if words[0] != "evaluate" else [*words, *given]
        assert getattr(_parser().parse_args(front), name) == value


def test_every_parser_is_one_that_does():
    """Whichever option is added, in whichever command."""
    waiting, seen = [_parser()], 0
    while waiting:
        parser = waiting.pop()
        assert isinstance(parser, Parser)
        seen += 1
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
            # else a number could be an option
            assert not any(s.lstrip("-")[:1].isdigit() for s in action.option_strings)
    assert seen > 20


def test_what_is_no_number_is_still_an_option(capsys):
    for words in (["localize", "--map", "m", "--prior-pose", "--json", "p.jpg"], ["info", "-x"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == exits.ERROR
    assert "expected one argument" in capsys.readouterr().err


def test_the_way_out_for_files_that_look_like_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("-x.jpg", "-5.jpg"):
        Path(name).touch()
    with pytest.raises(SystemExit) as stop:
        main(["query", "-x.jpg"])
    assert stop.value.code == exits.ERROR
    assert "(for the file of that name write ./-x.jpg)" in capsys.readouterr().err
    for words in (
        ["query", "--", "-x.jpg"],
        ["query", "--json", "--", "-x.jpg"],
        ["query", "./-x.jpg"],
    ):
        assert _parser().parse_args(words).photos == [Path("-x.jpg")]
    assert _parser().parse_args(["query", "-5.jpg"]).photos == [Path("-5.jpg")]
    assert _parser().parse_args(["query", "-"]).photos == [Path("-")]


def test_a_complaint_is_harmless(capsys):
    with pytest.raises(SystemExit):
        main(["info", "--\x1b[31mred\n"])
    err = capsys.readouterr().err
    assert r"unrecognized arguments: --\x1b[31mred\n" in err
    assert "\x1b" not in err


def test_a_place_with_negative_coordinates_reaches_the_command(tmp_path, capsys):
    """As far as the map that is not there."""
    center = ["--prior-pose", "-1.5,2,3,500"]
    photo = tmp_path / "p.jpg"
    photo.touch()
    words = ["localize", str(photo), "--map", str(tmp_path / "m")]
    assert main([*words, *center]) == exits.ERROR
    assert "no finished map at" in capsys.readouterr().err
    assert main([*words, "--prior-pose", "-1.5,2,3"]) == exits.ERROR
    assert "--prior-pose is X,Y,Z,RADIUS, not '-1.5,2,3'" in capsys.readouterr().err
