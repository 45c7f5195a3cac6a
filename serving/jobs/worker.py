"""Works on jobs: the same way as on requests, when no request waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
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
from serving.answers import error_status
from serving.calls import Admission, Call
from serving.front import Options
from serving.jobs.queue import JobQueue, Turn
from serving.logs import log_request
from serving.metrics import JOBS
from serving.received import received_folder

__all__ = ["JobWorker"]

POLL_S = 0.5
"""Between two looks for a job that another server took in."""

BEAT_EVERY_S = 5.0
SWEEP_EVERY_S = 10.0

UNAVAILABLE_TRIES = 5
"""A part of the service that is missing so often in a row is the scan's doing."""

PATIENCE_S = 60.0
"""Requests go before jobs for so long; then a job has its turn among them."""

logger = logging.getLogger("neurobento.serving")


class Parcellating(Protocol):
    """The front as jobs need it."""

    async def outputs(self, file: Path, options: Options, call: Call) -> bytes:
        """All output files of a scan, as a zip."""


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
        On one job.
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
        self._calls: dict[Turn, Call] = {}
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
                with _logged("jobs: the database did not answer"):
                    turn = await to_thread.run_sync(self._queue.take)
            if turn is not None:
                await self._do(turn)
                continue
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), POLL_S)

    async def _until_idle(self) -> None:
        """Requests first, for some time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while not self._admission.has_nobody_waiting():
                    await asyncio.sleep(POLL_S)

    async def _do(self, turn: Turn) -> None:
        call = Call(turn.job.id, "job", self._limit_s)
        self._calls[turn] = call
        status: int | str = "given back"
        try:
            status = await self._ended(turn, call)
        except asyncio.CancelledError:
            # the server stops, and others may go on at once
            with contextlib.suppress(ServiceUnavailable):
                self._queue.give_back(turn)
            raise
        finally:
            del self._calls[turn]
            log_request(call, status)

    async def _ended(self, turn: Turn, call: Call) -> int:
        """Work on a job until it has ended, whatever happens; with which status it did."""
        try:
            result = await self._result(turn, call)
        except ClientGone as error:
            # it was deleted
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

    async def _result(self, turn: Turn, call: Call) -> bytes:
        """The zip of a job; a server that has no room for it now is asked again."""
        missing = 0
        while True:
            try:
                with self._admission.place(), received_folder() as folder:
                    scan = folder / "scan"
                    await to_thread.run_sync(self._queue.read, turn, scan)
                    options = Options(turn.job.model, turn.job.level, turn.job.space)
                    return await self._front.outputs(scan, options, call)
            except (ServiceBusy, ServiceUnavailable) as error:
                missing += isinstance(error, ServiceUnavailable)
                wait_s = error.retry_after_s or 1.0
                if missing >= UNAVAILABLE_TRIES or wait_s > call.seconds_left:
                    raise
            await asyncio.sleep(min(wait_s, 30.0))

    async def _beat(self) -> None:
        await to_thread.run_sync(self._queue.beat)
        for turn, call in list(self._calls.items()):
            if not await to_thread.run_sync(self._queue.is_wanted, turn):
                call.leave()

    async def _sweep(self) -> None:
        states = await to_thread.run_sync(self._queue.sweep)
        for state, count in states.items():
            JOBS.labels(state).set(count)


async def _every(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    while True:
        with _logged("jobs: the database did not answer"):
            await step()
        await asyncio.sleep(seconds)


async def _as_often_as_needed(step: Callable[[], bool]) -> None:
    """A step that the database has to take, once it can."""
    while True:
        with _logged("jobs: an end could not be written yet"):
            await to_thread.run_sync(step)
            return
        await asyncio.sleep(BEAT_EVERY_S)


@contextlib.contextmanager
def _logged(words: str) -> Iterator[None]:
    """What the database did not do is logged, and done the next time."""
    try:
        yield
    except ServiceUnavailable:
        logger.warning(words)
