"""Drawings of matches and the HTML report."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from locate.errors import ImageError
from locate.matching.evidence import evidence_of
from locate.types import Answer, Candidate, Photo, PhotoInfo, Verification
from pipelines.reports import answer_page, canvas, picture_io
from pipelines.reports import match_pictures as draw
from pipelines.reports.answer_page import write_report
from pipelines.reports.canvas import BAR_HEIGHT
from pipelines.reports.match_pictures import (
    draw_matches,
    position_colors,
    save_matches,
)

SIZE = (400, 300)
PLAIN = np.full((300, 400, 3), 90, np.uint8)
EVIL = "<script>alert('x')</script>"


def verification(query, database, inliers=None) -> Verification:
    query, database = np.asarray(query, np.float32), np.asarray(database, np.float32)
    m = len(query)
    return Verification(
        matches=np.stack((np.arange(m), np.arange(m)), axis=1).astype(np.int32),
        query_points=query.reshape(m, 2),
        database_points=database.reshape(m, 2),
        inliers=np.ones(m, np.bool_) if inliers is None else np.asarray(inliers, np.bool_),
        matrix=None,
        kind="none",
    )


def some_matches(count=120, seed=0) -> Verification:
    points = np.random.default_rng(seed).uniform((10, 10), (390, 290), (count, 2))
    return verification(points, points + 3)


def candidate(path: Path, rank=1, verdict="match", evidence=None, label=None) -> Candidate:
    return Candidate(
        rank=rank,
        verdict=verdict,
        label=label,
        image=path.name,
        path=path,
        image_id=rank,
        similarity=0.5,
        inliers=None if evidence is None else evidence.inlier_count,
        evidence=None if evidence is None else evidence_of(evidence),
        false_accept=None if evidence is None else 0.004,
        verification=evidence,
    )


def answer(
    photo: Path | None, candidates=(), verdict="match", reason="because", rotation=0
) -> Answer:
    return Answer(
        photo=photo,
        verdict=verdict,
        label=candidates[0].label if candidates else None,
        reason=reason,
        candidates=tuple(candidates),
        rotation=rotation,
        query_features=500,
        seconds={"decode": 0.01, "total": 0.02},
    )


def color_near(drawing, x, y, color, reach=0) -> bool:
    x, y = round(x), round(y)
    patch = drawing[y - reach : y + reach + 1, x - reach : x + reach + 1].astype(int)
    return bool((np.abs(patch - np.asarray(color)).max(axis=2) <= 8).any())


# Geometry


def test_dots_lie_on_their_points_at_full_size():
    """Both photos keep their size (400 x 300, upright), so points only move by the panel's corner."""
    query, database = [[37, 41], [311, 222], [90, 250]], [[60, 33], [350, 201], [120, 240]]
    evidence = verification(query, database)
    drawing = draw_matches(PLAIN, PLAIN, evidence)
    scale = 320 / 300  # small photos are drawn 320 pixels high
    left = 2 * int(SIZE[0] * scale) + 6
    offset = (drawing.shape[1] - left) // 2
    for color, q, d in zip(position_colors(evidence.query_points), query, database, strict=True):
        for (x, y), start in ((q, offset), (d, offset + int(SIZE[0] * scale) + 6)):
            at = (start + (x + 0.5) * scale - 0.5, BAR_HEIGHT + (y + 0.5) * scale - 0.5)
            assert color_near(drawing, *at, color)


def test_points_are_scaled_from_the_file_size_of_a_reduced_photo():
    """A photo decoded at 1/4: points stay in pixels of the file."""
    full, reduced = (3200, 2400), np.full((600, 800, 3), 90, np.uint8)
    photo = Photo(reduced, PhotoInfo(size=full))
    evidence = verification([[800, 600], [2400, 1800]], [[1600, 1200], [80, 80]])
    drawing = draw_matches(photo, photo, evidence)
    height = int((1600 - 6) / (2 * 4 / 3))
    width = int(height * 4 / 3)
    assert drawing.shape[0] == BAR_HEIGHT + height
    assert drawing.shape[1] <= 1600
    first, second = position_colors(evidence.query_points)
    assert color_near(drawing, width / 4, BAR_HEIGHT + height / 4, first)
    assert color_near(drawing, 3 * width / 4, BAR_HEIGHT + 3 * height / 4, second)
    assert color_near(drawing, width + 6 + width / 2, BAR_HEIGHT + height / 2, first)
    assert color_near(drawing, width + 6 + width / 40, BAR_HEIGHT + height / 30, second, reach=1)


