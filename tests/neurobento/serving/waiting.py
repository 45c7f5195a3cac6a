"""Run asynchronous tests with a time limit, and wait for facts that must come true in time."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

__all__ = ["counted_calls", "in_event_loop", "wait_for", "wait_for_async"]

PAUSE_S = 0.01
TEST_LIMIT_S = 200.0

Fact = TypeVar("Fact")


def in_event_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of an asynchronous function."""

    async def bounded(*given: Any, **options: Any) -> None:
        async with asyncio.timeout(TEST_LIMIT_S):
            await test(*given, **options)

    @functools.wraps(test)
    def run(*given: Any, **options: Any) -> None:
        asyncio.run(bounded(*given, **options))

    return run


def wait_for(fact: Callable[[], Fact], what: str, limit_s: float = 10.0) -> Fact:
    """Call `fact` until it returns something true, and return that."""
    end = time.monotonic() + limit_s
    while not (value := fact()):
        assert time.monotonic() < end, f"{what}: not within {limit_s} s"
        time.sleep(PAUSE_S)
    return value


async def wait_for_async(fact: Callable[[], Fact], what: str, limit_s: float = 10.0) -> Fact:
    """Do the same while the event loop runs on; `fact` may block, it runs in a thread."""
    end = time.monotonic() + limit_s
    while not (value := await asyncio.to_thread(fact)):
        assert time.monotonic() < end, f"{what}: not within {limit_s} s"
        await asyncio.sleep(PAUSE_S)
    return value


@contextlib.contextmanager
def counted_calls(owner: Any, name: str, raised: Exception | None = None) -> Iterator[Any]:
    """Count the calls of an object's method in a list; with `raised`, let them fail."""
    method, calls = getattr(owner, name), []

    def counted(*given: Any, **options: Any) -> Any:
        calls.append(given)
        if raised is not None:
            raise raised
        return method(*given, **options)

    setattr(owner, name, counted)
    try:
        yield calls
    finally:
        setattr(owner, name, method)
