"""Check a container's isolation by what the kernel reports of its processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["PROBE_FILE", "container_pids", "kernel_facts", "violations"]

PROC = Path("/proc")
NO_CAPABILITIES = {f"Cap{kind}": 0 for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")}

PROBE_FILE = "tmp/probe"
"""Before it became the server, the first process recorded here which writes failed."""

ALWAYS_WRITABLE = ("/proc", "/dev/shm")
"""Every container runtime leaves these writable: kernel files, and shared memory."""

READ_ONLY = "Read-only file system"


def container_pids(pid: int, proc: Path = PROC) -> list[int]:
    """Return the processes in the pid namespace of `pid`, itself included."""
    namespace = (proc / str(pid) / "ns/pid").readlink()
    pids = []
    for folder in proc.glob("[0-9]*"):
        try:
            if (folder / "ns/pid").readlink() == namespace:
                pids.append(int(folder.name))
        except OSError:
            # The process has just ended.
            continue
    return sorted(pids)


def kernel_facts(pid: int, proc: Path = PROC) -> dict[str, Any]:
    """Return what the kernel reports of a container whose first process is `pid` outside it."""
    pids = container_pids(pid, proc)
    statuses = [_status(proc / str(each)) for each in pids]
    mounts = [line.split() for line in (proc / str(pid) / "mountinfo").read_text().splitlines()]
    probe = (proc / str(pid) / "root" / PROBE_FILE).read_text().splitlines()
    return {
        "processes": len(pids),
        "uids": sorted({each for status in statuses for each in status["Uid"].split()}),
        "gids": sorted({each for status in statuses for each in status["Gid"].split()}),
        "groups": sorted({each for status in statuses for each in status["Groups"].split()}),
        **{
            name: sorted({int(status[name], 16) for status in statuses}) for name in NO_CAPABILITIES
        },
        "no_new_privileges": sorted({int(status["NoNewPrivs"]) for status in statuses}),
        "writable_mounts": sorted({each[4] for each in mounts if "rw" in each[5].split(",")}),
        "read_only_mounts": sorted({each[4] for each in mounts if "ro" in each[5].split(",")}),
        "refused_writes": dict(line.split(": ", 1) for line in probe if ": " in line),
        "writes": [line.removeprefix("wrote ") for line in probe if line.startswith("wrote ")],
    }


def _status(folder: Path) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return {name: value.strip() for name, value in pairs}


def violations(found: Mapping[str, Any], writable: Sequence[str], own: Sequence[str]) -> list[str]:
    """Return every breach of isolation in what `kernel_facts` returned.

    Folders in `own` belong to the server's user, so only a read-only file system protects them.
    """
    wrong = []
    if "0" in {*found["uids"], *found["gids"], *found["groups"]}:
        wrong.append("a process is root or in its group")
    wrong += [f"{name} is not 0" for name in NO_CAPABILITIES if found[name] != [0]]
    if found["no_new_privileges"] != [1]:
        wrong.append("a process may gain privileges")
    if "/" not in found["read_only_mounts"] or "/" in found["writable_mounts"]:
        wrong.append("the root is not read-only")
    more = {*found["writable_mounts"]} - {*writable, *ALWAYS_WRITABLE}
    wrong += [f"{folder} is writable" for folder in sorted(more)]
    wrong += [f"{folder} was written to" for folder in found["writes"]]
    if not found["refused_writes"]:
        wrong.append("no write was attempted")
    for folder in own:
        if found["refused_writes"].get(folder) != READ_ONLY:
            wrong.append(f"{folder} is not protected by a read-only file system")
    return wrong
