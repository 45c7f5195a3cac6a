"""What servers that were killed left in the jobs' database, and what is over."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Mapping

from serving.jobs.owners import Liveness
from serving.jobs.records import (
    End,
    Job,
    Lease,
    State,
    remove_files,
    scan_name,
    tidy_up,
    unpack_record,
)
from serving.jobs.storage import Blobs, Records

__all__ = ["Limits", "Sweep"]

GRACE_S = 10.0
"""A job this young may be on its way into the queue."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much, and how long.

    Attributes
    ----------
    most
        Jobs that wait at the same time; more are refused.
    keep_s
        Ended jobs and their results live so long.
    longest_s
        Nothing that is begun takes longer: what is left behind for longer is nobody's.
    """

    most: int
    keep_s: float
    longest_s: float


class Sweep:
    """One look at everything there is; several servers may look at the same time.

    Each step may be the last: none makes something that a later one would not find. An ended job's
    `end` outlives its `job`, so that no late turn ends it again.
    """

    def __init__(self, records: Records, blobs: Blobs, limits: Limits, liveness: Liveness) -> None:
        self._records, self._blobs = records, blobs
        self._limits, self._liveness = limits, liveness
        self._now = time.time()
        # the queue first: a name that leaves it afterwards leaves a lease that is seen
        self._queued = set(records.queued())
        self._jobs: dict[str, Job] = {}
        self._ends: dict[str, End] = {}
        self._leases: dict[str, dict[int, Lease]] = collections.defaultdict(dict)
        self._uploads: dict[str, float] = {}
        self._beats: dict[str, bytes] = {}
        self._sort(records.items())

    def run(self) -> dict[State, int]:
        """Put back what is lost, remove what is over; how many jobs are in which state."""
        states: dict[State, int] = {"waiting": 0, "running": 0}
        for job in self._jobs.values():
            end = self._ends.get(job.key)
            if end is not None:
                self._look_after_ended(job, end)
            elif self._is_held(job):
                states["running"] += 1
            else:
                states["waiting"] += 1
                if job.id not in self._queued and self._now - job.created > GRACE_S:
                    self._records.enqueue(job.id)
        self._remove_uploads()
        self._remove_what_has_no_job()
        self._remove_beats()
        return states

    def _sort(self, items: Mapping[str, bytes]) -> None:
        for name, packed in items.items():
            kind, _, rest = name.partition(":")
            if kind == "job":
                self._jobs[rest] = unpack_record(Job, packed)
            elif kind == "end":
                self._ends[rest] = unpack_record(End, packed)
            elif kind == "lease":
                key, _, number = rest.rpartition(":")
                self._leases[key][int(number)] = unpack_record(Lease, packed)
            elif kind == "upload":
                self._uploads[rest] = float(packed)
            elif kind == "beat":
                self._beats[rest] = packed

    def _is_held(self, job: Job) -> bool:
        turns = self._leases[job.key]
        if not turns:
            return False
        last = turns[max(turns)]
        return not last.returned and self._lives(last.owner)

    def _lives(self, owner: str) -> bool:
        return self._liveness.lives(owner, self._beats.get(owner))

    def _look_after_ended(self, job: Job, end: End) -> None:
        turns = len(self._leases[job.key])
        if self._now > end.ended + self._limits.keep_s:
            remove_files(self._blobs, job.key, turns)
            # another server may have been quicker, and a client may have used its key again
            there = self._records.get(f"job:{job.id}")
            if there is not None and unpack_record(Job, there).key == job.key:
                self._records.delete(f"job:{job.id}")
        elif not end.tidy and self._now > end.ended + GRACE_S:
            tidy_up(self._records, self._blobs, job.key, end, turns)

    def _remove_uploads(self) -> None:
        taken_in = {job.key for job in self._jobs.values()}
        for key, begun in self._uploads.items():
            if self._now - begun > self._limits.longest_s:
                if key not in taken_in:
                    self._blobs.delete(scan_name(key))
                self._records.delete(f"upload:{key}")

    def _remove_what_has_no_job(self) -> None:
        """Ends and leases of jobs that went, once no turn at them can be going on."""
        with_job = {job.key for job in self._jobs.values()}
        for key, end in self._ends.items():
            if key not in with_job and self._now > end.ended + self._limits.longest_s:
                turns = self._leases[key]
                remove_files(self._blobs, key, len(turns))
                for number in turns:
                    self._records.delete(f"lease:{key}:{number}")
                self._records.delete(f"end:{key}")

    def _remove_beats(self) -> None:
        owners = {lease.owner for turns in self._leases.values() for lease in turns.values()}
        for owner in self._beats.keys() - owners:
            if not self._lives(owner):
                self._records.delete(f"beat:{owner}")
        self._liveness.forget(owners | self._beats.keys())
