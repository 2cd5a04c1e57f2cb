"""`evaluate retrieval` on collections of plain colours, whose every score is computed by hand."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from locate.datasets.oxford_paris import crop, read_oxford, read_revisited
from locate.datasets.records import GroundTruth, Query, RetrievalData
from locate.datasets.retrieval import read_retrieval
from locate.errors import ImageError, InputError, UnknownNameError
from locate.extractors import registry
from locate.extractors.base import ExtractorInfo
from locate.matching.evidence import chance_inliers
from locate.retrieval.verdict import MATCH, NO_MATCH
from locate.types import Extraction, Features
from pipelines.evaluation.rankings import evaluate_rankings
from pipelines.evaluation.retrieval import evaluate_retrieval
from pipelines.evaluation.retrieval_database import QueryResult
from pipelines.evaluation.retrieval_scores import OpenSetRun, eleven_points, open_set_curves

MAX_RED = 26


class Colour:
    """Looks at the mean colour, in steps of five: red is where the global descriptor lies on a quarter
    of a circle (so what is nearer in red is more similar), blue the place, and green how many local
    features are seen of it: four a step, the same and at the same spots in all photos of a place."""

    max_side = 200

    def __init__(self, local=True, global_=True):
        self.looked_at = 0
        self._local, self._global = local, global_
        self.info = ExtractorInfo(
            name="colour",  # the registry knows none of this name
            weights=None,
            settings={"local": local, "global": global_},
            global_dim=2 * global_,
            local_dim=64 * local,
            rotation_invariant=True,
        )

    def extract(self, pixels, size=None, *, local=True):
        self.looked_at += 1
        red, green, blue = np.rint(pixels.reshape(-1, 3).mean(axis=0) / 5) / 2
        angle = red / MAX_RED * np.pi / 2
        vector = np.array([np.cos(angle), np.sin(angle)], np.float32)
        rng = np.random.default_rng(int(blue))
        keypoints = (rng.random((100, 2)) * (600, 400)).astype(np.float32)
        descriptors = rng.normal(size=(100, 64)).astype(np.float32)
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        n = 4 * int(green)
        features = Features(
            keypoints[:n], np.linspace(1, 0, n, dtype=np.float32), descriptors[:n], (600, 400)
        )
        return Extraction(features if self._local else None, vector if self._global else None)


def paint(path, red, blue=0, green=0, size=(600, 400)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (round(10 * red), 10 * green, 10 * blue)).save(path)
    return path


def rows_of(report, table=0):
    """{the texts of a row: its numbers}"""
    rows = report.tables[table].rows
    return {
        tuple(v for v in row if isinstance(v, str)): [v for v in row if not isinstance(v, str)]
        for row in rows
    }


BEFORE, AFTER = ("c", "before verification"), ("c", "after verification")


@pytest.fixture
def labelled(tmp_path):
    """Two landmarks and a distractor, which is right for nobody; (red, blue, green)."""
    photos = {
        "a1": ("A", "database", "web", 5, 1, 2),
        "a2": ("A", "database", "web", 9, 2, 10),
        "b1": ("B", "database", "seq", 6, 5, 8),
        "b2": ("B", "database", "seq", 20, 3, 20),
        "n1": ("A", "distractor", "", 12, 2, 6),
        "qa": ("A", "query", "web", 5, 2, 10),
        "qb": ("B", "query", "seq", 8, 3, 20),
        "qc": ("A", "query", "web", 10, 5, 8),
    }
    lines = ["image,landmark,split,kind"]
    for name, (landmark, split, kind, *colour) in photos.items():
        paint(tmp_path / f"set/{name}.png", *colour)
        lines.append(f"{name}.png,{landmark},{split},{kind}")
    (tmp_path / "set/labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "set"


def test_labels_by_hand(labelled):
    report = evaluate_retrieval(labelled, {"c": Colour()})
    rows = rows_of(report)
    # By red: qa (5): a1 b1 a2 n1 b2; qc (10): a2 n1 b1 a1 b2; qb (8): a2 b1 a1 n1 b2.
    web = ((1 + 2 / 3) / 2 + (1 + 2 / 4) / 2) / 2
    seq = (1 / 2 + 2 / 5) / 2
    assert rows[(*BEFORE, "web")] == pytest.approx([2, web, 1, 1, 1, 1])
    assert rows[(*BEFORE, "seq")] == pytest.approx([1, seq, 0, 1, 1, 1])
    assert rows[(*BEFORE, "all")] == pytest.approx([3, (2 * web + seq) / 3, 2 / 3, 1, 1, 1])
    # Proven come first: a2 for qa, then n1, which is uncertain, then what is near in red to qa and
    # a2 together (7): b1 a1 b2. For qc b1, wrongly; then near 8: a2 a1 n1 b2. For qb b2, then near
    # 14: n1 a2 b1 a1.
    web = ((1 + 2 / 4) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    seq = (1 + 2 / 4) / 2
    assert rows[(*AFTER, "web")] == pytest.approx([2, web, 1 / 2, 1, 1, 1])
    assert rows[(*AFTER, "seq")] == pytest.approx([1, seq, 1, 1, 1, 1])
    assert "c is not calibrated" in report.notes[0]


def test_open_set_by_hand(labelled):
    report = evaluate_retrieval(labelled, {"c": Colour()})
    rows = rows_of(report, 1)
    # Known: qa 40 matches with a2, right; qb 80 with b2, right; qc 32 with b1, wrong. Absent: qa 24
    # with n1, which is no proof; qb none; qc again 32 with b1.
    wrong = 32 - chance_inliers(32)
    want = [3, 3, 2 / 3, 1 / 3, 1 / 3, 2 / 3, 0, wrong]
    assert rows["c", "all"] == pytest.approx(want)
    assert rows["c", "all"][-1] > wrong  # the least that is above it
    assert rows["c", "seq"][:5] == [1, 1, 1, 0, 0]
    assert rows["c", "web"][:5] == [2, 2, 1 / 2, 1 / 2, 1 / 2]
    assert "absent queries: 3, too few to show 1 %" in report.notes[-1]
    curve = next(c for c in report.curves if c.name == "open-set")
    accepted, right = curve.series["c"]
    assert accepted.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert right.tolist() == pytest.approx([2 / 3] * 4)


def test_a_query_of_an_unknown_place_is_absent_and_not_known(labelled):
    file = labelled / "labels.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line for line in lines if ",B,database" not in line))
    report = evaluate_retrieval(labelled, {"c": Colour()})
    assert rows_of(report, 1)["c", "all"][:3] == [2, 3, 1 / 2]  # qa; qc now finds no proof
    assert rows_of(report, 1)["c", "seq"][:2] == [0, 1]
    assert rows_of(report)[(*BEFORE, "seq")][0] == 0
    assert rows_of(report)[(*BEFORE, "all")][0] == 2


def test_open_set_curve_trades_false_accepts_for_answers():
    def result(evidence, strongest="x"):
        return QueryResult((), MATCH if evidence > 20 else NO_MATCH, strongest, evidence, 0.0)

    queries = tuple(
        Query(f"q{i}", truth={"": GroundTruth(frozenset("x"))}, landmarks=frozenset("X"))
        for i in range(4)
    )
    data = RetrievalData("labels", queries, {})
    known = {"q0": result(30), "q1": result(10), "q2": result(4), "q3": result(20, "wrong")}
    run = OpenSetRun("c", known, {"q0": result(15)}, [result(5), result(-math.inf, None)])
    x, y = open_set_curves(data, [run]).series["c"]
    assert x.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert y.tolist() == pytest.approx([1 / 4, 2 / 4, 3 / 4, 3 / 4])


def test_distractors_foreign_photos_and_kinds(labelled, tmp_path):
    paint(tmp_path / "more/sub/d.png", 7)
    paint(tmp_path / "negatives/like-b2.png", 1, 3, 8)
    paint(tmp_path / "negatives/new.png", 1, 9, 8)
    report = evaluate_retrieval(
        labelled,
        {"c": Colour()},
        distractors=[tmp_path / "more"],
        foreign=tmp_path / "negatives",
        kinds=["web"],
    )
    rows = rows_of(report)
    assert [key[2] for key in rows] == ["web", "web"]
    # qa: a1 b1 d a2 ...; qc: a2 n1 d b1 a1 ... (d before b1)
    assert rows[(*BEFORE, "web")][1] == pytest.approx(((1 + 2 / 4) / 2 + (1 + 2 / 5) / 2) / 2)
    open_set = rows_of(report, 1)["c", "web"]
    assert open_set[:2] == [2, 4]
    assert open_set[4] == pytest.approx(2 / 4)  # qc, and the stranger that looks like b2
    settings = report.settings
    assert settings["distractors"] == ["more"]
    assert (settings["foreign"], settings["foreign_count"]) == ("negatives", 2)
    with pytest.raises(InputError, match="that are in the database too: 1, such as"):
        evaluate_retrieval(
            labelled,
            {"c": Colour()},
            distractors=[tmp_path / "more"],
            foreign=tmp_path / "more",
        )
    with pytest.raises(UnknownNameError, match="unknown kind of query 'aerial'; known: seq, web"):
        evaluate_retrieval(labelled, {"c": Colour()}, kinds=["aerial"])


def test_the_seed_draws_the_foreign_photos(labelled, tmp_path):
    for number in range(12):
        paint(tmp_path / f"negatives/{number}.png", 1, 3, 2 * (number % 2) * 4)

    def false_matches(seed):
        report = evaluate_retrieval(
            labelled,
            {"c": Colour()},
            foreign=tmp_path / "negatives",
            foreign_count=4,
            seed=seed,
        )
        assert report.settings["foreign_count"] == 4
        return rows_of(report, 1)["c", "all"][4]

    drawn = [false_matches(seed) for seed in (0, 1, 2, 3, 0)]
    assert drawn[0] == drawn[4]
    assert len(set(drawn)) > 1


def test_the_same_twice(labelled):
    extractors = {"c": Colour(), "plain": Colour(local=False)}
    steps = []
    first, second = (
        evaluate_retrieval(
            labelled, extractors, seed=3, progress=lambda *step: steps.append(step)
        ).to_json()
        for _ in range(2)
    )
    total = 2 * 5 + 3 * 3 + 3  # photos of both; before, after and absent; before
    assert steps == [(i, total) for i in range(1, total + 1)] * 2
    assert first == second
    json.dumps(first, allow_nan=False)


def test_without_local_features_nothing_is_verified(labelled):
    report = evaluate_retrieval(labelled, {"c": Colour(), "plain": Colour(local=False)})
    rows = rows_of(report)
    for kind in ("seq", "web", "all"):
        assert rows["plain", BEFORE[1], kind] == rows[(*BEFORE, kind)]
        assert rows["plain", AFTER[1], kind][1:] == [None] * 5
        assert rows_of(report, 1)["plain", kind] == [None] * 8
    names = {name for curves in report.curves for name in curves.series}
    assert names == {
        "c, before verification",
        "c, after verification",
        "plain, before verification",
        "c",
    }
    with pytest.raises(InputError, match="colour gives no global descriptor"):
        evaluate_retrieval(labelled, {"c": Colour(global_=False)}, search="global")
    plain = evaluate_retrieval(labelled, {"c": Colour()}, verify=False)
    assert {key[1] for key in rows_of(plain)} == {"before verification"}
    assert len(plain.tables) == 1


def test_a_kept_database_is_used_again(labelled, tmp_path):
    work = tmp_path / "work"
    extractor = Colour()
    steps = []
    first = evaluate_retrieval(
        labelled, {"c": extractor}, verify=False, work=work, progress=lambda *s: steps.append(s)
    )
    assert extractor.looked_at == 8
    assert steps == [(i, 8) for i in range(1, 9)]
    again = evaluate_retrieval(labelled, {"c": extractor}, verify=False, work=work)
    assert extractor.looked_at == 8 + 3  # the queries alone
    assert again.to_json() == first.to_json()
    # A photo that changed, one that came and one that went.
    paint(labelled / "a1.png", 25, size=(65, 48))
    table = (labelled / "labels.csv").read_text().replace("b2.png,B,database,seq\n", "")
    (labelled / "labels.csv").write_text(table)
    paint(tmp_path / "more/d.png", 7)
    changed = evaluate_retrieval(
        labelled, {"c": extractor}, verify=False, work=work, distractors=[tmp_path / "more"]
    )
    assert extractor.looked_at == 11 + 2 + 3
    # qb (8): a2 and d are as near, b1 2, n1 4, a1 17: B is b1 alone, at rank 3.
    assert rows_of(changed)[(*BEFORE, "seq")][1] == pytest.approx(1 / 3)
    fresh = evaluate_retrieval(
        labelled, {"c": Colour()}, verify=False, distractors=[tmp_path / "more"]
    )
    assert fresh.to_json() == changed.to_json()


def test_damaged_photos_are_named(labelled, tmp_path):
    (labelled / "a1.png").write_bytes(b"hello")
    (labelled / "qb.png").write_bytes((labelled / "qb.png").read_bytes()[:60])
    work = tmp_path / "work"
    for _ in range(2):  # and again where the rest is kept
        report = evaluate_retrieval(labelled, {"c": Colour()}, work=work)
        notes = "\n".join(report.notes)
        assert "cannot be used and count as never found: 1, such as a1.png, which is text" in notes
        assert "the query qb.png is left out: it is truncated" in notes
        rows = rows_of(report)
        assert rows[(*BEFORE, "seq")][1:] == pytest.approx([math.nan] * 5, nan_ok=True)
        # qa: b1 a2 ...; qc: a2 ...; of two that exist
        want = (1 / 2 / 2 + 1 / 2) / 2
        assert rows[(*BEFORE, "all")][:2] == [2, pytest.approx(want)]


def test_local_features_alone_search_by_votes(labelled):
    """First are the photos of the same features: a2 for qa, b2 for qb, and b1, wrongly, for qc."""
    report = evaluate_retrieval(labelled, {"c": Colour(global_=False)})
    rows = rows_of(report)
    assert report.settings["search"] == {"c": "local"}
    for stage in (BEFORE, AFTER):
        assert rows[(*stage, "seq")][2] == 1
        assert rows[(*stage, "web")][2] == 1 / 2
    assert rows_of(report, 1)["c", "all"][:5] == pytest.approx([3, 3, 2 / 3, 1 / 3, 1 / 3])


def test_a_kept_database_changes_its_search(labelled, tmp_path):
    extractor, work = Colour(), tmp_path / "work"
    reports = {}
    for search in ("global", "both", "local", "global"):
        reports[search] = evaluate_retrieval(
            labelled, {"c": extractor}, search=search, verify=False, work=work
        )
        assert reports[search].settings["search"] == {"c": search}
        kept = {path.name for path in work.glob("*/index.locate/*.json")}
        assert kept == {"vectors.json", *(["local.json"] if search != "global" else [])}
        # By red a2 is nearest to qb, by votes b2, which shows the same place.
        assert rows_of(reports[search])[(*BEFORE, "seq")][2] == (search != "global")
    assert extractor.looked_at == 5 + 4 * 3
    fresh = evaluate_retrieval(labelled, {"c": Colour()}, verify=False)
    assert fresh.to_json() == reports["global"].to_json()
    for search in ("local", "both"):
        with pytest.raises(InputError, match="gives no local features"):
            evaluate_retrieval(labelled, {"c": Colour(local=False)}, search=search)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("a1.png,A", "zz.png,A"), "names zz.png, which is not below"),
        (("A,database", "A,train"), "the split of a1.png is 'train'"),
        (("b1.png", "a1.png"), "names a1.png twice"),
        (("qa.png,A", "qa.png,"), "the query qa.png has no landmark"),
        (("landmark", "place"), "needs a header with the columns image,landmark,split"),
        (("query", "database"), "no queries"),
    ],
)
def test_wrong_labels(labelled, change, message):
    file = labelled / "labels.csv"
    file.write_text(file.read_text().replace(*change))
    with pytest.raises(InputError, match=message):
        evaluate_retrieval(labelled, {"c": Colour()})


def test_an_image_outside_of_the_folder(labelled):
    """It must not make the database write outside of its own folder."""
    shutil.copy(labelled / "a1.png", labelled.parent / "a1.png")
    file = labelled / "labels.csv"
    file.write_text(file.read_text().replace("a1.png", "../a1.png"))
    with pytest.raises(InputError, match=r"'\.\./a1.png' is to be the name"):
        evaluate_retrieval(labelled, {"c": Colour()})


# --- Oxford and Paris


@pytest.fixture
def oxford(tmp_path):
    folder = tmp_path / "oxford5k"
    reds = {"query_1": 5, "good_1": 6, "ok_1": 9, "junk_1": 5, "other_1": 7}
    for name, red in reds.items():
        paint(folder / f"jpg/{name}.jpg", red, size=(160, 96))
    two = Image.open(folder / "jpg/query_1.jpg")
    two.paste((200, 0, 0), (80, 0, 160, 96))  # the box leaves this half out
    two.save(folder / "jpg/query_1.jpg", quality=100, subsampling=0)
    gt = folder / "gt"
    gt.mkdir()
    (gt / "hall_1_query.txt").write_text("oxc1_query_1 0.4 10.2 64.3 90.1\n")
    (gt / "hall_1_good.txt").write_text("query_1\ngood_1\n")
    (gt / "hall_1_ok.txt").write_text("ok_1\n")
    (gt / "hall_1_junk.txt").write_text("junk_1\n")
    return folder


def test_oxford_by_hand(oxford):
    report = evaluate_retrieval(oxford, {"c": Colour(local=False)}, verify=False)
    # The box is of red 5: junk_1 (taken out), good_1, other_1, ok_1, query_1 (12.5 as a whole).
    ap = (2 / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 3
    assert rows_of(report)[BEFORE] == pytest.approx([1, ap, 1, 3 / 4, 3 / 4])
    curve = report.curves[0].series["c, before verification"][1]
    assert curve.tolist() == pytest.approx([1] * 4 + [3 / 4] * 7)  # recall 1/3, 2/3, 1


def test_the_box_is_x_then_y():
    pixels = np.dstack([*np.meshgrid(np.arange(60), np.arange(40)), np.zeros((40, 60))])
    found = crop(pixels, (9.6, 3.4, 20.4, 7.5), Path("photo.jpg"))
    assert found.shape == (8 - 3, 20 - 10, 3)
    assert found[0, 0].tolist() == [10, 3, 0]
    assert found[-1, -1].tolist() == [19, 7, 0]
    whole = crop(pixels, (-5, -0.2, 60.4, 99), Path("photo.jpg"))
    np.testing.assert_array_equal(whole, pixels)
    with pytest.raises(
        ImageError, match=r"photo\.jpg: has nothing in the box .* of its 60 x 40 px"
    ):
        crop(pixels, (10, 20, 10.3, 30), Path("photo.jpg"))


def test_faults_of_oxford(oxford):
    (oxford / "jpg/ok_1.jpg").unlink()
    report = evaluate_retrieval(oxford, {"c": Colour(local=False)}, verify=False)
    assert report.notes == (
        "images of the ground truth that are not there and count as never found: 1 (ok_1)",
    )
    # good_1, other_1, query_1: of three that exist
    want = (2 / 2 + (1 / 2 + 2 / 3) / 2) / 3
    assert rows_of(report)[BEFORE][1:3] == pytest.approx([want, 1])
    line = oxford / "gt/hall_1_query.txt"
    line.write_text("query_1 300 10 400 20\n")
    report = evaluate_retrieval(oxford, {"c": Colour(local=False)}, verify=False)
    assert "query_1.jpg" not in report.notes[1]
    assert "the query hall_1 is left out: it has nothing in the box" in report.notes[1]
    line.write_text("query_1 300 10 400\n")
    with pytest.raises(InputError, match="must hold a name and x1 y1 x2 y2"):
        read_oxford(oxford)
    line.write_text("query_2 1 2 3 4\n")
    with pytest.raises(InputError, match="there is no photo of the query query_2"):
        read_oxford(oxford)
    line.write_text("query_1 1 2 3 4\n")
    (oxford / "gt/hall_1_junk.txt").write_text("good_1\n")
    with pytest.raises(InputError, match="both positive and junk: good_1"):
        read_oxford(oxford)
    (oxford / "gt/hall_1_junk.txt").unlink()
    with pytest.raises(InputError, match=r"hall_1_junk\.txt"):
        read_oxford(oxford)
    shutil.rmtree(oxford / "jpg")
    (oxford / "gt/hall_1_junk.txt").write_text("")
    with pytest.raises(InputError, match="queries without a photo: 1"):
        evaluate_retrieval(oxford, {"c": Colour()})


NAMES = ["n1", "h1", "j1", "e1", "n2", "h2", "e2"]  # red 5, 6, ... 11


@pytest.fixture
def revisited(tmp_path):
    folder = tmp_path / "roxford5k"
    for red, name in enumerate(NAMES, start=5):
        paint(folder / f"jpg/{name}.jpg", red)
    paint(folder / "jpg/q1.jpg", 5, size=(200, 100))
    paint(folder / "jpg/q2.jpg", 11, size=(200, 100))
    none = np.array([])
    gnd = [
        {
            "bbx": np.array([20.0, 10, 90, 90]),
            "easy": np.array([3, 6]),
            "hard": [1, 5],
            "junk": [2],
        },
        {"bbx": [0, 0, 200, 100], "easy": np.array([6]), "hard": none, "junk": none},
    ]
    content = {"imlist": NAMES, "qimlist": ["q1", "q2"], "gnd": gnd}
    (folder / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(content, 2))
    return folder


def test_revisited_by_hand(revisited):
    report = evaluate_retrieval(revisited, {"c": Colour(local=False)}, verify=False)
    rows = rows_of(report)
    # q1 ranks n1 h1 j1 e1 n2 h2 e2; q2, which has no hard positive, ranks e2 first.
    # easy: n1 [e1] n2 [e2]; medium: n1 [h1] [e1] n2 [h2] [e2]; hard: n1 [h1] n2 [h2].
    two = (1 / 4 + (1 / 3 + 2 / 4) / 2) / 2
    four = (1 / 4 + (1 / 2 + 2 / 3) / 2 + (2 / 4 + 3 / 5) / 2 + (3 / 5 + 4 / 6) / 2) / 4
    assert rows[(*BEFORE, "easy")] == pytest.approx([2, (two + 1) / 2, 0.5, 0.75, 0.75])
    medium = [2, (four + 1) / 2, 0.5, (3 / 5 + 1) / 2, (4 / 6 + 1) / 2]
    assert rows[(*BEFORE, "medium")] == pytest.approx(medium)
    assert rows[(*BEFORE, "hard")] == pytest.approx([1, two, 0, 0.5, 0.5])
    assert [curves.name for curves in report.curves] == [
        "precision-recall-easy",
        "precision-recall-medium",
        "precision-recall-hard",
    ]
    assert report.settings["images"] == 7  # the queries' photos are not searched


def test_junk_takes_no_place_on_the_shortlist(revisited):
    """With a shortlist of two, n1 and e1 are verified at the level easy; were h1 and j1 taken out
    only afterwards, e1 would not be."""
    paint(revisited / "jpg/q1.jpg", 5, 4, 10, size=(200, 100))
    paint(revisited / "jpg/e1.jpg", 8, 4, 10)
    paint(revisited / "jpg/h2.jpg", 10, 4, 10)
    rows = rows_of(evaluate_retrieval(revisited, {"c": Colour()}, shortlist=2))
    # e1, then near to q1 and e1 together (6.5): n1 (1.5) n2 (2.5) e2
    easy = (1 + (1 / 3 + 2 / 4) / 2) / 2
    assert rows[(*AFTER, "easy")][1] == pytest.approx((easy + 1) / 2)
    # hard: n1 h1 are verified without success: n1 h1 n2 h2 as before
    assert rows[(*AFTER, "hard")][1] == pytest.approx(rows[(*BEFORE, "hard")][1])


def test_a_pickle_that_would_run_something(revisited):
    mark = revisited / "ran"
    code = b"cbuiltins\nexec\n(V" + f"open({str(mark)!r}, 'w').close()".encode() + b"\ntR."
    (revisited / "gnd_roxford5k.pkl").write_bytes(code)
    with pytest.raises(InputError, match=r"asks to run builtins\.exec"):
        evaluate_retrieval(revisited, {"c": Colour()})
    assert not mark.exists()
    pickle.loads(code)
    assert mark.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gnd": []}, "lists as queries 2 but as answers 0"),
        ({"imlist": NAMES[:4]}, "an image of number 6, but imlist has 4"),
        ({"qimlist": ["q1", "q3"]}, "no photo of the query q3"),
        ({"gnd": [{"bbx": [1] * 4, "easy": [-1], "hard": [], "junk": []}] * 2}, "number -1"),
        ({"gnd": [{"bbx": [1] * 4, "easy": [1.5], "hard": [], "junk": []}] * 2}, "number 1.5"),
        ({"gnd": [{"bbx": [1, 2, 3]}] * 2}, "not a ground truth of imlist, qimlist and gnd"),
        ({"imlist": [f"x{i}" for i in range(7)]}, "of 7 images of the ground truth 7 are not"),
    ],
)
def test_wrong_revisited(revisited, change, message):
    file = revisited / "gnd_roxford5k.pkl"
    content = pickle.loads(file.read_bytes()) | change
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=message):
        read_revisited(revisited)


# --- Google Landmarks


def sharded(root, name):
    return root / name[0] / name[1] / name[2] / f"{name}.jpg"


@pytest.fixture
def google(tmp_path):
    folder = tmp_path / "gld"
    for name, red in {"aaa1": 5, "aab2": 7, "abc3": 9, "bcd4": 12}.items():
        paint(sharded(folder / "index", name), red)
    for name, red in {"0fe1": 5, "1ab2": 9, "2cc3": 15}.items():
        paint(sharded(folder / "test", name), red)
    (folder / "retrieval_solution_v2.1.csv").write_text(
        "id,images,Usage\n0fe1,aaa1 abc3 fff9,Public\n1ab2,bcd4,Private\n9zz9,None,Ignored\n"
    )
    return folder


def test_google_retrieval_by_hand(google):
    report = evaluate_retrieval(google, {"c": Colour(local=False)}, verify=False)
    rows = rows_of(report)
    # 0fe1 (5): aaa1 aab2 abc3 bcd4, one of three is not there; 1ab2 (9): abc3 aab2 bcd4.
    public = (1 + 2 / 3) / 3
    assert rows[(*BEFORE, "Public")] == pytest.approx([1, public])
    assert rows[(*BEFORE, "Private")] == pytest.approx([1, 1 / 3])
    assert rows[(*BEFORE, "all")] == pytest.approx([2, (public + 1 / 3) / 2])
    assert report.notes == (
        "queries marked as ignored and left out: 1",
        "images of the ground truth that are not below index/ and count as never found: 1 (fff9)",
    )


def test_google_retrieval_from_a_submission(google):
    for part in ("index", "test"):
        shutil.rmtree(google / part)  # no photo is needed
    answers = google / "mine.csv"
    answers.write_text("id,images\n0fe1,aab2 aaa1 aaa1 zzz0 abc3\n9zz9,aaa1\n")
    report = evaluate_rankings(google, answers)
    rows = rows_of(report)
    # A repeated id is not right again but keeps its rank; the other query is answered by nothing.
    public = (1 / 2 + 2 / 5) / 3
    assert rows["mine", "as submitted", "Public"] == pytest.approx([1, public])
    assert rows["mine", "as submitted", "all"] == pytest.approx([2, public / 2])
    assert "not in mine.csv and count as answered by nothing: 1 of 2 (1ab2)" in report.notes[1]
    assert report.settings["rankings"] == "mine.csv"
    with pytest.raises(InputError, match="queries without a photo: 2"):
        evaluate_retrieval(google, {"c": Colour()})
    answers.write_text("id,images\nwho,aab2\n")
    with pytest.raises(
        InputError, match=r"answers queries that are not in the ground truth: 1 \(who\)"
    ):
        evaluate_rankings(google, answers)
    answers.write_text("id,images\n0fe1,aaa1\n0fe1,abc3\n")
    with pytest.raises(InputError, match="answers 0fe1 twice"):
        evaluate_rankings(google, answers)
    answers.write_text("id,images\n0fe1,aaa1.jpg\n")
    with pytest.raises(InputError, match=r"ranks no image of the ground truth; it says aaa1\.jpg"):
        evaluate_rankings(google, answers)


def test_long_cells_of_google(google):
    """More than csv's own limit of 131072 characters."""
    many = " ".join(f"{i:016x}" for i in range(9000))
    (google / "retrieval_solution_v2.1.csv").write_text(f"id,images,Usage\n0fe1,{many},Public\n")
    assert len(read_retrieval(google).queries[0].truth[""].ok) == 9000


