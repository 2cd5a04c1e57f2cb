"""A small exact renderer of textured planar faces: pinhole, z-buffer, sun shadows, haze.

Conventions: see `pipelines.town.model`. A picture is rendered at twice its size and averaged 2 x 2.
Sub-pixel i of the large picture then lies at i / 2 - 1/4 of the small one, so the large camera has
focal 2 f and centre 2 c + 1/2.

A plane is linear in the picture: with n . X = d in the camera frame, 1 / z = n . K^-1 (x, y, 1) / d
(Hartley and Zisserman, "Multiple View Geometry", section 13.1), so depth is never interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from locate.types import Array
from pipelines.town.model import Camera, Face, Light, Paint, Sky
from pipelines.town.paint import Rng

NEAR_M = 0.1  # faces are clipped at this depth, metres
SHADOW_CELLS = 1024  # side of the square shadow map, cells
REACH_M = 45.0  # shadows are cast within this distance of the focus, metres
GAMMA = 2.2  # sRGB taken as a plain power

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, half open


@dataclass(frozen=True)
class Rendering:
    """image: (h, w, 3) uint8 RGB; inverse, owner: (2 h, 2 w) 1 / z of the four sub-pixels of each
    pixel and the number of the face seen there, 0 for sky; planes: (faces + 1, 3), 1 / z = plane .
    (x, y, 1) in sub-pixels."""

    image: Array
    inverse: Array
    owner: Array
    planes: Array


def render(
    faces: Sequence[Face], camera: Camera, light: Light, sky: Sky, rng: Rng, *, focus: Array
) -> Rendering:
    """Draw faces. Sun shadows are cast round focus (3,)."""
    w, h = 2 * camera.width, 2 * camera.height
    big = replace(
        camera, width=w, height=h, focal=2 * camera.focal
    )  # its exact centre IS 2 c + 1/2
    projected = [p for p in (_project(face, big) for face in faces) if p is not None]
    inverse = np.zeros((big.height, big.width), np.float32)  # 1 / z, 0 is sky
    owner = np.zeros(inverse.shape, np.int32)  # 0 is sky, i is projected[i - 1]
    for cutouts in (False, True):  # solids first: they hide much that need not be sampled
        for i, p in enumerate(projected, 1):
            if p.face.cutout == cutouts:
                _rasterize(p, inverse, owner, i)
    albedo = np.zeros((*inverse.shape, 4), np.uint8)
    for i in np.flatnonzero(np.bincount(owner.ravel())[1:]).tolist():
        _paint(projected[i], owner, i + 1, albedo)
    lit = _sun_visible(faces, projected, big, light, inverse, owner, focus)
    linear = _shade(projected, light, lit, albedo, inverse, owner)
    open_ = owner == 0
    behind = _draw_sky(camera, light, sky, np.flatnonzero(open_.any(axis=1)))
    behind = cv2.resize(behind, (big.width, big.height), interpolation=cv2.INTER_NEAREST)
    cv2.copyTo(behind, open_.view(np.uint8), linear)
    small = cv2.resize(linear, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    planes = np.array([np.zeros(3), *(p.score for p in projected)])
    return Rendering(_develop(small, light, rng), inverse, owner, planes)


def _linear(row: Array, x: Array, y: Array, kind: npt.DTypeLike = np.float32) -> Array:
    """row . (x, y, 1) over a grid: row (3,), x (w,), y (h,) -> (h, w)."""
    down = (row[1] * y + row[2]).astype(kind)
    return np.asarray((row[0] * x).astype(kind)[None] + down[:, None])


@dataclass(frozen=True)
class _Projected:
    """A face as one view has it: outline (m, 2) pixels, its box, score (3,) with 1 / z (or height
    towards the sun) = score . (x, y, 1), and homographies (3, 3) from pixels to texels."""

    face: Face
    outline: Array
    box: Box
    score: Array
    texel: Array
    tint_texel: Array | None
    normal: Array


def _project(face: Face, camera: Camera) -> _Projected | None:
    """None where the face is out of view or turned away."""
    points = camera.to_camera(face.points)
    if points[:, 2].max() <= NEAR_M:
        return None
    n = camera.rotation @ face.normal
    d = float(n @ points[0])
    behind = d >= 0  # the camera centre is behind the plane
    if (behind and not face.cutout) or abs(d) < 1e-9:  # edge-on
        return None
    k = camera.matrix
    pixels = _clip_near(points) @ k.T
    outline = pixels[:, :2] / pixels[:, 2:]
    box = _box(outline, camera.width, camera.height)
    if box is None:
        return None

    def texel(paint: Paint) -> Array:
        """The inverse of K [across down first-texel]."""
        r = camera.rotation
        first = camera.to_camera((paint.corner + (paint.across + paint.down) / 2)[None])[0]
        return np.linalg.inv(k @ np.stack([r @ paint.across, r @ paint.down, first], axis=1))

    score = np.linalg.inv(k).T @ (n / d)
    tint = None if face.tint is None else texel(face.tint)
    normal = -face.normal if behind else face.normal
    return _Projected(face, outline, box, score, texel(face.paint), tint, normal)


def _clip_near(points: Array) -> Array:
    """Sutherland-Hodgman against z >= NEAR_M: (n, 3) camera metres to (m, 3)."""
    if points[:, 2].min() > NEAR_M:
        return points
    kept: list[Array] = []
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        if a[2] >= NEAR_M:
            kept.append(a)
        if (a[2] >= NEAR_M) != (b[2] >= NEAR_M):
            kept.append(a + (b - a) * ((NEAR_M - a[2]) / (b[2] - a[2])))
    return np.array(kept)


def _box(outline: Array, width: int, height: int) -> Box | None:
    """The pixels whose centres may lie in the outline (m, 2)."""
    low = np.ceil(np.clip(outline.min(axis=0), 0, None))
    high = np.floor(np.minimum(outline.max(axis=0), (width - 1, height - 1)))
    if len(outline) < 3 or (high < low).any():
        return None
    return int(low[0]), int(low[1]), int(high[0]) + 1, int(high[1]) + 1


def _cropped(mask: Array, box: Box) -> tuple[Array, Box]:
    """What is left of a mask (h, w) and of its box where it is true."""
    x, y, w, h = cv2.boundingRect(mask.view(np.uint8))
    left, top = box[0] + x, box[1] + y
    return mask[y : y + h, x : x + w], (left, top, left + w, top + h)


def _rasterize(p: _Projected, best: Array, owner: Array, label: int) -> None:
    """Claim every pixel whose centre is inside the outline and whose score beats the buffer's."""
    x0, y0, x1, y1 = p.box
    x, y = np.arange(x0, x1, dtype=np.float64), np.arange(y0, y1, dtype=np.float64)
    score = _linear(p.score, x, y)
    window = best[y0:y1, x0:x1]
    won = score > window
    # twice the area, positive when clockwise on the screen (y is down)
    u, v = (p.outline[1:] - p.outline[0]).T
    turn = np.sign((u[:-1] * v[1:] - u[1:] * v[:-1]).sum())
    if turn == 0:
        return
    for a, b in zip(p.outline, np.roll(p.outline, -1, axis=0), strict=True):
        # inside is where (b - a) x (pixel - a) has the sign of the outline's area
        ex, ey = (b - a) * turn
        left, right = -ey * (x - a[0]), -ex * (y - a[1])
        if left.min() < right.max():  # otherwise the whole box is on the inner side
            won &= left[None, :] >= right[:, None]
    if p.face.cutout:
        part, box = _cropped(won, p.box)
        if not part.size:
            return
        part &= _sample(p.face.paint, p.texel, box)[..., 3] > 127
    np.copyto(window, score, where=won)
    owner[y0:y1, x0:x1][won] = label


