"""Every vector store finds what brute force finds; derived files are complete or ignored."""

from __future__ import annotations

import json

import numpy as np
import pytest

from index.vectors import faiss_store, tuning
from index.vectors.faiss_store import RECORD, build, choose_factory, in_memory, load, read_record


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(n, dim=32, clusters=50, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim))
    return unit(centres[rng.integers(clusters, size=n)] + 0.35 * rng.normal(size=(n, dim)))


def source_of(vectors, ids=None, chunk=700):
    ids = np.arange(len(vectors)) * 3 + 5 if ids is None else ids

    def source():
        for i in range(0, len(vectors), chunk):
            yield ids[i : i + chunk].astype(np.int64), vectors[i : i + chunk]

    return source


def brute_force(vectors, ids, query, k):
    similarity = vectors @ query
    order = np.argsort(-similarity, kind="stable")[:k]
    return ids[order].tolist(), similarity[order]


@pytest.fixture(params=["memory", "file", "ivf"])
def store(request, tmp_path):
    vectors = clustered(4000)
    if request.param == "memory":
        return vectors, in_memory(source_of(vectors), 1)
    factory = "IVF64,SQ8" if request.param == "ivf" else None
    build(tmp_path, source_of(vectors), 7, factory)
    return vectors, load(tmp_path, 7, verify=True)


def test_store_contract(store):
    """What holds for every implementation."""
    vectors, made = store
    ids = np.arange(len(vectors)) * 3 + 5
    assert made.info.count == len(vectors)
    assert sorted(made.ids().tolist()) == ids.tolist()
    hits = total = 0
    rng = np.random.default_rng(1)
    for query in unit(vectors[::200] + 0.05 * rng.normal(size=(20, 32))):
        want, similarity = brute_force(vectors, ids, query, 10)
        got = made.search(query, 10)
        hits += len(set(want) & set(got.image_ids))
        total += 10
        assert list(got.similarities) == sorted(got.similarities, reverse=True)
        if made.info.factory == "Flat":
            assert list(got.image_ids) == want
            np.testing.assert_allclose(got.similarities, similarity, atol=1e-6)
    assert hits / total >= (1.0 if made.info.factory == "Flat" else 0.9)
    found = made.search(vectors[17], 3)
    assert found.image_ids[0] == ids[17]
    assert found.similarities[0] == pytest.approx(1.0, abs=0.01)
    assert len(made.search(vectors[0], 10**6)) <= len(vectors)
    assert len(made.search(vectors[0], 0)) == 0


def test_recall_is_measured_against_exact_search(tmp_path):
    vectors = clustered(6000)
    info = build(tmp_path, source_of(vectors), 1, "IVF128,SQ8")
    assert info.nprobe >= 1
    assert tuning.TARGET_RECALL <= info.recall_at_10 <= 1.0
    made = load(tmp_path, 1)
    ids = np.arange(len(vectors)) * 3 + 5
    recalls = []
    for i in range(0, 6000, 30):  # independent of the module's own sampling
        want = set(brute_force(vectors, ids, vectors[i], 10)[0]) - {ids[i]}
        recalls.append(len(want & set(made.search(vectors[i], 10).image_ids)) / len(want))
    assert np.mean(recalls) == pytest.approx(info.recall_at_10, abs=0.05)


def test_graphics_cards_are_used_when_there_are_any(tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr(faiss_store.faiss, "get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr(
        faiss_store.faiss,
        "index_cpu_to_all_gpus",
        lambda index: moved.append(index) or index,
        raising=False,
    )
    vectors = clustered(100)
    build(tmp_path, source_of(vectors), 1)
    assert load(tmp_path, 1).search(vectors[3], 1).image_ids == (14,)
    assert len(moved) == 1
    monkeypatch.setattr(faiss_store.faiss, "get_num_gpus", lambda: 0, raising=False)
    load(tmp_path, 1)
    assert len(moved) == 1


def test_exact_until_it_is_slow():
    assert choose_factory(100_000, 512) == "Flat"
    assert choose_factory(1_000_000, 512) == "IVF4096,SQ8"


def test_stale_missing_and_damaged_files_are_not_loaded(tmp_path):
    vectors = clustered(300)
    assert load(tmp_path, 1) is None
    info = build(tmp_path, source_of(vectors), 1)
    assert load(tmp_path, 1) is not None
    assert load(tmp_path, 2) is None  # the catalogue has moved on
    file = tmp_path / info.file
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert load(tmp_path, 1) is None
    file.write_bytes(whole[:-5] + b"\0\1\2\3\4")
    assert load(tmp_path, 1, verify=True) is None
    file.write_bytes(whole)
    assert load(tmp_path, 1, verify=True) is not None
    (tmp_path / RECORD).write_text("{}")
    assert read_record(tmp_path) is None
    assert load(tmp_path, 1) is None


def test_a_count_that_does_not_fit_is_refused(tmp_path):
    build(tmp_path, source_of(clustered(300)), 1)
    record = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps(record | {"count": 299}))
    assert load(tmp_path, 1) is None


def test_rebuilding_leaves_one_file(tmp_path):
    for generation in (1, 2, 3):
        build(tmp_path, source_of(clustered(100 * generation)), generation)
    (tmp_path / "vectors-00000099.faiss.writing").touch()  # left by a killed process
    build(tmp_path, source_of(clustered(50)), 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vectors-00000004.faiss", RECORD]
    assert load(tmp_path, 4).info.count == 50
    assert load(tmp_path, 3) is None
