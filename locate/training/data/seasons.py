"""What no pair of photos in a training set may show: the same place at night, in another season's
colours, by another sensor. Crude, and drawn at random; pixels never move."""

from __future__ import annotations

import cv2
import numpy as np

from locate.types import Array

_LAMPS, _KNOTS = 4, 6
_CURVE = 0.25  # deviation of a tone curve's knots, for values of 0 to 1
_NEGATIVE = 0.3  # how often another sensor sees warm things dark


def augment_appearance(image: Array, rng: np.random.Generator) -> Array:
    """One of the three, H x W x 3 uint8."""
    change = (_night, _colors, _sensor)[int(rng.integers(3))]
    return change(image, rng)


def _night(image: Array, rng: np.random.Generator) -> Array:
    """Dark, of one colour, lit by a few lamps."""
    gamma, colour = rng.uniform(1.5, 3), rng.uniform(0.4, 0.9) * rng.uniform(0.6, 1.2, 3)
    values = np.linspace(0, 1, 256, dtype=np.float32) ** np.float32(gamma)
    dark = cv2.LUT(image, (values[:, None] * colour.astype(np.float32)).reshape(1, 256, 3))
    height, width = image.shape[:2]
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    for _ in range(int(rng.integers(_LAMPS + 1))):
        at, reach = (
            rng.uniform(0, 1, 2) * (width, height),
            rng.uniform(0.04, 0.25) * max(width, height),
        )
        bell = [
            np.exp(-((v - np.float32(w)) ** 2) / np.float32(2 * reach**2))
            for v, w in zip((x, y), at, strict=True)
        ]
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
