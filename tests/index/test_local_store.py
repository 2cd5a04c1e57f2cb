"""The index of local descriptors finds what brute force finds, follows the catalogue, survives damage;
votes are those that plain loops count."""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from index.vectors import files, local_store
from index.vectors.base import NEIGHBORS, Neighbors
from index.vectors.local_store import LocalFaissStore
from index.vectors.local_train import choose_factory
from index.vectors.row_map import RowMap
from index.vectors.tuning import TARGET_RECALL
from index.vectors.voting import VotingRule, vote
from locate.errors import DatabaseCorruptError, DatabaseError, InputError

DIM = 16
LISTS = "IVF64,PQ8"


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Source:
    """Descriptors by image id, as a catalogue holds them."""

    def __init__(self, images, generation=1):
        self.images = dict(sorted(images.items()))
        self.generation = generation
        self.asked = []

    def feature_counts(self):
        counts = [len(d) for d in self.images.values()]
        return np.array([*self.images], np.int64), np.array(counts, np.int64)

    def descriptors(self, ids):
        for start in range(0, len(ids), 7):
            part = [int(i) for i in ids[start : start + 7] if int(i) in self.images]
            self.asked += part
            matrices = [self.images[i] for i in part]
            if part:
                yield np.array(part), np.array([len(m) for m in matrices]), np.concatenate(matrices)

    def changed(self, gone=(), new=None):
        left = {i: d for i, d in self.images.items() if i not in gone}
        return Source(left | (new or {}), self.generation + 1)

    def flat(self):
        """(image id, descriptor) of all rows."""
        owners = [i for i, d in self.images.items() for _ in d]
        return np.array(owners), np.concatenate([*self.images.values()])


