"""Processes of a loaded server are killed, one after the other: how soon is it whole again?

    python -m benchmarks.service.faults SCANS... --url http://127.0.0.1:3000 --grpc-url 127.0.0.1:3001 \\
           --server-pid PID --times 10 -o faults.json

Clients ask without a pause, as in `benchmarks.service.soak`. Every kind of process but the
first is killed with SIGKILL `--times` times; then the time is taken until a request
that comes after the kill is answered well and no kind of process is missing. Where
there are several of a kind, they are killed in turn, in the order of their numbers,
at work or not. That is the order they were started in, and the pool starts anew in
every round, as its service is killed too: each place in it comes up equally often.

What callers may see is an answer, a refusal, or 503 or UNAVAILABLE; and a connection
that was cut, if the request was under way as the front service was killed, or began
within a second after.
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
from benchmarks.service.clients import Ask, open_askers
from benchmarks.service.soak import (
    Answer,
    ask_alone,
    ask_until,
    entry_of,
    models_of,
    process_names,
    require_server,
)
from neurobento.command import run
from neurobento.files import file_sha256
from neurobento.preprocessing.mode import PREPROCESSINGS
from neurobento.registry import DEFAULT_MODEL

__all__ = ["answers_entry", "is_allowed", "kinds", "main", "victim"]

MASTER = "master"
FRONT = "neurobento"
WHOLE_AGAIN_S = 15.0
AWAY = {"503", "UNAVAILABLE"}
"""What a server says whose parts are missing; gRPC's clients say it of a cut connection too."""

CUT = {"ReadError", "WriteError", "RemoteProtocolError"}
"""What HTTP's client says of one. None refuses to connect: the first process holds the port."""

AROUND_S = 1.0
"""After the kill, a kept connection may not yet be known to be cut."""

POLL_S = 0.1


