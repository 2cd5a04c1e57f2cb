"""How a command ends: every error becomes one line on standard error and an exit code.

An exit code of 1 is an answer ("no match"), so nothing that went wrong may end with it: what nobody
foresaw ends with 70 (EX_SOFTWARE of sysexits.h), its traceback in a file.
"""

from __future__ import annotations

import os
import platform
import secrets
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from locate import __version__
from locate.errors import LocateError, NoPhotoError
from locate.util.files import atomic_write
from locate.util.memory import is_out_of_memory
from pipelines.cli import exit_codes
from pipelines.cli.streams import abandon_output, complain


def run(command: Callable[[], int], *, own_process: bool) -> int:
    """The exit code of `command`, whatever it does.

    Args:
        own_process: the interpreter is this command's alone and ends with it.
    """
    try:
        try:
            code = command()
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
        except Exception as error:
            return _report(error)
    except (KeyboardInterrupt, click.Abort):
        if own_process:  # whoever presses it again does not want to wait for threads
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        complain("locate: interrupted; what was committed is kept, run the same command to go on")
        abandon_output()
        return exit_codes.INTERRUPTED


def _report(error: Exception) -> int:
    """Say what went wrong; the exit code."""
    code = exit_codes.ERROR
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "locate"
        complain(f"{path}: {error.format_message().rstrip('.')}; see {path} --help")
    elif isinstance(error, LocateError):
        complain(f"locate: {error}")
        code = exit_codes.NOTHING_DONE if isinstance(error, NoPhotoError) else exit_codes.ERROR
    elif isinstance(error, BrokenPipeError):  # of a caller that did not `streams.prepare`
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = exit_codes.OK
    elif is_out_of_memory(error):
        complain(
            "locate: out of memory; what was committed is kept. Close other programs, or use fewer "
            "threads (--workers 1) or smaller photos"
        )
    elif isinstance(error, OSError):
        # Of files that the user named for output; those of the database and the photos are ours.
        name = f"{error.filename}: " if error.filename else ""
        complain(f"locate: {name}{error.strerror or error}; check the path and the disk")
        abandon_output()
    else:
        _report_unforeseen(error)
        code = exit_codes.INTERNAL
    return code


def _report_unforeseen(error: Exception) -> None:
    """One line about what nobody foresaw; the traceback as a file that is there whole or not at all."""
    what = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    about = f"locate {__version__}, Python {platform.python_version()}, {platform.platform()}"
    text = f"{about}\n{sys.argv}\n\n{''.join(traceback.format_exception(error))}"
    path = Path(tempfile.gettempdir(), f"locate-{secrets.token_hex(4)}.traceback.txt")
    try:
        with atomic_write(path) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
        kept = f"the traceback is in {path}; please report this with that file"
    except OSError as failure:
        kept = f"the traceback could not be written ({failure.strerror}); please report this"
    complain(f"locate: internal error{where}: {what[:500]}; {kept}")
