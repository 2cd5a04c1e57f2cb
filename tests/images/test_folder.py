"""Which photos lie below a folder."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import pytest

from locate.errors import InputError
from locate.images.folder import photo_file, photos_in, scan


def touch(root, *names):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"abc")


def paths(root):
    return [item.path for item in scan(root)]


def test_photos_by_name_only_and_sorted(tmp_path):
    touch(
        tmp_path, "b.jpg", "a.PNG", "notes.txt", "c.jpg.part", "z/2.jpg", "z/1.webp", "m/x/y/1.heic"
    )
    assert paths(tmp_path) == ["a.PNG", "b.jpg", "m/x/y/1.heic", "z/1.webp", "z/2.jpg"]


def test_what_is_found_about_a_file(tmp_path):
    touch(tmp_path, "a/1.jpg")
    os.utime(tmp_path / "a/1.jpg", ns=(5, 1_234_567_890_123))
    (found,) = scan(tmp_path)
    assert found.absolute == tmp_path / "a/1.jpg"
    assert (found.bytes, found.mtime_ns, found.error) == (3, 1_234_567_890_123, None)


def test_hidden_files_and_folders_are_left_out(tmp_path):
    touch(tmp_path, ".x.jpg", "._a.jpg", ".thumbs/1.jpg", "a/.locate/1.jpg", "a/1.jpg")
    assert paths(tmp_path) == ["a/1.jpg"]


def test_a_hidden_root_is_no_hidden_folder(tmp_path):
    touch(tmp_path, ".photos/1.jpg")
    assert paths(tmp_path / ".photos") == ["1.jpg"]


def test_a_folder_named_like_a_photo_is_a_folder(tmp_path):
    touch(tmp_path, "photo.jpg/1.jpg")
    assert paths(tmp_path) == ["photo.jpg/1.jpg"]


def test_an_empty_folder(tmp_path):
    assert paths(tmp_path) == []


def test_symlink_loops_end(tmp_path):
    touch(tmp_path, "a/1.jpg")
    (tmp_path / "a/self").symlink_to(tmp_path / "a")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "a/up2").symlink_to("..")
    assert [item.path for item in islice(scan(tmp_path), 20)] == ["a/1.jpg"]


def test_links_are_followed_each_folder_once(tmp_path):
    touch(tmp_path, "elsewhere/1.jpg", "root/2.jpg")
    root = tmp_path / "root"
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "c").symlink_to(tmp_path / "elsewhere")
    (root / "3.jpg").symlink_to(tmp_path / "elsewhere/1.jpg")
    assert paths(root) == ["2.jpg", "3.jpg", "b/1.jpg"]


def test_dangling_links_are_found_with_their_error(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    gone, itself = scan(tmp_path)
    assert (gone.path, gone.bytes) == ("gone.jpg", 0)
    assert gone.error == "cannot be read (No such file or directory); check the link or disk"
    assert "symbolic links" in (itself.error or "")


def test_unicode_names(tmp_path):
    names = ["Köln/Dom ☃.jpg", "東京/塔.jpg", "a b/c'd\"e.jpg"]
    touch(tmp_path, *names)
    assert sorted(paths(tmp_path)) == sorted(names)


def test_names_that_are_not_utf8_are_found_with_their_error(tmp_path):
    touch(tmp_path, "ok.jpg")
    for name in (b"caf\xe9.jpg", b"dir\xff/1.jpg"):
        raw = os.path.join(os.fsencode(tmp_path), name)
        try:
            os.makedirs(os.path.dirname(raw), exist_ok=True)
            Path(os.fsdecode(raw)).write_bytes(b"x")
        except OSError:
            pytest.skip("this file system allows valid UTF-8 only")
    found = {item.path: item.error for item in scan(tmp_path)}
    assert found.pop("ok.jpg") is None
    assert len(found) == 2
    for path, error in found.items():
        path.encode("utf-8")  # may be stored and printed
        assert error == "its name is not valid UTF-8; rename it"
    assert any("caf\\udce9.jpg" in path for path in found)


def test_an_environment_that_cannot_name_a_file_is_said(tmp_path):
    """In the C locale without UTF-8 mode every other letter stands for bytes; no name is to blame."""
    file = tmp_path / os.fsdecode(b"\xe6\x97").encode("utf-8", "surrogateescape").decode(
        "ascii", "surrogateescape"
    )
    whole = tmp_path / "\udce6\udc97\udca5.jpg"
    assert "which this environment forbids" in (photo_file(whole, tmp_path).error or "")
    assert "set PYTHONUTF8=1" in (photo_file(whole, tmp_path).error or "")
    assert photo_file(file, tmp_path).error == "its name is not valid UTF-8; rename it"


def test_a_folder_that_cannot_be_listed_is_said(tmp_path, monkeypatch):
    """Root may list any folder, so the refusal is played."""
    touch(tmp_path, "a/1.jpg", "locked/2.jpg")
    really = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return really(path)

    monkeypatch.setattr(os, "scandir", refuse)
    photo, folder = scan(tmp_path)
    assert (photo.path, photo.error) == ("a/1.jpg", None)
    assert folder.path == "locked"
    assert folder.error == "cannot be listed (Permission denied); check its permissions"


def test_a_missing_root(tmp_path):
    with pytest.raises(InputError, match="gone does not exist; name a folder"):
        next(scan(tmp_path / "gone"))


def test_a_file_as_root(tmp_path):
    touch(tmp_path, "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg is a file; name a folder, or use: locate add"):
        next(scan(tmp_path / "a.jpg"))


def test_look_is_relative_to_its_root(tmp_path):
    touch(tmp_path, "a/b/1.jpg")
    assert photo_file(tmp_path / "a/b/1.jpg", tmp_path / "a").path == "b/1.jpg"


def test_the_files_of_a_folder_by_name_in_the_order_of_names(tmp_path):
    touch(tmp_path / "real", "sub/2.jpg", "sub-a/1.jpg", "b.jpg", ".hidden/1.jpg", "sub/.3.jpg")
    (tmp_path / "real/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "real/dir.jpg").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for root in (tmp_path / "real", tmp_path / "link"):
        names = ["b.jpg", "sub-a/1.jpg", "sub/2.jpg"]
        assert photos_in(root) == {name: root / name for name in names}
        assert list(photos_in(root)) == names
    with pytest.raises(InputError, match="does not exist"):
        photos_in(tmp_path / "none")