def kinds(pid: int) -> dict[str, list[int]]:
    """The processes of a server by kind; those of the pool are one kind."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    for each, name in process_names(pid).items():
        found[name.rsplit(" ", 1)[0] if name.startswith("scan process") else name].append(each)
    return found


def victim(pids: Sequence[int], turn: int) -> int:
    """Which process of a kind is killed at a turn.

    >>> [victim([30, 10, 20], turn) for turn in range(4)]
    [10, 20, 30, 10]
    """
    return sorted(pids)[turn % len(pids)]


def is_allowed(answer: Answer, front_killed_s: Iterable[float]) -> bool:
    """Whether a caller may see this.

    Parameters
    ----------
    answer
        What was seen; a hang and other labels than the single call's never may be.
    front_killed_s
        When the front service was killed, on the clock of `answer.began_s`.
    """
    if answer.outcome != "failed":
        return answer.outcome in ("ok", "refused")
    ended_s = answer.began_s + answer.seconds
    under_way = any(answer.began_s - AROUND_S <= at <= ended_s for at in front_killed_s)
    return answer.status in AWAY or (answer.status in CUT and under_way)


def answers_entry(answers: Sequence[Answer], front_killed_s: Sequence[float]) -> Entry:
    """As `benchmarks.service.soak.entry_of`, with how often callers saw what they may not."""
    entry = entry_of(answers)
    wrong = [a.status for a in answers if not is_allowed(a, front_killed_s)]
    facts = {**entry.facts, "not_allowed": dict(collections.Counter(wrong))}
    return dataclasses.replace(entry, facts=facts)


async def torment(args: argparse.Namespace) -> dict[str, Entry]:
    """Seconds until the server was whole again, by kind of process; and what callers saw."""
    scans = [path.read_bytes() for path in args.scans]
    async with open_askers(args.url, args.grpc_url, args.model, args.preprocessing) as opened:
        askers = list(opened.items())
        expected = [await ask_alone(askers[0][1], scan) for scan in scans]
        over = asyncio.Event()
        clients = [
            asyncio.ensure_future(
                ask_until(askers[i % len(askers)][1], scans, expected, over.is_set, args.timeout, i)
            )
            for i in range(args.clients)
        ]
        recovered, front_killed_s = await _kill_all(args, askers[0][1], scans[0], expected[0])
        over.set()
        found = await asyncio.gather(*clients)
    answers: dict[str, list[Answer]] = collections.defaultdict(list)
    for i, each in enumerate(found):
        answers[askers[i % len(askers)][0]] += each
    return {
        **{f"kill {kind}": Entry({}, {"whole_again_s": s}) for kind, s in recovered.items()},
        **{protocol: answers_entry(each, front_killed_s) for protocol, each in answers.items()},
    }


async def _kill_all(
    args: argparse.Namespace, ask: Ask, scan: bytes, labels: bytes
) -> tuple[dict[str, list[float]], list[float]]:
    """Seconds until the server was whole again, by kind; and when the front was killed."""
    chance = random.Random(0)
    whole = kinds(args.server_pid)
    recovered: dict[str, list[float]] = {kind: [] for kind in whole if kind != MASTER}
    front_killed_s = []

    async def right() -> bool:
        outcome, _, found = await ask(scan)
        return outcome == "ok" and found == labels

    for turn in range(args.times):
        for kind in recovered:
            await asyncio.sleep(args.pause * (0.5 + chance.random()))
            pids = kinds(args.server_pid).get(kind)
            if not pids:
                # it never came back: there is nothing to kill
                recovered[kind].append(float("inf"))
                continue
            killed = victim(pids, turn)
            start = time.monotonic()
            os.kill(killed, signal.SIGKILL)
            if kind == FRONT:
                front_killed_s.append(start)
            recovered[kind].append(await _whole_again(args, right, whole, killed, start))
            print(f"{kind}: whole again after {recovered[kind][-1]:.1f} s", flush=True)
    return recovered, front_killed_s


async def _whole_again(
    args: argparse.Namespace,
    right: Callable[[], Awaitable[bool]],
    whole: dict[str, list[int]],
    killed: int,
    start: float,
) -> float:
    while time.monotonic() - start < args.timeout:
        await asyncio.sleep(POLL_S)
        now = kinds(args.server_pid)
        missing = [kind for kind, pids in whole.items() if len(now.get(kind, ())) < len(pids)]
        if missing or any(killed in pids for pids in now.values()):
            continue
        with contextlib.suppress(TimeoutError):
            if await asyncio.wait_for(right(), args.timeout):
                return round(time.monotonic() - start, 2)
    return float("inf")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 if a caller saw what it may not or the server stayed broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.faults")
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--url", required=True)
    parser.add_argument("--grpc-url", help="HOST:PORT")
    parser.add_argument("--server-pid", type=int, required=True, help="of the first process")
    parser.add_argument("--times", type=int, default=10, help="that each kind is killed")
    parser.add_argument("--pause", type=float, default=3, help="before a kill, on average, s")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--timeout", type=float, default=60, help="what a client waits, s")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--preprocessing", choices=PREPROCESSINGS, default="none")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    stated = ("times", "pause", "clients", "timeout", "model", "preprocessing")
    scenario: dict[str, Any] = {key: getattr(args, key) for key in stated}
    scenario["scans_sha256"] = [file_sha256(path) for path in args.scans]
    require_server(args.server_pid)
    begun = begin_run("faults", scenario, models_of(args.url))
    begun.require_writable(args.output)
    done = dataclasses.replace(begun, entries=asyncio.run(torment(args)))
    done.write(args.output)
    for name, entry in done.entries.items():
        print(f"{name}: {dict(entry.facts)} {[max(s) for s in entry.samples.values()]}", flush=True)
    return int(not all(_is_well(entry) for entry in done.entries.values()))


def _is_well(entry: Entry) -> bool:
    """Whole again in time; nobody waited in vain, got other labels or an error of another kind."""
    slow = any(seconds > WHOLE_AGAIN_S for seconds in entry.samples.get("whole_again_s", ()))
    return not slow and not entry.facts.get("not_allowed")


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.faults"))
