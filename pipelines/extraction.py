"""From files to catalogue entries: decoding and extraction overlap on a pool of threads."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from index.records import FileState
from locate.errors import ImageError
from locate.extractors.base import Extractor
from locate.images import decode_photo, read_bytes
from locate.types import Extraction, PhotoInfo
from pipelines.scan import Found


@dataclass(frozen=True, eq=False)
class Seen:
    """What came of one file: an extraction, the id of an image of the same content, or an error."""

    found: Found
    file: FileState
    info: PhotoInfo | None = None
    extraction: Extraction | None = None
    same_as: int | None = None
    error: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def extract_all(
    files: Iterable[Found],
    get_extractor: Callable[[], Extractor],
    known: Mapping[str, int],
    workers: int | None = None,
) -> Iterator[Seen]:
    """Look at `files` on a pool of threads, in order.

    Decoders, OpenCV and torch let go of Python's lock, so threads keep all cores busy; whoever
    consumes the iterator writes meanwhile. At most four results per worker wait, so memory is
    bounded for folders of any size. One bad file is an entry with an error, never the end.

    Args:
        get_extractor: called when the first file really needs it (networks load slowly).
        known: ids by sha256 of content that need not be looked at again.
    """
    workers = workers or os.cpu_count() or 1
    remaining = iter(files)
    with ThreadPoolExecutor(workers, "locate-extract", one_thread_each) as pool:
        waiting: deque[Future[Seen]] = deque()
        try:
            while True:
                for item in islice(remaining, 4 * workers - len(waiting)):
                    waiting.append(pool.submit(_see, item, get_extractor, known))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def one_thread_each() -> None:
    """Each worker computes on its own core; nested thread pools would fight over them."""
    import torch

    torch.set_num_threads(1)


def _see(item: Found, get_extractor: Callable[[], Extractor], known: Mapping[str, int]) -> Seen:
    state = FileState("", item.bytes, item.mtime_ns)
    if item.error is not None:
        return Seen(item, state, error=item.error)
    clock = Clock()
    try:
        data = read_bytes(item.absolute)
        state = FileState(hashlib.sha256(data).hexdigest(), len(data), item.mtime_ns)
        clock.lap("read")
        if state.sha256 in known:
            return Seen(item, state, same_as=known[state.sha256], seconds=clock.seconds)
        extractor = get_extractor()
        clock.lap("load")
        photo = decode_photo(data, item.absolute, extractor.max_side)
        clock.lap("decode")
    except ImageError as error:
        return Seen(item, state, error=f"{error.reason}; {error.cure}", seconds=clock.seconds)
    try:
        extraction = extractor.extract(photo.pixels, photo.info.size)
        clock.lap("extract")
    except Exception as error:  # one photo that an extractor stumbles over does not end the build
        reason = f"{extractor.info.name} failed on it ({type(error).__name__}: {error})"
        return Seen(item, state, error=f"{reason}; please report this", seconds=clock.seconds)
    return Seen(item, state, photo.info, extraction, seconds=clock.seconds)


class Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Book the time since the last lap on `part`."""
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._last
        self._last = now
