"""Local features in a tenth of their bytes: product quantization of descriptors, fixed-point keypoints.

Optimized product quantization (Ge et al., "Optimized Product Quantization", PAMI 2014; Jégou et al.,
"Product Quantization for Nearest Neighbor Search", PAMI 2011): each part of a descriptor is turned by a
rotation and cut into pieces, and of each piece one byte is kept, which of 256 centroids is nearest.
`benchmarks/ablations/quantizer.py` learns them and measures what is lost.

A database that uses a quantizer keeps a copy of it, under its sha256, in `quantizers/`; rows that were
written without one, or with another, stay readable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from index.kept_files import file_in, keep
from locate.errors import DatabaseCorruptError, InputError
from locate.types import Array, Features
from locate.util.files import is_intact

FOLDER = "quantizers"
KEY = "quantizer"  # of the catalogue's meta: the sha256 of the one that rows are written with
CENTROIDS = 256  # of a piece: their numbers fill a byte
_FIXED = 65535  # largest number of the fixed-point forms, two bytes
_TINY = 1e-6  # a length that is less is none
_CURE = "run: locate check --repair"


@dataclass(frozen=True, eq=False)
class Quantizer:
    """Of descriptors in parts, each a direction and a length of its own.

    Attributes:
        rotations: by part, E x D float32, orthonormal columns or (E < D) rows.
        centroids: by part, M x 256 x (E / M) float32.
    """

    rotations: tuple[Array, ...]
    centroids: tuple[Array, ...]

    def __post_init__(self) -> None:
        for rotation, centroids in zip(self.rotations, self.centroids, strict=True):
            pieces, count, width = centroids.shape
            if count != CENTROIDS or len(rotation) != pieces * width:
                raise InputError(
                    f"a quantizer of {pieces} x {count} centroids of {width} numbers does not fit a "
                    f"rotation to {len(rotation)}"
                )

    @classmethod
    def read(cls, file: Path) -> Quantizer:
        """`InputError` if the file is none."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            tensors = load_file(file)
            count = len(tensors) // 2
            return cls(
                tuple(tensors[f"rotation.{i}"].astype(np.float32) for i in range(count)),
                tuple(tensors[f"centroids.{i}"].astype(np.float32) for i in range(count)),
            )
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{file} is no quantizer ({error})") from error

    @property
    def dim(self) -> int:
        """Length of a descriptor."""
        return sum(rotation.shape[1] for rotation in self.rotations)

    @property
    def bytes(self) -> int:
        """Of a descriptor."""
        return sum(len(centroids) for centroids in self.centroids)

    @cached_property
    def _ends(self) -> Array:
        return np.cumsum([0, *(rotation.shape[1] for rotation in self.rotations)])

    @cached_property
    def _faiss(self) -> tuple[Any, ...]:
        made = []
        for centroids in self.centroids:
            pieces, _, width = centroids.shape
            one = faiss.ProductQuantizer(pieces * width, pieces, 8)
            faiss.copy_array_to_vector(np.ascontiguousarray(centroids).ravel(), one.centroids)
            made.append(one)
        return tuple(made)

    def encode(self, descriptors: Array) -> tuple[Array, Array]:
        """N x D -> codes, N x `bytes` uint8, and the mean lengths of the parts, float32."""
        codes, lengths = [np.zeros((len(descriptors), 0), np.uint8)], []
        for i, (rotation, pieces) in enumerate(zip(self.rotations, self._faiss, strict=True)):
            part = np.asarray(descriptors[:, self._ends[i] : self._ends[i + 1]], np.float32)
            length = np.linalg.norm(part, axis=1, keepdims=True)
            lengths.append(float(length.mean()) if len(length) else 0.0)
            if len(part):
                codes.append(pieces.compute_codes(part / np.maximum(length, _TINY) @ rotation.T))
        found = np.concatenate(codes, axis=1)
        return found, np.array(lengths, np.float32)

    def decode(self, codes: Array, lengths: Array) -> Array:
        """What `encode` gave -> N x D float32, parts of these lengths."""
        found, start = np.zeros((len(codes), self.dim), np.float32), 0
        for i, (rotation, pieces) in enumerate(zip(self.rotations, self._faiss, strict=True)):
            own = np.ascontiguousarray(codes[:, start : start + pieces.M])
            start += pieces.M
            if lengths[i] < _TINY or not len(codes):
                continue
            part = pieces.decode(own)
            # A mean of directions is shorter than they are; compared are directions.
            part *= lengths[i] / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), _TINY)
            np.matmul(part, rotation, out=found[:, self._ends[i] : self._ends[i + 1]])
        return found