def test_reduced_decoding_gives_the_same_places(tmp_path, photo_factory):
    """The candidate's JPEG is decoded at half size; its dots must not move."""
    path = photo_factory(tmp_path / "big.jpg", size=(3200, 400))
    evidence = verification([[30, 30], [200, 200]], [[1600, 100], [800, 300]])
    assert picture_io.read_picture(path).pixels.shape[1] == 1600
    drawing = draw.draw_candidate(PLAIN, candidate(path, evidence=evidence))
    height = drawing.shape[0] - BAR_HEIGHT
    left = int(height * 4 / 3) + 6
    width = int(height * 8)
    color = position_colors(evidence.query_points)
    assert color_near(drawing, left + width / 2, BAR_HEIGHT + height / 4, color[0])
    assert color_near(drawing, left + width / 4, BAR_HEIGHT + 3 * height / 4, color[1])


@pytest.mark.parametrize("reduction", [1, 4])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_turned_query_is_drawn_as_it_was_recognised(rotation, reduction):
    """A white block marks the place; its dot must sit on it however the query is turned, be it
    decoded at full size or at a fourth."""
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[240:280, 40:80] = 255
    query = Photo(pixels, PhotoInfo(size=(400 * reduction, 300 * reduction)))
    evidence = verification([[60 * reduction - 0.5, 260 * reduction - 0.5]], [[10, 10]])
    drawing = draw_matches(query, PLAIN, evidence, rotation=rotation)
    left_half = drawing[BAR_HEIGHT:, : drawing.shape[1] // 2].astype(int)
    white = np.argwhere(left_half.min(axis=2) > 250)
    block = white[np.abs(white - np.median(white, axis=0)).max(axis=1) < 40]
    y, x = (block.min(axis=0) + block.max(axis=0)) / 2
    color = position_colors(evidence.query_points)[0]
    assert color_near(drawing, x, y + BAR_HEIGHT, color, reach=1)


def test_lines_are_few_and_spread_but_every_inlier_is_a_dot():
    points = np.random.default_rng(1).uniform(0, 100, (1000, 4))
    chosen = canvas.spread_evenly(points, 60)
    assert len(set(chosen.tolist())) == 60
    gaps = np.linalg.norm(points[chosen][:, None] - points[chosen], axis=2) + 1e9 * np.eye(60)
    random = points[:60]
    random_gaps = np.linalg.norm(random[:, None] - random, axis=2) + 1e9 * np.eye(60)
    assert gaps.min() > 2 * random_gaps.min()
    assert canvas.spread_evenly(points[:5], 60).tolist() == [0, 1, 2, 3, 4]


def test_rejected_matches_are_gray_and_unjoined():
    evidence = verification([[200, 150]], [[200, 150]], inliers=[False])
    drawing = draw_matches(PLAIN, PLAIN, evidence)
    saturation = np.ptp(drawing[BAR_HEIGHT:].astype(int), axis=2)
    assert saturation.max() <= 8
    assert drawing[BAR_HEIGHT + 60 : -60].max() > 100  # but they are there


def test_points_outside_a_changed_photo_are_left_out():
    evidence = verification([[5000, 10], [10, 10]], [[10, 10], [-900, 10]])
    assert draw_matches(PLAIN, PLAIN, evidence).shape[2] == 3


@pytest.mark.parametrize(
    ("query", "database"),
    [
        ((4000, 40), (40, 4000)),
        ((32, 32), (32, 32)),
        ((5000, 33), (5000, 33)),
        ((33, 900), (33, 900)),
    ],
)
def test_strange_shapes_fit_the_width(query, database):
    photos = [np.zeros((h, w, 3), np.uint8) for w, h in (query, database)]
    drawing = draw_matches(*photos, some_matches())
    assert 640 <= drawing.shape[1] <= 1600
    assert drawing.shape[0] <= BAR_HEIGHT + 900


def test_a_drawing_does_not_change_its_input():
    pixels = PLAIN.copy()
    pixels.flags.writeable = False
    draw_matches(pixels, pixels, some_matches())


# Captions


@pytest.mark.parametrize(
    "evidence", [None, verification([], []), verification([[1, 1]], [[1, 1]], [0])]
)
def test_candidates_without_inliers_are_drawn_with_a_note(evidence, monkeypatch):
    notes = []
    monkeypatch.setattr(canvas, "draw_note", lambda drawing, text: notes.append(text))
    drawing = draw_matches(PLAIN, PLAIN, evidence, verdict="no match", image="a.jpg")
    assert drawing.dtype == np.uint8
    assert len(notes) == 1


def test_the_caption_is_colored_by_the_verdict():
    for verdict, color in canvas.VERDICT_COLORS.items():
        bar = draw_matches(PLAIN, PLAIN, None, verdict=verdict)[:BAR_HEIGHT]
        assert (bar == np.array(color, np.uint8)).all(axis=2).sum() > 500


@pytest.mark.parametrize(
    "text",
    ["Sacré-Cœur", "日本.jpg", "x" * 5000, "a\nb\t\u202e", "\udcff.jpg", "e\u0301", "👩‍👩‍👧", ""],
)
def test_any_name_can_be_drawn(text):
    draw_matches(PLAIN, PLAIN, some_matches(), label=text, image=text, verdict=text or "match")
    draw_matches(ImageError(text, text, "cure"), PLAIN, some_matches())


def test_what_the_font_lacks_is_replaced():
    shown = canvas.drawable("Sacré-Cœur ß \uff21 日", canvas.load_font(14))
    assert shown == "Sacré-Cœur ß A ?"


# Files


def test_save_matches_writes_the_verified_candidates(tmp_path, photo_factory):
    query = photo_factory(tmp_path / "photos" / "my photo.jpg")
    paths = [photo_factory(tmp_path / "db" / f"{n}.jpg", seed=n) for n in range(4)]
    found = [
        candidate(paths[0], 1, "match", some_matches()),
        candidate(paths[1], 2, "no match", some_matches()),
        candidate(paths[2], 3, "unverified"),
        candidate(paths[3], 4, "no match", some_matches()),
    ]
    out = tmp_path / "out" / "deep"
    written = save_matches(answer(query, found), out, 2)
    assert [p.name for p in written] == [
        "my_photo--01--match--0.jpg",
        "my_photo--02--no-match--1.jpg",
    ]
    assert sorted(out.iterdir()) == sorted(written)
    with Image.open(written[0]) as image:
        assert image.format == "JPEG"
    assert save_matches(answer(query, found), out, 0) == []


def test_names_do_not_collide_and_asking_again_replaces(tmp_path, photo_factory):
    queries = [photo_factory(tmp_path / folder / "q.jpg") for folder in ("a", "b")]
    found = [candidate(photo_factory(tmp_path / "db.jpg"), evidence=some_matches())]
    out = tmp_path / "out"
    first = save_matches(answer(queries[0], found), out, 9)
    second = save_matches(answer(queries[1], found), out, 9)
    assert [p.name for p in first + second] == ["q--01--match--db.jpg", "q--01--match--db-2.jpg"]
    assert save_matches(answer(queries[0], found), out, 9) == first
    assert save_matches(answer(queries[1], found), out, 9) == second
    assert len(list(out.iterdir())) == 2


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a--b", "a-b"),
        (EVIL, "_script_alert_x_script_"),
        ("Sacré 日本", "Sacré_日本"),
        ("e\u0301", "é"),
        ("\udcff", "_"),
        ("...", "unnamed"),
        ("日" * 200, "日" * 26),
    ],
)
def test_file_names_are_safe(name, safe):
    assert picture_io.safe_name(name) == safe


