"""The photos that a command was given: files, folders, and "-" for standard input; and its answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from locate.errors import ImageError, InputError
from locate.images.folder import LeftOut, no_photo, scan
from locate.images.reading import MAX_BYTES, hold

STANDARD_INPUT = Path("-")
T = TypeVar("T")


def photos_below(paths: Sequence[Path], left_out: LeftOut | None = None) -> list[Path]:
    """The photos that were named, and all below the folders that were.

    Args:
        left_out: learns what was passed over in folders.

    Raises:
        NoPhotoError: there are none.
        InputError: standard input was named twice, or is a terminal.
    """
    if paths.count(STANDARD_INPUT) > 1:
        raise InputError("- is standard input, which holds one photo; name it once")
    left_out = LeftOut() if left_out is None else left_out
    photos: list[Path] = []
    for path in paths:
        if path == STANDARD_INPUT:
            hold(path, _read_standard_input())
            photos.append(path)
        elif path.is_dir():
            photos += [found.absolute for found in scan(path, left_out)]
        else:
            photos.append(path)
    if not photos:
        raise no_photo(", ".join(map(str, paths)), left_out)
    return photos


def answers(
    photos: Sequence[Path],
    one: Callable[[Path], T] | None,
    many: Callable[[Sequence[Path]], Iterable[T | ImageError]],
    failed: list[tuple[str, str]],
    progress: Callable[[int, int], None],
) -> Iterator[T]:
    """Of several photos by `many`, of a single one, which has all cores to itself, by `one`; `failed`
    learns those without an answer, with the reason."""
    try:
        results = [one(photos[0])] if one and len(photos) == 1 else many(photos)
    except ImageError as error:
        results = [error]
    for done, result in enumerate(results, 1):
        if isinstance(result, ImageError):
            failed.append((str(result.path), f"{result.reason}; {result.cure}"))
        else:
            yield result
        progress(done, len(photos))


def _read_standard_input() -> bytes:
    if sys.stdin is None:
        return b""
    if sys.stdin.isatty():
        raise InputError(
            "- is standard input, and that is this terminal; pipe a photo into it, as in: "
            "cat photo.jpg | locate query -"
        )
    return sys.stdin.buffer.read(MAX_BYTES + 1)
