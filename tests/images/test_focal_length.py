"""What EXIF says of a focal length, where its sources agree and where they contradict each other;
digital zoom, crops, and cameras of the map."""

from __future__ import annotations

import io
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from index.catalog import FILE, Catalog
from index.records import Entry, FileState
from locate.images.focal_length import cropped_from, exif_focal
from locate.images.reading import decode_photo
from locate.localization.query_camera import choose_camera, device_of, magnified
from locate.types import Extraction, PhotoInfo

SIZE = (4000, 3000)
PHONE = PhotoInfo(size=SIZE, camera="Maker Phone 1", focal_mm=4.2, focal_35mm=27.0)
D90 = PhotoInfo(size=SIZE, camera="NIKON D90", focal_mm=18.0)  # its sensor is 23.6 mm wide


def read(size=(64, 48), orientation=1, **detail):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif).update({ExifTags.Base[k]: v for k, v in detail.items()})
    out = io.BytesIO()
    Image.new("RGB", size, "grey").save(out, "JPEG", exif=exif.tobytes())
    return decode_photo(out.getvalue(), Path("a.jpg")).info


# --- what is read


@pytest.mark.parametrize(
    ("value", "zoom"),
    [
        (IFDRational(200, 100), 2.0),
        (IFDRational(13, 10), 1.3),
        (IFDRational(0, 1), None),  # "digital zoom was not used"
        (IFDRational(1, 1), None),
        (IFDRational(100, 200), None),
    ],
)
def test_digital_zoom_is_read(value, zoom):
    found = read(DigitalZoomRatio=value).digital_zoom
    assert found == (None if zoom is None else pytest.approx(zoom))


def test_the_size_by_exif_is_turned_as_the_photo_is():
    assert read(ExifImageWidth=640, ExifImageHeight=480).exif_size == (640, 480)
    turned = read(orientation=6, ExifImageWidth=640, ExifImageHeight=480)
    assert (turned.size, turned.exif_size) == ((48, 64), (480, 640))
    assert read(ExifImageWidth=640).exif_size is None
    assert read(ExifImageWidth=0, ExifImageHeight=480).exif_size is None


# --- what it means


def spans(found, *focals):
    """Whether each lies within a little more than a standard deviation."""
    return all(abs(np.log(f / found.pixels)) < 1.1 * found.sigma for f in focals)


def test_sources_that_agree():
    for info, pixels in (
        (PHONE, 27 / 36 * 4000),
        (replace(PHONE, size=SIZE[::-1], orientation=6), 27 / 36 * 4000),
        (D90, 18 / 23.5 * 4000),
        (replace(D90, digital_zoom=2.0), 2 * 18 / 23.5 * 4000),
        (replace(D90, focal_35mm=27.0), 27 / 36 * 4000),
        # The equivalent has the zoom in it, or not: the sensor tells.
        (replace(D90, focal_35mm=54.0, digital_zoom=2.0), 54 / 36 * 4000),
        (replace(D90, focal_35mm=27.0, digital_zoom=2.0), 54 / 36 * 4000),
        # What is no number of the kind is left out.
        (replace(PHONE, digital_zoom=4e9), 27 / 36 * 4000),
        (replace(D90, focal_35mm=65535.0), 18 / 23.5 * 4000),
        (replace(D90, focal_mm=18e3, focal_35mm=27.0), 27 / 36 * 4000),
        # A messenger makes photos smaller, and leaves or corrects the numbers.
        (replace(PHONE, size=(1600, 1200), exif_size=SIZE), 27 / 36 * 1600),
        (replace(PHONE, size=(1200, 1600), exif_size=SIZE), 27 / 36 * 1600),
        (replace(PHONE, size=(1599, 1200), exif_size=(4032, 3024)), 27 / 36 * 1599),
    ):
        found = exif_focal(info)
        assert found.pixels == pytest.approx(pixels), info
        assert (found.sigma, found.doubt) == (0.05, "")
        assert choose_camera(info).source == "exif"
    for silent in (replace(PHONE, focal_35mm=None), replace(D90, focal_mm=1e9), PhotoInfo(SIZE)):
        assert exif_focal(silent) is None


def test_contradictions_are_said_and_widen():
    equivalent, lens = 40 / 36 * 4000, 18 / 23.5 * 4000
    found = exif_focal(replace(D90, focal_35mm=40.0))
    assert "contradict each other: 40 and 27.57 mm" in found.doubt
    assert spans(found, equivalent, lens)
    assert found.pixels == pytest.approx(np.sqrt(equivalent * lens))  # neither is chosen
    assert found.sigma == pytest.approx(np.hypot(0.05, np.log(equivalent / lens) / 2))
    zoomed = exif_focal(replace(PHONE, focal_35mm=54.0, digital_zoom=2.0))
    assert "with or without the digital zoom of 2" in zoomed.doubt
    assert spans(zoomed, 54 / 36 * 4000, 108 / 36 * 4000)
    query = choose_camera(replace(D90, focal_35mm=40.0))
    assert (query.source, query.doubt) == ("exif in doubt", found.doubt)
    assert query.prior.focal == pytest.approx(found.sigma)
    assert not query.focal_known  # RANSAC must not take it for granted


