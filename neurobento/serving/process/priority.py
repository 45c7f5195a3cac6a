"""Scheduling priorities: the API service goes first when all cores are busy."""

from __future__ import annotations

import os

__all__ = ["lower_priority"]

NICENESS = 5


def lower_priority() -> None:
    """Give the front priority over this process, so that it refuses requests at once."""
    # works for threads that start later: they inherit the niceness of their creator
    os.nice(max(0, NICENESS - os.nice(0)))
