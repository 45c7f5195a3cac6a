"""Work on jobs: when it is begun, how it ends, what becomes of it when something is missing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Callable
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
from tests.neurobento.serving.jobs.conftest import LIMITS, OPTIONS, end_of
from tests.neurobento.serving.waiting import counted_calls, in_event_loop, wait_for_async

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
    # set here, so that what the run folder sets is taken back after the test
    for name in ("NEUROBENTO_RUN", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("NEUROBENTO_RUN")
    RunFolder.make().make_current()


class ScriptedHandler:
    """A handler that gives its answers one after the other, the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers) or [RESULT]
        self.scans: list[bytes] = []
        self.options: list[ParcellationOptions] = []
        self.ended = 0

    async def outputs(
        self, file: Path, options: ParcellationOptions, context: RequestContext
    ) -> bytes:
        self.scans.append(file.read_bytes())
        self.options.append(options)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            return await context.run(self._for_ever())
        return bytes(answer)

    async def _for_ever(self) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1
        return b""


class Server:
    """A worker with the parts of a server that it needs."""

    def __init__(
        self, queue: JobQueue, handler: ScriptedHandler, limit_s: float, **replaced: Any
    ) -> None:
        self.queue, self.handler = queue, handler
        self.admission = Admission(2, 1, 600)
        self.is_ready, self.ready_polls = True, 0
        self.worker = JobWorker(
            queue, handler, self.admission, self._ready, replaced.get("at_once", 1), limit_s
        )

    async def _ready(self) -> bool:
        self.ready_polls += 1
        return self.is_ready

    async def until(self, fact: Callable[[], object]) -> None:
        await wait_for_async(fact, "the worker's progress", SOON_S)

    async def after_calls(self, owner: Any, method: str) -> None:
        """Return once the worker has called a method three more times."""
        with counted_calls(owner, method) as calls:
            await self.until(lambda: len(calls) > 3)

    async def while_not_ready(self) -> None:
        """Report that a part is missing until the worker has asked three more times."""
        self.is_ready, polls = False, self.ready_polls
        await self.until(lambda: self.ready_polls > polls + 3)
        self.is_ready = True

    async def ended(self, job: Job) -> End:
        await self.until(lambda: self.queue.end(job))
        return end_of(self.queue, job)


@contextlib.asynccontextmanager
async def serving(
    queue: JobQueue, handler: ScriptedHandler, limit_s: float = 600, **replaced: Any
) -> AsyncIterator[Server]:
    server = Server(queue, handler, limit_s, **replaced)
    await server.worker.start()
    try:
        yield server
    finally:
        await server.worker.stop()


@pytest.mark.parametrize("is_known", [True, False])
@in_event_loop
async def test_a_job_runs_with_its_scan_and_options(
    queue: JobQueue, submit: Any, tmp_path: Path, is_known: bool
) -> None:
    """One that another server accepted is found."""
    handler = ScriptedHandler()
    async with serving(queue, handler) as server:
        job = submit(b"the bytes")
        if is_known:
            server.worker.notify()
        end = await server.ended(job)
        assert (end.state, b"".join(queue.result(job, end))) == ("done", RESULT)
    assert handler.scans == [b"the bytes"]
    (options,) = handler.options
    assert vars(options) == vars(OPTIONS)
    assert not list(tmp_path.rglob("neurobento-upload-*"))


@pytest.mark.parametrize(
    ("error", "status", "kind", "words"),
    [
        (EmptyScan(**PARTS), 422, "EmptyScan", "expected a head"),
        (DeadlineExceeded(**PARTS), 504, "DeadlineExceeded", "expected a head"),
        (KeyError("jane doe"), 500, "InternalError", "something went wrong"),
    ],
)
@in_event_loop
async def test_an_error_ends_a_job(
    queue: JobQueue, submit: Any, error: Exception, status: int, kind: str, words: str
) -> None:
    async with serving(queue, ScriptedHandler(error)) as server:
        end = await server.ended(submit())
        assert (end.state, end.status, end.kind) == ("failed", status, kind)
        assert end.message.startswith(words)
        assert "jane" not in end.message
        # and the worker goes on
        server.handler.answers = [RESULT]
        assert (await server.ended(submit())).state == "done"


@in_event_loop
async def test_work_that_takes_too_long_is_ended(queue: JobQueue, submit: Any) -> None:
    handler = ScriptedHandler(None)
    async with serving(queue, handler, limit_s=0.3) as server:
        end = await server.ended(submit())
        assert (end.status, end.kind) == (504, "DeadlineExceeded")
        assert handler.ended == 1


