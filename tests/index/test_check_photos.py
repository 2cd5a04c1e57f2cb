"""Whether the photos are still those that were indexed: size and date do not prove it."""

from __future__ import annotations

import json
import os

import pytest

from index.catalog import Catalog
from index.check import check_photos
from pipelines.cli import exit_codes as exits
from pipelines.cli.main import main
from pipelines.indexing.build import add_photos, build_index
from pipelines.indexing.maintenance import check_database


@pytest.fixture
def home(tmp_path, monkeypatch, photo_factory, fake_extractor):
    for i in range(4):
        photo_factory(tmp_path / f"photos/a/{i}.jpg", seed=i)
    (tmp_path / "photos/bad.jpg").write_text("no photo")
    build_index(tmp_path / "photos", tmp_path / ".locate", extractor=fake_extractor)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCATE_INDEX", raising=False)
    return tmp_path


def replace(file, content):
    """Another content of the same size and date."""
    status = file.stat()
    assert len(content) <= status.st_size
    file.write_bytes(content + bytes(status.st_size - len(content)))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


@pytest.fixture
def replaced(home, photo_factory):
    """photos/a/1.jpg is a smaller photo of something else."""
    other = photo_factory(home / "other.jpg", seed=99, size=(300, 200), quality=60)
    replace(home / "photos/a/1.jpg", other.read_bytes())
    other.unlink()
    return home


def sizes(home):
    with Catalog.open(home / ".locate") as catalog:
        return {row.path: row.info.size for row in catalog.images("ok")}


def test_a_photo_that_was_replaced(replaced, capsys):
    assert main(["check"]) == exits.PROBLEMS
    out = capsys.readouterr().out
    assert (
        "problem the photo a/1.jpg is another than the one that was indexed, of the same size"
        in out
    )
    assert "locate build-index PHOTOS --checksum" in out
    assert main(["check", "--json"]) == exits.PROBLEMS
    values = json.loads(capsys.readouterr().out)
    assert (len(values["problems"]), values["compared"], values["absent"]) == (1, 4, 0)
    # By size and date nothing has changed; by content one has.
    assert main(["build-index", "photos"]) == exits.SOME_FAILED  # bad.jpg
    assert "0 updated, 4 unchanged" in capsys.readouterr().out
    assert main(["build-index", "photos", "--checksum"]) == exits.SOME_FAILED
    assert "1 updated, 3 unchanged" in capsys.readouterr().out
    assert sizes(replaced)["a/1.jpg"] == (300, 200)
    assert main(["check"]) == exits.OK
    assert "every invariant holds; 4 photos are as they were indexed" in capsys.readouterr().out


def test_add_and_repair_find_it_too(replaced, capsys):
    assert main(["check", "--repair"]) == exits.OK
    assert "extracted a/1.jpg again" in capsys.readouterr().out
    assert sizes(replaced)["a/1.jpg"] == (300, 200)
    assert check_database(replaced / ".locate").problems == []
    replace(replaced / "photos/a/2.jpg", (replaced / "photos/a/2.jpg").read_bytes()[:-1] + b"\0")
    folder = replaced / "photos/a"
    assert add_photos([folder], replaced / ".locate").updated == 0
    assert add_photos([folder], replaced / ".locate", checksum=True).updated == 1


def test_photos_need_not_be_read(replaced, capsys):
    assert main(["check", "--no-photos"]) == exits.OK
    assert "the photos were not compared with it (--no-photos)" in capsys.readouterr().out
    report = check_database(replaced / ".locate", photos=False)
    assert (report.problems, report.compared) == ([], None)


def test_a_photo_that_was_changed_says_so(home):
    file = home / "photos/a/0.jpg"
    file.write_bytes(file.read_bytes() + b"\0")
    (what,) = check_database(home / ".locate").problems
    assert what.startswith(
        "the photo a/0.jpg was changed since it was indexed; index it again with: locate"
    )


def test_photos_that_are_gone_are_no_damage(home, capsys):
    (home / "photos/a/0.jpg").unlink()
    (home / "photos/a/1.jpg").unlink()
    os.mkfifo(home / "photos/a/1.jpg")  # never waited at
    assert main(["check"]) == exits.OK
    out = capsys.readouterr().out
    assert "2 photos are not there or cannot be read, and were not compared" in out
    assert "2 photos are as they were indexed" in out
    assert main(["check", "--repair"]) == exits.OK
    assert len(sizes(home)) == 4  # nothing is taken out for it


def test_progress_and_workers(home):
    told = []
    with Catalog.open(home / ".locate") as catalog:
        seen = check_photos(catalog, 2, lambda done, total: told.append((done, total)))
    assert (seen.compared, seen.absent, list(seen.problems)) == (4, 0, [])
    assert told == [(i, 4) for i in range(1, 5)]


def test_twins_stay_as_they_are(home, monkeypatch):
    """Two files of one content: hashing them is no news, and neither gets another id."""
    index = home / ".locate"
    (home / "photos/a/twin.jpg").write_bytes((home / "photos/a/0.jpg").read_bytes())
    build_index(home / "photos", index)
    with Catalog.open(index) as catalog:
        before, generation = catalog.images(), catalog.generation
    report = build_index(home / "photos", index, checksum=True)
    assert (report.added, report.updated, report.unchanged) == (0, 0, 5)
    with Catalog.open(index) as catalog:
        assert (catalog.images(), catalog.generation) == (before, generation)
    os.utime(home / "photos/a/0.jpg", (1, 1))
    os.utime(home / "photos/a/twin.jpg", (2, 2))
    assert build_index(home / "photos", index).unchanged == 5
    with Catalog.open(index) as catalog:
        assert {r.path: r.id for r in catalog.images()} == {r.path: r.id for r in before}
        assert catalog.generation == generation
