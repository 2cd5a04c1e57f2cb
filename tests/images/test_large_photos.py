"""Photos of very many pixels: read small and exactly where they were, or refused at once."""

from __future__ import annotations

import io
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from locate.errors import ImageError
from locate.images import large_photos as many_pixels
from locate.images import reading as images
from locate.images.reading import decode_photo
from locate.pixels import resize_points
from pipelines.cli import exit_codes as exits
from pipelines.cli.main import main

HERE = Path("here.img")


def encoded(image, file_format, **options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def dots(size, points, sigma=14.0):
    """Bright Gaussian dots on black, as an image: `points` (N, 2) in our pixels."""
    y, x = np.mgrid[: size[1], : size[0]].astype(np.float32)
    total = np.zeros(x.shape, np.float32)
    for px, py in points:
        total += 230 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2))
    return Image.fromarray(np.rint(total).astype(np.uint8))


def found_dots(pixels, points, size):
    """Centroids of the dots near where `points` lie in `pixels`, in pixels of the whole photo."""
    height, width = pixels.shape[:2]
    grey = pixels[..., 1].astype(float)
    y, x = np.mgrid[:height, :width]
    seen = []
    for px, py in resize_points(np.asarray(points, np.float64), size, (width, height)):
        near = np.hypot((x - px) * size[0] / width, (y - py) * size[1] / height) < 48
        weight = np.where(near, grey, 0)
        seen.append([(weight * x).sum(), (weight * y).sum()] / weight.sum())
    return resize_points(np.array(seen), (width, height), size)


# Five, among them one near each corner: a mapping that is wrong by a part of a block shows there.
def places(size):
    w, h = size
    return [(50.3, 50.6), (w - 52.2, 51.4), (51.7, h - 50.8), (w - 50.5, h - 51.3), (w / 2, h / 2)]


@pytest.mark.parametrize("size", [(1600, 1200), (1601, 1207), (1607, 1201), (1203, 1606)])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_large_jpeg_of_any_size_is_reduced_exactly(monkeypatch, size, progressive):
    """libjpeg's last pixel of a row may cover less of the photo than the others."""
    monkeypatch.setattr(many_pixels, "LARGE", 100_000)
    points = places(size)
    data = encoded(dots(size, points), "JPEG", quality=97, progressive=progressive)
    photo = decode_photo(data, HERE, min_long_side=200)
    assert photo.info.size == size
    assert photo.pixels.shape == (size[1] // 8, size[0] // 8, 3)
    np.testing.assert_allclose(found_dots(photo.pixels, points, size), points, atol=0.1)


def test_a_large_jpeg_that_is_turned(monkeypatch):
    monkeypatch.setattr(many_pixels, "LARGE", 100_000)
    size = (1605, 1203)  # as it lies in the file; shown a quarter turn clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(dots(size, places(size)), "JPEG", quality=97, exif=exif.tobytes())
    photo = decode_photo(data, HERE, min_long_side=200)
    assert photo.info.size == size[::-1]
    upright = [(size[1] - 1 - y, x) for x, y in places(size)]
    np.testing.assert_allclose(found_dots(photo.pixels, upright, size[::-1]), upright, atol=0.1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16", "CMYK"])
def test_other_formats_are_shrunk_exactly(monkeypatch, mode):
    monkeypatch.setattr(many_pixels, "LARGE", 100_000)
    size = (1003, 707)
    grey, points = dots(size, places(size)), places(size)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 200)
    else:
        image = grey.convert(mode)
    data = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    photo = decode_photo(data, HERE, min_long_side=100)
    assert photo.info.size == size
    assert photo.pixels.shape == (707 // 5, 1003 // 5, 3)
    atol = 0.5 if mode == "P" else 0.1  # few colours
    np.testing.assert_allclose(found_dots(photo.pixels, points, size), points, atol=atol)
    assert decode_photo(data, HERE).pixels.shape == (707, 1003, 3)  # whoever wants all gets all


def test_a_thin_panorama_keeps_its_height(monkeypatch):
    monkeypatch.setattr(many_pixels, "LARGE", 100_000)
    for file_format in ("PNG", "JPEG"):
        data = encoded(Image.new("RGB", (30_000, 40)), file_format)
        height, width, _ = decode_photo(data, HERE, min_long_side=640).pixels.shape
        assert (width, height) == ((30_000, 40) if file_format == "PNG" else (3750, 5))


def test_small_photos_come_as_before(texture):
    """Where a reduction leaves a remainder, or in another format, nothing is gained by resampling."""
    image = Image.fromarray(texture((641, 480)))
    for file_format in ("JPEG", "PNG"):
        data = encoded(image, file_format)
        whole = decode_photo(data, HERE).pixels
        np.testing.assert_array_equal(decode_photo(data, HERE, min_long_side=80).pixels, whole)


def test_deep_pixels_are_stretched_as_by_the_formula(monkeypatch):
    grey = np.random.default_rng(3).integers(0, 65536, (301, 203)).astype(np.uint16)
    low, high = np.percentile(grey.astype(float), (0.1, 99.9))
    expected = np.clip(np.rint((grey - low) * (255 / (high - low))), 0, 255)
    pixels = decode_photo(encoded(Image.fromarray(grey), "PNG"), HERE).pixels
    np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))


