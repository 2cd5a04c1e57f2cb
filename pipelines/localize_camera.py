"""Which camera took a query photo, and how far that can be trusted.

In this order: the one that the user gives; that of the map's photos by the same device at the same zoom;
the focal length of EXIF; none, then it is estimated with the pose. What is not given is refined with the
pose, held by a prior as tight as its source is good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pycolmap

from locate.errors import ImageError, InputError
from locate.panorama import is_whole, panorama_of
from locate.pose import Camera
from locate.types import PhotoInfo
from pipelines.pose_models import (
    SPHERICAL,
    camera_models,
    is_spherical,
    make_camera,
    read_cameras_text,
)
from pipelines.pose_refine import Freedom
from pipelines.sensors import exif_focal

_GUESS = 1.2  # focal length in units of the longer side: COLMAP's, near that of a phone
# Standard deviations. Of phones and compact cameras, EXIF rounds to whole millimetres or knows the lens
# at infinity only; a principal point is rarely further than 1 % of the photo from its middle.
_MAP = Freedom(focal=0.002, distortion=0.002, principal=0.001)
_EXIF = Freedom(focal=0.05, distortion=0.1, principal=0.01)
_OTHER_NAMES = {  # of camera models, in ROS, OpenCV, Kalibr and openMVG
    "plumb_bob": "OPENCV",
    "radtan": "OPENCV",
    "brown": "OPENCV",
    "rational_polynomial": "FULL_OPENCV",
    "equidistant": "OPENCV_FISHEYE",
    "kannala_brandt": "OPENCV_FISHEYE",
    "kannala_brandt4": "OPENCV_FISHEYE",
    "fisheye624": "RAD_TAN_THIN_PRISM_FISHEYE, whose parameters are in another order",
    "spherical": "EQUIRECTANGULAR",
    "panorama": "EQUIRECTANGULAR",
    "360": "EQUIRECTANGULAR",
}
_UNKNOWN = Freedom(focal=1.0, distortion=0.1, principal=0.01)


@dataclass(frozen=True, eq=False)
class QueryCamera:
    """Attributes:
    camera: of COLMAP.
    source: see `locate.pose.Camera`.
    freedom: what is refined with the pose.
    """

    camera: pycolmap.Camera
    source: str
    freedom: Freedom

    @property
    def focal_known(self) -> bool:
        return self.source != "estimated"

    @property
    def spherical(self) -> bool:
        """Whether it is that of a 360 degree photo."""
        return is_spherical(self.camera)


@dataclass(frozen=True)
class Device:
    """What EXIF calls a camera at one zoom; cameras of one device see alike.

    Attributes:
        name: maker and model.
        focal_mm: as EXIF has it.
        size: (width, height) in pixels, upright.
    """

    name: str
    focal_mm: float | None
    size: tuple[int, int]


def device_of(info: PhotoInfo) -> Device | None:
    """None of a photo whose EXIF does not name its camera."""
    if info.camera is None:
        return None
    return Device(info.camera, info.focal_mm or info.focal_35mm, info.size)


def choose_camera(
    info: PhotoInfo,
    given: pycolmap.Camera | Camera | str | Path | None = None,
    *,
    name: str = "the photo",
    known: Mapping[Device, pycolmap.Camera] | None = None,
) -> QueryCamera:
    """The camera of a query.

    Args:
        info: of the photo.
        given: a camera; "MODEL,PARAMS...", such as "PINHOLE,1380,1382,760,503" in COLMAP's order and
            pixels; "f=1380", a focal length in pixels; "EQUIRECTANGULAR" for a 360 degree photo; or the
            path of COLMAP's cameras.txt with one camera in it.
        name: of the photo, for messages.
        known: cameras of the map by the device that they belong to.

    Returns:
        Of a 360 degree photo that is given or tagged as one a camera of the whole sphere, COLMAP's
        EQUIRECTANGULAR (`spherical`), which `pipelines.localize_panorama` can use and others cannot.

    Raises:
        InputError: the camera is none.
        ImageError: it is not one of photos of this size.
    """
    size = info.size
    if given is None and info.projection is not None:
        return panorama_camera(info, name)
    if given is not None:
        camera = _given(given, size)
        if is_spherical(camera):
            return given_panorama(camera, given, info, name)
        if (camera.width, camera.height) != size:
            raise ImageError(
                name,
                f"is {size[0]} x {size[1]} px, but its camera is {camera.width} x {camera.height}",
                "give the camera of the photo as it is",
            )
        return QueryCamera(camera, "given", Freedom())
    device = device_of(info)
    if device is not None and device in (known or {}):
        return QueryCamera((known or {})[device], "map", _MAP)
    focal = exif_focal(info)
    if focal is not None:
        return QueryCamera(simple_camera(focal, size), "exif", _EXIF)
    return unknown_camera(size)


def unknown_camera(size: tuple[int, int]) -> QueryCamera:
    """A camera whose focal length has to be estimated."""
    return QueryCamera(simple_camera(_GUESS * max(size), size), "estimated", _UNKNOWN)


def simple_camera(focal: float, size: tuple[int, int]) -> pycolmap.Camera:
    """COLMAP's SIMPLE_RADIAL without distortion, its principal point in the middle.

    Args:
        focal: in pixels.
        size: (width, height) in pixels.
    """
    params = [focal, size[0] / 2, size[1] / 2, 0.0]
    return pycolmap.Camera(model="SIMPLE_RADIAL", width=size[0], height=size[1], params=params)


def plain_camera(camera: pycolmap.Camera, source: str) -> Camera:
    """A camera of COLMAP as plain values."""
    return Camera(
        camera.model.name, camera.width, camera.height, tuple(map(float, camera.params)), source
    )


def _given(given: pycolmap.Camera | Camera | str | Path, size: tuple[int, int]) -> pycolmap.Camera:
    if isinstance(given, pycolmap.Camera):
        given = plain_camera(given, "given")
    if isinstance(given, Camera):  # read as text is, which checks it: COLMAP takes any parameters
        fields = [given.model, *map(str, (given.width, given.height, *given.params))]
        return make_camera(Path("the camera"), 1, fields)
    text = str(given)
    if text.startswith("f="):
        try:
            focal = float(text[2:])
        except ValueError:
            focal = -1.0
        if not 0 < focal < float("inf"):
            raise InputError(f"a focal length in pixels is a positive number, got {text!r}")
        return simple_camera(focal, size)
    if Path(text).is_file():
        cameras = list(read_cameras_text(Path(text)).values())
        if len(cameras) != 1:
            raise InputError(f"{text} holds {len(cameras)} cameras; give a file with one")
        return cameras[0]
    model, *params = text.split(",")
    fields = [model.strip(), str(size[0]), str(size[1]), *params]
    if fields[0] == SPHERICAL and not params:
        fields += fields[1:3]
    try:
        return make_camera(Path("--camera"), 1, fields)
    except InputError:
        raise InputError(
            f"{text!r} is no camera; give f=PIXELS, MODEL,PARAMS as COLMAP has them (such as "
            f"PINHOLE,1380,1382,760,503), or a cameras.txt{_what_is_wrong(fields)}"
        ) from None


def _what_is_wrong(fields: list[str]) -> str:
    """With a camera as text: its parameters, or its model, which other tools may call so."""
    model = fields[0]
    if model in camera_models():
        known = pycolmap.Camera.create_from_model_name(0, model, 1.0, 1, 1).params_info
        return f". The parameters of {model} are {known}"
    if model == SPHERICAL:
        return f". This pycolmap ({pycolmap.__version__}) has no {SPHERICAL}; update it"
    other = _OTHER_NAMES.get(model.lower().replace("-", "_"))
    if other is not None:
        return f". COLMAP calls {model} {other}"
    if len(fields) == 3 and "/" in model:
        return f". There is no file {model}"
    return f". COLMAP's models are {', '.join(camera_models())}"


def panorama_camera(info: PhotoInfo, name: str = "the photo") -> QueryCamera:
    """The camera of the whole sphere, of which a photo's XMP says that it shows a part.

    Raises:
        ImageError: see `locate.panorama.panorama_of`.
    """
    found = panorama_of(info, name)
    assert found is not None, "only of photos with such tags"
    return QueryCamera(sphere_camera(found.full_size), "xmp", Freedom())


def given_panorama(
    camera: pycolmap.Camera, given: object, info: PhotoInfo, name: str
) -> QueryCamera:
    """A sphere's camera that the user gives, checked against the photo, which may show a part of it by
    its XMP.

    Raises:
        ImageError: it is not that of this photo.
    """
    size, full = info.size, tuple(camera.params.tolist())
    bare = str(given).strip() == SPHERICAL
    if full == size and (is_whole(size) or not bare):
        return QueryCamera(camera, "given", Freedom())
    tagged = info.projection
    if tagged is not None and (bare or tagged.full_size == full):
        return panorama_camera(info, name)
    if bare:
        raise ImageError(
            name,
            f"is {size[0]} x {size[1]} px, but the width of a whole sphere is twice its height",
            "give a whole equirectangular photo, the camera of an ordinary one, or, where a whole "
            f"sphere was stretched, EQUIRECTANGULAR,{size[0]},{size[1]}",
        )
    raise ImageError(
        name,
        f"is {size[0]} x {size[1]} px, but its camera is EQUIRECTANGULAR of {full[0]:g} x {full[1]:g}",
        f"give EQUIRECTANGULAR,{size[0]},{size[1]} if the photo shows the whole sphere; one that was "
        "cut needs the tags of Photo Sphere XMP (GPano:CroppedArea...)",
    )


def sphere_camera(size: tuple[int, int]) -> pycolmap.Camera:
    """COLMAP's EQUIRECTANGULAR of a whole sphere of (width, height) pixels."""
    if SPHERICAL not in camera_models():
        raise InputError(
            f"360 degree photos need a pycolmap that has the camera model {SPHERICAL}, not "
            f"{pycolmap.__version__}; update it"
        )
    return pycolmap.Camera(
        model=SPHERICAL, width=size[0], height=size[1], params=[*map(float, size)]
    )


def with_camera(query: QueryCamera, camera: pycolmap.Camera) -> QueryCamera:
    """The same, with a camera that was found."""
    return replace(query, camera=camera)
