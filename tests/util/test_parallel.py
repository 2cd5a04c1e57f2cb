"""The ordered thread map: order, how much is held, errors, and how it ends."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import numpy as np
import pytest
import torch

from locate.errors import InputError
from locate.util.parallel import ordered_map


def no_threads_left():
    return not [t for t in threading.enumerate() if t.name.startswith("locate")]


class Counting:
    """Numbers -> themselves; remembers which were begun."""

    def __init__(self):
        self.begun, self._lock = [], threading.Lock()

    def __call__(self, number):
        with self._lock:
            self.begun.append(number)
        return number


def test_results_come_in_order_whichever_is_made_first():
    def slow(number):
        time.sleep(0.001 * np.random.default_rng(number).integers(8))
        return number

    assert list(ordered_map(slow, range(40), workers=4)) == list(range(40))
    assert list(ordered_map(slow, [])) == []
    assert no_threads_left()


@pytest.mark.parametrize(("workers", "window", "held"), [(2, 3, 3), (2, None, 8), (3, 1, 1)])
def test_no_more_than_the_window_is_begun_before_it_is_asked_for(workers, window, held):
    count = Counting()
    taken = []

    def items():
        for number in itertools.count():
            taken.append(number)
            yield number

    with closing(ordered_map(count, items(), workers, window)) as results:
        assert taken == []  # nothing happens before the first is asked for
        for asked in range(4):
            assert next(results) == asked
            time.sleep(0.05)
            assert sorted(count.begun) == taken == list(range(asked + held))
    left = len(count.begun)
    time.sleep(0.02)
    assert len(count.begun) == left
    assert no_threads_left()


def test_an_error_arrives_where_its_result_is_asked_for():
    def refuse(number):
        if number == 2:
            raise InputError("this photo")
        return number

    results = ordered_map(refuse, range(9), workers=3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(InputError, match="this photo"):
        next(results)
    assert list(results) == []
    assert no_threads_left()


def test_an_error_of_the_items_arrives():
    def items():
        yield 1
        raise InputError("no more cameras")

    with pytest.raises(InputError, match="cameras"):
        list(ordered_map(str, items(), workers=2))
    assert no_threads_left()


def test_closing_early_cancels_what_has_not_begun():
    count, gate = Counting(), threading.Event()

    def wait(number):
        count(number)
        if number:
            gate.wait(5)
        return number

    results = ordered_map(wait, range(100), workers=2, window=50)
    assert next(results) == 0
    gate.set()
    results.close()
    assert len(count.begun) < 50
    assert no_threads_left()
    ordered_map(wait, range(3)).close()  # never begun
    assert no_threads_left()


def test_each_worker_takes_one_core():
    threads = list(ordered_map(lambda _: torch.get_num_threads(), range(8), workers=3))
    assert threads == [1] * 8
    begun = []
    list(ordered_map(str, range(8), workers=2, start=lambda: begun.append(1)))
    assert 1 <= len(begun) <= 2


INTERRUPTED = """
import time
from locate.util.parallel import ordered_map
def slow(number):
    time.sleep(0.1)
    return number
for number in ordered_map(slow, range(10_000), workers=2, window=2000, start=None):
    print(number, flush=True)
"""


def test_ctrl_c_ends_promptly():
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)  # 2000 that wait would take 100 s
    assert "KeyboardInterrupt" in errors
    assert process.returncode != 0
