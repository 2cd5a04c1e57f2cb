"""How commands end: what is no answer never has the exit code of one, and output does not fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from locate.errors import InputError, NoPhotoError
from locate.util.memory import is_out_of_memory
from pipelines.cli import exit_codes
from pipelines.cli import index as commands
from pipelines.cli.main import main
from pipelines.indexing.build import build_index

ROOT = Path(__file__).resolve().parents[2]
CHILD = (
    "import sys\n"
    "from pipelines.cli import index as commands\n"
    "from pipelines.cli import main as cli\n"
    "{}\n"
    "sys.exit(cli.main())\n"
)  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch, photo_factory, fake_extractor):
    for i in range(3):
        photo_factory(tmp_path / f"photos/a/{i}.jpg", seed=i)
    build_index(tmp_path / "photos", tmp_path / ".locate", extractor=fake_extractor)
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.delenv("LOCATE_INDEX", raising=False)
    return tmp_path


def shell(command, **options):
    """A shell's command line, in which $LOCATE is the command; (exit code, stdout, stderr)."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env={**os.environ, "LOCATE": f"{sys.executable} -m locate"},
        capture_output=True, text=True, check=False, timeout=60, **options,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def child(change, *words):
    """A process in which something was changed before the command line runs."""
    code = CHILD.format(change)
    return subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- what nobody foresaw


def raising(monkeypatch, error):
    def fail(**_):
        raise error

    monkeypatch.setattr(commands.info, "callback", fail)
    return main(["info"])


def test_an_uncaught_exception(home, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(home / "tmp"))
    assert raising(monkeypatch, ZeroDivisionError("by\n\x1b[31mzero")) == exit_codes.INTERNAL == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    found = re.fullmatch(
        r"locate: internal error in test_command_ends\.py, line \d+: "
        r"ZeroDivisionError: by\\n\\x1b\[31mzero; "
        r"the traceback is in (\S+); please report this with that file\n",
        err,
    )
    assert found, err
    text = Path(found[1]).read_text("utf-8")
    assert "Traceback (most recent call last)" in text
    assert "in fail" in text
    assert text.startswith("locate ")
    assert [file.name for file in (home / "tmp").iterdir()] == [Path(found[1]).name]


def test_a_traceback_that_cannot_be_written(home, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(home / "tmp"))
    monkeypatch.setattr("os.fsync", full)
    assert raising(monkeypatch, RecursionError("deep")) == exit_codes.INTERNAL
    err = capsys.readouterr().err
    assert "RecursionError: deep; the traceback could not be written (No space left" in err
    assert list((home / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), exit_codes.ERROR, "out of memory; what was committed is kept. Close other"),
        (OSError(12, "Cannot allocate memory"), exit_codes.ERROR, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), exit_codes.ERROR, "out of memory"),
        (OSError(28, "No space left on device", "x.html"), exit_codes.ERROR, "x.html: No space left"),
        (OSError("bare"), exit_codes.ERROR, "bare; check the path"),
        (KeyboardInterrupt(), exit_codes.INTERRUPTED, "interrupted; what was committed is kept"),
        (InputError("two\nlines"), exit_codes.ERROR, r"two\nlines"),
        (NoPhotoError("none"), exit_codes.NOTHING_DONE, "none"),
        (AssertionError(), exit_codes.INTERNAL, "AssertionError; the traceback is in"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "no"), exit_codes.INTERNAL, "UnicodeEncodeError: "),
        (ImportError("no torch"), exit_codes.INTERNAL, "ImportError: no torch"),
    ],
)  # fmt: skip
def test_every_error_is_a_line_and_a_code(home, monkeypatch, capsys, error, code, said):
    monkeypatch.setattr("tempfile.tempdir", str(home / "tmp"))
    assert raising(monkeypatch, error) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("locate: ")
    assert said in err
    assert len(err.splitlines()) == 1


def test_memory_is_told_from_other_things():
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert not is_out_of_memory(ValueError("no memory of it"))


