"""A kill, Ctrl-C or a full disk at any instant loses nothing that was committed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from index.catalog import Catalog
from pipelines.indexing.build import build_index
from pipelines.indexing.maintenance import check_database
from pipelines.retrieval.database import Database

WORKER = Path(__file__).with_name("index_worker.py")
KILLS = 36
PHOTOS = 40


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photo_factory):
    folder = tmp_path_factory.mktemp("crash") / "photos"
    for i in range(PHOTOS):
        photo_factory(folder / f"place-{i % 5}/{i:02}.jpg", size=(160, 120), seed=i)
    return folder


def start(photos, index, **options):
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(photos), str(index)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def content(index):
    """Everything in a database that must not depend on how often it was interrupted."""
    with Catalog.open(index) as catalog:
        return {
            row.path: (
                row.file.sha256,
                row.label,
                catalog.features(row.id).descriptors.tobytes(),
                catalog.extraction(row.id).global_descriptor.tobytes(),
            )
            for row in catalog.images()
        }


def committed(output):
    numbers = [int(line) for line in output.split() if line.isdigit()]
    return max(numbers, default=0)


def test_kill_at_random_instants(photos, tmp_path, fake_extractor):
    build_index(photos, tmp_path / "whole", extractor=fake_extractor)
    truth = content(tmp_path / "whole")
    index = tmp_path / "killed"
    generator = random.Random(0)
    known, finished, kills_at = 0, 0, []
    for kill in range(KILLS):
        if finished and known == PHOTOS:  # start again, so that every phase is hit
            index, known = tmp_path / f"killed-{kill}", 0
        with start(photos, index) as process:
            output = process.stdout.readline()  # "ready": importing is not what is tested
            # Where to kill is drawn in commits, not in seconds, so that the work is hit on a
            # machine of any speed and load: before the first commit, between two, after the last.
            target = generator.randint(known, PHOTOS)
            while target and committed(output) < target and (line := process.stdout.readline()):
                output += line
            # What comes before the first commit and after the last one takes longer.
            time.sleep(generator.uniform(0, 0.05 if 0 < target < PHOTOS else 1))
            process.send_signal(signal.SIGKILL)
            output += process.stdout.read()
            errors = process.stderr.read()
        if "done" in output:
            finished += 1
        else:
            assert process.returncode == -signal.SIGKILL, errors
        if not (index / "catalog.sqlite").exists():
            continue  # killed before anything began
        with Catalog.create(index) as catalog:  # as the next writer would
            counts = catalog.counts()
        assert counts["ok"] >= max(known, committed(output)), "a committed image is lost"
        known = counts["ok"]
        kills_at.append(known)
        problems = [what for what in check_database(index).problems if "search index" not in what]
        assert problems == []
        if known:
            kept = content(index)
            assert all(kept[path] == truth[path] for path in kept)
            with Database(index) as db:  # a reader needs no repair
                assert len(db.query(photos / next(iter(kept))).candidates) > 0
    assert len(set(kills_at) - {0, PHOTOS}) >= 3, f"the kills hit no work: {kills_at}"
    process = start(photos, index)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert content(index) == truth
    assert check_database(index).problems == []


def test_ctrl_c_keeps_what_was_seen(photos, tmp_path):
    index = tmp_path / "interrupted"
    process = start(photos, index)
    while committed(process.stdout.readline()) < 3:
        pass
    process.send_signal(signal.SIGINT)
    process.communicate()
    with Catalog.open(index) as catalog:
        assert 3 <= catalog.counts()["ok"] < PHOTOS
    assert [w for w in check_database(index).problems if "search index" not in w] == []


def test_a_full_disk_stops_with_the_cure_and_loses_nothing(photos, tmp_path, fake_extractor):
    index = tmp_path / "full"
    limited = (
        "import resource, runpy, sys;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000));"
        f"sys.argv = ['x', {str(photos)!r}, {str(index)!r}];"
        f"runpy.run_path({str(WORKER)!r})"
    )
    run = subprocess.run(
        [sys.executable, "-c", limited], capture_output=True, text=True, check=False
    )
    assert run.returncode != 0
    assert "DatabaseError" in run.stderr, run.stderr
    with Catalog.create(index) as catalog:
        assert PHOTOS > catalog.counts()["ok"] >= committed(run.stdout)
    assert [w for w in check_database(index).problems if "search index" not in w] == []
    report = build_index(photos, index, extractor=fake_extractor)
    assert report.added + report.unchanged == PHOTOS
    assert check_database(index).problems == []


def test_readers_go_on_while_a_writer_works(photos, tmp_path, fake_extractor):
    index = tmp_path / "busy"
    build_index(photos / "place-0", index, extractor=fake_extractor)
    query = next((photos / "place-0").iterdir())
    process = start(photos, index)
    process.stdout.readline()
    answers = 0
    with Database(index) as db:
        while process.poll() is None or answers < 3:
            answer = db.query(query)
            assert answer.candidates[0].similarity == pytest.approx(1.0, abs=1e-5)
            answers += 1
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert answers >= 3


def test_a_query_writes_nothing(photos, tmp_path, fake_extractor):
    index = tmp_path / "quiet"
    build_index(photos, index, extractor=fake_extractor)
    before = {p.name: p.read_bytes() for p in index.iterdir()}
    with Database(index) as db:
        db.query(np.zeros((120, 160, 3), np.uint8))
        db.query(next(photos.rglob("*.jpg")))
    after = {p.name: p.read_bytes() for p in index.iterdir()}
    # SQLite's readers may leave their (empty) marks beside the database; it itself is untouched.
    assert {name: after[name] for name in before} == before
    assert all(name.endswith(("-wal", "-shm")) for name in set(after) - set(before))
    assert all(len(after[name]) == 0 for name in after if name.endswith("-wal"))
