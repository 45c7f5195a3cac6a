"""Open-loop load: each request is sent when it is due, whether or not earlier ones are answered.

Latency counts from the moment a request was due (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from benchmarks.service.protocols import Outcome

__all__ = ["ARRIVALS", "Arrivals", "ScheduledRequest", "Send", "arrival_times", "send_on_schedule"]

Arrivals = Literal["poisson", "constant"]
ARRIVALS: tuple[Arrivals, ...] = get_args(Arrivals)

Send = Callable[[], Awaitable[tuple[Outcome, str]]]
"""Send one request; return its outcome and the server's status, such as "200"."""


@dataclass(frozen=True)
class ScheduledRequest:
    """The outcome of one request."""

    # in seconds after the beginning
    due_s: float
    # from when it was due to its answer
    seconds: float
    outcome: Outcome
    status: str


def arrival_times(rate_per_s: float, seconds: float, arrivals: Arrivals, seed: int) -> list[float]:
    """Return when requests are due, in seconds after the beginning, ascending, below `seconds`.

    >>> arrival_times(2.0, 2.0, "constant", 0)
    [0.0, 0.5, 1.0, 1.5]
    """
    if arrivals == "constant":
        return [float(i / rate_per_s) for i in range(int(np.ceil(rate_per_s * seconds)))]
    random, due_s, now = np.random.default_rng(seed), [], 0.0
    while (now := now + float(random.exponential(1 / rate_per_s))) < seconds:
        due_s.append(now)
    return due_s


async def send_on_schedule(
    due_s: Sequence[float], send: Send, *, clients_limit: int, timeout_s: float
) -> list[ScheduledRequest]:
    """Send each request when it is due, at most `clients_limit` at once; time counts from then."""
    start = time.perf_counter()
    free_clients = asyncio.Semaphore(clients_limit)

    async def send_at(due: float) -> ScheduledRequest:
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        remaining_s = start + due + timeout_s - time.perf_counter()
        try:
            async with asyncio.timeout(max(0.0, remaining_s)), free_clients:
                outcome, status = await send()
        except TimeoutError:
            outcome, status = "timeout", "timeout"
        return ScheduledRequest(due, time.perf_counter() - start - due, outcome, status)

    return list(await asyncio.gather(*(send_at(due) for due in due_s)))
