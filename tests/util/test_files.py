"""A file is there whole or not at all, whatever ends the writer and however many there are."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from locate.errors import InputError
from locate.util import files
from locate.util.files import (
    atomic_path,
    atomic_write,
    is_intact,
    sha256_of,
    sole_writer,
    sync_folder,
)

OLD, NEW = b"old" * 1000, b"new" * 5000
BUSY = InputError("busy")


def write_stream(path):
    with atomic_write(path) as stream:
        stream.write(NEW)


def write_path(path):
    with atomic_path(path) as temporary:
        temporary.write_bytes(NEW)


@pytest.fixture(params=[write_stream, write_path])
def write(request):
    return request.param


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "file.bin"
    file.write_bytes(OLD)
    return file


def spy(monkeypatch, fail_at=None):
    """Log (call, whether of a folder) of what reaches the disk; the call of number `fail_at` fails."""
    calls = []
    fsync, replace = os.fsync, Path.replace

    def note(call, folder):
        calls.append((call, folder))
        if len(calls) - 1 == fail_at:
            raise OSError(errno.EIO, "Input/output error")

    def synced(handle):
        note("fsync", stat.S_ISDIR(os.fstat(handle).st_mode))
        fsync(handle)

    def replaced(self, target):
        note("replace", False)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    return calls


def test_the_file_is_synced_then_renamed_then_the_folder_synced(file, write, monkeypatch):
    calls = spy(monkeypatch)
    write(file)
    assert calls == [("fsync", False), ("replace", False), ("fsync", True)]
    assert file.read_bytes() == NEW
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("fail_at", range(3))
def test_an_error_at_any_step_leaves_the_old_or_the_new(file, write, monkeypatch, fail_at):
    spy(monkeypatch, fail_at)
    with pytest.raises(OSError, match="Input/output"):
        write(file)
    assert file.read_bytes() == (NEW if fail_at == 2 else OLD)
    assert list(file.parent.iterdir()) == [file]


def test_an_error_in_the_block_leaves_the_old(file):
    def fail(stream):
        stream.write(NEW)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), atomic_write(file) as stream:
        fail(stream)
    with pytest.raises(KeyboardInterrupt), atomic_path(file):
        raise KeyboardInterrupt
    assert file.read_bytes() == OLD
    assert list(file.parent.iterdir()) == [file]


KILLED = """
import os, signal, sys
from pathlib import Path
from locate.util.files import atomic_write
step, file = int(sys.argv[1]), Path(sys.argv[2])
fsync, replace, count = os.fsync, Path.replace, iter(range(9))
def die():
    if next(count) == step:
        os.kill(os.getpid(), signal.SIGKILL)
def synced(handle):
    die(); fsync(handle); die()
def replaced(self, target):
    die(); replace(self, target); die()
os.fsync, Path.replace = synced, replaced
with atomic_write(file) as stream:
    stream.write(b"new" * 5000)
"""


@pytest.mark.parametrize("step", range(6))
def test_a_kill_between_any_two_steps_leaves_the_old_or_the_new(file, step):
    run = subprocess.run([sys.executable, "-c", KILLED, str(step), str(file)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert file.read_bytes() == (OLD if step < 3 else NEW)
    with sole_writer(file.parent / "lock", BUSY):  # the next writer cleans up
        assert not list(file.parent.glob("*.writing"))
    write_stream(file)
    assert file.read_bytes() == NEW


def test_many_threads_write_one_file_and_each_reader_sees_a_whole_one(file):
    contents = [bytes([i]) * 20_000 for i in range(8)]
    seen, end = set(), threading.Event()

    def writer(content):
        for _ in range(10):
            with atomic_write(file) as stream:
                stream.write(content[:7])
                stream.write(content[7:])

    def reader():
        while not end.is_set():
            seen.add(file.read_bytes())

    threads = [threading.Thread(target=writer, args=(c,)) for c in contents]
    watch = threading.Thread(target=reader)
    watch.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end.set()
    watch.join()
    assert seen <= {OLD, *contents}
    assert file.read_bytes() in contents
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_is_what_the_umask_says(tmp_path, write, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~umask


def test_a_name_as_long_as_a_name_can_be(tmp_path, write):
    for name in ("n" * 255, "\u5bfa" * 85):
        write(tmp_path / name)
        assert (tmp_path / name).read_bytes() == NEW


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_system_that_cannot_sync_a_folder_is_no_error(tmp_path, monkeypatch, code):
    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    if code == errno.EIO:  # the disk is broken
        with pytest.raises(OSError, match="Input/output"):
            sync_folder(tmp_path)
    else:
        sync_folder(tmp_path)


def test_a_lock_keeps_others_out_until_it_is_dropped(tmp_path):
    lock = tmp_path / "lock"
    with sole_writer(lock, BUSY):
        with pytest.raises(InputError, match="busy"), sole_writer(lock, BUSY, timeout=0.05):
            pass
        hold = f"""
from pathlib import Path
from locate.errors import InputError
from locate.util.files import sole_writer
with sole_writer(Path({str(lock)!r}), InputError("busy elsewhere")):
    pass
"""
        run = subprocess.run(
            [sys.executable, "-c", hold], capture_output=True, text=True, check=False
        )
        assert "busy elsewhere" in run.stderr
    with pytest.raises(ZeroDivisionError), sole_writer(lock, BUSY):
        raise ZeroDivisionError
    with sole_writer(lock, BUSY):
        pass


def test_only_what_was_left_unfinished_is_swept(tmp_path):
    (tmp_path / ".a.1-2.writing").touch()
    unfinished = atomic_path(tmp_path / "a\nb.bin")
    unfinished.__enter__().touch()  # and killed
    others = {"a.writing", ".a", ".writing.txt", ".diary.writing", ".a.1-b.writing", ".1-2.writing"}
    for name in others:
        (tmp_path / name).touch()
    files.sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == others


def test_a_hash_tells_a_changed_file(file):
    digest = sha256_of(file)
    assert digest == subprocess.run(
        ["sha256sum", file], capture_output=True, text=True, check=True
    ).stdout.split(maxsplit=1)[0]  # fmt: skip
    assert is_intact(file, digest)
    file.write_bytes(OLD[:-1] + b"D")
    assert not is_intact(file, digest)
    file.unlink()
    assert not is_intact(file, digest)
