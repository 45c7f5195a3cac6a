"""Settings of a process that another one has started."""

from __future__ import annotations

import ctypes
import os
import signal

__all__ = ["NICENESS", "die_with_parent", "lower_priority"]

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""

NICENESS = 5


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Have the system send this process a signal when its parent dies: nobody would manage it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)


def lower_priority() -> None:
    """Give the front priority over this process, so that it refuses requests at once."""
    # works for threads that start later: they inherit the niceness of their creator
    os.nice(max(0, NICENESS - os.nice(0)))
