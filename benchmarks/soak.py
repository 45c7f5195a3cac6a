"""Many clients for a long time: is every answer right, does the memory stay flat, is nothing left?

    python -m benchmarks.soak SCANS... --url http://127.0.0.1:3000 --grpc-url 127.0.0.1:3001 \\
           --server-pid PID --clients 16 --minutes 10 -o soak.json

First each scan is asked for once, alone. Then half of the clients ask over HTTP and
half over gRPC, each its next request when the last is answered; labels have to be
those of the single call to the byte. A refusal is waited for and tried again.
Meanwhile the memory of each of the server's processes is looked at.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clients import Ask, open_askers
from benchmarks.results import Entry, begin_run
from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.preprocessing.levels import LEVELS
from neurobento.registry import DEFAULT_MODEL
from neurobento.spec import file_sha256

__all__ = [
    "Answer",
    "ask_alone",
    "ask_until",
    "entry_of",
    "growth",
    "main",
    "models_of",
    "process_names",
    "soak",
]

Answer = tuple[str, str, float]
"""Outcome, the server's word for it, and seconds."""

LOOK_EVERY_S = 5.0
PAUSE_S = 0.5
"""Before a refused client tries again, on average."""

MIB = 1 << 20


def process_names(pid: int) -> dict[int, str]:
    """The processes of a running server by what they are for.

    Parameters
    ----------
    pid
        Of its first process.
    """
    import psutil

    found = {pid: "master"}
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            words = child.cmdline()
            if "--service-name" in words:
                found[child.pid] = words[words.index("--service-name") + 1]
            elif any("spawn_main" in word for word in words):
                found[child.pid] = f"scan process {child.pid}"
    return found


def growth(times_s: Sequence[float], mib: Sequence[float]) -> float | None:
    """Mean memory in the last minute over that in the third; None of less than four minutes."""
    seconds, memory = np.asarray(times_s), np.asarray(mib)
    third = (seconds >= 120) & (seconds < 180)
    last = seconds >= seconds[-1] - 60 if len(seconds) else third
    if not third.any() or seconds[-1] < 240:
        return None
    return float(memory[last].mean() / memory[third].mean())


async def soak(args: argparse.Namespace) -> dict[str, Entry]:
    """What became of the requests of each protocol, and the memory of each process."""
    scans = [path.read_bytes() for path in args.scans]
    async with open_askers(args.url, args.grpc_url, args.model, args.preprocessing) as askers:
        expected = [await ask_alone(next(iter(askers.values())), scan) for scan in scans]
        end: float = time.monotonic() + 60 * args.minutes

        def over() -> bool:
            return time.monotonic() >= end

        watching = asyncio.ensure_future(_watch(args.server_pid, end))
        names = [list(askers)[i % len(askers)] for i in range(args.clients)]
        found = await asyncio.gather(
            *(
                ask_until(askers[name], scans, expected, over, args.timeout, seed)
                for seed, name in enumerate(names)
            )
        )
        entries: dict[str, Entry] = {}
        for protocol in askers:
            own = [each for name, each in zip(names, found, strict=True) if name == protocol]
            answers = list(itertools.chain(*own))
            entries[protocol] = entry_of(answers)
        return {**entries, **await watching}


async def ask_alone(ask: Ask, scan: bytes) -> bytes:
    """The labels of a scan, with nothing else asked for.

    Raises
    ------
    ConfigError
        The service does not answer well.
    """
    outcome, status, labels = await ask(scan)
    if outcome != "ok":
        raise ConfigError(
            subject="the scans",
            expected="scans that the service answers well when asked alone",
            found=status,
            remedy="Give others, or another --preprocessing.",
        )
    return labels


async def ask_until(
    ask: Ask,
    scans: Sequence[bytes],
    expected: Sequence[bytes] | None,
    over: Callable[[], bool],
    timeout_s: float,
    seed: int,
) -> list[Answer]:
    """Ask for one scan after another until it is over.

    Parameters
    ----------
    ask
        Of `benchmarks.clients`.
    scans
        Files to choose from.
    expected
        Their labels; other ones are a failure. None to take any.
    over
        Whether to stop.
    timeout_s
        What a client waits for an answer.
    seed
        Of the choice.
    """
    chance = random.Random(seed)
    found = []
    while not over():
        i = chance.randrange(len(scans))
        start = time.monotonic()
        try:
            outcome, status, labels = await asyncio.wait_for(ask(scans[i]), timeout_s)
        except TimeoutError:
            outcome, status, labels = "timeout", "none", b""
        if outcome == "ok" and expected is not None and labels != expected[i]:
            status, outcome = "other labels", "failed"
        found.append((str(outcome), status, time.monotonic() - start))
        if outcome != "ok":
            await asyncio.sleep(PAUSE_S * (0.5 + chance.random()))
    return found


