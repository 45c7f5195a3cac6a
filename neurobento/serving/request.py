"""One request and its limits, whether it came by HTTP, by gRPC or as a job."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from neurobento.errors import ClientGone, DeadlineExceeded

__all__ = ["Protocol", "RequestContext", "RequestLimits", "choose_request_id"]

Protocol = Literal["http", "grpc", "job"]

Value = TypeVar("Value")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""A client's request id is kept if it matches."""

CLEANUP_LIMIT_S = 10.0
"""Cancelled work may clean up for this long before its caller is answered."""


@dataclass(frozen=True)
class RequestLimits:
    """The largest body and the longest times a request may have."""

    # longer bodies are refused with 413, unread where the client states their length
    body_bytes: int
    # from the first byte of the request to its answer; a client may ask for less
    request_s: float
    # from the first to the last byte of the body
    upload_s: float


def choose_request_id(given: str) -> str:
    """Return the client's request id if it is a valid one, else a new one."""
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class RequestContext:
    """Identity, deadline (in `limit_s` seconds from now) and cancellation of one request."""

    def __init__(self, request_id: str, protocol: Protocol, limit_s: float) -> None:
        self.id, self.protocol = request_id, protocol
        # two clients may choose the same request id, so our processes use another name
        self.ticket = uuid.uuid4().hex
        self.started = time.monotonic()
        self.deadline = self.started + limit_s
        # for the metrics, once they are known
        self.model = self.preprocessing = "none asked for"
        self._abandoned = asyncio.Event()

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; 0 after it."""
        return max(0.0, self.deadline - time.monotonic())

    def abandon(self) -> None:
        """Record that nobody waits for the answer any more."""
        self._abandoned.set()

    async def wait_abandoned(self) -> None:
        """Wait until nobody waits for the answer any more."""
        await self._abandoned.wait()

    async def run(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Return the work's result, or cancel it at the deadline or when the client leaves.

        DeadlineExceeded and ClientGone are raised once the cancelled work has cleaned up.
        """
        task = asyncio.ensure_future(work)
        abandonment = asyncio.ensure_future(self.wait_abandoned())
        try:
            await asyncio.wait(
                {task, abandonment}, timeout=self.seconds_left, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            if abandonment.done():
                raise ClientGone(
                    expected="a client that waits for its answer",
                    found="a client that left",
                    remedy="Nothing was kept.",
                )
            raise DeadlineExceeded(
                expected=f"an answer within {self.deadline - self.started:.3g} s",
                found="work still going on",
                remedy="Allow more time, or try again when the service is less busy.",
            )
        finally:
            abandonment.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=CLEANUP_LIMIT_S)
                if task.done() and not task.cancelled():
                    # asyncio logs exceptions that nobody retrieves, and their text may hold a path
                    task.exception()
