"""Every example is short, and runs on a small town."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.mapping.import_model import import_map
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
    assert "\nlocalized: [" in said
    foreign = town / "queries/elsewhere-1.jpg"
    elsewhere = run("localize.py", *words[:2], tmp_path / "again", foreign)
    assert "\nnot localized: " in elsewhere
    assert "None" not in elsewhere


def test_extractor(town):
    said = run("extractor.py", town / "landmarks", town / "queries/church.jpg")
    assert "8 photos, 0 failed" in said
    assert "match: church" in said


def test_evaluate(town, tmp_path):
    photos = shutil.copytree(town / "landmarks", tmp_path / "photos")
    said = run("evaluate.py", photos, "gem+sift", "sift")
    rows = [line for line in said.splitlines() if line.startswith(("| gem+sift", "| sift"))]
    assert len(rows) >= 2
    table = json.loads((tmp_path / "report/report.json").read_text())["tables"][0]["rows"]
    assert {row["extractor"] for row in table} == {"gem+sift", "sift"}
    assert all(row["mAP"] == 1 for row in table)  # two landmarks that look nothing alike


def test_export_colmap(town, tmp_path):
    place = tmp_path / "map"
    import_map(town / "colmap", town / "landmarks", place, metric=True, workers=1)
    (tmp_path / "photos").mkdir()
    shutil.copy(town / "queries/church.jpg", tmp_path / "photos")
    (tmp_path / "photos/broken.jpg").write_text("no photo")
    said = run("export_colmap.py", place, tmp_path / "photos", tmp_path / "poses")
    first, second = said.splitlines()
    assert first == "1 of 2 photos localized"
    assert second.startswith("church.jpg [")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name
)
def test_short(path):
    assert len(path.read_text().splitlines()) < 45
