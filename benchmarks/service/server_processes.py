"""The processes of a running server: their names, memory and temporary files."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.runs import Entry
from neurobento.errors import ConfigError

__all__ = [
    "MASTER",
    "MEMORY",
    "memory_entries",
    "memory_growth",
    "process_names",
    "require_server",
    "temporary_files",
    "watch_memory",
]

MASTER = "master"
MEMORY = "memory of "
"""Prefix of the entries that `memory_entries` returns."""

LOOK_EVERY_S = 5.0
MIB = 1 << 20


def process_names(pid: int) -> dict[int, str]:
    """Return pid -> name of a server's processes, given its first process."""
    import psutil

    names = {pid: MASTER}
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            words = child.cmdline()
            if "--service-name" in words:
                names[child.pid] = words[words.index("--service-name") + 1]
            elif any("spawn_main" in word for word in words):
                names[child.pid] = f"scan process {child.pid}"
    return names


def require_server(pid: int) -> None:
    """Raise ConfigError unless `pid` is a process that has started services."""
    import psutil

    try:
        count = len(process_names(pid))
    except psutil.NoSuchProcess:
        count = 0
    if count < 2:
        raise ConfigError(
            subject=f"--server-pid {pid}",
            expected="the first process of a running server",
            found="a process without services" if count else "no such process",
            remedy="Give the process id of `bentoml serve`.",
        )


def temporary_files(pid: int) -> list[str] | None:
    """Return the kinds of temporary files that a server keeps; None without its folder."""
    import psutil

    folder = None
    with contextlib.suppress(psutil.NoSuchProcess):
        # The first process sets the variable for the processes it starts.
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.Error):
                folder = folder or child.environ().get("NEUROBENTO_RUN")
    if folder is None or not Path(folder, "tmp").is_dir():
        return None
    return sorted(p.name.rsplit("-", 1)[0] for p in Path(folder, "tmp").rglob("*") if p.is_file())


async def watch_memory(pid: int, start: float, end: float) -> dict[str, Entry]:
    """Return the memory of each process from now until `end`, on the monotonic clock."""
    looks_s: list[float] = []
    seen: dict[tuple[int, str], list[tuple[float, float]]] = collections.defaultdict(list)
    while True:
        looks_s.append(round(time.monotonic() - start, 1))
        for process, mib in _resident_mib(pid).items():
            seen[process].append((looks_s[-1], mib))
        remaining_s = end - time.monotonic()
        if remaining_s <= 0:
            return memory_entries(looks_s, seen)
        await asyncio.sleep(min(LOOK_EVERY_S, remaining_s))


def _resident_mib(pid: int) -> dict[tuple[int, str], float]:
    import psutil

    resident = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for each, name in process_names(pid).items():
            with contextlib.suppress(psutil.NoSuchProcess):
                resident[each, name] = round(psutil.Process(each).memory_info().rss / MIB, 2)
    return resident


def memory_entries(
    looks_s: Sequence[float], seen: Mapping[tuple[int, str], Sequence[tuple[float, float]]]
) -> dict[str, Entry]:
    """Return each process's memory, and whether it was there at the first and the last look.

    `seen` has (time, MiB) of each look at which the process was there, by (pid, name).
    """
    entries: dict[str, Entry] = {}
    for (pid, name), series in seen.items():
        at_s, mib = (list(values) for values in zip(*series, strict=True))
        at_start = at_s[0] == looks_s[0]
        # A starting process bears its parent's name for a moment, so one sight does not count.
        # A replaced process is missing at the end anyway.
        if len(at_s) == 1 and not at_start:
            continue
        facts = {
            "last_minute_over_third": memory_growth(at_s, mib),
            "at_start": at_start,
            "at_end": at_s[-1] == looks_s[-1],
        }
        title = MEMORY + name
        title = f"{title} {pid}" if title in entries else title
        entries[title] = Entry(facts, {"at_s": at_s, "resident_mib": mib})
    return entries


def memory_growth(times_s: Sequence[float], mib: Sequence[float]) -> float | None:
    """Return mean memory in the last minute over that in the third; None before four minutes."""
    seconds, memory = np.asarray(times_s), np.asarray(mib)
    third = (seconds >= 120) & (seconds < 180)
    last = seconds >= seconds[-1] - 60 if len(seconds) else third
    if not third.any() or seconds[-1] < 240:
        return None
    return float(memory[last].mean() / memory[third].mean())