def test_a_crop_by_its_shape():
    """1000 x 2000 pixels cut out of 4000 x 3000: the focal length in pixels stays, the middle goes."""
    cropped = replace(PHONE, size=(1000, 2000), exif_size=SIZE)
    assert cropped_from(cropped) == SIZE
    assert device_of(cropped) is None
    found = exif_focal(cropped)
    assert "cropped from 4000 x 3000 px" in found.doubt
    assert spans(found, 27 / 36 * 4000)
    assert found.off_centre > 0.25  # it may lie anywhere
    assert choose_camera(cropped).prior.principal >= 0.25
    # And shrunk to a tenth afterwards: then the focal length is at least that of the whole photo shrunk.
    small = exif_focal(replace(cropped, size=(400, 200)))
    assert spans(small, 27 / 36 * 4000, 27 / 36 * 400)
    square = exif_focal(replace(PHONE, size=(3000, 3000)))
    assert "square" in square.doubt
    assert spans(square, 27 / 36 * 3000, 27 / 36 * 4000)


# --- the map's camera


def test_the_maps_camera_is_enlarged_as_the_photo_is():
    own = pycolmap.Camera(
        model="OPENCV",
        width=4000,
        height=3000,
        params=[3000, 3010, 1990, 1520, -0.1, 0.03, 1e-3, 0],
    )
    rays = np.c_[np.random.default_rng(0).uniform(-0.2, 0.2, (50, 2)), np.ones(50)]
    # The middle 1/2 of the photo, enlarged: from 1000 on, in COLMAP's pixels, everything twice.
    seen = (np.asarray(own.img_from_cam(rays)) - [1000, 750]) * 2
    twice = magnified(own, 2.0)
    np.testing.assert_allclose(np.asarray(twice.img_from_cam(rays)), seen, atol=1e-9)
    known = {device_of(PHONE): own}
    found = choose_camera(replace(PHONE, focal_35mm=54.0, digital_zoom=2.0), known=known)
    assert found.source == "map"
    np.testing.assert_allclose(found.camera.params, twice.params)
    # Backwards: the map's photos are zoomed, the query is not.
    back = {device_of(replace(PHONE, focal_35mm=54.0, digital_zoom=2.0)): twice}
    np.testing.assert_allclose(choose_camera(PHONE, known=back).camera.params, own.params)


@pytest.mark.parametrize(
    "change",
    [
        {"focal_35mm": 54.0},  # the equivalent alone: another lens, or a zoom that is not told
        {"focal_35mm": 27.0, "digital_zoom": 2.0},
        {"focal_35mm": 35.0, "digital_zoom": 2.0},
        {"focal_35mm": None, "digital_zoom": 2.0},
        {"focal_35mm": 54.0, "digital_zoom": 2.0, "focal_mm": 6.0},
        {"focal_35mm": 54.0, "digital_zoom": 2.0, "size": (3000, 4000)},
        {"focal_35mm": 54.0, "digital_zoom": 2.0, "camera": "Maker Phone 2"},
    ],
)
def test_zooms_that_are_not_confirmed_have_no_camera_of_the_map(change):
    own = pycolmap.Camera(
        model="SIMPLE_PINHOLE", width=4000, height=3000, params=[3000, 2000, 1500]
    )
    assert choose_camera(replace(PHONE, **change), known={device_of(PHONE): own}).source != "map"


# --- what is remembered


def test_a_catalogue_keeps_it_and_reads_those_from_before(tmp_path):
    info = replace(PHONE, digital_zoom=2.0, exif_size=(4032, 3024))
    vector = np.ones(4, np.float32) / 2
    with Catalog.create(tmp_path) as catalog:
        root = catalog.add_root(tmp_path)
        state = FileState("ab" * 32, 1, 1)
        catalog.write([Entry(root, "a.jpg", None, state, info, Extraction(None, vector))])
        assert catalog.images()[0].info == info
    with sqlite3.connect(tmp_path / FILE) as old:  # as the version before wrote it
        for column in ("digital_zoom", "exif_width", "exif_height"):
            old.execute(f"ALTER TABLE images DROP COLUMN {column}")
        old.execute("DELETE FROM _sqlite_migrations WHERE name LIKE 'm002%'")
        old.execute("PRAGMA user_version = 1")
    old.close()
    with Catalog.open(tmp_path) as catalog:  # which changes nothing
        assert catalog.images()[0].info == PHONE
    with Catalog.create(tmp_path) as catalog:
        assert catalog.images()[0].info == PHONE
        catalog.write([Entry(root, "b.jpg", None, state, info, Extraction(None, vector))])
        assert catalog.images()[1].info == info
