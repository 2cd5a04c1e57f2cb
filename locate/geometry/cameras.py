"""Cameras: ours and pycolmap's, and what they see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap

from locate.geometry.camera_models import is_spherical
from locate.geometry.panorama import FIELD_OF_VIEW as VIEW_FIELD


@dataclass(frozen=True, eq=False)
class Camera:
    """A camera of COLMAP's, as plain values.

    Attributes:
        model: COLMAP's name of the camera model, such as "SIMPLE_RADIAL".
        width, height: of the photo, in pixels.
        params: in COLMAP's order and pixels (the top-left corner is the origin).
        source: who says so: "given", "exif", "map", "xmp" (of a 360 degree photo), "estimated"
            (focal length from the photo's matches),
            "exif in doubt" (its sources contradict each other: estimated between what they may mean).
    """

    model: str
    width: int
    height: int
    params: tuple[float, ...]
    source: str = "given"


def colmap_camera(camera: Camera) -> pycolmap.Camera:
    """The same camera as COLMAP's object."""
    return pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=list(camera.params)
    )


def copy_camera(camera: pycolmap.Camera) -> pycolmap.Camera:
    """The same camera, not bound to a model."""
    return pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=camera.params
    )


def field_of_view(camera: pycolmap.Camera) -> float:
    """Degrees across the longer side of a pinhole camera of this focal length; of a 360 degree photo,
    across its views."""
    if is_spherical(camera):
        return VIEW_FIELD
    side = max(camera.width, camera.height)
    return float(2 * np.degrees(np.arctan(side / 2 / camera.mean_focal_length())))
