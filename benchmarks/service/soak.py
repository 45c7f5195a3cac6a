"""Many clients for a long time: is every answer right, does the memory stay flat, is nothing left?

    python -m benchmarks.service.soak SCANS... --url http://127.0.0.1:3000 --grpc-url 127.0.0.1:3001 \\
           --server-pid PID --clients 16 --minutes 10 -o soak.json

First each scan is asked for once, alone. Then half of the clients ask over HTTP and
half over gRPC, each its next request when the last is answered; labels have to be
those of the single call to the byte. A refusal is waited for and tried again.
Meanwhile the memory of each of the server's processes is looked at: those of the
start have to be there at the end, with no other, and in a run of four minutes or
more none may have grown by more than a twentieth from the third minute to the
last. One that shrank is well.
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
from typing import Any, NamedTuple

import numpy as np

from benchmarks.runs import Entry, begin_run
from benchmarks.service.clients import Ask, open_askers
from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.preprocessing.mode import PREPROCESSINGS
from neurobento.registry import DEFAULT_MODEL

__all__ = [
    "Answer",
    "ask_alone",
    "ask_until",
    "complaints",
    "entry_of",
    "growth",
    "left_files",
    "main",
    "memory_entries",
    "models_of",
    "process_names",
    "require_server",
    "soak",
]


class Answer(NamedTuple):
    """What became of one request.

    Attributes
    ----------
    outcome, status
        Of `benchmarks.service.clients`, and "timeout" with "none".
    seconds
        From its beginning to its answer.
    began_s
        When it began, on the monotonic clock.
    """

    outcome: str
    status: str
    seconds: float
    began_s: float


LOOK_EVERY_S = 5.0
PAUSE_S = 0.5
"""Before a refused client tries again, on average."""

MOST_GROWTH = 1.05
JUDGED_MINUTES = 4
"""Memory has no last minute apart from the third in less."""

MEMORY = "memory of "
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


def require_server(pid: int) -> None:
    """Check that a process has started the services.

    Raises
    ------
    ConfigError
        It has not, or there is none of that number.
    """
    import psutil

    try:
        count = len(process_names(pid))
    except psutil.NoSuchProcess:
        count = 0
    if count < 2:
        raise ConfigError(
            subject=f"--server-pid {pid}",
            expected="the first process of a running server",
            found="one without services" if count else "no such process",
            remedy="Give the number of the process that `bentoml serve` is.",
        )


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
        start = time.monotonic()
        end: float = start + 60 * args.minutes

        def over() -> bool:
            return time.monotonic() >= end

        watching = asyncio.ensure_future(_watch(args.server_pid, start, end))
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
        Of `benchmarks.service.clients`.
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
    found: list[Answer] = []
    while not over():
        i = chance.randrange(len(scans))
        start = time.monotonic()
        try:
            outcome, status, labels = await asyncio.wait_for(ask(scans[i]), timeout_s)
        except TimeoutError:
            outcome, status, labels = "timeout", "none", b""
        if outcome == "ok" and expected is not None and labels != expected[i]:
            status, outcome = "other labels", "failed"
        found.append(Answer(str(outcome), status, time.monotonic() - start, start))
        if outcome != "ok":
            await asyncio.sleep(PAUSE_S * (0.5 + chance.random()))
    return found


def entry_of(answers: Sequence[Answer]) -> Entry:
    """How many answers of each kind there were, and how long each took."""
    facts = {
        "outcomes": dict(collections.Counter(answer.outcome for answer in answers)),
        "statuses": dict(collections.Counter(answer.status for answer in answers)),
    }
    samples: dict[str, list[float]] = {}
    for answer in answers:
        samples.setdefault(f"{answer.outcome}_s", []).append(round(answer.seconds, 4))
    return Entry(facts, samples)


async def _watch(pid: int | None, start: float, end: float) -> dict[str, Entry]:
    """Memory of each process of the server over time; the first look and the last are exact."""
    if pid is None:
        return {}
    looks_s: list[float] = []
    seen: dict[tuple[int, str], list[tuple[float, float]]] = collections.defaultdict(list)
    while True:
        looks_s.append(round(time.monotonic() - start, 1))
        for process, mib in _resident(pid).items():
            seen[process].append((looks_s[-1], mib))
        left_s = end - time.monotonic()
        if left_s <= 0:
            return memory_entries(looks_s, seen)
        await asyncio.sleep(min(LOOK_EVERY_S, left_s))


def _resident(pid: int) -> dict[tuple[int, str], float]:
    """Number and name of each process that a server has now, and its memory in MiB."""
    import psutil

    found = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for each, name in process_names(pid).items():
            with contextlib.suppress(psutil.NoSuchProcess):
                found[each, name] = round(psutil.Process(each).memory_info().rss / MIB, 2)
    return found


def memory_entries(
    looks_s: Sequence[float], seen: Mapping[tuple[int, str], Sequence[tuple[float, float]]]
) -> dict[str, Entry]:
    """The memory of each process, and whether it was there at the first look and at the last.

    Parameters
    ----------
    looks_s
        When the server was looked at.
    seen
        A process's number and name -> when it was there, and its MiB. One that was there at
        a single look after the first is left out: what a process starts is called as it is
        for a moment, and the one that another replaces is missing at the end anyway.
    """
    entries: dict[str, Entry] = {}
    for (pid, name), series in seen.items():
        at_s, mib = (list(values) for values in zip(*series, strict=True))
        at_start = at_s[0] == looks_s[0]
        if len(at_s) == 1 and not at_start:
            continue
        facts = {
            "last_minute_over_third": growth(at_s, mib),
            "at_start": at_start,
            "at_end": at_s[-1] == looks_s[-1],
        }
        title = MEMORY + name
        title = f"{title} {pid}" if title in entries else title
        entries[title] = Entry(facts, {"at_s": at_s, "resident_mib": mib})
    return entries


def left_files(pid: int) -> list[str] | None:
    """Kinds of temporary files that a server keeps, none of its scans among them if all is well.

    None if its folder is not found.
    """
    import psutil

    folder = None
    with contextlib.suppress(psutil.NoSuchProcess):
        # the first process sets it for those it starts
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.Error):
                folder = folder or child.environ().get("NEUROBENTO_RUN")
    if folder is None or not Path(folder, "tmp").is_dir():
        return None
    return sorted(p.name.rsplit("-", 1)[0] for p in Path(folder, "tmp").rglob("*") if p.is_file())


def models_of(url: str) -> Mapping[str, str]:
    """Name -> hash of the models that a service says it serves."""
    import httpx

    answer = httpx.get(f"{url}/v1/models", timeout=30, trust_env=False)
    return {m["name"]: m["onnx_sha256"] for m in answer.json()["models"]}


def complaints(entries: Mapping[str, Entry], minutes: float) -> list[str]:
    """What was not right: answers wrong or missing, processes that came, went or grew.

    Growth is judged upwards only, and where the run had the minutes for it; then one
    that is not known is not right either.
    """
    found = []
    for name, entry in entries.items():
        facts = entry.facts
        if not name.startswith(MEMORY):
            bad = {o: n for o, n in facts["outcomes"].items() if o in ("failed", "timeout")}
            found += [f"{name}: {count} {outcome}" for outcome, count in bad.items()]
            found += [] if facts["outcomes"].get("ok") else [f"{name}: nothing was answered well"]
            continue
        process = name.removeprefix(MEMORY)
        found += [] if facts["at_start"] else [f"{process}: came during the run"]
        found += [] if facts["at_end"] else [f"{process}: was gone before the end"]
        grown = facts["last_minute_over_third"]
        if minutes >= JUDGED_MINUTES and (grown is None or grown > MOST_GROWTH):
            told = "is not known" if grown is None else f"is {grown:.3f} of the third's"
            found.append(f"{process}: memory in the last minute {told}")
    return found


def _judge(args: argparse.Namespace, entries: Mapping[str, Entry], left: list[str] | None) -> int:
    """Print what was not looked at and what was not right; 1 if there is any of the latter."""
    found = complaints(entries, args.minutes)
    if not args.server_pid:
        print("memory and files were not looked at: there is no --server-pid", flush=True)
    else:
        if args.minutes < JUDGED_MINUTES:
            print(f"growth was not judged: less than {JUDGED_MINUTES} minutes", flush=True)
        if not any(name.startswith(MEMORY) for name in entries):
            found.append("no process of the server was seen")
        if left is None:
            found.append("the server's folder was not found: its files were not looked at")
        elif left:
            found.append(f"files left: {', '.join(left)}")
    for each in found:
        print(f"not right: {each}", flush=True)
    return int(bool(found))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 if an answer was wrong or missing, a process came, went or grew, or a
    file was left or could not be looked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.soak")
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--url", required=True)
    parser.add_argument("--grpc-url", help="HOST:PORT; without it all clients use HTTP")
    parser.add_argument("--server-pid", type=int, help="of the server's first process")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--timeout", type=float, default=120, help="what a client waits, s")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--preprocessing", choices=PREPROCESSINGS, default="none")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    stated = ("clients", "minutes", "timeout", "model", "preprocessing")
    scenario: dict[str, Any] = {key: getattr(args, key) for key in stated}
    scenario |= {
        "scans_sha256": [file_sha256(path) for path in args.scans],
        "protocols": ["http", "grpc"] if args.grpc_url else ["http"],
    }
    if args.server_pid:
        require_server(args.server_pid)
    begun = begin_run("soak", scenario, models_of(args.url))
    begun.require_writable(args.output)
    entries = asyncio.run(soak(args))
    left = left_files(args.server_pid) if args.server_pid else None
    done = dataclasses.replace(begun, entries=entries, scenario={**scenario, "files_left": left})
    done.write(args.output)
    for name, entry in entries.items():
        print(f"{name}: {dict(entry.facts)}", flush=True)
    return _judge(args, entries, left)


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.soak"))
