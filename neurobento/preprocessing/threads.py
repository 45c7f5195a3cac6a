"""Limit the threads of preprocessing."""

from __future__ import annotations

import os

__all__ = ["limit_threads"]


def limit_threads(threads: int) -> None:
    """Limit the threads of ANTs and PyTorch; call it before importing either."""
    # Both read these variables once. Equal counts give results that are equal to the bit.
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
