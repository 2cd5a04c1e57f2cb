"""Every vector store finds what brute force finds; derived files are complete or ignored."""

from __future__ import annotations

import json

import numpy as np
import pytest

from index.vectors import faiss_store, tuning
from index.vectors.faiss_store import RECORD, FaissStore, choose_factory
from index.vectors.stores import STORES, open_store
from locate.errors import InputError


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


@pytest.fixture(params=[*STORES])
def place(request, tmp_path):
    """A store of every kind that is registered."""
    return open_store(f"{request.param}://{tmp_path}")


@pytest.fixture(params=["memory", "stored", "IVF64,SQ8"])
def store(request, place):
    vectors = clustered(4000)
    if request.param == "memory":
        return vectors, place.vectors.in_memory(source_of(vectors), 1)
    factory = None if request.param == "stored" else request.param
    place.vectors.build(source_of(vectors), 7, factory)
    return vectors, place.vectors.load(7, verify=True)


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
        assert list(got.scores) == sorted(got.scores, reverse=True)
        if made.info.factory == "Flat":
            assert list(got.image_ids) == want
            np.testing.assert_allclose(got.scores, similarity, atol=1e-6)
    assert hits / total >= (1.0 if made.info.factory == "Flat" else 0.9)
    found = made.search(vectors[17], 3)
    assert found.image_ids[0] == ids[17]
    assert found.scores[0] == pytest.approx(1.0, abs=0.01)
    assert len(made.search(vectors[0], 10**6)) <= len(vectors)
    assert len(made.search(vectors[0], 0)) == 0


def test_a_store_keeps_one_index_of_the_catalogue_as_it_is(place):
    vectors, store = clustered(300), place.vectors
    assert (store.read_record(), store.load(1)) == (None, None)
    info = store.build(source_of(vectors), 1)
    assert store.read_record() == info == store.load(1).info
    assert (info.generation, info.count, info.dim) == (1, 300, 32)
    assert store.load(2) is None
    np.testing.assert_allclose(
        store.load(1).vectors_of(np.array([8, 5])), vectors[[1, 0]], atol=0.01
    )
    assert np.isnan(store.load(1).vectors_of(np.array([6]))).all()
    store.build(source_of(vectors[:20]), 2)
    assert store.load(1) is None
    assert store.load(2, verify=True).info.count == 20


def test_a_store_of_local_descriptors(place):
    """It follows a catalogue: here images of ten descriptors each, by id."""
    store, images = place.local, {i: clustered(10, seed=i) for i in range(1, 9)}

    class Source:
        generation = 1

        def feature_counts(self):
            return np.array([*images], np.int64), np.full(len(images), 10, np.int64)

        def descriptors(self, ids):
            for i in map(int, ids):
                yield np.array([i]), np.array([10]), images[i]

    def owners(index, asked, left_out=()):
        near = index.search(asked, 1, left_out)
        return index.rows.image_ids[index.rows.positions(near.rows)][:, 0].tolist()

    source = Source()
    assert owners(store.in_memory(source), images[3]) == [3] * 10
    assert (store.read_record(), store.load()) == (None, None)
    info = store.refresh(source)
    assert store.read_record() == info == store.refresh(source)
    assert (info.images, info.count, info.dim) == (8, 80, 32)
    index = store.load()
    assert owners(index, images[3]) == [3] * 10
    assert 3 not in owners(index, images[3], left_out=[3])
    np.testing.assert_allclose(index.vectors_of(index.rows.rows_of(np.array([5]))), images[5])
    del images[3]
    images[11] = clustered(10, seed=11)
    source.generation = 2
    changed = index.updated(source)
    assert owners(changed, images[11]) == [11] * 10
    assert 3 not in owners(changed, clustered(10, seed=3))
    assert store.refresh(source).generation == 2
    assert owners(store.load(), images[11]) == [11] * 10
    assert store.refresh(source, force=True).count == 80
    images.clear()
    source.generation = 3
    assert store.refresh(source) is None
    store.refresh(source, force=True)
    store.forget()
    assert store.load() is None


def test_stores_by_uri(tmp_path, monkeypatch):
    open_store(tmp_path).vectors.build(source_of(clustered(30)), 1)
    assert open_store(str(tmp_path)).vectors.load(1).info.count == 30
    with pytest.raises(
        InputError, match=r"no vector store is called moon .*known: faiss\. Install"
    ):
        open_store("moon://base")
    about = tmp_path / "site/lunar-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lunar\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[locate.stores]\nmoon = lunar:opened\n")
    (about.parent / "lunar.py").write_text("def opened(place):\n    return f'at {place}'\n")
    monkeypatch.syspath_prepend(about.parent)
    assert open_store("moon://base") == "at base"


def test_recall_is_measured_against_exact_search(tmp_path):
    vectors = clustered(6000)
    info = FaissStore(tmp_path).build(source_of(vectors), 1, "IVF128,SQ8")
    assert info.nprobe >= 1
    assert tuning.TARGET_RECALL <= info.recall_at_10 <= 1.0
    made = FaissStore(tmp_path).load(1)
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
    FaissStore(tmp_path).build(source_of(vectors), 1)
    assert FaissStore(tmp_path).load(1).search(vectors[3], 1).image_ids == (14,)
    assert len(moved) == 1
    monkeypatch.setattr(faiss_store.faiss, "get_num_gpus", lambda: 0, raising=False)
    FaissStore(tmp_path).load(1)
    assert len(moved) == 1


def test_exact_until_it_is_slow():
    assert choose_factory(100_000, 512) == "Flat"
    assert choose_factory(1_000_000, 512) == "IVF4096,SQ8"


def test_stale_missing_and_damaged_files_are_not_loaded(tmp_path):
    vectors = clustered(300)
    assert FaissStore(tmp_path).load(1) is None
    info = FaissStore(tmp_path).build(source_of(vectors), 1)
    assert FaissStore(tmp_path).load(1) is not None
    assert FaissStore(tmp_path).load(2) is None  # the catalogue has moved on
    file = tmp_path / info.file
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert FaissStore(tmp_path).load(1) is None
    file.write_bytes(whole[:-5] + b"\0\1\2\3\4")
    assert FaissStore(tmp_path).load(1, verify=True) is None
    file.write_bytes(whole)
    assert FaissStore(tmp_path).load(1, verify=True) is not None
    (tmp_path / RECORD).write_text("{}")
    assert FaissStore(tmp_path).read_record() is None
    assert FaissStore(tmp_path).load(1) is None


def test_a_count_that_does_not_fit_is_refused(tmp_path):
    FaissStore(tmp_path).build(source_of(clustered(300)), 1)
    record = json.loads((tmp_path / RECORD).read_text())
    (tmp_path / RECORD).write_text(json.dumps(record | {"count": 299}))
    assert FaissStore(tmp_path).load(1) is None


def test_rebuilding_leaves_one_file(tmp_path):
    for generation in (1, 2, 3):
        FaissStore(tmp_path).build(source_of(clustered(100 * generation)), generation)
    (tmp_path / "vectors-00000099.faiss.writing").touch()  # left by a killed process
    FaissStore(tmp_path).build(source_of(clustered(50)), 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["vectors-00000004.faiss", RECORD]
    assert FaissStore(tmp_path).load(4).info.count == 50
    assert FaissStore(tmp_path).load(3) is None
