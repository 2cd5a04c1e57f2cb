"""Decoding: every format and mode to H x W x 3 uint8, and what EXIF says."""

from __future__ import annotations

import io
import random
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image

from locate.images.reading import EXTENSIONS, decode_photo, is_photo_name, read_photo

SIZE = (160, 120)
HERE = Path("here")


def encode(image, file_format, **options):
    if file_format == "HEIF":
        pillow_heif.register_heif_opener()
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def mean_difference(pixels, expected):
    return np.abs(pixels.astype(int) - expected).mean()


# --- formats and modes


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 3),
        ("JPEG", {"quality": 95, "progressive": True}, 3),
        ("PNG", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("WEBP", {"quality": 95}, 4),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("BMP", {}, 0),
        ("PPM", {}, 0),
        ("AVIF", {"quality": 95}, 4),
        ("HEIF", {"quality": 95}, 4),
        ("GIF", {}, 12),  # 256 colours
        ("JPEG2000", {}, 0),
        ("MPO", {"quality": 95}, 3),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_formats(texture, tmp_path, file_format, options, tolerance):
    source = texture(SIZE, 1)
    file = tmp_path / "photo.bin"  # the name is not looked at, the content is
    file.write_bytes(encode(Image.fromarray(source), file_format, **options))

    photo = read_photo(file)

    assert photo.pixels.shape == (120, 160, 3)
    assert photo.pixels.dtype == np.uint8
    assert photo.info.size == SIZE
    assert photo.path == file
    assert mean_difference(photo.pixels, source) <= tolerance
    # Not swapped: the channels differ far more among themselves.
    assert mean_difference(photo.pixels[..., ::-1], source) > 2 * tolerance + 5


@pytest.mark.parametrize(
    ("mode", "file_format", "tolerance"),
    [
        ("1", "PNG", 0),
        ("1", "TIFF", 0),
        ("L", "PNG", 0),
        ("L", "JPEG", 3),
        ("L", "PPM", 0),
        ("P", "PNG", 0),
        ("P", "BMP", 0),
        ("CMYK", "TIFF", 0),
        ("CMYK", "JPEG", 6),
        ("YCbCr", "TIFF", 2),
    ],
)
def test_modes_match_their_rgb(texture, mode, file_format, tolerance):
    image = Image.fromarray(texture(SIZE, 2)).convert(mode)
    photo = decode_photo(encode(image, file_format), HERE)
    assert photo.pixels.shape == (120, 160, 3)
    assert mean_difference(photo.pixels, np.asarray(image.convert("RGB"))) <= tolerance


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_lie_on_white(texture, mode, file_format):
    image = Image.fromarray(texture(SIZE, 3)).convert(mode)
    alpha = np.full((120, 160), 255, np.uint8)
    alpha[:, :40], alpha[:, 40:80] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    options = {"lossless": True} if file_format == "WEBP" else {"quality": 98}
    pixels = decode_photo(encode(image, file_format, **options), HERE).pixels.astype(float)

    colours = np.asarray(image.convert("RGB"), float)
    assert (pixels[:, 4:36] >= 250).all()
    tolerance = 4 if file_format in ("AVIF", "HEIF") else 1
    half = colours[:, 44:76] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(pixels[:, 44:76] - half).mean() <= tolerance
    assert np.abs(pixels[:, 84:] - colours[:, 84:]).mean() <= tolerance


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_palette_with_a_transparent_colour(file_format):
    index = np.zeros((40, 60), np.uint8)
    index[:, 20:], index[:, 40:] = 1, 2
    image = Image.fromarray(index, "P")
    image.putpalette([0, 0, 0, 200, 30, 40, 10, 20, 220])
    pixels = decode_photo(encode(image, file_format, transparency=0), HERE).pixels
    np.testing.assert_array_equal(
        pixels[5, [5, 25, 45]], [(255,) * 3, (200, 30, 40), (10, 20, 220)]
    )


def test_palette_with_translucent_colours():
    image = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8), 20)[None].repeat(40, 0), "P")
    image.putpalette([0, 0, 0, 200, 30, 40])
    pixels = decode_photo(encode(image, "PNG", transparency=b"\x80\xff"), HERE).pixels
    assert abs(int(pixels[5, 5, 0]) - 127) <= 1
    np.testing.assert_array_equal(pixels[5, 25], (200, 30, 40))


def ramp():
    """40 x 100, 0 to 1 from left to right."""
    return np.repeat(np.linspace(0, 1, 100)[None], 40, axis=0)


