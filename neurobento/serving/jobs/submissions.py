"""What clients do with jobs: hand them in, look at them, delete them."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from neurobento.errors import JobConflict, JobNotFound, ServiceBusy, ServiceUnavailable
from neurobento.files import file_sha256
from neurobento.serving.jobs.database import Database
from neurobento.serving.jobs.job import (
    End,
    Job,
    Lease,
    from_json,
    remove_files,
    result_file_name,
    scan_file_name,
    to_json,
)
from neurobento.serving.jobs.sweep import JobLimits

__all__ = ["Submissions"]


class Submissions:
    """Jobs as their clients have to do with them; see `JobQueue`.

    Parameters
    ----------
    database
        Where everything is.
    limits
        See `JobLimits`.
    """

    def __init__(self, database: Database, limits: JobLimits) -> None:
        self._records, self._blobs = database.records, database.blobs
        self._limits = limits

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
        self._require_room()
        job = Job(id, uuid.uuid4().hex, time.time(), request, *asked)
        if not self._take_in(job, scan):
            # another request with the key was quicker
            return self.submit(scan, asked, key)
        # it is taken in: what is not done here is done by the next sweep
        with contextlib.suppress(ServiceUnavailable):
            self._records.enqueue(id)
            self._records.delete(f"upload:{job.key}")
        return job

    def job(self, id: str) -> Job:
        """The job of an id.

        Raises
        ------
        JobNotFound
            There is none, or no more.
        """
        return from_json(Job, self._packed(id))

    def turns(self, job: Job) -> list[Lease]:
        """Every turn that was taken at it."""
        leases: list[Lease] = []
        while (packed := self._records.get(f"lease:{job.key}:{len(leases) + 1}")) is not None:
            leases.append(from_json(Lease, packed))
        return leases

    def end(self, job: Job) -> End | None:
        """How it ended, if it has."""
        packed = self._records.get(f"end:{job.key}")
        return None if packed is None else from_json(End, packed)

    def expires(self, end: End) -> float:
        """When an ended job goes, in seconds since 1970."""
        return end.ended + self._limits.keep_s

    def result(self, job: Job, end: End) -> Iterator[bytes]:
        """The zip of a job that is done, in pieces.

        Raises
        ------
        JobNotFound
            The job went, perhaps while its result was read.
        """
        return self._blobs.chunks(result_file_name(job.key, end.number))

    def delete(self, id: str) -> None:
        """End a job, if it has not ended, and forget it.

        Raises
        ------
        JobNotFound
            There is none, or no more.
        """
        self._forget(self._packed(id))

    def _job(self, id: str) -> Job | None:
        """The job of an id, if there is one."""
        with contextlib.suppress(JobNotFound):
            return self.job(id)
        return None

    def _packed(self, id: str) -> bytes:
        """The record of a job; one whose time is over is removed, if no sweep has done so yet."""
        packed = self._records.get(f"job:{id}")
        if packed is not None:
            end = self.end(from_json(Job, packed))
            if end is None or time.time() <= self.expires(end):
                return packed
            self._forget(packed)
        raise JobNotFound(
            expected="the id of a job",
            found="one that is not there, or not any more",
            remedy=f"Ended jobs are kept for {self._limits.keep_s:g} s; submit the scan again.",
        )

    def _is_there(self, job: Job) -> bool:
        """Whether the job of its id is still this one."""
        packed = self._records.get(f"job:{job.id}")
        return packed is not None and from_json(Job, packed).key == job.key

    def _forget(self, packed: bytes) -> None:
        """End a job, if it has not ended, and remove it: this one, and no later one of its id."""
        job = from_json(Job, packed)
        # whoever works on it ends in vain, and finds out at the next beat
        self._records.claim(f"end:{job.key}", to_json(End("cancelled", time.time())))
        self._records.delete_if(f"job:{job.id}", packed)
        remove_files(self._blobs, job.key, len(self.turns(job)))

    def _require_room(self) -> None:
        names = set(self._records.queued())
        # some may be of jobs that were deleted: they are looked at only if it matters
        if len(names) < self._limits.most or self._waiting(names) < self._limits.most:
            return
        raise ServiceBusy(
            expected=f"fewer than {self._limits.most} jobs that wait",
            found="as many",
            remedy="Submit it again when some have ended.",
            retry_after_s=60.0,
        )

    def _waiting(self, names: set[str]) -> int:
        jobs = [job for job in map(self._job, names) if job is not None]
        return sum(self.end(job) is None for job in jobs)

    def _take_in(self, job: Job, scan: Path) -> bool:
        """Copy a scan in and write its job down; whether no other has the id."""
        self._records.put(f"upload:{job.key}", str(job.created).encode())
        try:
            with scan.open("rb") as source:
                self._blobs.write(scan_file_name(job.key), source)
        except Exception:
            with contextlib.suppress(ServiceUnavailable):
                self._withdraw(job)
            raise
        # after an error all stays for a sweep to judge: the database may have taken this claim
        if not self._records.claim(f"job:{job.id}", to_json(job)):
            self._withdraw(job)
            return False
        # who stood still for so long may find that a sweep took the scan for nobody's
        if time.time() - job.created > self._limits.longest_s / 2:
            self._forget(to_json(job))
            raise ServiceUnavailable(
                expected="a scan that is taken in within minutes",
                found="that it took longer",
                remedy="Submit it again.",
                retry_after_s=5.0,
            )
        return True

    def _withdraw(self, job: Job) -> None:
        self._blobs.delete(scan_file_name(job.key))
        self._records.delete(f"upload:{job.key}")

    def _id_of(self, key: str) -> str:
        """One id for each key, which nobody guesses who knows the key alone."""
        secret = self._records.get("secret")
        if secret is None:
            self._records.claim("secret", secrets.token_bytes(32))
            secret = self._records.get("secret") or b""
        return hmac.digest(secret, key.encode(), "sha256").hex()[:32]


def _same(job: Job, request: str) -> Job:
    if job.request != request:
        raise JobConflict(
            subject="Idempotency-Key",
            expected="one key for one request",
            found="that it came with another scan, or other options, before",
            remedy="Choose another key for this request.",
        )
    return job
