"""What is on disk keeps opening: indexes and a map as the code before the rooms wrote them."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

import locate
from pipelines.cli.main import main

ARCHIVE = Path(__file__).parent / "data" / "before-rooms.tar.xz"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    base = tmp_path_factory.mktemp("before-rooms")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(base, filter="data")
    return base


@pytest.fixture
def old(unpacked, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(unpacked, tmp_path / "old")


@pytest.mark.parametrize("index", ["context.locate", "sift.locate"])
def test_an_index_answers_and_grows(old, index):
    query = old / "town" / "queries" / "church.jpg"
    with locate.open(old / index) as db:
        before = db.query(query)
        assert before.label == "church"
        known = db.query(old / "town" / "landmarks" / "church" / "01.jpg")
        assert known.verdict == "match"
        assert known.candidates[0].image == "church/01.jpg"
    shutil.copy(old / "new.jpg", old / "town" / "landmarks" / "church" / "05.jpg")
    report = locate.build_index(old / "town" / "landmarks", old / index, workers=1)
    assert (report.added, report.updated, len(report.failed)) == (1, 0, 0)
    with locate.open(old / index) as db:
        answer = db.query(old / "new.jpg")
        assert (answer.verdict, answer.candidates[0].image) == ("match", "church/05.jpg")
    assert main(["check", "--no-photos", "--index", str(old / index)]) == 0


def test_a_map_localizes_and_grows(old):
    photo = old / "town" / "landmarks" / "church" / "02.jpg"
    with locate.Localizer(old / "map") as localizer:
        pose = localizer.localize(photo)
        assert pose.verdict == "localized", pose.reason
    report = locate.add_to_map(old / "map", [old / "new.jpg"], workers=1)
    assert report.registered == 5
    with locate.Localizer(old / "map") as localizer:
        assert localizer.localize(old / "new.jpg").verdict == "localized"
    assert main(["check", "--no-photos", "--index", str(old / "map" / "features")]) == 0


def test_masks_are_new_to_an_old_index(old):
    """Its photos have no masks; with one, they are read anew."""
    with Image.open(old / "new.jpg") as photo:
        size = photo.size
    mask = Image.new("L", size, 255)
    mask.paste(0, (0, 0, size[0], size[1] // 8))
    (old / "masks").mkdir()
    mask.save(old / "masks" / "mask.png")
    photos = old / "town" / "landmarks"
    report = locate.build_index(photos, old / "sift.locate", masks=old / "masks", workers=1)
    assert report.updated == 4
