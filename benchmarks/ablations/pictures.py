"""Pictures of what features see, on views of the rendered town whose homography is known.

    python benchmarks/ablations/pictures.py --work build/town --out docs/benchmarks
    python benchmarks/ablations/pictures.py --work build/town --cards docs/models [--extractor NAME ...]

Each picture: a view, the same one changed, and the mutual nearest neighbours that pass the features' own
ratio: right ones (3 px) in green, wrong ones in red. Their numbers are printed, with RootSIFT's. --out: where
the default fails. --cards: for the model card of each system that has weights, its keypoints, and its
matches with the view turned by 20 degrees and half as large again.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from locate.extractors import registry
from locate.extractors.base import Extractor
from locate.extractors.bundled import BUNDLED
from locate.images.reading import read_photo
from locate.matching.descriptors import match_mutual
from locate.pixels import apply_homography
from locate.types import Array
from pipelines.town.town import make_town

VIEW = "landmarks/church/03.jpg"
RIGHT = 3.0  # pixels of the changed view
_GREEN, _RED = (40, 170, 60), (215, 50, 40)
_SHOWN = 60  # lines of each colour
_KEYPOINTS = 500  # circles
_QUALITY = 75


def night(pixels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A tenth of the light, lamps, noise."""
    height, width = pixels.shape[:2]
    y, x = np.mgrid[:height, :width]
    light = np.full((height, width), 0.04)
    for at_x, at_y in ((0.2, 0.75), (0.55, 0.6), (0.85, 0.8)):
        apart = ((x / width - at_x) ** 2 + (y / height - at_y) ** 2) / 0.02
        light += 0.5 * np.exp(-apart)
    lit = pixels / 255.0 * light[..., None] * (1.0, 0.8, 0.5)
    return _as_photo(lit + rng.normal(0, 0.02, lit.shape)), np.eye(3)


def zoomed(pixels: Array, rng: np.random.Generator) -> tuple[Array, Array]:  # noqa: ARG001
    """The middle, eight times as large, as from afar and near."""
    return _warped(pixels, 8.0, 0.0)


def turned(pixels: Array, rng: np.random.Generator) -> tuple[Array, Array]:  # noqa: ARG001
    """By 135 degrees and three times as large."""
    return _warped(pixels, 3.0, 135.0)


def moved(pixels: Array, rng: np.random.Generator) -> tuple[Array, Array]:  # noqa: ARG001
    """By 20 degrees and half as large again."""
    return _warped(pixels, 1.5, 20.0)


def blurred(pixels: Array, rng: np.random.Generator) -> tuple[Array, Array]:  # noqa: ARG001
    """Out of focus, by a sigma of six pixels."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), 6)), np.eye(3)


CHANGES: dict[str, Callable[[Array, np.random.Generator], tuple[Array, Array]]] = {
    "night": night,
    "zoomed": zoomed,
    "turned": turned,
    "blurred": blurred,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("build/town"))
    parser.add_argument("--out", type=Path, help="write fails-NAME.jpg here")
    parser.add_argument("--cards", type=Path, help="write NAME.jpg of systems here instead")
    parser.add_argument("--extractor", nargs="*", default=sorted(BUNDLED), help="of --cards")
    a = parser.parse_args()
    if not (a.work / VIEW).exists():
        make_town(a.work)
    pixels = read_photo(a.work / VIEW).pixels
    if a.cards:
        for name in a.extractor:
            write(a.cards / f"{name}.jpg", card(registry.create(name), pixels))
    else:
        show_failures(pixels, a.out)


def card(extractor: Extractor, pixels: Array) -> Array:
    """The strongest keypoints of a view, and below, at half size, matches with the view moved."""
    features = extractor.extract(pixels).features
    assert features is not None
    seen = pixels.copy()
    for point in features.keypoints[np.argsort(-features.scores)[:_KEYPOINTS]]:
        cv2.circle(seen, _rounded(point), 4, _GREEN, 2, cv2.LINE_AA)
    other, homography = moved(pixels, np.random.default_rng(0))
    ends, right = matches(extractor, pixels, other, homography)
    print(f"{extractor.info.name}: {right.sum()} of {len(right)} right", flush=True)
    return np.vstack((seen, drawn(pixels, other, ends, right)))


def show_failures(pixels: Array, out: Path | None) -> None:
    """Print how many matches are right in each of `CHANGES`; pictures into `out`, if there is one."""
    for name, change in CHANGES.items():
        other, homography = change(pixels, np.random.default_rng(0))
        found = []
        for extractor in (registry.create(), registry.create("sift")):
            ends, right = matches(extractor, pixels, other, homography)
            found.append(f"{extractor.info.name} {right.sum()} of {len(right)} right")
            if out and extractor.info.name == registry.DEFAULT:
                write(out / f"fails-{name}.jpg", drawn(pixels, other, ends, right))
        print(f"{name}: {', '.join(found)}", flush=True)


def write(path: Path, picture: Array) -> None:
    """An RGB picture as a JPEG file."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)


def matches(
    extractor: Extractor, pixels: Array, other: Array, homography: Array
) -> tuple[tuple[Array, Array], Array]:
    """The matched points of both, and which of them are right."""
    a, b = (extractor.extract(image).features for image in (pixels, other))
    assert a is not None
    assert b is not None
    found = match_mutual(a.descriptors, b.descriptors, ratio=extractor.info.ratio or 0.8)
    ends = a.keypoints[found[:, 0]], b.keypoints[found[:, 1]]
    apart = np.linalg.norm(apply_homography(homography, ends[0]) - ends[1], axis=1)
    return ends, apart <= RIGHT


def drawn(pixels: Array, other: Array, ends: tuple[Array, Array], right: Array) -> Array:
    """Both side by side, at half size, and lines between them; the wrong ones on top."""
    canvas = np.hstack((pixels, other))
    rng = np.random.default_rng(0)
    for colour, wanted in ((_GREEN, right), (_RED, ~right)):
        for k in rng.permutation(np.flatnonzero(wanted))[:_SHOWN]:
            start, end = ends[0][k], ends[1][k] + (pixels.shape[1], 0)
            cv2.line(canvas, _rounded(start), _rounded(end), colour, 2, cv2.LINE_AA)
            for point in (start, end):
                cv2.circle(canvas, _rounded(point), 5, colour, -1, cv2.LINE_AA)
    return np.asarray(cv2.resize(canvas, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


def _warped(pixels: Array, zoom: float, degrees: float) -> tuple[Array, Array]:
    height, width = pixels.shape[:2]
    middle = ((width - 1) / 2, (height - 1) / 2)
    affine = cv2.getRotationMatrix2D(middle, degrees, zoom)
    other = cv2.warpAffine(pixels, affine, (width, height), flags=cv2.INTER_CUBIC)
    return np.asarray(other), np.vstack((affine, (0, 0, 1)))


def _as_photo(values: Array) -> Array:
    return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)


def _rounded(point: Array) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


if __name__ == "__main__":
    main()
