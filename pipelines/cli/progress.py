"""One progress bar, on standard error; a line now and then where that is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from pipelines.cli.streams import complain

_EVERY = 15.0  # seconds between lines


@contextmanager
def progress_bar(verb: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to call with (done, in all)."""
    if sys.stderr.isatty():
        with _bar() as bar:
            yield _terminal(bar, verb)
    else:
        yield _lines(verb)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f}/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _terminal(bar: Progress, verb: str) -> Callable[[int, int], None]:
    task = bar.add_task(verb, total=None, rate=0.0)
    started = time.perf_counter()

    def step(done: int, total: int) -> None:
        rate = done / max(time.perf_counter() - started, 1e-9)
        bar.update(task, completed=done, total=total, rate=rate)

    return step


def _lines(verb: str) -> Callable[[int, int], None]:
    started = last = time.perf_counter()

    def step(done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last < _EVERY:
            return
        last = now
        rate = done / (now - started)
        left = (total - done) / rate
        complain(f"{verb} {done}/{total}, {rate:.1f}/s, {left:.0f} s left")

    return step
