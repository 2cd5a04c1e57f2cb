"""Every kind of bad file that a folder of photos may hold: none stops the build, each is explained."""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import threading
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from index.catalog import Catalog
from locate.errors import ImageError
from locate.images.reading import read_photo
from pipelines.indexing.build import build_index

COPY_AGAIN = "copy it again from its source"
REPLACE = "replace it by a photo or remove it"


def encoded(image, file_format, **options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def png_chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def bomb(side):
    """A PNG of a few bytes that says it is side x side."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            png_chunk(b"IDAT", body),
            png_chunk(b"IEND", b""),
        ]
    )


def zip_archive():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("photo.txt", "hello")
    return stream.getvalue()


def with_flipped_byte(data, at):
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def float_tiff(value):
    pixels = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    pixels[10, 20] = value
    return encoded(Image.fromarray(pixels), "TIFF")


def bad_files(texture):
    """name -> (content, what the reason must say, regular expression)."""
    from pillow_heif import register_heif_opener

    register_heif_opener()
    image = Image.fromarray(texture((160, 120), 50))
    frames = [Image.fromarray(texture((160, 120), seed)) for seed in (51, 52, 53)]
    many = {"save_all": True, "append_images": frames[1:], "duration": 100}
    jpeg, png = encoded(image, "JPEG"), encoded(image, "PNG")
    webp, heic, avif = (encoded(image, f) for f in ("WEBP", "HEIF", "AVIF"))
    tiff, gif = encoded(image, "TIFF"), encoded(image, "GIF")
    noise = bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8))
    damaged = rf"is (damaged|truncated).*; {COPY_AGAIN}"
    truncated = rf"truncated.*; {COPY_AGAIN}"
    animation = "is an animation of 3 frames; save the frame that matters"
    return {
        "half.jpg": (jpeg[: len(jpeg) // 2], truncated),
        "tail-gone.jpg": (jpeg[:-40], truncated),
        "header-only.jpg": (jpeg[:20], truncated),
        "empty.jpg": (b"", rf"is empty \(0 bytes\); {COPY_AGAIN}"),
        "text.jpg": (b"Please find the photo attached.\n" * 9, f"is text, not a photo; {REPLACE}"),
        "page.png": (
            b"\n<!DOCTYPE html><html>404</html>",
            f"is a web page, not a photo; {REPLACE}",
        ),
        "pixel.png": (
            encoded(image.crop((0, 0, 1, 1)), "PNG"),
            r"is too small \(1 x 1 px\); use a photo of at least 32 px",
        ),
        "narrow.png": (encoded(image.resize((31, 400)), "PNG"), r"is too small \(31 x 400 px\)"),
        "moving.gif": (encoded(frames[0], "GIF", **many), animation),
        "moving.webp": (encoded(frames[0], "WEBP", **many), animation),
        "moving.png": (encoded(frames[0], "PNG", **many), animation),
        "moving.avif": (encoded(frames[0], "AVIF", **many), animation),
        "nan.tif": (
            float_tiff(np.nan),
            "holds NaN or infinite pixels; export it again as integers",
        ),
        "inf.tif": (float_tiff(np.inf), "holds NaN or infinite pixels"),
        "minus-inf.tif": (float_tiff(-np.inf), "holds NaN or infinite pixels"),
        "bad-crc.png": (with_flipped_byte(png, len(png) // 2), damaged),
        "bad-header.png": (with_flipped_byte(png, 18), damaged),
        "header-only.png": (png[:33], damaged),
        "half.png": (png[: len(png) // 2], truncated),
        "half.webp": (webp[: len(webp) // 2], damaged),
        "half.heic": (heic[: len(heic) // 2], truncated),
        "half.avif": (avif[: len(avif) // 2], damaged),
        "half.tif": (tiff[: len(tiff) // 2], damaged),
        "half.gif": (gif[: len(gif) // 2], truncated),
        "noise.jpg": (noise, f"is not an image of a known format; {REPLACE}"),
        "archive.jpg": (zip_archive(), f"is a zip archive, not a photo; {REPLACE}"),
        "paper.jpg": (b"%PDF-1.7\n%\xe2\xe3", f"is a PDF document, not a photo; {REPLACE}"),
        "film.heic": (b"\0\0\0\x20ftypisom\0\0\2\0" + noise, f"is a video, not a photo; {REPLACE}"),
        "bomb.png": (bomb(60_000), r"is too large \(.*; shrink it"),
    }


def special_files(folder):
    """Make what is not a plain file, and say what each must be called: name -> expression."""
    expected = {
        "link.jpg": r"cannot be read \(No such file or directory\); check the link or disk",
        "pipe.jpg": "is not a regular file; copy the photo to a plain file",
        "socket.jpg": "is not a regular file; copy the photo to a plain file",
        "vast.tif": r"is too large \(\d+ bytes\); shrink it",
    }
    (folder / "link.jpg").symlink_to(folder / "nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    here = Path.cwd()
    os.chdir(folder)  # names of sockets are at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket.jpg")
    finally:
        os.chdir(here)
    with (folder / "vast.tif").open("wb") as stream:
        stream.truncate(2**40)  # takes no room on disk, but would in memory
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.jpg")).write_bytes(b"x")
        expected[r"caf\udce9.jpg"] = "its name is not valid UTF-8; rename it"
    except OSError:  # macOS
        pass
    locked = folder / "locked.jpg"
    locked.write_bytes(b"x")
    locked.chmod(0)
    if not os.access(locked, os.R_OK):  # root reads anything
        expected["locked.jpg"] = (
            r"cannot be read \(Permission denied\); check its permissions and the disk"
        )
    else:
        locked.unlink()
    return expected


def good_files(folder, photo_factory):
    """The names of photos that are good in spite of their looks."""
    photo_factory(folder / "good-1.jpg", seed=1)
    photo_factory(folder / "sub" / "good-2.webp", seed=2)
    photo_factory(folder / "photo.jpg" / "inside.heic", seed=3)  # a folder of that name
    photo_factory(folder / "really-a-png.jpg", seed=4, file_format="PNG")
    photo_factory(folder / "cmyk.jpg", seed=5, mode="CMYK")
    photo_factory(folder / "no-frames-but-one.gif", seed=6)
    deep = np.linspace(0, 65535, 200 * 100).reshape(100, 200).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    # A phone's photo with rubbish after its end: seen often, harmless.
    trailing = photo_factory(folder / "trailing.jpg", seed=7)
    trailing.write_bytes(trailing.read_bytes() + b"rubbish" * 100)
    return {
        "good-1.jpg", "sub/good-2.webp", "photo.jpg/inside.heic", "really-a-png.jpg", "cmyk.jpg",
        "no-frames-but-one.gif", "deep.png", "trailing.jpg",
    }  # fmt: skip


@contextmanager
def released(pipe, seconds=20):
    """Whoever waits at the pipe is let go after a while, so that a test fails instead of hanging."""

    def release():
        with suppress(OSError):  # nobody waits
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))

    timer = threading.Timer(seconds, release)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def rows(index, status):
    with Catalog.open(index) as catalog:
        return {row.path: row for row in catalog.images(status)}


@pytest.fixture(autouse=True)
def _strict_decoder(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)


def test_a_folder_of_everything(tmp_path, texture, photo_factory, fake_extractor):
    folder, index = tmp_path / "photos", tmp_path / "index"
    folder.mkdir()
    good = good_files(folder, photo_factory)
    bad = bad_files(texture)
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    expected = {name: reason for name, (_, reason) in bad.items()} | special_files(folder)
    assert len(expected) >= 22

    with released(folder / "pipe.jpg"):
        report = build_index(folder, index, extractor=fake_extractor, workers=2)

    reasons = dict(report.failed)
    assert len(reasons) == len(report.failed)  # each once
    assert set(reasons) == set(expected)

    wrong = {
        name: reasons[name] for name in expected if not re.search(expected[name], reasons[name])
    }
    assert not wrong
    assert not any("\n" in reason for reason in reasons.values())
    assert all(reason.count(";") >= 1 for reason in reasons.values())  # what is wrong; the cure
    assert (report.added, report.updated, report.unchanged) == (len(good), 0, 0)

    indexed = rows(index, "ok")
    assert set(indexed) == good
    failed = rows(index, "failed")
    assert {path: row.error for path, row in failed.items()} == reasons
    assert report.vectors is not None
    assert report.vectors.count == len(good)

    # Again: nothing new, the same complaints, the good ones left alone.
    again = build_index(folder, index, extractor=fake_extractor, workers=2)
    assert dict(again.failed) == reasons
    assert (again.added, again.updated, again.unchanged) == (0, 0, len(good))
    assert {path: row.id for path, row in rows(index, "ok").items()} == {
        path: row.id for path, row in indexed.items()
    }

    # Bad files replaced by good ones are picked up; a good one gone bad is taken out.
    (folder / "pipe.jpg").unlink()
    for seed, name in enumerate(("half.jpg", "pipe.jpg", "bomb.png"), 100):
        photo_factory(folder / name, seed=seed)
    (folder / "good-1.jpg").write_bytes(b"oh no")
    third = build_index(folder, index, extractor=fake_extractor, workers=2)
    assert third.added == 3
    assert dict(third.failed)["good-1.jpg"].startswith("is text, not a photo")
    assert len(third.failed) == len(expected) - 3 + 1
    assert set(rows(index, "ok")) == (good | {"half.jpg", "pipe.jpg", "bomb.png"}) - {"good-1.jpg"}
    assert set(rows(index, "failed")) == (set(expected) | {"good-1.jpg"}) - {
        "half.jpg", "pipe.jpg", "bomb.png",
    }  # fmt: skip
    assert third.vectors is not None
    assert third.vectors.count == len(good) + 2


def test_a_folder_of_nothing_but_bad_files(tmp_path, fake_extractor):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"")
    report = build_index(folder, tmp_path / "index", extractor=fake_extractor)
    assert [path for path, _ in report.failed] == ["a.jpg"]
    assert report.vectors is None
    assert set(rows(tmp_path / "index", "failed")) == {"a.jpg"}


def test_every_cut_of_a_jpeg_is_refused_or_whole(photo_factory, tmp_path):
    """No cut yields a photo with grey rows at its end."""
    file = photo_factory(tmp_path / "a.jpg", size=(64, 48))
    whole, data = read_photo(file).pixels, file.read_bytes()
    refused = 0
    for length in range(1, len(data), 29):
        file.write_bytes(data[:length])
        try:
            pixels = read_photo(file).pixels
        except ImageError:
            refused += 1
            continue
        np.testing.assert_array_equal(pixels, whole)
    assert refused > len(data) / 29 * 0.9


# --- the query's side


def test_reading_a_folder(tmp_path):
    with pytest.raises(
        ImageError, match="is a directory; name a photo, or index the directory"
    ) as e:
        read_photo(tmp_path)
    assert e.value.path == tmp_path


def test_reading_a_missing_file(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg: does not exist; check the name") as caught:
        read_photo(tmp_path / "gone.jpg")
    assert (caught.value.reason, caught.value.cure) == ("does not exist", "check the name")


def test_reading_below_a_file(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(ImageError, match=r"cannot be read \(Not a directory\)"):
        read_photo(tmp_path / "a.jpg" / "b.jpg")


def test_reading_a_pipe_does_not_wait_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    with released(tmp_path / "x.jpg", 5), pytest.raises(ImageError, match="is not a regular file"):
        read_photo(tmp_path / "x.jpg")


def test_reading_a_dangling_link(tmp_path):
    (tmp_path / "x.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ImageError, match="does not exist"):
        read_photo(tmp_path / "x.jpg")


def test_an_error_of_the_disk_is_said(tmp_path, photo_factory, monkeypatch):
    """Also what an unreadable file gives; root can read those, so the refusal is played."""
    file = photo_factory(tmp_path / "a.jpg")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(
        ImageError, match=r"cannot be read \(Permission denied\); check its permissions"
    ):
        read_photo(file)


def test_a_name_with_a_null_byte():
    with pytest.raises(ImageError, match=r"is no file name .*; check the name"):
        read_photo("a\0b.jpg")