def _sample(paint: Paint, texel: Array, box: Box) -> Array:
    """The paint over a box of pixels: (h, w, 4) uint8, minified from the fitting level.

    The area of a pixel in texels is |det H| / |w|^3 with w the third row of H times the pixel,
    so one linear function tells the level of every pixel.
    """
    x0, y0, x1, y1 = box
    corners = np.array([[x, y, 1.0] for x in (x0, x1 - 1) for y in (y0, y1 - 1)])
    w = np.abs(corners @ texel[2])
    base = 0.5 * np.log2(abs(np.linalg.det(texel)) + 1e-30)
    low, high = (base - 1.5 * np.log2(np.array([w.max(), max(w.min(), 1e-12)]))) + 0.5
    top = len(paint.levels) - 1
    if high - low < 1.3:
        return _warp(paint, texel, box, int(np.clip(round((low + high) / 2), 0, top)))
    # A plane that runs far into the picture: rows of one level each where it is nearly level,
    # otherwise a choice per pixel.
    out = np.empty((y1 - y0, x1 - x0, 4), np.uint8)
    depth = np.abs(_linear(texel[2], np.arange(x0, x1), np.arange(y0, y1), np.float64))
    chosen = base + 0.5 - 1.5 * np.log2(np.maximum(depth, 1e-12).astype(np.float32))
    levels = np.clip(np.rint(chosen), 0, top).astype(np.int8)
    rows_low, rows_high = levels.min(axis=1), levels.max(axis=1)
    for level in range(int(rows_low.min()), int(rows_high.max()) + 1):
        rows = np.flatnonzero((rows_low <= level) & (level <= rows_high))
        if len(rows):
            a, b = int(rows[0]), int(rows[-1]) + 1
            band = _warp(paint, texel, (x0, y0 + a, x1, y0 + b), level)
            np.copyto(out[a:b], band, where=(levels[a:b] == level)[..., None])
    return out


