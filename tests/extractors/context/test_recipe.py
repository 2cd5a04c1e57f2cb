"""`locate train context`: what it fits, and that the extractor takes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locate.errors import InputError
from locate.extractors.bundled import BUNDLED
from locate.extractors.context.extractor import Context
from locate.extractors.recipes import create_recipe
from locate.extractors.weights import in_float16, load_weights
from locate.training.data.correspondences import MatchedPair, save_pairs
from pipelines.cli import exit_codes as exits
from pipelines.cli.main import main

SMALL = ["--set", "photos=4", "--set", "keypoints=60", "--set", "points=40"]


@pytest.fixture
def data(tmp_path, photo_factory):
    """Ten photos in pairs of the same picture, one of them brighter; 3 and 4 are held out."""
    folder = tmp_path / "data"
    ends = [(0, 1), (2, 5), (3, 4), (6, 7), (8, 9)]
    for seed, pair in enumerate(ends):
        for i, quality in zip(pair, (95, 65), strict=True):
            photo_factory(folder / f"photos/{i}.jpg", size=(320, 240), seed=seed, quality=quality)
    rng = np.random.default_rng(0)
    pairs = []
    for pair in ends:
        points = rng.uniform(10, 220, (50, 2)).astype(np.float32)
        names = (folder / f"photos/{i}.jpg" for i in pair)
        pairs.append(MatchedPair(*names, points, points, "by hand"))
    save_pairs(tmp_path / "pairs.npz", pairs, folder)
    return folder


def test_a_training_makes_weights_that_the_extractor_takes(data, tmp_path, texture):
    out = tmp_path / "out"
    command = ["train", "context", "--data", str(data), "--out", str(out), *SMALL]
    small = ["--set", f"matches={tmp_path / 'pairs.npz'}", "--set", "own=16", "--set", "context=24"]
    assert main([*command, *small]) == exits.OK
    tensors, record = load_weights(out / "weights.safetensors", "context")
    shipped, shipped_record = load_weights(BUNDLED["context"], "context")
    assert tensors.keys() == shipped.keys()
    assert record.settings == shipped_record.settings
    assert "4 pairs of photos of data (160 matches); three views of each of 8 photos" in record.data
    assert record.command.startswith("locate train context")
    for name in ("own_turned", "own_upright"):
        torch.testing.assert_close(
            tensors[name] @ tensors[name].T, torch.eye(16), atol=1e-3, rtol=0
        )
    made = Context.from_pretrained(out / "weights.safetensors")
    assert made.info.parts == (16, 16, 24)
    assert made.extract(texture((320, 240))).features.descriptors.shape[1] == 56


def test_only_what_is_kept_of_own_descriptors(data, tmp_path):
    out, old = tmp_path / "out", BUNDLED["context"]
    command = ["train", "context", "--data", str(data), "--out", str(out), *SMALL]
    assert main([*command, "--set", f"context_of={old}"]) == exits.OK
    tensors, record = load_weights(out / "weights.safetensors", "context")
    shipped, shipped_record = load_weights(old, "context")
    assert record.data == f"{shipped_record.data}; the 60 strongest keypoints of 4 photos"
    for name in ("mean", "context", "upright.weight", "upright.bias"):
        kept = in_float16({name: shipped[name]})[name].float()
        assert torch.equal(tensors[name], kept)
    assert tensors["own_turned"].shape == shipped["own_turned"].shape
    assert not torch.equal(tensors["own_turned"], shipped["own_turned"])


def test_what_it_needs(data, tmp_path):
    with pytest.raises(InputError, match="name their file by --set matches=FILE"):
        create_recipe("context").prepare(data, tmp_path)
    with pytest.raises(InputError, match="leave out either"):
        create_recipe("context", {"matches": "a", "context_of": "b"})
    with pytest.raises(InputError, match="own at most 128"):
        create_recipe("context", {"own": 129})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no photos"):
        create_recipe("context", {"matches": "a"}).prepare(tmp_path / "empty", tmp_path)