@pytest.fixture
def recognition(google):
    (google / "retrieval_solution_v2.1.csv").unlink()
    (google / "recognition_solution_v2.1.csv").write_text(
        "id,landmarks,Usage\n0fe1,,Private\n1ab2,11 12,Private\n2cc3,22,Private\n9zz9,3,Ignored\n"
    )
    (google / "index").rename(google / "train")
    (google / "train.csv").write_text(
        "id,url,landmark_id\naaa1,,22\naab2,,33\nabc3,,11\nbcd4,,11\nzzz9,,11\n"
    )
    return google


def test_google_recognition_by_hand(recognition):
    paint(sharded(recognition / "test", "1ab2"), 10)
    report = evaluate_retrieval(recognition, {"c": Colour(local=False)}, verify=False)
    # 0fe1 (5) shows no landmark but is the surest, as 22 with similarity 1; then come 1ab2 (10), rightly
    # as 11, and 2cc3 (15), wrongly as 11.
    assert rows_of(report)[(*BEFORE, "Private")] == pytest.approx([3, 2, (1 / 2) / 2, 1 / 2])
    paint(recognition.parent / "more/d.png", 5)
    paint(sharded(recognition / "train", "aaa1"), 4)
    report = evaluate_retrieval(
        recognition,
        {"c": Colour()},
        distractors=[recognition.parent / "more"],
    )
    rows = rows_of(report)
    # Now 0fe1 looks most like a distractor, so that it is not answered.
    assert rows[(*BEFORE, "Private")] == pytest.approx([3, 2, 1 / 2, 1 / 2])
    # No photo has local features: all are as sure as each other.
    assert rows[(*AFTER, "Private")] == pytest.approx([3, 2, 1 / 2, 1 / 2])


