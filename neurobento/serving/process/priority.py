"""Which processes give way to which when all cores are busy."""

from __future__ import annotations

import os

__all__ = ["work_behind_the_front"]

NICENESS = 5


def work_behind_the_front() -> None:
    """Let this process's long work give way: who is refused hears so at once, however busy it is.

    Call it before there are other threads: each has a niceness of its own, its
    starter's at first.
    """
    os.nice(max(0, NICENESS - os.nice(0)))
