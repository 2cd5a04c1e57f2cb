"""Which camera took a query photo, and how far that can be trusted.

In this order: the one that the user gives; that of the map's photos by the same device at the same zoom;
the focal length of EXIF; none, then it is estimated with the pose. What is not given is refined with the
pose, held by a prior as tight as its source is good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pycolmap

from locate.errors import ImageError, InputError
from locate.formats.colmap import make_camera, read_cameras_text
from locate.geometry.cameras import (
    SPHERICAL,
    Camera,
    about_model,
    colmap_camera,
    given_sphere,
    is_spherical,
    tagged_sphere,
)
from locate.images.focal_length import cropped_from, digital_zoom, exif_focal
from locate.localization.refinement import IntrinsicsPrior
from locate.types import PhotoInfo

_GUESS = 1.2  # focal length in units of the longer side: COLMAP's, near that of a phone
# Standard deviations; those of EXIF's focal lengths are `sensors.ExifFocal`'s.
_MAP = IntrinsicsPrior(focal=0.002, distortion=0.002, principal=0.001)
_ZOOMED = IntrinsicsPrior(focal=0.003, distortion=0.002, principal=0.002)  # EXIF has hundredths
# What is not known of a lens: from those that see straight lines straight to fisheyes, square pixels
# or nearly so, and photos that are a part of what the camera saw. Tighter priors, given up where the
# matches contradict them, are no more precise, and too sure of crops now and then.
_UNKNOWN = IntrinsicsPrior(focal=1.0, distortion=0.3, principal=0.3, second=0.3, aspect=0.02)
_HELD = 0.1  # of a focal length: one that is less certain does not tell inliers from outliers
GIVEN, MAP, EXIF, DOUBTFUL, ESTIMATED = "given", "map", "exif", "exif in doubt", "estimated"


@dataclass(frozen=True, eq=False)
class QueryCamera:
    """A camera of COLMAP's, its source (`locate.geometry.cameras.Camera`), what is refined with the
    pose, and how EXIF contradicts itself or the photo (empty if it does not)."""

    camera: pycolmap.Camera
    source: str
    prior: IntrinsicsPrior
    doubt: str = ""

    @property
    def focal_known(self) -> bool:
        """Well enough to tell which matches agree."""
        return self.prior.focal <= _HELD

    @property
    def spherical(self) -> bool:
        """Whether it is that of a 360 degree photo."""
        return is_spherical(self.camera)


@dataclass(frozen=True)
class Device:
    """What EXIF calls a camera at one zoom (of the picture itself, 1 for none); cameras of one
    device see alike. `size` is upright; the orientation counts, as the middle is elsewhere in a
    photo that was held another way up."""

    name: str
    focal_mm: float | None
    focal_35mm: float | None
    zoom: float
    size: tuple[int, int]
    orientation: int


def device_of(info: PhotoInfo) -> Device | None:
    """None of a photo whose EXIF does not name its camera, or a crop, whose camera is its own."""
    if info.camera is None or cropped_from(info) is not None:
        return None
    focals = info.focal_mm, info.focal_35mm
    return Device(info.camera, *focals, digital_zoom(info), info.size, info.orientation)


def choose_camera(
    info: PhotoInfo,
    given: pycolmap.Camera | Camera | str | Path | None = None,
    *,
    name: str = "the photo",
    known: Mapping[Device, pycolmap.Camera] | None = None,
) -> QueryCamera:
    """The camera of a query.

    Args:
        given: a camera; "MODEL,PARAMS...", such as "PINHOLE,1380,1382,760,503" in COLMAP's order and
            pixels; "f=1380", a focal length in pixels; "EQUIRECTANGULAR" for a 360 degree photo; or the
            path of COLMAP's cameras.txt with one camera in it.
        name: of the photo, for messages.
        known: cameras of the map by the device that they belong to.

    Returns:
        Of a photo that is given or tagged as a 360 degree one a `spherical` camera, which
        `pipelines.localization.panorama` can use and others cannot.

    Raises:
        InputError: the camera is none.
        ImageError: it is not one of photos of this size.
    """
    size = info.size
    if given is not None:
        camera, source = _given(given, size), GIVEN
        if is_spherical(camera):
            camera, source = given_sphere(camera, given, info, name)
        elif (camera.width, camera.height) != size:
            why = f"is {size[0]} x {size[1]} px, but its camera is {camera.width} x {camera.height}"
            raise ImageError(name, why, "give the camera of the photo as it is")
        return QueryCamera(camera, source, IntrinsicsPrior())
    if info.projection is not None:
        return QueryCamera(*tagged_sphere(info, name), IntrinsicsPrior())
    device = device_of(info)
    if device is not None and known:
        same, zoomed = known.get(device), _zoomed(device, known)
        if same is not None or zoomed is not None:
            return QueryCamera(same or zoomed, MAP, _MAP if same is not None else _ZOOMED)
    told = exif_focal(info)
    if told is not None:
        off_centre = max(told.off_centre, _UNKNOWN.principal)
        prior = replace(_UNKNOWN, focal=told.sigma, principal=off_centre)
        source = DOUBTFUL if told.doubt else EXIF
        return QueryCamera(any_lens(told.pixels, size), source, prior, told.doubt)
    return unknown_camera(size)


def _zoomed(device: Device, known: Mapping[Device, pycolmap.Camera]) -> pycolmap.Camera | None:
    """The camera of a device that the map knows at another digital zoom; None if it knows none, or if
    the 35 mm equivalents do not confirm the zoom."""
    for other, camera in known.items():
        factor = device.zoom / other.zoom
        same = replace(other, zoom=device.zoom, focal_35mm=device.focal_35mm) == device
        if same and factor != 1 and other.focal_35mm and device.focal_35mm:
            rounding = 0.5 / other.focal_35mm + 0.5 / device.focal_35mm
            told = np.log(device.focal_35mm / other.focal_35mm)
            if abs(told - np.log(factor)) <= rounding + 3 * _ZOOMED.focal:
                return magnified(camera, factor)
    return None


def magnified(camera: pycolmap.Camera, factor: float) -> pycolmap.Camera:
    """A camera whose photo is the middle of another's, enlarged to the same size; as distortion is a
    matter of directions, its parameters stay."""
    params = np.array(camera.params)
    params[list(camera.focal_length_idxs())] *= factor
    middle = np.array([camera.width, camera.height]) / 2
    at = list(camera.principal_point_idxs())
    params[at] = middle + (params[at] - middle) * factor
    return colmap_camera(camera, params)


def unknown_camera(size: tuple[int, int]) -> QueryCamera:
    """A camera whose focal length has to be estimated."""
    return QueryCamera(any_lens(_GUESS * max(size), size), ESTIMATED, _UNKNOWN)


def any_lens(focal: float, size: tuple[int, int]) -> pycolmap.Camera:
    """COLMAP's OPENCV without distortion, to begin with: with two radial terms, two focal lengths
    and the principal point free it bends as other lenses do, even fisheyes of up to 100 degrees."""
    params = (focal, focal, size[0] / 2, size[1] / 2, 0.0, 0.0, 0.0, 0.0)
    return colmap_camera(Camera("OPENCV", *size, params))


def simple_camera(focal: float, size: tuple[int, int]) -> pycolmap.Camera:
    """COLMAP's SIMPLE_RADIAL without distortion, its principal point in the middle."""
    return colmap_camera(Camera("SIMPLE_RADIAL", *size, (focal, size[0] / 2, size[1] / 2, 0.0)))


def plain_camera(camera: pycolmap.Camera, source: str) -> Camera:
    """A camera of COLMAP as plain values."""
    params = tuple(map(float, camera.params))
    return Camera(camera.model.name, camera.width, camera.height, params, source)


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
        is_path = len(fields) == 3 and ("/" in text or text.endswith(".txt"))
        about = f"There is no file {text}" if is_path else about_model(fields[0])
        raise InputError(
            f"{text!r} is no camera; give f=PIXELS, MODEL,PARAMS as COLMAP has them (such as "
            f"PINHOLE,1380,1382,760,503), or a cameras.txt. {about}"
        ) from None


AnyCamera: TypeAlias = pycolmap.Camera | Camera | str | Path | None
