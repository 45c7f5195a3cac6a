"""Work on jobs: when it is begun, how it ends, what becomes of it when something is missing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from neurobento.errors import (
    DeadlineExceeded,
    EmptyScan,
    JobNotFound,
    ServiceBusy,
    ServiceUnavailable,
)
from neurobento.serving.admission import Admission
from neurobento.serving.jobs import Database, JobQueue, JobWorker
from neurobento.serving.jobs import worker as module
from neurobento.serving.jobs.job import End, Job
from neurobento.serving.process import run_folder
from neurobento.serving.process.run_folder import RunFolder
from neurobento.serving.request import RequestContext
from neurobento.serving.tasks.parcellation.options import ParcellationOptions
from tests.neurobento.serving.jobs.conftest import LIMITS, OPTIONS

PARTS = {"expected": "a head", "found": "a tail", "remedy": "Turn it round."}
SOON_S = 60.0
RESULT = b"a zip"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Short waits; temporary files below the test's own folder."""
    for name in ("POLL_S", "HEARTBEAT_EVERY_S", "SWEEP_EVERY_S"):
        monkeypatch.setattr(module, name, 0.05)
    monkeypatch.setattr(module, "MAX_PAUSE_S", 0.1)
    monkeypatch.setattr(run_folder.tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("NEUROBENTO_RUN", raising=False)
    RunFolder.make().make_current()


class Front:
    """Answers with what it is told to, one thing after the other; the last one stays."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers) or [RESULT]
        self.scans: list[bytes] = []
        self.options: list[ParcellationOptions] = []
        self.ended = 0

    async def outputs(
        self, file: Path, options: ParcellationOptions, call: RequestContext
    ) -> bytes:
        self.scans.append(file.read_bytes())
        self.options.append(options)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            return await call.run(self._for_ever())
        return bytes(answer)

    async def _for_ever(self) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1
        return b""


class Server:
    """A worker with what it stands in."""

    def __init__(self, queue: JobQueue, front: Front, limit_s: float, **replaced: Any) -> None:
        self.queue, self.front = queue, front
        self.admission = Admission(2, 1, 600)
        self.is_ready = True
        self.worker = JobWorker(
            queue, front, self.admission, self._ready, replaced.get("at_once", 1), limit_s
        )

    async def _ready(self) -> bool:
        return self.is_ready

    async def until(self, true: Callable[[], object]) -> None:
        async with asyncio.timeout(SOON_S):
            while not await asyncio.to_thread(true):
                await asyncio.sleep(0.02)

    async def ended(self, job: Job) -> End:
        await self.until(lambda: self.queue.end(job))
        end = self.queue.end(job)
        assert end is not None
        return end


@contextlib.asynccontextmanager
async def serving(
    queue: JobQueue, front: Front, limit_s: float = 600, **replaced: Any
) -> AsyncIterator[Server]:
    server = Server(queue, front, limit_s, **replaced)
    await server.worker.start()
    try:
        yield server
    finally:
        await server.worker.stop()


def play(play: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(200):
            await play()

    asyncio.run(bounded())


def test_a_job_is_worked_on_as_it_was_asked(queue: JobQueue, submit: Any, tmp_path: Path) -> None:
    async def scene() -> None:
        front = Front()
        async with serving(queue, front) as server:
            job = submit(b"the bytes")
            server.worker.notify()
            end = await server.ended(job)
            assert (end.state, b"".join(queue.result(job, end))) == ("done", RESULT)
        assert front.scans == [b"the bytes"]
        (options,) = front.options
        assert vars(options) == vars(OPTIONS)
        assert not list(tmp_path.rglob("neurobento-upload-*"))

    play(scene)


def test_what_others_took_in_is_found(queue: JobQueue, submit: Any) -> None:
    async def scene() -> None:
        async with serving(queue, Front()) as server:
            await server.ended(submit())

    play(scene)


@pytest.mark.parametrize(
    ("error", "status", "kind", "words"),
    [
        (EmptyScan(**PARTS), 422, "EmptyScan", "expected a head"),
        (DeadlineExceeded(**PARTS), 504, "DeadlineExceeded", "expected a head"),
        (KeyError("jane doe"), 500, "InternalError", "something went wrong"),
    ],
)
def test_an_error_ends_a_job(
    queue: JobQueue, submit: Any, error: Exception, status: int, kind: str, words: str
) -> None:
    async def scene() -> None:
        async with serving(queue, Front(error)) as server:
            end = await server.ended(submit())
            assert (end.state, end.status, end.kind) == ("failed", status, kind)
            assert end.message.startswith(words)
            assert "jane" not in end.message
            # and the worker goes on
            server.front.answers = [RESULT]
            assert (await server.ended(submit())).state == "done"

    play(scene)


def test_work_that_takes_too_long_is_ended(queue: JobQueue, submit: Any) -> None:
    async def scene() -> None:
        front = Front(None)
        async with serving(queue, front, limit_s=0.3) as server:
            end = await server.ended(submit())
            assert (end.status, end.kind) == (504, "DeadlineExceeded")
            assert front.ended == 1

    play(scene)


def test_requests_go_first(queue: JobQueue, submit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        front = Front()
        async with serving(queue, front) as server:
            with server.admission.join_queue(RequestContext("a", "http", 60), "kind"):
                job = submit()
                server.worker.notify()
                await asyncio.sleep(0.5)
                # one that was being looked for already may be taken, and no more
                later = submit()
                await asyncio.sleep(0.5)
                assert queue.end(later) is None
            await server.ended(job)
            await server.ended(later)

    play(scene)


def test_but_not_for_ever(queue: JobQueue, submit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_YIELD_S", 0.2)

    async def scene() -> None:
        async with serving(queue, Front()) as server:
            with server.admission.join_queue(RequestContext("a", "http", 60), "kind"):
                await server.ended(submit())

    play(scene)


def test_a_busy_server_is_no_reason_to_fail(queue: JobQueue, submit: Any) -> None:
    """However often, and though each try is longer than the limit would be for all of them."""

    async def scene() -> None:
        front = Front(*[ServiceBusy(**PARTS, retry_after_s=0.02)] * 20, RESULT)
        async with serving(queue, front) as server:
            job = submit()
            assert (await server.ended(job)).state == "done"
            assert len(front.scans) == 21
            assert len(queue.leases(job)) == 1

    play(scene)


def test_without_a_place_it_waits_for_one(queue: JobQueue, submit: Any) -> None:
    async def scene() -> None:
        async with serving(queue, Front()) as server:
            with server.admission.slot(), server.admission.slot():
                job = submit()
                await server.until(lambda: queue.leases(job))
                await asyncio.sleep(0.3)
                assert queue.end(job) is None
            assert (await server.ended(job)).state == "done"

    play(scene)


def test_a_server_that_stays_busy_lets_others_have_the_job(
    queue: JobQueue, submit: Any, database: Database
) -> None:
    async def scene() -> None:
        busy = Front(ServiceBusy(**PARTS, retry_after_s=0.02))
        async with serving(queue, busy, limit_s=0.5) as server:
            job = submit()
            await server.until(lambda: any(lease.returned for lease in queue.leases(job)))
            idle = JobQueue(database, LIMITS, owner="another 1 1")
            async with serving(idle, Front()) as other:
                assert (await other.ended(job)).state == "done"

    play(scene)


def test_a_part_that_comes_back_is_waited_for(queue: JobQueue, submit: Any) -> None:
    async def scene() -> None:
        away = ServiceUnavailable(**PARTS, retry_after_s=0.02)
        front = Front(away, RESULT)
        async with serving(queue, front) as server:
            await server.until(lambda: True)
            server.is_ready = True
            job = submit()
            await server.until(lambda: front.scans)
            server.is_ready = False
            await asyncio.sleep(0.5)
            tries = len(front.scans)
            server.is_ready = True
            assert (await server.ended(job)).state == "done"
            assert tries <= 2
            assert len(queue.leases(job)) == 1

    play(scene)


def test_a_scan_that_parts_go_missing_under_is_failed(queue: JobQueue, submit: Any) -> None:
    async def scene() -> None:
        away = ServiceUnavailable(**PARTS, retry_after_s=0.02)
        front = Front(away)
        async with serving(queue, front) as server:
            end = await server.ended(submit())
            assert (end.status, end.kind) == (503, "ServiceUnavailable")
            assert len(front.scans) == module.MAX_UNAVAILABLE

    play(scene)


def test_nothing_is_begun_before_all_parts_are_there(queue: JobQueue, submit: Any) -> None:
    async def scene() -> None:
        job = submit()
        front = Front()
        server = Server(queue, front, 600)
        server.is_ready = False
        await server.worker.start()
        await asyncio.sleep(0.5)
        assert not queue.leases(job)
        server.is_ready = True
        await server.ended(job)
        await server.worker.stop()

    play(scene)


def test_a_job_deleted_while_it_runs_is_ended_and_leaves_nothing(
    queue: JobQueue, submit: Any, database: Database
) -> None:
    async def scene() -> None:
        front = Front(None)
        async with serving(queue, front) as server:
            job = submit()
            await server.until(lambda: front.scans)
            await asyncio.to_thread(queue.delete, job.id)
            await server.until(lambda: front.ended)
            front.answers = [RESULT]
            assert (await server.ended(submit())).state == "done"
            with pytest.raises(JobNotFound):
                queue.job(job.id)
            await server.until(lambda: not any(job.key in name for name in stored_files(database)))

    play(scene)


def test_a_job_deleted_while_it_waits_for_room_is_left(queue: JobQueue, submit: Any) -> None:
    async def scene() -> None:
        front = Front(ServiceBusy(**PARTS, retry_after_s=0.05))
        async with serving(queue, front) as server:
            job = submit()
            await server.until(lambda: front.scans)
            await asyncio.to_thread(queue.delete, job.id)
            front.answers = [RESULT]
            assert (await server.ended(submit())).state == "done"

    play(scene)


def test_a_server_that_stops_gives_back(queue: JobQueue, submit: Any, database: Database) -> None:
    async def scene() -> None:
        front = Front(None)
        async with serving(queue, front) as server:
            job = submit()
            await server.until(lambda: front.scans)
        assert front.ended == 1
        assert [lease.returned for lease in queue.leases(job)] == [True]
        async with serving(JobQueue(database, LIMITS, owner="another 1 1"), Front()) as server:
            end = await server.ended(job)
            assert (end.state, end.number) == ("done", 2)

    play(scene)


def test_a_server_about_to_stop_begins_nothing_and_gives_back_what_waits(
    queue: JobQueue, submit: Any
) -> None:
    async def scene() -> None:
        front = Front(ServiceBusy(**PARTS, retry_after_s=0.05))
        async with serving(queue, front) as server:
            job = submit()
            await server.until(lambda: front.scans)
            RunFolder.current().drain()
            await server.until(lambda: [lease.returned for lease in queue.leases(job)] == [True])
            front.answers = [RESULT]
            later = submit()
            await asyncio.sleep(0.5)
            assert queue.end(job) is None
            assert queue.end(later) is None

    play(scene)


@contextlib.contextmanager
def away(queue: Any, *names: str) -> Any:
    """The database cannot be reached by these methods."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise ServiceUnavailable(**PARTS, retry_after_s=0.02)

    before = {name: getattr(queue, name) for name in names}
    for name in names:
        setattr(queue, name, refuse)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(queue, name, method)


@pytest.mark.parametrize(
    "at", ["take", "copy_scan", "finish", "sweep", "send_heartbeat", "is_wanted"]
)
def test_a_database_that_is_away_for_a_while_fails_no_job(
    queue: JobQueue, submit: Any, at: str
) -> None:
    async def scene() -> None:
        async with serving(queue, Front()) as server:
            with away(queue, at):
                job = submit()
                server.worker.notify()
                await asyncio.sleep(0.6)
            end = await server.ended(job)
            assert (end.state, end.number) == ("done", 1)
            assert b"".join(queue.result(job, end)) == RESULT

    play(scene)


def test_an_error_that_nobody_expected_stops_no_worker(
    queue: JobQueue, submit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with serving(queue, Front()) as server:
            for name in ("take", "sweep", "send_heartbeat"):
                with away(queue):
                    before = getattr(queue, name)
                    setattr(queue, name, lambda: {}["none"])
                    await asyncio.sleep(0.2)
                    setattr(queue, name, before)
            assert (await server.ended(submit())).state == "done"

    caplog.set_level(logging.WARNING)
    play(scene)


def test_a_full_disk_is_waited_for(
    queue: JobQueue, submit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with serving(queue, Front()) as server:
            with monkeypatch.context() as full:

                def no_room(*_: Any) -> Any:
                    raise OSError(errno.ENOSPC, "no space")

                full.setattr(queue._files, "chunks", no_room)
                job = submit()
                await server.until(lambda: queue.leases(job))
                await asyncio.sleep(0.3)
                assert queue.end(job) is None
            assert (await server.ended(job)).state == "done"

    play(scene)


def test_as_many_at_once_as_is_said(queue: JobQueue, submit: Any, database: Database) -> None:
    async def scene() -> None:
        front = Front(None)
        async with serving(queue, front, at_once=2) as server:
            jobs = [submit() for _ in range(3)]
            await server.until(lambda: len(front.scans) == 2)
            await asyncio.sleep(0.3)
            assert len(front.scans) == 2
            assert [bool(queue.leases(job)) for job in jobs] == [True, True, False]

    play(scene)


def test_none_are_worked_on_where_none_may_be(queue: JobQueue, submit: Any) -> None:
    """Such a server takes jobs in and sweeps."""

    async def scene() -> None:
        async with serving(queue, Front(), at_once=0) as server:
            job = submit()
            await asyncio.sleep(0.3)
            assert not queue.leases(job)
            queue.delete(job.id)
            await server.until(lambda: not left_over_names(queue))

    play(scene)


def stored_files(database: Database) -> list[str]:
    return database.files.keys()


def left_over_names(queue: Any) -> list[str]:
    return list(queue._values.queued_names())


def test_a_jobs_end_is_logged_by_its_id_alone(
    queue: JobQueue, submit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("neurobento.serving")

    async def scene() -> None:
        async with serving(queue, Front()) as server:
            job = submit(b"jane")
            await server.ended(job)
            await server.until(lambda: any(job.id in r.getMessage() for r in caplog.records))
            record = next(r for r in caplog.records if job.id in r.getMessage())
            assert "jane" not in str(record.__dict__)
            assert record.__dict__["protocol"] == "job"
            assert record.__dict__["status"] == 200

    logger.addHandler(caplog.handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        play(scene)
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(level)
