"""Overlays to put on photos: what stands at the same pixels whatever the camera looks at.

Drawn with OpenCV alone, so that they are the same on every machine; each kind has many variants, by
seed.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping

import cv2
import numpy as np

from locate.types import Array

_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
)


def overlaid(pixels: Array, kind: str, seed: int) -> Array:
    """H x W x 3 uint8 under an overlay: the same one for the same kind, seed and size."""
    return KINDS[kind](pixels.copy(), np.random.default_rng([seed, *kind.encode()]))


def _words(rng: np.random.Generator, count: int) -> str:
    letters = list(string.ascii_letters + string.digits)
    return " ".join("".join(rng.choice(letters, rng.integers(3, 9))) for _ in range(count))


def _text(
    image: Array, text: str, at: tuple[float, float], height: float, colour, font: int
) -> None:
    scale = height / 22
    place = (round(at[0]), round(at[1]))
    cv2.putText(image, text, place, font, scale, colour, max(1, round(2 * scale)), cv2.LINE_AA)


def _colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> tuple[int, int, int]:
    return tuple(int(v) for v in rng.integers(low, high, 3))


def caption(image: Array, rng: np.random.Generator) -> Array:
    """A bar of text along the lower or the upper edge."""
    height, width = image.shape[:2]
    bar = round(height * rng.uniform(0.08, 0.16))
    top = 0 if rng.random() < 0.3 else height - bar
    cv2.rectangle(image, (0, top), (width, top + bar), _colour(rng, 0, 90), -1)
    font = int(rng.choice(_FONTS))
    text = _words(rng, 9)
    _text(image, text, (0.015 * width, top + 0.65 * bar), 0.4 * bar, (255, 255, 255), font)
    return image


def timestamp(image: Array, rng: np.random.Generator) -> Array:
    """Digits of a camera in a corner."""
    height, width = image.shape[:2]
    size = height * rng.uniform(0.03, 0.055)
    digits = "".join(rng.choice(list(string.digits), 14))
    text = f"{digits[:4]}-{digits[4:6]}-{digits[6:8]} {digits[8:10]}:{digits[10:12]}:{digits[12:]}"
    x = 0.03 * width if rng.random() < 0.5 else width - 13.5 * size
    y = height * (0.07 if rng.random() < 0.5 else 0.97)
    colour = ((255, 160, 40), (255, 255, 255), (255, 240, 60))[rng.integers(3)]
    _text(image, text, (x + 2, y + 2), size, (0, 0, 0), _FONTS[0])
    _text(image, text, (x, y), size, colour, _FONTS[0])
    return image


def watermark(image: Array, rng: np.random.Generator) -> Array:
    """Half transparent words all over the photo."""
    height = image.shape[0]
    layer = image.copy()
    size = height * rng.uniform(0.03, 0.06)
    text, font = _words(rng, 2), int(rng.choice(_FONTS))
    step_x, step_y = size * len(text) * 0.95 + 20, height * rng.uniform(0.15, 0.25)
    for row in range(8):
        for column in range(-1, 8):
            x = column * step_x + (row % 2) * step_x / 2
            _text(layer, text, (x, row * step_y), size, (255, 255, 255), font)
    alpha = rng.uniform(0.3, 0.6)
    return cv2.addWeighted(layer, alpha, image, 1 - alpha, 0)


def signature(image: Array, rng: np.random.Generator) -> Array:
    """One large word across the middle, half transparent."""
    height, width = image.shape[:2]
    layer = image.copy()
    size = height * rng.uniform(0.09, 0.15)
    text = _words(rng, 1)
    x = (width - len(text) * size * 0.8) / 2
    _text(layer, text, (x, height * rng.uniform(0.4, 0.6)), size, (255, 255, 255), _FONTS[3])
    alpha = rng.uniform(0.35, 0.7)
    return cv2.addWeighted(layer, alpha, image, 1 - alpha, 0)


def logo(image: Array, rng: np.random.Generator) -> Array:
    """A small emblem in a corner."""
    height, width = image.shape[:2]
    side = round(height * rng.uniform(0.1, 0.2))
    x = 10 if rng.random() < 0.5 else width - side - 10
    y = 10 if rng.random() < 0.5 else height - side - 10
    patch = image[y : y + side, x : x + side]
    patch[:] = _colour(rng)
    for _ in range(7):
        a, b = rng.integers(0, side, 2), rng.integers(0, side, 2)
        cv2.line(patch, tuple(map(int, a)), tuple(map(int, b)), _colour(rng), 3, cv2.LINE_AA)
        centre = tuple(int(v) for v in rng.integers(0, side, 2))
        cv2.circle(patch, centre, int(rng.integers(3, side // 3)), _colour(rng), 2, cv2.LINE_AA)
    _text(image, _words(rng, 1), (x + 4, y + 0.7 * side), 0.25 * side, (255, 255, 255), _FONTS[1])
    return image


def frame(image: Array, rng: np.random.Generator) -> Array:
    """An ornament along all four edges."""
    height, width = image.shape[:2]
    border = round(height * rng.uniform(0.04, 0.09))
    full = np.empty_like(image)
    full[:] = _colour(rng, 60)
    for _ in range(int(rng.integers(150, 400))):
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        axes = (int(rng.integers(2, border)), int(rng.integers(2, border)))
        angle = int(rng.integers(0, 180))
        cv2.ellipse(full, centre, axes, angle, 0, 360, _colour(rng), 2, cv2.LINE_AA)
    full[border:-border, border:-border] = image[border:-border, border:-border]
    return full


def screenshot(image: Array, rng: np.random.Generator) -> Array:
    """The photo in the middle of a page of an application, upright, with its furniture."""
    height, width = image.shape[:2]
    page_w = round(height * 0.9)
    photo_h = round(page_w * height / width)
    page_h = round(max(page_w * rng.uniform(1.6, 2.0), photo_h * rng.uniform(1.6, 2.0)))
    dark = rng.random() < 0.5
    ink, paper = ((230, 230, 230), (18, 18, 18)) if dark else ((20, 20, 20), (250, 250, 250))
    page = np.full((page_h, page_w, 3), paper, np.uint8)
    top = round(page_h * rng.uniform(0.15, 0.25))
    page[top : top + photo_h] = cv2.resize(image, (page_w, photo_h), interpolation=cv2.INTER_AREA)
    size, font = page_w * 0.037, int(rng.choice(_FONTS))
    hour, minute, charge = rng.integers((10, 10, 10), (24, 60, 100))
    _text(page, f"{hour}:{minute}  LTE  {charge}%", (14, 1.4 * size), size, ink, font)
    face = (round(0.1 * page_w), round(top - 2.4 * size))
    cv2.circle(page, face, round(1.5 * size), _colour(rng), -1)
    _text(page, _words(rng, 2), (0.2 * page_w, top - 2.5 * size), size, ink, font)
    y = top + photo_h + 2.5 * size
    for k in range(5):
        left = 20 + 3 * k * size
        corners = np.rint([(left, y - size), (left + 1.8 * size, y)]).astype(int).tolist()
        cv2.rectangle(page, corners[0], corners[1], ink, 3)
    while y < page_h - 3 * size:
        y += size * rng.uniform(1.8, 3.0)
        _text(page, _words(rng, int(rng.integers(2, 6))), (18, y), size, ink, font)
    return page


def bonnet(image: Array, rng: np.random.Generator) -> Array:
    """The car that carries the camera: a curved, shining body below, with its seams and dirt."""
    height, width = image.shape[:2]
    top = height * rng.uniform(0.72, 0.85)
    curve = rng.uniform(0.03, 0.1) * height
    x = np.linspace(-1, 1, width)
    edge = top + curve * x**2 + rng.uniform(-0.02, 0.02) * height * x
    rows = np.arange(height)[:, None]
    inside = rows > edge[None]
    base = np.array(_colour(rng, 30, 200), np.float64)
    shine = 0.6 + 0.6 * np.exp(-(((rows - edge[None]) / (0.05 * height)) ** 2))
    body = base[None, None] * shine[..., None] * (0.9 + 0.1 * np.cos(3 * x))[None, :, None]
    layer = np.clip(body, 0, 255).astype(np.uint8)
    for _ in range(60):
        place = (int(rng.integers(0, width)), int(rng.integers(int(top), height)))
        cv2.circle(layer, place, int(rng.integers(1, 5)), _colour(rng), -1, cv2.LINE_AA)
    for _ in range(5):
        a = (int(rng.integers(0, width)), int(rng.integers(int(top), height)))
        b = (int(rng.integers(0, width)), height)
        cv2.line(layer, a, b, (10, 10, 10), 3, cv2.LINE_AA)
    image[inside] = layer[inside]
    return image


def robot(image: Array, rng: np.random.Generator) -> Array:
    """Parts of the robot that carries the camera: bars, an arm, screws, a label."""
    height, width = image.shape[:2]
    for _ in range(3):
        side = rng.integers(3)
        across, down = int(rng.integers(0, width)), int(rng.integers(0, height))
        edge = [(0, down), (width, down), (across, height)]
        inner = (rng.integers(width // 4, 3 * width // 4), rng.integers(height // 2, height))
        start = tuple(int(v) for v in edge[side])
        end = tuple(int(v) for v in inner)
        thick = int(rng.integers(height // 20, height // 8))
        cv2.line(image, start, end, _colour(rng, 20, 220), thick, cv2.LINE_AA)
        for share in np.linspace(0.1, 0.9, 9):
            at = np.array(start) * share + np.array(end) * (1 - share)
            place = (int(at[0]), int(at[1]))
            cv2.circle(image, place, max(2, thick // 6), _colour(rng), -1, cv2.LINE_AA)
            cv2.circle(image, place, max(3, thick // 4), (0, 0, 0), 2, cv2.LINE_AA)
        middle = (int((start[0] + end[0]) / 2), int((start[1] + end[1]) / 2))
        _text(image, _words(rng, 1), middle, thick * 0.4, (255, 255, 255), _FONTS[1])
    return image


def lens(image: Array, rng: np.random.Generator) -> Array:
    """The round field of a fisheye: black outside, with a scratched rim."""
    height, width = image.shape[:2]
    radius = round(min(height, width) * rng.uniform(0.46, 0.49))
    mask = np.zeros((height, width), np.uint8)
    centre = (width // 2 + int(rng.integers(-8, 9)), height // 2 + int(rng.integers(-8, 9)))
    cv2.circle(mask, centre, radius, 255, -1)
    for angle in rng.uniform(0, 2 * np.pi, 25):
        place = (int(centre[0] + radius * np.cos(angle)), int(centre[1] + radius * np.sin(angle)))
        cv2.circle(mask, place, int(rng.integers(3, 10)), 0, -1)
    image[mask == 0] = 0
    return image


KINDS: Mapping[str, Callable[[Array, np.random.Generator], Array]] = {
    made.__name__: made
    for made in (
        caption, timestamp, watermark, signature, logo, frame, screenshot, bonnet, robot, lens,
    )
}  # fmt: skip
