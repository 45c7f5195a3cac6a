"""Limit the threads of preprocessing."""

from __future__ import annotations

import os

__all__ = ["limit_threads", "thread_limit"]

_limit = 0


def limit_threads(threads: int) -> None:
    """Limit the threads of preprocessing; call it before importing PyTorch or ANTs."""
    global _limit
    _limit = threads
    # Both read these variables once. Equal counts give results that are equal to the bit.
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)


def thread_limit() -> int:
    """Return the limit, or 0 if there is none and each library chooses."""
    return _limit
