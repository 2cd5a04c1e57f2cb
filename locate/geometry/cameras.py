"""Cameras: ours and pycolmap's, COLMAP's models by name, and what cameras see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pycolmap

from locate.geometry.panorama import FIELD_OF_VIEW as VIEW_FIELD
from locate.types import Array

SPHERICAL = "EQUIRECTANGULAR"  # of 360 degree photos; parameters: the sphere's width and height
_OTHER_NAMES = {  # in ROS, OpenCV, Kalibr, openMVG, OpenSfM
    **dict.fromkeys(("plumb_bob", "radtan", "brown"), "OPENCV"),
    "perspective": "RADIAL",
    "rational_polynomial": "FULL_OPENCV",
    **dict.fromkeys(("equidistant", "kannala_brandt", "kannala_brandt4", "kb4"), "OPENCV_FISHEYE"),
    "fisheye624": "RAD_TAN_THIN_PRISM_FISHEYE, with its parameters in another order",
    **dict.fromkeys(("spherical", "panorama", "360"), SPHERICAL),
}


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


def colmap_camera(camera: Camera | pycolmap.Camera, params: Array | None = None) -> pycolmap.Camera:
    """The same camera, or one with other `params`, as an object of COLMAP's that no model holds."""
    values = list(camera.params) if params is None else params
    return pycolmap.Camera(
        model=camera.model, width=camera.width, height=camera.height, params=values
    )


def field_of_view(camera: pycolmap.Camera) -> float:
    """Degrees across the longer side of a pinhole camera of this focal length; of a 360 degree photo,
    across its views."""
    if is_spherical(camera):
        return VIEW_FIELD
    side = max(camera.width, camera.height)
    return float(2 * np.degrees(np.arctan(side / 2 / camera.mean_focal_length())))


def camera_models() -> list[str]:
    """The names of the camera models that this COLMAP has."""
    return [name for name in pycolmap.CameraModelId.__members__ if name != "INVALID"]


def is_spherical(camera: pycolmap.Camera) -> bool:
    """Whether it is that of a 360 degree photo, which has no focal length and looks everywhere."""
    return str(camera.model_name) == SPHERICAL


def about_model(model: str) -> str:
    """The parameters of a model; of a name that is none, what there is instead. A sentence without its
    stop."""
    if model in camera_models():
        made = pycolmap.Camera.create_from_model_name(0, model, 1.0, 1, 1)
        return f"The parameters of {model} are {made.params_info}"
    if model == SPHERICAL:
        return f"This pycolmap ({pycolmap.__version__}) has no {SPHERICAL}; update it"
    other = _OTHER_NAMES.get(model.lower().replace("-", "_"))
    if other is not None:
        return f"COLMAP calls {model} {other}"
    return f"COLMAP's models are {', '.join(camera_models())}"