@pytest.mark.parametrize(
    ("values", "file_format"),
    [
        ((ramp() * 65535).astype(np.uint16), "PNG"),
        ((ramp() * 65535).astype(np.uint16), "TIFF"),
        ((ramp() * 4095).astype(np.uint16), "TIFF"),  # a 12-bit sensor
        ((ramp() * 1e6 - 5e5).astype(np.int32), "TIFF"),
        ((ramp() * 0.01).astype(np.float32), "TIFF"),
        ((ramp() * -300).astype(np.float32)[:, ::-1], "TIFF"),
    ],
    ids=["16-bit PNG", "16-bit TIFF", "12 of 16 bits", "32-bit", "float", "negative float"],
)
def test_deep_grey_is_stretched(values, file_format):
    pixels = decode_photo(encode(Image.fromarray(values), file_format), HERE).pixels
    assert pixels.shape == (40, 100, 3)
    rising = values[0, -1] > values[0, 0]
    expected = ramp() * 255 if rising else 255 - ramp() * 255
    for channel in range(3):
        assert np.abs(pixels[..., channel] - expected).max() <= 2


def test_deep_grey_of_one_value_is_no_division_by_zero():
    flat = Image.fromarray(np.full((40, 50), 700, np.uint16))
    assert np.ptp(decode_photo(encode(flat, "PNG"), HERE).pixels) == 0


def test_16_bit_colour_png(texture):
    source = texture(SIZE, 4)
    deep = source.astype(np.uint16) * 257
    ok, coded = cv2.imencode(".png", deep[..., ::-1])
    assert ok
    assert mean_difference(decode_photo(coded.tobytes(), HERE).pixels, source) <= 1


def test_first_page_of_a_tiff_of_several(texture):
    pages = [Image.fromarray(texture(SIZE, seed)) for seed in (5, 6)]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(decode_photo(data, HERE).pixels, texture(SIZE, 5))


def test_huge_panorama_warns_of_nothing(texture, monkeypatch):
    """Phones take 200 megapixels; Pillow warns from 89 on and refuses from 179 on."""
    data = encode(Image.fromarray(texture(SIZE, 1)), "JPEG")
    for limit in (160 * 120 - 1, 160 * 120 // 2 - 1):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert decode_photo(data, HERE).info.size == SIZE
        assert limit == Image.MAX_IMAGE_PIXELS  # others' limit is as it was


def test_threads_leave_the_warning_filters_alone(texture):
    """`warnings.catch_warnings` in two threads at once leaves one's filters behind for good."""
    data = encode(Image.fromarray(texture((640, 480))), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\5\0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            photos = list(pool.map(lambda _: decode_photo(data, HERE), range(100)))
        assert warnings.filters == before
    assert len(photos) == 100


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("A.JPG", True),
        ("b.x/c.Heic", True),
        ("a.j2k", True),
        ("a.jpg.txt", False),
        ("jpg", False),
        ("notes.md", False),
        ("catalog.sqlite", False),
    ],
)
def test_is_photo_name(name, expected):
    assert is_photo_name(name) is expected
    assert is_photo_name(Path(name)) is expected


def test_extensions_cover_what_the_tests_decode():
    assert {".jpg", ".png", ".webp", ".tif", ".bmp", ".avif", ".heic", ".gif", ".ppm"} <= EXTENSIONS


# --- EXIF


def exif_bytes(main=None, detail=None, gps=None):
    exif = Image.Exif()
    exif.update(main or {})
    exif.get_ifd(ExifTags.IFD.Exif).update(detail or {})
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps or {})
    return exif.tobytes()


def info_of(file_format="JPEG", **parts):
    image = Image.new("RGB", (64, 48), "grey")
    return decode_photo(encode(image, file_format, exif=exif_bytes(**parts)), HERE).info


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF", "TIFF"])
def test_exif_fields(file_format):
    info = info_of(
        file_format,
        main={0x010F: "Canon", 0x0110: "Canon EOS 5D", 0x0132: "2024:01:01 00:00:00"},
        detail={0x9003: "2023:05:17 14:03:59", 0x920A: 35.5, 0xA405: 57},
        gps={1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 17.0, 40.2), 5: b"\0", 6: 35.25},
    )
    assert info.taken_at == "2023-05-17T14:03:59"  # taken, not edited
    assert info.camera == "Canon EOS 5D"  # the maker once
    assert info.focal_mm == pytest.approx(35.5)
    assert info.focal_35mm == 57
    assert info.latitude == pytest.approx(48 + 51 / 60 + 30 / 3600)
    assert info.longitude == pytest.approx(2 + 17 / 60 + 40.2 / 3600)
    assert info.altitude == pytest.approx(35.25)


