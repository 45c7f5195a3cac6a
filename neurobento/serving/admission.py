"""Requests under way: how many there may be, how long each may take, what ends one early.

It knows nothing of HTTP or gRPC: both come through here, so that they share
the places, the queue and the deadlines.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import math
import time
import uuid
from collections.abc import Coroutine, Hashable, Iterator
from typing import Any, Literal, TypeVar

from neurobento.errors import ClientGone, DeadlineExceeded, ServiceBusy, ServiceUnavailable
from neurobento.preprocessing.mode import Preprocessing
from neurobento.serving.process.run_folder import RunFolder
from neurobento.serving.telemetry import metrics

__all__ = ["Admission", "Call", "Kind", "Lane", "Protocol", "lane_of"]

Protocol = Literal["http", "grpc", "job"]
Lane = Literal["quick", "slow"]
Kind = Preprocessing | Literal["slice"]
"""What is made of a file: a scan on the network grid, at a preprocessing, or a fitted slice."""

Result = TypeVar("Result")

TIDY_LIMIT_S = 10.0
"""How long work that was ended may take to tidy up before its caller is answered."""

MEMORY = 0.3
"""Weight of the newest request in the mean that the wait is foretold from."""


class Call:
    """One request, from its first byte to its answer.

    Parameters
    ----------
    request_id
        The client's own, or one of ours.
    protocol
        How it came.
    limit_s
        Seconds from now until its deadline.

    Attributes
    ----------
    ticket
        Names it between our own processes; two clients may choose the same request id.
    model, level
        What it asks for, once that is known; for the metrics. The level is a `Kind`.
    """

    def __init__(self, request_id: str, protocol: Protocol, limit_s: float) -> None:
        self.id, self.protocol = request_id, protocol
        self.ticket = uuid.uuid4().hex
        self.begun = time.monotonic()
        self.deadline = self.begun + limit_s
        self.model = self.preprocessing = "none asked for"
        self._gone = asyncio.Event()

    @property
    def seconds_left(self) -> float:
        """Until the deadline; 0 after it."""
        return max(0.0, self.deadline - time.monotonic())

    def leave(self) -> None:
        """Say that nobody waits for the answer any more."""
        self._gone.set()

    async def left(self) -> None:
        """Return once nobody waits any more."""
        await self._gone.wait()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of some work; at the deadline, or when the client leaves, it is ended.

        Raises
        ------
        DeadlineExceeded, ClientGone
            The work was cancelled, and has tidied up.
        """
        task = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self.left())
        try:
            await asyncio.wait(
                {task, leaving}, timeout=self.seconds_left, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            if leaving.done():
                raise ClientGone(
                    expected="a client that waits for its answer",
                    found="that it left",
                    remedy="Nothing was kept.",
                )
            raise DeadlineExceeded(
                expected=f"an answer within {self.deadline - self.begun:.3g} s",
                found="work still going on",
                remedy="Allow more time, or ask when the service is less busy.",
            )
        finally:
            leaving.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=TIDY_LIMIT_S)
                if task.done() and not task.cancelled():
                    # an error that nobody looks at is written out by asyncio, words and all
                    task.exception()


def lane_of(kind: Kind) -> Lane:
    """Where files wait: slices, and scans on the network grid already, wait for no others."""
    return "quick" if kind in ("none", "slice") else "slow"


class _Line:
    """Calls that wait for each other: how long each is likely to take, and when the last ended."""

    def __init__(self, side_by_side: int) -> None:
        self.ahead: dict[Call, float] = {}
        self.ends: collections.deque[float] = collections.deque(maxlen=side_by_side)

    def worked_on_since(self, start: float) -> float:
        """When the work on a call began that came at a time: once there was a process for it."""
        busy = len(self.ends) == self.ends.maxlen
        return max(start, self.ends[0]) if busy else start


