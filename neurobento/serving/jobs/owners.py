"""Name the process that works on a job, and judge whether another such process is alive."""

from __future__ import annotations

import dataclasses
import os
import socket
import threading
import time
from pathlib import Path

from neurobento.serving.process.run_folder import process_start_time

__all__ = ["LOST_AFTER_S", "Liveness", "this_owner"]

LOST_AFTER_S = 60.0
"""A process on another machine counts as dead after so long without a heartbeat."""


def this_owner() -> str:
    """Return `machine pid start`, which no other process ever had or will have."""
    return f"{_machine()} {os.getpid()} {process_start_time(os.getpid())}"


def _machine() -> str:
    """Return host, boot and container: within them a process id is unambiguous."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"


class Liveness:
    """Judge owners: on this machine by the system, elsewhere by whether their heartbeat changes.

    One elsewhere is dead if its heartbeat stayed the same for `lost_after_s`, in at least four
    looks. Clocks are never compared; only time in which this process could look counts.
    """

    def __init__(self, lost_after_s: float = LOST_AFTER_S) -> None:
        self._machine = _machine()
        self._lost_after_s = lost_after_s
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()

    def is_alive(self, owner: str, heartbeat: bytes | None) -> bool:
        """Judge an owner, given its latest heartbeat."""
        machine, pid, start = owner.rsplit(" ", 2)
        if machine == self._machine:
            return process_start_time(int(pid)) == start
        now = time.monotonic()
        with self._lock:
            seen = self._seen.get(owner)
            if seen is None or seen.heartbeat != heartbeat:
                self._seen[owner] = _Seen(heartbeat, now)
                return True
            seen.silent_s += min(now - seen.looked, self._lost_after_s / 4)
            seen.looked = now
            return seen.silent_s < self._lost_after_s

    def keep_only(self, owners: set[str]) -> None:
        """Forget all other owners."""
        with self._lock:
            self._seen = {owner: seen for owner, seen in self._seen.items() if owner in owners}


@dataclasses.dataclass
class _Seen:
    heartbeat: bytes | None
    looked: float
    silent_s: float = 0.0
