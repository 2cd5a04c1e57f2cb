"""Cameras: ours and pycolmap's, COLMAP's models by name, what cameras see; those of 360 degree photos
(COLMAP's EQUIRECTANGULAR of the whole sphere, by the photo's tags or as the user gives it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from locate.errors import ImageError, InputError
from locate.geometry.panorama import FIELD_OF_VIEW as VIEW_FIELD
from locate.geometry.panorama import is_whole, panorama_of
from locate.types import Array, PhotoInfo
from locate.util.printable import first_few

SPHERICAL = "EQUIRECTANGULAR"  # of 360 degree photos; parameters: the sphere's width and height
CUT_THEM = "cut them into perspective views, as COLMAP's panorama_sfm.py does"
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


def colmap_camera(like: Camera | pycolmap.Camera, params: Array | None = None) -> pycolmap.Camera:
    """The same camera, or one with other `params`, as an object of COLMAP's that no model holds."""
    values = list(like.params) if params is None else params
    return pycolmap.Camera(model=like.model, width=like.width, height=like.height, params=values)


def field_of_view(camera: pycolmap.Camera) -> float:
    """Degrees across the longer side of a pinhole camera of this focal length; of a sphere, across a
    view."""
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
    """The parameters of a model, or what there is instead of it: a sentence without its stop."""
    if model in camera_models():
        made = pycolmap.Camera.create_from_model_name(0, model, 1.0, 1, 1)
        return f"The parameters of {model} are {made.params_info}"
    if model == SPHERICAL:
        return f"This pycolmap ({pycolmap.__version__}) has no {SPHERICAL}; update it"
    other = _OTHER_NAMES.get(model.lower().replace("-", "_"))
    if other is not None:
        return f"COLMAP calls {model} {other}"
    return f"COLMAP's models are {', '.join(camera_models())}"


def sphere_camera(size: tuple[int, int]) -> pycolmap.Camera:
    """The camera of a whole sphere of (width, height) pixels."""
    if SPHERICAL not in camera_models():
        raise InputError(f"360 degree photos need COLMAP's model of them. {about_model(SPHERICAL)}")
    return colmap_camera(Camera(SPHERICAL, *size, (float(size[0]), float(size[1]))))


def tagged_sphere(info: PhotoInfo, name: str = "the photo") -> tuple[pycolmap.Camera, str]:
    """The camera of the sphere that a photo shows, whole or in part, by its XMP (`panorama_of`), and
    its source."""
    found = panorama_of(info, name)
    assert found is not None, "only of photos with such tags"
    return sphere_camera(found.full_size), "xmp"


def given_sphere(
    camera: pycolmap.Camera, given: object, info: PhotoInfo, name: str
) -> tuple[pycolmap.Camera, str]:
    """A sphere's camera that the user gives (`given`, of which the model's name alone leaves the
    size open), checked against the photo, which may show a part of it by its XMP; and its source.
    `ImageError` if it is not that of this photo."""
    size, full = info.size, tuple(camera.params.tolist())
    bare = str(given).strip() == SPHERICAL
    if full == size and (is_whole(size) or not bare):
        return camera, "given"
    tagged = info.projection
    if tagged is not None and (bare or tagged.full_size == full):
        return tagged_sphere(info, name)
    if bare:
        raise ImageError(
            name,
            f"is {size[0]} x {size[1]} px, but the width of a whole sphere is twice its height",
            "give a whole equirectangular photo, the camera of an ordinary one, or, where a whole "
            f"sphere was stretched, {SPHERICAL},{size[0]},{size[1]}",
        )
    raise ImageError(
        name,
        f"is {size[0]} x {size[1]} px, but its camera is {SPHERICAL} of {full[0]:g} x {full[1]:g}",
        f"give {SPHERICAL},{size[0]},{size[1]} if the photo shows the whole sphere; one that was cut "
        "needs the tags of Photo Sphere XMP (GPano:CroppedArea...)",
    )


def refuse_spheres(model: Path, cameras: Mapping[str, pycolmap.Camera]) -> None:
    """`InputError` if some cameras of a model, by the names of their photos, see the whole sphere: a
    map's points are triangulated in perspective photos."""
    names = sorted(name for name, camera in cameras.items() if is_spherical(camera))
    if names:
        raise InputError(
            f"{len(names)} of the {len(cameras)} photos of {model} are 360 degree photos (camera model "
            f"{SPHERICAL}): {first_few(names)}; a map is made of perspective photos: "
            f"{CUT_THEM}, and give the model of these, or take the photos out of the model"
        )
