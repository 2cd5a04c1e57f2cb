"""What several test files share: synthetic photos, the folder of real ones, an extractor for nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from locate.extractors import registry
from locate.precision import VARIABLE
from locate.types import Array
from tests.helpers.fake_extractor import FakeExtractor

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


@pytest.fixture
def fake_extractor(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name "fake", registered for this test."""
    monkeypatch.setitem(registry.EXTRACTORS, "fake", FakeExtractor)
    return "fake"


@pytest.fixture(scope="module")
def float32() -> Iterator[None]:
    """Networks compute in float32, also where the processor has arithmetic for bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, "float32")
        yield
