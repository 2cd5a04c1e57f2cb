"""What comes with the package: weights that load, records that say whose they are, and the list."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import locate
from index.catalog import Catalog
from locate.errors import DatabaseMismatchError, WeightsError
from locate.extractors import bundled, registry
from locate.extractors.base import ExtractorInfo
from locate.extractors.recipes import create_recipe
from locate.extractors.registry import EXTRACTORS, create, list_models
from locate.extractors.weights import file_hash, load_weights
from locate.matching.descriptors import match_mutual
from locate.matching.evidence import chance_inliers
from locate.retrieval import verdict
from pipelines.cli.main import main
from pipelines.indexing.build import build_index
from pipelines.indexing.provenance import sfm_extractor
from pipelines.mapping.build import build_map
from pipelines.mapping.features import require_info
from pipelines.town.town import make_town
from tests.helpers.fake_extractor import FakeExtractor

FIT = "python benchmarks/context.py fit"  # as it was called then
COMMANDS = {
    "context": FIT,
    **{name: f"locate train {name}" for name in bundled.BUNDLED if name != "context"},
}


@pytest.mark.parametrize("name", bundled.BUNDLED)
def test_shipped_weights_say_where_they_come_from(name):
    record = bundled.record_of(name)
    assert record.system == name
    assert record.licence == "Apache-2.0"
    assert record.command.startswith(COMMANDS[name])
    assert "eval" not in record.command + record.data
    assert record.seconds > 1
    assert re.fullmatch("[0-9a-f]{7,40}( [0-9a-f]{7,40})*", record.commit)  # of each part
    assert not re.search(r"(^| )/", record.command)  # a path of one machine
    assert bundled.BUNDLED[name].stat().st_size < 20e6
    assert file_hash(bundled.BUNDLED[name]) in create(name).info.weights.split()


def test_the_shipped_network_knows_a_photo_that_is_turned_and_half_as_large(texture):
    """Not by quarter turns alone, which its construction takes care of."""
    import cv2

    pixels = texture((480, 400), seed=5)
    turn = cv2.getRotationMatrix2D((239.5, 199.5), 37, 0.7)
    other = cv2.warpAffine(pixels, turn, (480, 400), flags=cv2.INTER_AREA, borderValue=128)
    extractor = create("steered", {"steered": {"max_keypoints": 800}})
    a, b = (extractor.extract(image).features for image in (pixels, other))
    matches = match_mutual(a.descriptors, b.descriptors)
    moved = a.keypoints[matches[:, 0]] @ turn[:, :2].T + turn[:, 2]
    right = np.linalg.norm(moved - b.keypoints[matches[:, 1]], axis=1) < 3
    assert right.sum() > 100
    assert right.mean() > 0.5


def test_the_list_names_every_extractor(capsys):
    assert main(["models", "--json"]) == 0
    found = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert found.keys() == EXTRACTORS.keys()
    for name in bundled.BUNDLED:
        assert found[name]["record"]["command"].startswith(COMMANDS[name])
    for name, model in found.items():
        if model["weights"].startswith("none: `locate train"):
            with pytest.raises(WeightsError, match=f"make some with: locate train {name}"):
                create(name)
            continue
        info = create(name).info
        assert ("global descriptor" in model["gives"]) == (info.global_dim > 0), name
        assert ("local features" in model["gives"]) == (info.local_dim > 0), name
        assert model["licence"]
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in EXTRACTORS)
    for name in bundled.BUNDLED:
        minutes = max(1, round(bundled.record_of(name).seconds / 60))
        assert f"trained by this project, {minutes} min" in text


def test_scores_of_other_weights_are_not_shown(tmp_path, monkeypatch):
    name = next(iter(bundled.BUNDLED))
    sha256 = file_hash(bundled.BUNDLED[name])
    file = tmp_path / "scores.json"
    monkeypatch.setattr(bundled, "SCORES", file)
    assert bundled.scores_of(name) == {}
    file.write_text(json.dumps({name: {"weights": sha256, "scores": {"MMA@3": 0.5}}}))
    assert bundled.scores_of(name) == {"MMA@3": 0.5}
    assert next(m for m in list_models() if m.name == name).scores == {"MMA@3": 0.5}
    file.write_text(json.dumps({name: {"weights": "other", "scores": {"MMA@3": 0.5}}}))
    assert bundled.scores_of(name) == {}


@pytest.mark.parametrize(
    ("name", "in_queries", "in_maps"),
    [
        ("gem+sift", 0.8, 0.85),
        ("gem+steered", 0.9, 0.9),
        ("context", 0.96, 0.98),
    ],
)
def test_matches_pass_the_ratio_test_of_their_extractor(
    name, in_queries, in_maps, photo_factory, tmp_path, monkeypatch
):
    """In queries and in maps; RootSIFT is judged by what each stage chose for it."""
    stages = ("retrieval.verification", "mapping.matching", "localization.matcher")
    seen = {stage: set() for stage in stages}

    def spying(module):
        def spy(a, b, ratio=None):
            seen[module].add(ratio)
            return match_mutual(a, b, ratio)

        return spy

    for module in seen:
        monkeypatch.setattr(f"pipelines.{module}.match_mutual", spying(module))
    town = make_town(tmp_path / "town", landmarks=1, views=5, size=(320, 240))
    photos = town.root / "landmarks"
    report = build_map(tmp_path / "map", images=photos, extractor=name, workers=1)
    assert report.registered >= 4
    photo = next(photos.rglob("*.jpg"))
    with locate.Localizer(tmp_path / "map", workers=1) as localizer:
        assert localizer.localize(photo).verdict != "not localized"
    with locate.open(tmp_path / "map/features") as db:
        assert db.query(photo).candidates
    assert seen == {stage: {in_maps} for stage in stages} | {"retrieval.verification": {in_queries}}


def test_an_extractor_without_a_ratio_has_the_fingerprint_it_had():
    """Else databases and calibrations would be for another one."""
    info = create("gem+sift").info
    assert not {"ratio", "query_ratio", "parts", "query_shares"} & json.loads(info.to_json()).keys()
    assert info.fingerprint in verdict.bundled()
    other = replace(info, ratio=0.9)
    assert other.fingerprint != info.fingerprint
    assert ExtractorInfo.from_json(other.to_json()) == other


def test_what_is_verified_as_ever_has_the_fingerprint_it_had():
    plain = ExtractorInfo("x", "hash", {"a": 1}, local_dim=8)
    assert (plain.verification, plain.max_error) == ("fundamental", 2.0)
    assert not {"verification", "max_error"} & json.loads(plain.to_json()).keys()
    # sha256 of what was stored before there was a choice
    stored = (
        '{"global_dim": 0, "local_dim": 8, "name": "x", "rotation_invariant": false, '
        '"settings": {"a": 1}, "weights": "hash"}'
    )
    assert plain.to_json() == stored
    assert ExtractorInfo.from_json(stored) == plain
    other = replace(plain, verification="affine", max_error=15.0)
    assert ExtractorInfo.from_json(other.to_json()) == other
    assert (
        len({plain.fingerprint, other.fingerprint, replace(other, max_error=9.0).fingerprint}) == 3
    )


@pytest.mark.parametrize(
    ("name", "ratios"),
    [
        ("d2net", (0.98, 0.95)),
        ("delf", (0.98, None)),
        ("ur2kid", (0.98, None)),
        ("gem+d2net", (0.98, 0.95)),
    ],
)
def test_published_systems_are_not_judged_by_the_ratio_of_sift(name, ratios):
    info = create(name).info
    assert (info.ratio, info.query_ratio) == ratios


@pytest.mark.parametrize("name", ["delf", "gem+delf"])
def test_proofs_of_delf_are_affine(name):
    info = create(name).info
    assert (info.verification, info.max_error) == ("affine", 15.0)


class Affine(FakeExtractor):
    """Points on a grid of 16 pixels, as DELF's."""

    def __init__(self):
        super().__init__()
        self.info = replace(self.info, name="affine", verification="affine", max_error=15.0)


