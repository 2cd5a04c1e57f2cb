"""Rows of the catalogue as records, and blobs as arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from index.quantization import Quantizer, pack, packed_sizes, unpack
from locate.errors import DatabaseCorruptError, InputError
from locate.types import Array, Extraction, Features, PhotoInfo


@dataclass(frozen=True)
class FileState:
    """What tells whether a file is the one that was indexed; `mask` is the sha256 of its mask, ""
    without one."""

    sha256: str
    bytes: int
    mtime_ns: int
    mask: str = ""


@dataclass(frozen=True)
class ImageRow:
    """One image of the catalogue. `status` is "ok" or "failed"; then `error` has the reason."""

    id: int
    root_id: int
    path: str
    label: str | None
    status: str
    error: str | None
    file: FileState
    info: PhotoInfo
    indexed_at: str


@dataclass(frozen=True, eq=False)
class StoredExtraction:
    """What was seen in an image, as rows of the catalogue: to be copied without being quantized anew.
    None for what the extractor does not give."""

    features: dict[str, Any] | None
    vector: dict[str, Any] | None


@dataclass(frozen=True, eq=False)
class Entry:
    """What is to be written about one file: an extraction, or the reason why there is none."""

    root_id: int
    path: str
    label: str | None
    file: FileState
    info: PhotoInfo | None = None
    extraction: Extraction | StoredExtraction | None = field(default=None, repr=False)
    error: str | None = None


def checksum(*blobs: bytes) -> str:
    """16 hex digits that change when a bit of any blob does."""
    digest = hashlib.blake2b(digest_size=8)
    for blob in blobs:
        digest.update(blob)
    return digest.hexdigest()


def feature_row(
    features: Features, quantizer: Quantizer | None = None, sha256: str = ""
) -> dict[str, Any]:
    """A row of table `features`, but for the image's id. Without a quantizer (whose file has this
    sha256) keypoints stay float32: float16 would move them by a pixel beyond 1024."""
    if quantizer is None:
        forms = {"keypoints": "<f4", "scores": "<f4", "descriptors": "<f2"}
        blobs = {
            name: getattr(features, name).astype(form).tobytes() for name, form in forms.items()
        }
    else:
        blobs = pack(features, quantizer)
    row = {"count": len(features), "dim": features.descriptors.shape[1], **blobs}
    return {**row, "quantizer": sha256, "checksum": checksum(*blobs.values())}


def features_from(
    row: dict[str, Any], quantizer: Quantizer | None = None, strongest: int | None = None
) -> Features:
    """A row of table `features`, with path, width and height of its image, and the quantizer that it was
    written with -> `Features`, all or the strongest; `DatabaseCorruptError` if its checksum is wrong, or
    it makes no valid record."""
    n, dim = row["count"], row["dim"]
    blobs = {name: row[name] for name in ("keypoints", "scores", "descriptors")}
    sizes = {"keypoints": 8 * n, "scores": 4 * n, "descriptors": 2 * n * dim}
    if quantizer is not None:
        sizes = packed_sizes(n, quantizer)
    intact = {name: len(blob) for name, blob in blobs.items()} == sizes
    stored = f"the stored features of {row['path']}"
    if not intact or checksum(*blobs.values()) != row["checksum"]:
        raise DatabaseCorruptError(f"{stored} are damaged; run: locate check --repair")
    size = (row["width"] or 0, row["height"] or 0)
    try:
        if quantizer is not None:
            return unpack(row, size, quantizer, strongest)
        return Features(
            keypoints=np.frombuffer(blobs["keypoints"], "<f4").reshape(n, 2)[:strongest],
            scores=np.frombuffer(blobs["scores"], "<f4")[:strongest],
            descriptors=np.frombuffer(blobs["descriptors"], "<f2").reshape(n, dim)[:strongest],
            image_size=size,
        )
    except InputError as error:
        raise DatabaseCorruptError(
            f"{stored} make no sense ({error}); run: locate check --repair"
        ) from error


def vector_row(vector: Array) -> dict[str, Any]:
    """A row of table `vectors`, but for the image's id."""
    blob = vector.astype("<f4").tobytes()
    return {"dim": len(vector), "vector": blob, "checksum": checksum(blob)}