def _warp(paint: Paint, texel: Array, box: Box, level: int) -> Array:
    """Bilinear samples of one level over a box: (h, w, 4) uint8."""
    full, image = paint.levels[0], paint.levels[level]
    sx, sy = image.shape[1] / full.shape[1], image.shape[0] / full.shape[0]
    # texel centres of a level: (s + 1/2) scale - 1/2
    scale = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1.0]])
    shift = np.array([[1.0, 0, box[0]], [0, 1, box[1]], [0, 0, 1]])
    border = cv2.BORDER_WRAP if paint.wrap else cv2.BORDER_REPLICATE
    size = (box[2] - box[0], box[3] - box[1])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    h = scale @ texel @ shift
    return np.asarray(cv2.warpPerspective(image, h, size, flags=flags, borderMode=border))


def _paint(p: _Projected, owner: Array, label: int, albedo: Array) -> None:
    """Write the face's colors (and glow) where it is the one seen."""
    x0, y0, x1, y1 = p.box
    mine, box = _cropped(owner[y0:y1, x0:x1] == label, p.box)
    colors = _sample(p.face.paint, p.texel, box)
    if p.face.tint is not None and p.tint_texel is not None:
        colors = cv2.multiply(colors, _sample(p.face.tint, p.tint_texel, box), scale=1 / 128)
    if p.face.cutout:
        colors[..., 3] = 0  # opacity is no glow
    target = albedo[box[1] : box[3], box[0] : box[2]]
    cv2.copyTo(colors, mine.view(np.uint8), target)


