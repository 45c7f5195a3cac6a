"""Settings of memory that keep a long-lived process small and responsive."""

from __future__ import annotations

import ctypes
import gc

__all__ = ["freeze_gc", "return_memory_to_os"]

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""From glibc's malloc.h."""

ARRAY_BYTES = 4 << 20
"""Less than a volume, more than a plane: planes that came and went one by one took the vote of
labels four times as long, in new pages each time."""

ARENAS = 2


def return_memory_to_os() -> None:
    """Return large arrays to the system when they are freed, instead of keeping them for reuse."""
    # glibc begins to keep them once some were freed, in each thread: a service that handled some
    # hundred scans in many threads held several times what it used
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, ARRAY_BYTES)
        libc.mallopt(M_ARENA_MAX, ARENAS)
    except (OSError, AttributeError):
        # another C library, with rules of its own
        return


def freeze_gc() -> None:
    """Exclude loaded modules from garbage collection. Call after the last import."""
    # a full collection in the front took 80 ms for 110,000 objects, and answered nobody meanwhile
    gc.collect()
    gc.freeze()
