"""`locate models`: what can be used at once, whose it is, and how good."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.cli import exit_codes as exits

_IMAGENET = "Apache-2.0 (TensorFlow's; the package that brings them states none)"


@dataclass(frozen=True)
class Model:
    """One line of the list.

    Attributes:
        name: for `--extractor`.
        gives: "global descriptor", "local features" or both.
        weights: whose they are.
        licence: of the weights; of the code where there are none.
        megabytes: of the weights.
        scores: by measure, see docs/benchmarks/accuracy.md.
        record: how they were trained, if here.
    """

    name: str
    gives: str
    weights: str
    licence: str
    megabytes: float
    scores: dict[str, float]
    record: dict[str, Any] | None = None


def add_models_parser(command: Callable[..., argparse.ArgumentParser]) -> None:
    command(
        "models",
        "list the extractors and the weights that come with them: licence, size, scores",
        "locate models",
    )


def models(a: argparse.Namespace) -> int:
    from locate.util.printable import in_markup as escape
    from pipelines.cli.tables import console, new_table

    found = list_models()
    if a.json:
        print(json.dumps([asdict(model) for model in found], indent=1))
        return exits.GOOD
    table = new_table("name", "gives", "weights", "licence", "MB", "scores", right=("MB",))
    for model in found:
        size = f"{model.megabytes:.1f}" if model.megabytes else ""
        scores = ", ".join(f"{name} {value:.3g}" for name, value in model.scores.items())
        cells = (model.name, model.gives, model.weights, model.licence, size, scores)
        table.add_row(*map(escape, cells))
    console().print(table)
    return exits.GOOD


def list_models() -> list[Model]:
    """Every extractor, the ready ones first."""
    from locate.extractors.backbones.efficientnet import imagenet_weights_path
    from locate.extractors.bundled import SHIPPED, record_of, scores_of
    from locate.extractors.registry import EXTRACTORS

    local, whole = "local features", "global descriptor"
    imagenet = imagenet_weights_path().stat().st_size / 1e6
    found = []
    for name, path in SHIPPED.items():
        record = record_of(name)
        trained = f"trained by this project, {max(1, round(record.seconds / 60))} min"
        megabytes, both = path.stat().st_size / 1e6, local
        if name != "steered":  # a join of two that exist
            trained += ", on steered's and ImageNet's"
            megabytes += SHIPPED["steered"].stat().st_size / 1e6 + imagenet
            both = f"{whole}, {local}"
        scores = scores_of(name)
        found.append(Model(name, both, trained, record.licence, megabytes, scores, asdict(record)))
    found += [
        Model("gem", whole, "ImageNet, by TensorFlow's authors", _IMAGENET, imagenet, {}),
        Model("sift", local, "none: classical", "Apache-2.0 (OpenCV)", 0.0, {}),
    ]
    start = "none: ImageNet alone until `locate train` has run"
    gives = {"ur2kid": f"{whole}, {local}"}
    for name in EXTRACTORS:
        if name not in {model.name for model in found}:
            found.append(Model(name, gives.get(name, local), start, _IMAGENET, imagenet, {}))
    return found
