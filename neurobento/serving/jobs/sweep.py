"""What servers that were killed left in the jobs' database, and what is over."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping

from neurobento.serving.jobs.database import FileStore, KeyValueStore
from neurobento.serving.jobs.job import End, Job, Lease, State, from_json, tidy_up
from neurobento.serving.jobs.owners import Liveness

__all__ = ["JobLimits", "Sweep"]

GRACE_S = 10.0
"""Whoever ended a job so recently may be tidying up itself."""


@dataclasses.dataclass(frozen=True)
class JobLimits:
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
    `end` outlives its `job`, so that no late turn ends it again; what no job knows is nobody's.
    """

    def __init__(
        self,
        records: KeyValueStore,
        blobs: FileStore,
        limits: JobLimits,
        liveness: Liveness,
        is_worked_on: Callable[[Job, Lease, bytes | None], bool],
    ) -> None:
        self._records, self._blobs = records, blobs
        self._limits, self._liveness = limits, liveness
        self._is_worked_on = is_worked_on
        # files, then the queue, then records: a file is there after its upload's record, and a
        # name that leaves the queue in between leaves a lease that is seen
        self._files: dict[str, list[str]] = collections.defaultdict(list)
        for part in blobs.parts():
            self._files[part.partition("/")[0]].append(part)
        self._queued = records.queued()
        self._now = time.time()
        self._jobs: dict[str, Job] = {}
        self._packed: dict[str, bytes] = {}
        self._ends: dict[str, End] = {}
        self._leases: dict[str, dict[int, Lease]] = collections.defaultdict(dict)
        self._uploads: dict[str, float] = {}
        self._beats: dict[str, bytes] = {}
        self._sort(records.items())

    def run(self) -> dict[State, int]:
        """Put back what is lost, remove what is over; how many jobs are in which state."""
        waiting: set[str] = set()
        running = 0
        for job in self._jobs.values():
            end = self._ends.get(job.key)
            if end is not None:
                self._look_after_ended(job, end)
            elif self._is_held(job):
                running += 1
            else:
                waiting.add(job.id)
        for id in waiting.difference(self._queued):
            self._records.enqueue(id)
        self._thin_queue(set(self._queued) - waiting)
        self._remove_uploads()
        self._remove_what_has_no_job()
        self._remove_beats()
        return {"waiting": len(waiting), "running": running}

    def _sort(self, items: Mapping[str, bytes]) -> None:
        for name, packed in items.items():
            kind, _, rest = name.partition(":")
            if kind == "job":
                self._jobs[rest] = from_json(Job, packed)
                self._packed[rest] = packed
            elif kind == "end":
                self._ends[rest] = from_json(End, packed)
            elif kind == "lease":
                key, _, number = rest.rpartition(":")
                self._leases[key][int(number)] = from_json(Lease, packed)
            elif kind == "upload":
                self._uploads[rest] = float(packed)
            elif kind == "beat":
                self._beats[rest] = packed

    def _is_held(self, job: Job) -> bool:
        turns = self._leases.get(job.key)
        if not turns:
            return False
        last = turns[max(turns)]
        return self._is_worked_on(job, last, self._beats.get(last.owner))

    def _look_after_ended(self, job: Job, end: End) -> None:
        if self._now > end.ended + self._limits.keep_s:
            # not a later job of a client that used its key again; a job that is there has its files
            self._records.delete_if(f"job:{job.id}", self._packed[job.id])
            self._remove_files(job.key)
        elif not end.tidy and self._now > end.ended + GRACE_S:
            tidy_up(self._records, self._blobs, job.key, end, len(self._leases.get(job.key, ())))

    def _thin_queue(self, over: set[str]) -> None:
        """Take names of jobs that are over out of the queue, once they are most of it."""
        if 2 * sum(id in over for id in self._queued) <= len(self._queued):
            return
        for _ in self._queued:
            id = self._records.dequeue()
            if id is not None and id not in over:
                self._records.enqueue(id)

    def _remove_uploads(self) -> None:
        for key, begun in self._uploads.items():
            if self._now - begun > self._limits.longest_s:
                self._records.delete(f"upload:{key}")

    def _remove_what_has_no_job(self) -> None:
        """Files at once; leases and ends when no turn can be going on any more."""
        with_job = {job.key for job in self._jobs.values()}
        for key in self._files.keys() - with_job - (self._uploads.keys() - self._ends.keys()):
            self._remove_files(key)
        for key in (self._leases.keys() | self._ends.keys()) - with_job:
            end = self._ends.get(key)
            # a turn at a job without an end began after it was gone
            if end is None or self._now > end.ended + self._limits.longest_s:
                for number in self._leases.get(key, ()):
                    self._records.delete(f"lease:{key}:{number}")
                self._records.delete(f"end:{key}")

    def _remove_files(self, key: str) -> None:
        for part in self._files.get(key, ()):
            self._blobs.delete_part(part)

    def _remove_beats(self) -> None:
        owners = {lease.owner for turns in self._leases.values() for lease in turns.values()}
        for owner in self._beats.keys() - owners:
            if not self._liveness.lives(owner, self._beats[owner]):
                self._records.delete(f"beat:{owner}")
        self._liveness.forget(owners | self._beats.keys())
