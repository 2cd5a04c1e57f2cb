"""Queries: the ranking rule, what can go wrong, and the whole on rendered and on real photos."""

from __future__ import annotations

import csv
import json
import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

import locate
from index.catalog import FILE, Catalog
from locate.errors import DatabaseMismatchError, DatabaseMissingError, ImageError, InputError
from locate.extractors import registry
from locate.metrics.common import average_precision
from locate.retrieval.ranking import rank_key
from locate.retrieval.verdict import MATCH, NO_MATCH, UNCERTAIN, UNVERIFIED
from locate.types import Candidate
from pipelines.town.town import make_town
from tests.helpers.fake_extractor import FakeExtractor


@pytest.fixture
def home(tmp_path, photo_factory, fake_extractor):
    """Three places, three photos each; those of one place differ by their brightness alone."""
    for landmark in range(3):
        for i in range(3):
            path = photo_factory(tmp_path / f"photos/place-{landmark}/{i}.png", seed=landmark)
            with Image.open(path) as image:
                brighter = image.point(lambda v, gain=1 + 0.1 * i: min(255, round(v * gain)))
            brighter.save(path)
    locate.build_index(tmp_path / "photos", tmp_path / ".locate", extractor=fake_extractor)
    return tmp_path


@pytest.fixture
def db(home):
    with locate.open(home / ".locate") as db:
        yield db


class Sparing(FakeExtractor):
    """Leaves out what it is told to, and remembers what it was asked."""

    asked: ClassVar[list] = []

    def extract(self, pixels, size=None, *, local=True):
        seen = super().extract(pixels, size)
        self.asked.append((pixels.shape[:2], local))
        return seen if local else replace(seen, features=None)


def summary(answer):
    return [(c.image, c.verdict, c.inliers) for c in answer.candidates]


def test_an_answer_from_end_to_end(db, home):
    answer = db.query(home / "photos/place-1/0.png", top=5)
    assert (answer.verdict, answer.label, answer.rotation) == (MATCH, "place-1", 0)
    assert [c.rank for c in answer.candidates] == [1, 2, 3, 4, 5]
    assert {c.label for c in answer.candidates[:3]} == {"place-1"}
    best = answer.best
    assert best.image == "place-1/0.png"
    assert best.path.samefile(home / "photos/place-1/0.png")
    assert best.similarity == pytest.approx(1, abs=1e-5)
    assert best.inliers == best.verification.inliers.sum() > 30
    np.testing.assert_array_equal(best.verification.query_points, best.verification.database_points)
    assert str(best.inliers) in answer.reason
    assert {"decode", "extract", "search", "read", "match and verify", "total"} <= set(
        answer.seconds
    )


def test_what_is_not_proven_is_ranked_with_the_proven_matches(db, home):
    """Average query expansion, computed again from the stored vectors."""
    answer = db.query(home / "photos/place-1/0.png")
    proven = [c for c in answer.candidates if c.verdict == MATCH]
    rest = [c for c in answer.candidates if c.verdict == NO_MATCH]
    assert len(proven) == 3
    assert len(rest) == 6
    with Catalog.open(home / ".locate") as catalog:
        vectors = {
            c.image_id: catalog.extraction(c.image_id).global_descriptor for c in answer.candidates
        }
    query = vectors[answer.best.image_id]  # the photo itself is in the index
    expanded = query + sum(vectors[c.image_id] for c in proven)
    want = sorted(rest, key=lambda c: -float(vectors[c.image_id] @ expanded))
    assert [c.image for c in rest] == [c.image for c in want]
    for c in rest:  # what is shown is the similarity to the query itself
        assert c.similarity == pytest.approx(float(vectors[c.image_id] @ query), abs=1e-5)


def test_images_that_look_like_the_matches_join(db, home):
    """With a shortlist of one, the other photos of the place come by expansion alone."""
    answer = db.query(home / "photos/place-1/0.png", shortlist=1, top=3)
    assert [c.verdict for c in answer.candidates] == [MATCH, UNVERIFIED, UNVERIFIED]
    assert {c.label for c in answer.candidates} == {"place-1"}


