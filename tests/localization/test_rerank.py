"""What is not localized is matched again by LightGlue."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from locate.errors import InputError, UnknownNameError
from locate.localization.pose import LOCALIZED
from pipelines.cli import exit_codes
from pipelines.cli.main import main
from pipelines.localization import matcher
from pipelines.localization.localizer import Localizer
from pipelines.mapping.import_model import import_map
from tests.helpers.lightglue import installed
from tests.helpers.small_town import errors, queries_of, small_town


@pytest.fixture(scope="module")
def town_and_map(tmp_path_factory):
    return small_town(tmp_path_factory)


@pytest.fixture(scope="module")
def aliked_map(town_and_map, tmp_path_factory):
    """The church alone."""
    town, folder = town_and_map[0], tmp_path_factory.mktemp("aliked")
    shutil.copytree(town.root / "landmarks/church", folder / "photos/church")
    import_map(
        town.root / "colmap",
        folder / "photos",
        folder / "church.map",
        extractor="aliked",
        settings={"max_keypoints": 1024, "max_side": 640},
        skip_missing=True,
    )
    return folder / "church.map"


def without_mutual_matches(monkeypatch):
    nothing = np.zeros((0, 2), np.int32)
    monkeypatch.setattr(matcher, "match_mutual", lambda *_: nothing)


@installed
def test_lightglue_localizes_what_was_not(town_and_map, aliked_map, monkeypatch):
    query = queries_of(town_and_map[0])["church"]
    with Localizer(aliked_map, workers=1) as localizer:
        once = localizer.localize(query.path, query.camera, rerank="lightglue")
        assert once.verdict == LOCALIZED
        assert "rerank" not in once.seconds
        without_mutual_matches(monkeypatch)
        assert localizer.localize(query.path, query.camera).verdict != LOCALIZED
        again = localizer.localize(query.path, query.camera, rerank="lightglue")
    assert again.verdict == LOCALIZED
    assert "LightGlue" in again.reason
    assert again.seconds["rerank"] > 0
    assert again.images
    share, degrees = errors(again, query.truth)
    assert share < 0.005  # of the distance
    assert degrees < 0.3


@installed
def test_features_that_it_does_not_know(town_and_map, capsys):
    photo = queries_of(town_and_map[0])["church"].path
    with Localizer(town_and_map[1]) as localizer:
        with pytest.raises(InputError, match=r"has those of .*--extractor gem"):
            localizer.localize(photo, rerank="lightglue")
        with pytest.raises(UnknownNameError, match="known: lightglue"):
            localizer.localize(photo, rerank="superglue")
    words = ["localize", str(photo), "--map", str(town_and_map[1]), "--rerank", "lightglue"]
    assert main(words) == exit_codes.ERROR
    assert "make it with --extractor gem+aliked" in capsys.readouterr().err
