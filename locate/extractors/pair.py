"""One extractor for the global descriptor and another for the local features, as if they were one."""

from __future__ import annotations

from dataclasses import replace

from locate.errors import InputError
from locate.extractors.base import Extractor, Size
from locate.types import Array, Extraction


class Pair:
    """`first` gives the global descriptor, `second` the local features."""

    def __init__(self, first: Extractor, second: Extractor) -> None:
        if not first.info.global_dim:
            raise InputError(f"{first.info.name} gives no global descriptor; name it second")
        if not second.info.local_dim:
            raise InputError(f"{second.info.name} gives no local features; name it first")
        self._first, self._second = first, second
        self.max_side = max(first.max_side, second.max_side)
        parts = (first.info, second.info)
        self.info = replace(
            second.info,
            name="+".join(part.name for part in parts),
            weights=" ".join(part.weights or "-" for part in parts),
            settings={part.name: dict(part.settings) for part in parts},
            global_dim=first.info.global_dim,
        )

    def extract(self, pixels: Array, size: Size | None = None, *, local: bool = True) -> Extraction:
        return Extraction(
            features=self._second.extract(pixels, size).features if local else None,
            global_descriptor=self._first.extract(pixels, size).global_descriptor,
        )
