"""`locate models`: weights of one's own, by name."""

from __future__ import annotations

import json
import os

import pytest
import torch

from index import model_store
from locate.errors import InputError, UnknownNameError
from locate.extractors.recipes import create_recipe
from locate.extractors.weights import Record, file_hash, save_weights
from pipelines.cli import exit_codes
from pipelines.cli.main import main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCATE_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def trained(tmp_path):
    """Weights as a training writes them."""
    recipe = create_recipe("superpoint")
    torch.manual_seed(1)
    file = tmp_path / "out/weights.safetensors"
    record = Record("superpoint", recipe.settings(), data="streets", licence="CC0-1.0")
    save_weights(file, recipe.tensors(recipe.network()), record)
    return file


def test_added_weights_are_shown_and_used_by_name(trained, folder, tmp_path, photo_factory, capsys):
    assert main(["models", "add", str(trained), "--name", "streets"]) == exit_codes.OK
    sha256 = file_hash(trained)
    said = capsys.readouterr().out
    for words in ("streets", "weights of superpoint", "CC0-1.0", sha256, "--weights streets"):
        assert words in said
    assert file_hash(folder / "streets.safetensors") == sha256
    assert main(["models", "add", str(trained), "--name", "streets", "--json"]) == exit_codes.OK
    assert json.loads(capsys.readouterr().out)["sha256"] == sha256  # the same again is no error
    assert main(["models"]) == exit_codes.OK
    shown = capsys.readouterr().out
    assert "streets" in shown
    assert sha256[:12] in shown
    assert "CC0-1.0" in shown
    assert main(["models", "--json"]) == exit_codes.OK
    (mine,) = [m for m in json.loads(capsys.readouterr().out) if m.get("name") == "streets"]
    assert mine["system"] == "superpoint"
    assert mine["sha256"] == sha256
    for k in range(3):
        photo_factory(tmp_path / f"photos/{k}.png", seed=k)
    index = tmp_path / "new.locate"
    words = ["build-index", str(tmp_path / "photos"), "--index", str(index), "--extractor"]
    assert main([*words, "gem+superpoint", "--weights", "streets"]) == exit_codes.OK
    assert (index / "weights" / f"{sha256}.safetensors").is_file()
    assert main(["models", "remove", "streets"]) == exit_codes.OK
    assert not model_store.stored()
    capsys.readouterr()
    assert main(["query", str(tmp_path / "photos/0.png"), "--index", str(index)]) == exit_codes.OK


def test_what_a_training_wrote_is_named_by_its_system(trained, folder, capsys):
    assert main(["models", "add", str(trained)]) == exit_codes.OK
    (name,) = model_store.stored()
    assert name == f"superpoint-{file_hash(trained)[:8]}"
    assert name in capsys.readouterr().out


def test_what_cannot_be_added(trained, folder, tmp_path, capsys):
    other = tmp_path / "other.safetensors"
    save_weights(other, {"a": torch.zeros(2)}, Record("superpoint"))
    text = tmp_path / "text.safetensors"
    text.write_text("no weights")
    for file, words in (
        (other, "does not fit"),
        (text, "no safetensors"),
        (tmp_path / "no", "not exist"),
    ):
        assert main(["models", "add", str(file)]) == exit_codes.ERROR
        assert words in capsys.readouterr().err
    assert not folder.exists()
    model_store.add(trained, "mine")
    with pytest.raises(InputError, match="there is another mine"):
        model_store.add(other, "mine")
    for name in ("a/b", "..", "", "-x", "bundled", "a b"):
        with pytest.raises(InputError, match="a name has letters"):
            model_store.add(trained, name)
    with pytest.raises(UnknownNameError, match="known: mine"):
        model_store.remove("yours")
    assert [*model_store.stored()] == ["mine"]


def test_a_damaged_file_does_not_hide_the_others(trained, folder, capsys):
    model_store.add(trained, "mine")
    model_store.add(trained, "bad")
    (folder / "bad.safetensors").write_bytes(b"cut off")
    assert main(["models", "--json"]) == exit_codes.OK
    found = {m["name"]: m for m in json.loads(capsys.readouterr().out)}
    assert found["mine"]["data"] == "streets"
    assert "locate models remove bad" in found["bad"]["data"]
    assert main(["models"]) == exit_codes.OK
    assert "damaged" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(trained, folder, monkeypatch):
    folder.write_text("a file")
    with pytest.raises(InputError, match="cannot copy"):
        model_store.add(trained, "mine")


def test_where_they_lie(monkeypatch, tmp_path):
    monkeypatch.delenv("LOCATE_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert model_store.folder() == tmp_path / "locate/models"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_store.folder() == tmp_path / ".local/share/locate/models"
    assert model_store.stored() == {}


def test_a_file_goes_before_a_name(trained, tmp_path, monkeypatch):
    model_store.add(trained, "mine")
    monkeypatch.chdir(tmp_path)
    assert model_store.find("mine").parent.name == "models"
    (tmp_path / "mine").write_bytes(b"")
    assert model_store.find("mine").resolve() == tmp_path / "mine"
    assert str(model_store.find("nothing")) == "nothing"
    assert os.path.lexists(model_store.folder())
