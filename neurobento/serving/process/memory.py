"""Settings of memory that keep a long-lived process small and responsive."""

from __future__ import annotations

import ctypes
import gc

__all__ = ["freeze_gc", "return_memory_to_os"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""From glibc's malloc.h."""

ARRAY_BYTES = 4 << 20
"""Less than a volume, more than a plane: planes that came and went one by one took the vote of
labels four times as long, in new pages each time."""

KEPT_BYTES = 8 * ARRAY_BYTES
"""Kept of smaller arrays in each arena. At glibc's own 128 kB, arrays of a few planes got new
pages each time, and reading the labels of a head took three times as long."""

ARENAS = 2


def return_memory_to_os() -> None:
    """Return large arrays to the system when they are freed, instead of keeping them for reuse."""
    # glibc begins to keep them once some were freed, in each thread: a service that handled some
    # hundred scans in many threads held several times what it used
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, ARRAY_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_ARENA_MAX, ARENAS)
    except (OSError, AttributeError):
        # another C library, with rules of its own
        return


def freeze_gc() -> None:
    """Exclude loaded modules from garbage collection. Call after the last import."""
    # a full collection in the front took 80 ms for 110,000 objects, and answered nobody meanwhile
    gc.collect()
    gc.freeze()
