"""What goes into the catalogue comes out of it, and damage is never passed on."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest

from index.catalog import FILE, Catalog
from index.migrations import SCHEMA_VERSION
from index.records import Entry, FileState
from locate.errors import (
    DatabaseCorruptError,
    DatabaseError,
    DatabaseMismatchError,
    DatabaseMissingError,
)
from locate.types import Extraction, Features, PhotoInfo

STATE = FileState("ab" * 32, 1234, 10**18 + 7)
INFO = PhotoInfo(
    size=(4000, 3000), orientation=6, taken_at="2024-05-06T07:08:09", camera="Maker X1",
    focal_mm=4.25, focal_35mm=26.0, latitude=-33.8568, longitude=151.2153, altitude=-3.5,
)  # fmt: skip


def extraction(seed: int, n: int = 50) -> Extraction:
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(n, 16)).astype(np.float32)
    vector = rng.normal(size=8).astype(np.float32)
    features = Features(
        keypoints=rng.uniform(0, 3000, (n, 2)).astype(np.float32),
        scores=rng.random(n).astype(np.float32),
        descriptors=descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True),
        image_size=INFO.size,
    )
    return Extraction(features, vector / np.linalg.norm(vector))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "db"


@pytest.fixture
def catalog(folder, tmp_path):
    with Catalog.create(folder) as catalog:
        root = catalog.add_root(tmp_path)
        catalog.write(
            [Entry(root, f"a/{i}.jpg", "a", STATE, INFO, extraction(i)) for i in range(3)]
            + [Entry(root, "bad.jpg", None, STATE, error="is truncated; copy it again")]
        )
        yield catalog


def test_round_trip(catalog):
    row = catalog.images()[1]
    assert (row.path, row.label, row.status, row.file) == ("a/1.jpg", "a", "ok", STATE)
    assert row.info == INFO
    want, got = extraction(1), catalog.extraction(row.id)
    assert np.array_equal(got.features.keypoints, want.features.keypoints)  # exact: float32
    assert np.array_equal(got.features.scores, want.features.scores)
    assert got.features.descriptors.dtype == np.float16
    assert np.abs(got.features.descriptors - want.features.descriptors).max() < 5e-4
    assert np.array_equal(got.global_descriptor, want.global_descriptor)
    assert got.features.image_size == (4000, 3000)


def test_failed_images_keep_their_reason(catalog):
    (row,) = catalog.images("failed")
    assert (row.path, row.error) == ("bad.jpg", "is truncated; copy it again")
    assert catalog.counts() == {"ok": 3, "failed": 1, "labels": 1, "vectors": 3, "features": 150}


def test_any_number_of_images_at_once(catalog):
    ids = [row.id for row in catalog.images("ok")]
    asked = [*ids, *range(10_000, 60_000)]  # more than SQLite takes in one statement
    assert catalog.rows(asked) == {row.id: row for row in catalog.images("ok")}
    vectors = catalog.vectors_of(asked)
    assert list(vectors) == ids
    assert np.array_equal(vectors[ids[2]], catalog.extraction(ids[2]).global_descriptor)
    assert catalog.rows([]) == catalog.vectors_of([]) == {}


def test_vectors_come_in_chunks_by_id(catalog):
    chunks = list(catalog.vectors(chunk=2))
    assert [len(ids) for ids, _ in chunks] == [2, 1]
    ids = np.concatenate([ids for ids, _ in chunks])
    assert np.all(np.diff(ids) > 0)
    assert np.array_equal(chunks[0][1][0], catalog.extraction(int(ids[0])).global_descriptor)


def test_replacing_leaves_no_orphans_and_no_used_id(catalog):
    old = catalog.images()[0]
    catalog.write([Entry(old.root_id, old.path, "b", STATE, INFO, extraction(9))])
    new = next(row for row in catalog.images() if row.path == old.path)
    assert new.id > max(row.id for row in catalog.images() if row.path != old.path)
    for table in ("features", "vectors"):
        assert catalog.execute(f"SELECT count(*) FROM {table}") == [(3,)]


def test_generation_grows_with_every_change(catalog):
    before = catalog.generation
    catalog.remove([catalog.images()[0].id])
    assert catalog.generation == before + 1
    row = catalog.images("ok")[0]
    catalog.write([Entry(row.root_id, row.path, None, STATE, error="is damaged; copy it again")])
    assert catalog.generation == before + 2
    assert catalog.counts()["vectors"] == 1


def test_files_that_fail_leave_the_search_index_valid(catalog):
    before = catalog.generation
    root = catalog.images()[0].root_id
    catalog.write([Entry(root, "bad.jpg", None, STATE, error="is empty; copy it again")])
    catalog.write([Entry(root, "worse.jpg", None, STATE, error="is empty; copy it again")])
    catalog.remove([row.id for row in catalog.images("failed")])
    assert catalog.generation == before


def test_a_transaction_is_all_or_nothing(catalog):
    row = catalog.images()[0]
    before, generation = catalog.counts(), catalog.generation
    broken = Entry(10**6, "x.jpg", None, STATE, INFO, extraction(1))  # no such root
    with pytest.raises(DatabaseCorruptError):
        catalog.write([Entry(row.root_id, "new.jpg", None, STATE, INFO, extraction(5)), broken])
    assert (catalog.counts(), catalog.generation) == (before, generation)


def test_a_flipped_bit_is_noticed(catalog, folder):
    image_id = catalog.images()[0].id
    with sqlite3.connect(folder / FILE) as raw:
        (blob,) = raw.execute(
            "SELECT descriptors FROM features WHERE image_id = ?", [image_id]
        ).fetchone()
        bad = bytes([blob[0] ^ 1]) + blob[1:]
        raw.execute("UPDATE features SET descriptors = ? WHERE image_id = ?", [bad, image_id])
    raw.close()
    with pytest.raises(DatabaseCorruptError, match=r"a/0\.jpg are damaged.*check --repair"):
        catalog.features(image_id)


def test_a_reader_sees_the_last_commit_while_a_writer_works(catalog, folder):
    row = catalog.images()[0]
    with Catalog.open(folder) as reader:
        with catalog.transaction():
            catalog._db.execute("DELETE FROM images WHERE id = ?", [row.id])
            assert len(reader.images()) == 4
        assert len(reader.images()) == 3


def test_a_reader_cannot_write(catalog, folder):
    with Catalog.open(folder) as reader, pytest.raises(DatabaseError, match="readonly"):
        reader.remove([1])


def test_opening_what_is_not_there(tmp_path):
    with pytest.raises(DatabaseMissingError, match="locate build-index"):
        Catalog.open(tmp_path / "nowhere")
    (tmp_path / FILE).touch()
    with pytest.raises(DatabaseMissingError):
        Catalog.open(tmp_path)


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / FILE).write_bytes(b"not a database at all, but long enough to have a header" * 50)
    with pytest.raises(DatabaseCorruptError, match="move the folder away"):
        Catalog.open(tmp_path)


def test_a_newer_schema_is_refused(catalog, folder):
    catalog._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    for opening in (Catalog.open, Catalog.create):
        with pytest.raises(DatabaseMismatchError, match="newer version of locate"):
            opening(folder)


def test_migrations_end_at_the_schema_version(catalog):
    assert catalog.execute("PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert catalog.execute("PRAGMA journal_mode") == [("wal",)]