def test_a_query_is_judged_by_the_model_of_its_extractor(photo_factory, tmp_path, monkeypatch):
    monkeypatch.setitem(EXTRACTORS, "affine", Affine)
    monkeypatch.setitem(EXTRACTORS, "fake", FakeExtractor)
    for i in range(4):
        photo_factory(tmp_path / f"photos/{i}/a.png", seed=i)
    for name in ("affine", "fake"):
        build_index(tmp_path / "photos", tmp_path / name, extractor=name)
        with locate.open(tmp_path / name) as db:
            best = db.query(tmp_path / "photos/2/a.png").best
        seen = best.verification
        expected = "affine" if name == "affine" else "fundamental"
        assert (best.image, seen.kind, seen.model) == ("2/a.png", expected, expected)
        assert seen.inlier_count > 20
        chance = chance_inliers(len(seen.matches), expected)
        assert best.evidence == seen.inlier_count - chance
        if name == "affine":
            np.testing.assert_allclose(seen.matrix, np.eye(3), atol=1e-3)


def test_a_database_from_before_is_judged_as_it_was(photo_factory, tmp_path, monkeypatch):
    """What changed is how matches are judged, not what features are: they compare, and the rule that
    was calibrated for the database still holds."""
    monkeypatch.setitem(EXTRACTORS, "affine", Affine)
    photo = photo_factory(tmp_path / "photos/0/a.png", seed=1)
    build_index(tmp_path / "photos", tmp_path / "i", extractor="affine")
    now = Affine().info
    before = replace(now, verification="fundamental", max_error=2.0)
    assert now.compares_with(before)
    assert not now.compares_with(replace(before, settings={"patch": 8}))
    assert not now.compares_with(replace(before, parts=(8, 8)))
    with Catalog.create(tmp_path / "i") as catalog, catalog.transaction():
        catalog.set_meta("extractor", before.to_json())
    with locate.open(tmp_path / "i") as db:
        best = db.query(photo).best
        assert best.verification.kind == "fundamental"
        assert db.calibration.extractor == before.fingerprint
    report = build_index(tmp_path / "photos", tmp_path / "i")
    assert report.unchanged == 1
    with Catalog.create(tmp_path / "i") as catalog, catalog.transaction():
        catalog.set_meta("extractor", replace(before, settings={"patch": 8}).to_json())
    with locate.open(tmp_path / "i") as db, pytest.raises(DatabaseMismatchError, match="other"):
        db.query(photo)


