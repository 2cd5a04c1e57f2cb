"""The README tells the truth: its commands run and print what it shows, its Python runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PYTHON = ROOT / "docs/guide/python.md"


def blocks(language: str, page: Path = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the newcomer has it after the commands of the README, in their order."""
    return tmp_path_factory.mktemp("readme")


def shape_of(text: str) -> str:
    """Numbers, file sizes and the width of columns differ from machine to machine."""
    return re.sub(r"\s+", " ", re.sub(r"[\d.,]+", "#", text)).strip()


def run(command: str, folder: Path) -> str:
    words = command.split()
    assert words[0] == "locate", f"only locate's own commands are run: {command}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    environment.pop("LOCATE_INDEX", None)
    result = subprocess.run(
        [sys.executable, "-m", "locate", *words[1:]],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode in (0, 1, 5), result.stderr  # no match and uncertain are answers
    return result.stdout


@pytest.mark.slow
def test_console_blocks_print_what_they_show(folder):
    shown = blocks("console")
    assert shown, "the README shows no command"
    for block in shown:
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, expected = part.partition("\n")
            got = run(command, folder)
            if expected.strip():
                assert shape_of(got) == shape_of(expected), f"{command}\n{got}"


@pytest.mark.slow
def test_python_blocks_run(folder):
    if not (folder / ".locate").exists():  # this test alone
        test_console_blocks_print_what_they_show(folder)
    for block in [*blocks("python"), *blocks("python", PYTHON)]:
        result = subprocess.run(
            [sys.executable, "-c", block],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr


def test_it_is_short():
    assert len(README.read_text().split()) <= 1200


def test_make_targets_that_it_names_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = re.findall(r"^\s*(?:\$ )?make ((?:[a-z-]+ ?)+)", README.read_text(), re.M)
    assert named
    for words in named:
        for word in words.split():
            assert word in targets, f"make {word}"
