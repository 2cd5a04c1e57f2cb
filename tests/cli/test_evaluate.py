"""`locate evaluate` from the command line: every option arrives, and what is printed and written is the
report."""

import json

import cv2
import numpy as np
import pytest

from pipelines.cli import exit_codes
from pipelines.cli.main import main

SHIFT = np.array([[1, 0, 10], [0, 1, 0], [0, 0, 1.0]])  # x_b = x_a + 10


@pytest.fixture
def matching(tmp_path, texture):
    """An HPatches sequence of two photos that are a whole number of the extractor's patches apart."""
    folder = tmp_path / "hpatches" / "v_shift"
    folder.mkdir(parents=True)
    wide = texture((400, 240))
    for k in range(6):
        left = 0 if k == 0 else 10
        cv2.imwrite(str(folder / f"{k + 1}.ppm"), wide[:, 20 - left : 340 - left])
        if k:
            np.savetxt(folder / f"H_1_{k + 1}", SHIFT)
    return folder.parent


@pytest.fixture
def retrieval(tmp_path, photo_factory):
    folder = tmp_path / "places"
    rows = ["image,landmark,split,kind"]
    for k in range(3):
        for split in ("database", "query"):
            photo_factory(
                folder / f"{split}/{k}.jpg", seed=k, quality=95 if split == "query" else 80
            )
            rows.append(f"{split}/{k}.jpg,place{k},{split},web")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    for k in range(5):
        photo_factory(tmp_path / f"foreign/{k}.png", seed=50 + k)
    return folder


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_matching_as_table_json_and_files(matching, fake_extractor, capsys, tmp_path):
    line = ("evaluate", "matching", matching, "--extractor", "fake", "--max-keypoints", 50)
    code, shown, _ = run(capsys, *line, "--out", tmp_path / "out")
    assert code == exit_codes.OK
    assert "MMA@3" in shown
    assert "fake" in shown
    code, shown, _ = run(capsys, *line, "--json")
    assert code == exit_codes.OK
    report = json.loads(shown)
    assert report["settings"]["max_keypoints"] == 50
    names = {path.suffix for path in (tmp_path / "out").iterdir()}
    assert {".md", ".json", ".png"} <= names
    (written,) = (p for p in (tmp_path / "out").iterdir() if p.suffix == ".json")
    assert json.loads(written.read_text()) == report
    assert run(capsys, *line, "--json")[1] == shown  # a seed gives the same table twice


def test_repeatability_takes_its_options(matching, fake_extractor, capsys):
    line = ("evaluate", "repeatability", matching, "--extractor", "fake", "--json")
    loose = json.loads(run(capsys, *line, "--size", "full", "--threshold", 20)[1])
    tight = json.loads(run(capsys, *line, "--size", "full", "--threshold", 0.01)[1])
    assert loose["settings"]["threshold"] == 20
    assert loose["tables"] != tight["tables"]
    small = json.loads(run(capsys, *line, "--size", "160x120", "--max-keypoints", 7)[1])
    assert small["settings"]["max_keypoints"] == 7


def test_retrieval_takes_its_options(retrieval, fake_extractor, capsys, tmp_path):
    line = ("evaluate", "retrieval", retrieval, "--extractor", "fake", "--json")
    foreign = ("--foreign", tmp_path / "foreign", "--foreign-count", 2, "--shortlist", 1)
    code, shown, _ = run(capsys, *line, *foreign, "--work", tmp_path / "work", "--kind", "web")
    assert code == exit_codes.OK
    report = json.loads(shown)
    assert report["settings"]["shortlist"] == 1
    assert list((tmp_path / "work").iterdir())
    assert {row["mAP"] for row in report["tables"][0]["rows"]} == {1.0}
    assert report["settings"]["foreign_count"] == 2


def test_finished_answers_take_no_extractor(retrieval, capsys, tmp_path):
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps({f"query/{k}.jpg": [f"database/{k}.jpg"] for k in range(3)}))
    line = ("evaluate", "retrieval", retrieval, "--rankings", answers)
    assert run(capsys, *line)[0] == exit_codes.OK
    code, _, error = run(capsys, *line, "--extractor", "sift")
    assert code == exit_codes.ERROR
    assert "--extractor" in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("matching", "nowhere"), "nowhere"),
        (("matching", ".", "--extractor", "surf"), "surf"),
        (("matching", ".", "--weights", "none.safetensors"), "none.safetensors"),
        (("matching", ".", "--estimator", "guess", "--extractor", "sift"), "guess"),
        (("localization", ".", "--solver", "guess", "--extractor", "sift"), "guess"),
    ],
)
def test_what_cannot_be_evaluated_is_named(arguments, words, capsys):
    code, _, error = run(capsys, "evaluate", *arguments)
    assert code == exit_codes.ERROR
    assert words in error


@pytest.mark.parametrize("size", ["640", "0x480", "axb", "640x"])
def test_sizes_that_are_none(matching, capsys, size):
    assert main(["evaluate", "matching", str(matching), "--size", size]) == exit_codes.ERROR
    assert f"'{size}' is no size; write 640x480" in capsys.readouterr().err
