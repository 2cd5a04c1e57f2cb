"""Progress on standard error: lines now and then, or a bar on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from pipelines.cli import progress
from pipelines.cli.progress import Stages, progress_bar


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_lines_now_and_then_where_there_is_no_terminal(clock, capsys):
    with progress_bar("indexing") as step:
        for done, at in ((0, 100), (1, 110), (30, 115), (31, 120), (60, 130.5)):
            clock[0] = at
            step(done, 90)
    assert capsys.readouterr().err.splitlines() == [
        "indexing 30/90, 2.0/s, 30 s left",
        "indexing 60/90, 2.0/s, 15 s left",
    ]


def test_stages_notes_and_events(clock, capsys):
    step = Stages(None)
    step("first", 0, 9, "loss 3", event="held out")
    step("first", 1, 9, "loss 2")  # the first line of a stage with notes is not waited for
    step("first", 2, 9, "loss 1")
    step("second", 0, 5)
    clock[0] = 120
    step("second", 0, 5)
    assert capsys.readouterr().err.splitlines() == [
        "first 0/9, held out: loss 3",
        "first 1/9: loss 2",
        "second 0/5, 0.0/s, inf s left",
    ]


def test_a_bar_for_the_stage_that_runs(clock):
    out = io.StringIO()
    with Progress(console=Console(file=out, force_terminal=True), auto_refresh=False) as bars:
        step = Stages(bars)
        step("first", 0, 9, "loss 3", event="held out")
        step("first", 4, 9, "loss 2")
        (task,) = bars.tasks
        assert (task.description, task.completed, task.total) == ("first", 4, 9)
        assert task.fields["note"] == "loss 2"
        clock[0] = 102
        step("second", 1, 3)
        clock[0] = 104
        step("second", 2, 3)
        (task,) = bars.tasks
        assert (task.description, task.completed) == ("second", 2)
        assert task.fields["note"] == "1.0/s"
    assert "first 0/9, held out: loss 3" in out.getvalue()
