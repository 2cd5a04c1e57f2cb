"""360 degree photos: the sphere that an equirectangular photo shows, and views cut out of it.

The camera frame is COLMAP's of its model EQUIRECTANGULAR: z looks at the middle of the whole sphere's
picture, x to the right, y down; longitude grows to the right, latitude downwards:

    ray = (sin lon cos lat, sin lat, cos lon cos lat)
    x + 0.5 = W (lon / 2 pi + 1/2),   y + 0.5 = H (lat / pi + 1/2)

with x, y in our pixels (the centre of the first is 0) of the whole sphere of W x H pixels. A photo may
show a part of it only, and be scaled: `Panorama` says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from locate.errors import ImageError
from locate.types import Array, PhotoInfo

EQUIRECTANGULAR = "equirectangular"
FIELD_OF_VIEW = 60.0  # degrees of a view: wider ones see too little of each thing and bend it
# (pitch in degrees, how many views around); they overlap, as features at the rim of a view lack what
# surrounds them. The first row is enough for most photos that are held upright.
ROWS = ((0.0, 12), (50.0, 6), (-50.0, 6))
_RATIO = 0.01  # how far a whole sphere's sides may be from 2 to 1, and a photo's from its tags
_PAD = 4  # pixels around the sphere's picture that interpolation may ask for


@dataclass(frozen=True)
class Panorama:
    """Which part of the sphere an equirectangular photo shows: `crop`, (left, top, width, height) of its
    edges in pixels of the whole sphere, may run over the right edge on to the left one."""

    full_size: tuple[int, int]  # (width, height) of the whole sphere
    crop: tuple[float, float, float, float]

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Panorama:
        """That of a photo of the whole sphere."""
        return cls(size, (0.0, 0.0, float(size[0]), float(size[1])))

    @property
    def closed(self) -> bool:
        """Whether the left edge continues the right one."""
        return self.crop[2] >= self.full_size[0]

    def to_photo(self, points: Array, size: tuple[int, int]) -> Array:
        """Points (N, 2) of the whole sphere -> where they lie in the photo, given in `size` (width,
        height) pixels; outside of it where the photo does not show them."""
        left, top, width, height = self.crop
        x = np.mod(points[:, 0] + 0.5 - left, self.full_size[0])
        # What lies beyond is nearer to one edge or to the other.
        beyond = x - width > (self.full_size[0] - width) / 2
        x = np.where(beyond, x - self.full_size[0], x)
        y = points[:, 1] + 0.5 - top
        return np.stack((x * size[0] / width - 0.5, y * size[1] / height - 0.5), axis=1)


def panorama_of(info: PhotoInfo, name: str = "the photo") -> Panorama | None:
    """The part of the sphere that a photo shows by its XMP; None of a photo that has no such tags.
    `ImageError` if the projection is none that is known, or the tags contradict the photo."""
    projection, untag = info.projection, "remove the tags (exiftool -XMP-GPano:all=)"
    if projection is None:
        return None
    width, height = info.size
    full = projection.full_size or info.size
    left, top, crop_width, crop_height = projection.crop or (0.0, 0.0, *map(float, full))
    part = f"{crop_width:g} x {crop_height:g} px at {left:g}, {top:g}"
    fits = 0 < crop_width <= full[0] and crop_height > 0 and 0 <= top <= full[1] - crop_height + 1
    if projection.kind != EQUIRECTANGULAR:
        why = f"is a {projection.kind} panorama (XMP GPano:ProjectionType), which is not supported"
        cure = (
            "stitch it as equirectangular, give one of the photos that it was made of, or cut a "
            "perspective view out of it and remove the tag (exiftool -XMP-GPano:all=)"
        )
    elif projection.full_size is None:
        if projection.crop is None and is_whole(info.size):
            return Panorama.whole(info.size)
        why = (
            f"is a 360 degree photo of {width} x {height} px whose XMP does not say which part of "
            "the sphere it shows"
        )
        cure = (
            "add GPano:FullPanoWidthPixels and the others; of a whole sphere, whose width is twice "
            "its height, say --camera EQUIRECTANGULAR"
        )
    elif not is_whole(full):
        why = (
            f"cannot be a part of a sphere of {full[0]} x {full[1]} px (XMP GPano:FullPano...), whose "
            "width is not twice its height"
        )
        cure = f"correct the tags, or {untag}"
    elif not fits or not -full[0] < left < full[0]:
        why = f"shows by its XMP (GPano:CroppedArea...) {part} of a sphere of {full[0]} x {full[1]} px"
        cure = f"correct the tags, or {untag}"
    elif abs(np.log(width / height * crop_height / crop_width)) > _RATIO + 1 / min(info.size):
        why = (
            f"is {width} x {height} px, but its XMP (GPano:CroppedArea...) tells of a photo of "
            f"{part}; it was cut since"
        )
        cure = (
            f"if it is an ordinary photo now, {untag} or give its camera by --camera; if it is a "
            "whole sphere, say --camera EQUIRECTANGULAR"
        )
    else:
        return Panorama(full, (left, top, crop_width, crop_height))
    raise ImageError(name, why, cure)


def looked_at_flat(info: PhotoInfo) -> str:
    """What to add to an answer that took a panorama for an ordinary photo; nothing of others."""
    if info.projection is None:
        return ""
    kind = "360 degree photo" if info.projection.kind == EQUIRECTANGULAR else "panorama"
    return f"; it is a {kind}, looked at as a flat one: ask with perspective views cut out of it"


def is_whole(size: tuple[int, int]) -> bool:
    """Whether (width, height) may be a whole sphere, 360 by 180 degrees in square pixels."""
    return abs(size[0] - 2 * size[1]) <= max(1.0, _RATIO * size[0])


def rays_of(points: Array, full_size: tuple[int, int]) -> Array:
    """Our pixels (N, 2) of a whole sphere -> N x 3 float64 unit rays."""
    longitude = ((points[:, 0] + 0.5) / full_size[0] - 0.5) * 2 * np.pi
    latitude = ((points[:, 1] + 0.5) / full_size[1] - 0.5) * np.pi
    flat = np.cos(latitude)
    return np.stack((np.sin(longitude) * flat, np.sin(latitude), np.cos(longitude) * flat), axis=1)


def pixels_of(rays: Array, full_size: tuple[int, int]) -> Array:
    """Rays (N, 3) of any length -> our pixels (N, 2) of a whole sphere, x from -0.5 to W - 0.5."""
    x, y, z = np.asarray(rays, np.float64).T
    right = full_size[0] * (np.arctan2(x, z) / (2 * np.pi) + 0.5) - 0.5
    down = full_size[1] * (np.arctan2(y, np.hypot(x, z)) / np.pi + 0.5) - 0.5
    return np.stack((right, down), axis=1)


def nearest_turn(x: Array, to: Array, width: int) -> Array:
    """x of points on a whole sphere, moved by full turns next to other points' over the seam."""
    return np.asarray(x + width * np.round((to - x) / width))


