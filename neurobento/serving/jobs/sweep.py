"""Repair what killed servers left in the jobs database, and remove what has expired."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Mapping

from neurobento.serving.jobs.database import FileStore, KeyValueStore
from neurobento.serving.jobs.job import End, Job, Lease, State, from_json, remove_leftovers
from neurobento.serving.jobs.limits import JobLimits
from neurobento.serving.jobs.owners import Liveness

__all__ = ["Sweep"]

GRACE_S = 10.0
"""The server that ended a job so recently may still be removing its leftovers itself."""


class Sweep:
    """One pass over the whole database; several servers may make one at the same time.

    The next pass continues one that was killed. `end` outlives `job`: no late attempt ends it.
    """

    def __init__(
        self,
        values: KeyValueStore,
        files: FileStore,
        limits: JobLimits,
        liveness: Liveness,
        is_held: Callable[[Job, Lease, bytes | None], bool],
    ) -> None:
        self._values, self._files = values, files
        self._limits, self._liveness = limits, liveness
        self._is_held = is_held
        # the order matters, files, queue, values: the entry of an upload is written before its
        # files, and a name that leaves the queue meanwhile leaves a lease that is seen below
        self._file_keys: dict[str, list[str]] = collections.defaultdict(list)
        for name in files.keys():  # noqa: SIM118 (no dictionary)
            self._file_keys[name.partition("/")[0]].append(name)
        self._queued = values.queued_names()
        self._now = time.time()
        self._jobs: dict[str, Job] = {}
        self._packed: dict[str, bytes] = {}
        self._ends: dict[str, End] = {}
        self._leases: dict[str, dict[int, Lease]] = collections.defaultdict(dict)
        self._uploads: dict[str, float] = {}
        self._heartbeats: dict[str, bytes] = {}
        self._sort(values.items())

    def run(self) -> dict[State, int]:
        """Do all repairs, and count the jobs that wait and those that run."""
        waiting: set[str] = set()
        running = 0
        for job in self._jobs.values():
            end = self._ends.get(job.key)
            if end is not None:
                self._remove_ended(job, end)
            elif self._is_running(job):
                running += 1
            else:
                waiting.add(job.id)
        for id in waiting.difference(self._queued):
            self._values.enqueue(id)
        self._thin_queue(set(self._queued) - waiting)
        self._remove_uploads()
        self._remove_orphans()
        self._remove_heartbeats()
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
                self._heartbeats[rest] = packed

    def _is_running(self, job: Job) -> bool:
        leases = self._leases.get(job.key)
        if not leases:
            return False
        last = leases[max(leases)]
        return self._is_held(job, last, self._heartbeats.get(last.owner))

    def _remove_ended(self, job: Job, end: End) -> None:
        """Remove an expired job; remove the leftovers of one that ended some time ago."""
        if self._now > end.ended + self._limits.keep_s:
            # only this entry: the client may have used its key again for a later job
            self._values.delete_if(f"job:{job.id}", self._packed[job.id])
            self._remove_files(job.key)
        elif not end.tidy and self._now > end.ended + GRACE_S:
            attempts = len(self._leases.get(job.key, ()))
            remove_leftovers(self._values, self._files, job.key, end, attempts)

    def _thin_queue(self, ended: set[str]) -> None:
        """Take the names of ended jobs out of the queue, once they are most of it."""
        if 2 * sum(id in ended for id in self._queued) <= len(self._queued):
            return
        for _ in self._queued:
            id = self._values.dequeue()
            if id is not None and id not in ended:
                self._values.enqueue(id)

    def _remove_uploads(self) -> None:
        for key, begun in self._uploads.items():
            if self._now - begun > self._limits.longest_s:
                self._values.delete(f"upload:{key}")

    def _remove_orphans(self) -> None:
        """Remove what has no job: files at once, leases and ends once no attempt can still run."""
        with_job = {job.key for job in self._jobs.values()}
        for key in self._file_keys.keys() - with_job - (self._uploads.keys() - self._ends.keys()):
            self._remove_files(key)
        for key in (self._leases.keys() | self._ends.keys()) - with_job:
            end = self._ends.get(key)
            # an attempt at a job without an end began after the job was removed
            if end is None or self._now > end.ended + self._limits.longest_s:
                for number in self._leases.get(key, ()):
                    self._values.delete(f"lease:{key}:{number}")
                self._values.delete(f"end:{key}")

    def _remove_files(self, key: str) -> None:
        for name in self._file_keys.get(key, ()):
            self._files.delete_key(name)

    def _remove_heartbeats(self) -> None:
        owners = {lease.owner for leases in self._leases.values() for lease in leases.values()}
        for owner in self._heartbeats.keys() - owners:
            if not self._liveness.is_alive(owner, self._heartbeats[owner]):
                self._values.delete(f"beat:{owner}")
        self._liveness.keep_only(owners | self._heartbeats.keys())
