"""The queue of jobs: taking in, taking a turn, ending.

A name in the queue is only a hint to look at a job: one too many is harmless, and a lost one
is put back by `neurobento.serving.jobs.sweep`, which looks after all that a kill may leave behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import secrets
import threading
import time
from pathlib import Path

from neurobento.errors import ServiceUnavailable
from neurobento.serving.jobs.database import Database
from neurobento.serving.jobs.job import (
    End,
    Job,
    Lease,
    State,
    result_file_name,
    scan_file_name,
    tidy_up,
    to_json,
)
from neurobento.serving.jobs.owners import Liveness, this_owner
from neurobento.serving.jobs.submissions import Submissions
from neurobento.serving.jobs.sweep import JobLimits, Sweep
from neurobento.serving.process.exhaustion import map_exhaustion

__all__ = ["Attempt", "JobLimits", "JobQueue"]

MOST_TURNS = 5
"""A job that this many owners died over takes no further one with it."""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A job that is this owner's to work on, and which turn at it this is."""

    job: Job
    number: int

    @property
    def lease(self) -> str:
        """Name of its lease among the records."""
        return f"lease:{self.job.key}:{self.number}"

    @property
    def result(self) -> str:
        """Name of its result among the blobs."""
        return result_file_name(self.job.key, self.number)


class JobQueue(Submissions):
    """Jobs in a database that other servers may share; every method may be called by any thread.

    All methods raise `ServiceUnavailable` when the database cannot be reached or has no room.

    Parameters
    ----------
    database
        Where everything is.
    limits
        See `JobLimits`.
    liveness
        Judges other owners.
    owner
        Who this is; None: this process. Nobody else may be called so.
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
        self._holding = threading.Lock()
        self._beats = 0
        self._sweeping = threading.Lock()

    def state(self, job: Job, turns: list[Lease], end: End | None) -> State:
        """What a job is doing, given its turns and its end."""
        if end is not None:
            return end.state
        return "running" if turns and self._is_held(job, turns[-1]) else "waiting"

    def take(self) -> Attempt | None:
        """A turn at the first job that waits, if there is one; nobody else has it.

        It is this owner's until `let_go`.
        """
        while (id := self._records.dequeue()) is not None:
            job = self._job(id)
            if job is None or self.end(job) is not None:
                continue
            turns = self.turns(job)
            if turns and self._is_held(job, turns[-1]):
                continue
            if (died := sum(not turn.returned for turn in turns)) >= MOST_TURNS:
                self._give_up(job, len(turns), died)
                continue
            turn = Attempt(job, len(turns) + 1)
            if self._is_ours(turn):
                return turn
        return None

    def _is_ours(self, turn: Attempt) -> bool:
        """Whether this owner gets a turn, at a job that still needs one."""
        lease = Lease(turn.number, self._owner, time.time(), mark=secrets.token_hex(8))
        is_ours = False
        with self._holding:
            if turn in self._held:
                # another thread has it, or reaches for it: what it holds is not ours to let go
                return False
            self._held.add(turn)
        try:
            is_ours = self._records.claim(turn.lease, to_json(lease))
            # it may have been ended since it was looked at; if not even that is known, the work
            # is in vain at worst
            with contextlib.suppress(ServiceUnavailable):
                is_ours = is_ours and self.is_wanted(turn)
            return is_ours
        finally:
            # after an error it may be written that the turn is ours: `_is_held` knows better
            if not is_ours:
                self.let_go(turn)

    def let_go(self, turn: Attempt) -> None:
        """Nobody here works on it any more, however that came."""
        self._held.discard(turn)

    def read(self, turn: Attempt, file: Path) -> None:
        """Copy the job's scan into a file.

        Raises
        ------
        JobNotFound
            It is gone, as the job has ended.
        ServiceUnavailable
            Also when there is no room for the file.
        """
        with map_exhaustion(), file.open("wb") as target:
            for chunk in self._blobs.chunks(scan_file_name(turn.job.key)):
                target.write(chunk)

    def finish(self, turn: Attempt, result: bytes) -> bool:
        """End a job with its result, a zip; whether this turn is the one that ended it.

        After an error it may be tried again, as `fail` may: it says the same as it would have.
        """
        self._blobs.write(turn.result, io.BytesIO(result))
        return self._end(turn, End("done", time.time(), turn.number))

    def fail(self, turn: Attempt, status: int, kind: str, message: str) -> bool:
        """End a job with an error; whether this turn is the one that ended it."""
        return self._end(turn, End("failed", time.time(), turn.number, status, kind, message))

    def give_back(self, turn: Attempt) -> None:
        """Let others work on a job, as this owner is about to stop."""
        lease = Lease(turn.number, self._owner, time.time(), returned=True)
        self._records.put(turn.lease, to_json(lease))
        self._records.enqueue(turn.job.id)

    def is_wanted(self, turn: Attempt) -> bool:
        """Whether a job's end is still to come."""
        return self._is_there(turn.job) and self.end(turn.job) is None

    def beat(self) -> None:
        """Say that this owner lives."""
        self._beats += 1
        self._records.put(f"beat:{self._owner}", str(self._beats).encode())

    def sweep(self) -> dict[State, int]:
        """Put back what is lost, remove what is over; how many jobs are in which state."""
        with self._sweeping:
            return Sweep(
                self._records, self._blobs, self._limits, self._liveness, self._is_worked_on
            ).run()

    def _is_held(self, job: Job, lease: Lease) -> bool:
        return self._is_worked_on(job, lease, self._records.get(f"beat:{lease.owner}"))

    def _is_worked_on(self, job: Job, lease: Lease, beat: bytes | None) -> bool:
        """Whether the last turn at a job goes on, given its owner's newest beat."""
        if lease.returned:
            return False
        if lease.owner == self._owner:
            return Attempt(job, lease.number) in self._held
        return self._liveness.lives(lease.owner, beat)

    def _end(self, turn: Attempt, end: End) -> bool:
        # it may be this turn's own, from a try that the database took and did not answer
        there = self.end(turn.job)
        if there is None and self._is_there(turn.job):
            is_first = self._records.claim(f"end:{turn.job.key}", to_json(end))
            there = end if is_first else None
        if there is None or (there.number, there.state) != (end.number, end.state):
            self._blobs.delete(turn.result)
            return False
        tidy_up(self._records, self._blobs, turn.job.key, there, turn.number)
        return True

    def _give_up(self, job: Job, turns: int, died: int) -> None:
        words = (
            f"expected the job to end; found that {died} servers died over it. Look at the scan."
        )
        end = End("failed", time.time(), 0, 500, "JobAbandoned", words)
        if self._records.claim(f"end:{job.key}", to_json(end)):
            tidy_up(self._records, self._blobs, job.key, end, turns)
