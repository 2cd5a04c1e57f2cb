"""The command that settings and weights are chosen by."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.tables import validation

STEPS = {"zoom": (2,), "blur": (2,)}


@pytest.fixture
def folder(tmp_path, photo_factory, monkeypatch):
    monkeypatch.setattr("benchmarks.common.warps.STEPS", STEPS)
    for k in range(12):
        photo_factory(tmp_path / f"data/train/photos/p{k}.png", (120, 90), k)
    return tmp_path


def run(folder, monkeypatch, *words):
    command = ["validation", "--data", str(folder / "data"), "--work", str(folder / "work")]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(folder), *words])
    validation.main()
    return json.loads((folder / "validation.json").read_text())


def test_a_quick_run_compares_with_rootsift_and_is_kept(
    folder, monkeypatch, capsys, fake_extractor
):
    quick = ("--quick", "--extractor", fake_extractor)
    first = run(folder, monkeypatch, *quick)
    means, differences = first["tables"]
    assert [row["extractor"] for row in means["rows"][:2]] == ["sift", "fake"]
    assert means["rows"][0]["MMA@3"] > 0.3
    assert {row["group"] for row in means["rows"]} == {"all", *STEPS}
    assert {row["extractor"] for row in differences["rows"]} == {"fake"}
    assert differences["rows"][1]["to"] < 0  # a grid of patches is no match for it
    assert "noise" in (folder / "validation.md").read_text()
    with pytest.MonkeyPatch.context() as forbid:
        forbid.setattr("benchmarks.common.warp_scores.score_pairs", None)
        assert run(folder, monkeypatch, *quick) == first
        turned = run(folder, monkeypatch, *quick, "--reference", "fake")["tables"][1]["rows"]
        assert turned[0]["difference"] == -differences["rows"][0]["difference"]
    with pytest.raises(SystemExit):
        run(folder, monkeypatch, *quick, "--reference", "nobody")
    assert "nobody" in capsys.readouterr().err