def entry_of(answers: Sequence[Answer]) -> Entry:
    """How many answers of each kind there were, and how long each took."""
    facts = {
        "outcomes": dict(collections.Counter(outcome for outcome, _, _ in answers)),
        "statuses": dict(collections.Counter(status for _, status, _ in answers)),
    }
    samples: dict[str, list[float]] = {}
    for outcome, _, seconds in answers:
        samples.setdefault(f"{outcome}_s", []).append(round(seconds, 4))
    return Entry(facts, samples)


async def _watch(pid: int | None, end: float) -> dict[str, Entry]:
    """Memory of each process of the server over time, and the files it kept at the end."""
    if pid is None:
        return {}
    import psutil

    start = time.monotonic()
    times: dict[str, list[float]] = collections.defaultdict(list)
    memory: dict[str, list[float]] = collections.defaultdict(list)
    while time.monotonic() < end:
        for each, name in process_names(pid).items():
            with contextlib.suppress(psutil.NoSuchProcess):
                memory[name].append(round(psutil.Process(each).memory_info().rss / MIB, 2))
                times[name].append(round(time.monotonic() - start, 1))
        await asyncio.sleep(LOOK_EVERY_S)
    return {
        f"memory of {name}": Entry(
            {"last_minute_over_third": growth(times[name], memory[name])},
            {"at_s": times[name], "resident_mib": memory[name]},
        )
        for name in memory
    }


def left_files(pid: int) -> list[str]:
    """Kinds of temporary files that a server keeps, none of its scans among them if all is well."""
    import psutil

    folder = psutil.Process(pid).environ().get("NEUROBENTO_RUN")
    # the first process sets it for those it starts
    for child in psutil.Process(pid).children():
        folder = folder or child.environ().get("NEUROBENTO_RUN")
    if folder is None:
        return []
    kinds = (p.name.rsplit("-", 1)[0] for p in Path(folder, "tmp").rglob("*") if p.is_file())
    return sorted(kinds)


def models_of(url: str) -> Mapping[str, str]:
    """Name -> hash of the models that a service says it serves."""
    import httpx

    answer = httpx.get(f"{url}/v1/models", timeout=30, trust_env=False)
    return {m["name"]: m["onnx_sha256"] for m in answer.json()["models"]}


def _is_well(entry: Entry) -> bool:
    """No answer wrong or missing; no process that grew by more than a twentieth."""
    grown = entry.facts.get("last_minute_over_third") or 1.0
    return not {"failed", "timeout"} & set(entry.facts.get("outcomes", ())) and grown <= 1.05


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 if an answer was wrong or missing, memory grew, or a file was left."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--url", required=True)
    parser.add_argument("--grpc-url", help="HOST:PORT; without it all clients use HTTP")
    parser.add_argument("--server-pid", type=int, help="of the server's first process")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--timeout", type=float, default=120, help="what a client waits, s")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--preprocessing", choices=LEVELS, default="none")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    stated = ("clients", "minutes", "timeout", "model", "preprocessing")
    scenario: dict[str, Any] = {key: getattr(args, key) for key in stated}
    scenario |= {
        "scans_sha256": [file_sha256(path) for path in args.scans],
        "protocols": ["http", "grpc"] if args.grpc_url else ["http"],
    }
    begun = begin_run("soak", scenario, models_of(args.url))
    begun.require_place(args.output)
    entries = asyncio.run(soak(args))
    left = left_files(args.server_pid) if args.server_pid else []
    done = dataclasses.replace(begun, entries=entries, scenario={**scenario, "files_left": left})
    done.write(args.output)
    for name, entry in entries.items():
        print(f"{name}: {dict(entry.facts)}", flush=True)
    return int(bool(left) or not all(_is_well(entry) for entry in entries.values()))


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.soak"))
