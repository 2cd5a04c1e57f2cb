"""A small exact renderer of textured planar faces: pinhole, z-buffer, sun shadows, haze.

Conventions: see town_model. A picture is rendered at twice its size and averaged 2 x 2. Sub-pixel i
of the large picture then lies at i / 2 - 1/4 of the small one, so the large camera has focal 2 f and
centre 2 c + 1/2.

A plane is linear in the picture: with n . X = d in the camera frame, 1 / z = n . K^-1 (x, y, 1) / d
(Hartley and Zisserman, "Multiple View Geometry", section 13.1), so depth is never interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.town.model import F32, F64, I32, U8, Camera, Face, Light, Mask, Paint, Rendering, Sky

NEAR_M = 0.1  # faces are clipped at this depth, metres
SHADOW_CELLS = 1024  # side of the square shadow map, cells
GAMMA = 2.2  # sRGB taken as a plain power


def render(
    faces: Sequence[Face],
    camera: Camera,
    light: Light,
    sky: Sky,
    rng: np.random.Generator,
    *,
    focus: F64,
    reach: float = 45.0,
) -> Rendering:
    """Draw faces. Sun shadows are cast inside the sphere of `reach` metres around focus (3,)."""
    big = _doubled(camera)
    seen = [s for s in (_Seen.of(face, big) for face in faces) if s is not None]
    inverse = np.zeros((big.height, big.width), np.float32)  # 1 / z, 0 is sky
    owner = np.zeros(inverse.shape, np.int32)  # 0 is sky, i + 1 is seen[i]
    for cutouts in (False, True):  # solids first: they hide much that need not be sampled
        for i, s in enumerate(seen):
            if s.face.cutout == cutouts:
                _rasterise(s, inverse, owner, i + 1)
    albedo = np.zeros((*inverse.shape, 4), np.uint8)
    counts = np.bincount(owner.ravel(), minlength=len(seen) + 1)
    for i, s in enumerate(seen):
        if counts[i + 1]:
            _paint(s, owner, i + 1, albedo)
    lit = _sun_visible(faces, seen, camera, inverse, owner, light, focus, reach)
    open_ = np.flatnonzero((owner == 0).any(axis=1))
    rows = (int(open_[0]) // 2, int(open_[-1]) // 2 + 1) if len(open_) else (0, 0)
    behind = _draw_sky(camera, light, sky, rows)
    linear = _shade(seen, albedo, owner, inverse, lit, light, behind)
    small = cv2.resize(linear, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    planes = np.array([np.zeros(3), *(s.score for s in seen)])
    return Rendering(_develop(np.asarray(small, np.float32), light, rng), inverse, owner, planes)


def _doubled(camera: Camera) -> Camera:
    """The camera of the 2 x 2 supersampled picture: its exact centre IS 2 c + 1/2."""
    return Camera(
        2 * camera.width, 2 * camera.height, 2 * camera.focal, camera.rotation, camera.translation
    )


@dataclass(frozen=True)
class _Seen:
    """A face as one view has it: outline (m, 2) pixels, box (x0, y0, x1, y1) pixels half open,
    score (3,) with 1 / z (or height towards the sun) = score . (x, y, 1), and texel maps (3, 3)."""

    face: Face
    outline: F64
    box: tuple[int, int, int, int]
    score: F64
    texel: F64
    tint_texel: F64 | None
    normal: F64

    @staticmethod
    def of(face: Face, camera: Camera) -> _Seen | None:
        """None where the face is out of view or turned away."""
        points = camera.to_camera(face.points)
        if points[:, 2].max() <= NEAR_M:
            return None
        normal = face.normal
        n = camera.rotation @ normal
        d = float(n @ points[0])
        if d >= 0 and not face.two_sided:  # the camera centre is behind the plane
            return None
        if abs(d) < 1e-9:  # edge-on
            return None
        clipped = _clip_near(points)
        k = camera.matrix
        pixels = clipped @ k.T
        outline = pixels[:, :2] / pixels[:, 2:]
        box = _box(outline, camera.width, camera.height)
        if box is None:
            return None

        def texel(paint: Paint) -> F64:
            """(3, 3) homography, pixel to texel: the inverse of K [across down first-texel]."""
            r = camera.rotation
            first = paint.corner + (paint.across + paint.down) / 2
            first = camera.to_camera(first[None])[0]
            frame = np.stack([r @ paint.across, r @ paint.down, first], axis=1)
            return np.asarray(np.linalg.inv(k @ frame), np.float64)

        score = np.linalg.inv(k).T @ (n / d)
        tint = None if face.tint is None else texel(face.tint)
        return _Seen(
            face, outline, box, score, texel(face.paint), tint, -normal if d >= 0 else normal
        )


def _clip_near(points: F64) -> F64:
    """Sutherland-Hodgman against z >= NEAR_M: (n, 3) camera metres to (m, 3)."""
    if points[:, 2].min() > NEAR_M:
        return points
    kept: list[F64] = []
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        if a[2] >= NEAR_M:
            kept.append(a)
        if (a[2] >= NEAR_M) != (b[2] >= NEAR_M):
            kept.append(a + (b - a) * ((NEAR_M - a[2]) / (b[2] - a[2])))
    return np.array(kept)


def _box(outline: F64, width: int, height: int) -> tuple[int, int, int, int] | None:
    """The pixels whose centres may lie in the outline (m, 2), as half-open bounds."""
    low = np.ceil(np.clip(outline.min(axis=0), 0, None))
    high = np.floor(np.minimum(outline.max(axis=0), (width - 1, height - 1)))
    if len(outline) < 3 or (high < low).any():
        return None
    return int(low[0]), int(low[1]), int(high[0]) + 1, int(high[1]) + 1


def _rasterise(s: _Seen, best: F32, owner: I32, label: int) -> None:
    """Claim every pixel whose centre is inside the outline and whose score beats the buffer's."""
    x0, y0, x1, y1 = s.box
    x = np.arange(x0, x1, dtype=np.float64)
    y = np.arange(y0, y1, dtype=np.float64)
    score = (s.score[0] * x).astype(np.float32)[None, :] + (s.score[1] * y + s.score[2]).astype(
        np.float32
    )[:, None]
    window = best[y0:y1, x0:x1]
    won: Mask = score > window
    turn = _area(s.outline)
    if turn == 0:
        return
    for p, q in zip(s.outline, np.roll(s.outline, -1, axis=0), strict=True):
        # inside is where (q - p) x (pixel - p) has the sign of the outline's area
        ex, ey = (q - p) * np.sign(turn)
        left = -ey * (x - p[0])
        right = -ex * (y - p[1])
        if left.min() < right.max():  # otherwise the whole box is on the inner side
            won &= left[None, :] >= right[:, None]
    if s.face.cutout:
        rows, cols = np.flatnonzero(won.any(axis=1)), np.flatnonzero(won.any(axis=0))
        if not len(rows):
            return
        box = (x0 + int(cols[0]), y0 + int(rows[0]), x0 + int(cols[-1]) + 1, y0 + int(rows[-1]) + 1)
        part = won[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        part &= _sample(s.face.paint, s.texel, box)[..., 3] > 127
    np.copyto(window, score, where=won)
    owner[y0:y1, x0:x1][won] = label


def _area(outline: F64) -> float:
    """Signed area of (m, 2), positive when clockwise on the screen (y is down)."""
    x, y = (outline[1:] - outline[0]).T  # seen from the first corner, its own terms are 0
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2


def _sample(paint: Paint, texel: F64, box: tuple[int, int, int, int]) -> U8:
    """The paint over a box of pixels: (h, w, 4) uint8, minified from the fitting level.

    The area of a pixel in texels is |det H| / |w|^3 with w the third row of H times the pixel,
    so one linear function tells the level of every pixel.
    """
    x0, y0, x1, y1 = box
    corners = np.array([[x, y, 1.0] for x in (x0, x1 - 1) for y in (y0, y1 - 1)])
    w = np.abs(corners @ texel[2])
    base = 0.5 * np.log2(abs(np.linalg.det(texel)) + 1e-30)
    low, high = (base - 1.5 * np.log2(np.array([w.max(), max(w.min(), 1e-12)]))) + 0.5
    top = len(paint.texture.levels) - 1
    if high - low < 1.3:
        level = int(np.clip(round((low + high) / 2), 0, top))
        return _warp(paint, texel, box, level)
    # A plane that runs far into the picture: rows of one level each where it is nearly level,
    # otherwise a choice per pixel.
    out = np.empty((y1 - y0, x1 - x0, 4), np.uint8)
    x, y = np.arange(x0, x1), np.arange(y0, y1)
    depth = np.abs(texel[2, 0] * x[None, :] + (texel[2, 1] * y + texel[2, 2])[:, None])
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


def _warp(paint: Paint, texel: F64, box: tuple[int, int, int, int], level: int) -> U8:
    """Bilinear samples of one level over a box: (h, w, 4) uint8."""
    full, image = paint.texture.levels[0], paint.texture.levels[level]
    sx, sy = image.shape[1] / full.shape[1], image.shape[0] / full.shape[0]
    # texel centres of a level: (s + 1/2) scale - 1/2
    scale = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1.0]])
    shift = np.array([[1.0, 0, box[0]], [0, 1, box[1]], [0, 0, 1]])
    h = scale @ texel @ shift
    border = cv2.BORDER_WRAP if paint.wrap else cv2.BORDER_REPLICATE
    size = (box[2] - box[0], box[3] - box[1])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    out = cv2.warpPerspective(image, h, size, flags=flags, borderMode=border)
    return np.asarray(out, np.uint8)


