"""Threads side by side, one core each."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def one_thread_each() -> None:
    """Each worker computes on its own core; nested thread pools would fight over them."""
    import torch

    torch.set_num_threads(1)


def ordered_map(
    function: Callable[[T], R],
    items: Iterable[T],
    workers: int | None = None,
    window: int | None = None,
    *,
    start: Callable[[], None] | None = one_thread_each,
) -> Generator[R, None, None]:
    """Parallel map: `function` of each item on a pool of threads, in the order of the items.

    Decoders, OpenCV, FAISS and torch let go of Python's lock, so threads keep all cores busy. What
    `function` raises is raised where its result is asked for. When the iterator is closed, at an error
    and at Ctrl-C, what has not begun is cancelled and what has is waited for. An iterator that is left
    early is closed by `contextlib.closing`.

    Args:
        items: may be endless; taken in the caller's thread, as results are asked for.
        workers: threads; by default one a core.
        window: how many items are begun or done, but not handed out, at most; by default 4 a worker.
        start: called in each thread before its first item.
    """
    workers = workers or os.cpu_count() or 1
    window = window or 4 * workers
    remaining = iter(items)
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, "locate", start) as pool:
        try:
            while True:
                for item in islice(remaining, window - len(waiting)):
                    waiting.append(pool.submit(function, item))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
