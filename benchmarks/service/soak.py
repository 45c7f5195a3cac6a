"""Run many clients for a long time, and check answers, memory and temporary files.

    python -m benchmarks.service.soak SCANS... --url http://127.0.0.1:3000 \\
           --grpc-url 127.0.0.1:3001 --server-pid PID --clients 16 --minutes 10 -o soak.json

Half of the clients use HTTP and half gRPC. Labels must equal those of each scan sent alone, to the
byte; the server must keep its processes, and none may grow from the third minute to the last.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.runs import Entry, begin_run
from benchmarks.service.closed_loop import outcomes_entry, reference_labels, run_clients
from benchmarks.service.pages import served_models
from benchmarks.service.protocols import add_service_options, open_senders
from benchmarks.service.server_processes import (
    MEMORY,
    require_server,
    temporary_files,
    watch_memory,
)
from neurobento.command import run
from neurobento.files import file_sha256

__all__ = ["main", "problems", "run_soak"]

MOST_GROWTH = 1.05
JUDGED_MINUTES = 4
"""In a shorter run the last minute overlaps the third."""


async def run_soak(args: argparse.Namespace) -> dict[str, Entry]:
    """Return the outcomes by protocol, and the memory of each server process."""
    scans = [path.read_bytes() for path in args.scans]
    async with open_senders(args.url, args.grpc_url, args.model, args.preprocessing) as senders:
        expected = await reference_labels(next(iter(senders.values())), scans)
        start = time.monotonic()
        end: float = start + 60 * args.minutes

        def is_over() -> bool:
            return time.monotonic() >= end

        async def watch() -> dict[str, Entry]:
            return await watch_memory(args.server_pid, start, end) if args.server_pid else {}

        memory, requests = await asyncio.gather(
            watch(), run_clients(senders, args.clients, scans, expected, is_over, args.timeout)
        )
    return {**{protocol: outcomes_entry(own) for protocol, own in requests.items()}, **memory}


def problems(entries: Mapping[str, Entry], minutes: float) -> list[str]:
    """Return wrong or missing answers, and processes that came, went or grew."""
    found = []
    for name, entry in entries.items():
        if name.startswith(MEMORY):
            found += _process_problems(name.removeprefix(MEMORY), entry.facts, minutes)
            continue
        outcomes = entry.facts["outcomes"]
        found += [
            f"{name}: {count} {outcome}"
            for outcome, count in outcomes.items()
            if outcome in ("failed", "timeout")
        ]
        found += [] if outcomes.get("ok") else [f"{name}: no request was answered well"]
    return found


def _process_problems(process: str, facts: Mapping[str, Any], minutes: float) -> list[str]:
    found = []
    if not facts["at_start"]:
        found.append(f"{process}: started during the run")
    if not facts["at_end"]:
        found.append(f"{process}: ended before the run")
    growth = facts["last_minute_over_third"]
    if minutes >= JUDGED_MINUTES and (growth is None or growth > MOST_GROWTH):
        amount = "is not known" if growth is None else f"is {growth:.3f} of the third's"
        found.append(f"{process}: memory in the last minute {amount}")
    return found


def _print_verdict(
    args: argparse.Namespace, entries: Mapping[str, Entry], files: list[str] | None
) -> int:
    found = problems(entries, args.minutes)
    if not args.server_pid:
        print("memory and files were not checked: no --server-pid", flush=True)
    else:
        if args.minutes < JUDGED_MINUTES:
            print(f"growth was not judged: less than {JUDGED_MINUTES} minutes", flush=True)
        if not any(name.startswith(MEMORY) for name in entries):
            found.append("no process of the server was seen")
        if files is None:
            found.append("the server's folder was not found: its files were not checked")
        elif files:
            found.append(f"temporary files remain: {', '.join(files)}")
    for problem in found:
        print(f"problem: {problem}", flush=True)
    return int(bool(found))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit with 1 if there is any problem."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.soak")
    parser.add_argument("scans", type=Path, nargs="+")
    add_service_options(parser)
    parser.add_argument("--server-pid", type=int, help="of the server's first process")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--timeout", type=float, default=120, help="how long a client waits, s")
    args = parser.parse_args(argv)
    stated = ("clients", "minutes", "timeout", "model", "preprocessing")
    scenario: dict[str, Any] = {key: getattr(args, key) for key in stated}
    scenario |= {
        "scans_sha256": [file_sha256(path) for path in args.scans],
        "protocols": ["http", "grpc"] if args.grpc_url else ["http"],
    }
    if args.server_pid:
        require_server(args.server_pid)
    begun = begin_run("soak", scenario, served_models(args.url), args.output)
    entries = asyncio.run(run_soak(args))
    files = temporary_files(args.server_pid) if args.server_pid else None
    done = dataclasses.replace(begun, entries=entries, scenario={**scenario, "files_left": files})
    done.write(args.output)
    for name, entry in entries.items():
        print(f"{name}: {dict(entry.facts)}", flush=True)
    return _print_verdict(args, entries, files)


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.soak"))
