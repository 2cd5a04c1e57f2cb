"""Weights files: they come back as written, say where they are from, and nothing else passes for one."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from locate.errors import WeightsError
from locate.extractors import weights
from locate.extractors.weights import (
    Record,
    in_float16,
    load_into,
    load_weights,
    read_record,
    save_weights,
)

RECORD = Record(
    system="delf",
    settings={"backbone": "lite0", "dim": 40},
    data="12 photos",
    command="locate train delf",
    commit="abc",
    seconds=12.5,
    scores={"loss": 0.25},
    licence="Apache-2.0",
)


def test_round_trip(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "t": torch.randn(4, 3).T}
    digest = save_weights(tmp_path / "x" / "w.safetensors", tensors, RECORD)
    found, record = load_weights(tmp_path / "x" / "w.safetensors", "delf")
    assert record == RECORD == read_record(tmp_path / "x" / "w.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[k], tensors[k]) for k in tensors)
    assert digest == weights.file_hash(tmp_path / "x" / "w.safetensors")
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["w.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "w.safetensors"
    save_weights(file, {"a": torch.zeros(1)}, RECORD)
    old = file.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_weights(file, {"a": torch.ones(1)}, RECORD)
    assert file.read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 1


def test_the_wrong_system_is_named(tmp_path):
    save_weights(tmp_path / "w", {"a": torch.zeros(1)}, RECORD)
    with pytest.raises(WeightsError, match="weights of delf, not of d2net"):
        load_weights(tmp_path / "w", "d2net")


def test_files_that_are_none(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        read_record(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(WeightsError, match="no safetensors file"):
        read_record(tmp_path / "text")
    with pytest.raises(WeightsError, match="no safetensors file"):
        read_record(tmp_path)
    save_weights(tmp_path / "w", {"a": torch.zeros(1000)}, RECORD)
    (tmp_path / "half").write_bytes((tmp_path / "w").read_bytes()[:2000])
    with pytest.raises(WeightsError, match="no safetensors file"):
        load_weights(tmp_path / "half")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [(None, "no record"), ({"locate": "{"}, "cannot be read"), ({"locate": '{"x": 1}'}, "cannot")],
)
def test_safetensors_of_others(tmp_path, metadata, message):
    save_file({"a": torch.zeros(1)}, tmp_path / "w", metadata)
    with pytest.raises(WeightsError, match=message):
        load_weights(tmp_path / "w")


def test_tensors_that_do_not_fit_are_named(tmp_path):
    layer = torch.nn.Linear(2, 3)
    with pytest.raises(WeightsError, match=r"w\.safetensors does not fit.*bias"):
        load_into(layer, {"weight": torch.zeros(3, 2)}, tmp_path / "w.safetensors")


def test_exported_matrices_are_float16_and_what_has_no_place_in_it_is_not(tmp_path):
    tensors = {
        "matrix": torch.tensor([[0.1, 3e-4], [2.0, -7.0]]),
        "huge": torch.tensor([[1e6, 1.0]]),
        "bias": torch.tensor([0.1, 0.2]),
        "count": torch.tensor([[3, 4]]),
    }
    stored = in_float16(tensors)
    kinds = {name: tensor.dtype for name, tensor in stored.items()}
    half, single = torch.float16, torch.float32
    assert kinds == {"matrix": half, "huge": single, "bias": single, "count": torch.int64}
    save_weights(tmp_path / "w.safetensors", stored, Record("toy"))
    loaded, _ = load_weights(tmp_path / "w.safetensors")
    assert loaded["matrix"].dtype == single
    torch.testing.assert_close(loaded["matrix"], tensors["matrix"], rtol=1e-3, atol=0)
    assert torch.equal(loaded["huge"], tensors["huge"])
