"""Tell how many CPU cores and how much memory this process may use, on every system."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["GIB", "free_memory", "usable_cores", "usable_memory", "workers_for"]

GIB = 1 << 30

CGROUP, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

FILES = {
    "": ("memory.max", "memory.current", ""),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}
"""Folder of a version of cgroups, 2 and 1 -> files with a group's limit and use of memory, and how
rows of `memory.stat` begin that count the groups inside of it too."""

DROPPABLE = ("inactive_file", "active_file")
"""Rows of `memory.stat`: files in memory, which the system drops when it needs the room."""

MEMINFO = Path("/proc/meminfo")

LARGEST_SCAN_BYTES = 5 * GIB // 2
"""Memory that the largest scan within the limits takes from file to labels, rounded up."""


def usable_cores() -> int:
    """Return the number of cores: on Linux those that a container or `taskset` leaves."""
    # macOS and Windows cannot tell.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_memory() -> int | None:
    """Return the bytes that this process may use: the machine's, or its container's limit.

    None where the system does not tell.
    """
    if not hasattr(os, "sysconf"):
        return None
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group, (limit, _, _) in _memory_groups():
        with contextlib.suppress(OSError, ValueError):
            # "max" means no limit
            sizes.append(int((group / limit).read_text()))
    return min(sizes)


def _memory_groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield the folders of this process's groups and of those around them, with their files.

    In a container its own group is the outermost; a job of a cluster is in one further inside.
    """
    own = dict.fromkeys(FILES, "/")
    with contextlib.suppress(OSError, ValueError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in own:
                own[controllers] = path
    for version, names in FILES.items():
        inner = PurePosixPath(own[version])
        for group in (inner, *inner.parents):
            yield CGROUP / version / group.relative_to("/"), names


def free_memory() -> int | None:
    """Return the bytes that this process could still take without another one being killed.

    None where the system does not tell.
    """
    free = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        (line,) = (row for row in MEMINFO.read_text().splitlines() if row.startswith("MemAvail"))
        free.append(1024 * int(line.split()[1]))
    for group, (limit, usage, prefix) in _memory_groups():
        with contextlib.suppress(OSError, ValueError, KeyError):
            rows = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
            droppable = sum(int(rows[f"{prefix}{row}"]) for row in DROPPABLE)
            used = int((group / usage).read_text()) - droppable
            free.append(int((group / limit).read_text()) - used)
    return min(free, default=None)


def workers_for(threads: int, reserved_bytes: int = 0) -> int:
    """Return how many scans can be worked on in parallel, each with so many threads.

    No more than the memory holds if all of them are of the largest size; 1 at least.
    """
    workers = usable_cores() // threads
    memory = usable_memory()
    if memory is not None:
        workers = min(workers, (memory - reserved_bytes) // LARGEST_SCAN_BYTES)
    return max(1, workers)
