"""What every extractor is: pixels in, local features and / or a global descriptor out.

To add one: implement `Extractor` in a folder of its own, add an entry to `registry.EXTRACTORS`; the
contract test `tests/extractors/test_contract.py` then runs over it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from locate.errors import InputError
from locate.matching.two_view import MAX_EPIPOLAR_ERROR
from locate.types import FUNDAMENTAL, Array, Extraction, Features

Size = tuple[int, int]  # (width, height) in pixels

# What says how matches are judged, not what features are.
_JUDGED = ("ratio", "query_ratio", "query_shares", "verification", "max_error")
_LATER = ("parts", *_JUDGED)  # what infos did not have from the beginning


@dataclass(frozen=True)
class ExtractorInfo:
    """Who an extractor is; what a database remembers of it."""

    name: str  # as in the registry
    weights: str | None  # sha256 of the weights file; None without any
    # All that changes its output, JSON-able.
    settings: Mapping[str, Any] = field(default_factory=dict)
    global_dim: int = 0  # length of the global descriptor; 0 if it has none
    local_dim: int = 0  # length of a local descriptor; 0 if it has none
    rotation_invariant: bool = False  # local descriptors hardly change when the image is rotated
    # Of Lowe's test, by which right matches of these descriptors are best told from wrong ones; None
    # where that of each stage, which was chosen for RootSIFT, does.
    ratio: float | None = None
    query_ratio: float | None = None  # in queries, where a match has to be a proof; None if `ratio`
    parts: tuple[int, ...] = ()  # lengths of a local descriptor's parts, if of several
    # Of a cosine, which each part has in queries (`locate.matching.descriptors.weighted`); empty if as
    # they are stored.
    query_shares: tuple[float, ...] = ()
    verification: str = FUNDAMENTAL  # the model of the camera's motion that proves a place
    max_error: float = MAX_EPIPOLAR_ERROR  # from it, in pixels of what the extractor looks at

    def to_json(self) -> str:
        values = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            # Databases and calibrations from before there was one stay valid.
            if f.name not in _LATER or getattr(self, f.name) != f.default
        }
        return json.dumps(values | {"settings": dict(self.settings)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ExtractorInfo:
        """What other versions of `locate` remembered besides is left out."""
        stored = json.loads(text)
        values = {f.name: stored[f.name] for f in fields(cls) if f.name in stored}
        for name in ("parts", "query_shares"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)

    @property
    def fingerprint(self) -> str:
        """A short hash that changes with anything that changes the output, or how it is judged."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    def compares_with(self, other: ExtractorInfo) -> bool:
        """Whether the descriptors of both are the same, however their matches are judged."""
        default: dict[str, Any] = {f.name: f.default for f in fields(self) if f.name in _JUDGED}
        return replace(self, **default).to_json() == replace(other, **default).to_json()


@runtime_checkable
class Extractor(Protocol):
    """Local features, a global descriptor, or both in one pass.

    No more than `max_side` pixels along the long side of a photo are looked at. `extract` must be
    safe to call from several threads at once."""

    @property
    def info(self) -> ExtractorInfo: ...

    @property
    def max_side(self) -> int: ...

    def extract(self, pixels: Array, size: Size | None = None, *, local: bool = True) -> Extraction:
        """The features of one image, H x W x 3 uint8, RGB; keypoints in pixels of the original, whose
        (width, height) is `size` if `pixels` is a reduced copy of it. `local` is False if nobody wants
        the local features, which may save work."""
        ...


def require_positive(**settings: float) -> None:
    """`InputError` if one of these settings is below 1."""
    if min(settings.values()) < 1:
        names, values = (" and ".join(map(str, words)) for words in (settings, settings.values()))
        raise InputError(f"{names} must be at least 1, got {values}")


def no_features(size: tuple[int, int], dim: int) -> Features:
    """Of a photo of this size (width, height), descriptors `dim` long."""
    nothing = np.zeros(0, np.float32)
    return Features(nothing.reshape(0, 2), nothing, nothing.reshape(0, dim), size)
