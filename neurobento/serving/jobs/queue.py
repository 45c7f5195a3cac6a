"""Take jobs from the shared queue, whose names are hints only, and end them."""

from __future__ import annotations

import contextlib
import io
import secrets
import threading
import time
from pathlib import Path

from neurobento.errors import ServiceUnavailable
from neurobento.serving.jobs.database import Database
from neurobento.serving.jobs.job import (
    Attempt,
    End,
    Job,
    Lease,
    State,
    remove_leftovers,
    scan_file,
    to_json,
)
from neurobento.serving.jobs.limits import JobLimits
from neurobento.serving.jobs.owners import Liveness, this_owner
from neurobento.serving.jobs.submissions import Submissions
from neurobento.serving.jobs.sweep import Sweep
from neurobento.serving.process.exhaustion import map_exhaustion

__all__ = ["JobQueue"]

MAX_LOST_ATTEMPTS = 5
"""A job over which so many owners died is given up, so that it takes no further one with it."""


class JobQueue(Submissions):
    """The jobs in a shared database; thread-safe. No two queues may have the same owner.

    Methods raise `ServiceUnavailable` if the database cannot be reached or its disk is full.
    """

    def __init__(
        self,
        database: Database,
        limits: JobLimits,
        liveness: Liveness | None = None,
        owner: str | None = None,
    ) -> None:
        super().__init__(database, limits)
        self._liveness = liveness or Liveness()
        self._owner = owner or this_owner()
        self._held: set[Attempt] = set()
        self._held_lock = threading.Lock()
        self._sweep_lock = threading.Lock()
        self._heartbeats = 0

    def state(self, job: Job, leases: list[Lease], end: End | None) -> State:
        if end is not None:
            return end.state
        return "running" if leases and self._is_running(job, leases[-1]) else "waiting"

    def take(self) -> Attempt | None:
        """Return an attempt at the first job that waits, which nobody else gets until `release`."""
        while (id := self._values.dequeue()) is not None:
            job = self._find_job(id)
            if job is None or self.end(job) is not None:
                continue
            leases = self.leases(job)
            if leases and self._is_running(job, leases[-1]):
                continue
            if (lost := sum(not lease.returned for lease in leases)) >= MAX_LOST_ATTEMPTS:
                self._give_up(job, len(leases), lost)
                continue
            attempt = Attempt(job, len(leases) + 1)
            if self._claim(attempt):
                return attempt
        return None

    def _claim(self, attempt: Attempt) -> bool:
        """Return False if somebody else has the attempt, or the job has ended."""
        lease = Lease(attempt.number, self._owner, time.time(), mark=secrets.token_hex(8))
        is_ours = False
        with self._held_lock:
            if attempt in self._held:
                # another thread has it, or is about to claim it: not ours to release
                return False
            self._held.add(attempt)
        try:
            is_ours = self._values.claim(attempt.lease_key, to_json(lease))
            # the job may have ended meanwhile; if the database cannot say, at worst the work
            # is not needed
            with contextlib.suppress(ServiceUnavailable):
                is_ours = is_ours and self.is_wanted(attempt)
            return is_ours
        finally:
            # after an error the database may say that the attempt is ours; `_held` decides
            if not is_ours:
                self.release(attempt)

    def release(self, attempt: Attempt) -> None:
        """Record that nobody here works on an attempt any more."""
        self._held.discard(attempt)

    def copy_scan(self, attempt: Attempt, file: Path) -> None:
        """Copy the job's scan into a file; raise JobNotFound if the job was removed."""
        with map_exhaustion(), file.open("wb") as target:
            for chunk in self._files.chunks(scan_file(attempt.job.key)):
                target.write(chunk)

    def finish(self, attempt: Attempt, result: bytes) -> bool:
        """End a job with its result, a zip; return True if this attempt did. May be repeated."""
        self._files.write(attempt.result_file, io.BytesIO(result))
        return self._end(attempt, End("done", time.time(), attempt.number))

    def fail(self, attempt: Attempt, status: int, kind: str, message: str) -> bool:
        """End a job with an error; return True if this attempt is the one that ended it."""
        end = End("failed", time.time(), attempt.number, status, kind, message)
        return self._end(attempt, end)

    def give_back(self, attempt: Attempt) -> None:
        """Return a job to the queue, as this owner is about to stop."""
        lease = Lease(attempt.number, self._owner, time.time(), returned=True)
        self._values.put(attempt.lease_key, to_json(lease))
        self._values.enqueue(attempt.job.id)

    def is_wanted(self, attempt: Attempt) -> bool:
        """Return True while the job exists and has not ended."""
        return self._exists(attempt.job) and self.end(attempt.job) is None

    def send_heartbeat(self) -> None:
        self._heartbeats += 1
        self._values.put(f"beat:{self._owner}", str(self._heartbeats).encode())

    def sweep(self) -> dict[State, int]:
        """Repair what killed servers left, remove what has expired; count the jobs by state."""
        with self._sweep_lock:
            return Sweep(
                values=self._values,
                files=self._files,
                limits=self._limits,
                liveness=self._liveness,
                is_held=self._is_held,
            ).run()

    def _is_running(self, job: Job, lease: Lease) -> bool:
        return self._is_held(job, lease, self._values.get(f"beat:{lease.owner}"))

    def _is_held(self, job: Job, lease: Lease, heartbeat: bytes | None) -> bool:
        """Return True if the owner of a job's last lease is alive, given its latest heartbeat."""
        if lease.returned:
            return False
        if lease.owner == self._owner:
            return Attempt(job, lease.number) in self._held
        return self._liveness.is_alive(lease.owner, heartbeat)

    def _end(self, attempt: Attempt, end: End) -> bool:
        key = attempt.job.key
        # it may be this attempt's own, which the database wrote without answering
        written = self.end(attempt.job)
        if written is None and self._exists(attempt.job):
            is_first = self._values.claim(f"end:{key}", to_json(end))
            written = end if is_first else None
        if written is None or (written.number, written.state) != (end.number, end.state):
            self._files.delete(attempt.result_file)
            return False
        remove_leftovers(self._values, self._files, key, written, attempt.number)
        return True

    def _give_up(self, job: Job, attempts: int, lost: int) -> None:
        message = (
            f"expected the job to end; found that {lost} servers died over it. Look at the scan."
        )
        end = End("failed", time.time(), 0, 500, "JobAbandoned", message)
        if self._values.claim(f"end:{job.key}", to_json(end)):
            remove_leftovers(self._values, self._files, job.key, end, attempts)
