"""The shell completes commands, options, choices and files; `docs/guide/completion.md` says how."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def locate(instruction, line="", name="locate", **more):
    """What the command tells a shell; `line` ends where the cursor is."""
    words = line.split(" ")
    return subprocess.run(
        [sys.executable, "-m", "locate"],
        cwd=ROOT, capture_output=True, text=True, check=True,
        env={
            **os.environ, f"_{name.upper()}_COMPLETE": instruction, "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1), **more,
        },
    ).stdout  # fmt: skip


def offered(line):
    """(kind, value) of what bash is offered."""
    return [tuple(row.split(",", 1)) for row in locate("bash_complete", line).split()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("name", ["locate", "vlocate"])
def test_a_script_for_every_shell(shell, name):
    script = locate(f"{shell}_source", name=name)
    assert f"_{name.upper()}_COMPLETE={shell}_complete" in script
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_what_is_offered():
    assert ("plain", "build-index") in offered("locate build")
    assert [value for _, value in offered("locate evaluate ma")] == ["matching"]
    assert ("plain", "--save-matches") in offered("locate query photo.jpg --sa")
    assert [value for _, value in offered("locate localize p.jpg --frame ")] == ["map", "enu"]
    assert [value for _, value in offered("locate query --json --search l")] == ["local"]
    assert ("file", "pho") in offered("locate query pho")
    assert ("file", "") in offered("locate localize --map ")
    assert offered("locate nothing-of-ours --x") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_in_a_real_bash(tmp_path):
    """The script is sourced as the page says, and asked as a press of Tab does."""
    program = tmp_path / "locate"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m locate "$@"\n')
    program.chmod(0o755)
    page = (ROOT / "docs/guide/completion.md").read_text()
    (source,) = re.findall(r"^ +(eval .*bash_source.*)$", page, re.M)
    asked = (
        f"{source}; complete -p locate; COMP_WORDS=(locate geo); COMP_CWORD=1; "
        '_locate_completion locate geo locate; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", asked], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "-F _locate_completion locate" in done.stdout
    assert done.stdout.splitlines()[-1] == "georef"
