"""The camera of a 360 degree photo: COLMAP's EQUIRECTANGULAR of the whole sphere, by the photo's tags or
as the user gives it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pycolmap

from locate.errors import ImageError, InputError
from locate.geometry.cameras import SPHERICAL, about_model, camera_models, is_spherical
from locate.geometry.panorama import is_whole, panorama_of
from locate.types import PhotoInfo
from locate.util.printable import first_few

XMP, GIVEN = "xmp", "given"
CUT_THEM = "cut them into perspective views, as COLMAP's panorama_sfm.py does"


def sphere_camera(size: tuple[int, int]) -> pycolmap.Camera:
    """The camera of a whole sphere of (width, height) pixels."""
    if SPHERICAL not in camera_models():
        raise InputError(f"360 degree photos need COLMAP's model of them. {about_model(SPHERICAL)}")
    return pycolmap.Camera(
        model=SPHERICAL, width=size[0], height=size[1], params=[float(size[0]), float(size[1])]
    )


def tagged_sphere(info: PhotoInfo, name: str = "the photo") -> tuple[pycolmap.Camera, str]:
    """The camera of the sphere that a photo shows by its XMP, whole or in part (see
    `locate.geometry.panorama.panorama_of`), and its source."""
    found = panorama_of(info, name)
    assert found is not None, "only of photos with such tags"
    return sphere_camera(found.full_size), XMP


def given_sphere(
    camera: pycolmap.Camera, given: object, info: PhotoInfo, name: str
) -> tuple[pycolmap.Camera, str]:
    """A sphere's camera that the user gives (`given`, of which the model's name alone leaves the
    size open), checked against the photo, which may show a part of it by its XMP; and its source.
    `ImageError` if it is not that of this photo."""
    size, full = info.size, tuple(camera.params.tolist())
    bare = str(given).strip() == SPHERICAL
    if full == size and (is_whole(size) or not bare):
        return camera, GIVEN
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