def test_missing_and_damaged_photos_become_panels(tmp_path, photo_factory):
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(photo_factory(tmp_path / "whole.jpg").read_bytes()[:2000])
    query = photo_factory(tmp_path / "q.jpg")
    found = [
        candidate(tmp_path / "gone.jpg", 1, evidence=some_matches()),
        candidate(damaged, 2, evidence=some_matches()),
    ]
    assert len(save_matches(answer(query, found), tmp_path / "out", 9)) == 2
    assert len(save_matches(answer(tmp_path / "q gone.jpg", found), tmp_path / "out", 9)) == 2
    write_report([answer(query, found)], tmp_path / "r.html")
    write_report([answer(tmp_path / "q gone.jpg", found)], tmp_path / "r.html")
    assert "does not exist" in (tmp_path / "r.html").read_text()


def test_pixels_in_memory(tmp_path, photo_factory):
    found = [candidate(photo_factory(tmp_path / "db.jpg"), evidence=some_matches())]
    out = tmp_path / "out"
    one = save_matches(answer(None, found), out, 9, query_pixels=PLAIN)
    other = save_matches(answer(None, found), out, 9, query_pixels=PLAIN + 1)
    none = save_matches(answer(None, found), out, 9)
    assert [p.name for p in one] == ["query--01--match--db.jpg"]
    assert len({*one, *other, *none}) == 3
    write_report([answer(None, found)], tmp_path / "r.html")