def test_exif_south_west_and_below_the_sea():
    info = info_of(
        gps={1: "S", 2: (33.0, 51.5, 0.0), 3: "W", 4: (151.0, 12.0, 36.0), 5: b"\1", 6: 422.0}
    )
    assert info.latitude == pytest.approx(-(33 + 51.5 / 60))
    assert info.longitude == pytest.approx(-151.21)
    assert info.altitude == pytest.approx(-422)


def test_exif_camera_of_maker_and_model():
    assert info_of(main={0x010F: "Apple\0", 0x0110: " iPhone 12 "}).camera == "Apple iPhone 12"
    assert info_of(main={0x010F: "Apple"}).camera == "Apple"
    assert info_of(main={0x0110: "X100"}).camera == "X100"


def test_exif_time_falls_back_to_the_edit():
    assert info_of(main={0x0132: "2024:02:29 23:59:59"}).taken_at == "2024-02-29T23:59:59"


@pytest.mark.parametrize(
    "time",
    ["0000:00:00 00:00:00", "    :  :     :  :  ", "", "yesterday", "2023:13:40 25:61:61"],
)
def test_exif_time_that_is_none(time):
    assert info_of(detail={0x9003: time}).taken_at is None


@pytest.mark.parametrize(
    "gps",
    [
        {1: "N", 2: (91.0, 0.0, 0.0), 3: "E", 4: (181.0, 0.0, 0.0)},
        {1: "N", 3: "E"},
    ],
    ids=["out of range", "missing"],
)
def test_exif_position_that_is_none(gps):
    info = info_of(gps=gps)
    assert (info.latitude, info.longitude) == (None, None)


def test_exif_position_of_0_by_0_is_none():
    """What phones write while they look for satellites."""
    exif = exif_bytes(gps={1: "N", 2: (77.0, 77.0, 77.0), 3: "E", 4: (77.0, 77.0, 77.0)})
    unknown = exif.replace(struct.pack(">LL", 77, 1), bytes(8)).replace(
        struct.pack("<LL", 77, 1), bytes(8)
    )
    assert unknown != exif
    info = decode_photo(encode(Image.new("RGB", (64, 48)), "JPEG", exif=unknown), HERE).info
    assert (info.latitude, info.longitude) == (None, None)


def test_exif_that_is_silent():
    info = info_of()
    assert info.size == (64, 48)
    assert info.orientation == 1
    rest = (
        info.taken_at,
        info.camera,
        info.focal_mm,
        info.focal_35mm,
        info.latitude,
        info.altitude,
    )
    assert rest == (None,) * 6


def test_exif_focal_length_of_zero_is_none():
    info = info_of(detail={0x920A: 0.0, 0xA405: 0})
    assert (info.focal_mm, info.focal_35mm) == (None, None)


@pytest.mark.parametrize(
    "broken",
    [
        b"Exif\0\0",
        b"Exif\0\0garbage garbage garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\5\0",
        b"Exif\0\0MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\xff\xff\xff\xff\0\0\0\0",
    ],
)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_is_no_reason_to_refuse_a_photo(file_format, broken):
    data = encode(Image.new("RGB", (64, 48), (200, 30, 40)), file_format, exif=broken)
    photo = decode_photo(data, HERE)
    assert photo.info.taken_at is photo.info.latitude is photo.info.camera is None
    assert photo.info.orientation == 1
    assert mean_difference(photo.pixels, (200, 30, 40)) < 5