def test_more_than_pillow_allows():
    """200 megapixels is what phones take; Pillow alone refuses from 179 on."""
    data = encoded(Image.new("L", (13_400, 13_400), 90), "JPEG")
    photo = decode_photo(data, HERE, min_long_side=640)
    assert photo.info.size == (13_400, 13_400)
    assert photo.pixels.shape == (1675, 1675, 3)


def test_large_photos_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(many_pixels, "LARGE", 20_000)
    inside, most, lock, convert = 0, 0, threading.Lock(), images._to_rgb8

    def watched(image, path):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1
        return convert(image, path)

    monkeypatch.setattr(images, "_to_rgb8", watched)
    for side, expected in ((200, 1), (100, 2)):
        most = 0
        data = encoded(Image.new("RGB", (side, side)), "PNG")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _, data=data: decode_photo(data, HERE, 50), range(8)))
        assert (most == 1) if expected == 1 else (most >= expected)


# --- refused


def jpeg_that_says(width, height):
    data = bytearray(encoded(Image.new("RGB", (64, 64)), "JPEG"))
    at = data.index(b"\xff\xc0")  # start of frame: length, precision, height, width
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bombs():
    """Files of a few hundred bytes that say they are vast."""
    bmp = bytearray(encoded(Image.new("RGB", (64, 64)), "BMP"))
    bmp[18:26] = struct.pack("<ii", 60_000, 60_000)
    gif = bytearray(encoded(Image.new("L", (64, 64)), "GIF"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    tiff = encoded(Image.new("L", (64, 64)), "TIFF")
    for tag in (256, 257):
        old = struct.pack("<HHII", tag, 4, 1, 64)
        assert old in tiff
        tiff = tiff.replace(old, struct.pack("<HHII", tag, 4, 1, 60_000))
    return {
        "bmp": bytes(bmp),
        "gif": bytes(gif),
        "tiff": tiff,
        "ppm": b"P6 60000 60000 255\n" + bytes(300),
        "jpeg": jpeg_that_says(60_000, 60_000),
    }


@pytest.mark.parametrize("kind", ["bmp", "gif", "tiff", "ppm", "jpeg"])
def test_a_small_file_that_says_it_is_vast_is_refused(kind):
    started = time.perf_counter()
    with pytest.raises(ImageError, match=r"is too large \(60000 x 60000 px, more than") as caught:
        decode_photo(bombs()[kind], Path("a b.img"), 640)
    assert caught.value.cure == "shrink it: magick 'a b.img' -resize 10000x10000 smaller.jpg"
    assert time.perf_counter() - started < 2


def test_a_jpeg_is_refused_where_it_has_to_be_whole():
    data = jpeg_that_says(20_000, 20_000)
    with pytest.raises(ImageError, match=r"is too large \(20000 x 20000 px, more than 250 million"):
        decode_photo(data, HERE)  # at full size
    assert decode_photo(data, HERE, 640).pixels.shape == (2500, 2500, 3)  # at an eighth


def test_a_query_of_a_file_that_is_too_large(
    tmp_path, monkeypatch, photo_factory, fake_extractor, capsys
):
    monkeypatch.chdir(tmp_path)
    photo_factory(tmp_path / "photos/a/1.jpg")
    assert main(["build-index", "photos", "--extractor", fake_extractor]) == exits.OK
    (tmp_path / "bomb.png").write_bytes(bombs()["bmp"])
    assert main(["query", "bomb.png", "photos/a/1.jpg"]) == exits.SOME_FAILED
    out = capsys.readouterr().out
    assert "failed bomb.png: is too large (60000 x 60000 px" in out
    assert "MAX_IMAGE_PIXELS" not in out