def test_confidence_is_evidence_after_verification(recognition):
    """The sure answer of 1ab2 comes before the more similar photo of no landmark."""
    paint(sharded(recognition / "train", "abc3"), 10, 1, 10)
    paint(sharded(recognition / "test", "1ab2"), 9, 1, 10)
    rows = rows_of(evaluate_retrieval(recognition, {"c": Colour()}))
    assert rows[(*BEFORE, "Private")][2] < rows[(*AFTER, "Private")][2] == pytest.approx(1 / 2)


def test_confidence_is_votes_in_a_local_search(recognition):
    """0fe1, which shows no landmark, shares fewer features with a train photo than 1ab2 does."""
    for name, blue, green in (("aaa1", 3, 20), ("abc3", 1, 20), ("aab2", 6, 20), ("bcd4", 7, 20)):
        paint(sharded(recognition / "train", name), 5, blue, green)
    paint(sharded(recognition / "test", "0fe1"), 5, 3, 4)
    paint(sharded(recognition / "test", "1ab2"), 5, 1, 20)
    report = evaluate_retrieval(recognition, {"c": Colour(global_=False)}, verify=False)
    assert rows_of(report)[(*BEFORE, "Private")] == pytest.approx([3, 2, 1 / 2, 1 / 2])


def test_google_recognition_from_a_submission(recognition):
    for part in ("train", "test"):
        shutil.rmtree(recognition / part)
    answers = recognition / "mine.csv"
    answers.write_text("id,landmarks\n0fe1,\n1ab2,12 0.5\n2cc3,7 0.9\n9zz9,3 1.0\n")
    rows = rows_of(evaluate_rankings(recognition, answers))
    # 2cc3 is wrong and first, 1ab2 right and second; ignored ones do not count.
    want = [3, 2, (1 / 2) / 2, 1 / 2]
    assert rows["mine", "as submitted", "Private"] == pytest.approx(want)
    answers.write_text("id,landmarks\n1ab2,12 0.5 13 0.4\n")
    with pytest.raises(InputError, match=r"one landmark and its confidence, got '12 0\.5 13 0\.4'"):
        evaluate_rankings(recognition, answers)


