"""A process that ends with the one that started it: nobody would watch over it any more."""

from __future__ import annotations

import ctypes
import signal

__all__ = ["end_with_parent"]

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal a process gets when its parent dies."""


def end_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Have the system send this process a signal when its parent dies.

    Parameters
    ----------
    by
        The signal.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)
