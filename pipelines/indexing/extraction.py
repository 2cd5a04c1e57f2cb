"""From files to catalogue entries: decoding and extraction overlap on a pool of threads."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from index.records import FileState
from locate.errors import ImageError, InputError
from locate.extractors.base import Extractor
from locate.images.folder import Found
from locate.images.masks import Mask, Masks
from locate.images.reading import MIN_SIDE, decode_photo, read_bytes
from locate.pixels import unrotate_points
from locate.types import Array, Extraction, Photo, PhotoInfo
from locate.util.memory import is_out_of_memory


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
    known: Mapping[tuple[str, str], int],
    workers: int | None = None,
    masks: Masks | None = None,
) -> Iterator[Seen]:
    """Look at `files` on a pool of threads, in order.

    Decoders, OpenCV and torch let go of Python's lock, so threads keep all cores busy; whoever
    consumes the iterator writes meanwhile. At most four results per worker wait, so memory is
    bounded for folders of any size. One bad file is an entry with an error, never the end.

    Args:
        get_extractor: called when the first file really needs it (networks load slowly).
        known: ids by sha256 of content and of mask that need not be looked at again.
        masks: of what is to be ignored.
    """
    workers = workers or os.cpu_count() or 1
    remaining = iter(files)
    with ThreadPoolExecutor(workers, "locate-extract", one_thread_each) as pool:
        waiting: deque[Future[Seen]] = deque()
        try:
            while True:
                for item in islice(remaining, 4 * workers - len(waiting)):
                    waiting.append(pool.submit(_see, item, get_extractor, known, masks))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def one_thread_each() -> None:
    """Each worker computes on its own core; nested thread pools would fight over them."""
    import torch

    torch.set_num_threads(1)


def _see(
    item: Found,
    get_extractor: Callable[[], Extractor],
    known: Mapping[tuple[str, str], int],
    masks: Masks | None,
) -> Seen:
    hidden = masks.hash_of(item.path) if masks else ""
    state = FileState("", item.bytes, item.mtime_ns, hidden)
    if item.error is not None:
        return Seen(item, state, error=item.error)
    clock = Clock()
    try:
        data = read_bytes(item.absolute)
        state = FileState(hashlib.sha256(data).hexdigest(), len(data), item.mtime_ns, hidden)
        clock.lap("read")
        same = known.get((state.sha256, hidden))
        if same is not None:
            return Seen(item, state, same_as=same, seconds=clock.seconds)
        extractor = get_extractor()
        clock.lap("load")
        photo = decode_photo(data, item.absolute, extractor.max_side)
        clock.lap("decode")
        mask = masks.read(item.path, photo.info) if masks else None
    except ImageError as error:
        of_mask = "" if error.path == item.absolute else f"its mask {error.path} "
        reason = f"{of_mask}{error.reason}; {error.cure}"
        return Seen(item, state, error=reason, seconds=clock.seconds)
    try:
        pixels = mask.fill(photo.pixels) if mask else photo.pixels
        extraction = extract_turned(extractor, pixels, photo.info.size, 0, local=True, mask=mask)
        clock.lap("extract")
    except Exception as error:  # one photo that an extractor stumbles over does not end the build
        if is_out_of_memory(error):
            reason = "does not fit into memory; use fewer threads (--workers 1), or shrink it"
            return Seen(item, state, error=reason, seconds=clock.seconds)
        reason = f"{extractor.info.name} failed on it ({type(error).__name__}: {error})"
        return Seen(item, state, error=f"{reason}; please report this", seconds=clock.seconds)
    return Seen(item, state, photo.info, extraction, seconds=clock.seconds)


def as_photo(pixels: Path | str | Array) -> Photo:
    """Pixels in memory as a photo; `InputError` if they are none."""
    array = np.asarray(pixels)
    if array.ndim != 3 or min(array.shape[:2]) < MIN_SIDE:
        raise InputError(
            f"a query must be H x W x 3 pixels of at least {MIN_SIDE} on each side, "
            f"got {array.shape}"
        )
    return Photo(array, PhotoInfo(size=(array.shape[1], array.shape[0])))


def extract_turned(
    extractor: Extractor,
    pixels: Array,
    size: tuple[int, int],
    degrees: int,
    *,
    local: bool,
    mask: Mask | None = None,
) -> Extraction:
    """Look at an image turned counter-clockwise; keypoints come back in the image as it was.

    Args:
        size: (width, height) of the original photo, upright.
        local: False leaves the local features out.
        mask: `pixels` were filled by it; there are no features in what it ignores.
    """
    seen = _turned(extractor, pixels, size, degrees, local)
    if seen.features is None or mask is None:
        return seen
    return Extraction(mask.outside(seen.features), seen.global_descriptor)


def _turned(
    extractor: Extractor, pixels: Array, size: tuple[int, int], degrees: int, local: bool
) -> Extraction:
    if degrees == 0:
        return extractor.extract(pixels, size)
    turned_size = size if degrees == 180 else size[::-1]
    turned = np.ascontiguousarray(np.rot90(pixels, degrees // 90))
    seen = extractor.extract(turned, turned_size, local=local)
    if seen.features is None:
        return seen
    keypoints = unrotate_points(seen.features.keypoints, turned_size, degrees)
    features = replace(seen.features, keypoints=keypoints, image_size=size)
    return Extraction(features, seen.global_descriptor)


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