def test_a_failure_leaves_no_half_files(tmp_path, photo_factory, monkeypatch):
    found = [candidate(photo_factory(tmp_path / "db.jpg"), evidence=some_matches())]
    asked = answer(photo_factory(tmp_path / "q.jpg"), found)
    report, out = tmp_path / "page" / "r.html", tmp_path / "out"
    write_report([asked], report)
    drawings = save_matches(asked, out, 9)
    before = [report.read_bytes(), drawings[0].read_bytes()]

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(answer_page, "draw_candidate", interrupt)
    monkeypatch.setattr(picture_io, "encode_jpeg", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_report([asked], report)
    with pytest.raises(KeyboardInterrupt):
        save_matches(asked, out, 9)
    assert [report.read_bytes(), drawings[0].read_bytes()] == before
    assert list(report.parent.iterdir()) == [report]
    assert list(out.iterdir()) == drawings


# Report


def test_the_report_escapes_what_comes_from_outside(tmp_path, photo_factory):
    evil = '<img src=x onerror="alert(1)">'
    db = photo_factory(tmp_path / "db.jpg")
    odd = Candidate(1, "match", evil, f"{EVIL}.jpg", db, 1, 0.5, 120, 99.0, 0.001, some_matches())
    gone = Candidate(2, "no match", evil, EVIL, Path(f"/no/'{evil}"), 2, 0.5)
    asked = answer(Path(f"/no/{EVIL}'.jpg"), [odd, gone], reason=EVIL)
    write_report([asked], tmp_path / "r.html", title=EVIL, failed=[(EVIL, evil), ("\udcff", "bad")])
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;" in page
    # No attribute can be left early either: quotes of names are escaped.
    for quoted in re.findall(r"(?:title|alt)='([^']*)'", page):
        assert not set(quoted) & set("<>\"'")


def test_the_report_needs_nothing_else(tmp_path, photo_factory):
    query = photo_factory(tmp_path / "q.jpg")
    found = [
        candidate(photo_factory(tmp_path / f"{n}.jpg", seed=n), n, "match", some_matches(), "Tower")
        for n in range(1, 9)
    ]
    answers = [
        answer(query, found),
        answer(query, [candidate(query, 1, "uncertain", some_matches())], "uncertain"),
        answer(query, [], "no match"),
    ]
    write_report(answers, tmp_path / "r.html", failed=[("broken.jpg", "is empty")])
    page = (tmp_path / "r.html").read_text("utf-8")
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|<script|<link|@import|url\(", text)
    counts = dict(re.findall(r"id=show-([\w-]+)[^>]*><b>(\d+)</b>", page))
    assert counts == {"all": "4", "match": "1", "uncertain": "1", "no-match": "1", "failed": "1"}
    assert text.count("<div class=drawing>") == 5 + 1
    assert text.count("<figure>") == 3
    assert text.count("<details>") == text.count("</details>") == 1
    for encoded in re.findall(r"base64,([A-Za-z0-9+/=]+)", page):
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
            image.load()


def test_the_counts_choose_what_the_report_shows(tmp_path, photo_factory, open_page):
    query = photo_factory(tmp_path / "q.jpg")
    found = [candidate(query, n, "match", some_matches(), EVIL) for n in (1, 2)]
    lost = answer(query, [], "no match", EVIL)
    write_report([answer(query, found), lost, lost], tmp_path / "r.html", title=EVIL)
    page = open_page(tmp_path / "r.html")
    sections = page.locator("section.query")
    assert page.locator("h1").inner_text() == EVIL
    assert [section.is_visible() for section in sections.all()] == [True] * 3
    page.get_by_text("2 no match").click()
    assert [section.is_visible() for section in sections.all()] == [False, True, True]
    page.get_by_text("3 photos").click()
    assert page.locator(".drawing img").nth(1).is_hidden()
    page.get_by_text("1 more with evidence").click()
    drawings = page.locator(".drawing img")
    assert [drawing.is_visible() for drawing in drawings.all()] == [True, True]
    assert drawings.first.evaluate("image => image.complete && image.naturalWidth") > 600
    assert page.locator("input[disabled]").count() == 2  # no photo is uncertain, none failed


def test_without_a_match_the_nearest_candidate_is_drawn(tmp_path, photo_factory):
    paths = [photo_factory(tmp_path / f"{n}.jpg", seed=n) for n in range(3)]
    found = [
        candidate(paths[n], n + 1, "no match", some_matches(count))
        for n, count in enumerate((4, 9, 6))
    ]
    write_report([answer(paths[0], found, "no match")], tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text("utf-8")
    assert page.count("<div class=drawing>") == 1
    assert "alt='matches with 1.jpg'" in page


def test_an_empty_report(tmp_path):
    write_report([], tmp_path / "new" / "r.html")
    assert "<b>0</b> photos" in (tmp_path / "new" / "r.html").read_text()
