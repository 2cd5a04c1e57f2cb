"""`locate calibrate` asks for places that are left out, and its rule is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import locate
from index.catalog import Catalog
from locate.errors import InputError
from locate.extractors import registry
from locate.retrieval.verdict import Calibration, bundled
from pipelines.cli.main import main
from pipelines.retrieval.calibration import _evenly, calibrate_database

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photo_factory):
    """400 photos of 50 places; those of a place are the same scene at other sizes."""
    folder = tmp_path_factory.mktemp("calibrate") / "photos"
    for i in range(400):
        size = (160 + 16 * (i % 2), 120)
        photo_factory(folder / f"place-{i % 50:02}/{i:03}.png", size=size, seed=i % 50)
    return folder


@pytest.fixture
def index(photos, tmp_path, fake_extractor):
    locate.build_index(photos, tmp_path / "index", extractor=fake_extractor)
    return tmp_path / "index"


def test_calibrating_end_to_end(index, photos, tmp_path, capsys):
    with locate.open(index) as db:
        assert db.calibration.queries == 0
        assert "not calibrated" in db.query(next((photos / "place-00").iterdir())).reason
    out = tmp_path / "calibration.json"
    arguments = ["calibrate", "--index", str(index), "--queries", "385", "--save", "--json"]
    assert main([*arguments, "--out", str(out)]) == 0
    report = json.loads(capsys.readouterr().out)
    rule = Calibration.from_json(out.read_text())
    assert rule == Calibration.from_dict(report["calibration"])
    assert rule.queries == report["known_queries"] == 385
    # By definition: what reaches the rule is rare enough, a little less is not.
    assert rule.false_accept_rate(rule.match_evidence) <= 0.01
    assert rule.false_accept_rate(rule.match_evidence - 0.02) > 0.01
    assert rule.uncertain_evidence <= rule.match_evidence
    assert report["false_accepts"] <= 0.01
    assert report["right_answers"] > 0.9
    assert report["wrong_answers"] <= 0.01
    photo, evidence, image = report["worst"][0]
    assert evidence == pytest.approx(rule.tail[0], abs=0.01)
    assert photo.split("/")[0] != image.split("/")[0]  # never its own place
    # From now on this database judges by it.
    with locate.open(index) as db:
        assert db.calibration == rule
        answer = db.query(next((photos / "place-00").iterdir()))
    assert answer.best.false_accept == rule.false_accept_rate(answer.best.evidence) < 0.011
    assert "not calibrated" not in answer.reason


def test_the_same_seed_asks_the_same_photos_evenly(index):
    with Catalog.open(index) as catalog:
        rows = catalog.images("ok")
    chosen = _evenly(rows, 110, seed=3)
    assert chosen == _evenly(rows, 110, seed=3)
    assert chosen != _evenly(rows, 110, seed=4)
    assert len({row.id for row in chosen}) == 110
    per_place = Counter(row.label for row in chosen)
    assert set(per_place.values()) == {2, 3}  # 110 photos of 50 places
    assert len(_evenly(rows, 10**6, seed=0)) == len(rows)


def test_what_cannot_be_calibrated(index, photos, tmp_path, fake_extractor):
    with pytest.raises(InputError, match="cannot bound false matches"):
        calibrate_database(index, queries=100)
    locate.build_index(photos / "place-00", tmp_path / "one", extractor=fake_extractor)
    with pytest.raises(InputError, match="0 landmarks"):
        calibrate_database(tmp_path / "one")


def test_the_default_extractor_is_calibrated():
    """A change of its settings or weights needs a new calibration: docs/guide/add.md says how."""
    fingerprint = registry.create().info.fingerprint
    rule = bundled()[fingerprint]
    assert rule.queries >= 381
    assert 0 < rule.uncertain_evidence <= rule.match_evidence < 10


def test_the_example_runs(photos, tmp_path):
    """examples/query.py, on a few of the photos."""
    for i in range(3):
        target = tmp_path / f"landmarks/place-{i}/a.png"
        target.parent.mkdir(parents=True)
        target.write_bytes(next((photos / f"place-0{i}").iterdir()).read_bytes())
    result = subprocess.run(
        [sys.executable, ROOT / "examples/query.py", "landmarks", "landmarks/place-1/a.png"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "3 new photos, 0 known, 0 failed" in result.stdout
    assert "match" in result.stdout
