"""What a database remembers about who filled it."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from index.catalog import Catalog
from locate.retrieval.search_mode import BOTH, GLOBAL
from pipelines.indexing.build import build_index
from pipelines.indexing.provenance import extractor_of, search_of, working_side


@pytest.fixture
def index(tmp_path, photo_factory, fake_extractor):
    photo_factory(tmp_path / "photos/a.jpg", size=(160, 120), seed=0)
    build_index(tmp_path / "photos", tmp_path / "x.locate", extractor=fake_extractor)
    return tmp_path / "x.locate"


def test_the_working_side_is_remembered_by_a_writer_alone(index, monkeypatch):
    # Databases of older versions do not say it.
    with closing(sqlite3.connect(index / "catalog.sqlite")) as db:
        db.execute("DELETE FROM meta WHERE key = 'working side'")
        db.commit()
    content = (index / "catalog.sqlite").read_bytes()
    with Catalog.open(index) as catalog:
        assert not catalog.writable
        assert working_side(catalog) == 160
        assert catalog.meta("working side") is None
    assert (index / "catalog.sqlite").read_bytes() == content
    with Catalog.create(index) as catalog:
        assert working_side(catalog) == 160
        assert catalog.meta("working side") == "160"
    # Whoever reads from now on needs no network.
    monkeypatch.setattr("pipelines.indexing.provenance.load_extractor", None)
    with Catalog.open(index) as catalog:
        assert working_side(catalog) == 160


def test_who_filled_it_and_what_it_is_searched_by(index, tmp_path):
    with Catalog.open(index) as catalog:
        assert extractor_of(catalog).name == "fake"
        assert search_of(catalog) == GLOBAL
    with Catalog.create(index) as catalog, catalog.transaction():
        catalog.set_meta("search", BOTH)
    with Catalog.open(index) as catalog:
        assert search_of(catalog) == BOTH
    with Catalog.create(tmp_path / "empty.locate") as catalog:
        assert extractor_of(catalog) is search_of(catalog) is None
