"""Closed-loop clients: each sends its next request when the last one is answered."""

from __future__ import annotations

import asyncio
import collections
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.runs import Entry
from benchmarks.service.protocols import Outcome, SendScan
from neurobento.errors import ConfigError

__all__ = ["ClosedLoopRequest", "outcomes_entry", "reference_labels", "run_clients"]

PAUSE_S = 0.5
"""Mean pause of a client whose request was not answered well."""


class ClosedLoopRequest(NamedTuple):
    """The fate of one request."""

    outcome: Outcome
    # the server's status; "none" after a timeout, "other labels" if they are wrong
    status: str
    seconds: float
    # on the monotonic clock
    began_s: float


async def reference_labels(send_scan: SendScan, scans: Sequence[bytes]) -> list[bytes]:
    """Return the labels of each scan, sent alone; raise ConfigError if one is not answered well."""
    references = []
    for scan in scans:
        outcome, status, labels = await send_scan(scan)
        if outcome != "ok":
            raise ConfigError(
                subject="the scans",
                expected="scans that the service answers well when sent alone",
                found=status,
                remedy="Give other scans, or another --preprocessing.",
            )
        references.append(labels)
    return references


async def run_clients(
    senders: dict[str, SendScan],
    clients: int,
    scans: Sequence[bytes],
    expected: Sequence[bytes],
    is_over: Callable[[], bool],
    timeout_s: float,
) -> dict[str, list[ClosedLoopRequest]]:
    """Run clients, alternating between the protocols, until `is_over`; requests by protocol."""
    names = [list(senders)[i % len(senders)] for i in range(clients)]
    by_client = await asyncio.gather(
        *(
            send_until(senders[name], scans, expected, is_over, timeout_s, seed)
            for seed, name in enumerate(names)
        )
    )
    requests: dict[str, list[ClosedLoopRequest]] = {protocol: [] for protocol in senders}
    for name, own in zip(names, by_client, strict=True):
        requests[name] += own
    return requests


async def send_until(
    send_scan: SendScan,
    scans: Sequence[bytes],
    expected: Sequence[bytes] | None,
    is_over: Callable[[], bool],
    timeout_s: float,
    seed: int,
) -> list[ClosedLoopRequest]:
    """Send one scan after another, chosen at random, until `is_over`.

    Labels that differ from `expected` are a failure; None accepts any.
    """
    chance = random.Random(seed)
    requests: list[ClosedLoopRequest] = []
    while not is_over():
        i = chance.randrange(len(scans))
        start = time.monotonic()
        try:
            outcome, status, labels = await asyncio.wait_for(send_scan(scans[i]), timeout_s)
        except TimeoutError:
            outcome, status, labels = "timeout", "none", b""
        if outcome == "ok" and expected is not None and labels != expected[i]:
            status, outcome = "other labels", "failed"
        requests.append(ClosedLoopRequest(outcome, status, time.monotonic() - start, start))
        if outcome != "ok":
            await asyncio.sleep(PAUSE_S * (0.5 + chance.random()))
    return requests


def outcomes_entry(requests: Sequence[ClosedLoopRequest]) -> Entry:
    """Return how many requests had each outcome, and how long each took."""
    facts = {
        "outcomes": dict(collections.Counter(request.outcome for request in requests)),
        "statuses": dict(collections.Counter(request.status for request in requests)),
    }
    samples: dict[str, list[float]] = {}
    for request in requests:
        samples.setdefault(f"{request.outcome}_s", []).append(round(request.seconds, 4))
    return Entry(facts, samples)
