"""Reports of an evaluation: what is written is what was measured."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from locate.errors import InputError
from pipelines.reports.report import Curves, Report, Table

TABLE = Table(
    "MMA",
    ("extractor", "MMA@3", "keypoints"),
    (("a|b", np.float32(0.5), 10), ("c", float("nan"), 7)),
)
CURVES = Curves(
    "mma", "MMA", "pixels", "share", {"a": (np.arange(1, 4), np.array([0.1, 0.5, 0.9]))}
)
REPORT = Report("matching", {"seed": 0}, (TABLE,), (CURVES,), ("one pair was skipped",))


def test_markdown():
    lines = REPORT.to_markdown().splitlines()
    assert "| extractor | MMA@3 | keypoints |" in lines
    assert "| --- | ---: | ---: |" in lines
    assert "| a\\|b | 0.500 | 10 |" in lines
    assert "| c | - | 7 |" in lines
    assert "![MMA](mma.png)" in lines
    assert "- one pair was skipped" in lines


def test_saved_files(tmp_path):
    written = REPORT.save(tmp_path / "out")
    assert {p.name for p in written} == {"report.md", "report.json", "mma.png"}
    found = json.loads((tmp_path / "out/report.json").read_text())
    assert found["tables"][0]["rows"] == [
        {"extractor": "a|b", "MMA@3": 0.5, "keypoints": 10},
        {"extractor": "c", "MMA@3": None, "keypoints": 7},
    ]
    assert found["curves"][0]["series"]["a"] == {"x": [1, 2, 3], "y": [0.1, 0.5, 0.9]}
    picture = cv2.imread(str(tmp_path / "out/mma.png"))
    assert picture.shape[0] > 300
    assert (picture != 255).any()


def test_saved_twice_gives_the_same_bytes(tmp_path):
    REPORT.save(tmp_path / "a")
    REPORT.save(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_infinite_numbers_are_json():
    table = Table("errors", ("name", "median"), (("x", float("inf")),))
    assert table.to_json()["rows"] == [{"name": "x", "median": "inf"}]
    assert "| x | inf |" in table.to_markdown()


def test_rows_that_do_not_fit():
    with pytest.raises(InputError, match="2 values for 3 columns"):
        Table("t", ("a", "b", "c"), (("x", 1),))
