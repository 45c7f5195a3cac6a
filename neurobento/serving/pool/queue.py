"""Hand files to worker processes in the order in which they came, and replace dead workers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from neurobento.serving.admission import Kind
from neurobento.serving.pool.process import WorkerProcess, worker_died
from neurobento.serving.telemetry import metrics
from neurobento.spec import REPORT_A_VERSION

__all__ = ["WorkerQueue"]

MAX_STARTS = 3
"""After so many failed starts nobody is left waiting for a worker."""

RESTART_PAUSE_S = 1.0


class WorkerQueue:
    """Files that wait for the same few workers."""

    def __init__(self, workers: list[WorkerProcess]) -> None:
        self._workers = workers
        self._free: asyncio.Queue[WorkerProcess] = asyncio.Queue()
        self._idle: set[WorkerProcess] = set()
        self._restarting: set[WorkerProcess] = set()
        self._restarts: set[asyncio.Task[None]] = set()
        # set while every start fails, so that no file waits for ever
        self._cannot_start = asyncio.Event()
        self.has_started = False

    async def start(self) -> None:
        """Start all workers; those that fail to start are started again in the background."""
        await asyncio.gather(*(self._start(worker) for worker in self._workers))

    async def _start(self, worker: WorkerProcess) -> None:
        if await worker.start():
            self._add_started(worker)
        else:
            self._begin_restart(worker)

    def _add_started(self, worker: WorkerProcess) -> None:
        self.has_started = True
        self._cannot_start.clear()
        self._add_free(worker)

    def _add_free(self, worker: WorkerProcess) -> None:
        # a worker that was restarted while it was idle is in the queue already
        if worker not in self._idle:
            self._idle.add(worker)
            self._free.put_nowait(worker)
        worker.watch(self._replace_idle)

    def _replace_idle(self, worker: WorkerProcess) -> None:
        """Restart a worker that was killed while it had nothing to do."""
        if worker in self._idle:
            self._begin_restart(worker)

    async def prepare(
        self, path: Path, kind: Kind, ticket: str, version: int = REPORT_A_VERSION
    ) -> dict[str, Any]:
        """Wait for a free worker and return what it made of a file, packed."""
        queued = time.monotonic()
        while not (worker := await self._next_free()).ready:
            self._begin_restart(worker)
        metrics.WAIT_SECONDS.labels(kind).observe(time.monotonic() - queued)
        try:
            return await worker.prepare(path, kind, ticket, version)
        finally:
            if worker.alive:
                self._add_free(worker)
            else:
                self._begin_restart(worker)

    async def _next_free(self) -> WorkerProcess:
        """Return the next free worker; raise ServiceUnavailable if none can be started."""
        worker = asyncio.ensure_future(self._free.get())
        cannot_start = asyncio.ensure_future(self._cannot_start.wait())
        try:
            await asyncio.wait({worker, cannot_start}, return_when=asyncio.FIRST_COMPLETED)
            if not worker.done():
                raise worker_died()
            self._idle.discard(worker.result())
            return worker.result()
        except asyncio.CancelledError:
            # a worker may have been taken out of the queue in the same moment: put it back
            if worker.done() and not worker.cancelled():
                self._idle.discard(worker.result())
                self._add_free(worker.result())
            raise
        finally:
            worker.cancel()
            cannot_start.cancel()

    def _begin_restart(self, worker: WorkerProcess) -> None:
        if worker in self._restarting:
            return
        self._restarting.add(worker)
        restart = asyncio.ensure_future(self._restart(worker))
        self._restarts.add(restart)
        restart.add_done_callback(self._restarts.discard)

    async def _restart(self, worker: WorkerProcess) -> None:
        metrics.RESTARTS.labels("preprocessing").inc()
        failures = 0
        while not await worker.start():
            failures += 1
            if failures >= MAX_STARTS and not any(each.ready for each in self._workers):
                self._cannot_start.set()
            # a process that dies as it starts would otherwise be started in a tight loop
            await asyncio.sleep(RESTART_PAUSE_S)
        self._restarting.discard(worker)
        self._add_started(worker)

    async def close(self) -> None:
        for restart in self._restarts:
            restart.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        for worker in self._workers:
            worker.kill()
