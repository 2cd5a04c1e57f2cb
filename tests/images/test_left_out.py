"""What a folder holds besides photos that can be read is said, by every command that walks over one."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import struct

import pytest
from PIL import Image

from index.catalog import Catalog
from locate.errors import ImageError, NoPhotoError
from locate.images import file_kinds
from locate.images.file_kinds import HEAD, format_of, kind_of
from locate.images.folder import LeftOut, scan, survey
from locate.images.reading import EXTENSIONS, decode_photo
from pipelines.cli import exit_codes as exits
from pipelines.cli.main import main
from pipelines.cli.named_photos import photos_below
from pipelines.indexing.build import add_photos, build_index, remove_images
from pipelines.mapping import build as map_build


def encoded(file_format, size=(64, 48), **options):
    stream = io.BytesIO()
    Image.new("RGB", size, "teal").save(stream, file_format, **options)
    return stream.getvalue()


def canon_raw():
    return struct.pack(">I", 24) + b"ftypcrx \0\0\0\1crx isom" + bytes(200)


@pytest.fixture
def home(tmp_path, monkeypatch, photo_factory, fake_extractor):
    """photos/ with two photos and everything that people keep beside them; alone/ without the photos."""
    for i in range(2):
        photo_factory(tmp_path / f"photos/place/{i}.jpg", seed=i)
    jpeg = (tmp_path / "photos/place/0.jpg").read_bytes()
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("IMG_1.DNG", "IMG_2.dng", "a.CR3", "b.jxl", "clip.MOV", "photo", "deep/scan.dat"):
        (alone / name).parent.mkdir(exist_ok=True)
        (alone / name).write_bytes(jpeg)
    for name in (
        "notes.txt",
        "Thumbs.db",
        "a.xmp",
        "IMG_1.json",
        "1.jpg_original",
        "README",
        "empty",
    ):
        (alone / name).write_bytes(jpeg if name.endswith("original") else b"")
    for name in (".DS_Store", "._a.jpg", ".hidden"):
        (alone / name).write_bytes(jpeg)
    shutil.copytree(alone, tmp_path / "photos/more")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOCATE_INDEX", raising=False)
    return tmp_path


EXPECTED = {
    ".dng": ("raw", 2, "IMG_1.DNG"),
    ".cr3": ("raw", 1, "a.CR3"),
    ".jxl": ("picture", 1, "b.jxl"),
    ".mov": ("video", 1, "clip.MOV"),
    "": ("unnamed", 1, "photo"),
    ".dat": ("unnamed", 1, "deep/scan.dat"),
}


def summary(values):
    return {g["ending"]: (g["kind"], g["count"], g["example"]) for g in values["left_out"]}


def build(*words):
    return main(["build-index", *words, "--extractor", "fake"])


def test_among_photos(home, capsys):
    assert build("photos") == exits.SOME_FAILED
    out = capsys.readouterr().out
    assert "2 added, 0 updated, 0 unchanged, 0 failed" in out
    assert "left out 2 files .dng (more/IMG_1.DNG): raw photos are not read; convert them to" in out
    assert (
        "left out 1 file .jxl (more/b.jxl): JPEG XL is not read; convert them to JPEG: djxl" in out
    )
    assert "left out 1 file without an ending (more/photo): nothing in the name says" in out
    assert "rename to .jpg" in out
    for name in ("notes", "Thumbs", "original", "DS_Store", "hidden", "empty"):
        assert name not in out
    # The same again when nothing is new.
    assert build("photos", "--json") == exits.SOME_FAILED
    values = json.loads(capsys.readouterr().out)
    more = {e: (kind, count, f"more/{name}") for e, (kind, count, name) in EXPECTED.items()}
    assert (summary(values), values["others"], values["unchanged"]) == (more, 7, 2)


def test_alone(home, capsys):
    assert build("alone") == exits.NOTHING_DONE
    out = capsys.readouterr().out
    assert out.count("left out ") == len(EXPECTED)
    assert "nothing is indexed: there is no photo that can be read" in out
    assert "files of other kinds there: 7" in out


def test_a_folder_of_other_things_fails_for_want_of_photos_only(home, capsys):
    (home / "texts").mkdir()
    (home / "texts/a.txt").write_text("hello")
    assert build("texts") == exits.NOTHING_DONE
    assert "left out" not in capsys.readouterr().out
    shutil.copy(home / "texts/a.txt", home / "photos/a.txt")
    shutil.rmtree(home / "photos/more")
    assert build("photos") == exits.OK


def test_add_and_query_walk_alike(home, capsys):
    build("photos/place")
    assert main(["add", "alone", "photos/place/0.jpg", "--json"]) == exits.SOME_FAILED
    out = capsys.readouterr().out
    assert summary(json.loads(out[out.index("{") :])) == EXPECTED
    assert main(["query", "photos", "--json"]) == exits.SOME_FAILED
    values = json.loads(capsys.readouterr().out)
    assert len(values["answers"]) == 2
    assert set(summary(values)) == set(EXPECTED)
    assert main(["query", "photos"]) == exits.SOME_FAILED
    assert "left out 1 file .cr3 (more/a.CR3)" in capsys.readouterr().out
    assert main(["query", "alone"]) == exits.NOTHING_DONE
    err = capsys.readouterr().err
    assert err.startswith("locate: no photo found in alone: 2 files .dng (IMG_1.DNG): raw photos")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("words", [["build-map", "--images"], ["add-to-map", "--map", "m"]])
def test_maps_of_no_photo(home, capsys, words):
    more = ["--out", "m"] if words[0] == "build-map" else []
    assert main([words[0], *more, *words[1:], "alone"]) == exits.NOTHING_DONE
    assert "1 file .jxl (b.jxl): JPEG XL is not read" in capsys.readouterr().err
    assert not (home / "m").exists()


def test_a_map_of_some_says_what_it_passed_over(home, capsys, monkeypatch):
    """The map itself is another's test: here it is given."""
    report = map_build.MapReport(2, 2, 9, 2.0, 0.5, 4.0)
    monkeypatch.setattr(map_build, "build_map", lambda *_, **__: report)
    words = ["build-map", "--images", "photos", "--out", "m"]
    assert main(words) == exits.SOME_FAILED
    assert "left out 2 files .dng" in capsys.readouterr().out
    assert main([*words, "--json"]) == exits.SOME_FAILED
    assert set(summary(json.loads(capsys.readouterr().out))) == set(EXPECTED)
    shutil.rmtree(home / "photos/more")
    assert main(words) == exits.OK


