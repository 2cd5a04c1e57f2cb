"""Building costs only what changed, and the catalogue always tells the truth about the folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from index.catalog import Catalog
from index.lock import writer
from locate.errors import (
    DatabaseLockedError,
    DatabaseMismatchError,
    InputError,
    UnknownNameError,
)
from locate.extractors import registry
from pipelines.indexing import build as build_module
from pipelines.indexing.build import add_photos, build_index, remove_images
from pipelines.indexing.maintenance import check_database


@pytest.fixture
def photos(tmp_path, photo_factory):
    for landmark, seed in (("arch", 0), ("bridge", 10), ("castle", 20)):
        for i in range(4):
            photo_factory(tmp_path / f"photos/{landmark}/{i}.jpg", seed=seed + i)
    return tmp_path / "photos"


@pytest.fixture
def index(tmp_path):
    return tmp_path / ".locate"


def rows(index):
    with Catalog.open(index) as catalog:
        return {row.path: row for row in catalog.images()}


def counts(report):
    return report.added, report.updated, report.unchanged, len(report.failed)


def test_first_build_then_nothing_to_do(photos, index, fake_extractor, monkeypatch):
    report = build_index(photos, index, extractor=fake_extractor)
    assert counts(report) == (12, 0, 0, 0)
    assert report.vectors.count == 12
    found = rows(index)
    assert sorted({row.label for row in found.values()}) == ["arch", "bridge", "castle"]
    assert found["arch/0.jpg"].info.size == (320, 240)
    assert check_database(index).problems == []
    # The second run must not even load the extractor.
    monkeypatch.setitem(registry.EXTRACTORS, "fake", None)
    assert counts(build_index(photos, index)) == (0, 0, 12, 0)


def test_only_the_changed_photo_is_done_again(photos, index, fake_extractor, photo_factory):
    build_index(photos, index, extractor=fake_extractor)
    before = rows(index)
    photo_factory(photos / "arch/1.jpg", seed=99, size=(400, 300))
    assert counts(build_index(photos, index)) == (0, 1, 11, 0)
    after = rows(index)
    assert after["arch/1.jpg"].info.size == (400, 300)
    assert after["arch/1.jpg"].file.sha256 != before["arch/1.jpg"].file.sha256
    assert after["arch/0.jpg"] == before["arch/0.jpg"]
    assert check_database(index).problems == []


def test_same_content_is_never_looked_at_twice(photos, index, fake_extractor, monkeypatch):
    build_index(photos, index, extractor=fake_extractor)
    shutil.copy(photos / "arch/0.jpg", photos / "bridge/copy.jpg")
    (photos / "castle/0.jpg").rename(photos / "castle/renamed.jpg")
    os.utime(photos / "arch/2.jpg", (1, 1))
    monkeypatch.setattr(
        build_module, "load_extractor", lambda *_: pytest.fail("looked at known content")
    )
    report = build_index(photos, index)
    assert counts(report) == (2, 0, 11, 0)
    assert report.missing == 1  # the old name stays until it is removed
    with Catalog.open(index) as catalog:
        ids = {row.path: row.id for row in catalog.images()}
        a, b = (catalog.extraction(ids[p]) for p in ("arch/0.jpg", "bridge/copy.jpg"))
    assert np.array_equal(a.features.descriptors, b.features.descriptors)
    assert np.array_equal(a.global_descriptor, b.global_descriptor)
    assert check_database(index).problems == []


def test_two_photos_that_swap_names(photos, index, fake_extractor):
    build_index(photos, index, extractor=fake_extractor)
    before = rows(index)
    a, b, c = photos / "arch/0.jpg", photos / "arch/1.jpg", photos / "arch/c"
    a.rename(c), b.rename(a), c.rename(b)
    build_index(photos, index)
    after = rows(index)
    assert after["arch/0.jpg"].file.sha256 == before["arch/1.jpg"].file.sha256
    assert after["arch/1.jpg"].file.sha256 == before["arch/0.jpg"].file.sha256
    assert check_database(index).problems == []


def test_another_label_rule_needs_no_extraction(photos, index, fake_extractor, monkeypatch):
    build_index(photos, index, extractor=fake_extractor)
    monkeypatch.setitem(registry.EXTRACTORS, "fake", None)
    build_index(photos, index, label_from="none")
    assert {row.label for row in rows(index).values()} == {None}


def test_a_database_refuses_another_extractor(photos, index, fake_extractor, monkeypatch):
    build_index(photos, index, extractor=fake_extractor)
    with pytest.raises(DatabaseMismatchError, match="filled by fake, not sift"):
        build_index(photos, index, extractor="sift")
    # The same name with other settings is another extractor too.
    made = registry.EXTRACTORS["fake"]
    monkeypatch.setitem(registry.EXTRACTORS, "fake", lambda: made(patch=8))
    (photos / "arch/0.jpg").write_bytes((photos / "arch/1.jpg").read_bytes() + b"\0")
    with pytest.raises(DatabaseMismatchError, match="other weights or settings"):
        build_index(photos, index)


def test_writers_exclude_each_other(photos, index, fake_extractor):
    with writer(index), pytest.raises(DatabaseLockedError, match="another process is writing"):
        build_index(photos, index, extractor=fake_extractor)
    build_index(photos, index, extractor=fake_extractor)  # the lock is free again


def test_wrong_arguments_leave_nothing_behind(tmp_path, photos, index):
    with pytest.raises(InputError, match="does not exist"):
        build_index(tmp_path / "nowhere", index)
    with pytest.raises(UnknownNameError, match="label rule"):
        build_index(photos, index, label_from="moon")
    assert not index.exists()
    with pytest.raises(
        UnknownNameError,
        match=r"unknown extractor 'moon'; known: aliked, context, d2net, delf, disk",
    ):
        build_index(photos, index, extractor="moon")


def test_a_folder_without_photos(tmp_path, index, fake_extractor):
    (tmp_path / "empty").mkdir()
    report = build_index(tmp_path / "empty", index, extractor=fake_extractor)
    assert counts(report) == (0, 0, 0, 0)
    assert report.vectors is None


def test_add_single_photos_and_further_folders(photos, index, fake_extractor, photo_factory):
    build_index(photos, index, extractor=fake_extractor)
    new = photo_factory(photos / "arch/new.jpg", seed=50)
    elsewhere = photo_factory(photos.parent / "more/dome/1.jpg", seed=51)
    report = add_photos([new, elsewhere.parent.parent], index)
    assert counts(report) == (2, 0, 0, 0)
    found = rows(index)
    assert found["arch/new.jpg"].label == "arch"
    assert found["dome/1.jpg"].label == "dome"
    assert found["arch/new.jpg"].root_id != found["dome/1.jpg"].root_id
    assert counts(build_index(photos, index)) == (0, 0, 13, 0)  # nothing is done twice
    with pytest.raises(InputError, match="does not exist"):
        add_photos([photos / "nowhere.jpg"], index)


def test_remove_by_path_glob_label_and_missing(photos, index, fake_extractor):
    build_index(photos, index, extractor=fake_extractor)
    assert remove_images(index, ["arch/0.jpg", "bridge/*"]) == [
        "arch/0.jpg", "bridge/0.jpg", "bridge/1.jpg", "bridge/2.jpg", "bridge/3.jpg",
    ]  # fmt: skip
    (photos / "castle/3.jpg").unlink()
    assert remove_images(index, missing=True) == ["castle/3.jpg"]
    assert remove_images(index, label="castle") == [f"castle/{i}.jpg" for i in range(3)]
    assert (photos / "bridge/0.jpg").exists()
    assert sorted(rows(index)) == ["arch/1.jpg", "arch/2.jpg", "arch/3.jpg"]
    assert check_database(index).problems == []
    with pytest.raises(InputError, match="no image of the database fits"):
        remove_images(index, ["arch/1.jpg", "moon/*"])
    assert len(rows(index)) == 3  # all or nothing


def test_the_folder_can_be_moved_with_its_photos(photos, index, fake_extractor, tmp_path):
    build_index(photos, index, extractor=fake_extractor)
    moved = tmp_path / "moved"
    moved.mkdir()
    photos.rename(moved / "photos")
    index.rename(moved / ".locate")
    assert counts(build_index(moved / "photos", moved / ".locate")) == (0, 0, 12, 0)


def test_photos_on_another_drive_keep_their_absolute_root(photos, tmp_path, fake_extractor):
    far = tmp_path / "far/deep/.locate"
    build_index(photos, far, extractor=fake_extractor)
    with Catalog.open(far) as catalog:
        assert list(catalog.roots().values()) == [photos.resolve()]


def test_progress_counts_to_the_end(photos, index, fake_extractor):
    seen = []
    build_index(photos, index, extractor=fake_extractor, progress=lambda *step: seen.append(step))
    assert seen == [(i, 12) for i in range(1, 13)]


def test_interrupting_keeps_what_was_seen(photos, index, fake_extractor):
    def stop(done: int, _total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(photos, index, extractor=fake_extractor, progress=stop)
    assert len(rows(index)) == 5
    assert counts(build_index(photos, index)) == (7, 0, 5, 0)
    assert check_database(index).problems == []


def test_results_in_flight_are_bounded(photos, index, fake_extractor, monkeypatch):
    """However large the folder, only a few results wait to be written."""
    import threading

    from pipelines.indexing import extraction

    waiting, most = 0, 0
    lock = threading.Lock()
    see = extraction._extract

    def counted(*args):
        nonlocal waiting, most
        with lock:
            waiting += 1
            most = max(most, waiting)
        return see(*args)

    monkeypatch.setattr(extraction, "_extract", counted)

    def consumed(_done: int, _total: int) -> None:
        nonlocal waiting
        with lock:
            waiting -= 1

    build_index(photos, index, extractor=fake_extractor, workers=1, progress=consumed)
    assert 1 < most <= 5


def test_paths_are_stored_with_forward_slashes(photos, index, fake_extractor):
    build_index(photos, index, extractor=fake_extractor)
    assert all(Path(photos / path).is_file() and "\\" not in path for path in rows(index))


@pytest.mark.parametrize(
    ("search", "default"),
    [(None, registry.DEFAULT), ("global", registry.DEFAULT), ("both", registry.LOCAL_DEFAULT)],
)
def test_a_search_by_local_features_has_a_default_of_its_own(
    search, default, photo_factory, tmp_path
):
    photo_factory(tmp_path / "photos/a.jpg")
    build_index(tmp_path / "photos", tmp_path / "index", search=search)
    with Catalog.open(tmp_path / "index") as catalog:
        assert json.loads(catalog.meta("extractor"))["name"] == default
