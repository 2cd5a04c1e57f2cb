"""`cat photo.jpg | locate query -`."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from locate.errors import InputError
from locate.images import reading as images
from pipelines.cli import exit_codes
from pipelines.cli.main import main
from pipelines.cli.named_photos import photos_below
from pipelines.indexing.build import build_index


class Piped:
    """Standard input that holds `content`."""

    def __init__(self, content: bytes, *, terminal: bool = False) -> None:
        self.buffer = io.BytesIO(content)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def home(tmp_path, monkeypatch, photo_factory, fake_extractor):
    for place in range(2):
        for i in range(2):
            photo_factory(tmp_path / f"photos/place-{place}/{i}.jpg", seed=place)
    build_index(tmp_path / "photos", tmp_path / ".locate", extractor=fake_extractor)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCATE_INDEX", raising=False)
    monkeypatch.setattr(images, "_held", {})
    return tmp_path


@pytest.fixture
def pipe(monkeypatch):
    def put(content: bytes, **options: bool) -> None:
        monkeypatch.setattr("sys.stdin", Piped(content, **options))

    return put


def ask(capsys, *words):
    code = main(["query", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_query_from_standard_input(home, pipe, capsys):
    photo = home / "photos/place-1/0.jpg"
    pipe(photo.read_bytes())
    code, piped = ask(capsys, "-")
    _, named = ask(capsys, str(photo))
    assert code == exit_codes.OK
    (answer,), (expected,) = piped["answers"], named["answers"]
    assert (answer["photo"], answer["label"]) == ("-", "place-1")
    for key in ("verdict", "reason", "candidates", "query_features"):
        assert answer[key] == expected[key]


def test_with_pictures_and_a_page(home, pipe, capsys):
    pipe((home / "photos/place-1/0.jpg").read_bytes())
    assert main(["query", "-", "--html", "r.html", "--save-matches", "p"]) == exit_codes.OK
    page = (home / "r.html").read_text("utf-8")
    assert "no picture" not in page  # the query itself is shown
    drawn = sorted(file.name for file in (home / "p").iterdir())
    assert drawn[0].startswith("standard-input--01--match--")


def test_beside_other_photos(home, pipe, capsys):
    pipe(b"")
    code, values = ask(capsys, "-", "photos/place-0")
    assert code == exit_codes.SOME_FAILED
    assert len(values["answers"]) == 2
    (failed,) = values["failed"]
    assert failed == {
        "photo": "-",
        "reason": "standard input is empty (0 bytes); check what is piped into it",
    }
    pipe(b"hello there")
    code, values = ask(capsys, "photos/place-0", "-")
    assert (code, values["failed"][0]["reason"][:21]) == (
        exit_codes.SOME_FAILED,
        "is text, not a photo;",
    )


def test_what_cannot_be_read(home, pipe, capsys, monkeypatch):
    pipe(b"")
    assert main(["query", "-"]) == exit_codes.ERROR
    assert "failed -: standard input is empty (0 bytes)" in capsys.readouterr().out
    pipe(b"x", terminal=True)
    assert main(["query", "-"]) == exit_codes.ERROR
    assert "pipe a photo into it, as in: cat photo.jpg | locate query -" in capsys.readouterr().err
    pipe(b"x")
    assert main(["query", "-", "-"]) == exit_codes.ERROR
    assert "name it once" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", None)  # closed
    assert main(["query", "-"]) == exit_codes.ERROR
    assert "standard input is empty" in capsys.readouterr().out
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    pipe(bytes(30))
    assert main(["query", "-"]) == exit_codes.ERROR
    assert "standard input is too large (over 10 bytes)" in capsys.readouterr().out


def test_a_file_of_that_name(home, photo_factory):
    """It is read where nobody asked for standard input: a walk finds it as "-" too."""
    photo_factory(home / "-", seed=0, file_format="JPEG")
    assert images.read_photo("-").info.size == (320, 240)
    assert photos_below([Path("-.jpg")]) == [Path("-.jpg")]


def test_only_photos_that_are_asked_about(home, pipe, capsys):
    """What is kept needs a name."""
    pipe((home / "photos/place-1/0.jpg").read_bytes())
    for words in (["add", "-"], ["build-index", "-"]):
        assert main(words) == exit_codes.ERROR
        assert "locate: - does not exist" in capsys.readouterr().err


def test_a_pipe_that_is_named_says_how_to_read_it(home, capsys):
    os.mkfifo(home / "pipe")
    assert main(["query", "pipe"]) == exit_codes.ERROR
    assert "or pipe it into: locate query -" in capsys.readouterr().out


def test_standard_input_twice():
    with pytest.raises(InputError, match="holds one photo"):
        photos_below([Path("-"), Path("-")])
