"""Open-loop load: requests leave when they are due, whatever became of those before.

Latency counts from the moment a request was due, not from when it could be sent:
a server that stalls is charged for everyone it kept waiting (no coordinated
omission).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

__all__ = ["ARRIVALS", "Answer", "Arrivals", "Outcome", "Send", "drive", "schedule"]

Arrivals = Literal["poisson", "constant"]
ARRIVALS: tuple[Arrivals, ...] = get_args(Arrivals)

Outcome = Literal["ok", "refused", "failed", "timeout"]
"""`refused`: the server shed load (429, RESOURCE_EXHAUSTED). `failed`: any other answer, or none.
`timeout`: no answer in the time a client waits."""

Send = Callable[[], Awaitable[tuple[Outcome, str]]]
"""Sends one request; its outcome and the server's own word for it, such as "200"."""


@dataclass(frozen=True)
class Answer:
    """What became of one request.

    Attributes
    ----------
    due_s
        When it was due, in seconds after the beginning.
    seconds
        From then to its answer.
    outcome, status
        What came of it, and the server's word for it.
    """

    due_s: float
    seconds: float
    outcome: Outcome
    status: str


def schedule(rate_per_s: float, seconds: float, arrivals: Arrivals, seed: int) -> list[float]:
    """When requests are due, in seconds after the beginning, ascending, below `seconds`.

    >>> schedule(2.0, 2.0, "constant", 0)
    [0.0, 0.5, 1.0, 1.5]
    """
    if arrivals == "constant":
        return [float(i / rate_per_s) for i in range(int(np.ceil(rate_per_s * seconds)))]
    random, due, now = np.random.default_rng(seed), [], 0.0
    while (now := now + float(random.exponential(1 / rate_per_s))) < seconds:
        due.append(now)
    return due


async def drive(
    due_s: Sequence[float], send: Send, *, clients_limit: int, timeout_s: float
) -> list[Answer]:
    """Send each request when it is due, and wait for all answers; in the order of `due_s`.

    Parameters
    ----------
    due_s
        Of `schedule`.
    send
        What sends one.
    clients_limit
        Most requests under way at once; one that waits for its turn is late from
        when it was due.
    timeout_s
        What a client waits from when its request was due; the whole takes at most
        the last of `due_s` and this.
    """
    start = time.perf_counter()
    turns = asyncio.Semaphore(clients_limit)

    async def one(due: float) -> Answer:
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        left_s = start + due + timeout_s - time.perf_counter()
        try:
            async with asyncio.timeout(max(0.0, left_s)), turns:
                outcome, status = await send()
        except TimeoutError:
            outcome, status = "timeout", "timeout"
        return Answer(due, time.perf_counter() - start - due, outcome, status)

    return list(await asyncio.gather(*(one(due) for due in due_s)))