def test_train_photos_without_a_landmark(recognition):
    (recognition / "train.csv").unlink()
    (recognition / "train_clean.csv").write_text("landmark_id,images\n11,abc3 bcd4\n22,aaa1\n")
    with pytest.raises(InputError, match=r"in no train\*.csv: 1 \(aab2\)"):
        read_retrieval(recognition)
    (recognition / "train_clean.csv").write_text("landmark_id,images\n11,abc3 bcd4 aab2\n22,aaa1\n")
    assert read_retrieval(recognition).landmarks["aab2"] == "11"


# --- places


@pytest.fixture
def places(tmp_path):
    folder = tmp_path / "tokyo"
    east, north = 500000.0, 4000000.5
    photos = {
        "queries": [(east, north, "31", 5), (east + 5000, north, "31", 5)],
        "database": [
            (east + 25.1, north, "31", 6),
            (east + 3, north, "32", 7),
            (east, north - 40, "31", 7.5),
            (east, north - 25, "31", 8),
            (east + 24, north - 24, "31", 9),
        ],
    }
    for part, rows in photos.items():
        for e, n, zone, red in rows:
            paint(folder / part / f"@{e:.2f}@{n:.2f}@{zone}@N@@@p{red}@@@@@.png", red)
    return folder


def test_places_by_hand(places):
    """Right is the fourth alone: the others are 25.1 m, 40 m and 33.9 m away, or in another zone; and
    the second query has no photo of its place."""
    report = evaluate_retrieval(places, {"c": Colour(local=False)}, verify=False)
    assert rows_of(report)[BEFORE] == [1, 0, 1, 1, 1]
    n, recall = report.curves[0].series["c, before verification"]
    assert n.tolist() == [*range(1, 21)]
    assert recall.tolist() == [0, 0, 0] + [1] * 17


