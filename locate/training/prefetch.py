"""Batches made ahead of time by threads, and handed out in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")

AHEAD = 2  # finished batches that wait, besides the one that each thread works at


@contextmanager
def made_ahead(
    make: Callable[[int], T], numbers: Iterable[int], threads: int
) -> Iterator[Iterator[T]]:
    """Gives an iterator over `make(n)` for every n of `numbers`, in their order.

    At most `threads` + AHEAD results are made before they are asked for. What `make` raises is raised
    where its result is asked for. When the context ends, what nobody asked for is thrown away.

    Args:
        make: safe to call from several threads at once.
        numbers: may be endless.
    """
    remaining = iter(numbers)
    waiting: deque[Future[T]] = deque()

    def in_order() -> Iterator[T]:
        while True:
            for number in islice(remaining, threads + AHEAD - len(waiting)):
                waiting.append(pool.submit(make, number))
            if not waiting:
                return
            yield waiting.popleft().result()

    with ThreadPoolExecutor(threads, "locate-batches", _one_thread_each) as pool:
        try:
            yield in_order()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _one_thread_each() -> None:
    """Batches are made side by side; nested threads would fight over the cores."""
    torch.set_num_threads(1)