def test_what_an_extractor_of_another_version_remembered_is_read():
    info = create("context").info
    assert info.parts
    assert ExtractorInfo.from_json(info.to_json()) == info
    stored = json.loads(info.to_json()) | {"what is no more": 0.9}
    assert ExtractorInfo.from_json(json.dumps(stored)) == info


@pytest.mark.parametrize(
    ("command", "default"),
    [
        ("build-index", registry.DEFAULT),
        ("build-map", registry.SFM_DEFAULT),
        ("import-map", registry.DEFAULT),
    ],
)
def test_help_names_the_default(command, default, capsys):
    assert main([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"what looks at the photos (default: {default}" in text


def test_a_map_from_photos_alone_has_a_default_of_its_own(photo_factory, tmp_path):
    for folder, name, weights, expected in (
        ("new", None, (), registry.SFM_DEFAULT),
        ("named", "sift", (), "sift"),
        ("trained", None, (tmp_path / "w",), None),
    ):
        with Catalog.create(tmp_path / folder) as catalog:
            assert sfm_extractor(catalog, name, weights) == expected
    photo_factory(tmp_path / "photos/a.jpg")
    build_index(tmp_path / "photos", tmp_path / "filled")
    with Catalog.open(tmp_path / "filled") as catalog:
        assert require_info(catalog).name == registry.DEFAULT
        assert sfm_extractor(catalog, None, ()) is None  # the one that filled it


@pytest.mark.parametrize("name", ["d2net", "lfnet", "lift", "sekd", "unsuperpoint", "ur2kid"])
def test_a_training_starts_from_them(name):
    """SuperPoint, DELF and `steered`, which need photos for that, have tests of their own."""
    tensors, record = load_weights(bundled.BUNDLED[name], name)
    plain = create_recipe(name)
    recipe = create_recipe(name, {k: v for k, v in record.settings.items() if hasattr(plain, k)})
    network = recipe.network()
    recipe.start_from(network, tensors)
    kept = recipe.tensors(network)
    assert kept.keys() == tensors.keys()
    assert all(torch.equal(kept[key], tensors[key]) for key in kept)
