"""Kill the processes of a loaded server, one by one, and measure how soon it recovers.

    python -m benchmarks.service.faults SCANS... --url http://127.0.0.1:3000 \\
           --grpc-url 127.0.0.1:3001 --server-pid PID --times 10 -o faults.json

Every kind of process but the first is killed `--times` times under load; the server has recovered
when a later request is answered well and no kind of process is missing. Callers may see 503 or
UNAVAILABLE; a cut connection only if the HTTP service was killed at that moment.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.runs import Entry, begin_run
from benchmarks.service.closed_loop import (
    ClosedLoopRequest,
    outcomes_entry,
    reference_labels,
    run_clients,
)
from benchmarks.service.pages import served_models
from benchmarks.service.protocols import add_service_options, open_senders
from benchmarks.service.server_processes import MASTER, process_names, require_server
from neurobento.command import run
from neurobento.files import file_sha256

__all__ = ["fault_entry", "is_allowed", "main", "pid_to_kill", "pids_by_kind"]

HTTP_SERVICE = "neurobento"
RECOVERED_WITHIN_S = 15.0
UNAVAILABLE = {"503", "UNAVAILABLE"}
"""Statuses of a server with a process missing; gRPC clients report a cut connection so too."""

CUT = {"ReadError", "WriteError", "RemoteProtocolError"}
"""Errors of the HTTP client after a cut. None refuses to connect: the master holds the port."""

AROUND_S = 1.0
"""For this long after the kill, a kept connection may not yet be known to be cut."""

POLL_S = 0.1


def pids_by_kind(pid: int) -> dict[str, list[int]]:
    """Return a server's processes by kind; those of the pool are one kind."""
    pids: dict[str, list[int]] = collections.defaultdict(list)
    for each, name in process_names(pid).items():
        pids[name.rsplit(" ", 1)[0] if name.startswith("scan process") else name].append(each)
    return pids


def pid_to_kill(pids: Sequence[int], round_number: int) -> int:
    """Return which process of a kind to kill in a round.

    >>> [pid_to_kill([30, 10, 20], number) for number in range(4)]
    [10, 20, 30, 10]
    """
    return sorted(pids)[round_number % len(pids)]


def is_allowed(request: ClosedLoopRequest, killed_s: Iterable[float]) -> bool:
    """Return whether a caller may see this, if the HTTP service was killed at `killed_s`."""
    if request.outcome != "failed":
        return request.outcome in ("ok", "refused")
    ended_s = request.began_s + request.seconds
    in_flight = any(request.began_s - AROUND_S <= at <= ended_s for at in killed_s)
    return request.status in UNAVAILABLE or (request.status in CUT and in_flight)


def fault_entry(requests: Sequence[ClosedLoopRequest], killed_s: Sequence[float]) -> Entry:
    """Return the outcomes, and how often callers saw something that is not allowed."""
    entry = outcomes_entry(requests)
    wrong = [request.status for request in requests if not is_allowed(request, killed_s)]
    facts = {**entry.facts, "not_allowed": dict(collections.Counter(wrong))}
    return dataclasses.replace(entry, facts=facts)


async def kill_under_load(args: argparse.Namespace) -> dict[str, Entry]:
    """Return seconds until the server recovered, by kind of process; and the outcomes."""
    scans = [path.read_bytes() for path in args.scans]
    async with open_senders(args.url, args.grpc_url, args.model, args.preprocessing) as senders:
        first_sender = next(iter(senders.values()))
        expected = await reference_labels(first_sender, scans)

        async def is_right() -> bool:
            outcome, _, labels = await first_sender(scans[0])
            return outcome == "ok" and labels == expected[0]

        over = asyncio.Event()
        clients = asyncio.ensure_future(
            run_clients(senders, args.clients, scans, expected, over.is_set, args.timeout)
        )
        recovered_s, killed_s = await _kill_all(args, is_right)
        over.set()
        requests = await clients
    return {
        **{f"kill {kind}": Entry({}, {"whole_again_s": s}) for kind, s in recovered_s.items()},
        **{protocol: fault_entry(own, killed_s) for protocol, own in requests.items()},
    }


async def _kill_all(
    args: argparse.Namespace, is_right: Callable[[], Awaitable[bool]]
) -> tuple[dict[str, list[float]], list[float]]:
    """Return seconds until recovery, by kind; and the times the HTTP service was killed."""
    chance = random.Random(0)
    complete = pids_by_kind(args.server_pid)
    recovered_s: dict[str, list[float]] = {kind: [] for kind in complete if kind != MASTER}
    killed_s = []
    for round_number in range(args.times):
        for kind, seconds in recovered_s.items():
            await asyncio.sleep(args.pause * (0.5 + chance.random()))
            pids = pids_by_kind(args.server_pid).get(kind)
            if not pids:
                # It never came back, so there is nothing to kill.
                seconds.append(float("inf"))
                continue
            killed = pid_to_kill(pids, round_number)
            start = time.monotonic()
            os.kill(killed, signal.SIGKILL)
            if kind == HTTP_SERVICE:
                killed_s.append(start)
            seconds.append(await _recovery_s(args, is_right, complete, killed, start))
            print(f"{kind}: recovered after {seconds[-1]:.1f} s", flush=True)
    return recovered_s, killed_s


async def _recovery_s(
    args: argparse.Namespace,
    is_right: Callable[[], Awaitable[bool]],
    complete: dict[str, list[int]],
    killed: int,
    start: float,
) -> float:
    while time.monotonic() - start < args.timeout:
        await asyncio.sleep(POLL_S)
        now = pids_by_kind(args.server_pid)
        missing = [kind for kind, pids in complete.items() if len(now.get(kind, ())) < len(pids)]
        if missing or any(killed in pids for pids in now.values()):
            continue
        with contextlib.suppress(TimeoutError):
            if await asyncio.wait_for(is_right(), args.timeout):
                return round(time.monotonic() - start, 2)
    return float("inf")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit with 1 if the server stayed broken or a caller saw another error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.faults")
    parser.add_argument("scans", type=Path, nargs="+")
    add_service_options(parser)
    parser.add_argument("--server-pid", type=int, required=True, help="of the first process")
    parser.add_argument("--times", type=int, default=10, help="how often each kind is killed")
    parser.add_argument("--pause", type=float, default=3, help="before a kill, on average, s")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--timeout", type=float, default=60, help="how long a client waits, s")
    args = parser.parse_args(argv)
    stated = ("times", "pause", "clients", "timeout", "model", "preprocessing")
    scenario: dict[str, Any] = {key: getattr(args, key) for key in stated}
    scenario["scans_sha256"] = [file_sha256(path) for path in args.scans]
    require_server(args.server_pid)
    begun = begin_run("faults", scenario, served_models(args.url), args.output)
    done = dataclasses.replace(begun, entries=asyncio.run(kill_under_load(args)))
    done.write(args.output)
    for name, entry in done.entries.items():
        print(f"{name}: {dict(entry.facts)} {[max(s) for s in entry.samples.values()]}", flush=True)
    return int(not all(_passes(entry) for entry in done.entries.values()))


def _passes(entry: Entry) -> bool:
    slow = any(s > RECOVERED_WITHIN_S for s in entry.samples.get("whole_again_s", ()))
    return not slow and not entry.facts.get("not_allowed")


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.faults"))
