"""Memory that a long-lived process gives back."""

from __future__ import annotations

import ctypes
import gc

__all__ = ["give_back_arrays", "leave_imports_alone"]

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""Of glibc's malloc.h."""

ARRAY_BYTES = 128 << 10
ARENAS = 2


def give_back_arrays() -> None:
    """Let large arrays go back to the system when they are freed, not stay for the next ones.

    glibc begins to keep them once some were freed, each thread its own: a service
    that handled some hundred scans in many threads held several times what it used.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, ARRAY_BYTES)
        libc.mallopt(M_ARENA_MAX, ARENAS)
    except (OSError, AttributeError):
        # another C library, which keeps what it likes
        return


def leave_imports_alone() -> None:
    """Keep what was imported out of garbage collections; to be called once all of it is.

    A full one of the front was seen to look at 110,000 objects for 80 ms, in which it
    answers nobody.
    """
    gc.collect()
    gc.freeze()
