"""Whether a container is as locked up as it is said to be, by what the kernel says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["PROBE", "processes_inside", "proofs", "violations"]

PROC = Path("/proc")
NO_CAPABILITIES = {f"Cap{kind}": 0 for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")}

PROBE = "tmp/probe"
"""Where the first process wrote, before it became the server, what it could not write."""

ALWAYS_WRITABLE = ("/proc", "/dev/shm")
"""What every container runtime leaves so: the kernel's own files, and shared memory."""

READ_ONLY = "Read-only file system"


def processes_inside(pid: int, proc: Path = PROC) -> list[int]:
    """The processes that share the namespace of process numbers with one, itself among them."""
    namespace = (proc / str(pid) / "ns/pid").readlink()
    found = []
    for folder in proc.glob("[0-9]*"):
        try:
            if (folder / "ns/pid").readlink() == namespace:
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return sorted(found)


def proofs(pid: int, proc: Path = PROC) -> dict[str, Any]:
    """What the kernel says of a container and all its processes.

    Parameters
    ----------
    pid
        Of its first process, as seen from outside.
    """
    inside = processes_inside(pid, proc)
    statuses = [_status(proc / str(each)) for each in inside]
    mounts = [line.split() for line in (proc / str(pid) / "mountinfo").read_text().splitlines()]
    probe = (proc / str(pid) / "root" / PROBE).read_text().splitlines()
    return {
        "processes": len(inside),
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
    """What is not as it should be; empty if all is.

    Parameters
    ----------
    found
        What `proofs` says.
    writable
        The folders that may be written to.
    own
        Folders of the server's own user, which nothing but a read-only file system keeps it from
        writing to.
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
    wrong += [f"{place} is writable" for place in sorted(more)]
    wrong += [f"{place} was written to" for place in found["writes"]]
    if not found["refused_writes"]:
        wrong.append("no write was tried")
    for place in own:
        if found["refused_writes"].get(place) != READ_ONLY:
            wrong.append(f"{place} is not kept by a read-only file system")
    return wrong
