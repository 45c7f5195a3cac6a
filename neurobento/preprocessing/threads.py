"""How many threads preprocessing uses."""

from __future__ import annotations

import os

__all__ = ["limit_threads"]


def limit_threads(threads: int) -> None:
    """Bound the threads of ANTs and PyTorch in this process.

    Call it before either is imported: they read these variables once. A count
    that is the same gives results that are the same to the bit.
    """
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
