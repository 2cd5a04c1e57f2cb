"""What an older version wrote in full is quantized by `locate check --repair`, and answers as before."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

import index.catalog
import locate
from index.catalog import FILE, Catalog
from pipelines.cli.main import main
from pipelines.indexing.provenance import extractor_of, load_extractor

ARCHIVE = Path(__file__).parent / "data" / "before-rooms.tar.xz"


@pytest.fixture
def old(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def repair(folder: Path) -> int:
    return main(["check", "--repair", "--no-photos", "--index", str(folder)])


def test_an_index_becomes_small_and_answers_as_before(old, capsys):
    folder = old / "context.locate"
    query = old / "town/queries/church.jpg"
    with locate.open(folder) as db:
        before = db.query(query)
    with Catalog.open(folder) as catalog:
        full = [catalog.features(row.id) for row in catalog.images("ok")]
    size = (folder / FILE).stat().st_size
    assert repair(folder) == 0
    assert f"quantized the features of {len(full)} images" in capsys.readouterr().out
    assert (folder / FILE).stat().st_size < size / 2  # tables and indices weigh more in small ones
    with Catalog.open(folder) as catalog:
        assert catalog.unquantized() == []
        assert extractor_of(catalog) == load_extractor(catalog).info
        for row, features in zip(catalog.images("ok"), full, strict=True):
            now = catalog.features(row.id)
            step = max(features.image_size) / 65535
            assert np.abs(now.keypoints - features.keypoints).max() <= step
            cosines = (now.descriptors * features.descriptors.astype(np.float32)).sum(axis=1)
            assert np.median(cosines) > 0.85
    with locate.open(folder) as db:
        after = db.query(query)
    assert (after.label, after.best.image) == (before.label, before.best.image)
    assert after.best.inliers > 0.6 * before.best.inliers
    assert repair(folder) == 0
    assert "quantized" not in capsys.readouterr().out


def test_an_interrupted_repair_is_finished_by_the_next(old, monkeypatch, capsys):
    folder = old / "context.locate"
    shutil.copytree(folder, old / "whole.locate")
    real, calls = index.catalog.feature_row, []

    def fails_in_the_middle(*arguments):
        calls.append(arguments)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(index.catalog, "feature_row", fails_in_the_middle)
    with Catalog.create(folder) as catalog:
        count = len(catalog.unquantized())
        sha256 = index.quantization.store(folder, locate.extractors.bundled.QUANTIZERS["context"])
        with pytest.raises(KeyboardInterrupt):
            catalog.quantize(sha256, batch=1)
        assert len(catalog.unquantized()) == count - 2
    monkeypatch.undo()
    for name in ("context.locate", "whole.locate"):
        assert repair(old / name) == 0
    with Catalog.open(folder) as one, Catalog.open(old / "whole.locate") as other:
        assert one.unquantized() == []
        for row in one.images("ok"):
            found = (catalog.features(row.id).descriptors for catalog in (one, other))
            np.testing.assert_array_equal(*found)


def test_a_lost_quantizer_is_noticed_and_put_back(old, capsys):
    folder = old / "context.locate"
    repair(folder)
    (copy,) = (folder / "quantizers").iterdir()
    capsys.readouterr()
    for damage in (copy.unlink, lambda: copy.write_bytes(b"nothing")):
        damage()
        assert main(["check", "--no-photos", "--index", str(folder)]) != 0
        assert "quantizer" in capsys.readouterr().out
        assert repair(folder) == 0
        assert "put the quantizer" in capsys.readouterr().out
        assert main(["check", "--no-photos", "--index", str(folder)]) == 0


def test_a_new_index_is_quantized_and_small(old):
    folder = old / "new.locate"
    locate.build_index(old / "town/landmarks", folder, workers=1)
    with Catalog.open(folder) as catalog:
        assert catalog.unquantized() == []
        counts, taken = catalog.counts(), catalog.bytes_per_image()
    del taken["global descriptor"]
    assert sum(taken.values()) < 46 * counts["features"] / counts["ok"] + 30
    with locate.open(folder) as db:
        assert db.query(old / "town/queries/church.jpg").label == "church"


def test_a_map_keeps_its_features_in_full(old, capsys):
    folder = old / "map/features"
    with Catalog.open(folder) as catalog:
        count = len(catalog.unquantized())
    assert repair(folder) == 0
    assert "quantized" not in capsys.readouterr().out
    with Catalog.open(folder) as catalog:
        assert len(catalog.unquantized()) == count > 0


def test_an_old_index_is_checked_without_being_changed(old):
    folder = old / "context.locate"
    before = (folder / FILE).read_bytes()
    assert main(["check", "--no-photos", "--index", str(folder)]) == 0
    assert (folder / FILE).read_bytes() == before