def test_an_unknown_place_is_no_match_and_says_why(db, home, photo_factory):
    answer = db.query(photo_factory(home / "foreign.jpg", seed=42))
    assert (answer.verdict, answer.label) == (NO_MATCH, None)
    assert "prove a match" in answer.reason
    dark = db.query(np.zeros((200, 300, 3), np.uint8))
    assert dark.verdict == NO_MATCH


def test_pixels_and_files_give_the_same(db, home):
    path = home / "photos/place-2/1.png"
    from_pixels = db.query(locate.read_photo(path).pixels)
    assert from_pixels.photo is None
    assert summary(from_pixels) == summary(db.query(path))


def test_options(db, home):
    photo = home / "photos/place-0/0.png"
    assert len(db.query(photo, top=2).candidates) == 2
    assert len(db.query(photo, top=100).candidates) == 9
    plain = db.query(photo, verify=False)
    assert plain.verdict == UNVERIFIED
    assert {c.verdict for c in plain.candidates} == {UNVERIFIED}
    similarities = [c.similarity for c in plain.candidates]
    assert similarities == sorted(similarities, reverse=True)
    few = db.query(photo, shortlist=2)
    assert sum(c.inliers is not None for c in few.candidates) == 2
    without = db.query(photo, exclude=lambda row: row.label == "place-0")
    assert without.verdict != MATCH
    assert {c.label for c in without.candidates} == {"place-1", "place-2"}
    for wrong in ({"top": 0}, {"shortlist": 0}):
        with pytest.raises(InputError, match="must be at least 1"):
            db.query(photo, **wrong)


def test_many_photos_in_their_order_with_errors_in_place(db, home):
    bad = home / "bad.jpg"
    bad.write_text("hello")
    photos = [home / f"photos/place-{i}/0.png" for i in range(3)] * 4
    photos.insert(5, bad)
    results = list(db.query_many(photos))
    assert len(results) == 13
    assert isinstance(results[5], ImageError)
    for photo, result in zip(photos, results, strict=True):
        if photo is not bad:
            assert summary(result) == summary(db.query(photo))


def test_threads_may_share_a_database(db, home):
    photos = [home / f"photos/place-{i % 3}/{i % 2}.png" for i in range(12)]
    want = [summary(db.query(photo)) for photo in photos]
    with ThreadPoolExecutor(4) as pool:
        assert [summary(a) for a in pool.map(db.query, photos)] == want


def test_a_missing_search_index_only_costs_time(home):
    with locate.open(home / ".locate") as db:
        want = summary(db.query(home / "photos/place-0/0.png"))
    (home / ".locate/vectors.json").unlink()
    with locate.open(home / ".locate") as db:
        assert summary(db.query(home / "photos/place-0/0.png")) == want
    assert not (home / ".locate/vectors.json").exists()


def test_a_damaged_candidate_does_not_spoil_the_rest(home, caplog):
    connection = sqlite3.connect(home / ".locate" / FILE)
    with connection:
        connection.execute("UPDATE features SET scores = x'00' WHERE image_id = 1")
    connection.close()
    with locate.open(home / ".locate") as db, caplog.at_level(logging.WARNING, "locate"):
        answer = db.query(home / "photos/place-0/0.png")
    assert "place-0/0.png are damaged" in caplog.text
    assert (answer.verdict, answer.best.image) == (MATCH, "place-0/1.png")
    damaged = next(c for c in answer.candidates if c.image == "place-0/0.png")
    assert damaged.verdict == UNVERIFIED


