"""Standard output and error of a command: writing to them never fails for what they are.

- A character that their encoding lacks is written as its escape.
- Nobody reads any more (`locate ... | head`): the rest is dropped, and the exit code stays the answer's.
- Standard error that cannot be written is no reason to stop; a full disk under standard output is.
- Closed ones (`>&-`) are the null device, so that no file of ours gets their number.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

from locate.util.printable import visible


def prepare() -> None:
    """Make it so in this process, which must be a command's own."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
    sys.stdout = _opened(1, sys.stdout, (BrokenPipeError,))
    sys.stderr = _opened(2, sys.stderr, (OSError,))
    log = logging.getLogger("locate")
    if not log.handlers:
        log.addHandler(_Lines())
        log.propagate = False


def complain(text: object) -> None:
    """A line on standard error, if it can be written."""
    with suppress(OSError, ValueError):
        print(visible(text), file=sys.stderr, flush=True)


def print_line(text: object) -> None:
    """A line on standard output."""
    print(visible(text))


def abandon_output() -> None:
    """Drop what could not be written, lest Python fails with it once more when it ends."""
    handle = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(handle, _Handle):
        handle.is_gone = True


class _Handle(io.RawIOBase):
    """A file descriptor for writing."""

    def __init__(self, number: int, forgiven: tuple[type[OSError], ...]) -> None:
        self._number = number
        self._forgiven = forgiven
        self.is_gone = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: Any) -> int:
        if not self.is_gone:
            try:
                return os.write(self._number, data)
            except self._forgiven:
                self.is_gone = True
        return len(data)


def _opened(number: int, old: TextIO | None, forgiven: tuple[type[OSError], ...]) -> TextIO:
    encoding = getattr(old, "encoding", None) or "utf-8"
    with suppress(OSError, ValueError, AttributeError):
        if old is not None:
            old.flush()
    handle = _Handle(number, forgiven)
    by_lines = number == 2 or handle.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(handle), encoding, errors="backslashreplace", line_buffering=by_lines
    )


class _Lines(logging.Handler):
    """Warnings of ours, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())