def test_what_is_named_is_read_by_its_content(home, capsys):
    build("photos/place")
    capsys.readouterr()
    assert main(["query", "alone/photo", "--json"]) == exits.OK
    assert json.loads(capsys.readouterr().out)["answers"][0]["verdict"] == "match"
    (home / "real.CR3").write_bytes(canon_raw())
    assert main(["query", "real.CR3"]) == exits.ERROR
    out = capsys.readouterr().out
    assert "failed real.CR3: is a raw photo; convert them to JPEG or TIFF" in out


def test_a_photo_that_was_added_by_name_stays_one(home, photo_factory):
    """Without an ending no walk takes it for a photo, but the database knows it."""
    index = home / "index"
    photo_factory(home / "photos/place/bare", seed=7, file_format="JPEG")
    build_index(home / "photos/place", index, extractor="fake")
    assert add_photos([home / "photos/place/bare"], index).added == 1
    again = build_index(home / "photos/place", index)
    assert (again.unchanged, again.missing, again.left_out.groups) == (3, 0, {})
    photo_factory(home / "photos/place/bare", seed=8, file_format="JPEG", size=(400, 300))
    assert build_index(home / "photos/place", index).updated == 1
    (home / "photos/place/bare").unlink()
    assert build_index(home / "photos/place", index).missing == 1
    assert remove_images(index, missing=True) == ["bare"]


def test_nothing_that_is_no_plain_file_is_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)  # names of sockets are at most 107 bytes
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    (tmp_path / "null").symlink_to("/dev/zero")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    opened = []
    really = os.open
    monkeypatch.setattr(os, "open", lambda *a, **k: opened.append(a[0]) or really(*a, **k))
    left_out = LeftOut()
    assert list(scan(tmp_path, left_out)) == []
    assert (opened, left_out.groups, left_out.others) == ([], {}, 5)


