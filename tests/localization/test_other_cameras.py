"""Photos of the rendered town as other cameras take them: enlarged by digital zoom, smaller, cropped,
through other lenses. What is localized lies within its covariance."""

from __future__ import annotations

import cv2
import numpy as np
import pycolmap
import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from locate.localization.pose import LOCALIZED, NOT_LOCALIZED
from pipelines.localization.localizer import Localizer
from tests.helpers.small_town import errors, nees, queries_of, small_town

EXIF_IFD, DIGITAL_ZOOM, FOCAL_35MM = 0x8769, 0xA404, 0xA405
CERTAIN = 22.5  # of six degrees of freedom, 99.9 % lie below
NAMES = ("church", "town-hall")


@pytest.fixture(scope="module")
def town_and_map(tmp_path_factory):
    return small_town(tmp_path_factory)


@pytest.fixture(scope="module")
def queries(town_and_map):
    return queries_of(town_and_map[0])


@pytest.fixture(scope="module")
def localizer(town_and_map):
    with Localizer(town_and_map[1], workers=1) as made:
        yield made


def enlarged(path, zoom, out, *, told=True):
    """The middle of a photo at full size; EXIF as phones write it, or as if nothing had happened."""
    with Image.open(path) as image:
        exif, (width, height) = image.getexif(), image.size
        detail = exif.get_ifd(EXIF_IFD)
        if told:
            detail[DIGITAL_ZOOM] = IFDRational(round(100 * zoom), 100)
            detail[FOCAL_35MM] = round(detail[FOCAL_35MM] * zoom)
        left, top = ((side - side / zoom) / 2 for side in (width, height))
        part = (left, top, width - left, height - top)
        made = image.resize((width, height), Image.Resampling.LANCZOS, box=part)
        made.save(out, quality=95, exif=exif)
    return out


def honest(pose, truth):
    return pose.verdict != LOCALIZED or nees(pose, truth) < CERTAIN


@pytest.mark.parametrize("zoom", [1.3, 1.6])
@pytest.mark.parametrize("name", NAMES)
def test_digital_zoom_by_exif(name, zoom, localizer, queries, tmp_path):
    """The map has photos of the device as it sees without."""
    query = queries[name]
    pose = localizer.localize(enlarged(query.path, zoom, tmp_path / "z.jpg"))
    assert (pose.verdict, pose.camera.source) == (LOCALIZED, "map")
    assert pose.camera.params[0] == pytest.approx(query.camera.params[0] * zoom, rel=0.01)
    share, degrees = errors(pose, query.truth)
    assert share < 0.01
    assert degrees < 0.3
    assert nees(pose, query.truth) < CERTAIN


@pytest.mark.parametrize("name", NAMES)
def test_digital_zoom_that_nobody_tells(name, localizer, queries, tmp_path):
    query = queries[name]
    pose = localizer.localize(enlarged(query.path, 1.5, tmp_path / "z.jpg", told=False))
    assert pose.camera.source == "estimated"
    assert honest(pose, query.truth)


@pytest.mark.parametrize("name", NAMES)
def test_half_the_size(name, localizer, queries, tmp_path):
    query = queries[name]
    pixels = cv2.imread(str(query.path))
    size = query.camera.width // 2, query.camera.height // 2
    half = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "half.png"), half)
    camera = pycolmap.Camera(
        model="SIMPLE_PINHOLE", width=size[0], height=size[1], params=query.camera.params / 2
    )
    given = localizer.localize(tmp_path / "half.png", camera)
    assert given.verdict == LOCALIZED
    assert nees(given, query.truth) < CERTAIN
    assert honest(localizer.localize(tmp_path / "half.png"), query.truth)


@pytest.mark.parametrize("name", NAMES)
def test_a_corner_of_a_photo(name, localizer, queries, tmp_path):
    query = queries[name]
    pixels = cv2.imread(str(query.path))
    cv2.imwrite(str(tmp_path / "corner.png"), pixels[:360, :480])
    pose = localizer.localize(tmp_path / "corner.png")
    assert pose.verdict != NOT_LOCALIZED
    assert honest(pose, query.truth)


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("OPENCV_FISHEYE", [480, 484, 318.4, 242.4, 0.03, -0.01, 0.002, 0.0005]),
        ("FULL_OPENCV", [480, 484, 318.4, 242.4, -0.28, 0.05, 0, 0, 0, 0, 0, 0]),
        ("FOV", [480, 484, 318.4, 242.4, 0.9]),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_other_lenses(name, model, params, localizer, queries, tmp_path):
    query = queries[name]
    width, height = query.camera.width, query.camera.height
    lens = pycolmap.Camera(model=model, width=width, height=height, params=params)
    y, x = np.mgrid[:height, :width]
    flat = np.asarray(lens.cam_from_img(np.stack((x + 0.5, y + 0.5), axis=-1).reshape(-1, 2)))
    focal, *middle = query.camera.params
    at = (flat * focal + middle - 0.5).reshape(height, width, 2).astype(np.float32)
    pixels = cv2.remap(cv2.imread(str(query.path)), at, None, cv2.INTER_LANCZOS4)
    cv2.imwrite(str(tmp_path / "lens.png"), pixels)
    pose = localizer.localize(tmp_path / "lens.png")
    assert pose.verdict != NOT_LOCALIZED
    assert honest(pose, query.truth)
    given = localizer.localize(tmp_path / "lens.png", lens)
    assert given.verdict == LOCALIZED
    assert nees(given, query.truth) < CERTAIN


def test_exif_in_doubt_is_said(localizer, queries, tmp_path):
    """Cropped to another shape, and EXIF still has the size that the camera wrote."""
    query = queries["church"]
    with Image.open(query.path) as image:
        exif = image.getexif()
        exif.get_ifd(EXIF_IFD)[ExifTags.Base.ExifImageWidth] = image.width
        exif.get_ifd(EXIF_IFD)[ExifTags.Base.ExifImageHeight] = image.height
        image.crop((100, 0, 600, 480)).save(tmp_path / "crop.jpg", quality=95, exif=exif)
    pose = localizer.localize(tmp_path / "crop.jpg")
    assert pose.camera.source == "exif in doubt"
    assert "EXIF in doubt: it was cropped from 640 x 480 px" in pose.reason
    assert honest(pose, query.truth)