def _sun_visible(
    faces: Sequence[Face],
    projected: Sequence[_Projected],
    big: Camera,
    light: Light,
    inverse: Array,
    owner: Array,
    focus: Array,
) -> Array:
    """Share of the sun that reaches each pixel, (h, w) of the SMALL picture, by a shadow map."""
    sun = light.sun / np.linalg.norm(light.sun)
    side = np.cross([0.0, 0.0, 1.0] if abs(sun[2]) < 0.99 else [1.0, 0.0, 0.0], sun)
    side /= np.linalg.norm(side)
    axes = np.stack([side, np.cross(sun, side), sun])  # rows: map x, map y, height to the sun
    cell, far = 2 * REACH_M / SHADOW_CELLS, -4 * REACH_M
    height = np.full((SHADOW_CELLS, SHADOW_CELLS), far, np.float32)
    unused = np.zeros(height.shape, np.int32)
    for face in faces:
        # nothing in the town is so large that it could reach in from further away
        near = face.casts and float(np.abs(face.points[0] - focus).max()) < 2.5 * REACH_M
        caster = _towards_sun(face, axes, focus, cell) if near else None
        if caster is not None:
            _rasterize(caster, height, unused, 1)
    # z (K^-1 pixel) rotated to the map's axes; the upper left sub-pixel stands for its pixel
    rays = axes @ big.rotation.T @ np.linalg.inv(big.matrix)
    z = np.float32(1) / np.maximum(inverse[::2, ::2], np.float32(1e-4))
    x, y = np.arange(0.0, big.width, 2), np.arange(0.0, big.height, 2)
    at = zip(rays, axes @ (big.centre - focus), strict=True)
    u, v, up = (_linear(row, x, y) * z + np.float32(o) for row, o in at)
    u, v = (part / np.float32(cell) + np.float32((SHADOW_CELLS - 1) / 2) for part in (u, v))
    slope = np.array([0.0] + [max(float(p.normal @ sun), 0.0) for p in projected])
    # crossed planes of leaves would each draw a dark seam down the other
    leafy = np.array([0.0] + [0.9 * p.face.soft for p in projected])
    steep = np.sqrt(1 - slope**2) / np.maximum(slope, 0.15)
    bias = leafy + 0.06 + 1.6 * cell * steep  # metres
    own = up + bias.astype(np.float32)[owner[::2, ::2]]
    lit = np.zeros(own.shape, np.float32)
    taps = ((-0.7, -0.2), (0.2, -0.7), (0.7, 0.2), (-0.2, 0.7))
    for du, dv in taps:
        tap = u + np.float32(du), v + np.float32(dv)
        lit += own >= cv2.remap(height, *tap, cv2.INTER_NEAREST, borderValue=far)
    return lit / len(taps)


def _towards_sun(face: Face, axes: Array, focus: Array, cell: float) -> _Projected | None:
    """The face in the shadow map: orthographic, so score is the height towards the sun, metres."""
    k = (SHADOW_CELLS - 1) / 2
    points = (face.points - focus) @ axes.T
    outline = points[:, :2] / cell + k
    box = _box(outline, SHADOW_CELLS, SHADOW_CELLS)
    normal = axes @ face.normal
    if box is None or abs(normal[2]) < 1e-3:
        return None
    # n . (u cell', v cell', h) = d, solved for h
    d = float(normal @ points[0])
    a, b = -normal[0] * cell / normal[2], -normal[1] * cell / normal[2]
    score = np.array([a, b, d / normal[2] - (a + b) * k])
    p = face.paint
    first = axes @ (p.corner + (p.across + p.down) / 2 - focus)
    frame = np.stack([axes @ p.across / cell, axes @ p.down / cell, first / cell + k], axis=1)
    frame[2] = (0.0, 0.0, 1.0)
    return _Projected(face, outline, box, score, np.linalg.inv(frame), None, normal)


