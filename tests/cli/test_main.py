"""The command line: exit codes, messages, JSON, help. Stages have tests of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import exit_codes
from pipelines.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path, monkeypatch, photo_factory, fake_extractor):
    """A current directory with photos of three places."""
    for landmark in range(3):
        for i in range(3):
            photo_factory(tmp_path / f"photos/place-{landmark}/{i}.jpg", seed=landmark)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCATE_INDEX", raising=False)
    return tmp_path


def build(*more: str) -> int:
    return main(["build-index", "photos", "--extractor", "fake", *more])


def test_help_explains_the_exit_codes(capsys):
    assert main(["--help"]) == exit_codes.OK
    text = capsys.readouterr().out
    for name, code in vars(exit_codes).items():
        if name.isupper():
            assert re.search(rf"^ *{code}  ", text, re.M), f"{name} is not explained"


def test_build_info_check_remove(home, capsys):
    assert build() == exit_codes.OK
    out = capsys.readouterr().out
    assert re.search(r"9 added, 0 updated, 0 unchanged, 0 failed in [\d.]+ s, [\d.]+ images/s", out)
    assert main(["info", "--images"]) == exit_codes.OK
    out = capsys.readouterr().out
    assert "9, 3 landmarks, 0 failed" in out
    assert "place-2/2.jpg" in out
    assert main(["check"]) == exit_codes.OK
    assert "every invariant holds" in capsys.readouterr().out
    assert main(["remove", "place-0/*"]) == exit_codes.OK
    assert "3 images removed" in capsys.readouterr().out
    assert main(["add", "photos/place-0/1.jpg"]) == exit_codes.OK
    assert "1 added" in capsys.readouterr().out


def test_exit_codes_of_build(home, capsys):
    (home / "photos/bad.jpg").write_text("hello")
    assert build() == exit_codes.SOME_FAILED
    assert "failed bad.jpg: is text, not a photo" in capsys.readouterr().out
    (home / "nothing").mkdir()
    assert main(["build-index", "nothing", "--index", "x", "--extractor", "fake"]) == (
        exit_codes.NOTHING_DONE
    )
    assert main(["build-index", "nowhere"]) == exit_codes.ERROR
    assert "nowhere does not exist" in capsys.readouterr().err
    assert main(["build-index", "photos", "--workers", "0"]) == exit_codes.ERROR
    assert "'--workers': 0 is not in the range x>=1" in capsys.readouterr().err


def test_exit_codes_of_check(home, capsys):
    build()
    (home / ".locate/vectors.json").unlink()
    assert main(["check"]) == exit_codes.PROBLEMS
    assert "search index is missing" in capsys.readouterr().out
    assert main(["check", "--repair"]) == exit_codes.OK
    assert "repaired, every invariant holds now" in capsys.readouterr().out


def test_queries(home, capsys, photo_factory):
    build()
    capsys.readouterr()
    foreign = photo_factory(home / "foreign.jpg", seed=77)
    assert main(["query", "photos/place-1/0.jpg", "--json"]) == exit_codes.OK
    (answer,) = json.loads(capsys.readouterr().out)["answers"]
    assert (answer["verdict"], answer["label"]) == ("match", "place-1")
    assert answer["candidates"][0]["inliers"] > 30
    assert main(["query", str(foreign)]) == exit_codes.NO_MATCH
    assert "would prove a match" in capsys.readouterr().out
    # Several photos: the weakest answer decides; a file that is none is told and the rest is done.
    assert main(["query", str(foreign), "photos/place-1"]) == exit_codes.NO_MATCH
    assert "3 match, 1 no match" in capsys.readouterr().out
    (home / "photos/place-1/bad.jpg").write_text("hello")
    assert main(["query", "photos/place-1"]) == exit_codes.SOME_FAILED
    out = capsys.readouterr().out
    assert "failed photos/place-1/bad.jpg: is text" in out
    assert "3 match" in out
    assert main(["query", "nowhere.jpg"]) == exit_codes.ERROR
    assert "does not exist" in capsys.readouterr().out
    assert main(["query", "photos/place-1/0.jpg", "--no-verify"]) == exit_codes.OK
    assert "ranked by global similarity alone" in capsys.readouterr().out
    assert main(["query", "photos/place-1/0.jpg", "--top", "0"]) == exit_codes.ERROR


def test_pictures_and_report(home, capsys):
    build()
    code = main(
        ["query", "photos/place-1/0.jpg", "--save-matches", "out/pictures", "--html", "out/r.html"]
    )
    assert code == exit_codes.OK
    assert len(list((home / "out/pictures").glob("*.jpg"))) == 9
    assert "<html" in (home / "out/r.html").read_text()
    (home / "file").touch()
    assert main(["query", "photos/place-1/0.jpg", "--save-matches", "file"]) == exit_codes.ERROR


def test_the_index_is_found_upwards_or_by_name(home, capsys, monkeypatch):
    build()
    (home / "deep/er").mkdir(parents=True)
    monkeypatch.chdir(home / "deep/er")
    assert main(["info"]) == exit_codes.OK
    monkeypatch.setenv("LOCATE_INDEX", str(home / "elsewhere"))
    assert main(["info"]) == exit_codes.ERROR
    assert "elsewhere; make one with: locate build-index" in capsys.readouterr().err
    assert main(["info", "--index", str(home / ".locate")]) == exit_codes.OK


def test_json_everywhere(home, capsys):
    for arguments in (
        ["build-index", "photos", "--extractor", "fake"],
        ["add", "photos/place-0/0.jpg"],
        ["info", "--images"],
        ["check"],
        ["query", "photos/place-0/0.jpg"],
        ["remove", "place-0/0.jpg"],
    ):
        capsys.readouterr()
        assert main([*arguments, "--json"]) == exit_codes.OK
        assert isinstance(json.loads(capsys.readouterr().out), dict)


def test_errors_are_one_line_on_standard_error(home):
    result = subprocess.run(
        [sys.executable, "-m", "locate", "info"],
        cwd=home, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == exit_codes.ERROR
    assert result.stdout == ""
    assert result.stderr.startswith("locate: no database at .locate")
    assert len(result.stderr.splitlines()) == 1


def test_remove_wants_to_know_what(home, capsys):
    build()
    assert main(["remove"]) == exit_codes.ERROR
    assert "say what to remove" in capsys.readouterr().err


def test_a_reader_that_closes_the_pipe_is_no_error(home):
    build()
    script = f"{sys.executable} -m locate info --images | head -c 10"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert b"Traceback" not in result.stderr
