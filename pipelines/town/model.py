"""What the town's renderer draws and with what: textures, faces, camera, light and sky.

Conventions, here and in every file of the town:

- world: metres, x east, y north, z up; camera: x right, y down, z forward (OpenCV);
- pixel and texel CENTRES have integer coordinates, x right, y down (COLMAP's are + 0.5);
- colours are RGB. Textures are 8-bit sRGB, light is linear.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Texture:
    """A picture and its halvings: levels[k] is (h_k, w_k, 4) uint8, RGB + glow or opacity."""

    levels: tuple[U8, ...]

    @staticmethod
    def build(pixels: U8) -> Texture:
        """Halve by area down to 2 texels; pixels: (h, w, 4) uint8."""
        levels = [np.ascontiguousarray(pixels)]
        while min(levels[-1].shape[:2]) >= 4:
            h, w = levels[-1].shape[:2]
            half = cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA)
            levels.append(np.asarray(half, np.uint8))
        return Texture(tuple(levels))


@dataclass(frozen=True)
class Paint:
    """A texture laid on a plane: texel (s, t) is at corner + (s + 1/2) across + (t + 1/2) down.

    corner: (3,) metres, the outer corner of the first texel; across, down: (3,) metres per texel.
    """

    texture: Texture
    corner: F64
    across: F64
    down: F64
    wrap: bool = False


@dataclass(frozen=True)
class Face:
    """A convex planar polygon, counter-clockwise seen from outside.

    points: (n, 3) metres. tint: a second paint that multiplies the first, 128 leaving it as it is.
    cutout: the fourth channel is opacity (half or more is there), otherwise it is glow at dusk.
    soft: lit from everywhere, as leaves are, instead of by its normal.
    """

    points: F64
    paint: Paint
    tint: Paint | None = None
    cutout: bool = False
    two_sided: bool = False
    soft: bool = False
    casts: bool = True

    @cached_property
    def normal(self) -> F64:
        """(3,) outward unit normal, by Newell's sum (safe for collinear corners)."""
        rest = self.points - self.points[0]
        a, b = rest[1:-1], rest[2:]
        n = np.array(
            [  # np.cross, written out: this runs a thousand times a picture
                (a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1]).sum(),
                (a[:, 2] * b[:, 0] - a[:, 0] * b[:, 2]).sum(),
                (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(),
            ]
        )
        return n / float(np.sqrt(n @ n))


@dataclass(frozen=True)
class Camera:
    """A pinhole whose principal point is the exact image centre.

    focal: pixels; rotation (3, 3) and translation (3,) metres: X_cam = rotation X_world + t.
    """

    width: int
    height: int
    focal: float
    rotation: F64
    translation: F64

    @property
    def matrix(self) -> F64:
        """(3, 3) calibration in this project's pixels: centre ((w - 1) / 2, (h - 1) / 2)."""
        cx, cy = (self.width - 1) / 2, (self.height - 1) / 2
        return np.array([[self.focal, 0.0, cx], [0.0, self.focal, cy], [0.0, 0.0, 1.0]])

    @property
    def centre(self) -> F64:
        """(3,) camera centre in the world, metres."""
        c: F64 = -self.rotation.T @ self.translation
        return c

    def to_camera(self, points: F64) -> F64:
        """World points (n, 3) metres to camera points (n, 3) metres."""
        return np.asarray(points @ self.rotation.T + self.translation, np.float64)

    def project(self, points: F64) -> F64:
        """World points (n, 3) metres, in front of the camera, to pixels (n, 2)."""
        x = self.to_camera(points) @ self.matrix.T
        return np.asarray(x[:, :2] / x[:, 2:], np.float64)


@dataclass(frozen=True)
class Light:
    """Sun, sky and sensor of one picture.

    sun: (3,) unit vector TOWARDS the sun; *_rgb: (3,) linear; haze_m: distance that dims to 1/e;
    glow: strength of lit windows, 0 by day; grain: sensor noise, 8-bit steps; cloud_turn: radians.
    """

    sun: F64
    sun_rgb: F64
    ambient_rgb: F64
    zenith_rgb: F64
    horizon_rgb: F64
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

    clouds: F32
    hills: F32
    hill_rgb: F64


@dataclass(frozen=True)
class Rendering:
    """image: (h, w, 3) uint8 RGB; inverse, owner: (2 h, 2 w) 1 / z of the four sub-pixels of each
    pixel and the number of the face seen there, 0 for sky; planes: (faces + 1, 3), 1 / z = plane .
    (x, y, 1) in sub-pixels."""

    image: U8
    inverse: F32
    owner: I32
    planes: F64

    @cached_property
    def depth(self) -> F64:
        """(h, w) z in the camera frame at the pixel centres, metres, inf for sky.

        No sub-pixel lies on a pixel centre, so of the four around it the second nearest names the
        face (it covers half of the pixel or more) and its plane is evaluated at the centre itself.
        """
        h, w = self.image.shape[:2]
        four = self.inverse.reshape(h, 2, w, 2).transpose(0, 2, 1, 3).reshape(h, w, 4)
        names = self.owner.reshape(h, 2, w, 2).transpose(0, 2, 1, 3).reshape(h, w, 4)
        second = np.argsort(-four, axis=-1, kind="stable")[..., 1:2]
        name = np.take_along_axis(names, second, axis=-1)[..., 0]
        plane = self.planes[name]
        # pixel x of the small picture is 2 x + 1/2 of the large one
        x, y = np.arange(w) * 2 + 0.5, np.arange(h) * 2 + 0.5
        inv = plane[..., 0] * x[None, :] + plane[..., 1] * y[:, None] + plane[..., 2]
        with np.errstate(divide="ignore"):
            depth = np.where((name > 0) & (inv > 0), 1.0 / inv, np.inf)
        return np.asarray(depth, np.float64)