def test_known_endings_are_not_opened(tmp_path, monkeypatch):
    for name in ("a.nef", "b.txt", "c.mp4", "d.jpg", "e.psd"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr(file_kinds, "head_of", lambda file: pytest.fail(f"opened {file}"))
    assert set(left_out_of(tmp_path)) == {".nef", ".mp4", ".psd"}


def left_out_of(folder):
    left_out = LeftOut()
    list(scan(folder, left_out))
    return {ending: group.count for (ending, _), group in left_out.groups.items()}


def test_nothing_is_raw_and_readable():
    assert not EXTENSIONS & (file_kinds.RAW | file_kinds.VIDEO | file_kinds.UNREAD)


def test_a_folder_that_vanishes_is_said(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(b"x")
    really = os.walk

    def walk(root, **options):
        yield from really(root, **options)
        yield str(tmp_path / "gone"), [], ["2.jpg"]

    monkeypatch.setattr(os, "walk", walk)
    photo, gone = scan(tmp_path)
    assert photo.path == "a/1.jpg"
    assert "cannot be listed (No such file or directory)" in (gone.error or "")


def test_survey_and_photos_below_agree(home):
    assert survey([home / "photos"]).others == 7
    assert len(photos_below([home / "photos", home / "alone/photo"])) == 3
    for ask in (survey, photos_below):
        with pytest.raises(NoPhotoError, match=r"alone: 2 files \.dng"):
            ask([home / "alone"])


# --- by the first bytes


@pytest.mark.parametrize(
    ("file_format", "name"),
    [
        ("JPEG", "JPEG"), ("PNG", "PNG"), ("GIF", "GIF"), ("TIFF", "TIFF"), ("WEBP", "WebP"),
        ("BMP", "BMP"), ("AVIF", "AVIF"), ("HEIF", "HEIC"), ("JPEG2000", "JPEG 2000"), ("PPM", "netpbm"),
    ],
)  # fmt: skip
def test_every_format_that_is_read_is_known_by_its_head(file_format, name):
    from pillow_heif import register_heif_opener

    register_heif_opener()
    data = encoded(file_format)
    assert format_of(data[:HEAD]) == name
    assert name in file_kinds.READ


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (canon_raw()[:HEAD], "raw"),
        (b"FUJIFILMCCD-RAW 0201", "raw"),
        (b"II*\0\x10\0\0\0CR\2\0", "raw"),
        (b"\xff\x0a\x00\x10", "JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "video"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"BM is no picture but a text about one", None),
        (b"Please find the photo attached", None),
        (b"P1 is a runner", None),
        (b"", None),
    ],
)
def test_other_heads(head, name):
    assert format_of(head) == name


def test_an_unknown_ending_is_judged_by_content(tmp_path):
    for name, data in {
        "photo.jpg~2": encoded("JPEG"), "x.hdr": b"#?RADIANCE\n", "y": canon_raw(), "z.001": b"\xff\x0a",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    kinds = {file.name: kind_of(file) for file in tmp_path.iterdir()}
    names = {name: kind.name if kind else None for name, kind in kinds.items()}
    assert names == {"photo.jpg~2": "unnamed", "x.hdr": "picture", "y": "raw", "z.001": "picture"}


# --- raw photos that are TIFFs, whose preview is all that Pillow sees


@pytest.mark.parametrize(
    ("name", "tags"),
    [("a.dng", {}), ("a.NEF", {}), ("a.tif", {50706: b"\1\4\0\0"}), ("a.tif", {254: 1, 330: 8})],
)
def test_a_preview_is_not_taken_for_the_photo(tmp_path, name, tags):
    from PIL import TiffImagePlugin

    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
        info.tagtype[tag] = 1 if isinstance(value, bytes) else 4
    data = encoded("TIFF", tiffinfo=info)
    with pytest.raises(ImageError, match="is raw: only its preview can be read; convert them"):
        decode_photo(data, tmp_path / name)


def test_an_ordinary_tiff_is_none_of_them(tmp_path):
    assert decode_photo(encoded("TIFF"), tmp_path / "a.tif").info.size == (64, 48)


def test_the_catalogue_holds_photos_only(home):
    build_index(home / "photos", home / "index", extractor="fake")
    with Catalog.open(home / "index") as catalog:
        assert [row.path for row in catalog.images()] == ["place/0.jpg", "place/1.jpg"]
