"""Who works on a job, and whether it still lives: a server's process, here or elsewhere."""

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
"""A process of another machine that has not been heard of for so long is taken for dead."""


def this_owner() -> str:
    """This process, unlike any other there was or will be: `machine pid start`."""
    return f"{_machine()} {os.getpid()} {process_start_time(os.getpid())}"


def _machine() -> str:
    """Where a process id means the same process: host, boot, and the container's name space."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()}/{boot}/{Path('/proc/self/ns/pid').readlink()}"


class Liveness:
    """Judges owners, by the system where it can, else by whether their beats change.

    No two machines' clocks are compared: what counts is how long this process has seen
    the same beat. A time in which it did not look does not count: the other may have
    been as unable to write as this one was to read.

    Parameters
    ----------
    lost_after_s
        An owner elsewhere whose beat has been the same for so long is taken for dead; at
        least four looks have to find it so.
    """

    def __init__(self, lost_after_s: float = LOST_AFTER_S) -> None:
        self._machine = _machine()
        self._lost_after_s = lost_after_s
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()

    def lives(self, owner: str, beat: bytes | None) -> bool:
        """Whether an owner lives, given its newest beat."""
        machine, pid, start = owner.rsplit(" ", 2)
        if machine == self._machine:
            return process_start_time(int(pid)) == start
        now = time.monotonic()
        with self._lock:
            seen = self._seen.get(owner)
            if seen is None or seen.beat != beat:
                self._seen[owner] = _Seen(beat, now)
                return True
            seen.silent_s += min(now - seen.looked, self._lost_after_s / 4)
            seen.looked = now
            return seen.silent_s < self._lost_after_s

    def forget(self, owners: set[str]) -> None:
        """Keep only what is known of these."""
        with self._lock:
            self._seen = {owner: seen for owner, seen in self._seen.items() if owner in owners}


@dataclasses.dataclass
class _Seen:
    """A beat, when it was last looked at, and for how long it was seen not to change."""

    beat: bytes | None
    looked: float
    silent_s: float = 0.0
