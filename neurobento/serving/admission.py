"""Admission control: slots, queues and refusals, shared by HTTP and gRPC and knowing neither."""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import time
from collections.abc import Hashable, Iterator
from typing import Literal

from neurobento.errors import DeadlineExceeded, ServiceBusy, ServiceUnavailable
from neurobento.preprocessing.mode import Preprocessing
from neurobento.serving.process.run_folder import RunFolder
from neurobento.serving.request import RequestContext
from neurobento.serving.telemetry import metrics

__all__ = ["Admission", "Kind", "QueueName", "queue_for"]

QueueName = Literal["quick", "slow"]
Kind = Preprocessing | Literal["slice"]
"""The result of reading a file: a scan on the network grid, by its preprocessing, or a slice."""

NEWEST_WEIGHT = 0.3
"""Weight of the newest request in the running mean of durations that predicts the wait."""


def queue_for(kind: Kind) -> QueueName:
    """Pick the queue: "quick" for slices and images already on the grid, else "slow"."""
    return "quick" if kind in ("none", "slice") else "slow"


class _Queue:
    """Requests that wait for each other, with their expected seconds, and the latest end times."""

    def __init__(self, parallel: int) -> None:
        self.expected_s: dict[RequestContext, float] = {}
        self.ends: collections.deque[float] = collections.deque(maxlen=parallel)

    def work_started(self, entered: float) -> float:
        """Return when work began on a request that entered at a time: once a process was free."""
        was_busy = len(self.ends) == self.ends.maxlen
        return max(entered, self.ends[0]) if was_busy else entered


class Admission:
    """Gives slots to requests, and refuses those that would wait too long.

    `parallel` is how many requests of one queue are worked on at the same time.
    """

    def __init__(self, slots: int, parallel: int, longest_wait_s: float) -> None:
        self._slots, self._parallel = slots, parallel
        self._longest_wait_s = longest_wait_s
        self._active = 0
        self._queues: dict[QueueName, _Queue] = {}
        self._mean_s: dict[Hashable, float] = {}

    @functools.cached_property
    def _run(self) -> RunFolder:
        # looked up late: the server's first process makes the folder after this object exists
        return RunFolder.current()

    def open(self) -> None:
        """Begin with no request in progress."""
        metrics.ACTIVE_REQUESTS.set(0)
        self._run.write_active_requests(0)

    @property
    def draining(self) -> bool:
        """True while new requests are refused because the service is about to stop."""
        return self._run.draining

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot while the context lasts; enter it before the request's body is read.

        Raises ServiceUnavailable while the service drains, ServiceBusy if all slots are taken.
        """
        if self.draining:
            metrics.REFUSED_REQUESTS.labels("draining").inc()
            raise ServiceUnavailable(
                expected="a service that takes requests",
                found="a service that is about to stop",
                remedy="Try again in a few seconds.",
                retry_after_s=5.0,
            )
        if self._active >= self._slots:
            metrics.REFUSED_REQUESTS.labels("no place").inc()
            raise _busy(f"{self._active} requests already in progress", self._next_slot_s())
        try:
            self._count(+1)
            yield
        finally:
            self._count(-1)

    def can_start_now(self, queue: QueueName = "slow") -> bool:
        """Return whether work on a request that came now would start at once."""
        found = self._queues.get(queue)
        return found is None or len(found.expected_s) < self._parallel

    @property
    def slots(self) -> int:
        """Number of requests that may be in progress at the same time."""
        return self._slots

    @contextlib.contextmanager
    def join_queue(
        self, request: RequestContext, kind: Hashable, queue: QueueName = "slow"
    ) -> Iterator[None]:
        """Count a request that holds a slot as queued or worked on while the context lasts.

        Requests of one `kind` take about the same time. Raises ServiceBusy if the wait would be too
        long.
        """
        found = self._queues.setdefault(queue, _Queue(self._parallel))
        wait_s = self._wait_s(found)
        if wait_s > min(request.seconds_left, self._longest_wait_s):
            metrics.REFUSED_REQUESTS.labels("too late").inc()
            raise _busy(f"{wait_s:.0f} s of work ahead of it", self._next_slot_s())
        found.expected_s[request] = self._mean_s.get(kind, 0.0)
        entered = time.monotonic()
        try:
            yield
            self._learn(kind, time.monotonic() - found.work_started(entered))
        except DeadlineExceeded:
            # the work would have taken at least this long
            took_s = time.monotonic() - found.work_started(entered)
            self._learn(kind, max(took_s, self._mean_s.get(kind, 0.0)))
            raise
        finally:
            del found.expected_s[request]
            found.ends.append(time.monotonic())

    def _learn(self, kind: Hashable, seconds: float) -> None:
        before = self._mean_s.get(kind, seconds)
        self._mean_s[kind] = before + NEWEST_WEIGHT * (seconds - before)

    def _wait_s(self, queue: _Queue) -> float:
        """Estimate the seconds until work on a request that came now would start."""
        if len(queue.expected_s) < self._parallel:
            return 0.0
        return sum(queue.expected_s.values()) / self._parallel

    def _next_slot_s(self) -> float:
        waits_s = [
            self._wait_s(queue) / len(queue.expected_s)
            for queue in self._queues.values()
            if queue.expected_s
        ]
        return max(1.0, math.ceil(min(waits_s, default=1.0)))

    def _count(self, change: int) -> None:
        self._active += change
        metrics.ACTIVE_REQUESTS.set(self._active)
        self._run.write_active_requests(self._active)


def _busy(found: str, retry_after_s: float) -> ServiceBusy:
    return ServiceBusy(
        expected="a request that can be started in time",
        found=found,
        remedy=f"Try again in {retry_after_s:.0f} s.",
        retry_after_s=retry_after_s,
    )