def test_an_empty_or_missing_database(tmp_path, fake_extractor):
    with pytest.raises(DatabaseMissingError, match="locate build-index"):
        locate.open(tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    locate.build_index(tmp_path / "photos", tmp_path / ".locate", extractor=fake_extractor)
    with pytest.raises(DatabaseMissingError, match="holds no images yet"):
        locate.open(tmp_path / ".locate")


def test_a_loaded_extractor_is_used_if_it_is_the_right_one(home, monkeypatch):
    right = locate.create_extractor("fake")
    monkeypatch.setattr(
        "pipelines.retrieval.database.load_extractor", None
    )  # would be called otherwise
    with locate.Database(home / ".locate", extractor=right) as db:
        assert db.query(home / "photos/place-1/0.png").label == "place-1"
    with pytest.raises(DatabaseMismatchError, match="leave the extractor out"):
        locate.Database(home / ".locate", extractor=locate.create_extractor("sift"))


@pytest.mark.parametrize("shape", [(20, 300, 3), (200, 300), (200, 300, 4)])
def test_pixels_that_are_no_photo(db, shape):
    with pytest.raises(InputError):
        db.query(np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match="uint8"):
        db.query(np.zeros((200, 300, 3), np.float32))


def test_an_extractor_without_a_global_descriptor_searches_by_local_features(
    tmp_path, photo_factory
):
    photo = photo_factory(tmp_path / "photos/a.jpg")
    with pytest.raises(InputError, match=r"sift gives no global descriptor.*gem\+steered"):
        locate.build_index(
            tmp_path / "photos", tmp_path / "refused", extractor="sift", search="global"
        )
    locate.build_index(tmp_path / "photos", tmp_path / ".locate", extractor="sift")
    with locate.open(tmp_path / ".locate") as db:
        assert db.search == "local"
        answer = db.query(photo)
        assert (answer.verdict, answer.best.image) == (MATCH, "a.jpg")
        assert answer.best.similarity is None
        assert answer.best.votes > 0
        with pytest.raises(InputError, match="sift gives no global descriptor"):
            db.query(photo, search="global")


def test_proof_comes_first_and_the_rest_keeps_its_order(tmp_path):
    """Inliers of unproven candidates are chance: they must not reorder what the search found."""

    def candidate(verdict, inliers, found_at):
        evidence = None if inliers is None else inliers - 8.0
        return Candidate(
            found_at, verdict, None, f"{found_at}", tmp_path, 0, 0.5, inliers, evidence
        )

    order = [
        candidate(MATCH, 90, 5),
        candidate(MATCH, 40, 1),
        candidate(UNCERTAIN, 12, 6),
        candidate(NO_MATCH, 3, 2),
        candidate(UNVERIFIED, None, 3),
        candidate(NO_MATCH, 9, 4),
    ]
    shuffled = [order[i] for i in (5, 2, 0, 4, 1, 3)]
    assert sorted(shuffled, key=rank_key) == order


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    folder = tmp_path_factory.mktemp("query-town")
    make_town(folder / "town", landmarks=3, views=3, size=(640, 480))
    report = locate.build_index(folder / "town/landmarks", folder / ".locate")
    assert (report.added, report.failed) == (9, [])
    return folder


@pytest.mark.slow
def test_the_town_with_the_default_extractor(town):
    truth = json.loads((town / "town/truth.json").read_text())
    queries = [i for i in truth["images"] if i["file"].startswith("queries/")]
    assert any(q["landmark"] is None for q in queries)
    with locate.open(town / ".locate") as db:
        for query in queries:
            answer = db.query(town / "town" / query["file"])
            if query["landmark"] is None:
                assert answer.verdict != MATCH, query["file"]
            else:
                assert (answer.verdict, answer.label) == (MATCH, query["landmark"]), query["file"]


def test_turned_views_are_described_only_where_they_promise_more(home, monkeypatch):
    monkeypatch.setitem(registry.EXTRACTORS, "fake", Sparing)
    monkeypatch.setattr(Sparing, "asked", [])
    pixels = locate.read_photo(home / "photos/place-2/0.png").pixels
    with locate.open(home / ".locate") as db:
        assert db.query(pixels).verdict == MATCH
        assert [local for _, local in Sparing.asked] == [True]
        Sparing.asked.clear()
        turned = db.query(np.ascontiguousarray(np.rot90(pixels, -1)))
        assert (turned.verdict, turned.label, turned.rotation) == (MATCH, "place-2", 90)
        best = turned.best.verification
        np.testing.assert_allclose(
            best.query_points,
            np.stack(
                (pixels.shape[0] - 1 - best.database_points[:, 1], best.database_points[:, 0]), 1
            ),
            atol=0.51,
        )
        # Upright; by their global descriptors three more; the best of them in full.
        sides = (pixels.shape[:2][::-1], pixels.shape[:2])
        assert [local for _, local in Sparing.asked] == [True, False, False, False, True]
        assert [shape for shape, _ in Sparing.asked] == [*sides, *sides, sides[1]]
        Sparing.asked.clear()
        assert db.query(np.full_like(pixels, 90)).verdict == NO_MATCH
        assert [local for _, local in Sparing.asked] == [True, False, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_photo_is_found(town, degrees):
    query = sorted((town / "town/queries").glob("[!e]*[!d].jpg"))[0]
    pixels = locate.read_photo(query).pixels
    with locate.open(town / ".locate") as db:
        upright = db.query(pixels)
        turned = db.query(np.ascontiguousarray(np.rot90(pixels, -degrees // 90)))
        assert (turned.verdict, turned.label) == (MATCH, upright.label)
        # Turned back, the matched points are those of the upright photo.
        if turned.rotation:
            assert turned.rotation == degrees
        inliers = turned.best.verification
        height, width = pixels.shape[:2]
        limits = (width, height) if degrees == 180 else (height, width)
        assert np.all(inliers.query_points > -1)
        assert np.all(inliers.query_points < np.array(limits))


@pytest.mark.slow
@pytest.mark.data
def test_real_photos_of_landmarks(data, tmp_path):
    """The promises on eval/retrieval as the folder is; benchmarks/tables/retrieval.py adds
    distractors."""
    folder = data / "eval/retrieval"
    with (folder / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        if row["split"] == "database":
            link = tmp_path / "photos" / row["landmark"] / row["image"].split("/")[-1]
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((folder / row["image"]).resolve())
    locate.build_index(tmp_path / "photos", tmp_path / ".locate")
    queries = [r for r in rows if r["split"] == "query" and r["kind"] == "web"]
    photos = [folder / r["image"] for r in queries]
    scores = {"before": [], "after": []}
    with locate.open(tmp_path / ".locate") as db:
        before = db.query_many(photos, top=len(db), verify=False)
        after = db.query_many(photos, top=len(db))
        absent = db.query_each(
            (photo, lambda row, gone=r["landmark"]: row.label == gone)
            for photo, r in zip(photos, queries, strict=True)
        )
        for row, *answers, foreign in zip(queries, before, after, absent, strict=True):
            for name, answer in zip(scores, answers, strict=True):
                right = [c.label == row["landmark"] for c in answer.candidates]
                assert right[0], (name, row["image"])  # R@1 = 1
                scores[name].append(average_precision(right))
            assert foreign.verdict != MATCH, (row["image"], foreign.best)
    assert np.mean(scores["before"]) >= 0.97
    assert np.mean(scores["after"]) >= np.mean(scores["before"])


def test_options_are_a_record_or_keywords(home):
    photo = home / "photos/place-2/0.png"
    with locate.open(home / ".locate") as db:
        options = locate.QueryOptions(top=2, verify=False)
        by_record, by_name = db.query(photo, options), db.query(photo, top=2, verify=False)
        assert len(by_record.candidates) == 2
        images = [c.image for c in by_name.candidates]
        assert [c.image for c in by_record.candidates] == images
        assert len(db.query(photo, options, top=1).candidates) == 1
        (many,) = db.query_many([photo], options)
        assert [c.image for c in many.candidates] == images
        with pytest.raises(TypeError, match="tops"):
            db.query(photo, tops=2)
    with pytest.raises(InputError, match="shortlist must be at least 1, got 0"):
        locate.QueryOptions(shortlist=0)
