"""Extractors of other packages, and settings by name."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import locate
from index.catalog import Catalog
from locate.errors import DatabaseMismatchError, InputError, UnknownNameError, WeightsError
from locate.extractors import registry
from locate.extractors.backbones.registry import create_backbone
from locate.extractors.d2net.network import D2Network
from locate.extractors.recipes import create_recipe
from locate.extractors.settings import Setting, typed
from locate.extractors.sift import Sift
from locate.extractors.weights import Record, save_weights
from pipelines.cli.main import main
from pipelines.indexing.build import add_photos, build_index
from pipelines.indexing.provenance import load_extractor
from tests.helpers.fake_extractor import FakeExtractor

MODULE = """
from locate.extractors.base import ExtractorInfo
from locate.extractors.registry import LOCAL, Entry
from tests.helpers.fake_extractor import FakeExtractor
from tests.helpers.training_worker import ToyRecipe

class Tiles(FakeExtractor):
    def __init__(self, patch: int = 16, name: str = "tiles") -> None:
        super().__init__(patch)
        self.info = ExtractorInfo(name, None, dict(self.info.settings), global_dim=8, local_dim=16)

ENTRY = Entry(
    "tiny_tiles:Tiles", (LOCAL,), {"tiles": ToyRecipe}, weights="nobody's", licence="MIT"
)
NOTHING = 3

def misnamed(patch: int = 16):
    return Tiles(patch, "other")
