"""Light, lens, sensor and file format, drawn at random: what may change between two photos of a place.

The order is that of a camera: shadows fall on the scene, the lens blurs, exposure and colour are set,
the sensor adds noise, the file is compressed. Pixels never move. Before that, now and then, comes what
no pair of photos in a training set may show: the place at night, in another season's colours, by
another sensor, all of it crude."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cache
from statistics import NormalDist

import cv2
import numpy as np

from locate.errors import InputError
from locate.types import Array

_NOISE_BITS = 12  # of a random number that becomes one sample of noise
_LAMPS, _KNOTS = 4, 6
_CURVE = 0.25  # deviation of a tone curve's knots, for values of 0 to 1
_NEGATIVE = 0.3  # how often another sensor sees warm things dark


@dataclass(frozen=True)
class PhotometricSettings:
    """How much an image may change: largest changes either way. `..._chance`, 0 to 1, is how often the
    effect occurs at all."""

    brightness: float = 0.15  # added to values of 0 to 1
    contrast: float = 0.4  # the spread around mid-grey is multiplied or divided by up to 1 + this
    gamma: float = 0.4  # the exponent is between 1 / (1 + this) and 1 + this
    color_cast: float = 0.12  # each channel is multiplied by 1 - this to 1 + this
    saturation: float = 0.5  # colour is multiplied by 1 - this to 1 + this; at most 1
    grey_chance: float = 0.1  # no colour at all
    noise: float = 8.0  # standard deviation of additive Gaussian noise, in grey levels of 255
    noise_chance: float = 0.5
    blur: float = 1.2  # standard deviation of the Gaussian blur, in pixels
    blur_chance: float = 0.25
    motion: float = 5.0  # length of the straight blur of a moving camera, in pixels
    motion_chance: float = 0.1
    shadow: float = 0.5  # how much darker (or brighter) one side of a soft edge is, 0 to 1
    shadow_chance: float = 0.3
    jpeg_quality: int = 40  # smallest, 1 to 95; the largest is 95
    jpeg_chance: float = 0.4
    # Up to `erase_count` rectangles, each at most `erase_side` of the image's sides, are painted over
    # with one colour. Masks of valid pixels do not know of it.
    erase_chance: float = 0.0
    erase_count: int = 3
    erase_side: float = 0.25
    season_chance: float = 0.0  # see `augment_appearance`

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            most = 1.0 if item.name.endswith("_chance") or item.name in _SHARES else math.inf
            if not 0 <= value <= most:
                limits = f"must be 0 to {most}, got {value}"
                raise InputError(f"{item.name} of photometric noise {limits}")
        if not 1 <= self.jpeg_quality <= 95:
            raise InputError(f"jpeg_quality must be 1 to 95, got {self.jpeg_quality}")


_SHARES = frozenset({"brightness", "color_cast", "saturation", "shadow", "erase_side"})


def photometric_noise(
    image: Array, rng: np.random.Generator, settings: PhotometricSettings | None = None
) -> Array:
    """The image, H x W x 3 uint8, as another camera in other light might have taken it."""
    require_image(image)
    s = settings or PhotometricSettings()
    if s.season_chance and rng.random() < s.season_chance:
        image = augment_appearance(image, rng)
    if rng.random() < s.shadow_chance:
        image = _shadow(image, rng, s.shadow)
    if rng.random() < s.blur_chance:
        sigma = max(rng.uniform(0, s.blur), 0.05)
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))
    if rng.random() < s.motion_chance:
        image = _motion(image, rng, s.motion)
    image = _exposure(image, rng, s)
    image = _saturation(image, rng, s)
    if rng.random() < s.noise_chance:
        image = _sensor_noise(image, rng, rng.uniform(0, s.noise))
    if rng.random() < s.jpeg_chance:
        image = _jpeg(image, int(rng.integers(s.jpeg_quality, 96)))
    if rng.random() < s.erase_chance:
        image = _erase(image, rng, s)
    return image


def require_image(image: Array) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(image.shape) < 1:
        raise InputError(f"an image must be H x W x 3 uint8, got {image.shape} {image.dtype}")


def _shadow(image: Array, rng: np.random.Generator, most: float) -> Array:
    """One side of a soft straight edge gets less light, or more."""
    height, width = image.shape[:2]
    angle = rng.uniform(0, 2 * math.pi)
    towards = np.array((math.cos(angle), math.sin(angle)))
    through = rng.uniform(0, 1, 2) * (width, height)
    softness = max(width, height) * rng.uniform(0.02, 0.6)
    strength = rng.uniform(-most, most * 0.6)
    x = (np.arange(width, dtype=np.float32) - np.float32(through[0])) * np.float32(towards[0])
    y = (np.arange(height, dtype=np.float32) - np.float32(through[1])) * np.float32(towards[1])
    side = np.clip((x + y[:, None]) / np.float32(softness) + np.float32(0.5), 0, 1)
    light = 1 + np.float32(strength) * side
    return np.asarray(cv2.multiply(image, cv2.merge([light] * 3), dtype=cv2.CV_8U))


def _motion(image: Array, rng: np.random.Generator, longest: float) -> Array:
    """Averaged along a straight line through each pixel, so that nothing is shifted."""
    length, angle = rng.uniform(0, longest), rng.uniform(0, math.pi)
    reach = math.ceil(length / 2) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    steps = np.linspace(-length / 2, length / 2, 8 * reach + 1)  # symmetric: no shift
    for x, y in zip(reach + steps * math.cos(angle), reach + steps * math.sin(angle), strict=True):
        j, i = math.floor(x), math.floor(y)
        u, v = x - j, y - i
        kernel[i : i + 2, j : j + 2] += np.outer((1 - v, v), (1 - u, u))
    kernel /= kernel.sum()
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE))


def _exposure(image: Array, rng: np.random.Generator, s: PhotometricSettings) -> Array:
    """Gamma, contrast, brightness and colour cast, as one table for each channel."""
    gamma = math.exp(rng.uniform(-1, 1) * math.log1p(s.gamma))
    contrast = math.exp(rng.uniform(-1, 1) * math.log1p(s.contrast))
    brightness = rng.uniform(-s.brightness, s.brightness)
    cast = 1 + rng.uniform(-s.color_cast, s.color_cast, 3)
    values = (np.linspace(0, 1, 256) ** gamma - 0.5) * contrast + 0.5 + brightness
    table = np.clip(np.rint(255 * values[:, None] * cast), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table.reshape(1, 256, 3)))


def _saturation(image: Array, rng: np.random.Generator, s: PhotometricSettings) -> Array:
    factor = 1 + rng.uniform(-s.saturation, s.saturation)
    if rng.random() < s.grey_chance:
        factor = 0.0
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(image, factor, grey, 1 - factor, 0))


def _sensor_noise(image: Array, rng: np.random.Generator, sigma: float) -> Array:
    # A table of the normal distribution's quantiles: four times faster than drawing from it, and the
    # difference (nothing beyond 3.7 sigma) is below what 8 bits show.
    samples = rng.integers(0, 1 << _NOISE_BITS, image.shape, np.uint16)
    noise = np.rint(sigma * _quantiles()).astype(np.int16)[samples]
    return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U))


@cache
def _quantiles() -> Array:
    count = 1 << _NOISE_BITS
    normal = NormalDist()
    return np.array([normal.inv_cdf((k + 0.5) / count) for k in range(count)])


def _jpeg(image: Array, quality: int) -> Array:
    # The codec takes blue first; colours must come back as they were.
    turned = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    done, coded = cv2.imencode(".jpg", turned, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return np.asarray(cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def _erase(image: Array, rng: np.random.Generator, s: PhotometricSettings) -> Array:
    image = image.copy()
    height, width = image.shape[:2]
    for _ in range(int(rng.integers(1, s.erase_count + 1)) if s.erase_count else 0):
        w, h = (rng.uniform(0, s.erase_side, 2) * (width, height)).astype(int)
        x, y = (rng.uniform(0, 1, 2) * (width - w, height - h)).astype(int)
        image[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return image


def augment_appearance(image: Array, rng: np.random.Generator) -> Array:
    """Night, other colours or another sensor, H x W x 3 uint8."""
    return (_night, _colors, _sensor)[int(rng.integers(3))](image, rng)


def _night(image: Array, rng: np.random.Generator) -> Array:
    """Dark, of one colour, lit by a few lamps."""
    gamma, colour = rng.uniform(1.5, 3), rng.uniform(0.4, 0.9) * rng.uniform(0.6, 1.2, 3)
    values = np.linspace(0, 1, 256, dtype=np.float32) ** np.float32(gamma)
    dark = cv2.LUT(image, (values[:, None] * colour.astype(np.float32)).reshape(1, 256, 3))
    height, width = image.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    for _ in range(int(rng.integers(_LAMPS + 1))):
        at = rng.uniform(0, 1, 2) * (width, height)
        reach = rng.uniform(0.04, 0.25) * max(width, height)
        far = ((v - np.float32(w)) ** 2 for v, w in zip((x, y), at, strict=True))
        bell = [np.exp(-squared / np.float32(2 * reach**2)) for squared in far]
        light = rng.uniform(0.5, 3) * rng.uniform(0.6, 1.2, 3)
        dark *= 1 + (bell[0] * bell[1])[..., None] * light.astype(np.float32)
    return np.asarray(np.clip(255 * dark, 0, 255).astype(np.uint8))


def _colors(image: Array, rng: np.random.Generator) -> Array:
    """A tone curve for each channel, which need not rise."""
    knots = np.linspace(0, 255, _KNOTS)
    curves = knots + 255 * rng.normal(0, _CURVE, (3, _KNOTS))
    table = np.stack([np.interp(np.arange(256), knots, curve) for curve in curves], axis=-1)
    return np.asarray(cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8).reshape(1, 256, 3)))


def _sensor(image: Array, rng: np.random.Generator) -> Array:
    """Grey of any mixture of the channels, sometimes negative."""
    grey = cv2.transform(image, rng.dirichlet((1, 1, 1))[None])
    grey = 255 - grey if rng.random() < _NEGATIVE else grey
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))
