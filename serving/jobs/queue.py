"""The queue of jobs: taking in, taking a turn, ending.

A name in the queue is only a hint to look at a job: one too many is harmless, and a lost one
is put back by `serving.jobs.sweep`, which looks after all that a kill may leave behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import io
import secrets
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from neurobento.errors import JobConflict, JobNotFound, ServiceBusy, ServiceUnavailable
from neurobento.spec import file_sha256
from serving.jobs.owners import Liveness, this_owner
from serving.jobs.records import (
    End,
    Job,
    Lease,
    State,
    pack_record,
    remove_files,
    result_name,
    scan_name,
    tidy_up,
    unpack_record,
)
from serving.jobs.storage import Database
from serving.jobs.sweep import Limits, Sweep

__all__ = ["JobQueue", "Limits", "Turn"]

MOST_TURNS = 5
"""A job that this many owners died over takes no further one with it."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """A job that is this owner's to work on, and which turn at it this is."""

    job: Job
    number: int

    @property
    def result(self) -> str:
        """Name of its result among the blobs."""
        return result_name(self.job.key, self.number)


class JobQueue:
    """Jobs in a database that other servers may share; every method may be called by any thread.

    All methods raise `ServiceUnavailable` when the database cannot be reached or has no room.

    Parameters
    ----------
    database
        Where everything is.
    limits
        See `Limits`.
    liveness
        Judges other owners.
    """

    def __init__(
        self, database: Database, limits: Limits, liveness: Liveness | None = None
    ) -> None:
        self._records, self._blobs = database.records, database.blobs
        self._limits, self._liveness = limits, liveness or Liveness()
        self._owner = this_owner()
        self._beats = 0
        self._sweeping = threading.Lock()

    # --- for clients ---

    def submit(self, scan: Path, asked: tuple[str, str, str], key: str | None = None) -> Job:
        """Take a scan in.

        Parameters
        ----------
        scan
            Its file; a copy is kept.
        asked
            Model, level and space.
        key
            The client's: a second request with the same is the first one's job.

        Raises
        ------
        ServiceBusy
            There are as many jobs as there may be.
        JobConflict
            The key was used for another request.
        """
        request = hashlib.sha256("\n".join([file_sha256(scan), *asked]).encode()).hexdigest()
        id = uuid.uuid4().hex if key is None else self._id_of(key)
        if (there := self._job(id)) is not None:
            return _same(there, request)
        if (waiting := len(self._records.queued())) >= self._limits.most:
            raise ServiceBusy(
                expected=f"fewer than {self._limits.most} jobs that wait",
                found=str(waiting),
                remedy="Submit it again when some have ended.",
                retry_after_s=60.0,
            )
        job = Job(id, uuid.uuid4().hex, time.time(), request, *asked)
        if not self._take_in(job, scan):
            # another request with the key was quicker
            return _same(self.job(id), request)
        self._records.enqueue(id)
        self._records.delete(f"upload:{job.key}")
        return job

    def _take_in(self, job: Job, scan: Path) -> bool:
        """Copy a scan in and write its job down; whether no other has the id, and nothing is left
        behind if one does, or the database has no room."""
        self._records.put(f"upload:{job.key}", str(job.created).encode())
        is_first = False
        try:
            with scan.open("rb") as source:
                self._blobs.write(scan_name(job.key), source)
            is_first = self._records.claim(f"job:{job.id}", pack_record(job))
            return is_first
        finally:
            if not is_first:
                with contextlib.suppress(ServiceUnavailable):
                    self._blobs.delete(scan_name(job.key))
                    self._records.delete(f"upload:{job.key}")

    def job(self, id: str) -> Job:
        """The job of an id.

        Raises
        ------
        JobNotFound
            There is none, or no more.
        """
        if (job := self._job(id)) is None:
            raise JobNotFound(
                expected="the id of a job",
                found="one that is not there, or not any more",
                remedy=f"Ended jobs are kept for {self._limits.keep_s:g} s; submit the scan again.",
            )
        return job

    def turns(self, job: Job) -> list[Lease]:
        """Every turn that was taken at it."""
        leases: list[Lease] = []
        while (packed := self._records.get(f"lease:{job.key}:{len(leases) + 1}")) is not None:
            leases.append(unpack_record(Lease, packed))
        return leases

    def end(self, job: Job) -> End | None:
        """How it ended, if it has."""
        packed = self._records.get(f"end:{job.key}")
        return None if packed is None else unpack_record(End, packed)

    def state(self, turns: list[Lease], end: End | None) -> State:
        """What a job is doing."""
        if end is not None:
            return end.state
        return "running" if turns and self._is_held(turns[-1]) else "waiting"

    def expires(self, end: End) -> float:
        """When an ended job goes, in seconds since 1970."""
        return end.ended + self._limits.keep_s

    def result(self, job: Job, end: End) -> Iterator[bytes]:
        """The zip of a job that is done, in pieces."""
        return self._blobs.chunks(result_name(job.key, end.number))

    def delete(self, id: str) -> None:
        """End a job, if it has not ended, and forget it.

        Raises
        ------
        JobNotFound
            There is none, or no more.
        """
        job = self.job(id)
        # whoever works on it ends in vain, and finds out at the next beat
        self._records.claim(f"end:{job.key}", pack_record(End("cancelled", time.time())))
        self._records.delete(f"job:{id}")
        remove_files(self._blobs, job.key, len(self.turns(job)))

    # --- for workers ---

    def take(self) -> Turn | None:
        """A turn at the first job that waits, if there is one; nobody else has it."""
        while (id := self._records.dequeue()) is not None:
            job = self._job(id)
            if job is None or self.end(job) is not None:
                continue
            turns = self.turns(job)
            if turns and self._is_held(turns[-1]):
                continue
            if sum(not turn.returned for turn in turns) >= MOST_TURNS:
                self._give_up(job, len(turns))
                continue
            lease = Lease(len(turns) + 1, self._owner, time.time())
            if self._records.claim(f"lease:{job.key}:{lease.number}", pack_record(lease)):
                return Turn(job, lease.number)
        return None

    def read(self, turn: Turn, file: Path) -> None:
        """Copy the job's scan into a file."""
        self._blobs.read(scan_name(turn.job.key), file)

    def finish(self, turn: Turn, result: bytes) -> bool:
        """End a job with its result, a zip; whether it was not ended before."""
        self._blobs.write(turn.result, io.BytesIO(result))
        return self._end(turn, End("done", time.time(), turn.number))

    def fail(self, turn: Turn, status: int, kind: str, message: str) -> bool:
        """End a job with an error; whether it was not ended before."""
        return self._end(turn, End("failed", time.time(), turn.number, status, kind, message))

    def give_back(self, turn: Turn) -> None:
        """Let others work on a job, as this owner is about to stop."""
        lease = Lease(turn.number, self._owner, time.time(), returned=True)
        self._records.put(f"lease:{turn.job.key}:{turn.number}", pack_record(lease))
        self._records.enqueue(turn.job.id)

    def is_wanted(self, turn: Turn) -> bool:
        """Whether a job's end is still to come."""
        return self.end(turn.job) is None

    def beat(self) -> None:
        """Say that this owner lives."""
        self._beats += 1
        self._records.put(f"beat:{self._owner}", str(self._beats).encode())

    def sweep(self) -> dict[State, int]:
        """Put back what is lost, remove what is over; how many jobs are in which state."""
        with self._sweeping:
            return Sweep(self._records, self._blobs, self._limits, self._liveness).run()

    # --- inside ---

    def _id_of(self, key: str) -> str:
        """One id for each key, which nobody guesses who knows the key alone."""
        secret = self._records.get("secret")
        if secret is None:
            self._records.claim("secret", secrets.token_bytes(32))
            secret = self._records.get("secret") or b""
        return hmac.digest(secret, key.encode(), "sha256").hex()[:32]

    def _job(self, id: str) -> Job | None:
        packed = self._records.get(f"job:{id}")
        return None if packed is None else unpack_record(Job, packed)

    def _is_held(self, lease: Lease) -> bool:
        if lease.returned:
            return False
        return self._liveness.lives(lease.owner, self._records.get(f"beat:{lease.owner}"))

    def _end(self, turn: Turn, end: End) -> bool:
        if not self._records.claim(f"end:{turn.job.key}", pack_record(end)):
            self._blobs.delete(turn.result)
            return False
        tidy_up(self._records, self._blobs, turn.job.key, end, turn.number)
        return True

    def _give_up(self, job: Job, turns: int) -> None:
        words = (
            f"expected the job to end; found that {turns} servers died over it. Look at the scan."
        )
        end = End("failed", time.time(), turns, 500, "JobAbandoned", words)
        if self._records.claim(f"end:{job.key}", pack_record(end)):
            tidy_up(self._records, self._blobs, job.key, end, turns)


def _same(job: Job, request: str) -> Job:
    if job.request != request:
        raise JobConflict(
            subject="Idempotency-Key",
            expected="one key for one request",
            found="that it came with another scan, or other options, before",
            remedy="Choose another key for this request.",
        )
    return job