def test_an_exception_in_a_thread_of_the_pool(home):
    """It reaches the command by the future that nobody else looks into."""
    process = child(
        "from pipelines.retrieval import database as retrieve\n"
        "class Bad:\n"
        "    extractor_info = None\n"
        "    def __init__(self, *_, **__): pass\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *_): pass\n"
        "    def query_many(self, photos, **_):\n"
        "        from concurrent.futures import ThreadPoolExecutor\n"
        "        with ThreadPoolExecutor(2) as pool:\n"
        "            yield pool.submit(lambda: {}['no such key']).result()\n"
        "retrieve.Database = Bad",
        "query",
        "photos",
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (exit_codes.INTERNAL, "")
    assert "KeyError: 'no such key'; the traceback is in" in err
    assert len(err.splitlines()) == 1


# --- interrupted


@pytest.mark.parametrize("where", ["importing", "waiting for threads", "printing"])
def test_ctrl_c_is_130_wherever_it_comes(home, where):
    ready = "print('ready', file=sys.stderr, flush=True)"
    change = {
        "importing": (
            "import importlib.abc\n"
            "class Slow(importlib.abc.MetaPathFinder):\n"
            "    def find_spec(self, name, path, target=None):\n"
            "        if name == 'index.check':\n"
            f"            import time; {ready}; time.sleep(30)\n"
            "sys.meta_path.insert(0, Slow())"
        ),
        "waiting for threads": (
            "def info(**_):\n"
            "    import time\n"
            "    from concurrent.futures import ThreadPoolExecutor\n"
            "    with ThreadPoolExecutor(1) as pool:\n"
            f"        work = pool.submit(time.sleep, 1); {ready}; work.result()\n"
            "commands.info.callback = info"
        ),
        "printing": (
            f"def info(**_):\n    {ready}\n    while True: print('x' * 1000)\n"
            "commands.info.callback = info"
        ),
    }[where]
    with child(change, "info") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)  # nobody reads its output: it waits within a line
        err = process.stderr.read()
        assert process.wait(timeout=30) == exit_codes.INTERRUPTED
    assert err.startswith("locate: interrupted; what was committed is kept")
    assert "Traceback" not in err


# --- streams


def test_a_reader_that_leaves_costs_nothing(home):
    assert shell("$LOCATE info --images | head -c 5")[::2] == (exit_codes.OK, "")
    assert shell("$LOCATE --help | head -c 5")[::2] == (exit_codes.OK, "")
    # The exit code stays that of the answer: here of a check that found something.
    (home / ".locate/vectors.json").unlink()
    assert shell("$LOCATE check --no-photos | true")[::2] == (exit_codes.PROBLEMS, "")


def test_standard_error_that_cannot_be_written_is_no_reason_to_stop(home):
    for closed in ("2>&-", "2>/dev/full"):
        assert shell(f"$LOCATE info --index nowhere {closed}")[:2] == (exit_codes.ERROR, "")
        code, out, _ = shell(f"$LOCATE info {closed}")
        assert (code, "3, 1 landmarks" in out) == (exit_codes.OK, True)


def test_a_full_disk_under_standard_output_is_an_error(home):
    said = "locate: No space left on device; check the path and the disk\n"
    for words in ("info --images", "info --json", "--help"):
        assert shell(f"$LOCATE {words} > /dev/full") == (exit_codes.ERROR, "", said)


def test_closed_streams_are_the_null_device(home):
    """The next file that is opened must not get their number."""
    assert shell("$LOCATE info >&-") == (exit_codes.OK, "", "")
    assert shell("$LOCATE check <&- >&- 2>&-") == (exit_codes.OK, "", "")
    assert shell("$LOCATE info --index nowhere <&- >&- 2>&-") == (exit_codes.ERROR, "", "")
    process = child(
        "def info(**_):\n"
        "    import os\n"
        "    with open('new', 'w') as file:\n"
        "        assert file.fileno() > 2, file.fileno()\n"
        "    os.write(1, b'of a library in C'); os.write(2, b'too')\n"
        "    print('x'); return 0 if open('new').read() == '' else 9\n"
        "commands.info.callback = info\n"
        "import os; os.close(0); os.close(1); os.close(2)",
        "info",
    )
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_warnings_are_lines_without_harm(home):
    process = child(
        "def info(**_):\n"
        "    import logging, warnings\n"
        "    logging.getLogger('locate').warning('the features of %s', 'a\\n\\x1b[31m.jpg')\n"
        "    warnings.warn('some library says so')\n"
        "    return 0\n"
        "commands.info.callback = info",
        "info",
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == exit_codes.OK
    assert err.splitlines()[0] == r"the features of a\n\x1b[31m.jpg"