def clustered(images=300, seed=0, first_id=5):
    """Images of 5 to 40 descriptors around common centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(400, DIM))
    made = {}
    for n in range(images):
        count = rng.integers(5, 41)
        noise = 0.35 * rng.normal(size=(count, DIM))
        made[first_id + 3 * n] = unit(centres[rng.integers(400, size=count)] + noise)
    return made


@pytest.fixture(scope="module")
def source():
    return Source(clustered())


@pytest.fixture(scope="module")
def built(source, tmp_path_factory):
    """Folders with the stored index of `source` by kind; not to be changed."""
    folders = {kind: tmp_path_factory.mktemp("built") for kind in ("Flat", LISTS)}
    for kind, folder in folders.items():
        LocalFaissStore(folder).build(source, factory=kind)
    return folders


@pytest.fixture(params=["memory", "flat", "ivf", "mapped"])
def store(request, source, built, monkeypatch):
    if request.param == "memory":
        return LocalFaissStore(Path()).in_memory(source)
    if request.param == "mapped":
        monkeypatch.setattr(local_store, "MMAP_BYTES", 0)
    made = LocalFaissStore(built["Flat" if request.param == "flat" else LISTS]).load()
    assert made._mapped == (request.param == "mapped")
    return made


def queries(source, count=40):
    rng = np.random.default_rng(3)
    _, matrix = source.flat()
    chosen = matrix[rng.permutation(len(matrix))[:count]]
    return unit(chosen + 0.03 * rng.normal(size=chosen.shape))


def found_ids(store, near):
    positions = store.rows.positions(near.rows)
    return np.where(positions < 0, -1, store.rows.image_ids[positions])


def test_search_contract(store, source):
    """What holds for every kind; owners and similarities are checked against the plain matrix."""
    owners, matrix = source.flat()
    asked = queries(source)
    near = store.search(asked, 20)
    assert near.rows.shape == near.similarities.shape == (40, 20)
    assert np.all(np.diff(near.similarities, axis=1) <= 1e-6)
    truth = np.argsort(-(asked @ matrix.T), axis=1, kind="stable")[:, :20]
    hits = np.any(near.rows == truth[:, :1], axis=1)
    assert hits.mean() >= (1 if store.info.factory == "Flat" else 0.9)
    right = near.rows[:, 0] == truth[:, 0]
    np.testing.assert_array_equal(found_ids(store, near)[right, 0], owners[truth[right, 0]])
    if store.info.factory == "Flat":
        np.testing.assert_array_equal(near.rows, truth)
        want = np.take_along_axis(asked @ matrix.T, truth, axis=1)
        np.testing.assert_allclose(near.similarities, want, atol=1e-6)
    else:
        shared = [len(set(a) & set(b)) / 20 for a, b in zip(near.rows, truth, strict=True)]
        assert np.mean(shared) > 0.6
    assert store.search(asked[:0]).rows.shape == (0, 0)
    assert store.search(asked, 10**6).rows.shape == (40, len(matrix))
    half = store.search(asked.astype(np.float16), 20)
    assert np.mean(half.rows == near.rows) > 0.9


def test_images_that_are_left_out_do_not_crowd_others_out(store, source):
    """Their neighbours are not filtered afterwards: the K nearest of the others are found."""
    owners, matrix = source.flat()
    asked = queries(source)
    gone = set(owners[(asked @ matrix.T).argmax(axis=1)].tolist())
    assert len(gone) > 20
    near = store.search(asked, 5, gone)
    ids = found_ids(store, near)
    assert not set(ids.ravel().tolist()) & gone
    assert np.all(ids >= 0)
    if store.info.factory == "Flat":
        similar = asked @ matrix.T
        similar[:, np.isin(owners, [*gone])] = -2
        np.testing.assert_array_equal(near.rows, np.argsort(-similar, axis=1, kind="stable")[:, :5])
    everything = store.search(asked, 5, source.images)
    assert np.all(everything.rows == -1)
    assert len(vote(everything, store.rows)) == 0


def test_a_kind_for_every_size_and_length():
    assert choose_factory(65_536, 128) == "Flat"
    assert choose_factory(65_537, 128) == "IVF1024,PQ32"
    assert choose_factory(700_000, 128) == "IVF4096,PQ32"
    assert choose_factory(700_000, 40) == "IVF4096,PQ20"
    assert choose_factory(700_000, 512) == "IVF4096,PQ64"
    assert choose_factory(700_000, 97) == "IVF4096,SQ8"  # a prime number cannot be divided
    for dim in range(8, 1100):
        kind = choose_factory(10**6, dim).partition(",PQ")[2]
        assert not kind or dim % int(kind) == 0


def test_recall_is_that_of_the_true_nearest(built, source):
    store = LocalFaissStore(built[LISTS]).load()
    info = store.info
    assert TARGET_RECALL <= info.recall <= 1
    _, matrix = source.flat()
    chosen = np.arange(7, len(matrix), 11)  # independent of the module's own sampling
    similar = matrix[chosen] @ matrix.T
    similar[np.arange(len(chosen)), chosen] = -2
    found = store.search(matrix[chosen], NEIGHBORS).rows
    recall = np.mean(np.any(found == similar.argmax(axis=1)[:, None], axis=1))
    assert recall == pytest.approx(info.recall, abs=0.04)


@pytest.mark.parametrize("factory", ["Flat", LISTS])
@pytest.mark.parametrize("in_place", [False, True])
def test_bringing_up_to_date_is_as_good_as_building_anew(source, built, factory, in_place):
    old = LocalFaissStore(built[factory]).load()
    before = old.search(queries(source), 10)
    gone = [*source.images][::-5]
    later = source.changed(gone, clustered(40, seed=1, first_id=10_001))
    later.asked.clear()
    new = old.updated(later, in_place=in_place)
    assert set(later.asked) == {i for i in later.images if i > 10_000}  # nothing else is read
    assert (new.info.generation, new.info.images) == (2, len(later.images))
    assert new.info.count == new._index.ntotal == len(later.flat()[1])
    asked = queries(later)
    ids = found_ids(new, new.search(asked, 10))
    assert not set(ids.ravel().tolist()) & set(gone)
    if factory == "Flat":
        fresh = LocalFaissStore(Path()).in_memory(later)
        near, want = new.search(asked, 10), fresh.search(asked, 10)
        np.testing.assert_array_equal(ids, found_ids(fresh, want))
        np.testing.assert_allclose(near.similarities, want.similarities, atol=1e-6)
    owners, matrix = later.flat()
    truth = owners[(asked @ matrix.T).argmax(axis=1)]
    assert np.any(truth > 10_000)
    assert np.any(ids == truth[:, None], axis=1).mean() >= 0.9
    if not in_place:
        again = old.search(queries(source), 10)
        np.testing.assert_array_equal(again.rows, before.rows)


def test_the_stored_index_is_continued_until_its_lists_do_not_fit(source, tmp_path, monkeypatch):
    """Small: exact. Larger: lists, kept while the collection stays within a factor of two."""
    monkeypatch.setattr(
        local_store, "choose_factory", lambda count, _dim: "IVF32,SQ8" if count > 3000 else "Flat"
    )
    assert LocalFaissStore(tmp_path).build(Source({5: source.images[5]})).factory == "Flat"
    info = LocalFaissStore(tmp_path).build(source.changed(), LocalFaissStore(tmp_path).load())
    assert info.factory.startswith("IVF")
    assert info.trained_count == info.count
    more = source.changed(new=clustered(100, seed=1, first_id=10_001))
    grown = LocalFaissStore(tmp_path).build(more, LocalFaissStore(tmp_path).load())
    assert (grown.trained_count, grown.images) == (info.count, 400)
    much = more.changed(new=clustered(500, seed=2, first_id=20_001))
    trained = LocalFaissStore(tmp_path).build(much, LocalFaissStore(tmp_path).load())
    assert trained.trained_count == trained.count > 2 * info.count
    # Shrunk to less than half: trained anew as well.
    few = much.changed(gone=[i for i in much.images if i > 10_000])
    assert (
        LocalFaissStore(tmp_path).build(few, LocalFaissStore(tmp_path).load()).trained_count
        == info.count
    )


def test_a_mapped_index_is_not_changed(source, built, monkeypatch):
    monkeypatch.setattr(local_store, "MMAP_BYTES", 0)
    later = source.changed(new=clustered(3, seed=1, first_id=10_001))
    assert LocalFaissStore(built[LISTS]).load().updated(later) is None
    assert LocalFaissStore(built[LISTS]).load(to_change=True).updated(later).info.images == 303


def test_missing_and_damaged_files_are_not_loaded(source, tmp_path):
    assert LocalFaissStore(tmp_path).load() is None
    info = LocalFaissStore(tmp_path).build(source)
    for name in (info.file, info.rows_file):
        whole = (tmp_path / name).read_bytes()
        for bad in (whole[: len(whole) // 2], whole[:-4] + b"\1\2\3\4", b""):
            (tmp_path / name).write_bytes(bad)
            assert LocalFaissStore(tmp_path).load() is None
        (tmp_path / name).unlink()
        assert LocalFaissStore(tmp_path).load() is None
        (tmp_path / name).write_bytes(whole)
        assert LocalFaissStore(tmp_path).load() is not None
    (tmp_path / "local.json").write_text("[]")
    assert LocalFaissStore(tmp_path).read_record() is None
    assert LocalFaissStore(tmp_path).load() is None


def test_stopping_at_any_instant_leaves_the_old_index_or_the_new_one(source, tmp_path, monkeypatch):
    """Each step that touches the disk fails in turn, in a build of the same generation too."""
    later = source.changed(gone=[*source.images][:3])
    for target, start in ((later, None), (Source(later.images, 1), None)):
        for failing in range(20):
            folder = tmp_path / f"{id(target)}-{failing}"
            folder.mkdir()
            LocalFaissStore(folder).build(source)
            steps = iter(range(100))

            def step(original, *args, failing=failing, steps=steps, **options):
                if next(steps) == failing:
                    raise OSError(28, "No space left on device")
                return original(*args, **options)

            with monkeypatch.context() as patch:
                for owner, name in (
                    (os, "fsync"), (Path, "replace"), (Path, "write_text"),
                    (files, "sha256_of"),
                ):  # fmt: skip
                    original = getattr(owner, name)
                    patch.setattr(owner, name, lambda *a, o=original, **k: step(o, *a, **k))
                done = False
                with contextlib.suppress(DatabaseError):
                    LocalFaissStore(folder).build(target, start)
                    done = True
            stored = LocalFaissStore(folder).load()
            # The last step syncs the folder: the new record is in its place already.
            images = len(target.images) if failing >= 11 else len(source.images)
            assert stored is not None, f"step {failing}"
            assert stored.info.images == images, f"step {failing}"
            assert not list(folder.glob("*.writing"))
            if done:
                break
        # Two files hashed, synced, renamed; the record written, synced, renamed; the folder synced
        # after each.
        assert failing == 12


def test_rebuilding_leaves_three_files(source, tmp_path):
    (tmp_path / "local-00000009.faiss.writing").touch()  # left by a killed process
    for images in (source, source.changed(), source.changed(), source):
        LocalFaissStore(tmp_path).build(images)
    assert len(list(tmp_path.iterdir())) == 3
    assert LocalFaissStore(tmp_path).load() is not None
    assert LocalFaissStore(tmp_path).build(Source({})) is None
    assert list(tmp_path.iterdir()) == []


def test_descriptors_of_different_length_are_refused(source, tmp_path):
    wrong = source.changed(new={i: unit(np.ones((3, 5))) for i in range(10_001, 10_015)})
    wrong.images = dict([*wrong.images.items()][-21:])  # chunks of seven: of one kind each
    with pytest.raises(DatabaseCorruptError, match="differ in length"):
        LocalFaissStore(Path()).in_memory(wrong)


# --- rows and votes


def test_rows_belong_to_their_images():
    rows = RowMap.empty().extended([7, 3, 9], [2, 5, 1], 0)
    owners = [7, 7, 3, 3, 3, 3, 3, 9]
    assert rows.image_ids[rows.positions(np.arange(8))].tolist() == owners
    assert rows.positions(np.array([[-1, 0], [7, -1]])).tolist() == [[-1, 0], [2, -1]]
    assert rows.rows_of(np.array([9, 7, 55])).tolist() == [0, 1, 7]
    assert rows.rows_of(np.array([3])).tolist() == [2, 3, 4, 5, 6]
    later = rows.without([3]).extended([20], [3], rows.end)
    assert later.rows_of(np.array([20])).tolist() == [8, 9, 10]
    assert later.image_ids[later.positions(np.array([0, 1, 7, 8, 10]))].tolist() == [
        7,
        7,
        9,
        20,
        20,
    ]
    assert later.end == 11
    assert RowMap.empty().end == 0
    for wrong in ([0, 1, 6], [2, 1, 9]):
        with pytest.raises(DatabaseCorruptError, match="overlap"):
            RowMap(rows.image_ids, np.array(wrong), rows.counts)


def votes_by_loops(near, rows, rule):
    """The rule in words: all votes sorted by weight; each is counted if nobody stands in its way."""
    offers = []
    for q, (ids, similar) in enumerate(zip(near.rows, near.similarities, strict=True)):
        there = [float(s) for i, s in zip(ids, similar, strict=True) if i >= 0]
        last = min(there) if len(there) > 1 else 0.0
        for row, s in zip(ids, similar, strict=True):
            if row >= 0:
                weight = {"count": 1.0, "similarity": max(s, 0), "margin": max(s - last, 0)}
                image = next(n for n in range(len(rows)) if row < rows.first[n] + rows.counts[n])
                offers.append((float(weight[rule.weight]), q, image, int(row)))
    if rule.once:
        by_image, by_row = {}, {}
        for offer in offers:
            key = offer[1:3]
            if key not in by_image or offer[0] > by_image[key][0]:
                by_image[key] = offer
        for offer in by_image.values():
            if offer[3] not in by_row or offer[0] > by_row[offer[3]][0]:
                by_row[offer[3]] = offer
        offers = [*by_row.values()]
    total = defaultdict(float)
    for weight, _, image, _ in offers:
        total[int(rows.image_ids[image])] += weight / float(rows.counts[image]) ** rule.length
    return {image: value for image, value in total.items() if value > 0}


@pytest.mark.parametrize("weight", ["count", "similarity", "margin"])
@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("length", [0.0, 0.75])
def test_votes_are_those_that_loops_count(weight, once, length):
    rng = np.random.default_rng(0)
    rows = RowMap.empty().extended(np.arange(30) * 2 + 1, rng.integers(1, 15, 30), 0)
    similar = -np.sort(-rng.uniform(-0.2, 1, (25, 12)), axis=1).astype(np.float32)
    chosen = np.stack([rng.permutation(rows.end)[:12] for _ in range(25)])
    chosen[3, 5:], similar[3, 5:] = -1, -np.inf
    chosen[4, 1:], similar[4, 1:] = -1, -np.inf
    chosen[5], similar[5] = -1, -np.inf
    near, rule = Neighbors(chosen, similar), VotingRule(weight, once, length)
    got = vote(near, rows, rule)
    want = votes_by_loops(near, rows, rule)
    assert got.scores == tuple(sorted(got.scores, reverse=True))
    assert dict(zip(got.image_ids, got.scores, strict=True)) == pytest.approx(want, abs=1e-6)


def test_a_repeated_structure_does_not_outvote_a_place():
    """Fifty windows of the query all resemble one window of image 1; five corners match image 2."""
    rows = RowMap.empty().extended([1, 2], [60, 60], 0)
    near = np.array([[0, 1, 119]] * 50 + [[60 + i, 0, 119] for i in range(5)])
    similar = np.array([[0.9, 0.85, 0.5]] * 50 + [[0.9, 0.6, 0.5]] * 5, np.float32)
    plain = vote(Neighbors(near, similar), rows, VotingRule("count", False, 0.0))
    assert plain.image_ids[0] == 1
    assert vote(Neighbors(near, similar), rows).image_ids[0] == 2


def test_an_unknown_weight_is_refused():
    with pytest.raises(InputError, match="must be count, similarity or margin, got 'rank'"):
        VotingRule("rank")