def pack(features: Features, quantizer: Quantizer) -> dict[str, bytes]:
    """The blobs of a row. Keypoints are fixed-point, 1/65535 of the long side of the image (1/64 of a
    pixel that the extractor sees); scores between the least and the most."""
    codes, lengths = quantizer.encode(features.descriptors)
    side = max(features.image_size)
    places = np.rint((features.keypoints.astype(np.float64) + 0.5) * (_FIXED / side))
    scores = features.scores.astype(np.float64)
    ends = np.array((scores.min(), scores.max()) if len(scores) else (0, 0), "<f4")
    scale = _FIXED / max(float(ends[1]) - float(ends[0]), 1e-30)
    steps = np.rint((scores - float(ends[0])) * scale).clip(0, _FIXED)
    return {
        "keypoints": places.clip(0, _FIXED).astype("<u2").tobytes(),
        "scores": ends.tobytes() + steps.astype("<u2").tobytes(),
        "descriptors": lengths.astype("<f4").tobytes() + codes.tobytes(),
    }


def packed_sizes(count: int, quantizer: Quantizer) -> dict[str, int]:
    """Bytes of the blobs of a row of so many features."""
    head = 4 * len(quantizer.rotations)
    return {
        "keypoints": 4 * count,
        "scores": 8 + 2 * count,
        "descriptors": head + count * quantizer.bytes,
    }


def unpack(
    row: dict[str, Any], size: tuple[int, int], quantizer: Quantizer, strongest: int | None = None
) -> Features:
    """The features of a row, of an image of this size (width, height), or the strongest of them."""
    count, head = row["count"], 4 * len(quantizer.rotations)
    places = np.frombuffer(row["keypoints"], "<u2").reshape(count, 2)[:strongest]
    low, high = np.frombuffer(row["scores"], "<f4", 2).astype(np.float64)
    steps = np.frombuffer(row["scores"], "<u2", offset=8)[:strongest]
    lengths = np.frombuffer(row["descriptors"], "<f4", len(quantizer.rotations))
    codes = np.frombuffer(row["descriptors"], np.uint8, offset=head).reshape(count, quantizer.bytes)
    return Features(
        keypoints=(places * (max(size) / _FIXED) - 0.5).astype(np.float32),
        scores=(low + steps * ((high - low) / _FIXED)).astype(np.float32),
        descriptors=quantizer.decode(codes[:strongest], lengths),
        image_size=size,
    )


def file_of(folder: Path, sha256: str) -> Path:
    """Where the database at `folder` keeps the quantizer of this hash."""
    return file_in(folder / FOLDER, sha256)


def store(folder: Path, source: Path) -> str:
    """Copy a quantizer into the database unless it is there already; its sha256. Hold the lock."""
    return keep(folder / FOLDER, source)


def load(folder: Path, sha256: str) -> Quantizer:
    """`DatabaseCorruptError` if the copy of this hash is missing or was altered."""
    for problem in problems(folder, [sha256]):
        raise DatabaseCorruptError(f"{problem}; {_CURE}")
    return Quantizer.read(file_of(folder, sha256))


def problems(folder: Path, hashes: Iterable[str]) -> Iterator[str]:
    """One sentence for every copy that is missing or was altered."""
    for sha256 in hashes:
        file = file_of(folder, sha256)
        if not is_intact(file, sha256):
            what = "was altered" if file.exists() else "is missing"
            yield f"the quantizer {file} {what}; without it stored features cannot be read"