def view_rotation(yaw: float, pitch: float) -> Array:
    """3 x 3 view_from_panorama of a level view, `yaw` degrees to the right and `pitch` upwards."""
    a, b = np.radians([yaw, pitch])
    forward = np.array([np.sin(a) * np.cos(b), -np.sin(b), np.cos(a) * np.cos(b)])
    right = np.array([np.cos(a), 0.0, -np.sin(a)])
    return np.stack([right, np.cross(forward, right), forward])


def view_rotations(rows: Sequence[tuple[float, int]] = ROWS) -> Array:
    """V x 3 x 3 view_from_panorama of a rig of views, row by row from the front to the right."""
    return np.stack([view_rotation(360 * k / n, pitch) for pitch, n in rows for k in range(n)])


def owners_of(rays: Array, rotations: Array) -> Array:
    """N int64: which of the views (V x 3 x 3) looks closest at each ray (N, 3)."""
    return np.asarray(np.argmax(rays @ rotations[:, 2].T, axis=1))


class ViewCutter:
    """Cuts square perspective views out of a panorama, over its seam and its poles. One that has
    more pixels per degree than the views is shrunk first, by averaging, so that nothing is skipped."""

    def __init__(self, pixels: Array, panorama: Panorama, side: int) -> None:
        """H x W x 3 uint8 of the photo, maybe smaller than the panorama says; `side` of views in
        pixels."""
        self.side = side
        self.focal = side / 2 / np.tan(np.radians(FIELD_OF_VIEW) / 2)
        self._panorama = panorama
        height, width = pixels.shape[:2]
        dense = width * panorama.full_size[0] / panorama.crop[2] / (2 * np.pi) / self.focal
        if dense > 1:
            size = (max(1, round(width / dense)), max(1, round(height / dense)))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        self._size = (pixels.shape[1], pixels.shape[0])
        self._padded = _padded(pixels, panorama)
        middle = (side - 1) / 2
        axis = (np.arange(side) - middle) / self.focal
        x, y = np.meshgrid(axis, axis)
        self._rays = np.stack((x.ravel(), y.ravel(), np.ones(side * side)), axis=1)

    def cut(self, view_from_panorama: Array) -> tuple[Array, Array]:
        """The view, S x S x 3 uint8, black where the photo does not reach; S x S bool, where it does."""
        rays = self._rays @ view_from_panorama  # R^T v, as rows
        at = self._panorama.to_photo(pixels_of(rays, self._panorama.full_size), self._size)
        low, high = -0.5, np.array(self._size) - 0.5
        inside = ((at >= low) & (at <= high)).all(axis=1).reshape(self.side, self.side)
        x, y = (at + _PAD).astype(np.float32).T.reshape(2, self.side, self.side)
        view = cv2.remap(self._padded, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT)
        view[~inside] = 0
        return np.asarray(view), inside

    def rays(self, points: Array, view_from_panorama: Array) -> Array:
        """Our pixels (N, 2) of a view -> N x 3 rays in the panorama's frame."""
        plane = (np.asarray(points, np.float64) - (self.side - 1) / 2) / self.focal
        return np.asarray(np.c_[plane, np.ones(len(plane))] @ view_from_panorama)


def _padded(pixels: Array, panorama: Panorama) -> Array:
    """The picture with a rim that continues it: around the seam, over the poles, else by its edge."""
    closed = panorama.closed
    rim = np.pad(pixels, ((0, 0), (_PAD, _PAD), (0, 0)), "wrap" if closed else "edge")
    top, height = panorama.crop[1], panorama.crop[3]
    half = pixels.shape[1] // 2
    # Beyond a pole lies what is half a turn away.
    over = np.roll(rim[:, _PAD:-_PAD], half, axis=1)
    over = np.pad(over, ((0, 0), (_PAD, _PAD), (0, 0)), "wrap" if closed else "edge")
    north = over[:_PAD][::-1] if closed and top <= 0 else np.repeat(rim[:1], _PAD, axis=0)
    whole = closed and top + height >= panorama.full_size[1]
    south = over[-_PAD:][::-1] if whole else np.repeat(rim[-1:], _PAD, axis=0)
    return np.ascontiguousarray(np.concatenate([north, rim, south]))
