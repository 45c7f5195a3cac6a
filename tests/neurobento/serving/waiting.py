"""Wait for a fact, and fail if it does not come true in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["wait_for", "wait_for_async"]

PAUSE_S = 0.01

Fact = TypeVar("Fact")


def wait_for(fact: Callable[[], Fact], what: str, limit_s: float = 10.0) -> Fact:
    """Call `fact` until it returns something true, and return that."""
    end = time.monotonic() + limit_s
    while not (value := fact()):
        assert time.monotonic() < end, f"{what}: not within {limit_s} s"
        time.sleep(PAUSE_S)
    return value


async def wait_for_async(fact: Callable[[], Fact], what: str, limit_s: float = 10.0) -> Fact:
    """Do the same while the event loop goes on."""
    end = time.monotonic() + limit_s
    while not (value := fact()):
        assert time.monotonic() < end, f"{what}: not within {limit_s} s"
        await asyncio.sleep(PAUSE_S)
    return value
