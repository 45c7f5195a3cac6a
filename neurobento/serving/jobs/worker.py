"""Works on jobs: the same way as on requests, when no request waits."""

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
    ServiceBusy,
    ServiceUnavailable,
)
from neurobento.serving.admission import Admission
from neurobento.serving.error_answers import error_status
from neurobento.serving.jobs.queue import Attempt, JobQueue
from neurobento.serving.request import RequestContext
from neurobento.serving.tasks.parcellation.handler import Options
from neurobento.serving.tasks.uploaded_file import upload_folder
from neurobento.serving.telemetry.logs import log_request
from neurobento.serving.telemetry.metrics import JOBS

__all__ = ["JobWorker"]

POLL_S = 0.5
"""Between two looks for a job that another server took in."""

BEAT_EVERY_S = 5.0
SWEEP_EVERY_S = 10.0

UNAVAILABLE_TRIES = 5
"""A part of the service that goes missing so often under a scan is the scan's doing."""

LONGEST_WAIT_S = 30.0
"""Between two tries of one job."""

PATIENCE_S = 60.0
"""Requests go before jobs for so long; then a job has its turn among them."""

logger = logging.getLogger("neurobento.serving")


class Parcellating(Protocol):
    """The front as jobs need it."""

    async def outputs(self, file: Path, options: Options, call: RequestContext) -> bytes:
        """All output files of a scan, as a zip."""


class _NotHere(Exception):
    """This server cannot do a job for now, and others perhaps can."""


@dataclasses.dataclass(eq=False)
class _Work:
    """A turn that is under way here.

    Attributes
    ----------
    turn
        At which job.
    call
        The try that is going on, or was the last.
    until
        On the monotonic clock: how long this server waits for room before it lets others have it.
    missing
        How often a part of the service went missing under it.
    """

    turn: Attempt
    call: RequestContext
    until: float
    missing: int = 0


