"""Memory that was freed is kept for the next photo.

Feature maps are some ten megabytes each, and glibc gives blocks of that size back to the system at
once; fetching fresh ones costs more than some layers' arithmetic (`docs/experiments.md`, 18).
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST_TRIMMED, _LARGEST_IN_HEAP = 1 << 30, 1 << 25  # bytes; glibc takes no more of the second


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep what is freed, up to a gigabyte, in this process. Commands do so
    when they start; a program that uses locate as a library may want to. Whether it was told: there
    may be another malloc, or the user's environment says otherwise."""
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(
        mallopt(_TRIM_THRESHOLD, _LARGEST_TRIMMED) and mallopt(_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: torch and OpenCV have types of their own for it."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    signs = ("can't allocate memory", "out of memory", "insufficient memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)