class Admission:
    """The door: takes in as many calls as there are places, and says how busy it is inside.

    Parameters
    ----------
    places
        Calls inside at the same time, waiting or worked on.
    side_by_side
        Calls that are worked on at the same time.
    longest_wait_s
        A call that would wait longer for its turn is refused.
    """

    def __init__(self, places: int, side_by_side: int, longest_wait_s: float) -> None:
        self._places, self._side_by_side = places, side_by_side
        self._longest_wait_s = longest_wait_s
        self._inside = 0
        self._lines: dict[Lane, _Line] = {}
        self._means: dict[Hashable, float] = {}

    @functools.cached_property
    def _run(self) -> RunFolder:
        # looked for when first needed: the first process makes it after this is made
        return RunFolder.current()

    def open(self) -> None:
        """Begin, with nobody inside."""
        metrics.INSIDE.set(0)
        self._run.say_inside(0)

    @property
    def draining(self) -> bool:
        """Whether new calls are sent away because the service is about to stop."""
        return self._run.draining

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place inside, for as long as the context lasts; nothing of the request is read yet.

        Raises
        ------
        ServiceUnavailable
            The service is draining.
        ServiceBusy
            All places are taken.
        """
        if self.draining:
            metrics.REFUSED.labels("draining").inc()
            raise ServiceUnavailable(
                expected="a service that takes requests",
                found="that it is about to stop",
                remedy="Try again in a few seconds.",
                retry_after_s=5.0,
            )
        if self._inside >= self._places:
            metrics.REFUSED.labels("no place").inc()
            raise self._busy(f"{self._inside} requests inside already", self._next_place_s())
        try:
            self._count(+1)
            yield
        finally:
            self._count(-1)

    def has_nobody_waiting(self, lane: Lane = "slow") -> bool:
        """Whether whoever came now would be worked on at once."""
        line = self._lines.get(lane)
        return line is None or len(line.ahead) < self._side_by_side

    @property
    def places(self) -> int:
        """Calls inside at the same time."""
        return self._places

    @contextlib.contextmanager
    def turn(self, call: Call, kind: Hashable, lane: Lane = "slow") -> Iterator[None]:
        """A turn to be worked on, for a call that has a place.

        Parameters
        ----------
        call
            Whose turn.
        kind
            Foretells how long it takes.
        lane
            Calls of one lane wait for each other, and for no others.

        Raises
        ------
        ServiceBusy
            The work ahead would outlast what the call, or the service, is ready to wait.
        """
        line = self._lines.setdefault(lane, _Line(self._side_by_side))
        wait_s = self._wait_s(line)
        if wait_s > min(call.seconds_left, self._longest_wait_s):
            metrics.REFUSED.labels("too late").inc()
            raise self._busy(f"{wait_s:.0f} s of work ahead of it", self._next_place_s())
        line.ahead[call] = self._means.get(kind, 0.0)
        start = time.monotonic()
        try:
            yield
            self._learn(kind, time.monotonic() - line.worked_on_since(start))
        except DeadlineExceeded:
            # it takes this long at least
            took = time.monotonic() - line.worked_on_since(start)
            self._learn(kind, max(took, self._means.get(kind, 0.0)))
            raise
        finally:
            del line.ahead[call]
            line.ends.append(time.monotonic())

    def _learn(self, kind: Hashable, own: float) -> None:
        before = self._means.get(kind, own)
        self._means[kind] = before + MEMORY * (own - before)

    def _wait_s(self, line: _Line) -> float:
        """Seconds until a call that came now would be worked on, as far as is known."""
        if len(line.ahead) < self._side_by_side:
            return 0.0
        return sum(line.ahead.values()) / self._side_by_side

    def _next_place_s(self) -> float:
        soonest = [
            self._wait_s(line) / len(line.ahead) for line in self._lines.values() if line.ahead
        ]
        return max(1.0, math.ceil(min(soonest, default=1.0)))

    def _busy(self, found: str, retry_after_s: float) -> ServiceBusy:
        return ServiceBusy(
            expected="a request that can be begun in time",
            found=found,
            remedy=f"Try again in {retry_after_s:.0f} s.",
            retry_after_s=retry_after_s,
        )

    def _count(self, change: int) -> None:
        self._inside += change
        metrics.INSIDE.set(self._inside)
        self._run.say_inside(self._inside)