class JobWorker:
    """Takes jobs while the server runs.

    Parameters
    ----------
    queue
        Where jobs are.
    front
        Does the work.
    admission
        Says how busy the server is, and whether it is about to stop.
    ready
        Whether all parts of the server are there, as they are not at its start.
    at_once
        Jobs worked on at the same time.
    limit_s
        On one try of a job, and on waiting for one.
    """

    def __init__(
        self,
        queue: JobQueue,
        front: Parcellating,
        admission: Admission,
        ready: Callable[[], Awaitable[bool]],
        at_once: int,
        limit_s: float,
    ) -> None:
        self._queue, self._front, self._admission = queue, front, admission
        self._ready, self._at_once, self._limit_s = ready, at_once, limit_s
        self._tasks: list[asyncio.Task[None]] = []
        self._works: set[_Work] = set()
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Begin."""
        workers = [self._work() for _ in range(self._at_once)]
        every = [
            _every(BEAT_EVERY_S, self._beat),
            _every(SWEEP_EVERY_S, self._sweep),
        ]
        self._tasks = [asyncio.create_task(each) for each in [*every, *workers]]

    async def stop(self) -> None:
        """End; what is under way is given back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def say_new(self) -> None:
        """Say that a job was taken in here."""
        self._news.set()

    async def _work(self) -> None:
        while not await self._ready():
            await asyncio.sleep(POLL_S)
        while True:
            await self._until_idle()
            turn = None
            if not self._admission.draining:
                with _logged("jobs: none could be taken"):
                    turn = await to_thread.run_sync(self._queue.take)
            if turn is not None:
                with _logged("jobs: one was left"):
                    if not await self._do(turn):
                        # others first: whoever gave it back would be the quickest to take it again
                        await asyncio.sleep(LONGEST_WAIT_S)
                continue
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), POLL_S)

    async def _until_idle(self) -> None:
        """Requests first, for some time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while not self._admission.can_start_now():
                    await asyncio.sleep(POLL_S)

    async def _do(self, turn: Attempt) -> bool:
        """Work on a job; whether to its end, and it was not given back."""
        work = _Work(turn, self._call(turn), time.monotonic() + self._limit_s)
        self._works.add(work)
        status: int | str = "given back"
        try:
            status = await self._ended(work)
            return True
        except _NotHere:
            await _as_often_as_needed(lambda: self._queue.give_back(turn))
            return False
        except asyncio.CancelledError:
            # the server stops, and others may go on at once
            with contextlib.suppress(ServiceUnavailable):
                self._queue.give_back(turn)
            raise
        finally:
            self._works.remove(work)
            self._queue.let_go(turn)
            log_request(work.call, status)

    async def _ended(self, work: _Work) -> int:
        """Work on a job until it has ended, whatever happens; with which status it did."""
        turn = work.turn
        try:
            result = await self._result(work)
        except _NotHere:
            raise
        except ClientGone as error:
            # it was deleted, or another server ended it
            return error_status(error)
        except NeuroBentoError as error:
            status, kind, words = error_status(error), type(error).__name__, error.public_message
        except Exception:
            logger.exception("job %s failed", turn.job.id)
            status, kind, words = 500, "InternalError", "something went wrong here"
        else:
            await _as_often_as_needed(lambda: self._queue.finish(turn, result))
            return 200
        await _as_often_as_needed(lambda: self._queue.fail(turn, status, kind, words))
        return status

    async def _result(self, work: _Work) -> bytes:
        """The zip of a job, in as many tries as it takes."""
        while True:
            # each has the whole limit: that the server was busy is not the scan's doing
            work.call = self._call(work.turn)
            try:
                return await self._tried(work)
            except (ServiceBusy, ServiceUnavailable) as error:
                if work.missing >= UNAVAILABLE_TRIES:
                    raise
                wait_s = min(error.retry_after_s or 1.0, LONGEST_WAIT_S)
            await self._wait(work, wait_s)

    async def _tried(self, work: _Work) -> bytes:
        job = work.turn.job
        with self._admission.slot(), upload_folder() as folder:
            scan = folder / "scan"
            await to_thread.run_sync(self._queue.read, work.turn, scan)
            options = Options(job.model, job.preprocessing, job.space)
            try:
                return await self._front.outputs(scan, options, work.call)
            except ServiceUnavailable:
                work.missing += 1
                raise

    async def _wait(self, work: _Work, seconds: float) -> None:
        """Wait, and then until all parts of the service are there."""
        wake = time.monotonic() + seconds
        while time.monotonic() < wake or not await self._ready():
            if self._admission.draining or time.monotonic() > work.until:
                raise _NotHere
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(work.call.wait_abandoned(), POLL_S)
                raise ClientGone(
                    expected="a job that is wanted",
                    found="that it is not",
                    remedy="Nothing was kept.",
                )

    def _call(self, turn: Attempt) -> RequestContext:
        return RequestContext(turn.job.id, "job", self._limit_s)

    async def _beat(self) -> None:
        await to_thread.run_sync(self._queue.beat)
        for work in list(self._works):
            if not await to_thread.run_sync(self._queue.is_wanted, work.turn):
                work.call.abandon()

    async def _sweep(self) -> None:
        states = await to_thread.run_sync(self._queue.sweep)
        for state, count in states.items():
            JOBS.labels(state).set(count)


async def _every(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    while True:
        with _logged("jobs: the database was not looked after"):
            await step()
        await asyncio.sleep(seconds)


async def _as_often_as_needed(step: Callable[[], object]) -> None:
    """A step that the database has to take, once it can."""
    while True:
        with _logged("jobs: an end could not be written yet"):
            await to_thread.run_sync(step)
            return
        await asyncio.sleep(BEAT_EVERY_S)


@contextlib.contextmanager
def _logged(words: str) -> Iterator[None]:
    """What went wrong is logged; whoever does it goes on, and does it the next time."""
    try:
        yield
    except ServiceUnavailable as error:
        logger.warning("%s: %s", words, error.found)
    except Exception:
        logger.exception(words)