def test_no_flipped_byte_of_exif_costs_the_photo():
    """Pillow's `ImageOps.exif_transpose` raises on about 2 % of these. Pixels and `info.size` agree."""
    image = Image.new("RGB", (64, 48), "grey")
    sound = exif_bytes(
        main={0x0112: 6, 0x010F: "Maker", 0x0132: "2020:01:02 03:04:05"},
        detail={0x920A: 4.25, 0x9003: "2020:01:02 03:04:05", 0x9286: b"ASCII\0\0\0hello"},
        gps={1: "N", 2: (1.0, 2.0, 3.5), 5: b"\1", 6: 30.5},
    )
    draw = random.Random(0)
    sizes = set()
    for _ in range(1500):
        damaged = bytearray(sound)
        for _ in range(draw.choice((1, 1, 2, 4))):
            damaged[draw.randrange(6, len(damaged))] = draw.choice(
                (0, 255, draw.randrange(256), draw.randrange(14))
            )
        photo = decode_photo(encode(image, "JPEG", exif=bytes(damaged)), HERE)
        assert photo.pixels.shape[1::-1] == photo.info.size
        sizes.add(photo.info.size)
    assert sizes == {(64, 48), (48, 64)}  # some lost their orientation, most kept it


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("file_format", ["WEBP", "AVIF", "HEIF"])
def test_orientation_of_modern_formats(file_format, orientation):
    """HEIF and AVIF keep the turn outside EXIF; it must be applied once, not twice."""
    stored = np.full((48, 64, 3), 255, np.uint8)
    stored[:24, :32] = (200, 0, 0)  # the corner of row 0, column 0
    exif = exif_bytes(main={0x0112: orientation})
    photo = decode_photo(encode(Image.fromarray(stored), file_format, exif=exif, quality=95), HERE)
    expected = np.rot90(stored, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    assert photo.info.size == expected.shape[1::-1]
    assert photo.pixels.shape == expected.shape
    assert mean_difference(photo.pixels, expected) < 8


# --- the reduced JPEG


def dot_photo(size, at, **options):
    """JPEG of a bright Gaussian dot at (x, y), the centre of the top-left pixel being (0, 0)."""
    y, x = np.mgrid[: size[1], : size[0]]
    dot = 230 * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * 24.0**2))
    image = Image.fromarray(np.repeat(dot.astype(np.uint8)[..., None], 3, axis=2))
    return encode(image, "JPEG", quality=98, **options)


def centroid(pixels):
    weight = pixels[..., 1].astype(float)
    weight[weight < 20] = 0
    y, x = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


@pytest.mark.parametrize(
    ("size", "least", "divisor"),
    [
        ((640, 480), 320, 2),
        ((640, 480), 321, 1),
        ((640, 480), 161, 2),
        ((640, 480), 160, 4),
        ((640, 480), 80, 8),
        ((640, 480), 10, 8),
        ((480, 640), 320, 2),
        ((644, 484), 80, 4),  # 8 leaves a remainder
        ((642, 482), 80, 2),
        ((641, 480), 80, 1),
        ((640, 481), 80, 1),
        ((640, 480), None, 1),
    ],
)
@pytest.mark.parametrize("subsampling", [0, 2])
def test_reduced_jpeg(size, least, divisor, subsampling):
    data = dot_photo(size, (0.45 * size[0], 0.6 * size[1]), subsampling=subsampling)
    full = decode_photo(data, HERE)
    reduced = decode_photo(data, HERE, min_long_side=least)

    assert reduced.info.size == full.info.size == size
    assert reduced.pixels.shape == (size[1] // divisor, size[0] // divisor, 3)
    # A reduced pixel covers divisor x divisor whole pixels: corners stay corners.
    back = (centroid(reduced.pixels) + 0.5) * divisor - 0.5
    np.testing.assert_allclose(back, centroid(full.pixels), atol=0.1)


def test_reduced_jpeg_that_is_turned():
    exif = exif_bytes(main={0x0112: 6})
    data = dot_photo((640, 480), (200, 100), exif=exif)
    reduced = decode_photo(data, HERE, min_long_side=160)
    assert reduced.info.size == (480, 640)
    assert reduced.pixels.shape == (160, 120, 3)
    back = (centroid(reduced.pixels) + 0.5) * 4 - 0.5
    np.testing.assert_allclose(back, (479 - 100, 200), atol=0.1)  # a quarter turn clockwise


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_reduced_jpeg_of_other_modes(texture, mode):
    data = encode(Image.fromarray(texture((320, 240))).convert(mode), "JPEG")
    reduced = decode_photo(data, HERE, min_long_side=160).pixels
    full = decode_photo(data, HERE).pixels
    assert reduced.shape == (120, 160, 3)
    assert mean_difference(cv2.resize(full, (160, 120), interpolation=cv2.INTER_AREA), reduced) < 4


def test_other_formats_are_never_reduced(texture):
    data = encode(Image.fromarray(texture((320, 240))), "PNG")
    assert decode_photo(data, HERE, min_long_side=80).pixels.shape == (240, 320, 3)


# --- real photographs


@pytest.mark.data
def test_real_photos_decode(data):
    files = [f for f in sorted((data / "eval").rglob("*")) if is_photo_name(f) and f.is_file()]
    for file in random.Random(0).sample(files, min(12, len(files))):
        photo = read_photo(file, min_long_side=512)
        factor = photo.info.size[0] / photo.pixels.shape[1]
        assert factor in (1, 2, 4, 8)
        assert photo.info.size[1] == photo.pixels.shape[0] * factor
        assert photo.pixels.std() > 5
