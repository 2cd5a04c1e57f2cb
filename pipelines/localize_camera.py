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
from locate.pose import Camera
from locate.types import PhotoInfo
from pipelines.pose_models import make_camera, read_cameras_text
from pipelines.pose_refine import Freedom
from pipelines.sensors import exif_focal

_GUESS = 1.2  # focal length in units of the longer side: COLMAP's, near that of a phone
# Standard deviations. Of phones and compact cameras, EXIF rounds to whole millimetres or knows the lens
# at infinity only; a principal point is rarely further than 1 % of the photo from its middle.
_MAP = Freedom(focal=0.002, distortion=0.002, principal=0.001)
_EXIF = Freedom(focal=0.05, distortion=0.1, principal=0.01)
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
            pixels; "f=1380", a focal length in pixels; or the path of COLMAP's cameras.txt with one
            camera in it.
        name: of the photo, for messages.
        known: cameras of the map by the device that they belong to.

    Raises:
        InputError: the camera is none.
        ImageError: it is not one of photos of this size.
    """
    size = info.size
    if given is not None:
        camera = _given(given, size)
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
    try:
        return make_camera(Path("--camera"), 1, fields)
    except InputError:
        raise InputError(
            f"{text!r} is no camera; give f=PIXELS, MODEL,PARAMS as COLMAP has them (such as "
            "PINHOLE,1380,1382,760,503), or a cameras.txt"
        ) from None


def with_camera(query: QueryCamera, camera: pycolmap.Camera) -> QueryCamera:
    """The same, with a camera that was found."""
    return replace(query, camera=camera)