def _draw_sky(camera: Camera, light: Light, sky: Sky, open_: Array) -> Array:
    """Sky and hills in linear RGB, (h, w, 3), by the direction of each pixel's ray; black outside
    the rows between the first and the last of `open_` (sub-pixels, ascending)."""
    whole = np.zeros((camera.height, camera.width, 3), np.float32)
    if not len(open_):
        return whole
    rows = slice(int(open_[0]) // 2, int(open_[-1]) // 2 + 1)
    x, y = np.arange(camera.width), np.arange(rows.start, rows.stop)
    rays = camera.rotation.T @ np.linalg.inv(camera.matrix)
    ray = [_linear(row, x, y, np.float64).astype(np.float32) for row in rays]
    flat = np.hypot(ray[0], ray[1])
    elevation, azimuth = np.arctan2(ray[2], flat), np.arctan2(ray[1], ray[0])
    up = np.clip(elevation / np.float32(0.9), 0, 1) ** np.float32(0.55)
    horizon, zenith = light.horizon_rgb.astype(np.float32), light.zenith_rgb.astype(np.float32)
    out = horizon + (zenith - horizon) * up[..., None]
    toward = sum(np.float32(c) * d for c, d in zip(light.sun, ray, strict=True))
    halo = np.clip(toward / np.sqrt(flat**2 + ray[2] ** 2), 0, 1)
    for _ in range(4):
        halo *= halo  # the 16th power
    out += (np.float32(0.3) * halo)[..., None] * light.sun_rgb.astype(np.float32)
    h, w = sky.clouds.shape
    turn = np.float32(w / (2 * np.pi))
    u = np.mod((azimuth + np.float32(light.cloud_turn)) * turn, w).astype(np.float32)
    v = (np.float32(1) - np.clip(elevation, 0, None) / np.float32(np.pi / 2)) * np.float32(h - 1)
    clouds = cv2.remap(sky.clouds, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    cover = np.clip((clouds - np.float32(1 - light.cloud_cover)) * 3, 0, 1)
    cover *= np.clip(elevation * 6 + np.float32(0.15), 0, 1)
    bright = (0.55 * light.sun_rgb + 0.9 * light.ambient_rgb + 0.25 * light.horizon_rgb) / 1.5
    shade = (1.12 - 0.45 * cover)[..., None] * bright.astype(np.float32)
    out += (shade - out) * (0.85 * cover)[..., None]
    u = np.mod(azimuth * turn, sky.hills.shape[1]).astype(np.float32)
    v = np.zeros_like(u)
    for i, (skyline, rgb) in enumerate(zip(sky.hills, sky.hill_rgb, strict=True)):
        top = cv2.remap(skyline[None], u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        inside = np.clip((top - elevation) * np.float32(camera.focal) + np.float32(0.5), 0, 1)
        veil = 0.75 - 0.22 * i
        bright = light.ambient_rgb + 0.6 * light.sun_rgb
        tone = rgb * bright * (1 - veil) + light.horizon_rgb * veil
        out += (tone.astype(np.float32) - out) * inside[..., None]
    whole[rows] = out
    return whole


def _shade(
    projected: list[_Projected],
    light: Light,
    lit: Array,
    albedo: Array,
    inverse: Array,
    owner: Array,
) -> Array:
    """Ambient + Lambert + glow + haze: linear RGB (2 h, 2 w, 3)."""
    lambert = [0.55 if p.face.soft else max(float(p.normal @ light.sun), 0.0) for p in projected]
    sun = np.outer([0.0, *lambert], light.sun_rgb).astype(np.float32)
    # from above comes the sky, from below what the paving throws back
    above = [0.80 + 0.20 * p.normal[2] for p in projected]
    ambient = np.outer([1.0, *above], light.ambient_rgb).astype(np.float32)
    ambient += 0.06 * light.sun_rgb  # rounded twice: not the sum in one line
    shadow = cv2.resize(lit, owner.shape[::-1], interpolation=cv2.INTER_NEAREST)
    table = ((np.arange(256) / 255.0) ** GAMMA).astype(np.float32)
    out = np.empty((*owner.shape, 3), np.float32)
    for c in range(3):
        light_c = np.take(sun[:, c], owner)
        light_c *= shadow
        light_c += np.take(ambient[:, c], owner)
        light_c *= cv2.LUT(np.ascontiguousarray(albedo[..., c]), table)
        out[..., c] = light_c
    if light.glow > 0:
        glow = albedo[..., 3].astype(np.float32) * np.float32(light.glow / 255)
        out += glow[..., None] * np.array([1.0, 0.62, 0.24], np.float32)
    veil = np.exp(np.float32(-1 / light.haze_m) / np.maximum(inverse, np.float32(1e-6)))
    out -= light.horizon_rgb.astype(np.float32)
    out *= veil[..., None]
    out += light.horizon_rgb.astype(np.float32)
    return out


def _develop(linear: Array, light: Light, rng: Rng) -> Array:
    """Exposure, a shoulder that keeps highlights, gamma, contrast and grain: (h, w, 3) uint8."""
    x = np.clip(linear * np.float32(light.exposure), 0, None)
    x = x * (1 + x * np.float32(0.16)) / (1 + x * np.float32(0.75))  # Reinhard with a white point
    steps = np.clip(x * 4095, 0, 4095).astype(np.uint16)
    curve = (np.arange(4096) / 4095.0) ** (1 / GAMMA)
    curve = (curve - 0.47) * light.contrast * 1.2 + 0.48
    values = np.take((curve * 255).astype(np.float32), steps)
    values += rng.standard_normal(values.shape, np.float32) * np.float32(light.grain)
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
