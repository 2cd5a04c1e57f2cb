"""`--weights`: trained files find their part of the extractor, and the database keeps them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import locate
from index import kept_files, weights_files
from index.catalog import Catalog
from locate.errors import (
    DatabaseError,
    DatabaseMismatchError,
    InputError,
    UnknownNameError,
    WeightsError,
)
from locate.extractors import registry
from locate.extractors.base import ExtractorInfo
from locate.extractors.weights import Record, file_hash, load_weights, save_weights
from locate.retrieval.verdict import MATCH
from locate.types import Extraction
from pipelines.cli import exit_codes as exits
from pipelines.cli.main import main
from pipelines.indexing.build import build_index
from pipelines.indexing.maintenance import check_database, database_info
from pipelines.indexing.provenance import first_extractor


class Trained:
    """A tiny extractor with weights: one number that is added to the first of the global descriptor.
    Its name says which descriptors it gives."""

    kinds = {"both": (8, 16), "locals": (0, 16), "globals": (8, 0)}  # noqa: RUF012

    def __init__(self, name, value, digest, strength=1.0):
        self._inner = FAKE()
        self.max_side = self._inner.max_side
        self._value = value
        dims = dict(zip(("global_dim", "local_dim"), self.kinds[name], strict=True))
        settings = {"strength": strength, "taps": [{"level": 3, "names": ["a", "b"]}, None]}
        self.info = ExtractorInfo(name=name, weights=digest, settings=settings, **dims)

    @classmethod
    def from_pretrained(cls, name, weights=None, **settings):
        if weights is None:
            return cls(name, 1.0, "0" * 64, **settings)
        tensors, _ = load_weights(weights, name)
        return cls(name, float(tensors["value"]), file_hash(weights), **settings)

    def extract(self, pixels, size=None, *, local=True):
        seen = self._inner.extract(pixels, size)
        features = (
            seen.features if self.info.local_dim and (local or not self.info.global_dim) else None
        )
        vector = seen.global_descriptor + self._value * np.eye(8, dtype=np.float32)[0]
        vector = vector / np.linalg.norm(vector) if self.info.global_dim else None
        return Extraction(features, vector)


FAKE = None


@pytest.fixture
def home(tmp_path, monkeypatch, photo_factory, fake_extractor):
    global FAKE  # noqa: PLW0603
    FAKE = registry.EXTRACTORS["fake"]
    for name in Trained.kinds:
        monkeypatch.setitem(
            registry.EXTRACTORS,
            name,
            lambda name=name, **settings: Trained.from_pretrained(name, **settings),
        )
    for mate, kind in (("gem", "globals"), ("sift", "locals")):  # no networks in these tests
        monkeypatch.setitem(registry.EXTRACTORS, mate, lambda kind=kind: named(mate_of(kind), kind))
    for i in range(3):
        photo_factory(tmp_path / f"photos/place-{i}/{i}.png", seed=i)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCATE_INDEX", raising=False)
    return tmp_path


def mate_of(kind):
    return {"globals": "gem", "locals": "sift"}[kind]


def named(name, kind):
    made = Trained(kind, 1.0, None)
    made.info = ExtractorInfo(**{**vars(made.info), "name": name})
    return made


def weights_of(home, system, value=1.0, name=None):
    file = home / (name or f"{system}-{value}.safetensors")
    save_weights(file, {"value": torch.tensor(value)}, Record(system, {"depth": 1}))
    return file


def build(home, *weights, **options):
    return build_index(home / "photos", home / ".locate", weights=weights, **options)


# --- which extractor


@pytest.mark.parametrize(
    ("systems", "name", "weights"),
    [
        (["both"], "both", "{0}"),
        (["locals"], "gem+locals", "- {0}"),
        (["globals"], "globals+sift", "{0} -"),
        (["locals", "globals"], "globals+locals", "{1} {0}"),
    ],
)
def test_weights_alone_say_which_extractor(home, systems, name, weights):
    files = [weights_of(home, system, 1.5) for system in systems]
    made, by_part = first_extractor(None, files)
    assert made.info.name == name
    assert made.info.weights == weights.format(*(file_hash(f) for f in files))
    assert by_part == dict(zip(systems, files, strict=True))


def test_weights_go_to_the_part_that_they_name(home):
    file = weights_of(home, "locals", 1.5)
    made, by_part = first_extractor("both+locals", [file])
    assert made.info.weights == f"{'0' * 64} {file_hash(file)}"
    assert by_part == {"locals": file}
    assert first_extractor("locals", [file])[0].info.name == "locals"


def test_registry_passes_settings_and_weights(home):
    file = weights_of(home, "both", 2.0)
    made = registry.create("both", {"both": {"strength": 3.0}}, {"both": file})
    assert made.info.settings["strength"] == 3.0
    assert made._value == 2.0
    assert registry.create("both")._value == 1.0


def test_files_that_do_not_fit_are_refused_before_anything_is_made(home):
    both, locals_ = weights_of(home, "both"), weights_of(home, "locals")
    with pytest.raises(InputError, match=r"weights of both, which is no part of gem\+locals"):
        build(home, both, extractor="gem+locals")
    again = weights_of(home, "locals", 3.0)
    with pytest.raises(InputError, match="are both weights of locals"):
        build(home, locals_, again)
    with pytest.raises(InputError, match="parts for locals, both, globals together"):
        build(home, locals_, both, weights_of(home, "globals"))
    with pytest.raises(WeightsError, match="'moon', which no extractor"):
        build(home, weights_of(home, "moon"))
    with pytest.raises(WeightsError, match="does not exist"):
        build(home, home / "nowhere.safetensors")
    (home / "text.safetensors").write_text("hello")
    with pytest.raises(WeightsError, match="is no safetensors file"):
        build(home, home / "text.safetensors")
    with pytest.raises(UnknownNameError):
        build(home, both, extractor="moon")
    assert not (home / ".locate/weights").exists()


def test_the_shipped_extractors_refuse_weights(tmp_path):
    for name in ("sift", "gem"):
        file = tmp_path / "w.safetensors"
        save_weights(file, {"value": torch.ones(1)}, Record(name))
        with pytest.raises(WeightsError, match=f"{name} is not trained here"):
            build_index(tmp_path, tmp_path / ".locate", weights=[file], extractor=name)


def test_the_systems_that_can_be_trained_are_registered():
    assert {"d2net", "delf", "ur2kid"} <= set(registry.EXTRACTORS)


# --- the copy in the database


def test_the_database_needs_nothing_else(home):
    file = weights_of(home, "locals", 1.5)
    digest = file_hash(file)
    report = build(home, file)
    assert report.added == 3
    copy = home / f".locate/weights/{digest}.safetensors"
    assert file_hash(copy) == digest
    file.unlink()
    (home / "elsewhere").mkdir()
    (home / ".locate").rename(home / "elsewhere/.locate")
    index = home / "elsewhere/.locate"
    with locate.open(index) as db:
        assert db.query(home / "photos/place-1/1.png").verdict == MATCH
        assert db._extractor.info.weights == f"- {digest}"
        assert db._extractor._second._value == 1.5
        assert db._extractor.info.settings["locals"]["taps"][0]["names"] == ["a", "b"]
    info = database_info(index)
    assert (
        info.disk[f"weights/{digest}.safetensors"] == (index / "weights" / copy.name).stat().st_size
    )
    assert info.extractor.name == "gem+locals"
    assert check_database(index).problems == []


def test_more_photos_need_no_weights(home, photo_factory):
    build(home, weights_of(home, "both", 1.5))
    photo_factory(home / "photos/place-0/new.png", seed=9)
    assert build(home).added == 1
    assert build(home, home / "both-1.5.safetensors").unchanged == 4  # naming them again is fine
    with pytest.raises(DatabaseMismatchError, match=r"was not filled with .*both-2\.0"):
        build(home, weights_of(home, "both", 2.0))
    with pytest.raises(DatabaseMismatchError, match="was not filled with"):
        build(home, weights_of(home, "locals", 1.0))
    assert check_database(home / ".locate").problems == []
    # One that was filled without weights takes none later.
    build_index(home / "photos", home / "plain", extractor="both")
    with pytest.raises(DatabaseMismatchError, match="was not filled with"):
        build_index(home / "photos", home / "plain", weights=[home / "both-1.5.safetensors"])


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_lost_weights_are_noticed_and_can_be_brought_back(home, photo_factory, damage):
    file = weights_of(home, "both", 1.5)
    build(home, file)
    index = home / ".locate"
    copy = weights_files.file_of(index, file_hash(file))
    copy.unlink()
    if damage == "altered":  # a sound file of the same system, which would load
        shutil.copy(weights_of(home, "both", 2.0), copy)
    (problem,) = check_database(index).problems
    assert f"weights of both {'are missing' if damage == 'missing' else 'were altered'}" in problem
    assert "locate build-index PHOTOS --weights FILE" in problem
    photo = photo_factory(home / "photos/place-0/new.png", seed=9)
    with locate.open(index) as db, pytest.raises(DatabaseMismatchError, match="--weights FILE"):
        db.query(photo)
    with pytest.raises(DatabaseMismatchError, match=f"{damage}.*--weights FILE"):
        build(home)
    assert build(home, file).added == 1
    assert check_database(index).problems == []
    assert file_hash(copy) == file_hash(file)


def test_a_copy_that_cannot_be_written_leaves_no_half_file(home, monkeypatch):
    file = weights_of(home, "both", 1.5)

    def full(_source, target):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(kept_files.shutil, "copyfile", full)
        with pytest.raises(DatabaseError, match="No space left"):
            build(home, file)
    assert list((home / ".locate/weights").iterdir()) == []
    with Catalog.create(home / ".locate") as catalog:
        assert catalog.meta("extractor") is None  # nothing was begun
    assert build(home, file).added == 3


def test_a_search_by_local_features_with_weights(home):
    file = weights_of(home, "locals", 1.5)
    report = build(home, file, extractor="locals")
    assert (report.local.images, report.vectors) == (3, None)
    with locate.open(home / ".locate") as db:
        assert db.query(home / "photos/place-2/2.png").best.image == "place-2/2.png"


def test_the_command_line(home, capsys):
    one, two = weights_of(home, "locals", 1.5), weights_of(home, "globals", 1.5)
    command = ["build-index", "photos", "--weights", str(one), "--weights", str(two)]
    assert main(command) == exits.OK
    assert main(["info", "--json"]) == exits.OK
    out = capsys.readouterr().out
    found = json.loads(out[out.index("{") :])
    assert found["extractor"]["name"] == "globals+locals"
    assert main(["build-index", "photos", "--weights", "nowhere", "--index", "x"]) == exits.ERROR
    assert "nowhere does not exist" in capsys.readouterr().err