@in_event_loop
async def test_requests_go_first(queue: JobQueue, submit: Any) -> None:
    handler = ScriptedHandler()
    async with serving(queue, handler) as server:
        with server.admission.join_queue(RequestContext("a", "http", 60), "kind"):
            job = submit()
            server.worker.notify()
            await server.after_calls(server.admission, "can_start_now")
            # one that was being looked for already may be taken, and no more
            later = submit()
            await server.after_calls(server.admission, "can_start_now")
            assert queue.end(later) is None
        await server.ended(job)
        await server.ended(later)


@in_event_loop
async def test_requests_do_not_keep_a_job_waiting_for_ever(
    queue: JobQueue, submit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_YIELD_S", 0.2)
    async with serving(queue, ScriptedHandler()) as server:
        with server.admission.join_queue(RequestContext("a", "http", 60), "kind"):
            await server.ended(submit())


@in_event_loop
async def test_a_busy_server_is_no_reason_to_fail(queue: JobQueue, submit: Any) -> None:
    """However often, and though each try is longer than the limit would be for all of them."""
    handler = ScriptedHandler(*[ServiceBusy(**PARTS, retry_after_s=0.02)] * 20, RESULT)
    async with serving(queue, handler) as server:
        job = submit()
        assert (await server.ended(job)).state == "done"
        assert len(handler.scans) == 21
        assert len(queue.leases(job)) == 1


@in_event_loop
async def test_a_job_waits_for_a_slot(queue: JobQueue, submit: Any) -> None:
    async with serving(queue, ScriptedHandler()) as server:
        with server.admission.slot(), server.admission.slot():
            job = submit()
            await server.after_calls(server.admission, "slot")
            assert queue.leases(job)
            assert queue.end(job) is None
        assert (await server.ended(job)).state == "done"


@in_event_loop
async def test_a_server_that_stays_busy_lets_others_have_the_job(
    queue: JobQueue, submit: Any, database: Database
) -> None:
    busy = ScriptedHandler(ServiceBusy(**PARTS, retry_after_s=0.02))
    async with serving(queue, busy, limit_s=0.5) as server:
        job = submit()
        await server.until(lambda: any(lease.returned for lease in queue.leases(job)))
        idle = JobQueue(database, LIMITS, owner="another 1 1")
        async with serving(idle, ScriptedHandler()) as other:
            assert (await other.ended(job)).state == "done"


@in_event_loop
async def test_a_part_that_comes_back_is_waited_for_but_a_scan_that_it_goes_missing_under_fails(
    queue: JobQueue, submit: Any
) -> None:
    away = ServiceUnavailable(**PARTS, retry_after_s=0.02)
    handler = ScriptedHandler(away, RESULT)
    async with serving(queue, handler) as server:
        job = submit()
        await server.until(lambda: handler.scans)
        await server.while_not_ready()
        tries = len(handler.scans)
        assert (await server.ended(job)).state == "done"
        assert tries <= 2
        assert len(queue.leases(job)) == 1
        handler.answers, handler.scans = [away], []
        end = await server.ended(submit())
        assert (end.status, end.kind) == (503, "ServiceUnavailable")
        assert len(handler.scans) == module.MAX_UNAVAILABLE


@in_event_loop
async def test_nothing_is_begun_before_all_parts_are_there(queue: JobQueue, submit: Any) -> None:
    job = submit()
    handler = ScriptedHandler()
    server = Server(queue, handler, 600)
    server.is_ready = False
    await server.worker.start()
    await server.until(lambda: server.ready_polls > 3)
    assert not queue.leases(job)
    server.is_ready = True
    await server.ended(job)
    await server.worker.stop()


@in_event_loop
async def test_a_job_deleted_while_it_runs_is_ended_and_leaves_nothing(
    queue: JobQueue, submit: Any, database: Database
) -> None:
    handler = ScriptedHandler(None)
    async with serving(queue, handler) as server:
        job = submit()
        await server.until(lambda: handler.scans)
        await asyncio.to_thread(queue.delete, job.id)
        await server.until(lambda: handler.ended)
        handler.answers = [RESULT]
        assert (await server.ended(submit())).state == "done"
        with pytest.raises(JobNotFound):
            queue.job(job.id)
        await server.until(lambda: not any(job.key in name for name in stored_files(database)))


@in_event_loop
async def test_a_job_deleted_while_it_waits_for_a_slot_is_abandoned(
    queue: JobQueue, submit: Any
) -> None:
    handler = ScriptedHandler(ServiceBusy(**PARTS, retry_after_s=0.05))
    async with serving(queue, handler) as server:
        job = submit()
        await server.until(lambda: handler.scans)
        await asyncio.to_thread(queue.delete, job.id)
        handler.answers = [RESULT]
        assert (await server.ended(submit())).state == "done"


@in_event_loop
async def test_a_server_that_stops_gives_back(
    queue: JobQueue, submit: Any, database: Database
) -> None:
    handler = ScriptedHandler(None)
    async with serving(queue, handler) as server:
        job = submit()
        await server.until(lambda: handler.scans)
    assert handler.ended == 1
    assert [lease.returned for lease in queue.leases(job)] == [True]
    async with serving(
        JobQueue(database, LIMITS, owner="another 1 1"), ScriptedHandler()
    ) as server:
        end = await server.ended(job)
        assert (end.state, end.number) == ("done", 2)


@in_event_loop
async def test_a_server_about_to_stop_begins_nothing_and_gives_back_what_waits(
    queue: JobQueue, submit: Any
) -> None:
    handler = ScriptedHandler(ServiceBusy(**PARTS, retry_after_s=0.05))
    async with serving(queue, handler) as server:
        job = submit()
        await server.until(lambda: handler.scans)
        RunFolder.current().drain()
        await server.until(lambda: [lease.returned for lease in queue.leases(job)] == [True])
        handler.answers = [RESULT]
        later = submit()
        await server.after_calls(server.admission, "can_start_now")
        assert queue.end(job) is None
        assert queue.end(later) is None


@pytest.mark.parametrize(
    "at", ["take", "copy_scan", "finish", "sweep", "send_heartbeat", "is_wanted"]
)
@in_event_loop
async def test_a_database_that_is_away_for_a_while_fails_no_job(
    queue: JobQueue, submit: Any, at: str
) -> None:
    async with serving(queue, ScriptedHandler()) as server:
        away = ServiceUnavailable(**PARTS, retry_after_s=0.02)
        with counted_calls(queue, at, away) as refused:
            job = submit()
            server.worker.notify()
            await server.until(lambda: refused)
        end = await server.ended(job)
        assert (end.state, end.number) == ("done", 1)
        assert b"".join(queue.result(job, end)) == RESULT


@in_event_loop
async def test_an_error_that_nobody_expected_stops_no_worker(queue: JobQueue, submit: Any) -> None:
    async with serving(queue, ScriptedHandler()) as server:
        for name in ("take", "sweep", "send_heartbeat"):
            with counted_calls(queue, name, KeyError("none")) as failed:
                await server.until(lambda: len(failed) > 1)
        assert (await server.ended(submit())).state == "done"


@in_event_loop
async def test_a_full_disk_is_waited_for(queue: JobQueue, submit: Any) -> None:
    async with serving(queue, ScriptedHandler()) as server:
        with counted_calls(queue._files, "chunks", OSError(errno.ENOSPC, "full")) as refused:
            job = submit()
            await server.until(lambda: len(refused) > 3)
            assert queue.leases(job)
            assert queue.end(job) is None
        assert (await server.ended(job)).state == "done"


@in_event_loop
async def test_as_many_at_once_as_is_said(queue: JobQueue, submit: Any, database: Database) -> None:
    handler = ScriptedHandler(None)
    async with serving(queue, handler, at_once=2) as server:
        jobs = [submit() for _ in range(3)]
        await server.until(lambda: len(handler.scans) == 2)
        await server.after_calls(queue, "send_heartbeat")
        assert len(handler.scans) == 2
        assert [bool(queue.leases(job)) for job in jobs] == [True, True, False]


@in_event_loop
async def test_none_are_worked_on_where_none_may_be(queue: JobQueue, submit: Any) -> None:
    """Such a server takes jobs in and sweeps."""
    async with serving(queue, ScriptedHandler(), at_once=0) as server:
        job = submit()
        await server.after_calls(queue, "send_heartbeat")
        assert not queue.leases(job)
        queue.delete(job.id)
        await server.until(lambda: not left_over_names(queue))


def stored_files(database: Database) -> list[str]:
    return database.files.keys()


def left_over_names(queue: Any) -> list[str]:
    return list(queue._values.queued_names())


@in_event_loop
async def test_a_jobs_end_is_logged_by_its_id_alone(
    queue: JobQueue, submit: Any, service_log: list[logging.LogRecord]
) -> None:
    async with serving(queue, ScriptedHandler()) as server:
        job = submit(b"jane")
        await server.ended(job)
        await server.until(lambda: any(job.id in r.getMessage() for r in service_log))
        record = next(r for r in service_log if job.id in r.getMessage())
        assert "jane" not in str(record.__dict__)
        assert record.__dict__["protocol"] == "job"
        assert record.__dict__["status"] == 200
