"""In which numbers networks compute, and that it hardly matters."""

import numpy as np
import pytest
import torch

from locate.errors import UnknownNameError
from locate.extractors import registry
from locate.matching.descriptors import match_mutual
from locate.precision import VARIABLE, precision
from pipelines.retrieval.verification import reweighted

CPU = torch.device("cpu")


@pytest.fixture
def unset(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("able", "device", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "cpu", torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, "cpu", torch.bfloat16),
        ({"avx512_bf16": False, "avx2": True}, "cpu", torch.float32),
        ({}, "cpu", torch.float32),
        ({"avx512_bf16": True}, "cuda", torch.float32),
    ],
)
def test_the_processor_decides(unset, able, device, expected):
    unset.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert precision(torch.device(device)) == expected


def test_an_old_torch_does_not_know(unset):
    unset.delattr(torch.cpu, "get_capabilities", raising=False)
    assert precision(CPU) == torch.float32


def test_the_environment_decides_otherwise(unset):
    for name, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        unset.setenv(VARIABLE, name)
        assert precision(CPU) == expected
    unset.setenv(VARIABLE, "float8")
    with pytest.raises(UnknownNameError, match=r"LOCATE_PRECISION.*float8.*bfloat16"):
        precision(CPU)


@pytest.fixture(scope="module")
def both():
    """`gem+steered` and `context` in float32 and in bfloat16."""
    made = []
    for name in ("float32", "bfloat16"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(VARIABLE, name)
            made.append([registry.create(kind) for kind in ("gem+steered", "context")])
    return made


@pytest.mark.parametrize("kind", [0, 1])
def test_what_is_seen_is_the_same_but_for_the_last_digits(both, texture, kind):
    exact, fast = (extractors[kind] for extractors in both)
    assert exact.info == fast.info  # an index made by one can be asked by the other
    a, b = (e.extract(texture((500, 380), seed=2)) for e in (exact, fast))
    np.testing.assert_array_equal(a.features.keypoints, b.features.keypoints)
    cosines = np.sum(a.features.descriptors * b.features.descriptors, axis=1)
    assert np.median(cosines) > 0.999
    assert cosines.min() > 0.98
    assert not np.array_equal(a.features.descriptors, b.features.descriptors)
    assert a.global_descriptor @ b.global_descriptor > 0.99
    assert not np.array_equal(a.global_descriptor, b.global_descriptor)


@pytest.mark.parametrize("kind", [0, 1])
def test_one_is_matched_to_the_other(both, texture, kind):
    """A photo to a part of it that is turned by a quarter, in two precisions, as queries do."""
    exact, fast = (extractors[kind] for extractors in both)
    pixels = texture((448, 416), seed=5)
    part = np.ascontiguousarray(np.rot90(pixels[:384, 32:]))
    info = exact.info
    first = reweighted(exact.extract(pixels).features, info).descriptors
    found = [reweighted(e.extract(part).features, info).descriptors for e in (exact, fast)]
    ratio = info.query_ratio or info.ratio
    same, mixed = (set(map(tuple, match_mutual(first, f, ratio).tolist())) for f in found)
    assert len(same) > 200
    assert len(same & mixed) > 0.95 * len(same | mixed)
