"""Prepare scans and slices in worker processes that can be killed in the middle of a file.

BentoML's own `workers=N` gave all work to one of them. Slices, and scans on the network grid, have
a queue and a worker of their own, and never wait behind a head with a skull.
"""

from __future__ import annotations

import asyncio
import collections
import functools
from collections.abc import Collection
from pathlib import Path
from typing import Any

from neurobento.errors import ClientGone
from neurobento.serving.admission import Kind, QueueName, queue_for
from neurobento.serving.pool.process import FOLDER_PREFIX, WorkerProcess
from neurobento.serving.pool.queue import WorkerQueue
from neurobento.serving.pool.worker import import_readers, import_toolkits
from neurobento.serving.process.run_folder import remove_leftovers
from neurobento.spec import REPORT_A_VERSION

__all__ = ["PreprocessingPool"]


class PreprocessingPool:
    """Worker processes for `processes` scans at a time, each with `threads`; for one event loop.

    `versions` are those of the preprocessing that the served models were trained with.
    """

    def __init__(
        self, processes: int, threads: int, versions: Collection[int] = (REPORT_A_VERSION,)
    ) -> None:
        import_all = functools.partial(import_toolkits, frozenset(versions))
        self._queues: dict[QueueName, WorkerQueue] = {
            "slow": WorkerQueue([WorkerProcess(threads, import_all) for _ in range(processes)]),
            "quick": WorkerQueue([WorkerProcess(threads, import_readers)]),
        }
        self._running: dict[str, asyncio.Task[Any]] = {}
        # the message that ends a ticket may overtake its file: they come by two connections
        self._ended: collections.deque[str] = collections.deque(maxlen=1000)
        self._starting: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Start all workers; return once the quick one is ready."""
        # left by a killed pool
        remove_leftovers(FOLDER_PREFIX)
        slow, quick = (asyncio.ensure_future(queue.start()) for queue in self._queues.values())
        self._starting = slow
        await quick

    @property
    def warm(self) -> bool:
        """True once every queue has had a worker that was ready."""
        return all(queue.has_started for queue in self._queues.values())

    async def prepare(
        self, path: Path, kind: Kind, ticket: str, version: int = REPORT_A_VERSION
    ) -> dict[str, Any]:
        """Return what was made of a file, or the error it raised, packed (see `serialisation`).

        The array is beside the file. The ticket names the work, so that it can be ended: then
        ClientGone. ServiceUnavailable if the worker died or none can be started.
        """
        if ticket in self._ended:
            raise _work_ended()
        task = asyncio.ensure_future(
            self._queues[queue_for(kind)].prepare(path, kind, ticket, version)
        )
        self._running[ticket] = task
        try:
            return await task
        except asyncio.CancelledError:
            # either `end` cancelled the task, or the caller of this method was cancelled
            current = asyncio.current_task()
            if not task.cancelled() or (current is not None and current.cancelling()):
                raise
            raise _work_ended() from None
        finally:
            del self._running[ticket]

    async def end(self, ticket: str) -> None:
        """End the work of a ticket and wait until it has ended; work yet to come is not begun."""
        task = self._running.get(ticket)
        if task is None:
            self._ended.append(ticket)
        else:
            task.cancel()
            await asyncio.wait({task})

    async def end_all(self) -> None:
        for ticket in list(self._running):
            await self.end(ticket)

    async def close(self) -> None:
        """Kill all workers, also in the middle of a file."""
        tasks: set[asyncio.Future[Any]] = set(self._running.values())
        if self._starting is not None:
            tasks.add(self._starting)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        # last, since work that is ended begins a restart
        for queue in self._queues.values():
            await queue.close()


def _work_ended() -> ClientGone:
    return ClientGone(
        expected="a client that waits",
        found="a client that asked to end the work",
        remedy="Nothing was kept.",
    )
