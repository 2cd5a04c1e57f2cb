"""Rows of the catalogue as records, and blobs as arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

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
class Entry:
    """What is to be written about one file: an extraction, or the reason why there is none."""

    root_id: int
    path: str
    label: str | None
    file: FileState
    info: PhotoInfo | None = None
    extraction: Extraction | None = field(default=None, repr=False)
    error: str | None = None


def checksum(*blobs: bytes) -> str:
    """16 hex digits that change when a bit of any blob does."""
    digest = hashlib.blake2b(digest_size=8)
    for blob in blobs:
        digest.update(blob)
    return digest.hexdigest()


def feature_blobs(features: Features) -> dict[str, Any]:
    """Keypoints stay float32: float16 would move them by a pixel beyond 1024."""
    forms = {"keypoints": "<f4", "scores": "<f4", "descriptors": "<f2"}
    blobs = {name: getattr(features, name).astype(form).tobytes() for name, form in forms.items()}
    row = {"count": len(features), "dim": features.descriptors.shape[1], **blobs}
    return {**row, "checksum": checksum(*blobs.values())}


def features_from(row: dict[str, Any]) -> Features:
    """A row of table `features`, with path, width and height of its image -> `Features`;
    `DatabaseCorruptError` if its checksum is wrong, or it makes no valid record."""
    n, dim = row["count"], row["dim"]
    keypoints, scores, descriptors = row["keypoints"], row["scores"], row["descriptors"]
    intact = (len(keypoints), len(scores), len(descriptors)) == (8 * n, 4 * n, 2 * n * dim)
    stored = f"the stored features of {row['path']}"
    if not intact or checksum(keypoints, scores, descriptors) != row["checksum"]:
        raise DatabaseCorruptError(f"{stored} are damaged; run: locate check --repair")
    try:
        return Features(
            keypoints=np.frombuffer(keypoints, "<f4").reshape(n, 2),
            scores=np.frombuffer(scores, "<f4"),
            descriptors=np.frombuffer(descriptors, "<f2").reshape(n, dim),
            image_size=(row["width"] or 0, row["height"] or 0),
        )
    except InputError as error:
        raise DatabaseCorruptError(
            f"{stored} make no sense ({error}); run: locate check --repair"
        ) from error


def vector_blob(vector: Array) -> dict[str, Any]:
    blob = vector.astype("<f4").tobytes()
    return {"dim": len(vector), "vector": blob, "checksum": checksum(blob)}
