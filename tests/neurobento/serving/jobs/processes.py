"""Servers and clients of jobs as processes, to be killed: what they do is a function of bytes."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tempfile
import time
import zipfile
from pathlib import Path

from neurobento.errors import NeuroBentoError
from neurobento.serving.admission import Admission
from neurobento.serving.jobs import Database, JobLimits, JobQueue, JobWorker, worker
from neurobento.serving.jobs.job import Attempt
from neurobento.serving.request import RequestContext
from neurobento.serving.tasks.parcellation.options import ParcellationOptions
from tests.neurobento.serving.jobs.conftest import OPTIONS

WORK_S = 0.1
SWEEP_EVERY_S = 1.0
BEAT_EVERY_S = 0.5
SCAN_BYTES = 100_000


def scan_of(number: int) -> bytes:
    """Another for each number, and no smaller when packed."""
    return hashlib.shake_256(str(number).encode()).digest(SCAN_BYTES)


def result_of(scan: bytes) -> bytes:
    """What a parcellation of a scan is here: a zip, other for each scan."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        when = (1980, 1, 1, 0, 0, 0)
        labels = hashlib.shake_256(scan).digest(SCAN_BYTES // 2)
        target.writestr(zipfile.ZipInfo("scan_dseg.nii.gz", when), labels)
    return archive.getvalue()


class SlowHandler:
    """A handler that takes some time for each scan."""

    async def outputs(
        self, file: Path, options: ParcellationOptions, context: RequestContext
    ) -> bytes:
        async def work() -> bytes:
            await asyncio.sleep(WORK_S)
            return result_of(file.read_bytes())

        return await context.run(work())


class NotedQueue(JobQueue):
    """Writes a line, `id attempt`, for each job that it has ended."""

    log: Path

    def finish(self, attempt: Attempt, result: bytes) -> bool:
        ended = super().finish(attempt, result)
        if ended:
            note(self.log, f"{attempt.job.id} {attempt.number}")
        return ended


def note(log: Path, line: str) -> None:
    """One line more, whole or not there."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def serve(url: str, limits: JobLimits, log: Path) -> None:
    """Work on jobs until killed."""
    tempfile.tempdir = str(log.parent)
    worker.SWEEP_EVERY_S, worker.HEARTBEAT_EVERY_S = SWEEP_EVERY_S, BEAT_EVERY_S

    async def run() -> None:
        queue = NotedQueue(Database(url), limits)
        queue.log = log
        admission = Admission(16, 2, 600)
        await JobWorker(queue, SlowHandler(), admission, _ready, 2, 60).start()
        await asyncio.Event().wait()

    asyncio.run(run())


async def _ready() -> bool:
    return True


def submit(url: str, limits: JobLimits, log: Path, numbers: range) -> None:
    """Submit scans that nobody accepted yet, each with a key of its own, again if need be.

    What was accepted is written down, as a client would; who is killed before that asks again.
    """
    database = Database(url)
    queue = JobQueue(database, limits)
    accepted = {int(line.split()[0]) for line in lines(log)}
    scan = log.parent / f"scan-{os.getpid()}"
    for number in numbers:
        while number not in accepted:
            scan.write_bytes(scan_of(number))
            try:
                job = queue.submit(scan, OPTIONS, f"key-{number}")
            except NeuroBentoError:
                time.sleep(0.05)
                continue
            note(log, f"{number} {job.id}")
            accepted.add(number)
    database.close()


def lines(log: Path) -> list[str]:
    """Of a log that may not be there yet."""
    return log.read_text().splitlines() if log.exists() else []
