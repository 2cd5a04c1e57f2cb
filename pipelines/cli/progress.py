"""Progress on standard error, one stage after the other: a bar, or a line now and then where there is no
terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from pipelines.cli.streams import complain

if TYPE_CHECKING:
    from rich.progress import Progress

_EVERY = 15.0  # seconds between lines


class Stages:
    """A function to call with (stage, done, in all); a new stage takes the place of the last one."""

    def __init__(self, bars: Progress | None) -> None:
        self._bars = bars
        self._stage = ""
        self._began = self._last = 0.0

    def __call__(
        self, stage: str, done: int, total: int, note: str = "", *, event: str = ""
    ) -> None:
        """
        Args:
            note: what to show instead of the speed.
            event: what happened just now: a line of its own, which stays.
        """
        now = time.perf_counter()
        if stage != self._stage:
            self._stage, self._began, self._last = stage, now, -math.inf if note else now
            if self._bars:
                for task in self._bars.task_ids:
                    self._bars.remove_task(task)
                self._bars.add_task(stage, total=None, note="")
        rate = done / max(now - self._began, 1e-9)
        if self._bars and event:
            self._bars.console.print(f"{stage} {done}/{total}, {event}: {note}", highlight=False)
        elif self._bars:
            task = self._bars.task_ids[0]
            self._bars.update(task, completed=done, total=total, note=note or f"{rate:.1f}/s")
        elif event:
            complain(f"{stage} {done}/{total}, {event}: {note}")
        elif now - self._last >= _EVERY:
            self._last = now
            left = (total - done) / rate if rate else math.inf
            note = f": {note}" if note else f", {rate:.1f}/s, {left:.0f} s left"
            complain(f"{stage} {done}/{total}{note}")


@contextmanager
def stages() -> Iterator[Stages]:
    """Progress of several stages."""
    if not sys.stderr.isatty():
        yield Stages(None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[note]}")
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bars:
        yield Stages(bars)


@contextmanager
def progress_bar(verb: str) -> Iterator[Callable[[int, int], None]]:
    """Progress of one stage: a function to call with (done, in all)."""
    with stages() as step:
        yield partial(step, verb)