"""
POINTS = """[locate.extractors]
tiles = tiny_tiles:ENTRY
plain = tiny_tiles:Tiles
misnamed = tiny_tiles:misnamed
broken = tiny_tiles_that_is_gone:Tiles
nothing = tiny_tiles:NOTHING
sift = tiny_tiles:Tiles
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of somebody else, as pip leaves it."""
    home = tmp_path / "site"
    about = home / "tiny_tiles-1.0.dist-info"
    about.mkdir(parents=True)
    (home / "tiny_tiles.py").write_text(MODULE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-tiles\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(home)
    yield home
    sys.modules.pop("tiny_tiles", None)


@pytest.fixture
def photos(tmp_path, photo_factory):
    for i in range(3):
        photo_factory(tmp_path / f"photos/place-{i}/{i}.png", seed=i)
    return tmp_path / "photos"


# --- other people's


def test_an_extractor_of_another_package_fills_a_database(package, photos, tmp_path):
    index = tmp_path / "i"
    assert build_index(photos, index, extractor="tiles", settings={"patch": "8"}).added == 3
    assert build_index(photos, index).unchanged == 3
    with locate.open(index) as db:
        assert db.extractor_info.settings == {"patch": 8}
        assert db.query(photos / "place-1/1.png").best.image == "place-1/1.png"


def test_settings_on_the_command_line(package, photos, tmp_path, capsys):
    words = ["build-index", str(photos), "--index", str(tmp_path / "i"), "--extractor", "tiles"]
    assert main([*words, "--set", "pach=8"]) == 2
    assert "patch" in capsys.readouterr().err  # the ones that are known
    assert main([*words, "--set", "patch"]) == 2
    assert "NAME=VALUE" in capsys.readouterr().err
    assert main([*words, "--set", "patch=8"]) == 0
    with locate.open(tmp_path / "i") as db:
        assert db.extractor_info.settings == {"patch": 8}
    assert main(words) == 0  # as it was made
    assert main([*words, "--set", "patch=4"]) == 2


def test_the_list_has_it_and_names_what_is_broken(package, capsys, caplog):
    with caplog.at_level(logging.WARNING, "locate"):
        assert main(["models", "--json"]) == 0
    found = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert [*found][-3:] == ["misnamed", "plain", "tiles"]
    assert found["sift"]["licence"] == "Apache-2.0 (OpenCV)"  # ours stays
    line = {"gives": "local features", "weights": "nobody's", "licence": "MIT", "megabytes": 0}
    assert found["tiles"] == {"name": "tiles", **line, "scores": {}, "record": None}
    assert found["plain"]["gives"] == ""
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert "the extractor broken of the package tiny-tiles cannot be loaded (Module" in texts[0]
    assert "the extractor nothing of the package tiny-tiles cannot be loaded (TypeErr" in texts[1]


def test_what_is_wrong_with_another_package_is_said_when_it_is_named(package):
    assert isinstance(registry.create("sift"), Sift)
    assert registry.create("gem+tiles", {"patch": 4}).info.settings["tiles"] == {"patch": 4}
    with pytest.raises(InputError, match=r"broken of the package tiny-tiles .* uninstall"):
        registry.create("broken")
    with pytest.raises(InputError, match="misnamed calls itself other"):
        registry.create("misnamed")
    with pytest.raises(WeightsError, match="tiles is not trained here"):
        registry.create("tiles", weights={"tiles": Path("w")})
    with pytest.raises(UnknownNameError, match=r"broken, context, d2net.*tiles"):
        registry.create("surf")


def test_a_recipe_of_another_package(package):
    assert create_recipe("tiles", {"size": 4}).size == 4
    with pytest.raises(UnknownNameError, match=r"delf, .*steered-narrow, .*tiles, .*ur2kid"):
        create_recipe("surf")


def test_a_database_of_a_package_that_is_gone(package, photos, tmp_path, monkeypatch):
    build_index(photos, tmp_path / "i", extractor="tiles")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(package)])
    with (
        locate.open(tmp_path / "i") as db,
        pytest.raises(
            DatabaseMismatchError,
            match="filled by tiles, which no extractor here is called; install",
        ),
    ):
        db.query(photos / "place-1/1.png")


# --- settings


def test_settings_are_of_the_type_that_they_are_annotated_with():
    @dataclass(frozen=True)
    class Cell:
        size: int = 3

    def kind(hint, default, value):
        return typed("it", value, Setting(hint, default))

    assert kind(int, 1, "8192") == 8192
    assert kind(float, 1.0, 2) == 2.0
    assert kind(float, 1.0, ".5") == 0.5
    assert kind(bool, False, "True") is True
    assert kind(str, "a", "7") == "7"
    assert kind(Path | None, None, "a/b") == Path("a/b")
    assert kind(int | None, None, "none") is None
    assert kind(tuple[float, float], (0.0, 1.0), "0.5, 1") == (0.5, 1.0)
    assert kind(tuple[int, ...], (1,), "[1, 2, 3]") == (1, 2, 3)
    assert kind(Cell | None, None, '{"size": "4"}') == Cell(4)
    for hint, default, value in (
        (int, 1, "1.5"),
        (int, 1, True),
        (float, 1.0, "nan"),
        (bool, False, 1),
        (tuple[float, float], (0.0, 1.0), "1"),
        (int | None, None, "many"),
        (Cell | None, None, '{"sice": 4}'),
    ):
        with pytest.raises(InputError, match="it must be"):
            kind(hint, default, value)


def test_settings_find_their_part():
    told = {"max_keypoints": "100", "sift.max_side": 512, "gem": {"p": 3}}
    made = registry.create("gem+sift", told)
    assert made.info.settings["sift"]["max_keypoints"] == 100
    assert made.info.settings["sift"]["max_side"] == 512
    assert made.info.settings["gem"]["p"] == 3.0
    assert registry.create("gem+sift", registry.settings_in(made.info)).info == made.info
    for wrong, message in (
        ({"max_side": 3}, r"a setting max_side; say gem\.max_side or sift\.max_side"),
        ({"moon": 3}, r"known: contrast_threshold \(0\.04\), gem\.max_side \(448\), max_keyp"),
        ({"sift.moon": 3}, r"unknown setting of sift 'moon'; known: contrast_threshold \(0\.04\)"),
        ({"max_keypoints": "many"}, "sift: max_keypoints must be of the kind of 2048"),
        ({"max_keypoints": "0"}, "must be at least 1, got 0 and 1024"),
        ({"tap": "moon"}, "unknown tap of gem 'moon'"),
    ):
        with pytest.raises(InputError, match=message):
            registry.create("gem+sift", wrong)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("backbone", "resnet50"), ("taps", "stage2"), ("backbone_weights", "x.pth")],
)
def test_weights_decide_about_the_start(setting, value, photos, tmp_path, capsys):
    taps = ["expand4"]
    network = D2Network(create_backbone("lite0"), taps)
    file = tmp_path / "w.safetensors"
    settings = {"backbone": "lite0", "taps": taps}
    save_weights(file, network.state_dict(), Record("d2net", settings))
    with pytest.raises(InputError, match=f"the weights decide the {setting} of d2net"):
        registry.create("d2net", {setting: value}, {"d2net": file})
    words = ["build-index", str(photos), "--index", str(tmp_path / "index"), "--weights", str(file)]
    assert main([*words, "--set", f"{setting}={value}"]) == 2
    assert "leave out the setting, or the weights" in " ".join(capsys.readouterr().err.split())
    # What the weights say themselves is no contradiction: a database remembers it.
    made = registry.create("d2net", settings, {"d2net": file})
    again = registry.create("d2net", registry.settings_in(made.info), {"d2net": file})
    assert made.info == again.info


def test_the_default_takes_the_settings_of_its_parts():
    known = registry.known_settings("context")["context"]
    assert {"shares", "max_keypoints", "upright"} < known.keys()
    made = registry.create("context", {"max_keypoints": "300", "shares": "0.4,0.8"})
    assert made.info.settings["steered"]["max_keypoints"] == 300
    assert made.info.settings["shares"] == [0.4, 0.8]


def test_a_database_remembers_settings(photos, tmp_path):
    index = tmp_path / "i"
    told = {"max_keypoints": "50"}
    build_index(photos, index, extractor="sift", search="local", settings=told)
    (photos / "place-1/1.png").rename(photos / "place-1/2.png")
    (photos / "place-0/0.png").write_bytes((photos / "place-2/2.png").read_bytes() + b"\0")
    assert build_index(photos, index).updated == 1
    assert add_photos([photos / "place-0/0.png"], index).unchanged == 1
    assert build_index(photos, index, settings={"max_keypoints": 50, "max_side": 1024}).added == 0
    with Catalog.open(index) as catalog:
        assert load_extractor(catalog).info.settings["max_keypoints"] == 50
    with pytest.raises(DatabaseMismatchError, match="with max_keypoints 50, not 60"):
        build_index(photos, index, settings={"max_keypoints": "60"})
    with pytest.raises(DatabaseMismatchError, match=r"with max_side 1024, not 60"):
        build_index(photos, index, settings={"max_side": "60"})
    with pytest.raises(UnknownNameError, match="setting of sift 'moon'"):
        build_index(photos, index, settings={"moon": "60"})


def test_a_wrong_setting_leaves_a_new_database_empty(photos, tmp_path):
    with pytest.raises(UnknownNameError):
        build_index(photos, tmp_path / "i", extractor="sift", settings={"moon": "1"})
    assert build_index(photos, tmp_path / "i", extractor="sift").added == 3


# --- instances


def test_an_instance_fills_a_database(photos, tmp_path, fake_extractor):
    index, mine = tmp_path / "i", FakeExtractor(patch=8)
    assert build_index(photos, index, extractor=mine).added == 3
    (photos / "place-1/1.png").rename(photos / "place-1/2.png")
    assert build_index(photos, index, extractor=mine).added == 1
    with Catalog.open(index) as catalog:  # its name and what it says of itself make it again
        assert load_extractor(catalog).info == mine.info
    with pytest.raises(DatabaseMismatchError, match="not the fake that is given"):
        build_index(photos, index, extractor=FakeExtractor())
    with pytest.raises(InputError, match="leave those out"):
        build_index(photos, index, extractor=mine, settings={"patch": 8})


def test_an_instance_that_nobody_can_make_again(photos, tmp_path, photo_factory):
    index, mine = tmp_path / "i", FakeExtractor()  # not registered
    build_index(photos, index, extractor=mine)
    photo_factory(photos / "new.png", seed=7)
    with pytest.raises(
        DatabaseMismatchError, match=r"hand over that extractor itself \(extractor="
    ):
        build_index(photos, index)
    assert add_photos([photos / "new.png"], index, extractor=mine).added == 1
    with locate.Database(index, extractor=mine) as db:
        assert db.query(photos / "new.png").best.image == "new.png"
