"""Photos of known cameras as other cameras would have taken them: smaller, a part of them, through other
lenses. For `benchmarks/tables/localize.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pycolmap

from locate.datasets.records import PosedPhoto
from locate.types import Array

# Model and parameters for photos of 800 x 600; those of others are scaled.
LENSES = {
    "OPENCV": (700, 690, 405, 296, -0.12, 0.04, 0.001, -0.001),
    "OPENCV_FISHEYE": (600, 605, 398, 303, 0.03, -0.01, 0.002, 0.0005),
    "FULL_OPENCV": (600, 605, 398, 303, -0.28, 0.05, 0, 0, 0, 0, 0, 0),
    "FOV": (600, 605, 398, 303, 0.9),
    "THIN_PRISM_FISHEYE": (600, 605, 398, 303, 0.03, -0.01, 5e-4, -4e-4, 2e-3, 5e-4, 3e-4, -2e-4),
}
SIZES = {"half size": 0.5, "quarter size": 0.25}
CROPS = 3  # of each photo, of a random 50 to 85 % of each side, anywhere
QUALITY = 95  # of the JPEGs, without EXIF


def changed(
    photos: list[PosedPhoto], folder: Path, seed: int = 0
) -> Iterator[tuple[str, PosedPhoto]]:
    """(what was done, the photo with the camera that it has now), written into `folder`.

    Args:
        photos: of pinhole cameras.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, photo in enumerate(photos):
        pixels = cv2.imread(str(photo.path))
        assert pixels is not None, photo.path
        rng = np.random.default_rng([seed, number])
        versions = [
            *((name, *shrunk(pixels, photo.camera, factor)) for name, factor in SIZES.items()),
            *(("crops", *cropped(pixels, photo.camera, rng)) for _ in range(CROPS)),
            *((model, *seen_through(pixels, photo.camera, model)) for model in LENSES),
        ]
        for k, (name, made, camera) in enumerate(versions):
            path = folder / f"{photo.path.stem}-{k:02d}-{name.replace(' ', '-')}.jpg"
            cv2.imwrite(str(path), made, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
            yield name, replace(photo, path=path, camera=camera)


def shrunk(pixels: Array, camera: pycolmap.Camera, factor: float) -> tuple[Array, pycolmap.Camera]:
    """By averages; in COLMAP's pixels all of a pinhole camera is scaled."""
    size = round(camera.width * factor), round(camera.height * factor)
    made = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    scale = np.array(size)[[0, 1, 0, 1]] / np.array([camera.width, camera.height] * 2)
    return made, pinhole(size, camera.params * scale)


def cropped(
    pixels: Array, camera: pycolmap.Camera, rng: np.random.Generator
) -> tuple[Array, pycolmap.Camera]:
    """A part of it."""
    whole = np.array([camera.width, camera.height])
    width, height = (whole * rng.uniform(0.5, 0.85, 2)).astype(int)
    left, top = rng.integers(0, whole - (width, height) + 1)
    made = np.ascontiguousarray(pixels[top : top + height, left : left + width])
    return made, pinhole((int(width), int(height)), camera.params - [0, 0, left, top])


def seen_through(
    pixels: Array, camera: pycolmap.Camera, model: str
) -> tuple[Array, pycolmap.Camera]:
    """Through another lens; black where the photo does not reach."""
    size = camera.width, camera.height
    scale = max(size) / 800
    lens = pycolmap.Camera(model=model, width=size[0], height=size[1], params=LENSES[model])
    params = np.array(lens.params)
    focals, middle = list(lens.focal_length_idxs()), list(lens.principal_point_idxs())
    params[focals] *= scale
    params[middle] = np.array(size) / 2 + (params[middle] - [400, 300]) * scale
    lens = pycolmap.Camera(model=model, width=size[0], height=size[1], params=params)
    y, x = np.mgrid[: size[1], : size[0]]
    flat = np.asarray(lens.cam_from_img(np.stack([x + 0.5, y + 0.5], axis=-1).reshape(-1, 2)))
    rays = np.c_[flat, np.ones(len(flat))]
    source = np.nan_to_num(np.asarray(camera.img_from_cam(rays)) - 0.5, nan=-1e4)
    at = source.reshape(*x.shape, 2).astype(np.float32)
    return cv2.remap(pixels, at[..., 0], at[..., 1], cv2.INTER_LANCZOS4), lens


def pinhole(size: tuple[int, int], params: Array) -> pycolmap.Camera:
    return pycolmap.Camera(model="PINHOLE", width=size[0], height=size[1], params=params)
