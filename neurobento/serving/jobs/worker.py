"""Work on jobs in the same way as on requests, while no request waits."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol

from anyio import to_thread

from neurobento.errors import (
    ClientGone,
    NeuroBentoError,
    NotEnoughMemory,
    ServiceBusy,
    ServiceUnavailable,
)
from neurobento.serving.admission import Admission
from neurobento.serving.error_responses import error_status
from neurobento.serving.jobs.job import Attempt
from neurobento.serving.jobs.queue import JobQueue
from neurobento.serving.request import RequestContext
from neurobento.serving.tasks.parcellation.options import ParcellationOptions
from neurobento.serving.tasks.uploaded_file import upload_folder
from neurobento.serving.telemetry.logs import log_request
from neurobento.serving.telemetry.metrics import JOBS

__all__ = ["JobWorker"]

POLL_S = 0.5
"""Pause before the queue is read again, for a job that another server accepted."""

HEARTBEAT_EVERY_S = 5.0
SWEEP_EVERY_S = 10.0

MAX_UNAVAILABLE = 5
"""If parts of the service fail so often under a scan, the scan is to blame."""

MAX_PAUSE_S = 30.0
"""Longest pause between two tries of one job."""

MAX_YIELD_S = 60.0
"""Requests are served before jobs for so long; then a job is queued among them."""

logger = logging.getLogger("neurobento.serving")


class OutputHandler(Protocol):
    """The part of `ParcellationHandler` that jobs need."""

    async def outputs(
        self, file: Path, options: ParcellationOptions, context: RequestContext
    ) -> bytes: ...


class _NotHere(Exception):
    """This server cannot do a job for now, but others may."""


@dataclasses.dataclass(eq=False)
class _Run:
    attempt: Attempt
    context: RequestContext
    """The current try, or the last one."""
    until: float
    """Monotonic time until which this server waits for a slot; then others get the job."""
    unavailable: int = 0
    """Times that a part of the service failed during the attempt."""


class JobWorker:
    """Take jobs while the server runs, `at_once` at a time, `limit_s` for each try and wait."""

    def __init__(
        self,
        queue: JobQueue,
        handler: OutputHandler,
        admission: Admission,
        is_ready: Callable[[], Awaitable[bool]],
        at_once: int,
        limit_s: float,
    ) -> None:
        self._queue, self._handler, self._admission = queue, handler, admission
        self._is_ready, self._at_once, self._limit_s = is_ready, at_once, limit_s
        self._tasks: list[asyncio.Task[None]] = []
        self._runs: set[_Run] = set()
        self._new_job = asyncio.Event()

    async def start(self) -> None:
        loops = [
            _repeat(HEARTBEAT_EVERY_S, self._send_heartbeat),
            _repeat(SWEEP_EVERY_S, self._sweep),
            *(self._work() for _ in range(self._at_once)),
        ]
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def stop(self) -> None:
        """Stop, and give the jobs in progress back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def notify(self) -> None:
        """Wake the worker up for a job that this server accepted."""
        self._new_job.set()

    async def _work(self) -> None:
        while not await self._is_ready():
            await asyncio.sleep(POLL_S)
        while True:
            await self._yield_to_requests()
            attempt = None
            if not self._admission.draining:
                with _logged_errors("jobs: none could be taken"):
                    attempt = await to_thread.run_sync(self._queue.take)
            if attempt is not None:
                with _logged_errors("jobs: one was abandoned"):
                    if not await self._run(attempt):
                        # let others take it: this server would be the first to take it again
                        await asyncio.sleep(MAX_PAUSE_S)
                continue
            self._new_job.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._new_job.wait(), POLL_S)

    async def _yield_to_requests(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAX_YIELD_S):
                while not self._admission.can_start_now():
                    await asyncio.sleep(POLL_S)

    async def _run(self, attempt: Attempt) -> bool:
        """Work on a job; return False if it was given back before its end."""
        run = _Run(attempt, self._new_context(attempt), time.monotonic() + self._limit_s)
        self._runs.add(run)
        status: int | str = "given back"
        try:
            status = await self._run_to_end(run)
            return True
        except _NotHere:
            await _retry_until_written(lambda: self._queue.give_back(attempt))
            return False
        except asyncio.CancelledError:
            # the server stops, and others may continue at once
            with contextlib.suppress(ServiceUnavailable):
                self._queue.give_back(attempt)
            raise
        finally:
            self._runs.remove(run)
            self._queue.release(attempt)
            log_request(run.context, status)

    async def _run_to_end(self, run: _Run) -> int:
        """Work on a job until it ends with a result or an error; return its status."""
        attempt = run.attempt
        try:
            result = await self._result(run)
        except _NotHere:
            raise
        except ClientGone as error:
            # the job was deleted, or another server ended it
            return error_status(error)
        except NeuroBentoError as error:
            status, kind, message = error_status(error), type(error).__name__, error.public_message
        except Exception:
            logger.exception("job %s failed", attempt.job.id)
            status, kind, message = 500, "InternalError", "something went wrong here"
        else:
            await _retry_until_written(lambda: self._queue.finish(attempt, result))
            return 200
        await _retry_until_written(lambda: self._queue.fail(attempt, status, kind, message))
        return status

    async def _result(self, run: _Run) -> bytes:
        while True:
            # each try has the whole limit: the scan is not to blame for a busy server
            run.context = self._new_context(run.attempt)
            try:
                return await self._try(run)
            except (ServiceBusy, ServiceUnavailable, NotEnoughMemory) as error:
                if run.unavailable >= MAX_UNAVAILABLE:
                    raise
                pause_s = min(getattr(error, "retry_after_s", None) or 1.0, MAX_PAUSE_S)
            await self._pause(run, pause_s)

    async def _try(self, run: _Run) -> bytes:
        job = run.attempt.job
        with self._admission.slot(), upload_folder() as folder:
            scan = folder / "scan"
            await to_thread.run_sync(self._queue.copy_scan, run.attempt, scan)
            options = ParcellationOptions(job.model, job.preprocessing, job.space)
            try:
                return await self._handler.outputs(scan, options, run.context)
            except (ServiceUnavailable, NotEnoughMemory):
                run.unavailable += 1
                raise

    async def _pause(self, run: _Run, seconds: float) -> None:
        """Wait, and then until all parts of the service answer."""
        wake = time.monotonic() + seconds
        while time.monotonic() < wake or not await self._is_ready():
            if self._admission.draining or time.monotonic() > run.until:
                raise _NotHere
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(run.context.wait_abandoned(), POLL_S)
                raise ClientGone(
                    expected="a job that is wanted",
                    found="one that was deleted or has ended",
                    remedy="Nothing was kept.",
                )

    def _new_context(self, attempt: Attempt) -> RequestContext:
        return RequestContext(attempt.job.id, "job", self._limit_s)

    async def _send_heartbeat(self) -> None:
        await to_thread.run_sync(self._queue.send_heartbeat)
        for run in list(self._runs):
            if not await to_thread.run_sync(self._queue.is_wanted, run.attempt):
                run.context.abandon()

    async def _sweep(self) -> None:
        counts = await to_thread.run_sync(self._queue.sweep)
        for state, count in counts.items():
            JOBS.labels(state).set(count)


async def _repeat(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    while True:
        with _logged_errors("jobs: no heartbeat or sweep"):
            await step()
        await asyncio.sleep(seconds)


async def _retry_until_written(step: Callable[[], object]) -> None:
    while True:
        with _logged_errors("jobs: an end could not be written yet"):
            await to_thread.run_sync(step)
            return
        await asyncio.sleep(HEARTBEAT_EVERY_S)


@contextlib.contextmanager
def _logged_errors(text: str) -> Iterator[None]:
    """Log any error and suppress it: the caller tries again later."""
    try:
        yield
    except ServiceUnavailable as error:
        logger.warning("%s: %s", text, error.found)
    except Exception:
        logger.exception(text)
