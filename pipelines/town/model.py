"""What the town's renderer draws and with what: textured faces, camera, light and sky.

Conventions, here and in every file of the town:

- world: metres, x east, y north, z up; camera: x right, y down, z forward (OpenCV);
- pixel and texel CENTRES have integer coordinates, x right, y down (COLMAP's are + 0.5);
- colors are RGB. Textures are 8-bit sRGB, light is linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from locate.types import Array


def mipmaps(pixels: Array) -> tuple[Array, ...]:
    """(h, w, 4) uint8 and its halvings by area, down to 2 texels."""
    levels = [np.ascontiguousarray(pixels)]
    while min(levels[-1].shape[:2]) >= 4:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA))
    return tuple(levels)


@dataclass(frozen=True)
class Paint:
    """A texture laid on a plane: texel (s, t) is at corner + (s + 1/2) across + (t + 1/2) down.

    levels: its mipmaps, RGB + glow or opacity; corner: (3,) metres, the outer corner of the first
    texel; across, down: (3,) metres per texel; wrap: it repeats.
    """

    levels: tuple[Array, ...]
    corner: Array
    across: Array
    down: Array
    wrap: bool = False


@dataclass(frozen=True)
class Face:
    """A convex planar polygon, counter-clockwise seen from outside.

    points: (n, 3) metres. tint: a second paint that multiplies the first, 128 leaving it as it is.
    cutout: the fourth channel is opacity (half or more is there) and both sides are seen, otherwise
    it is glow at dusk. soft: lit from everywhere, as leaves are, instead of by its normal.
    """

    points: Array
    paint: Paint
    tint: Paint | None = None
    cutout: bool = False
    soft: bool = False
    casts: bool = True

    @cached_property
    def normal(self) -> Array:
        """(3,) outward unit normal, by Newell's sum (safe for collinear corners)."""
        rest = self.points - self.points[0]
        # np.cross, written out: this runs a thousand times a picture
        (ax, ay, az), (bx, by, bz) = rest[1:-1].T, rest[2:].T
        parts = (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
        n = np.array([part.sum() for part in parts])
        return n / float(np.sqrt(n @ n))


@dataclass(frozen=True)
class Camera:
    """A pinhole whose principal point is the exact image centre.

    focal: pixels; rotation (3, 3) and translation (3,) metres: X_cam = rotation X_world + t.
    """

    width: int
    height: int
    focal: float
    rotation: Array
    translation: Array

    @property
    def matrix(self) -> Array:
        """(3, 3) calibration in this project's pixels: centre ((w - 1) / 2, (h - 1) / 2)."""
        cx, cy = (self.width - 1) / 2, (self.height - 1) / 2
        return np.array([[self.focal, 0.0, cx], [0.0, self.focal, cy], [0.0, 0.0, 1.0]])

    @property
    def centre(self) -> Array:
        """(3,) camera centre in the world, metres."""
        return np.asarray(-self.rotation.T @ self.translation)

    def to_camera(self, points: Array) -> Array:
        """World points (n, 3) metres to camera points (n, 3) metres."""
        return np.asarray(points @ self.rotation.T + self.translation)


@dataclass(frozen=True)
class Light:
    """Sun, sky and sensor of one picture.

    sun: (3,) unit vector TOWARDS the sun; *_rgb: (3,) linear; haze_m: distance that dims to 1/e;
    glow: strength of lit windows, 0 by day; grain: sensor noise, 8-bit steps; cloud_turn: radians.
    """

    sun: Array
    sun_rgb: Array
    ambient_rgb: Array
    zenith_rgb: Array
    horizon_rgb: Array
    exposure: float = 1.0
    contrast: float = 1.0
    haze_m: float = 900.0
    glow: float = 0.0
    grain: float = 1.5
    cloud_turn: float = 0.0
    cloud_cover: float = 0.5


@dataclass(frozen=True)
class Sky:
    """What is infinitely far: clouds (h, w) in 0..1, azimuth by elevation 0..90 degrees;
    hills (layers, w) elevation of each skyline, radians, far layer first; hill_rgb (layers, 3)."""

    clouds: Array
    hills: Array
    hill_rgb: Array
