"""What several test files share: synthetic photos, the folder of real ones, an extractor for nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from locate.extractors import registry
from locate.extractors.base import ExtractorInfo
from locate.pixels import fit_size, resize_points
from locate.types import Array, Extraction, Features

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def texture() -> Callable[..., Array]:
    """texture(size, seed) -> H x W x 3 uint8: noise of several octaves, as natural images have, in
    colours that every format can keep."""

    def make(size: tuple[int, int] = (320, 240), seed: int = 0) -> Array:
        width, height = size
        rng = np.random.default_rng(seed)
        total = np.zeros((height, width, 3))
        for octave in (4, 8, 16, 32):
            rows, columns = (
                max(2, octave * height // max(size)),
                max(2, octave * width // max(size)),
            )
            noise = rng.normal(size=(rows, columns, 3))
            noise += rng.normal(size=(rows, columns, 1))  # mostly brightness
            total += cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC) * 4 / octave**0.5
        return np.asarray(np.clip(128 + 22 * total, 0, 255), np.uint8)

    return make


@pytest.fixture(scope="session")
def photo_factory(texture: Callable[..., Array]) -> Callable[..., Path]:
    """photo_factory(path, size=..., seed=..., file_format=None, mode="RGB", **options of Pillow's save)
    writes a textured photo and returns its path. The format follows the name unless given."""

    def write(
        path: Path | str,
        size: tuple[int, int] = (320, 240),
        seed: int = 0,
        file_format: str | None = None,
        mode: str = "RGB",
        **options: object,
    ) -> Path:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if (file_format or "").upper() == "HEIF" or path.suffix.lower() in (".heic", ".heif"):
            from pillow_heif import register_heif_opener

            register_heif_opener()
        Image.fromarray(texture(size, seed)).convert(mode).save(path, format=file_format, **options)
        return path

    return write


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real photographs: LOCATE_DATA, else shared/data beside the repository."""
    folder = Path(os.environ.get("LOCATE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder}; set LOCATE_DATA")
    return folder


class FakeExtractor:
    """Both kinds of descriptor by averaging pixels: a millisecond a photo, the same on any machine.

    Local: 4 x 4 averages of 16-pixel patches on a grid. Global: 2 x 4 averages of the image.
    """

    max_side = 160

    def __init__(self, patch: int = 16) -> None:
        self._patch = patch
        self.info = ExtractorInfo(
            name="fake", weights=None, settings={"patch": patch}, global_dim=8, local_dim=16
        )

    def extract(
        self, pixels: Array, size: tuple[int, int] | None = None, *, local: bool = True
    ) -> Extraction:
        height, width = pixels.shape[:2]
        size = size or (width, height)
        target = fit_size((width, height), self.max_side)
        grey = cv2.cvtColor(
            cv2.resize(pixels, target, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY
        )
        p = self._patch
        corners = [
            (x, y) for y in range(0, target[1] - p + 1, p) for x in range(0, target[0] - p + 1, p)
        ]
        patches = [
            cv2.resize(grey[y : y + p, x : x + p], (4, 4), interpolation=cv2.INTER_AREA)
            for x, y in corners
        ]
        local = np.array(patches, np.float32).reshape(-1, 16)
        centres = np.array(corners, np.float32).reshape(-1, 2) + (p - 1) / 2
        spread = local.std(axis=1)
        order = np.argsort(-spread, kind="stable")
        features = Features(
            keypoints=resize_points(centres, target, size)[order],
            scores=spread[order],
            descriptors=_unit(local)[order],
            image_size=size,
        )
        overview = cv2.resize(grey, (4, 2), interpolation=cv2.INTER_AREA).astype(np.float32)
        return Extraction(features, _unit(overview.reshape(1, 8))[0])


def _unit(rows: Array) -> Array:
    rows = rows - rows.mean(axis=1, keepdims=True) + 1e-3
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture
def fake_extractor(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name "fake", registered for this test."""
    monkeypatch.setitem(registry.EXTRACTORS, "fake", FakeExtractor)
    return "fake"
