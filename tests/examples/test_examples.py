"""Every example is short, and runs on a small town."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.town.town import make_town

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    return make_town(
        tmp_path_factory.mktemp("examples") / "town", landmarks=2, views=4, size=(480, 360)
    ).root


def run(name: str, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_query_and_batch(town, tmp_path):
    said = run("query.py", town / "landmarks", town / "queries/church.jpg")
    assert "8 new photos, 0 known, 0 failed" in said
    assert "match: church" in said
    out = tmp_path / "answers.csv"
    run("batch.py", town / ".locate", town / "queries", out)
    assert "church.jpg,match,church" in out.read_text()


def test_localize(town, tmp_path):
    words = [town / "colmap", town / "landmarks", tmp_path / "map", town / "queries/church.jpg"]
    said = run("localize.py", *words)
    assert "8 photos registered" in said
    assert "localized: " in said
    assert "not localized" not in said


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name
)
def test_short(path):
    assert len(path.read_text().splitlines()) < 40
