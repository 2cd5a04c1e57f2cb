"""Names with any character: shown without harm wherever one is printed, kept as they are in JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from markupsafe import escape
from PIL import Image

from locate.util.printable import in_markup, visible
from pipelines.cli import exit_codes
from pipelines.cli.main import main
from pipelines.indexing.build import build_index
from pipelines.reports.map_viewer import make_scene
from tests.helpers.poses import pose_of

ROOT = Path(__file__).resolve().parents[2]
# Line break, tab, an escape sequence (red), a mark that turns the text round, a C1 control, a zero-width
# joiner, a line separator; markup of rich, of HTML, and what rich would make an emoji of.
HARMFUL = "a\n\t\x1b[31m\u202e\x9b\u200d\u2028[b]<i>&:cat:"
SHOWN = r"a\n\t\x1b[31m\u202e\x9b\u200d\u2028[b]<i>&:cat:"


def hidden(text):
    """Characters of a text that nobody should meet; line breaks end our own lines."""
    return set(
        re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ud800-\udfff]", text)
    )


@pytest.fixture
def home(tmp_path, monkeypatch, photo_factory, fake_extractor):
    """A harmful label and harmful names, one of a broken photo, one whose EXIF is harmful."""
    folder = tmp_path / "photos" / HARMFUL
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Acme\x1b]0;owned\x07", "Mark\n2"
    photo_factory(folder / f"1{HARMFUL}.jpg", seed=1, exif=exif.tobytes())
    photo_factory(tmp_path / "photos" / "日本" / "塔.jpg", seed=2)
    (folder / f"broken{HARMFUL}.jpg").write_text("no photo")
    (folder / f"raw{HARMFUL}.cr2").write_text("no photo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCATE_INDEX", raising=False)
    return tmp_path


def build(*more):
    return main(["build-index", "photos", "--extractor", "fake", *more])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HARMFUL, SHOWN),
        ("plain name (1).jpg", "plain name (1).jpg"),
        ("東京/塔 é ß 🗼.jpg", "東京/塔 é ß 🗼.jpg"),
        ("no\u00a0break and\u3000wide", "no\u00a0break and\u3000wide"),
        ("\udce9\x00\x7f\r", r"\udce9\x00\x7f\r"),
        ("\ufeff\u2066\U000e0001", r"\ufeff\u2066\U000e0001"),
    ],
)
def test_visible(text, shown):
    assert visible(text) == shown
    assert not hidden(visible(text))
    assert "\n" not in visible(text)


def test_markup_is_escaped_too():
    from rich.text import Text

    assert Text.from_markup(in_markup("[red]\x1b")).plain == r"[red]\x1b"


def test_every_table_is_harmless(home, capsys):
    for words, code in (
        (["build-index", "photos", "--extractor", "fake"], exit_codes.SOME_FAILED),
        (["info", "--images"], exit_codes.OK),
        (["check"], exit_codes.OK),
        (["query", f"photos/{HARMFUL}/1{HARMFUL}.jpg"], exit_codes.OK),
        (["query", "photos"], exit_codes.SOME_FAILED),
        (["query", f"photos/{HARMFUL}/broken{HARMFUL}.jpg"], exit_codes.ERROR),
        (["remove", "--label", HARMFUL + "?"], exit_codes.ERROR),
        (["query", HARMFUL], exit_codes.ERROR),
        (["build-index", HARMFUL], exit_codes.ERROR),
        (["add", HARMFUL], exit_codes.ERROR),
        (["info", "--index", HARMFUL], exit_codes.ERROR),
        (["remove", f"{HARMFUL.replace('[', '[[]')}/1*"], exit_codes.OK),
    ):
        capsys.readouterr()
        assert main(words) == code, words
        out, err = capsys.readouterr()
        assert not hidden(out + err), words
        assert SHOWN[:-7] in out + err or r"a\n" in out + err or words == ["check"], words
        assert len(err.splitlines()) <= 1


def test_names_come_through_a_table_whole(home, capsys):
    build()
    out = capsys.readouterr().out
    assert f"failed {SHOWN}/broken{SHOWN}.jpg: is text, not a photo" in out
    assert f"left out 1 file .cr2 ({SHOWN}/raw{SHOWN}.cr2)" in out


def test_json_is_faithful(home, capsys):
    build()
    capsys.readouterr()
    assert main(["info", "--images", "--json"]) == exit_codes.OK
    text = capsys.readouterr().out
    assert text.isascii()  # so any encoding can carry it
    assert not hidden(text)
    rows = {row["path"]: row for row in json.loads(text)["images"]}
    row = rows[f"{HARMFUL}/1{HARMFUL}.jpg"]
    assert row["label"] == HARMFUL
    assert row["camera"] == "Acme\x1b]0;owned\x07 Mark\n2"


def test_pages_and_pictures(home, capsys):
    build()
    name = f"photos/{HARMFUL}/1{HARMFUL}.jpg"
    words = ["query", name, f"photos/{HARMFUL}/broken{HARMFUL}.jpg", "--html", "r.html"]
    assert main([*words, "--save-matches", "p"]) == exit_codes.SOME_FAILED
    page = (home / "r.html").read_text("utf-8")
    assert not hidden(page)
    assert f"<h2 title='{escape(visible(name))}'>{escape(visible(Path(name).name))}</h2>" in page
    assert "<i>&:cat:" not in page
    assert f"{escape(visible(f'broken{HARMFUL}.jpg'))}</td><td>is text" in page
    drawn = [file.name for file in (home / "p").iterdir()]
    assert drawn
    assert all(not hidden(n) and len(os.fsencode(n)) < 255 for n in drawn)


def test_a_page_of_poses_is_harmless():
    (query,) = make_scene(pycolmap.Reconstruction(), [pose_of()], names=[HARMFUL]).queries
    assert query["name"] == query["camera"]["name"] == SHOWN


def test_a_name_of_255_bytes(home, photo_factory, capsys):
    name = "é" * 125 + "x.jpg"
    assert len(os.fsencode(name)) == 255
    photo_factory(home / "photos/日本" / name, seed=3)
    assert build() == exit_codes.SOME_FAILED
    capsys.readouterr()
    words = ["query", f"photos/日本/{name}", "--save-matches", "p", "--html", "r.html", "--json"]
    assert main(words) == exit_codes.OK
    answer = json.loads(capsys.readouterr().out)["answers"][0]
    assert answer["candidates"][0]["image"] == f"日本/{name}"
    assert all(len(os.fsencode(file.name)) < 255 for file in (home / "p").iterdir())


def test_names_that_are_not_utf8(home, photo_factory, capsys):
    raw = os.path.join(os.fsencode(home), b"caf\xe9.jpg")
    try:
        Path(os.fsdecode(raw)).write_bytes((home / "photos/日本/塔.jpg").read_bytes())
    except OSError:
        pytest.skip("this file system allows valid UTF-8 only")
    build()
    capsys.readouterr()
    words = ["query", os.fsdecode(raw), "--html", "r.html", "--save-matches", "p"]
    assert main(words) == exit_codes.OK
    assert main(["query", os.fsdecode(raw), "photos"]) == exit_codes.SOME_FAILED
    out = capsys.readouterr().out
    assert r"caf\udce9.jpg" in out
    assert main([*words, "--json"]) == exit_codes.OK
    answer = json.loads(capsys.readouterr().out)["answers"][0]
    assert answer["photo"] == os.fsdecode(raw)
    assert r"caf\udce9.jpg" in (home / "r.html").read_text("utf-8")
    assert main(["add", os.fsdecode(raw)]) == exit_codes.NOTHING_DONE
    assert (
        r"failed caf\udce9.jpg: its name is not valid UTF-8; rename it" in capsys.readouterr().out
    )


def test_nothing_is_printed_past_it():
    """`print` is for JSON, which has escapes of its own; the others escape what they print."""
    for file in (ROOT / "pipelines").rglob("*.py"):
        text = file.read_text("utf-8")
        if file.name != "streams.py":
            printed = re.findall(r"(?<![.\w])print\((?!json\.dumps|\))", text)
            assert not printed, (
                f"{file.name}: print by pipelines.cli.streams.print_line or complain"
            )
            assert "from rich.markup import" not in text, f"{file.name}: use locate.util.printable"
        if file.name != "pose_export.py":
            assert "from html import escape" not in text, f"{file.name}: use locate.util.printable"


# --- encodings that lack the characters


ENVIRONMENTS = {
    "a Windows pipe": {"PYTHONIOENCODING": "cp1252"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "strict": {"PYTHONIOENCODING": "ascii:strict"},
    "C": {"LC_ALL": "C"},
    "C without help": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.fixture(scope="module")
def japanese(tmp_path_factory):
    """A database of photos with Japanese names, by an extractor that a command can load."""
    folder = tmp_path_factory.mktemp("japanese")
    rng = np.random.default_rng(0)
    for i in range(2):
        pixels = rng.integers(0, 255, (24, 32, 3), dtype="uint8")
        file = folder / "写真/日本" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC).save(file)
    build_index(folder / "写真", folder / ".locate", extractor="sift")
    return folder


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_an_answer_for_any_encoding(japanese, name):
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **ENVIRONMENTS[name]}

    def ask(*words):
        return subprocess.run(
            [sys.executable, "-m", "locate", *words],
            cwd=japanese, env=environment, capture_output=True, check=False,
        )  # fmt: skip

    listed = ask("info", "--images")
    assert (listed.returncode, listed.stderr) == (exit_codes.OK, b"")
    # A script in the C locale gets UTF-8 from Python unless it forbids it.
    assert ("日本/0.png" in listed.stdout.decode("utf-8", "replace")) == (name == "C")
    assert (rb"\u65e5\u672c/0.png" in listed.stdout) == (name != "C")
    missing = ask("query", "無い.jpg", "--index", "無い")
    assert missing.returncode == exit_codes.ERROR
    assert missing.stderr.startswith(b"locate: no database at ")
    if name == "a Windows pipe":
        answer = ask("query", "写真/日本/0.png")
        assert (answer.returncode, answer.stderr) == (exit_codes.OK, b"")
        assert rb"match \u65e5\u672c: " in answer.stdout