def test_wrong_places(places):
    shutil.copy(next((places / "queries").iterdir()), places / "queries/photo.png")
    with pytest.raises(InputError, match=r"photo\.png has no position"):
        evaluate_retrieval(places, {"c": Colour()})
    shutil.rmtree(places / "queries")
    (places / "queries").mkdir()
    with pytest.raises(InputError, match="queries holds no photos"):
        read_retrieval(places, "places")


# --- what they share


def test_rankings_from_json_score_the_same(labelled, revisited):
    want = rows_of(evaluate_retrieval(labelled, {"c": Colour()}, verify=False))
    rankings = {"qa": "a1 b1 a2 n1 b2", "qb": "a2 b1 a1 n1 b2", "qc": "a2 n1 b1 a1 b2"}
    file = labelled.parent / "mine.json"
    named = {f"{q}.png": [f"{i}.png" for i in r.split()] for q, r in rankings.items()}
    file.write_text(json.dumps(named))
    found = rows_of(evaluate_rankings(labelled, file))
    for kind in ("web", "seq", "all"):
        assert found["mine", "as submitted", kind] == want[(*BEFORE, kind)]
    assert set(rows_of(evaluate_rankings(labelled, file, kinds=["web"]))) == {
        ("mine", "as submitted", "web")
    }
    want = rows_of(evaluate_retrieval(revisited, {"c": Colour()}, verify=False))
    for ids in (NAMES, list(range(7))):  # imlist by name and by number
        file.write_text(json.dumps({"q1": ids, "q2": ids[::-1]}))
        found = rows_of(evaluate_rankings(revisited, file))
        for level in ("easy", "medium", "hard"):
            assert found["mine", "as submitted", level] == want[(*BEFORE, level)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must be an object of lists"),
        ('{"qa.png": "a1.png"}', "must be an object of lists"),
        ('{"qa.png": [', "cannot read the rankings"),
        ('{"qa.png": ["a1.png", "a1.png"]}', "names an image twice"),
        ('{"qa.png": [0]}', "0 in the ranking of qa.png is no image"),
        ('{"qz.png": []}', r"not in the ground truth: 1 \(qz.png\)"),
        ('{"qa.png": ["a1"]}', "ranks no image of the ground truth"),
    ],
)
def test_wrong_rankings(labelled, text, message):
    file = labelled.parent / "mine.json"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        evaluate_rankings(labelled, file)