def _paint(s: _Seen, owner: I32, label: int, albedo: U8) -> None:
    """Write the face's colours (and glow) where it is the one seen."""
    x0, y0, x1, y1 = s.box
    mine = owner[y0:y1, x0:x1] == label
    rows, cols = np.flatnonzero(mine.any(axis=1)), np.flatnonzero(mine.any(axis=0))
    mine = mine[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    box = (x0 + int(cols[0]), y0 + int(rows[0]), x0 + int(cols[-1]) + 1, y0 + int(rows[-1]) + 1)
    colours = _sample(s.face.paint, s.texel, box)
    if s.face.tint is not None and s.tint_texel is not None:
        tint = _sample(s.face.tint, s.tint_texel, box)
        colours = np.asarray(cv2.multiply(colours, tint, scale=1 / 128), np.uint8)
    if s.face.cutout:
        colours[..., 3] = 0  # opacity is no glow
    target = albedo[box[1] : box[3], box[0] : box[2]]
    cv2.copyTo(colours, mine.view(np.uint8) * np.uint8(255), target)


def _sun_visible(
    faces: Sequence[Face],
    seen: Sequence[_Seen],
    camera: Camera,
    inverse: F32,
    owner: I32,
    light: Light,
    focus: F64,
    reach: float,
) -> F32:
    """Share of the sun that reaches each pixel, (h, w) of the SMALL picture, by a shadow map."""
    sun = light.sun / np.linalg.norm(light.sun)
    side = np.cross([0.0, 0.0, 1.0] if abs(sun[2]) < 0.99 else [1.0, 0.0, 0.0], sun)
    side /= np.linalg.norm(side)
    axes = np.stack([side, np.cross(sun, side), sun])  # rows: map x, map y, height to the sun
    cell = 2 * reach / SHADOW_CELLS
    far = np.float32(-4 * reach)
    height = np.full((SHADOW_CELLS, SHADOW_CELLS), far, np.float32)
    label = np.zeros(height.shape, np.int32)
    for face in faces:
        # nothing in the town is so large that it could reach in from further away
        near = face.casts and float(np.abs(face.points[0] - focus).max()) < 2.5 * reach
        caster = _towards_sun(face, axes, focus, cell) if near else None
        if caster is not None:
            _rasterise(caster, height, label, 1)
    # z (K^-1 pixel) rotated to the map's axes; the upper left sub-pixel stands for its pixel
    r = axes @ camera.rotation.T @ np.linalg.inv(_doubled(camera).matrix)
    offset = axes @ (camera.centre - focus)
    inv = inverse[::2, ::2]
    z = np.float32(1) / np.maximum(inv, np.float32(1e-4))
    x = np.arange(0, 2 * camera.width, 2, dtype=np.float64)
    y = np.arange(0, 2 * camera.height, 2, dtype=np.float64)
    where = []
    for row, o in zip(r, offset, strict=True):
        ray = (row[0] * x).astype(np.float32)[None] + (row[1] * y + row[2]).astype(np.float32)[
            :, None
        ]
        where.append(ray * z + np.float32(o))
    u = where[0] / np.float32(cell) + np.float32((SHADOW_CELLS - 1) / 2)
    v = where[1] / np.float32(cell) + np.float32((SHADOW_CELLS - 1) / 2)
    slope = np.array([0.0] + [max(float(s.normal @ sun), 0.0) for s in seen])
    # crossed planes of leaves would each draw a dark seam down the other
    leafy = np.array([0.0] + [0.9 * s.face.soft for s in seen])
    steep = np.sqrt(1 - slope**2) / np.maximum(slope, 0.15)
    bias = leafy + 0.06 + 1.6 * cell * steep  # metres
    own = where[2] + bias.astype(np.float32)[owner[::2, ::2]]
    lit = np.zeros(own.shape, np.float32)
    taps = ((-0.7, -0.2), (0.2, -0.7), (0.7, 0.2), (-0.2, 0.7))
    for du, dv in taps:
        top = cv2.remap(
            height,
            u + np.float32(du),
            v + np.float32(dv),
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=float(far),
        )
        lit += own >= top
    return np.asarray(lit / len(taps), np.float32)


def _towards_sun(face: Face, axes: F64, focus: F64, cell: float) -> _Seen | None:
    """The face in the shadow map: orthographic, so score is the height towards the sun, metres."""
    points: F64 = (face.points - focus) @ axes.T
    outline = points[:, :2] / cell + (SHADOW_CELLS - 1) / 2
    box = _box(outline, SHADOW_CELLS, SHADOW_CELLS)
    normal = axes @ face.normal
    if box is None or abs(normal[2]) < 1e-3:
        return None
    # n . (u cell', v cell', h) = d, solved for h
    d = float(normal @ points[0])
    k = (SHADOW_CELLS - 1) / 2
    a, b = -normal[0] * cell / normal[2], -normal[1] * cell / normal[2]
    score = np.array([a, b, d / normal[2] - (a + b) * k])
    p = face.paint
    first = axes @ (p.corner + (p.across + p.down) / 2 - focus)
    frame = np.stack([axes @ p.across / cell, axes @ p.down / cell, first / cell + k], axis=1)
    frame[2] = (0.0, 0.0, 1.0)
    return _Seen(
        face, outline, box, score, np.asarray(np.linalg.inv(frame), np.float64), None, normal
    )


def _draw_sky(camera: Camera, light: Light, sky: Sky, rows: tuple[int, int]) -> F32:
    """Sky and hills in linear RGB, (h, w, 3), by the direction of each pixel's ray; black outside
    the half-open range of rows."""
    whole = np.zeros((camera.height, camera.width, 3), np.float32)
    if rows[0] == rows[1]:
        return whole
    x = np.arange(camera.width, dtype=np.float64)
    y = np.arange(*rows, dtype=np.float64)
    r = camera.rotation.T @ np.linalg.inv(camera.matrix)
    ray = [((row[0] * x)[None, :] + (row[1] * y + row[2])[:, None]).astype(np.float32) for row in r]
    flat = np.hypot(ray[0], ray[1])
    elevation = np.arctan2(ray[2], flat)
    azimuth = np.arctan2(ray[1], ray[0])
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
    column = np.mod(azimuth * turn, sky.hills.shape[1]).astype(np.float32)
    for i, (skyline, rgb) in enumerate(zip(sky.hills, sky.hill_rgb, strict=True)):
        top = cv2.remap(
            skyline[None],
            column,
            np.zeros_like(column),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        inside = np.clip((top - elevation) * np.float32(camera.focal) + np.float32(0.5), 0, 1)
        veil = 0.75 - 0.22 * i
        tone = (
            rgb * (light.ambient_rgb + 0.6 * light.sun_rgb) * (1 - veil) + light.horizon_rgb * veil
        )
        out += (tone.astype(np.float32) - out) * inside[..., None]
    whole[rows[0] : rows[1]] = out
    return whole


def _shade(
    seen: Sequence[_Seen],
    albedo: U8,
    owner: I32,
    inverse: F32,
    lit: F32,
    light: Light,
    sky: F32,
) -> F32:
    """Ambient + Lambert + glow + haze over the sky: linear RGB (2 h, 2 w, 3)."""
    sun = np.zeros((len(seen) + 1, 3), np.float32)
    ambient = np.ones((len(seen) + 1, 3), np.float32)
    for i, s in enumerate(seen):
        lambert = 0.55 if s.face.soft else max(float(s.normal @ light.sun), 0.0)
        sun[i + 1] = light.sun_rgb * lambert
        # from above comes the sky, from below what the paving throws back
        ambient[i + 1] = light.ambient_rgb * (0.80 + 0.20 * s.normal[2])
        ambient[i + 1] += 0.06 * light.sun_rgb
    big = (owner.shape[1], owner.shape[0])
    shadow = np.asarray(cv2.resize(lit, big, interpolation=cv2.INTER_NEAREST), np.float32)
    power = (np.arange(256) / 255.0) ** GAMMA
    table = power.astype(np.float32)
    out = np.empty((*owner.shape, 3), np.float32)
    for c in range(3):
        light_c = np.take(sun[:, c], owner)
        light_c *= shadow
        light_c += np.take(ambient[:, c], owner)
        light_c *= np.asarray(cv2.LUT(np.ascontiguousarray(albedo[..., c]), table), np.float32)
        out[..., c] = light_c
    if light.glow > 0:
        glow = albedo[..., 3].astype(np.float32) * np.float32(light.glow / 255)
        out += glow[..., None] * np.array([1.0, 0.62, 0.24], np.float32)
    veil = np.exp(np.float32(-1 / light.haze_m) / np.maximum(inverse, np.float32(1e-6)))
    out -= light.horizon_rgb.astype(np.float32)
    out *= veil[..., None]
    out += light.horizon_rgb.astype(np.float32)
    far = (owner == 0).view(np.uint8) * np.uint8(255)
    cv2.copyTo(cv2.resize(sky, big, interpolation=cv2.INTER_NEAREST), far, out)
    return out


def _develop(linear: F32, light: Light, rng: np.random.Generator) -> U8:
    """Exposure, a shoulder that keeps highlights, gamma, contrast and grain: (h, w, 3) uint8."""
    x = np.clip(linear * np.float32(light.exposure), 0, None)
    x = x * (1 + x * np.float32(0.16)) / (1 + x * np.float32(0.75))  # Reinhard with a white point
    steps = np.clip(x * 4095, 0, 4095).astype(np.uint16)
    curve = (np.arange(4096) / 4095.0) ** (1 / GAMMA)
    curve = (curve - 0.47) * light.contrast * 1.2 + 0.48
    values = np.take((curve * 255).astype(np.float32), steps)
    values += rng.standard_normal(values.shape, np.float32) * np.float32(light.grain)
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
