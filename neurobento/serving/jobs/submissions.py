"""Submit jobs, look them up, read their results and delete them, for the client's requests."""

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
    result_file,
    scan_file,
    to_json,
)
from neurobento.serving.jobs.limits import JobLimits
from neurobento.serving.tasks.parcellation.options import ParcellationOptions

__all__ = ["Submissions"]


class Submissions:
    """The jobs in a database as clients see them; `JobQueue` adds the work on them."""

    def __init__(self, database: Database, limits: JobLimits) -> None:
        self._values, self._files = database.values, database.files
        self._limits = limits

    def submit(self, scan: Path, options: ParcellationOptions, key: str | None = None) -> Job:
        """Queue a job for a scan; a second request with the same idempotency key gets the first.

        Raises ServiceBusy if too many wait, JobConflict if the key was used for another request.
        """
        chosen = (options.model, options.preprocessing, options.space)
        request = hashlib.sha256("\n".join([file_sha256(scan), *chosen]).encode()).hexdigest()
        id = uuid.uuid4().hex if key is None else self._id_from_key(key)
        if (existing := self._find_job(id)) is not None:
            return _require_same(existing, request)
        self._require_capacity()
        job = Job(
            id=id,
            key=uuid.uuid4().hex,
            created=time.time(),
            request=request,
            model=options.model,
            preprocessing=options.preprocessing,
            space=options.space,
        )
        if not self._store(job, scan):
            # another request with the key was faster
            return self.submit(scan, options, key)
        # the job exists now: the next sweep does what fails here
        with contextlib.suppress(ServiceUnavailable):
            self._values.enqueue(id)
            self._values.delete(f"upload:{job.key}")
        return job

    def job(self, id: str) -> Job:
        """Return a job; raise JobNotFound if it does not exist or was removed."""
        return from_json(Job, self._packed_job(id))

    def leases(self, job: Job) -> list[Lease]:
        leases: list[Lease] = []
        while (packed := self._values.get(f"lease:{job.key}:{len(leases) + 1}")) is not None:
            leases.append(from_json(Lease, packed))
        return leases

    def end(self, job: Job) -> End | None:
        packed = self._values.get(f"end:{job.key}")
        return None if packed is None else from_json(End, packed)

    def expires(self, end: End) -> float:
        """Return when an ended job is removed, in seconds since 1970."""
        return end.ended + self._limits.keep_s

    def result(self, job: Job, end: End) -> Iterator[bytes]:
        """Yield the zip of a finished job in pieces."""
        return self._files.chunks(result_file(job.key, end.number))

    def delete(self, id: str) -> None:
        """Remove a job, whether it has ended or not."""
        self._remove(self._packed_job(id))

    def _find_job(self, id: str) -> Job | None:
        with contextlib.suppress(JobNotFound):
            return self.job(id)
        return None

    def _packed_job(self, id: str) -> bytes:
        """Return the entry of a job; remove an expired job that no sweep has removed yet."""
        packed = self._values.get(f"job:{id}")
        if packed is not None:
            end = self.end(from_json(Job, packed))
            if end is None or time.time() <= self.expires(end):
                return packed
            self._remove(packed)
        raise JobNotFound(
            expected="the id of a job",
            found="no such job, or one that was removed",
            remedy=f"Ended jobs are kept for {self._limits.keep_s:g} s; submit the scan again.",
        )

    def _exists(self, job: Job) -> bool:
        packed = self._values.get(f"job:{job.id}")
        return packed is not None and from_json(Job, packed).key == job.key

    def _remove(self, packed: bytes) -> None:
        """End a job that has not ended, and remove it, but no later job of the same id."""
        job = from_json(Job, packed)
        # a worker that is busy with it notices at its next heartbeat
        self._values.claim(f"end:{job.key}", to_json(End("cancelled", time.time())))
        self._values.delete_if(f"job:{job.id}", packed)
        remove_files(self._files, job.key, len(self.leases(job)))

    def _require_capacity(self) -> None:
        names = set(self._values.queued_names())
        limit = self._limits.max_waiting
        # names of deleted jobs count too at first: jobs are looked up only if it matters
        if len(names) < limit or self._count_waiting(names) < limit:
            return
        raise ServiceBusy(
            expected=f"fewer than {limit} jobs that wait",
            found="as many",
            remedy="Submit it again when some have ended.",
            retry_after_s=60.0,
        )

    def _count_waiting(self, names: set[str]) -> int:
        jobs = [job for job in map(self._find_job, names) if job is not None]
        return sum(self.end(job) is None for job in jobs)

    def _store(self, job: Job, scan: Path) -> bool:
        """Copy a scan in and write its job; return False if another job has the id."""
        self._values.put(f"upload:{job.key}", str(job.created).encode())
        try:
            with scan.open("rb") as source:
                self._files.write(scan_file(job.key), source)
        except Exception:
            with contextlib.suppress(ServiceUnavailable):
                self._withdraw(job)
            raise
        # an error here leaves all to the sweep: the database may have written the claim
        if not self._values.claim(f"job:{job.id}", to_json(job)):
            self._withdraw(job)
            return False
        # a sweep may have removed the scan of an upload that stood still for so long
        if time.time() - job.created > self._limits.longest_s / 2:
            self._remove(to_json(job))
            raise ServiceUnavailable(
                expected="a scan to be copied within minutes",
                found="an upload that took longer",
                remedy="Submit it again.",
                retry_after_s=5.0,
            )
        return True

    def _withdraw(self, job: Job) -> None:
        self._files.delete(scan_file(job.key))
        self._values.delete(f"upload:{job.key}")

    def _id_from_key(self, key: str) -> str:
        """Return one id for each key, which cannot be guessed from the key alone."""
        secret = self._values.get("secret")
        if secret is None:
            self._values.claim("secret", secrets.token_bytes(32))
            secret = self._values.get("secret") or b""
        return hmac.digest(secret, key.encode(), "sha256").hex()[:32]


def _require_same(job: Job, request: str) -> Job:
    if job.request != request:
        raise JobConflict(
            subject="Idempotency-Key",
            expected="one key for one request",
            found="a key that came with another scan or other options before",
            remedy="Choose another key for this request.",
        )
    return job
