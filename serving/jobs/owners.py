"""Who works on a job, and whether it still lives: a server's process, here or elsewhere."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from serving.run_folder import start_of

__all__ = ["LOST_AFTER_S", "Liveness", "this_owner"]

LOST_AFTER_S = 60.0
"""A process of another machine that has not been heard of for so long is taken for dead."""


def this_owner() -> str:
    """This process, unlike any other there was or will be: `machine pid start`."""
    return f"{_machine()} {os.getpid()} {start_of(os.getpid())}"


def _machine() -> str:
    """Where a process id means the same process: host, boot, and the container's name space."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"


class Liveness:
    """Judges owners, by the system where it can, else by whether their beats change.

    No two machines' clocks are compared: what counts is how long this process has seen
    the same beat.
    """

    def __init__(self, lost_after_s: float = LOST_AFTER_S) -> None:
        self._machine = _machine()
        self._lost_after_s = lost_after_s
        self._seen: dict[str, tuple[bytes | None, float]] = {}

    def lives(self, owner: str, beat: bytes | None) -> bool:
        """Whether an owner lives, given its newest beat."""
        machine, pid, start = owner.rsplit(" ", 2)
        if machine == self._machine:
            return start_of(int(pid)) == start
        last, since = self._seen.get(owner, (None, 0.0))
        if owner not in self._seen or beat != last:
            self._seen[owner] = (beat, time.monotonic())
            return True
        return time.monotonic() - since < self._lost_after_s

    def forget(self, owners: set[str]) -> None:
        """Keep only what is known of these."""
        self._seen = {owner: seen for owner, seen in self._seen.items() if owner in owners}