def test_layouts_are_recognised_or_named(labelled, revisited, tmp_path):
    assert read_retrieval(labelled).layout == "labels"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        read_retrieval(tmp_path / "empty")
    for sign in (
        "labels.csv",
        "_query.txt",
        "gnd_roxford5k.pkl",
        "retrieval_solution",
        "@utm_east",
    ):
        assert sign in str(error.value)
    (revisited / "hall_query.txt").write_text("q1 1 2 3 4")
    with pytest.raises(InputError, match="as oxford or as revisited; say which"):
        read_retrieval(revisited)
    assert read_retrieval(revisited, "revisited").layout == "revisited"
    with pytest.raises(UnknownNameError, match="unknown layout 'holidays'"):
        read_retrieval(revisited, "holidays")
    with pytest.raises(InputError, match="is not a folder"):
        read_retrieval(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "fast"}, "search must be global"),
        ({"shortlist": 0}, "shortlist must be above 0"),
        ({"extractors": {}}, "at least one extractor"),
    ],
)
def test_wrong_options(labelled, options, message):
    with pytest.raises(InputError, match=message):
        evaluate_retrieval(labelled, **({"extractors": {"c": Colour()}} | options))


def brute_force_eleven_points(relevant, positives):
    points = []
    for tenth in range(11):
        best = 0.0
        for rank in range(1, len(relevant) + 1):
            hits = sum(relevant[:rank])
            if hits and 10 * hits >= tenth * positives:
                best = max(best, hits / rank)
        points.append(best)
    return points


def test_eleven_points():
    assert eleven_points([1, 0, 0, 1], 2).tolist() == [1.0] * 6 + [0.5] * 5
    assert eleven_points([], 3).tolist() == [0.0] * 11
    assert eleven_points([0, 1], 10)[:3].tolist() == [0.5, 0.5, 0.0]  # nine are never found
    rng = np.random.default_rng(0)
    for _ in range(30):
        relevant = rng.random(20) < 0.3
        positives = int(relevant.sum() + rng.integers(0, 3)) or 1
        np.testing.assert_allclose(
            eleven_points(relevant, positives), brute_force_eleven_points(relevant, positives)
        )


@pytest.mark.data
@pytest.mark.slow
def test_web_photos(data):
    """As benchmarks/tables/retrieval.py measures it: without verification and distractors."""
    report = evaluate_retrieval(
        data / "eval/retrieval", {"gem": registry.create("gem")}, kinds=["web"], verify=False
    )
    ((count, average, *recalls),) = rows_of(report).values()
    assert count == 40
    assert average == pytest.approx(0.979, abs=0.003)
    assert recalls == [1, 1, 1, 1]
