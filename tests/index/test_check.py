"""`locate check` finds each kind of damage; `--repair` mends it."""

from __future__ import annotations

import re
import sqlite3

import numpy as np
import pytest

from index.catalog import FILE, Catalog
from index.vectors.faiss_store import RECORD, FaissStore
from locate.errors import DatabaseMissingError
from pipelines.indexing.build import build_index
from pipelines.indexing.maintenance import check_database, database_info, image_rows


@pytest.fixture
def index(tmp_path, photo_factory, fake_extractor):
    for i in range(6):
        photo_factory(tmp_path / f"photos/place-{i % 2}/{i}.jpg", seed=i)
    (tmp_path / "photos/bad.jpg").write_text("not a photo")
    build_index(tmp_path / "photos", tmp_path / ".locate", extractor=fake_extractor)
    return tmp_path / ".locate"


def sql(index, statement, *values):
    connection = sqlite3.connect(index / FILE)
    with connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute(statement, values)
    connection.close()


def flip(index, table, column):
    connection = sqlite3.connect(index / FILE)
    with connection:
        image_id, blob = connection.execute(
            f"SELECT image_id, {column} FROM {table} LIMIT 1"
        ).fetchone()
        bad = bytearray(blob)
        bad[len(bad) // 2] ^= 4
        connection.execute(
            f"UPDATE {table} SET {column} = ? WHERE image_id = ?", [bytes(bad), image_id]
        )
    connection.close()


def short_vector(index):
    blob = np.ones(3, "<f4").tobytes()
    sql(index, "UPDATE vectors SET vector = ?, dim = 3 WHERE image_id = 2", blob)


def damaged_faiss(index):
    file = index / FaissStore(index).read_record().file
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 8
    file.write_bytes(data)


DAMAGE = {
    "keypoints": (lambda i: flip(i, "features", "keypoints"), "features of .* are damaged"),
    "scores": (lambda i: flip(i, "features", "scores"), "features of .* are damaged"),
    "descriptors": (lambda i: flip(i, "features", "descriptors"), "features of .* are damaged"),
    "vector": (lambda i: flip(i, "vectors", "vector"), "global descriptor of .* is damaged"),
    "short vector": (short_vector, "global descriptor of .* is damaged"),
    "no features": (lambda i: sql(i, "DELETE FROM features WHERE image_id = 2"), "has no features"),
    "no vector": (lambda i: sql(i, "DELETE FROM vectors WHERE image_id = 2"), "has no vectors"),
    "orphan": (lambda i: sql(i, "DELETE FROM images WHERE id = 3"), "belongs to no row"),
    "failed with features": (
        lambda i: sql(i, "UPDATE images SET status = 'failed' WHERE id = 4"), "but has features",
    ),
    "no size": (lambda i: sql(i, "UPDATE images SET width = NULL WHERE id = 5"), "no size"),
    "no record": (lambda i: (i / RECORD).unlink(), "search index is missing"),
    "no faiss file": (
        lambda i: (i / FaissStore(i).read_record().file).unlink(),
        "search index is damaged",
    ),
    "damaged faiss file": (damaged_faiss, "search index is damaged"),
    "stale": (
        lambda i: sql(i, "UPDATE meta SET value = value + 1 WHERE key = 'generation'"),
        "older than the catalogue",
    ),
}  # fmt: skip


def test_a_sound_database_has_no_problems(index):
    assert check_database(index).problems == []


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_found_and_repaired(index, kind):
    damage, message = DAMAGE[kind]
    damage(index)
    found = check_database(index)
    assert any(re.search(message, what) for what in found.problems), found.problems
    assert found.remaining == found.problems
    repaired = check_database(index, repair=True)
    assert repaired.problems == found.problems
    assert repaired.remaining == []
    assert check_database(index).problems == []


def test_a_damaged_image_whose_photo_is_gone_is_marked_failed(index):
    flip(index, "features", "descriptors")
    with Catalog.open(index) as catalog:
        path = catalog.image(2).path  # the first that has features
    (index.parent / "photos" / path).unlink()
    report = check_database(index, repair=True)
    assert report.remaining == []
    assert any("could not be read again" in what for what in report.repaired)
    with Catalog.open(index) as catalog:
        assert path in {row.path for row in catalog.images("failed")}


def test_check_creates_nothing(tmp_path):
    for repair in (False, True):
        with pytest.raises(DatabaseMissingError):
            check_database(tmp_path / "nowhere", repair=repair)
    assert list(tmp_path.iterdir()) == []


def test_info_tells_what_is_in_it(index):
    info = database_info(index)
    assert info.counts["ok"] == 6
    assert info.counts["failed"] == 1
    assert info.labels == {"place-0": 3, "place-1": 3}
    assert info.extractor.name == "fake"
    assert (info.vectors.factory, info.vectors.recall_at_10) == ("Flat", 1.0)
    assert info.disk[FILE] > 0
    rows = image_rows(index)
    assert [r["path"] for r in rows if r["status"] == "failed"] == ["bad.jpg"]
