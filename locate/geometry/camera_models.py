"""COLMAP's camera models by name: which there are, what their parameters are, what others call them."""

from __future__ import annotations

import pycolmap

SPHERICAL = (
    "EQUIRECTANGULAR"  # of 360 degree photos; its parameters are the sphere's width and height
)
_OTHER_NAMES = {  # in ROS, OpenCV, Kalibr, openMVG, OpenSfM
    "plumb_bob": "OPENCV",
    "radtan": "OPENCV",
    "brown": "OPENCV",
    "perspective": "RADIAL",
    "rational_polynomial": "FULL_OPENCV",
    "equidistant": "OPENCV_FISHEYE",
    "kannala_brandt": "OPENCV_FISHEYE",
    "kannala_brandt4": "OPENCV_FISHEYE",
    "kb4": "OPENCV_FISHEYE",
    "fisheye624": "RAD_TAN_THIN_PRISM_FISHEYE, with its parameters in another order",
    "spherical": SPHERICAL,
    "panorama": SPHERICAL,
    "360": SPHERICAL,
}


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
