"""The records that travel between the layers.

Each is frozen and validated at birth, so that whoever receives one need not check it again.
Arrays are not copied: treat them as read-only. Pixel conventions stand in `locate.pixels`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from locate.errors import InputError

Array = NDArray[Any]

FUNDAMENTAL, AFFINE = MODELS = ("fundamental", "affine")  # of the motion that verifies matches


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _check_array(
    name: str, array: Array, form: str, shape: tuple[int | None, ...], *dtypes: type
) -> None:
    """`form` is the shape (None for any length) and the dtypes (none for any) in words."""
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, length) for wanted, length in zip(shape, array.shape, strict=True)
    )
    got = f"{array.shape} {array.dtype}" if dtypes else f"{array.shape}"
    _check(fits and (not dtypes or array.dtype in dtypes), f"{name} must be {form}, got {got}")


def _check_finite(name: str, array: Array) -> None:
    _check(bool(np.isfinite(array).all()), f"{name} holds NaN or infinite values")


@dataclass(frozen=True, eq=False)
class Features:
    """Local features of one image.

    Attributes:
        keypoints: N x 2 float32, (x, y) in pixels of the original image.
        scores: N float32, higher is better; sorted from best to worst.
        descriptors: N x D float16 or float32, L2-normalised rows.
        image_size: (width, height) of the original image in pixels.
    """

    keypoints: Array
    scores: Array
    descriptors: Array
    image_size: tuple[int, int]

    def __post_init__(self) -> None:
        n = len(self.keypoints)
        _check_array("keypoints", self.keypoints, "N x 2 float32", (n, 2), np.float32)
        _check_array("scores", self.scores, f"{n} float32", (n,), np.float32)
        form = f"{n} x D float16 or float32"
        _check_array("descriptors", self.descriptors, form, (n, None), np.float16, np.float32)
        _check(min(self.image_size) > 0, f"image size must be positive, got {self.image_size}")
        for name in ("keypoints", "scores", "descriptors"):
            _check_finite(name, getattr(self, name))

    def __len__(self) -> int:
        return len(self.keypoints)

    def take(self, rows: Array | slice) -> Features:
        """Some of them, by their rows, N bool or a slice."""
        parts = {name: getattr(self, name)[rows] for name in ("keypoints", "scores", "descriptors")}
        return replace(self, **parts)


@dataclass(frozen=True, eq=False)
class Extraction:
    """What an extractor gives for one image: local features, a global descriptor (D float32,
    L2-normalised), or both."""

    features: Features | None
    global_descriptor: Array | None

    def __post_init__(self) -> None:
        _check(
            self.features is not None or self.global_descriptor is not None,
            "an extraction needs local features, a global descriptor or both",
        )
        vector = self.global_descriptor
        if vector is not None:
            _check_array("a global descriptor", vector, "D float32", (None,), np.float32)
            _check_finite("global descriptor", vector)


@dataclass(frozen=True)
class Projection:
    """How a photo that is no perspective one was projected, by XMP's GPano (Google's Photo Sphere XMP):
    the kind ("equirectangular", ..., in lower case), the (width, height) in pixels of the whole sphere,
    and the (left, top, width, height) of the photo in those."""

    kind: str
    full_size: tuple[int, int] | None = None
    crop: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class PhotoInfo:
    """What a photo's file says about itself; None where it is silent.

    Attributes:
        size: (width, height) in pixels after EXIF orientation (a tag of 1 to 8) is applied.
        taken_at: "YYYY-MM-DDTHH:MM:SS", local time of the camera.
        camera: maker and model.
        focal_mm: focal length in millimetres.
        focal_35mm: that in 35 mm film equivalent, in millimetres. Most cameras multiply it by the
            digital zoom.
        digital_zoom: how many times the middle of the picture was enlarged; None where it was not.
        exif_size: (width, height) in pixels that the camera wrote, upright; others than `size` if the
            photo was cropped or resized since.
        latitude, longitude: WGS84 degrees, north and east positive.
        altitude: metres above sea level.
        projection: of a 360 degree photo; databases do not keep it.
    """

    size: tuple[int, int]
    orientation: int = 1
    taken_at: str | None = None
    camera: str | None = None
    focal_mm: float | None = None
    focal_35mm: float | None = None
    digital_zoom: float | None = None
    exif_size: tuple[int, int] | None = None
    latitude: float | None = None
    longitude: float | None = None
    altitude: float | None = None
    projection: Projection | None = None


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo: H x W x 3 uint8, RGB, upright by EXIF. The pixels may be fewer than
    `info.size`, which is that of the file, when the decoder was asked for a reduced image."""

    pixels: Array
    info: PhotoInfo
    path: Path | None = None

    def __post_init__(self) -> None:
        _check_array("pixels", self.pixels, "H x W x 3 uint8", (None, None, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Verification:
    """Geometric evidence that two images show the same place.

    Attributes:
        matches: M x 2 int32, indices (query feature, database feature) of tentative matches.
        query_points, database_points: M x 2 float32, where they lie, in original pixels.
        inliers: M bool, which matches agree with the geometry.
        matrix: 3 x 3 float64 or None; `x_database^T F x_query = 0` for kind "fundamental",
            `x_database = A x_query` for kind "affine" (last row 0 0 1), on (x, y, 1) in original pixels.
        kind: "fundamental", "affine" or "none".
        model: what was looked for, "fundamental" or "affine", also if none was found.
        on_overlay: matches that were left out, because they lie on what stands at the same pixels in
            both images (a caption, a frame) while the rest has moved; they are not among the M.
    """

    matches: Array
    query_points: Array
    database_points: Array
    inliers: Array
    matrix: Array | None
    kind: str
    model: str = FUNDAMENTAL
    on_overlay: int = 0

    def __post_init__(self) -> None:
        m = len(self.matches)
        _check_array("matches", self.matches, "M x 2", (m, 2))
        for points in (self.query_points, self.database_points):
            _check_array("points", points, f"{m} x 2", (m, 2))
        _check_array("inliers", self.inliers, f"{m} bool", (m,), np.bool_)

    @property
    def inlier_count(self) -> int:
        return int(self.inliers.sum())


@dataclass(frozen=True)
class Shortlist:
    """Database images by a search, best first: K ids of the catalogue, and K cosine similarities of
    global descriptors, -1 to 1, or votes of local ones, above 0."""

    image_ids: tuple[int, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        ids, scores = len(self.image_ids), len(self.scores)
        _check(ids == scores, f"{ids} ids but {scores} scores")

    def best(self, k: int) -> Shortlist:
        return Shortlist(self.image_ids[:k], self.scores[:k])

    def by_id(self) -> dict[int, float]:
        return dict(zip(self.image_ids, self.scores, strict=True))

    def __len__(self) -> int:
        return len(self.image_ids)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One database image in an answer; numbers are None where nothing was measured.

    Attributes:
        rank: 1 for the best.
        verdict: "match", "uncertain" or "no match"; "unverified" when verification was off or
            the image lay beyond the part of the shortlist that was verified.
        label: the landmark, or None.
        image: path relative to the folder that was indexed, with forward slashes.
        path: where the image lay when it was indexed.
        image_id: that of the catalogue.
        similarity: cosine of the global descriptors.
        inliers: geometrically consistent local matches.
        evidence: inliers beyond those that chance gives (see `locate.retrieval.verdict`).
        false_accept: upper estimate of the share of photos of unknown places that reach as much
            evidence.
        votes: what the search by local descriptors gave it (see `index.vectors.voting`).
        matched_by: "lightglue" if a second look by it has proven the match, else None.
    """

    rank: int
    verdict: str
    label: str | None
    image: str
    path: Path
    image_id: int
    similarity: float | None
    inliers: int | None = None
    evidence: float | None = None
    false_accept: float | None = None
    verification: Verification | None = field(default=None, repr=False)
    votes: float | None = None
    matched_by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-able values; of the matches their counts alone."""
        proof = self.verification
        return {
            **{name: getattr(self, name) for name in ("rank", "verdict", "label", "image")},
            "path": str(self.path),
            "inliers": self.inliers,
            "matches": len(proof.matches) if proof else None,
            "on_overlay": proof.on_overlay if proof else None,
            **{n: getattr(self, n) for n in ("similarity", "votes", "evidence", "false_accept")},
            "matched_by": self.matched_by,
        }


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to one query photo.

    Attributes:
        photo: the query's path, or None for pixels in memory.
        verdict: the best candidate's: "match", "uncertain" or "no match".
        label: the landmark of the best candidate if the verdict is "match", else None.
        reason: one sentence saying why.
        candidates: best first.
        rotation: degrees counter-clockwise that the query had to be rotated to be recognised.
        query_features: local features found in the query.
        seconds: time by part; "total" leaves out "load", which only the first query pays.
    """

    photo: Path | None
    verdict: str
    label: str | None
    reason: str
    candidates: tuple[Candidate, ...]
    rotation: int
    query_features: int
    seconds: dict[str, float]

    @property
    def best(self) -> Candidate | None:
        return self.candidates[0] if self.candidates else None

    def to_json(self) -> dict[str, Any]:
        """JSON-able values; of the matches their counts alone."""
        return {
            "photo": str(self.photo) if self.photo else None,
            "verdict": self.verdict,
            "label": self.label,
            "reason": self.reason,
            "rotation": self.rotation,
            "query_features": self.query_features,
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "seconds": dict(self.seconds),
        }
