"""Processes that die with the one that started them."""

from __future__ import annotations

import ctypes
import signal

__all__ = ["die_with_parent"]

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Have the system send this process a signal when its parent dies: nobody would manage it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)
